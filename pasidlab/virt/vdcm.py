"""A mediated device: one Assignable Device Interface (ADI) as its virtual device composition module presents it.

Models ``drivers/vfio/mdev/idxd`` (never merged). The guest sees a device with one work queue. Its BAR0 is an emulation
(:mod:`.composition`): each register that carries a PASID is intercepted, and the guest's PASID becomes a host PASID
before hardware sees it. Its portal is a page of the real device: submissions do not trap, unless the hypervisor has it
emulated (:mod:`.portal`). Interrupts are in :mod:`.ims`.

=========  ==========================  ==============================================================
queue      the guest programs          hardware gets
=========  ==========================  ==============================================================
dedicated  PASID disabled, or 0        the VM's default PASID (its guest-physical memory)
dedicated  its own PASID               the host PASID with that SPID, and a reference is held
shared     PASID enabled, no number    nothing: the PASID comes with each ENQCMD, translated by the CPU
=========  ==========================  ==============================================================

The default PASID is used privileged. (UNVERIFIED for an enabled 0: the notes say it of disabled PASIDs only.)

The reference is held until the queue is disabled, by whatever way (command, reset, FREE, close), as the documents
intend; the code dropped it in one of these ways only. A shared queue holds none: there a drain keeps descriptors of the
dead from running under a number that meanwhile belongs to somebody else. A handler is atomic and cannot wait for
hardware, so UNBIND and FREE only queue the drain. It runs before the number can be reused: after UNBIND because who
unbinds waits for the queue, after FREE because the IOMMU's clean-up, which holds the last reference, was queued behind.
This rests on the order of the handlers: CPU, device, IOMMU, over both chains.

From the public driver and not in the fact sheet: a command for a queue answers DEV_NOT_EN while the queue is disabled;
REQUEST_INT_HANDLE answers with the number of the entry in the result. UNVERIFIED: DRAIN_PASID and ABORT_PASID, which
the driver did not have (taken: as on silicon, with the guest's number, PASID_INVAL for one that is not the VM's); that
a handle which is not the interface's is INVAL_INT_IDX in RELEASE_INT_HANDLE, and an unwired vector NO_HANDLE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.command_unit import carry_out
from pasidlab.hardware.accelerator.commands import INTERRUPT_HANDLES, Command, CommandError, queues_of
from pasidlab.hardware.accelerator.registers import QueueSetup
from pasidlab.hardware.layouts.dsa import CMDSTS, MSIX_ENTRY
from pasidlab.kernel.ioasid.notifier import IoasidEvent, Payload, Priority
from pasidlab.timeline import Verb
from pasidlab.virt.composition import VIRTUAL_MSIX_TABLE, ComposedRegisters
from pasidlab.virt.ims import InterfaceInterrupts, Message
from pasidlab.virt.portal import EmulatedPortal
from pasidlab.virt.traps import SERVED

if TYPE_CHECKING:
    from pasidlab.kernel.idxd import Idxd, WorkQueue
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.kernel.platform import Platform
    from pasidlab.virt.traps import TrapDesk
    from pasidlab.virt.vfio import VfioContainer

__all__ = ["MediatedDevice"]

_WQ_SIZE: Final = 16
_QUEUE_COMMANDS: Final = (Command.DISABLE_WQ, Command.DRAIN_WQ, Command.ABORT_WQ, Command.RESET_WQ)
_HANDLE_OF_IMS: Final = 1 << 16
"""In the operand of a handle command: the guest asks for an entry of message storage of its own. It has none."""


class MediatedDevice(ComposedRegisters, state=("programmed",)):
    """One ADI. ``programmed`` is the host PASID in its hardware queue for which a reference is held."""

    actor = "vdcm"
    guest: Platform
    """The machine that the guest sees, and where in it the interface's portal lies: known once it is plugged in."""
    portal: int

    def __init__(
        self,
        kernel: Kernel,
        parent: Idxd,
        queue: WorkQueue,
        container: VfioContainer,
        name: str,
        desk: TrapDesk = SERVED,
    ) -> None:
        setup = QueueSetup(queue.dedicated, _WQ_SIZE)
        ats = kernel.iommu.devices[parent.rid].ats
        super().__init__(kernel.timeline, name, container.set.name, setup, desk, ats=ats)
        self.parent = parent
        self.queue = queue
        self._kernel = kernel
        self._container = container
        self.token = container.owner_mm
        self.programmed: int | None = None
        self.vectors = InterfaceInterrupts(self, kernel)
        self._emulation = EmulatedPortal(self, kernel, desk)
        try:
            kernel.ioasid.notifiers.register_mm(self.token, self)
        except KernelError:
            self.timeline.journal.bury(self.path)
            raise

    @property
    def holder(self) -> str:
        """The name under which a programmed PASID is held."""
        return f"vdcm:{self.name}"

    @property
    def default_pasid(self) -> int:
        """The PASID of the VM's guest-physical memory."""
        pasid = self._container.domain.default_pasid
        if pasid is None:
            raise KernelError("ENODEV", f"{self.name} must be attached to a domain before it is used")
        return pasid

    def plugged(self, guest: Platform, portal: int) -> None:
        """The hypervisor has put the interface into its guest's machine, with the window onto its portal there."""
        self.guest = guest
        self.portal = portal

    # --- interrupts ---------------------------------------------------------------------------------------------------

    def _vector_masked(self, vector: int, masked: bool) -> None:
        """The guest masks or unmasks a vector: the hypervisor has it wired, or no longer. A refusal it only logs."""
        if masked:
            self.vectors.unwire(vector)
        elif vector:
            entry = MSIX_ENTRY.decode(self.get_words(VIRTUAL_MSIX_TABLE + at.INTERRUPT_STRIDE * vector, MSIX_ENTRY))
            try:
                self.wire(vector, Message(entry["address"], entry["data"]))
            except KernelError as error:
                self.emit(Verb.REFUSE, error.reason, after=f"-{error.name}", vector=vector)

    def wire(self, vector: int, message: Message) -> None:
        """VFIO_DEVICE_SET_IRQS: let a vector interrupt the guest. Errors: see :meth:`.InterfaceInterrupts.wire`."""
        event = self.emit(Verb.IOCTL, f"SET_IRQS vector {vector}", vector=vector)
        with self.timeline.because(event):
            self.vectors.wire(vector, message, self.guest.apic)

    # --- the emulated portal ------------------------------------------------------------------------------------------

    def emulate_portal(self, on: bool) -> None:
        """The hypervisor takes the guest's window onto the portal away and emulates it, or gives it back."""
        if on == self.portal_emulated:
            return
        regions = self.guest.mmio.regions
        target = self._emulation if on else self._kernel.platform.mmio.find(self.parent.bar2)[0]
        regions[self.portal] = regions[self.portal]._replace(target=target, intercepted=on)
        self.emit(Verb.UNMAP if on else Verb.MAP, f"portal of {self.name}", after="emulated" if on else "the parent's")

    @property
    def portal_emulated(self) -> bool:
        """Whether the guest's submissions exit."""
        return self.guest.mmio.regions[self.portal].intercepted

    def submitted(self, host_pasid: int) -> None:
        """A descriptor of the emulated portal is in the parent's queue, or was not taken: its look-up is over."""
        self._kernel.ioasid.put(host_pasid, self.holder)

    # --- intercepted commands -----------------------------------------------------------------------------------------

    def _command(self, command: int, operand: int) -> int:
        """What the guest's driver asks of its device: the silicon's rules, on this VM's share of the hardware."""
        if command in INTERRUPT_HANDLES:
            return self._handle_command(command, operand)
        if command in (Command.DRAIN_PASID, Command.ABORT_PASID) and self._host_pasid(operand) is None:
            return CommandError.PASID_INVAL
        if command in _QUEUE_COMMANDS and queues_of(operand) == [0] and not self.wq_enabled(0):
            return CommandError.DEV_NOT_EN
        error = carry_out(self, command, operand)
        if command == Command.RESET_DEVICE:
            self.vectors.unwire_all()
        return error

    def _handle_command(self, command: int, operand: int) -> int:
        """Which handle a vector has; giving one back changes nothing, as it is the vector's for good."""
        number = operand % _HANDLE_OF_IMS
        if command == Command.RELEASE_INT_HANDLE:
            ours = number in [wired.entry for wired in self.vectors.wired.values()]
            return CommandError.SUCCESS if ours and operand == number else CommandError.INVAL_INT_IDX
        if not 1 <= number <= self.num_wqs:
            return CommandError.INVAL_INT_IDX
        handle = self.vectors.handle(number) if operand == number else None
        return CommandError.NO_HANDLE if handle is None else CMDSTS.encode(result=handle)[0]

    def enable_wq(self, wq: int) -> CommandError:
        """The one place where a guest's PASID is converted: programming, not use."""
        error = self._enable_dedicated() if self.queue.dedicated else CommandError.SUCCESS
        if error is CommandError.SUCCESS:
            self.set_wq_enabled(wq, True)
        return error

    def _enable_dedicated(self) -> CommandError:
        guest_pasid, privileged = self.wq_pasid(0), bool(self.wq_field(0, "priv"))
        if guest_pasid:
            host_pasid = self.convert(guest_pasid, self.holder)
            if host_pasid is None:
                return CommandError.PASID_EN
            self.programmed = host_pasid
        else:
            host_pasid, privileged = self.default_pasid, True
        error = self.parent.enable_for(self.queue.index, host_pasid, privileged=privileged)
        if error is not CommandError.SUCCESS:
            self._drop()
        return error

    def convert(self, guest_pasid: int, holder: str) -> int | None:
        """The host PASID behind a guest's, with a reference for ``holder``; ``None`` when the VM has no such PASID."""
        host_pasid = self._kernel.ioasid.find_by_spid(self._container.set, guest_pasid, holder=holder)
        after = host_pasid if host_pasid is not None else "unknown"
        facts = {"guest_pasid": guest_pasid, "host_pasid": host_pasid}
        self.emit(Verb.TRANSLATE, f"guest PASID {guest_pasid}", guest_pasid, after, **facts)
        return host_pasid

    def _host_pasid(self, guest_pasid: int) -> int | None:
        """The host PASID behind a guest's, for a command that is over when it returns."""
        return self._kernel.ioasid.find_by_spid(self._container.set, guest_pasid)

    def disable_wq(self, wq: int) -> None:
        """Stop the hardware queue and let go of its PASID; a shared queue runs on for the other VMs."""
        if self.wq_enabled(wq):
            if self.queue.dedicated:
                self.parent.disable(self.queue.index)
                self._drop()
            self.set_wq_enabled(wq, False)

    def drain(self, wq: int | None = None, pasid: int | None = None) -> int:
        """Wait for this VM's descriptors (of one guest PASID)."""
        return self._quiet(self.parent.drain, pasid)

    def abort(self, wq: int | None = None, pasid: int | None = None) -> int:
        """Drop this VM's descriptors; on a shared queue they are waited for instead, as the queue runs on."""
        return self._quiet(self.parent.abort, pasid)

    def _quiet(self, whole: Callable[[int], None], guest_pasid: int | None) -> int:
        if self.queue.dedicated:
            if self.wq_enabled(0) and guest_pasid in (None, self.wq_pasid(0)):
                whole(self.queue.index)
        else:
            one = self._host_pasid(guest_pasid) if guest_pasid is not None else None
            for host_pasid in self._container.set.ids.keys() if one is None else [one]:
                self.parent.drain_pasid(host_pasid)
        return 0

    def _drop(self) -> None:
        """Let go of the programmed PASID, after hardware has. Work that was queued to do this is no longer needed."""
        self._kernel.ioasid.work.cancel(self)
        if self.programmed is not None:
            host_pasid, self.programmed = self.programmed, None
            if self._kernel.ioasid.ids[host_pasid].free_pending:
                self.vectors.unwire_pasid(host_pasid)
            self._kernel.ioasid.put(host_pasid, self.holder)

    # --- notifications ------------------------------------------------------------------------------------------------

    @property
    def notifier_name(self) -> str:
        """Shown in the chain."""
        return f"VDCM {self.name}"

    @property
    def notifier_priority(self) -> Priority:
        """Behind the CPU, before the IOMMU."""
        return Priority.DEVICE

    def ioasid_notified(self, event: IoasidEvent, payload: Payload) -> bool:
        """UNBIND or FREE: no descriptor may wait for a PASID that can be handed to somebody else.

        On a shared queue KVM, which was told before, lets no new work in, and what waits is to be drained. On a
        dedicated queue the PASID is held as long as it is programmed; FREE has the queue stopped.
        """
        refs = self._kernel.ioasid.refs(payload.ioasid)
        facts = {"event": event.value, "ioasid": payload.ioasid, "refs": refs, "handler": self.notifier_name}
        told = self.emit(Verb.HANDLE, f"{event} of IOASID {payload.ioasid}", **facts)
        concerned = self._concerned(event, payload)
        if concerned:
            words = self._work_words(payload.ioasid)
            with self.timeline.because(told):
                self.emit(Verb.QUEUE_WORK, words, ioasid=payload.ioasid, refs=refs)
                self._kernel.ioasid.work.queue(self, str(payload.ioasid), f"VDCM: {words}")
        elif event in (IoasidEvent.UNBIND, IoasidEvent.FREE):
            with self.timeline.because(told):
                return self.vectors.unwire_pasid(payload.ioasid, locked=True)
        return concerned

    def _concerned(self, event: IoasidEvent, payload: Payload) -> bool:
        if self.queue.dedicated:
            return event is IoasidEvent.FREE and self.programmed == payload.ioasid
        return event in (IoasidEvent.UNBIND, IoasidEvent.FREE)

    def _work_words(self, host_pasid: int) -> str:
        if self.queue.dedicated:
            return f"stop the queue of {self.name}"
        return f"drain PASID {host_pasid} from the queue of {self.name}"

    def run_work(self, what: str) -> None:
        """What a handler queued: drain a shared queue, or take the dying PASID out of a dedicated one and let go."""
        host_pasid = int(what)
        refs = self._kernel.ioasid.refs(host_pasid)
        event = self.emit(Verb.RUN_WORK, self._work_words(host_pasid), ioasid=host_pasid, refs=refs)
        with self.timeline.because(event):
            if not self.queue.dedicated:
                self._drain_shared(host_pasid)
            elif self.programmed == host_pasid:
                self.drain()
                self.disable_wq(0)
            self.vectors.unwire_pasid(host_pasid)

    def _drain_shared(self, host_pasid: int) -> None:
        self.parent.drain_pasid(host_pasid)

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The device's file descriptor is closed: reset it, leave the chain, give the hardware queue back."""
        event = self.emit(Verb.CLOSE, f"ADI {self.name}")
        with self.timeline.because(event):
            self.vectors.unwire_all()
            carry_out(self, Command.RESET_DEVICE, 0)
            self._kernel.ioasid.notifiers.unregister_mm(self.token, self)
            self._kernel.ioasid.work.cancel(self)
            self.parent.release(self.queue, self.name)
            self.timeline.journal.bury(self.path)
