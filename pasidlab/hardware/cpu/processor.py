"""One logical processor, as far as PASIDs are concerned: IA32_PASID, ENQCMD, ENQCMDS and MOVDIR64B.

Source: Intel instruction set reference. ENQCMD builds a 64-byte command whose first dword is the PASID of IA32_PASID
(and privilege 0, whatever the privilege level) and whose rest is the source, and writes it non-posted; ZF tells whether
the target accepted, the other status flags are cleared. ENQCMDS takes PASID and privilege from its source. In a guest
with PASID translation both have the PASID replaced on the way out; MOVDIR64B and ordinary stores never have.

UNVERIFIED: that every #GP condition is checked before the translation (assumed), so an invalid IA32_PASID never causes
a VM exit. In which order the #GP conditions of one instruction are checked is not said either; all raise the same
#GP(0), so that software cannot see it. The order here is alignment, IA32_PASID, source; for ENQCMDS privilege level
first.

A guest's store to a page that its hypervisor has unmapped exits before anything is translated (an EPT violation), and
the hypervisor carries it out: it sees the PASID that the guest's instruction sends. UNVERIFIED: this order; the exit is
told by whoever emulates the page. While a hypervisor keeps a vCPU out of the guest (:attr:`.Vmcs.entry_blocked`) no
instruction of the guest is executed; trying one here raises :class:`VmEntryBlocked`.

On a processor without ENQCMD (CPUID.7.0:ECX[29]; :mod:`.architecture`) the two enqueues and IA32_PASID do not exist;
the posted store has another name on Arm. Left out: all other instructions, the load of the source (it may raise #PF),
caches, MOVDIR64B to ordinary memory.

Invariant: an instruction that raises #GP has changed nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Never

from pasidlab.errors import BusError
from pasidlab.hardware.cpu.architecture import INTEL64, Architecture
from pasidlab.hardware.cpu.faults import GeneralProtection, GpReason, UndefinedInstruction
from pasidlab.hardware.cpu.vmcs import ExitReason, Resume, Vmcs, VmEntryBlocked
from pasidlab.hardware.layouts.cpu import ENQCMD_COMMAND, IA32_PASID_MSR
from pasidlab.timeline import HARDWARE, Actor, Verb

if TYPE_CHECKING:
    from pasidlab.hardware.mmio import AddressMap
    from pasidlab.timeline import Timeline

__all__ = ["IA32_PASID", "Cpu"]

IA32_PASID: Final = 0xD93
"""The number of the MSR that holds the PASID of the running process."""

_EXITS_PER_INSTRUCTION: Final = 16
"""How often one instruction may exit before the model calls it a livelock (silicon would go on for ever)."""


class Cpu(Actor, state=("af", "cf", "ia32_pasid", "of", "pf", "sf", "vmcs", "zf")):
    """A logical processor (a vCPU is one whose ``vmcs`` is set). ``zf``, ``cf``, ``pf``, ``af``, ``sf`` and ``of`` are
    the status flags of RFLAGS; of the modelled instructions only the two enqueues change them. ``la57``: it can walk
    page tables of five levels.

    >>> from pasidlab.hardware.mmio import AddressMap
    >>> from pasidlab.timeline import Timeline
    >>> time = Timeline(); cpu = Cpu(time, "cpu0"); mmio = AddressMap(time, "mmio")
    >>> cpu.write_msr(IA32_PASID, 1 << 31 | 5)
    >>> cpu.enqcmd(mmio, 0x1000, bytes(64))               # nobody answers there: the same as "retry"
    False
    >>> cpu.enqcmd(mmio, 0x1004, bytes(64))
    Traceback (most recent call last):
    pasidlab.hardware.cpu.faults.GeneralProtection: #GP in ENQCMD: the destination must be 64-byte aligned
    """

    actor = "cpu"
    ia32_pasid: int
    vmcs: Vmcs | None
    zf: bool
    cf: bool
    pf: bool
    af: bool
    sf: bool
    of: bool

    def __init__(
        self,
        timeline: Timeline,
        path: str,
        altitude: str = HARDWARE,
        vmcs: Vmcs | None = None,
        *,
        la57: bool = False,
        architecture: Architecture = INTEL64,
    ) -> None:
        super().__init__(timeline, path, altitude)
        self.architecture = architecture
        self.la57 = la57
        self.ia32_pasid = 0
        self.vmcs = vmcs
        self.zf = self.cf = self.pf = self.af = self.sf = self.of = False

    # --- model-specific registers -------------------------------------------------------------------------------

    def read_msr(self, number: int, cpl: int = 0) -> int:
        """RDMSR, privilege level 0 only. Only IA32_PASID is modelled; other numbers raise #GP, as unknown MSRs do."""
        self._check_msr("RDMSR", number, cpl)
        return self.ia32_pasid

    def write_msr(self, number: int, value: int, cpl: int = 0) -> None:
        """WRMSR, privilege level 0 only (the kernel's XRSTORS of the PASID state has the same effect).

        #GP: reserved bits (30:20 and 63:32) are set, the privilege level is not 0, or there is no such MSR. Bit 31
        clear is a legal value: it makes ENQCMD fault.
        """
        self._check_msr("WRMSR", number, cpl)
        if IA32_PASID_MSR.reserved((value,)):
            self._fault("WRMSR", GpReason.MSR_RESERVED)
        before, self.ia32_pasid = self.ia32_pasid, value
        valid = bool(IA32_PASID_MSR["V"].get((value,)))
        pasid = IA32_PASID_MSR["PASID"].get((value,)) if valid else None
        self.emit(
            Verb.WRITE_MSR,
            "IA32_PASID",
            f"{before:#x}",
            f"{value:#x}",
            cpu=self.path,
            msr=number,
            pasid=pasid,
            valid=valid,
        )

    # --- the three 64-byte stores -------------------------------------------------------------------------------

    def enqcmd(self, mmio: AddressMap, destination: int, source: bytes) -> bool:
        """ENQCMD, at any privilege level: ``True`` when the target accepted (ZF=0), ``False`` for retry (ZF=1).

        Retry means that the target had no room, or that there is no enqueue register at ``destination``: software
        cannot tell. #GP: ``destination`` is not a multiple of 64, IA32_PASID is not valid, or bits 31:0 of the 64-byte
        ``source`` are not zero.
        """
        self._enter("ENQCMD", exists=self.architecture.enqueues)
        words = ENQCMD_COMMAND.from_bytes(source)
        self._check_destination("ENQCMD", destination)
        msr = (self.ia32_pasid,)
        if not IA32_PASID_MSR["V"].get(msr):
            self._fault("ENQCMD", GpReason.PASID_INVALID)
        if words[0] & 0xFFFF_FFFF:
            self._fault("ENQCMD", GpReason.SOURCE_RESERVED)
        command = ENQCMD_COMMAND.change(words, PASID=IA32_PASID_MSR["PASID"].get(msr))
        return self._enqueue("ENQCMD", ExitReason.ENQCMD_PASID_TRANSLATION, mmio, destination, command)

    def enqcmds(self, mmio: AddressMap, destination: int, source: bytes, cpl: int = 0) -> bool:
        """ENQCMDS, privilege level 0 only: PASID (bits 19:0) and privilege (bit 31) come from the source, IA32_PASID is
        not looked at; the answer is as for ENQCMD.

        #GP: the privilege level is not 0, ``destination`` is not a multiple of 64, or bits 30:20 of ``source`` are set.
        """
        self._enter("ENQCMDS", exists=self.architecture.enqueues)
        words = ENQCMD_COMMAND.from_bytes(source)
        if cpl:
            self._fault("ENQCMDS", GpReason.PRIVILEGE)
        self._check_destination("ENQCMDS", destination)
        if ENQCMD_COMMAND["RSVD"].get(words):
            self._fault("ENQCMDS", GpReason.SOURCE_RESERVED_SUPERVISOR)
        return self._enqueue("ENQCMDS", ExitReason.ENQCMDS_PASID_TRANSLATION, mmio, destination, words)

    def movdir64b(self, mmio: AddressMap, destination: int, source: bytes) -> None:
        """MOVDIR64B (on Arm ST64B): a posted 64-byte store. Nothing in it is translated, nothing comes back."""
        store = self.architecture.store
        self._enter(store)
        words = ENQCMD_COMMAND.from_bytes(source)
        self._check_destination(store, destination)
        event = self.emit(Verb.MOVDIR64B, f"{store} {destination:#x}", cpu=self.path, destination=destination)
        with self.timeline.because(event):
            try:
                mmio.post64(destination, ENQCMD_COMMAND.to_bytes(words))
            except BusError as error:
                self.emit(Verb.REFUSE, f"store dropped: {error}", cpu=self.path, destination=destination)

    # --- inside an enqueue --------------------------------------------------------------------------------------

    def _enqueue(
        self, instruction: str, reason: ExitReason, mmio: AddressMap, destination: int, command: tuple[int, ...]
    ) -> bool:
        pasid = ENQCMD_COMMAND["PASID"].get(command)
        event = self.emit(
            Verb.ENQCMD, f"{instruction} {destination:#x}", cpu=self.path, destination=destination, pasid=pasid
        )
        with self.timeline.because(event):
            host_pasid = self._outgoing_pasid(reason, pasid, mmio.intercepts(destination))
            if host_pasid is not None:
                data = ENQCMD_COMMAND.to_bytes(ENQCMD_COMMAND.change(command, PASID=host_pasid))
                self._report(accepted=self._send(mmio, destination, data))
        return not self.zf

    def _report(self, *, accepted: bool) -> None:
        """Flags after an enqueue store: ZF is its status, the others are cleared."""
        self.zf = not accepted
        self.cf = self.pf = self.af = self.sf = self.of = False

    def _send(self, mmio: AddressMap, destination: int, data: bytes) -> bool:
        """The non-posted write. Where nobody answers the result is the same as from a full queue."""
        try:
            return mmio.enqueue64(destination, data)
        except BusError as error:
            self.emit(Verb.RETRY, str(error), cpu=self.path, destination=destination)
            return False

    def _outgoing_pasid(self, reason: ExitReason, pasid: int, intercepted: bool) -> int | None:
        """The PASID that leaves the processor, or ``None`` when the hypervisor has emulated the instruction."""
        vmcs = self.vmcs
        if vmcs is None or not vmcs.translates_pasids or intercepted:
            return pasid
        for _ in range(_EXITS_PER_INSTRUCTION):
            translation = vmcs.translate(pasid)
            if translation.host_pasid is not None:
                facts = {"cpu": self.path, "guest_pasid": pasid, "host_pasid": translation.host_pasid}
                self.emit(Verb.TRANSLATE, f"guest PASID {pasid}", pasid, translation.host_pasid, **facts)
                return translation.host_pasid
            words = translation.failure.value if translation.failure else ""
            facts = {"cpu": self.path, "reason": reason.value, "guest_pasid": pasid}
            event = self.emit(Verb.EXIT_VMX, f"exit {reason.value}: {words}", None, None, **facts)
            if vmcs.host is None:
                raise RuntimeError(f"{vmcs.path} must have a host to get VM exits, not none")
            with self.timeline.because(event):
                resume = vmcs.host.vm_exit(self, reason, translation)
            if resume is Resume.SKIP:
                return None
            if resume is Resume.FAULT:
                self._fault("ENQCMD" if reason is ExitReason.ENQCMD_PASID_TRANSLATION else "ENQCMDS", GpReason.INJECTED)
        raise RuntimeError(f"an instruction must stop exiting within {_EXITS_PER_INSTRUCTION} VM exits, and did not")

    # --- checks -------------------------------------------------------------------------------------------------

    def _enter(self, instruction: str, *, exists: bool = True) -> None:
        """An instruction is to be executed: not by a guest that is kept out, nor by a processor that has none such."""
        if not exists:
            raise UndefinedInstruction(instruction, self.architecture.why_no_enqueue)
        if self.vmcs is not None and self.vmcs.entry_blocked:
            raise VmEntryBlocked(self.path, instruction)

    def _check_msr(self, instruction: str, number: int, cpl: int) -> None:
        self._enter(instruction)
        if not self.architecture.enqueues:
            raise UndefinedInstruction(f"{instruction} of IA32_PASID", self.architecture.why_no_enqueue)
        if cpl:
            self._fault(instruction, GpReason.PRIVILEGE)
        if number != IA32_PASID:
            self._fault(instruction, GpReason.MSR_UNKNOWN)

    def _check_destination(self, instruction: str, destination: int) -> None:
        if destination % 64:
            self._fault(instruction, GpReason.ALIGNMENT)

    def _fault(self, instruction: str, reason: GpReason) -> Never:
        self.emit(Verb.GP_FAULT, f"{instruction}: {reason.value}", cpu=self.path, reason=reason.name)
        raise GeneralProtection(reason, instruction)
