"""The present PASID entries of the host, as hardware would read them: what several invariants start from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.hardware.pcie import format_rid

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["Entry", "entries", "ioasid_of"]


class Entry(NamedTuple):
    """One present PASID entry of the host: ``pasid`` is what requests carry, ``ioasid`` which number of the host's it
    stands for (``None``: for none).
    """

    rid: int
    pasid: int
    words: tuple[int, ...]
    ioasid: int | None

    def field(self, name: str) -> int:
        """The value of one field."""
        return PASID_ENTRY[name].get(self.words)

    def __str__(self) -> str:
        return f"PASID {self.pasid} of {format_rid(self.rid)}"


def entries(machine: Machine) -> Iterator[Entry]:
    """Every present PASID entry, read from the tables in memory."""
    for rid, table in machine.kernel.iommu.tables.items():
        for pasid in table.present():
            yield Entry(rid, pasid, table.read(pasid), ioasid_of(machine, rid, pasid))


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
