"""The slow path: a guest's portal page that its hypervisor has unmapped, and the emulation that stands in for it.

Models the emulated portal of ``drivers/vfio/mdev/idxd`` (never merged), meant for live migration: the hypervisor takes
the guest's window onto the parent's portal away, each submission exits, and the device model carries it out. With the
window the CPU translates the PASID of an ENQCMD; here nobody has, so the device model converts the PASID field of each
descriptor for a shared queue, and submits with ENQCMDS. What is posted to a dedicated queue needs no number.

The reference of the look-up is held until the submission is over. From then on the descriptor waits in the parent's
queue like any other, which UNBIND and FREE have drained. The code took one reference for each descriptor and dropped
none.

UNVERIFIED: what the guest is told when its PASID is unknown, or the parent's queue is full (taken: retry, as an ENQCMD
through the window would tell; the code returned an error to the hypervisor).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.hardware.layouts.cpu import ENQCMD_COMMAND
from pasidlab.timeline import Verb
from pasidlab.virt.traps import Answer, Trap, TrapKind

if TYPE_CHECKING:
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.virt.traps import TrapDesk
    from pasidlab.virt.vdcm import MediatedDevice

__all__ = ["EmulatedPortal"]


class EmulatedPortal:
    """The MMIO target that takes a guest's stores while its window is away. Offsets are those of the parent's BAR2."""

    def __init__(self, interface: MediatedDevice, kernel: Kernel, desk: TrapDesk) -> None:
        self.path = f"{interface.path}.portal"
        self._interface = interface
        self._kernel = kernel
        self._desk = desk

    def mmio_read(self, offset: int, size: int = 8) -> int:
        """Portals cannot be read."""
        return 0

    def mmio_write(self, offset: int, value: int, size: int = 8) -> None:
        """Only 64-byte stores submit."""

    def post64(self, offset: int, data: bytes) -> None:
        """A trapped MOVDIR64B: the same on the parent's portal. A dedicated queue's PASID is in its configuration."""
        platform, interface = self._kernel.platform, self._interface
        trap = Trap(interface.vm, TrapKind.PORTAL, f"{interface.name}: a descriptor posted to the portal")
        event = interface.emit(Verb.TRAP, str(trap))
        with interface.timeline.because(event):
            if self._desk.decide(interface.timeline, trap).answer is not Answer.REFUSE:
                platform.cpu.movdir64b(platform.mmio, interface.parent.bar2 + offset, data)

    def enqueue64(self, offset: int, data: bytes) -> bool:
        """A trapped ENQCMD or ENQCMDS: convert the PASID, enqueue on the guest's behalf, answer as the parent."""
        words = ENQCMD_COMMAND.from_bytes(data)
        guest_pasid, interface = ENQCMD_COMMAND["PASID"].get(words), self._interface
        told = f"{interface.name}: a descriptor for PASID {guest_pasid} at the portal"
        trap = Trap(interface.vm, TrapKind.PORTAL, told, "the PASID in the descriptor", "retry")
        event = interface.emit(Verb.TRAP, str(trap), pasid=guest_pasid)
        with interface.timeline.because(event):
            decision = self._desk.decide(interface.timeline, trap)
            if decision.answer is Answer.REFUSE:
                return False
            return self._enqueue(offset, words, decision.value if decision.answer is Answer.ALTER else guest_pasid)

    def _enqueue(self, offset: int, words: tuple[int, ...], guest_pasid: int) -> bool:
        interface, platform = self._interface, self._kernel.platform
        if interface.queue.dedicated:
            return False
        host_pasid = interface.convert(guest_pasid, interface.holder)
        if host_pasid is None:
            return False
        command = ENQCMD_COMMAND.to_bytes(ENQCMD_COMMAND.change(words, PASID=host_pasid, RSVD=0))
        accepted = platform.cpu.enqcmds(platform.mmio, interface.parent.bar2 + offset, command)
        interface.submitted(host_pasid)
        return accepted
