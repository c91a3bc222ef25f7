"""The accelerator's driver: work queues, their kinds, and the processes that open them.

Models ``drivers/dma/idxd`` (device.c, cdev.c) as far as PASIDs go. It runs on a physical function, and unchanged in a
guest on a physical function or on a mediated device: registers are all it knows.

Queues are of type *user* (processes open them) or *mdev* (a hypervisor cuts assignable interfaces from them); the
driver is told at start which shared queues serve mediated devices. A *shared* queue is opened by any number of
processes: the PASID comes with each ENQCMD. A *dedicated* queue belongs to one process: its PASID is programmed into
WQCFG and the queue enabled for it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.commands import Command, CommandError, command_word, queue_bitmap
from pasidlab.hardware.layouts.dsa import CMDSTS, WQCAP, WQCFG
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.platform import Platform
    from pasidlab.kernel.process import Process
    from pasidlab.kernel.sva import Sva
    from pasidlab.timeline import Timeline

__all__ = ["Idxd", "QueueType", "WorkQueue"]

_PASID_DWORD = 2


class QueueType(StrEnum):
    """What a work queue is for."""

    USER = "user"
    MDEV = "mdev"


class WorkQueue(Part, state=("kind",)):
    """One work queue as its driver sees it. ``clients`` are names: processes, or mediated devices."""

    def __init__(self, timeline: Timeline, path: str, index: int, *, dedicated: bool, kind: QueueType) -> None:
        super().__init__(timeline, path)
        self.index = index
        self.dedicated = dedicated
        self.kind = kind
        self.clients = Table[str, int](timeline, f"{path}.clients")

    @property
    def mode(self) -> str:
        """``dedicated`` or ``shared``."""
        return "dedicated" if self.dedicated else "shared"

    def __repr__(self) -> str:
        if self.retired:
            return f"<wq{self.index} {self.mode}, gone>"
        return f"<wq{self.index} {self.mode} {self.kind}, {len(self.clients)} clients>"


class Idxd(Actor):
    """The driver of one device. ``bar0`` and ``bar2`` are addresses in its kernel's address map."""

    actor = "driver"

    def __init__(self, platform: Platform, sva: Sva, name: str, rid: int, bar0: int, bar2: int) -> None:
        super().__init__(platform.timeline, f"{platform.altitude}.idxd[{name}]", platform.altitude)
        self.name = name
        self.rid = rid
        self.bar0 = bar0
        self.bar2 = bar2
        self._mmio = platform.mmio
        self._sva = sva
        self.queues = Table[int, WorkQueue](self.timeline, f"{self.path}.queues")
        self._kinds = Table[int, QueueType](self.timeline, f"{self.path}.kinds")
        self.queue_count = WQCAP["num_wqs"].get((self._read(at.WQCAP),))

    # --- registers ----------------------------------------------------------------------------------------------------

    def _read(self, offset: int) -> int:
        return self._mmio.read(self.bar0 + offset)

    def _command(self, command: Command, operand: int = 0) -> CommandError:
        self._mmio.write(self.bar0 + at.CMD, command_word(command, operand), 4)
        status = self._mmio.read(self.bar0 + at.CMDSTS, 4)
        return CommandError(CMDSTS["err"].get((status,)))

    def _must(self, command: Command, operand: int = 0) -> None:
        error = self._command(command, operand)
        if error is not CommandError.SUCCESS:
            raise KernelError("ENXIO", f"{self.name} answered {command.name} with {error.name}")

    def _write_pasid(self, wq: int, pasid: int | None, *, privileged: bool = False) -> None:
        """Program the PASID part of WQCFG; ``None`` switches PASIDs off for the queue."""
        words = WQCFG.encode(pasid=pasid or 0, pasid_en=int(pasid is not None), priv=int(privileged))
        offset = at.wqcfg_offset(wq, _PASID_DWORD)
        keep = self._mmio.read(self.bar0 + offset, 4) & ~_pasid_mask()
        self._mmio.write(self.bar0 + offset, keep | words[1] & 0xFFFF_FFFF, 4)

    # --- the device's life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Find the queues, enable the device and its shared queues. All queues serve processes at first."""
        self._must(Command.ENABLE_DEVICE)
        for index in range(self.queue_count):
            offset = at.wqcfg_offset(index)
            words = tuple(self._read(offset + 8 * at_word) for at_word in range(WQCFG.word_count))
            dedicated = bool(WQCFG["mode"].get(words))
            kind = self._kinds.pop(index) if index in self._kinds else QueueType.USER
            queue = WorkQueue(self.timeline, f"{self.path}.wq{index}", index, dedicated=dedicated, kind=kind)
            self.queues[index] = queue
            if not dedicated:
                self._write_pasid(index, 0)
                self._must(Command.ENABLE_WQ, index)

    def stop(self) -> None:
        """Disable everything. The queues keep their types for the next start."""
        self._command(Command.DISABLE_DEVICE)
        for index in self.queues.keys():
            queue = self.queues.pop(index)
            if queue.kind is not QueueType.USER:
                self._kinds[index] = queue.kind
            queue.retire()

    def reset(self) -> None:
        """Put the device back to its power-on state, whatever it is doing; what waits in it is dropped."""
        self._command(Command.RESET_DEVICE)

    def give_to_mdev(self, index: int) -> None:
        """Turn a queue into one from which assignable interfaces are cut; ``-EBUSY`` while it has clients."""
        queue = self.queues[index]
        if len(queue.clients):
            raise KernelError("EBUSY", f"{self.name} wq{index} must have no clients to change its type")
        queue.kind = QueueType.MDEV

    def claim(self, mode: str, client: str) -> WorkQueue:
        """A queue for a mediated device: a free dedicated one, or the shared one with the fewest clients.

        Errors: ``-EINVAL`` unknown mode, ``-ENODEV`` no such queue, ``-EBUSY`` every dedicated queue is taken.
        """
        if mode not in ("shared", "dedicated"):
            raise KernelError("EINVAL", f"the queue must be 'shared' or 'dedicated', not {mode!r}")
        fitting = [queue for queue in self.queues.values() if queue.kind is QueueType.MDEV and queue.mode == mode]
        if not fitting:
            raise KernelError("ENODEV", f"{self.name} has no {mode} queue for assignable interfaces")
        best = min(fitting, key=lambda queue: (len(queue.clients), queue.index))
        if best.dedicated and len(best.clients):
            raise KernelError("EBUSY", f"all {len(fitting)} dedicated queues of {self.name} are taken")
        best.clients[client] = 0
        return best

    def release(self, queue: WorkQueue, client: str) -> None:
        """Undo :meth:`claim`."""
        del queue.clients[client]

    # --- the host's hand on a mediated device's queue -----------------------------------------------------------------

    def enable_for(self, index: int, pasid: int, *, privileged: bool = False) -> CommandError:
        """Program a PASID into a disabled dedicated queue and enable it; taken out again if the device refuses."""
        self._write_pasid(index, pasid, privileged=privileged)
        error = self._command(Command.ENABLE_WQ, index)
        if error is not CommandError.SUCCESS:
            self._write_pasid(index, None)
        return error

    def disable(self, index: int) -> None:
        """Disable a dedicated queue and take its PASID out."""
        self._command(Command.DISABLE_WQ, queue_bitmap(index))
        self._write_pasid(index, None)

    def drain(self, index: int) -> None:
        """Wait until no descriptor is left in a queue."""
        self._command(Command.DRAIN_WQ, queue_bitmap(index))

    def abort(self, index: int) -> None:
        """Drop the descriptors that wait in a queue."""
        self._command(Command.ABORT_WQ, queue_bitmap(index))

    def drain_pasid(self, pasid: int) -> None:
        """Wait until no descriptor of this PASID is left in the device."""
        self._command(Command.DRAIN_PASID, pasid)

    # --- processes ----------------------------------------------------------------------------------------------------

    def open(self, process: Process, mode: str | None = None) -> int:
        """Open a queue for a process: bind it for SVA and, on a dedicated queue, program its PASID. Returns the PASID.

        ``mode`` picks ``shared`` or ``dedicated`` where the device has both; by default shared if there is one.
        Errors: ``-EBUSY`` already open, or the dedicated queue is taken; ``-ENODEV`` no such queue; those of the SVA
        bind.
        """
        if self.queue_of(process) is not None:
            raise KernelError("EBUSY", f"{process.name} is already bound to {self.name}")
        queue = self._pick(mode)
        event = self.emit(Verb.OPEN, f"{self.name} wq{queue.index} for {process.name}", pid=process.pid, wq=queue.index)
        with self.timeline.because(event):
            pasid = self._sva.bind(process, self.rid)
            if queue.dedicated:
                error = self.enable_for(queue.index, pasid)
                if error is not CommandError.SUCCESS:
                    self._write_pasid(queue.index, None)
                    self._sva.unbind(process, self.rid)
                    raise KernelError("ENXIO", f"{self.name} answered ENABLE_WQ with {error.name}")
            queue.clients[process.path] = process.pid
        return pasid

    def _pick(self, mode: str | None) -> WorkQueue:
        if mode not in (None, "shared", "dedicated"):
            raise KernelError("EINVAL", f"the queue must be 'shared' or 'dedicated', not {mode!r}")
        own = [queue for queue in self.queues.values() if queue.kind is QueueType.USER]
        fitting = [queue for queue in own if mode in (None, queue.mode)]
        free = [queue for queue in fitting if not (queue.dedicated and len(queue.clients))]
        if not fitting:
            raise KernelError(
                "ENODEV", f"{self.name} has no {mode or ''} queue that a process can open".replace("  ", " ")
            )
        if not free:
            raise KernelError("EBUSY", f"each dedicated queue of {self.name} already has its process")
        return min(free, key=lambda queue: (queue.dedicated, queue.index))

    def close(self, process: Process) -> None:
        """Undo :meth:`open`: stop the queue (or drain the process's work), then unbind. ``-EINVAL`` if not open."""
        queue = self.queue_of(process)
        if queue is None:
            raise KernelError("EINVAL", f"{process.name} is not bound to {self.name}")
        event = self.emit(
            Verb.CLOSE, f"{self.name} wq{queue.index} for {process.name}", pid=process.pid, wq=queue.index
        )
        with self.timeline.because(event):
            self._stop_work(queue, process.mm.pasid)
            del queue.clients[process.path]
            self._sva.unbind(process, self.rid)

    def process_exit(self, process: Process) -> None:
        """A process dies: its files are closed. Its memory is unbound already; only the queue is left to stop."""
        queue = self.queue_of(process)
        if queue is not None:
            self._stop_work(queue, process.mm.pasid)
            del queue.clients[process.path]

    def _stop_work(self, queue: WorkQueue, pasid: int | None) -> None:
        if queue.dedicated:
            self.disable(queue.index)
        elif pasid is not None:
            self.drain_pasid(pasid)

    def first_queue(self) -> WorkQueue:
        """The queue that a program would try if it had opened none: a shared one if there is one for processes."""
        own = [queue for queue in self.queues.values() if queue.kind is QueueType.USER] or self.queues.values()
        return min(own, key=lambda queue: (queue.dedicated, queue.index))

    def queue_of(self, process: Process) -> WorkQueue | None:
        """The queue that a process has open."""
        return next((queue for queue in self.queues.values() if process.path in queue.clients), None)

    def portal(self, queue: WorkQueue) -> int:
        """Where descriptors for a queue are written: the limited portal for ENQCMD, the unlimited one for MOVDIR64B."""
        return self.bar2 + at.portal_offset(queue.index, limited=not queue.dedicated)


def _pasid_mask() -> int:
    """The bits of WQCFG dword 2 that carry the PASID."""
    fields = sum(WQCFG[name].mask for name in ("pasid", "pasid_en", "priv"))
    return fields >> 64 & 0xFFFF_FFFF
