"""KVM: guest memory slots, and the PASID translation tables that make ENQCMD work in a guest (on Intel only).

Models the VMX side of KVM with the PASID translation patches (never merged): per VM two directories and tables in host
memory, read by the processor; a notifier with CPU priority by the hypervisor's mm; an entry appears on BIND and
vanishes on UNBIND (or FREE, as the documents have it; the code ignored FREE). Each valid entry holds a reference on its
host PASID.

A failed translation (exits 72 and 73) injects nothing and goes to nobody: KVM sets ZF and skips the instruction, which
the guest reads as "queue full, try again". A guest that uses an unbound PASID therefore retries for ever.

While an entry is taken away the vCPUs are kicked out of the guest and kept out, so that no ENQCMD can use it any more
(:attr:`.Vmcs.entry_blocked`); they are let in again in every way out, and by BIND. In the code an UNBIND that finds no
entry leaves them out until the next BIND.

UNVERIFIED: the bit layout of directory and table entries rests on one public code base. How KVM keeps vCPUs out was not
read; here it is a mark that each instruction of the guest looks at, and one vCPU stands for all.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import BusError, KernelError
from pasidlab.hardware.cpu import PASID_TRANSLATION, ExitReason, PasidTranslation, Resume, Vmcs, VmcsField, split_pasid
from pasidlab.hardware.layouts.cpu import VMX_PASID_DIR_ENTRY, VMX_PASID_TABLE_ENTRY
from pasidlab.hardware.memory import PAGE_SIZE, Memory
from pasidlab.hardware.pcie import PASID_LIMIT
from pasidlab.kernel.ioasid.notifier import IoasidEvent, Payload, Priority
from pasidlab.timeline import Actor, Verb
from pasidlab.virt.traps import SERVED, Answer, Trap, TrapKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasidlab.hardware.cpu import Cpu
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.kernel.mm import Mm
    from pasidlab.kernel.process import Process
    from pasidlab.virt.traps import TrapDesk

__all__ = ["GuestMemory", "KvmEntry", "KvmVm"]

_DIRECTORY_ENTRIES: Final = 512
_TABLE_ENTRIES: Final = 1024


class KvmEntry(NamedTuple):
    """One valid entry of the translation table."""

    guest_pasid: int
    host_pasid: int


class GuestMemory(Memory):
    """Guest-physical memory: one memory slot of the hypervisor process's address space.

    A guest-physical address is an offset into the slot; the hypervisor's own page table leads on to the host frame.
    (The processor caches both steps in the EPT, which is not modelled.)
    """

    def __init__(self, host: Memory, mm: Mm, base: int, size: int) -> None:
        self.size = size
        self._host = host
        self._mm = mm
        self._base = base

    def _physical(self, address: int) -> int:
        if not 0 <= address < self.size:
            raise BusError(address)
        return self._mm.physical(self._base + address)

    def load(self, address: int) -> int:
        """The 64-bit word at a guest-physical address."""
        return self._host.load(self._physical(address))

    def store(self, address: int, value: int) -> None:
        """Write a 64-bit word."""
        self._host.store(self._physical(address), value)

    def load_words(self, address: int, count: int) -> tuple[int, ...]:
        """Consecutive words; one translation for each page."""
        room = (PAGE_SIZE - address % PAGE_SIZE) // 8
        if count <= room:
            return self._host.load_words(self._physical(address), count)
        if address % 8:
            return super().load_words(address, count)
        words: list[int] = []
        while len(words) < count:
            at = address + 8 * len(words)
            part = min(count - len(words), (PAGE_SIZE - at % PAGE_SIZE) // 8)
            words += self._host.load_words(self._physical(at), part)
        return tuple(words)

    def store_words(self, address: int, words: Sequence[int]) -> None:
        """Write consecutive words; inside one page this is one translation."""
        if (address & 0xFFF) + 8 * len(words) > 4096:
            super().store_words(address, words)
        else:
            self._host.store_words(self._physical(address), words)

    def clear_frame(self, address: int) -> None:
        """Zero one page."""
        self._host.clear_frame(self._physical(address))


class KvmVm(Actor, state=("high", "low")):
    """One virtual machine inside KVM. ``low`` and ``high`` are the PASID directories (host-physical), 0 where the
    processor has no ENQCMD.
    """

    actor = "kvm"

    def __init__(self, kernel: Kernel, owner: Process, name: str, desk: TrapDesk = SERVED) -> None:
        super().__init__(kernel.timeline, f"{kernel.altitude}.kvm[{name}]", kernel.altitude)
        self.name = name
        self._kernel = kernel
        self._mm = owner.mm
        self._desk = desk
        self.low = self.high = 0
        self.vmcs = Vmcs(self.timeline, f"{self.path}.vmcs", kernel.platform.memory, self)
        if kernel.platform.cpu.architecture.enqueues:
            self._set_up_translation()

    def _set_up_translation(self) -> None:
        """Two empty directories for the CPU, and a place in the VM's chain: where there is an ENQCMD to translate."""
        kernel = self._kernel
        with ExitStack() as undo:
            undo.callback(self.vmcs.retire)
            self.low = kernel.pages.alloc()
            undo.callback(kernel.pages.free, self.low)
            self.high = kernel.pages.alloc()
            undo.callback(kernel.pages.free, self.high)
            undo.callback(self.retire)
            self._subscribe()
            undo.pop_all()
        self.vmcs.vmwrite(VmcsField.LOW_PASID_DIRECTORY, self.low)
        self.vmcs.vmwrite(VmcsField.HIGH_PASID_DIRECTORY, self.high)
        self.vmcs.vmwrite(VmcsField.SECONDARY_CONTROLS, PASID_TRANSLATION)

    def translate_pasids(self, *, on: bool) -> None:
        """Switch the translation of ENQCMD on or off for this VM (the proposed KVM_CAP_PASID_TRANSLATION).

        Off: the number leaves the CPU as the guest wrote it, and no entries are kept. It is on when a VM starts.
        """
        self.vmcs.vmwrite(VmcsField.SECONDARY_CONTROLS, PASID_TRANSLATION if on else 0)
        self.emit(Verb.ADJUST, f"{self.name}: PASID translation for ENQCMD", after="on" if on else "off")

    def _subscribe(self) -> None:
        self._kernel.ioasid.notifiers.register_mm(self._mm, self)

    @property
    def holder(self) -> str:
        """The name under which this VM's entries hold their references."""
        return f"kvm:{self.name}"

    # --- the translation table ----------------------------------------------------------------------------------------

    def _slot(self, guest_pasid: int, *, build: bool) -> int | None:
        """The host-physical address of an entry; without ``build``, ``None`` if its table does not exist."""
        memory, index = self._kernel.platform.memory, split_pasid(guest_pasid)
        directory = (self.high if index.high else self.low) + index.directory * 8
        entry = memory.load(directory)
        if not entry:
            if not build:
                return None
            table = self._kernel.pages.alloc()
            entry = VMX_PASID_DIR_ENTRY.encode(P=1, TABLE=table)[0]
            memory.store(directory, entry)
        return VMX_PASID_DIR_ENTRY["TABLE"].get((entry,)) + index.table * 4

    def entry(self, guest_pasid: int) -> int | None:
        """The host PASID that stands for ``guest_pasid``, read from the table; ``None`` if the entry is not valid."""
        slot = self._slot(guest_pasid, build=False) if not self.retired and self.low else None
        words = (self._kernel.platform.memory.load32(slot) if slot is not None else 0,)
        return VMX_PASID_TABLE_ENTRY["HOST_PASID"].get(words) if VMX_PASID_TABLE_ENTRY["V"].get(words) else None

    def entries(self) -> list[KvmEntry]:
        """Every valid entry, read from the tables; none once the VM's file descriptor is closed."""
        memory = self._kernel.platform.memory
        found: list[KvmEntry] = []
        if self.retired or not self.low:
            return found
        for half, directory in enumerate((self.low, self.high)):
            words = memory.load_words(directory, _DIRECTORY_ENTRIES)
            for at, entry in enumerate(words) if words.count(0) < _DIRECTORY_ENTRIES else ():
                if entry:
                    base = half << 19 | at << 10
                    found += self._entries_of(VMX_PASID_DIR_ENTRY["TABLE"].get((entry,)), base)
        return found

    def _entries_of(self, table: int, base: int) -> list[KvmEntry]:
        words = self._kernel.platform.memory.load_words(table, _TABLE_ENTRIES // 2)
        found = []
        for at, pair in enumerate(words) if words.count(0) < len(words) else ():
            if pair:
                for odd, word in enumerate((pair & 0xFFFF_FFFF, pair >> 32)):
                    if VMX_PASID_TABLE_ENTRY["V"].get((word,)):
                        found.append(KvmEntry(base | 2 * at + odd, VMX_PASID_TABLE_ENTRY["HOST_PASID"].get((word,))))
        return found

    def _set_entry(self, guest_pasid: int, host_pasid: int) -> None:
        slot = self._slot(guest_pasid, build=True)
        assert slot is not None
        self._hold(host_pasid)
        self._replace(guest_pasid)
        self._kernel.platform.memory.store32(slot, VMX_PASID_TABLE_ENTRY.encode(V=1, HOST_PASID=host_pasid)[0])
        self.emit(
            Verb.WRITE_ENTRY,
            f"{self.name}: guest PASID {guest_pasid}",
            "not valid",
            host_pasid,
            gpasid=guest_pasid,
            pasid=host_pasid,
            refs=self._kernel.ioasid.refs(host_pasid),
        )

    def _hold(self, host_pasid: int) -> None:
        self._kernel.ioasid.get_locked(host_pasid, self.holder)

    def _replace(self, guest_pasid: int) -> None:
        """The code warns of a BIND over a valid entry, and overwrites it. Here the reference of what was there goes."""
        before = self.entry(guest_pasid)
        if before is not None:
            self._warn(f"BIND of guest PASID {guest_pasid}: its entry is valid", before)
            self._clear_entry(guest_pasid, before)
            self._kernel.ioasid.put_locked(before, self.holder)

    def _clear_entry(self, guest_pasid: int, host_pasid: int) -> None:
        slot = self._slot(guest_pasid, build=False)
        assert slot is not None
        self._kernel.platform.memory.store32(slot, 0)
        self.emit(
            Verb.CLEAR_ENTRY,
            f"{self.name}: guest PASID {guest_pasid}",
            host_pasid,
            "not valid",
            gpasid=guest_pasid,
            pasid=host_pasid,
            refs=self._kernel.ioasid.refs(host_pasid),
        )

    # --- notifications ------------------------------------------------------------------------------------------------

    @property
    def notifier_name(self) -> str:
        """Shown in the chain."""
        return f"KVM {self.name}"

    @property
    def notifier_priority(self) -> Priority:
        """The CPU is told first: no new work may enter the device."""
        return Priority.CPU

    def ioasid_notified(self, event: IoasidEvent, payload: Payload) -> bool:
        """BIND writes an entry, UNBIND and FREE clear it; an event without SPID is not ours, nor is one whose guest or
        host PASID has more than 20 bits.

        Without memory for a table (``-ENOMEM``) or a living ID there is no entry: nobody waits for a handler's answer,
        so the bind goes on, and the guest's ENQCMD finds no translation.
        """
        spid, host_pasid = payload.spid, payload.ioasid
        if not self.vmcs.translates_pasids:
            return False
        if spid is None or event is IoasidEvent.ALLOC or not (0 <= spid < PASID_LIMIT and host_pasid < PASID_LIMIT):
            return False
        refs = self._kernel.ioasid.refs(host_pasid)
        facts = {"event": event.value, "pasid": host_pasid, "gpasid": spid, "refs": refs, "handler": self.notifier_name}
        told = self.emit(Verb.HANDLE, f"{event} of IOASID {host_pasid}", **facts)
        with self.timeline.because(told):
            if event is IoasidEvent.BIND:
                try:
                    self._set_entry(spid, host_pasid)
                finally:
                    self._allow_entry()
                return True
            return self._ends(event) and self._end_entry(event, spid, host_pasid)

    def _end_entry(self, event: IoasidEvent, guest_pasid: int, host_pasid: int) -> bool:
        """Clear an entry and drop its reference. The code warns and stops where there is none; where an entry names
        another host PASID it warns and clears all the same, which here is left alone: it is not what ends.
        """
        self._block_entry()
        found = self.entry(guest_pasid)
        if found != host_pasid:
            self._warn(f"{event} of guest PASID {guest_pasid}: no entry for host PASID {host_pasid}", found)
            self._allow_entry_after_warning()
            return False
        self._clear_entry(guest_pasid, host_pasid)
        self._kernel.ioasid.put_locked(host_pasid, self.holder)
        self._allow_entry()
        return True

    def _block_entry(self) -> None:
        """Kick the vCPUs out of the guest and keep them out."""
        self.vmcs.entry_blocked = True
        self.emit(Verb.BLOCK_ENTRY, f"the vCPUs of {self.name}")

    def _allow_entry(self) -> None:
        """Let the vCPUs in again, if they are kept out."""
        if self.vmcs.entry_blocked:
            self.vmcs.entry_blocked = False
            self.emit(Verb.ALLOW_ENTRY, f"the vCPUs of {self.name}")

    def _allow_entry_after_warning(self) -> None:
        """The way out of an UNBIND that found nothing to clear."""
        self._allow_entry()

    def _warn(self, what: str, found: int | None) -> None:
        self.emit(Verb.IGNORE, f"{self.name}: {what}", after="not valid" if found is None else f"host PASID {found}")

    @staticmethod
    def _ends(event: IoasidEvent) -> bool:
        """Whether an entry ends with this event."""
        return event in (IoasidEvent.UNBIND, IoasidEvent.FREE)

    # --- VM exits -----------------------------------------------------------------------------------------------------

    def vm_exit(self, cpu: Cpu, reason: ExitReason, translation: PasidTranslation) -> Resume:
        """Exits 72 and 73: set ZF, skip the instruction, tell nobody.

        Who decides otherwise (:mod:`.traps`) has #GP injected, or an entry written and the instruction tried again.
        """
        guest_pasid = translation.guest_pasid
        words = f"exit {reason.value}: no entry for guest PASID {guest_pasid}"
        trap = Trap(self.name, TrapKind.VM_EXIT, words, "the host PASID that is entered for it", "#GP")
        decision = self._desk.decide(self.timeline, trap)
        if decision.answer is Answer.REFUSE:
            self.emit(Verb.HANDLE, words, after="#GP injected")
            return Resume.FAULT
        if decision.answer is Answer.ALTER and self._enter_by_hand(guest_pasid, decision.value):
            return Resume.RETRY
        self.emit(Verb.HANDLE, words, after="ZF=1, instruction skipped")
        cpu.zf = True
        return Resume.SKIP

    def _enter_by_hand(self, guest_pasid: int, host_pasid: int) -> bool:
        """Write an entry that no BIND asked for; ``False`` if this VM has no such living PASID."""
        core = self._kernel.ioasid
        own = core.sets.find_mm(self._mm)
        try:
            if own is None:
                raise KernelError("ENXIO", f"{self.name} has no PASIDs any more")
            core.living(host_pasid, own)
            self._set_entry(guest_pasid, host_pasid)
        except KernelError as error:
            self.emit(Verb.REFUSE, error.reason, after=f"-{error.name}")
            return False
        return True

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The VM's file descriptor is closed: leave the chain, drop every valid entry's reference, free the tables."""
        event = self.emit(Verb.CLOSE, f"KVM VM {self.name}")
        with self.timeline.because(event):
            self._close_translation()
            self.retire()

    def _close_translation(self) -> None:
        if self.low:
            self._kernel.ioasid.notifiers.unregister_mm(self._mm, self)
            for guest_pasid, host_pasid in self.entries():
                self._clear_entry(guest_pasid, host_pasid)
                self._kernel.ioasid.put(host_pasid, self.holder)
            for directory in (self.low, self.high):
                for entry in self._kernel.platform.memory.load_words(directory, _DIRECTORY_ENTRIES):
                    if entry:
                        self._kernel.pages.free(VMX_PASID_DIR_ENTRY["TABLE"].get((entry,)))
                self._kernel.pages.free(directory)
