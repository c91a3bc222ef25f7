"""Which table of PASIDs a device's requests meet, and whose it is: that of the host's kernel, or, where a guest's whole
table is bound, the guest's own, in its memory. Pictures read entries through this, whatever the IOMMU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pasidlab.errors import BusError, KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pasidlab.hardware.iommu.contract import TableEntry
    from pasidlab.hardware.memory import Memory
    from pasidlab.kernel.iommu.contract import EntryTable
    from pasidlab.kernel.iommu.domain import Domain
    from pasidlab.kernel.process import Process
    from pasidlab.machine import Machine
    from pasidlab.views.unit_words import Read

__all__ = [
    "DeviceTable",
    "device_entries",
    "domain_at",
    "guests_table",
    "owner_of_table",
    "present_in",
    "space_at",
    "table_of",
]


class DeviceTable(NamedTuple):
    """The table that requests of ``rid`` with a PASID meet. ``vm`` owns it, or the host (empty). Its own addresses are
    those of ``memory``; ``unit`` says how it is read.
    """

    table: EntryTable
    rid: int
    vm: str
    memory: Memory
    unit: Read

    @property
    def top(self) -> int:
        """Where it begins."""
        return self.table.top


def table_of(machine: Machine, device: str) -> DeviceTable | None:
    """The table behind the device called ``device``; ``None`` while the IOMMU's driver does not know it.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); found = table_of(m, "dsa0")
    >>> found.vm, found.table.present()
    ('', [0])
    """
    rid = machine.functions[device].rid
    vm = owner_of_table(machine, rid)
    if vm:
        found = guests_table(machine, device, vm)
        if found is not None:
            return found
    table = machine.kernel.iommu.entry_table(rid)
    return DeviceTable(table, rid, "", machine.memory, machine.unit) if table is not None else None


def owner_of_table(machine: Machine, rid: int) -> str:
    """The VM whose own table is bound for a device; empty: the host's table counts."""
    if not machine.kernel.iommu.has_table(rid):
        return ""
    owned = ((vmm.name, vmm.functions) for vmm in machine.vmms.values())
    names = {name: vm for vm, functions in owned for name in functions.keys()}
    return next((vm for name, vm in names.items() if machine.functions[name].rid == rid), "")


def guests_table(machine: Machine, device: str, vm: str) -> DeviceTable | None:
    """The table that a guest's driver keeps for a device, bound or not; ``None``: there is none that can be read."""
    vmm = machine.vmms[vm]
    rid = next((rid for rid, name in vmm.viommu.devices.items() if name == device), None)
    table = vmm.guest.iommu.entry_table(rid) if rid is not None else None
    if rid is None or table is None or not _can_be_read(table):
        return None
    return DeviceTable(table, rid, vm, vmm.viommu.memory, vmm.viommu)


def _can_be_read(table: EntryTable) -> bool:
    """Whether memory answers for all of a table: that of a VM which is being buried does not."""
    try:
        return all(table.present_in(leaf) is not None for leaf in table.leaves())
    except (BusError, KernelError):
        return False


def device_entries(machine: Machine, device: str) -> dict[int, TableEntry]:
    """The entries that hardware uses for a device, by PASID; 0 is that of requests without one."""
    return {entry.pasid: entry for entry in machine.unit.entries(machine.functions[device].rid)}


def present_in(found: DeviceTable, first: int = 0, last: int | None = None) -> Iterator[int]:
    """The PASIDs from ``first`` to ``last`` with a present entry, lowest first, read only as far as they are asked for.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); list(present_in(table_of(m, "dsa0")))
    [0]
    """
    for leaf in found.table.leaves():
        if leaf.first + leaf.entries > first and (last is None or leaf.first <= last):
            yield from (
                pasid for pasid in found.table.present_in(leaf) if pasid >= first and (last is None or pasid <= last)
            )


def domain_at(machine: Machine, root: int) -> Domain | None:
    """The domain of the host whose second level starts at ``root``."""
    domains = machine.kernel.iommu.domains.values()
    return next((domain for domain in domains if domain.table.root == root), None)


def space_at(machine: Machine, vm: str, root: int) -> Process | None:
    """The process of a VM, or of the host (empty), whose page table starts at ``root``."""
    if vm and vm not in machine.vmms:
        return None
    processes = machine.vm(vm).kernel.processes.values() if vm else machine.natives
    return next((process for process in processes if process.mm.root == root), None)
