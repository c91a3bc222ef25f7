"""The registers of an assignable interface as its guest sees them: what traps, what is only stored, what is refused.

Models the emulated BAR0 and configuration space of ``drivers/vfio/mdev/idxd`` (never merged). Every register that
carries a PASID is intercepted:

===================  =======================================  ==============================================
register             taken                                    converted
===================  =======================================  ==============================================
WQCFG dword 2        while the queue is disabled; stored      by ENABLE_WQ (:mod:`.vdcm`)
MSI-X permission     always; stored                           when the vector is unmasked (:mod:`.ims`)
portal               a page of the parent, or emulated        by the CPU, or for each descriptor (:mod:`.portal`)
===================  =======================================  ==============================================

The virtual configuration space shows ATS, page requests and PASIDs (20 bits, privileged mode). Where the parent has no
ATS it shows none either, and the rule that PASIDs need it does not apply (UNVERIFIED: the code knows no such parent).
Left out: the SIOV capability (a vendor-specific one, whose layout no fact gives), error interrupts, IAX.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.commands import Command, CommandError
from pasidlab.hardware.accelerator.registers import AcceleratorRegisters, QueueSetup
from pasidlab.hardware.config_space import ATS_CAPABILITY, PRI_CAPABILITY
from pasidlab.hardware.layouts.dsa import CMD, CMDSTS, MSIX_ENTRY, MSIX_PERM, WQCFG
from pasidlab.hardware.layouts.pcie import PRI_CAP
from pasidlab.hardware.pcie import PASID_LIMIT
from pasidlab.timeline import HOST, Verb
from pasidlab.virt.traps import Answer, Trap, TrapKind

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline
    from pasidlab.virt.traps import TrapDesk

__all__ = ["VIRTUAL_MSIX_TABLE", "ComposedRegisters"]

_PASID_DWORD: Final = 2
VIRTUAL_MSIX_TABLE: Final = 0x600
"""Where the MSI-X table lies in the virtual BAR0 (the public driver's place)."""


class ComposedRegisters(AcceleratorRegisters):
    """BAR0 and configuration space of the interface ``name`` of the VM ``vm``, with one queue."""

    def __init__(self, timeline: Timeline, name: str, vm: str, setup: QueueSetup, desk: TrapDesk, *, ats: bool) -> None:
        self.name = name
        self.vm = vm
        self._desk = desk
        super().__init__(timeline, f"{HOST}.mdev[{name}]", [setup], HOST, configurable=False, ats=ats)

    @property
    def label(self) -> str:
        """The name by which events speak of this device."""
        return self.name

    # --- what the guest finds -----------------------------------------------------------------------------------------

    def commands(self) -> tuple[Command, ...]:
        """All of them: what a handle is only the parent knows."""
        return tuple(Command)

    def check_enable_device(self) -> CommandError:
        """What ENABLE_DEVICE would answer: a PASID needs page requests and the other way round, and it needs ATS."""
        error = super().check_enable_device()
        if error is CommandError.SUCCESS and self.config.read(ATS_CAPABILITY):
            pasid, ats = self.config.pasid_enabled, self.config.ats_enabled
            requests = bool(self.config.read(PRI_CAPABILITY + 4) & PRI_CAP["EN"].mask >> 32)
            if pasid != requests or (pasid and not ats):
                return CommandError.BUSMASTER_EN
        return error

    # --- intercepted registers ----------------------------------------------------------------------------------------

    def _write32(self, offset: int, value: int) -> None:
        """A store of the guest: what carries a PASID or is a command traps, and is decided before it is done."""
        trap = self._trap(offset, value)
        if trap is None:
            self._store(offset, value)
            return
        event = self.emit(Verb.TRAP, str(trap), register=offset, value=value)
        with self.timeline.because(event):
            decision = self._desk.decide(self.timeline, trap)
            if decision.answer is not Answer.REFUSE:
                altered = decision.answer is Answer.ALTER
                self._store(offset, _with_number(offset, value, decision.value) if altered else value)
            elif offset == at.CMD:
                self.put_words(at.CMDSTS, CMDSTS, CMDSTS.encode(err=CommandError.HW_ERR))

    def _trap(self, offset: int, value: int) -> Trap | None:
        """What a store means, if it is one to be decided."""
        vm, table = self.vm, at.MSIX_PERM_STRIDE * (self.num_wqs + 1)
        if offset == at.CMD:
            command, operand = CMD["cmd"].get((value,)), CMD["operand"].get((value,))
            name = Command(command).name if command in Command._value2member_map_ else f"command {command}"
            words, refusal = f"{self.name}: {name} {operand:#x}", "the command failed: HW_ERR"
            return Trap(vm, TrapKind.COMMAND, words, "the operand of the command", refusal)
        if offset == at.wqcfg_offset(0, _PASID_DWORD):
            known = WQCFG.decode((0, value, 0, 0))
            what = f"PASID {known['pasid']}" if known["pasid_en"] else "no PASID"
            words, refusal = f"{self.name}: WQCFG, {what}", "nothing; the register keeps its value"
            return Trap(vm, TrapKind.REGISTER, words, "the PASID in the register", refusal)
        if 0 <= offset - at.MSIX_PERM < table and not offset % at.MSIX_PERM_STRIDE:
            known = MSIX_PERM.decode((value,))
            what = f"PASID {known['pasid']}" if known["pasid_en"] else "no PASID"
            words = f"{self.name}: permission of vector {(offset - at.MSIX_PERM) // at.MSIX_PERM_STRIDE}, {what}"
            return Trap(vm, TrapKind.REGISTER, words, "the PASID in the entry", "nothing; the entry keeps its value")
        return None

    def _store(self, offset: int, value: int) -> None:
        """What a store does once it is decided; the virtual MSI-X table is not the silicon's."""
        vector, within = divmod(offset - VIRTUAL_MSIX_TABLE, at.INTERRUPT_STRIDE)
        if not 0 <= vector <= self.num_wqs:
            super()._write32(offset, value)
            return
        mask = ~MSIX_ENTRY.reserved_mask >> 8 * within & 0xFFFF_FFFF
        self.put32(offset, value & mask)
        if within == at.INTERRUPT_STRIDE - 4:
            self._vector_masked(vector, bool(value & 1))

    @abstractmethod
    def _vector_masked(self, vector: int, masked: bool) -> None:
        """The guest has masked or unmasked a vector."""


def _with_number(offset: int, value: int, number: int) -> int:
    """A stored value with another number in the place of its own: a command's operand, a queue's or vector's PASID."""
    if offset == at.CMD:
        return CMD.change((value,), operand=number & CMD["operand"].mask)[0]
    if offset < at.WQCFG:
        return MSIX_PERM.change((value,), pasid=number % PASID_LIMIT, pasid_en=1)[0]
    words = WQCFG.change((0, value, 0, 0), pasid=number % PASID_LIMIT, pasid_en=1)
    return words[1] & 0xFFFF_FFFF
