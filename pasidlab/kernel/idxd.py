"""The accelerator's driver: work queues, their kinds, and the processes that open them.

Models ``drivers/dma/idxd`` (device.c, cdev.c) as far as PASIDs go. It runs on a physical function, and unchanged in a
guest on a physical function or on a mediated device: registers are all it knows.

Queues are of type *user* (processes open them) or *mdev* (a hypervisor cuts assignable interfaces from them); the
driver is told at start which shared queues serve mediated devices. A *shared* queue is opened by any number of
processes: the PASID comes with each ENQCMD. A *dedicated* queue belongs to one process: its PASID is programmed into
WQCFG and the queue enabled for it. On a processor without ENQCMD shared queues stay disabled (as Linux does without
the CPU's feature bit), and processes get dedicated ones.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.commands import Command, CommandError, command_word, queue_bitmap
from pasidlab.hardware.accelerator.registers import DSA
from pasidlab.hardware.layouts.dsa import CMDSTS, WQCAP, WQCFG
from pasidlab.kernel.driver import Driver
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.kernel.driver import PciDevice
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


class Idxd(Driver):
    """The driver of one device; a channel is a work queue. BAR0 has the registers, BAR2 the portals."""

    identity = DSA
    unit = "wq"

    def __init__(self, platform: Platform, sva: Sva, device: PciDevice) -> None:
        super().__init__(platform, sva, device)
        self.queues = Table[int, WorkQueue](self.timeline, f"{self.path}.queues")
        self._kinds = Table[int, QueueType](self.timeline, f"{self.path}.kinds")
        self.queue_count = WQCAP["num_wqs"].get((self.read(at.WQCAP),))
        self._architecture = platform.cpu.architecture

    @property
    def parts(self) -> str:
        """Its queues, in words."""
        return f"{self.queue_count} work queue{'s' if self.queue_count != 1 else ''}"

    # --- registers ----------------------------------------------------------------------------------------------------

    def _command(self, command: Command, operand: int = 0) -> CommandError:
        self.write(at.CMD, command_word(command, operand), 4)
        status = self.read(at.CMDSTS, 4)
        return CommandError(CMDSTS["err"].get((status,)))

    def _must(self, command: Command, operand: int = 0) -> None:
        error = self._command(command, operand)
        if error is not CommandError.SUCCESS:
            raise KernelError("ENXIO", f"{self.name} answered {command.name} with {error.name}")

    def _write_pasid(self, wq: int, pasid: int | None, *, privileged: bool = False) -> None:
        """Program the PASID part of WQCFG; ``None`` switches PASIDs off for the queue."""
        words = WQCFG.encode(pasid=pasid or 0, pasid_en=int(pasid is not None), priv=int(privileged))
        offset = at.wqcfg_offset(wq, _PASID_DWORD)
        keep = self.read(offset, 4) & ~_pasid_mask()
        self.write(offset, keep | words[1] & 0xFFFF_FFFF, 4)

    # --- the device's life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Find the queues, enable the device and its shared queues. All queues serve processes at first."""
        super().start()
        self._must(Command.ENABLE_DEVICE)
        for index in range(self.queue_count):
            offset = at.wqcfg_offset(index)
            words = tuple(self.read(offset + 8 * at_word) for at_word in range(WQCFG.word_count))
            dedicated = bool(WQCFG["mode"].get(words))
            kind = self._kinds.pop(index) if index in self._kinds else QueueType.USER
            queue = WorkQueue(self.timeline, f"{self.path}.wq{index}", index, dedicated=dedicated, kind=kind)
            self.queues[index] = queue
            if not dedicated and self._architecture.enqueues:
                self._write_pasid(index, 0)
                self._must(Command.ENABLE_WQ, index)

    def stop(self) -> None:
        """Disable everything. The queues keep their types for the next start."""
        super().stop()
        self._command(Command.DISABLE_DEVICE)
        for index in self.queues.keys():
            queue = self.queues.pop(index)
            if queue.kind is not QueueType.USER:
                self._kinds[index] = queue.kind
            queue.retire()

    def reset(self) -> None:
        """Put the device back to its power-on state, whatever it is doing; what waits in it is dropped."""
        self._command(Command.RESET_DEVICE)

    def check_idle(self) -> None:
        """``-EBUSY`` while anybody has a queue: a process, or a mediated device."""
        busy = [client for queue in self.queues.values() for client in queue.clients]
        if busy:
            raise KernelError(
                "EBUSY", f"{self.name} must not be in use to be assigned as a whole; {len(busy)} clients hold queues"
            )

    def check_removable(self) -> None:
        """``-EBUSY`` while mediated devices are cut from it."""
        cut = [client for queue in self.queues.values() if queue.kind is QueueType.MDEV for client in queue.clients]
        if cut:
            raise KernelError("EBUSY", f"{self.name} must not go while {', '.join(map(str, cut))} are cut from it")

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

    def enable_for(self, index: int, pasid: int | None, *, privileged: bool = False) -> CommandError:
        """Program a PASID (``None``: none) into a disabled dedicated queue and enable it; taken out again if the device
        refuses.
        """
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

    def choose(self, process: Process, mode: str | None) -> int:
        """The queue for a process: ``shared`` or ``dedicated`` by ``mode``, where the device has both; by default
        shared if there is one. ``-EBUSY`` the dedicated queue is taken, ``-ENODEV`` no such queue, ``-EOPNOTSUPP`` a
        shared one on a processor without ENQCMD.
        """
        return self._pick(mode).index

    def choose_dedicated(self) -> int:
        """A free dedicated queue. Errors as for :meth:`choose`."""
        return self._pick("dedicated").index

    def program(self, channel: int, pasid: int) -> None:
        """On a dedicated queue: put the PASID into WQCFG and enable it. ``-ENXIO`` the device refuses."""
        if self.queues[channel].dedicated:
            error = self.enable_for(channel, pasid)
            if error is not CommandError.SUCCESS:
                raise KernelError("ENXIO", f"{self.name} answered ENABLE_WQ with {error.name}")

    def quiesce(self, channel: int, pasid: int) -> None:
        """Stop a dedicated queue; a shared one runs on, and only the work of this PASID is waited for."""
        if self.queues[channel].dedicated:
            self.disable(channel)
        else:
            self.drain_pasid(pasid)

    def channel_of(self, process: Process) -> int | None:
        """The number of the queue that a process has open."""
        queue = self.queue_of(process)
        return queue.index if queue is not None else None

    def enter(self, process: Process, channel: int) -> None:
        """A process is a client of its queue, as a mediated device is."""
        self.queues[channel].clients[process.path] = process.pid

    def leave(self, process: Process) -> None:
        """Undo :meth:`enter`."""
        queue = self.queue_of(process)
        if queue is not None:
            del queue.clients[process.path]

    def _pick(self, mode: str | None) -> WorkQueue:
        if mode not in (None, "shared", "dedicated"):
            raise KernelError("EINVAL", f"the queue must be 'shared' or 'dedicated', not {mode!r}")
        if mode == "shared" and not self._architecture.enqueues:
            raise KernelError("EOPNOTSUPP", self._architecture.why_no_enqueue)
        own = [queue for queue in self.queues.values() if queue.kind is QueueType.USER and self._usable(queue)]
        fitting = [queue for queue in own if mode in (None, queue.mode)]
        free = [queue for queue in fitting if not (queue.dedicated and len(queue.clients))]
        if not fitting:
            raise KernelError(
                "ENODEV", f"{self.name} has no {mode or ''} queue that a process can open".replace("  ", " ")
            )
        if not free:
            raise KernelError("EBUSY", f"each dedicated queue of {self.name} already has its process")
        return min(free, key=lambda queue: (queue.dedicated, queue.index))

    def first_queue(self) -> WorkQueue:
        """The queue that a program would try if it had opened none: a shared one if there is one for processes."""
        own = [queue for queue in self.queues.values() if queue.kind is QueueType.USER] or self.queues.values()
        return min(own, key=lambda queue: (not self._usable(queue), queue.dedicated, queue.index))

    def _usable(self, queue: WorkQueue) -> bool:
        """Whether programs of this machine have an instruction to submit to it."""
        return queue.dedicated or self._architecture.enqueues

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
