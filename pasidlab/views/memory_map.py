"""What lies at an address, in words: tables of the IOMMU, its queues, KVM's PASID tables, pages of VMs and processes.

The tables are those that the unit's :class:`~pasidlab.hardware.iommu.survey.Survey` finds from its root pointer; here
they get names. Of the machine's memory addresses are host-physical and the unit is the silicon's; of a VM's memory they
are guest-physical, and the unit is the emulated one, which walks the guest's own tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import BusError, KernelError
from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.survey import TableUse
from pasidlab.hardware.layouts.cpu import VMX_PASID_DIR_ENTRY, VMX_PASID_TABLE_ENTRY
from pasidlab.hardware.pcie import format_rid
from pasidlab.views.bits import Bits
from pasidlab.views.iommu_words import MEMORY, STRUCTURES
from pasidlab.views.tables import owner_of_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pasidlab.hardware.iommu.survey import Mapped, QueueSlot, Structure
    from pasidlab.hardware.memory import Memory
    from pasidlab.machine import Machine
    from pasidlab.views.unit_words import Read
    from pasidlab.virt.vmm import Vmm

__all__ = ["Found", "MemoryMap", "plain_word"]

_PAGE: Final = 4096
_KVM_ENTRIES: Final = 512
_WORD: Final = Layout("word", 8, (), "memory", "no table of the unit or of KVM: data")


class Found(NamedTuple):
    """A structure at an address: what it is in words, where it begins, what decodes it, its words, what must be 0.

    ``use``: as a part of which table it was found.
    """

    name: str
    address: int
    layout: Layout
    words: tuple[int, ...]
    reserved: int
    use: TableUse | None = None

    def bits(self) -> Bits:
        """It, bit by bit."""
        note = MEMORY["at"].format(address=f"{self.address:#x}", size=self.layout.size, source=self.layout.note)
        return Bits("memory", self.name, self.layout, self.words, note.rstrip(" ;"), self.reserved)


class MemoryMap:
    """One memory at the present step: the machine's, or that of the VM called ``vm``.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> MemoryMap(m).at(m.kernel.iommu.entry_table(dsa.rid).address(0) + 16)[0].name
    'PASID entry 0 of 6a:01.0 (dsa0)'
    """

    def __init__(self, machine: Machine, vm: str = "") -> None:
        self.machine, self.vm = machine, vm
        unit: Read = machine.vm(vm).vmm.viommu if vm else machine.unit
        self.unit = unit
        self.memory: Memory = unit.reading.memory
        self.survey = unit.reading.survey()

    def at(self, address: int) -> list[Found]:
        """The structures that the byte at ``address`` belongs to; tables first."""
        found = [
            Found(self._name(entry), entry.address, entry.use.layout, entry.words, entry.reserved, entry.use)
            for entry in self.survey.at(address)
        ]
        return [*found, *map(_queued, self.unit.reading.queue_slots(address)), *self._kvm(address)]

    def word(self, address: int) -> Found:
        """What the word at ``address`` is a part of: the first structure there, or the bare word.

        ``-EFAULT`` if no memory answers.
        """
        found = self.at(address)
        if found:
            return found[0]
        start = address & ~7
        owners = self.owners(address)
        name = MEMORY["word"].format(address=f"{start:#x}", owner=owners[0] if owners else MEMORY["nobody"])
        return Found(name, start, _WORD, (self.load(start),), 0)

    def load(self, address: int) -> int:
        """The word at ``address``; ``-EFAULT`` if no memory answers."""
        try:
            return self.memory.load(address)
        except BusError:
            where = MEMORY["guest-memory"].format(vm=self.vm) if self.vm else MEMORY["host-memory"]
            raise KernelError("EFAULT", f"{where} has nothing at {address:#x}") from None

    def behind(self, found: Found, key: str) -> int | None:
        """The address in this memory that the field ``key`` of a structure leads to; ``None`` if it holds none.

        What names guest-physical memory (a nested first level) is led through the second level.
        """
        use = found.use or TableUse(found.name, found.layout, found.address)
        target = self.survey.leads_to(use, found.words, key)
        if target is None:
            return None
        address, second = target
        return address if second is None else self.survey.through(second, address)

    def owners(self, address: int) -> list[str]:
        """Who reaches the byte at ``address`` through page tables, as what."""
        return [self._reached(known) for known in self.survey.mapped(address)]

    # --- names --------------------------------------------------------------------------------------------------------

    def _name(self, entry: Structure) -> str:
        use = entry.use
        return self._page_entry(entry) if use.shift else self._lookup(use, use.first + entry.number, entry.number)

    def _lookup(self, use: TableUse, at: int, number: int) -> str:
        """An entry of a table that leads from a device, or from a PASID, to a page table."""
        facts: dict[str, object] = {
            "bus": f"{number:#x}",
            "rid": self._device(use.rid),
            "last": format_rid(use.rid + use.span - 1),
            "pasid": use.pasid,
            "level": use.level,
            "low": at * use.span,
            "high": (at + 1) * use.span - 1,
        }
        name = f"{use.name}, upper" if use.span > 1 and f"{use.name}, upper" in STRUCTURES else use.name
        return STRUCTURES[name].format_map(facts)

    def _page_entry(self, entry: Structure) -> str:
        use = entry.use
        end = entry.input + (1 << use.shift) - 1
        span = f"{_canonical(entry.input):#x}"
        if end - entry.input >= _PAGE:
            span = MEMORY["span"].format(low=span, high=f"{_canonical(end):#x}")
        facts = {"name": use.name, "level": use.level, "span": span}
        if use.stage == "second":
            return MEMORY["second"].format(owner=self._domain(use), **facts)
        nested = ""
        if use.guest is not None:
            nested = MEMORY["guest-at"].format(guest=f"{use.guest + entry.number * use.layout.size:#x}")
        return MEMORY["first"].format(pasid=use.pasid, owner=self._process(use), **facts) + nested

    def _device(self, rid: int) -> str:
        """A requester ID, and the device's name where it has one."""
        devices = self.machine.vm(self.vm).vmm.viommu.devices if self.vm else None
        name = devices.get(rid) if devices is not None else None
        if devices is None:
            name = next((name for name, device in self.machine.functions.items() if device.rid == rid), None)
        return f"{format_rid(rid)} ({name})" if name else format_rid(rid)

    def _domain(self, use: TableUse) -> str:
        """Whose memory a second level is."""
        domains = () if self.vm or use.second is None else self.machine.kernel.iommu.domains.values()
        found = [one.name for one in domains if use.second and one.table.root == use.second[0]]
        found += [one.name for one in domains if one.did == use.did]
        return found[0] if found else MEMORY["domain"].format(did=use.did, pasid=use.pasid)

    def _process(self, use: TableUse) -> str:
        """Whose page table a PASID stands for."""
        pasid, owner = use.pasid or 0, "" if self.vm else owner_of_table(self.machine, use.rid)
        kernel = self.machine.vm(self.vm or owner).kernel if self.vm or owner else self.machine.kernel
        mine = next((process.name for process in kernel.processes.values() if process.mm.pasid == pasid), None)
        if mine is not None or self.vm or owner:
            return f"{owner}: {mine}" if owner and mine else mine or MEMORY["nobody"]
        for vm in self.machine.vms:
            for guest, host in vm.pasids.items():
                if host == pasid:
                    inside = (p.name for p in vm.kernel.processes.values() if p.mm.pasid == guest)
                    return f"{vm.name}: {next(inside, MEMORY['nobody'])}"
        return MEMORY["nobody"]

    def _reached(self, known: Mapped) -> str:
        use = known.entry.use
        if use.stage == "second":
            return MEMORY["owned-second"].format(owner=self._domain(use), address=f"{known.input:#x}")
        address = f"{_canonical(known.input):#x}"
        return MEMORY["owned-first"].format(owner=self._process(use), pasid=use.pasid, address=address)

    # --- KVM ----------------------------------------------------------------------------------------------------------

    def _kvm(self, address: int) -> Iterator[Found]:
        """KVM's PASID directories and tables, which lie in the host's memory."""
        if self.vm:
            return
        for vmm in self.machine.vmms.values():
            if not vmm.kvm.retired and vmm.kvm.low:
                yield from self._kvm_of(vmm, address)

    def _kvm_of(self, vmm: Vmm, address: int) -> Iterator[Found]:
        for half, directory in enumerate((vmm.kvm.low, vmm.kvm.high)):
            if directory <= address < directory + _PAGE:
                at = (address - directory) // 8
                low = half << 19 | at << 10
                name = MEMORY["kvm-directory"].format(vm=vmm.name, low=low, high=low + 1023)
                yield self._of(name, directory + at * 8, VMX_PASID_DIR_ENTRY)
            for at, word in enumerate(self.memory.load_words(directory, _KVM_ENTRIES)):
                table = VMX_PASID_DIR_ENTRY["TABLE"].get((word,)) if word else 0
                if word and table <= address < table + _PAGE:
                    index = (address - table) // 4
                    name = MEMORY["kvm-entry"].format(vm=vmm.name, pasid=half << 19 | at << 10 | index)
                    words = (self.memory.load32(table + index * 4),)
                    layout = VMX_PASID_TABLE_ENTRY
                    yield Found(name, table + index * 4, layout, words, layout.reserved_mask)

    def _of(self, name: str, address: int, layout: Layout) -> Found:
        return Found(name, address, layout, self.memory.load_words(address, layout.word_count), layout.reserved_mask)


def _queued(slot: QueueSlot) -> Found:
    """An entry of a queue."""
    when = f" ({MEMORY[slot.when]})" if slot.when else ""
    said = f": {slot.what}" if slot.what else ""
    name = f"{slot.queue}, {slot.noun} {slot.number}{when}{said}"
    return Found(name, slot.address, slot.layout, slot.words, slot.reserved)


def plain_word(found: Found) -> bool:
    """Whether nothing is known of a word but its value."""
    return found.layout is _WORD


def _canonical(address: int) -> int:
    """The address as a process writes it: its highest used bit repeated upwards."""
    return address | 0xFFFF << 48 if address >> 47 & 1 and not address >> 48 else address
