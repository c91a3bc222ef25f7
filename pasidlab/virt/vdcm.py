"""A mediated device: one Assignable Device Interface (ADI) as its virtual device composition module presents it.

Models ``drivers/vfio/mdev/idxd`` (never merged). The guest sees a device with one work queue. Its BAR0 is this
emulation: each register that carries a PASID is intercepted, and the guest's PASID becomes a host PASID before hardware
sees it. Its portal is a page of the real device: submissions do not trap.

=========  ==========================  ==============================================================
queue      the guest programs          hardware gets
=========  ==========================  ==============================================================
dedicated  PASID disabled, or 0        the VM's default PASID (its guest-physical memory)
dedicated  its own PASID               the host PASID with that SPID, and a reference is held
shared     PASID enabled, no number    nothing: the PASID comes with each ENQCMD, translated by the CPU
=========  ==========================  ==============================================================

The reference is held until the queue is disabled, by whatever way (command, reset, FREE, close), as the documents
intend; the code dropped it in one of these ways only. A shared queue holds none: there the drain at
UNBIND or FREE keeps descriptors of the dead from running under a number that meanwhile belongs to somebody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.commands import Command, CommandError, queues_of
from pasidlab.hardware.accelerator.registers import AcceleratorRegisters, QueueSetup
from pasidlab.kernel.ioasid.notifier import IoasidEvent, Payload, Priority
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.kernel.idxd import Idxd, WorkQueue
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.virt.vfio import VfioContainer

__all__ = ["MediatedDevice"]

_WQ_SIZE = 16
_ABORTING = (Command.RESET_WQ, Command.ABORT_WQ, Command.RESET_DEVICE, Command.ABORT_ALL)


class MediatedDevice(AcceleratorRegisters, state=("programmed",)):
    """One ADI. ``programmed`` is the host PASID in its hardware queue for which a reference is held."""

    actor = "vdcm"

    def __init__(self, kernel: Kernel, parent: Idxd, queue: WorkQueue, container: VfioContainer, name: str) -> None:
        setup = QueueSetup(queue.dedicated, _WQ_SIZE)
        super().__init__(
            kernel.timeline, f"{kernel.altitude}.mdev[{name}]", [setup], kernel.altitude, configurable=False
        )
        self.name = name
        self.parent = parent
        self.queue = queue
        self._kernel = kernel
        self._container = container
        self.token = container.owner_mm
        self.programmed: int | None = None
        try:
            kernel.ioasid.register_notifier_mm(self.token, self)
        except KernelError:
            self.timeline.journal.bury(self.path)
            raise

    @property
    def holder(self) -> str:
        """The name under which a programmed PASID is held."""
        return f"vdcm:{self.name}"

    # --- intercepted commands -----------------------------------------------------------------------------------------

    def _command(self, command: int, operand: int) -> int:
        """What the guest's driver asks of its device."""
        if command == Command.ENABLE_DEVICE:
            return self._enable_device()
        if command == Command.ENABLE_WQ:
            return self._enable_wq(operand)
        if command in (Command.DISABLE_WQ, Command.RESET_WQ, Command.ABORT_WQ, Command.DRAIN_WQ):
            return self._quiesce(command, operand)
        if command in (Command.DRAIN_PASID, Command.ABORT_PASID):
            return self._drain_pasid(operand)
        if command in (Command.DISABLE_DEVICE, Command.RESET_DEVICE, Command.DRAIN_ALL, Command.ABORT_ALL):
            self._stop_queue(command, disable=command in (Command.DISABLE_DEVICE, Command.RESET_DEVICE))
            self.set_enabled(self.enabled and command not in (Command.DISABLE_DEVICE, Command.RESET_DEVICE))
            return CommandError.SUCCESS
        return CommandError.INVAL_CMD

    def _enable_device(self) -> CommandError:
        error = self.check_enable_device()
        if error is CommandError.SUCCESS:
            self.set_enabled(True)
        return error

    def _enable_wq(self, wq: int) -> CommandError:
        """The one place where a guest's PASID is converted: programming, not use."""
        error = self.check_enable_wq(wq)
        if error is not CommandError.SUCCESS:
            return error
        if self.queue.dedicated:
            error = self._enable_dedicated()
        if error is CommandError.SUCCESS:
            self.set_wq_enabled(wq, True)
        return error

    def _enable_dedicated(self) -> CommandError:
        guest_pasid = self.wq_pasid(0)
        if guest_pasid:
            host_pasid = self._convert(guest_pasid)
            if host_pasid is None:
                return CommandError.PASID_EN
            self.programmed = host_pasid
        else:
            host_pasid = self._container.domain.default_pasid
            assert host_pasid is not None
        error = self.parent.enable_for(self.queue.index, host_pasid)
        if error is not CommandError.SUCCESS:
            self._drop()
        return error

    def _convert(self, guest_pasid: int) -> int | None:
        """The host PASID behind a guest's, with a reference taken; ``None`` when the VM has no such PASID."""
        host_pasid = self._kernel.ioasid.find_by_spid(self._container.set, guest_pasid, holder=self.holder)
        after = host_pasid if host_pasid is not None else "unknown"
        self.emit(
            Verb.TRANSLATE,
            f"guest PASID {guest_pasid}",
            guest_pasid,
            after,
            guest_pasid=guest_pasid,
            host_pasid=host_pasid,
        )
        return host_pasid

    def _quiesce(self, command: int, operand: int) -> CommandError:
        if 0 not in queues_of(operand):
            return CommandError.INVAL_WQIDX
        if not self.wq_enabled(0):
            return CommandError.DEV_NOT_EN
        self._stop_queue(command, disable=command in (Command.DISABLE_WQ, Command.RESET_WQ))
        return CommandError.SUCCESS

    def _drain_pasid(self, guest_pasid: int) -> CommandError:
        """Drain on the real device: with the host PASID, and only for PASIDs of this VM."""
        host_pasid = self._kernel.ioasid.find_by_spid(self._container.set, guest_pasid)
        if host_pasid is None:
            return CommandError.PASID_INVAL
        self.parent.drain_pasid(host_pasid)
        return CommandError.SUCCESS

    def _stop_queue(self, command: int, *, disable: bool) -> None:
        """Quiet the hardware queue; a shared one runs on for the other VMs and is only drained of this VM's work."""
        if not self.queue.dedicated:
            for pasid in self._container.set.ids.keys():
                self.parent.drain_pasid(pasid)
        elif self.wq_enabled(0):
            if command in _ABORTING:
                self.parent.abort(self.queue.index)
            if disable:
                self.parent.disable(self.queue.index)
                self._drop()
            elif command not in _ABORTING:
                self.parent.drain(self.queue.index)
        if disable and self.wq_enabled(0):
            self.set_wq_enabled(0, False)

    def _drop(self) -> None:
        """Let go of the programmed PASID, after hardware has."""
        if self.programmed is not None:
            host_pasid, self.programmed = self.programmed, None
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

        On a shared queue KVM, which was told before, lets no new work in, and what waits is drained (a command takes no
        time here; a real handler is atomic and could not wait). On a dedicated queue the PASID is held as long as it is
        programmed; FREE has the queue stopped later, from the workqueue.
        """
        told = self.emit(Verb.HANDLE, f"{event} of IOASID {payload.ioasid}", event=event.value, pasid=payload.ioasid)
        with self.timeline.because(told):
            if not self.queue.dedicated and event in (IoasidEvent.UNBIND, IoasidEvent.FREE):
                self.parent.drain_pasid(payload.ioasid)
                return True
            if event is not IoasidEvent.FREE or self.programmed != payload.ioasid:
                return False
            self.emit(Verb.QUEUE_WORK, f"stop the queue of {self.name}", ioasid=payload.ioasid)
            self._kernel.platform.agenda.enable(self, str(payload.ioasid), f"VDCM {self.name} stops its queue")
        return True

    def run_enabled(self, what: str) -> None:
        """The queued work: take the dying PASID out of the hardware queue, then let go of it."""
        event = self.emit(Verb.RUN_WORK, f"stop the queue of {self.name}", ioasid=int(what))
        with self.timeline.because(event):
            if self.programmed == int(what):
                self._stop_queue(Command.DISABLE_WQ, disable=True)

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The device's file descriptor is closed: reset it, leave the chain, give the hardware queue back."""
        event = self.emit(Verb.CLOSE, f"ADI {self.name}")
        with self.timeline.because(event):
            self._stop_queue(Command.RESET_DEVICE, disable=True)
            for action in self._kernel.platform.agenda.actions(self):
                self._kernel.platform.agenda.disable(action.number)
            self._kernel.ioasid.unregister_notifier_mm(self.token, self)
            self.parent.release(self.queue, self.name)
            self.timeline.journal.bury(self.path)
