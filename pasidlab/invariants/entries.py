"""The entries that hardware would use, of every device: what several invariants start from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import TableEntry
    from pasidlab.machine import Machine

__all__ = ["Entry", "entries", "ioasid_of"]


class Entry(NamedTuple):
    """One entry, and which number of the host's its PASID on the wire stands for (``None``: for none).

    ``guests``: the entry is one of a guest's own table, whose numbers are none of the host's.
    """

    table: TableEntry
    ioasid: int | None
    guests: bool = False

    @property
    def rid(self) -> int:
        """The requester ID."""
        return self.table.rid

    @property
    def pasid(self) -> int:
        """What requests carry, 0 for none."""
        return self.table.pasid

    def __str__(self) -> str:
        return str(self.table)


def entries(machine: Machine) -> Iterator[Entry]:
    """Every entry of every device, read from the tables in memory."""
    for device in machine.functions.values():
        rid, guests = device.rid, machine.kernel.iommu.has_table(device.rid)
        for found in machine.unit.entries(rid):
            ioasid = found.pasid if guests else ioasid_of(machine, rid, found.pasid)
            yield Entry(found, None if guests and found.pasid else ioasid, guests)


def ioasid_of(machine: Machine, rid: int, number: int) -> int | None:
    """The host's PASID that a number on the wire of a device means: the same, or the one that a guest calls so."""
    if not number or rid not in machine.kernel.iommu.numbering:
        return number
    for vmm in machine.vmms.values():
        if any(device.rid == rid for device in vmm.container.devices.values()):
            for host_pasid in vmm.container.set.ids.keys():
                binding = machine.kernel.svm.binding_of(host_pasid)
                if binding is not None and rid in binding.devices and binding.number_on(rid) == number:
                    return host_pasid
    return None
