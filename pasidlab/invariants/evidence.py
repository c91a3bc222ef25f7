"""What several rules read, read once for one evaluation of all of them.

Everything here comes out of the tables that hardware reads, when it is first asked for. An evaluation changes nothing,
so that what was read stays true until its end; nothing is kept beyond it.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

from pasidlab.invariants.caches import wrong_lines
from pasidlab.invariants.entries import entries

if TYPE_CHECKING:
    from pasidlab.hardware.memory import Memory
    from pasidlab.invariants.caches import CacheLine
    from pasidlab.invariants.entries import Entry
    from pasidlab.machine import Machine
    from pasidlab.virt.kvm import KvmEntry

__all__ = ["Evidence", "mapped_frames"]

_ADDRESS: Final = 0x000F_FFFF_FFFF_F000
_LEVELS_ABOVE_PAGES: Final = 3


class Evidence:
    """One machine at one moment.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> [str(entry) for entry in Evidence(m).entries]
    ['PASID 0 of 6a:01.0']
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @cached_property
    def entries(self) -> list[Entry]:
        """Every present PASID entry of the host."""
        return list(entries(self.machine))

    @cached_property
    def wrong_lines(self) -> list[CacheLine]:
        """Every line of a cache that disagrees with the tables."""
        return list(wrong_lines(self.machine, self.entries))

    @cached_property
    def translations(self) -> dict[str, list[KvmEntry]]:
        """The valid entries of KVM's tables, by VM."""
        return {name: vmm.kvm.entries() for name, vmm in self.machine.vmms.items()}

    @cached_property
    def frames(self) -> dict[str, set[int]]:
        """The frames of each VM: its process's memory, and what VFIO keeps of it while the process exits."""
        memory = self.machine.memory
        return {
            name: mapped_frames(memory, vmm.process.mm.table.root) | {at >> 12 for at in vmm.container.pinned}
            for name, vmm in self.machine.vmms.items()
        }


def mapped_frames(memory: Memory, root: int) -> set[int]:
    """The frames that a tree of four levels maps, as :meth:`.PageTable.mappings` tells them, without their places."""
    tables = [root]
    for _ in range(_LEVELS_ABOVE_PAGES):
        tables = [entry & _ADDRESS for table in tables for entry in filter(None, memory.load_words(table, 512))]
    return {(entry & _ADDRESS) >> 12 for table in tables for entry in filter(None, memory.load_words(table, 512))}
