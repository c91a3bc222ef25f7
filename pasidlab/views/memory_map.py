"""What lies at an address, in words: tables of the IOMMU, its queues, KVM's PASID tables, pages of VMs and processes.

The tables are those that :class:`~pasidlab.hardware.iommu.vtd.survey.Survey` finds from RTADDR; here they get names. Of
the machine's memory addresses are host-physical and the unit is the silicon's; of a VM's memory they are
guest-physical, and the unit is the emulated one, which walks the guest's own tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import BusError, KernelError
from pasidlab.hardware.bits import Field, Layout
from pasidlab.hardware.iommu.vtd.invalidation import QueueError, decode_descriptor
from pasidlab.hardware.iommu.vtd.register_file import IQA, IQT, PQA
from pasidlab.hardware.iommu.vtd.rules import PT_SHIFT
from pasidlab.hardware.iommu.vtd.survey import Survey
from pasidlab.hardware.layouts.cpu import VMX_PASID_DIR_ENTRY, VMX_PASID_TABLE_ENTRY
from pasidlab.hardware.layouts.vtd import IQA_REG, PASID_ENTRY, PGTT, SL_ENTRY
from pasidlab.hardware.layouts.vtd_queue import PAGE_REQUEST
from pasidlab.hardware.pcie import format_rid
from pasidlab.views.bits import Bits
from pasidlab.views.iommu_words import MEMORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pasidlab.hardware.iommu.vtd.registers import VtdRegisters
    from pasidlab.hardware.iommu.vtd.survey import Mapped, Structure
    from pasidlab.hardware.memory import Memory
    from pasidlab.machine import Machine
    from pasidlab.virt.vmm import Vmm

__all__ = ["Found", "MemoryMap", "plain_word"]

_PAGE: Final = 4096
_KVM_ENTRIES: Final = 512
_WORD: Final = Layout("word", 8, (), "memory", "no table of the unit or of KVM: data")


class Found(NamedTuple):
    """A structure at an address: what it is in words, where it begins, what decodes it, its words, what must be 0.

    ``second`` is the second level behind a nested first-level table (root, depth).
    """

    name: str
    address: int
    layout: Layout
    words: tuple[int, ...]
    reserved: int
    second: tuple[int, int] | None = None

    def bits(self) -> Bits:
        """It, bit by bit."""
        note = MEMORY["at"].format(address=f"{self.address:#x}", size=self.layout.size, source=self.layout.note)
        return Bits("memory", self.name, self.layout, self.words, note.rstrip(" ;"), self.reserved)


class MemoryMap:
    """One memory at the present step: the machine's, or that of the VM called ``vm``.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> MemoryMap(m).at(m.kernel.iommu.tables[dsa.rid].address(0) + 16)[0].name
    'PASID entry 0 of 6a:01.0 (dsa0)'
    """

    def __init__(self, machine: Machine, vm: str = "") -> None:
        self.machine, self.vm = machine, vm
        unit: VtdRegisters = machine.vm(vm).vmm.viommu if vm else machine.unit
        self.unit = unit
        self.memory: Memory = unit.memory
        self.survey = Survey(unit.memory, unit.root_pointer, unit.rules)

    def at(self, address: int) -> list[Found]:
        """The structures that the byte at ``address`` belongs to; tables first."""
        found = [
            Found(self._name(entry), entry.address, entry.use.layout, entry.words, entry.reserved, entry.use.second)
            for entry in self.survey.at(address)
        ]
        return [*found, *self._queued(address), *self._kvm(address)]

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
        field = next((field for field in found.layout if field.name == key and field.shift), None)
        address = field.get(found.words) if field is not None else 0
        if not address:
            return None
        second = found.second
        if found.layout is PASID_ENTRY and key == "FLPTPTR" and PASID_ENTRY["PGTT"].get(found.words) == PGTT.NESTED:
            depth = self.unit.rules.depths.get(PASID_ENTRY["AW"].get(found.words), 0)
            second = PASID_ENTRY["SLPTPTR"].get(found.words), depth
        return address if second is None else self.survey.through(second, address)

    def owners(self, address: int) -> list[str]:
        """Who reaches the byte at ``address`` through page tables, as what."""
        return [self._reached(known) for known in self.survey.mapped(address)]

    # --- names --------------------------------------------------------------------------------------------------------

    def _name(self, entry: Structure) -> str:
        use, rid = entry.use, self._device(entry.use.rid)
        first = use.first + entry.number
        names: dict[str, str] = {
            "root entry": MEMORY["root"].format(bus=f"{entry.number:#x}"),
            "context entry": MEMORY["context"].format(rid=rid),
            "PASID directory entry": MEMORY["directory"].format(rid=rid, low=first << 6, high=(first << 6) + 63),
            "PASID entry": MEMORY["entry"].format(rid=rid, pasid=use.pasid),
        }
        if use.name in names:
            return names[use.name]
        end = entry.input + (1 << PT_SHIFT[use.level]) - 1
        span = f"{_canonical(entry.input):#x}"
        if use.level > 1:
            span = MEMORY["span"].format(low=span, high=f"{_canonical(end):#x}")
        facts = {"level": use.level, "span": span}
        if use.layout is SL_ENTRY:
            return MEMORY["second"].format(owner=self._domain(use.did, use.pasid), **facts)
        nested = MEMORY["guest-at"].format(guest=f"{(use.guest or 0) + entry.number * 8:#x}") if use.second else ""
        return MEMORY["first"].format(pasid=use.pasid, owner=self._process(use.pasid or 0), **facts) + nested

    def _device(self, rid: int) -> str:
        """A requester ID, and the device's name where it has one."""
        devices = self.machine.vm(self.vm).vmm.viommu.devices if self.vm else None
        name = devices.get(rid) if devices is not None else None
        if devices is None:
            name = next((name for name, device in self.machine.functions.items() if device.rid == rid), None)
        return f"{format_rid(rid)} ({name})" if name else format_rid(rid)

    def _domain(self, did: int, pasid: int | None) -> str:
        domain = None if self.vm else self.machine.kernel.iommu.domains.get(did)
        return domain.name if domain is not None else MEMORY["domain"].format(did=did, pasid=pasid)

    def _process(self, pasid: int) -> str:
        """Whose page table a PASID stands for."""
        kernel = self.machine.vm(self.vm).kernel if self.vm else self.machine.kernel
        mine = next((process.name for process in kernel.processes.values() if process.mm.pasid == pasid), None)
        if mine is not None or self.vm:
            return mine or MEMORY["nobody"]
        for vm in self.machine.vms:
            for guest, host in vm.pasids.items():
                if host == pasid:
                    inside = (p.name for p in vm.kernel.processes.values() if p.mm.pasid == guest)
                    return f"{vm.name}: {next(inside, MEMORY['nobody'])}"
        return MEMORY["nobody"]

    def _reached(self, known: Mapped) -> str:
        use = known.entry.use
        if use.layout is SL_ENTRY:
            owner = self._domain(use.did, use.pasid)
            return MEMORY["owned-second"].format(owner=owner, address=f"{known.input:#x}")
        address = f"{_canonical(known.input):#x}"
        return MEMORY["owned-first"].format(owner=self._process(use.pasid or 0), pasid=use.pasid, address=address)

    # --- queues and KVM -----------------------------------------------------------------------------------------------

    def _queued(self, address: int) -> Iterator[Found]:
        """Descriptors of the invalidation queue, records of the page request queue."""
        registers = self.unit.registers
        base, size = registers[IQA] & ~0xFFF, _PAGE << (registers[IQA] & 7)
        if base and base <= address < base + size:
            width = 32 if IQA_REG["DW"].get((registers[IQA],)) else 16
            start = base + (address - base) // width * width
            yield self._descriptor(start, width, (start - base) // width, registers[IQT] // width)
        base, size = registers[PQA] & ~0xFFF, _PAGE << (registers[PQA] & 7)
        if base and base <= address < base + size:
            start = base + (address - base) // PAGE_REQUEST.size * PAGE_REQUEST.size
            name = MEMORY["page-request"].format(number=(start - base) // PAGE_REQUEST.size)
            words = self.memory.load_words(start, PAGE_REQUEST.word_count)
            yield Found(name, start, PAGE_REQUEST, words, PAGE_REQUEST.reserved_mask)

    def _descriptor(self, start: int, width: int, number: int, tail: int) -> Found:
        words = self.memory.load_words(start, width // 8)
        decoded = decode_descriptor(words)
        if isinstance(decoded, QueueError):
            empty = not any(words)
            layout = Layout("descriptor", width, (Field("TYPE", 0, 3, MEMORY["type"]),), "")
            name = MEMORY["no-descriptor" if empty else "bad-descriptor"].format(number=number, error=decoded.name)
            return Found(name, start, layout, words, 0)
        when = MEMORY["tail" if number == tail else "done"]
        name = MEMORY["descriptor"].format(number=number, what=decoded, when=when)
        return Found(name, start, decoded.layout, decoded.words, decoded.layout.reserved_mask)

    def _kvm(self, address: int) -> Iterator[Found]:
        """KVM's PASID directories and tables, which lie in the host's memory."""
        if self.vm:
            return
        for vmm in self.machine.vmms.values():
            if not vmm.kvm.retired:
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


def plain_word(found: Found) -> bool:
    """Whether nothing is known of a word but its value."""
    return found.layout is _WORD


def _canonical(address: int) -> int:
    """The address as a process writes it: its highest used bit repeated upwards."""
    return address | 0xFFFF << 48 if address >> 47 & 1 and not address >> 48 else address
