"""A device driver: what each one does that lets processes use a device by their PASIDs.

Models the common part of Linux drivers for SVA (``drivers/dma/idxd``, ``drivers/misc/uacce``): a process opens the
device, is bound (:mod:`pasidlab.kernel.sva`), and its PASID is programmed into the part of the device that it got, here
called a *channel*. Closing goes the other way round: the channel's work is stopped first, then the process is unbound,
so that no request is under way with a PASID that somebody else may get next.

A driver for a new kind of device derives from :class:`Driver`, says which function it is for (``identity``, as in a
``pci_device_id`` table) and how many ``channels`` that has, and writes :meth:`~Driver.program` and
:meth:`~Driver.quiesce`; :meth:`~Driver.ioctl` is what programs ask of it beyond that. It runs on the host and,
unchanged, in a guest that has the function as a whole: registers are all it knows. ``docs/devices.md`` shows one.

Order of an exit: Linux tears the PASID entries down when the mm goes (DMA is blocked in silence), and closes the files
afterwards. So :meth:`~Driver.quiesce` may run for a PASID whose entry is gone already.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from inspect import isabstract
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.kernel.pci import PciFunction
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.hardware.config_space import PciIdentity
    from pasidlab.kernel.platform import Platform
    from pasidlab.kernel.process import Process
    from pasidlab.kernel.sva import Sva
    from pasidlab.timeline import Event, Timeline

__all__ = ["Driver", "Drivers", "PciDevice"]


class PciDevice(NamedTuple):
    """A function as its kernel found it: its requester ID, and where its BARs are in this kernel's address map.

    ``bar2`` is 0 where it has only BAR0.
    """

    name: str
    rid: int
    bar0: int
    bar2: int = 0


class Driver(Actor, ABC, state=("started",)):
    """The driver of one function. ``clients`` are the processes that have it open (their paths), with their channels.

    ``unit`` is what a channel is called in events.
    """

    actor = "driver"
    identity: ClassVar[PciIdentity]
    channels: ClassVar[int] = 1
    unit: ClassVar[str] = "channel"

    def __init__(self, platform: Platform, sva: Sva, device: PciDevice) -> None:
        kind = type(self).__name__.lower()
        super().__init__(platform.timeline, f"{platform.altitude}.{kind}[{device.name}]", platform.altitude)
        self.name = device.name
        self.rid = device.rid
        self.bar0 = device.bar0
        self.bar2 = device.bar2
        self.pci = PciFunction(platform.mmio, device.rid)
        self._mmio = platform.mmio
        self._sva = sva
        self.clients = Table[str, int](self.timeline, f"{self.path}.clients")
        self.started = False

    # --- registers ----------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int = 8) -> int:
        """Load ``size`` (4 or 8) bytes of BAR0."""
        return self._mmio.read(self.bar0 + offset, size)

    def write(self, offset: int, value: int, size: int = 8) -> None:
        """Store ``size`` (4 or 8) bytes of BAR0."""
        self._mmio.write(self.bar0 + offset, value, size)

    @property
    def parts(self) -> str:
        """What the device has, in words."""
        return f"{self.channels} {self.unit}{'s' if self.channels != 1 else ''}"

    # --- what a driver of a new kind says -----------------------------------------------------------------------------

    @abstractmethod
    def program(self, channel: int, pasid: int) -> None:
        """Let a channel use a PASID from now on. A ``KernelError`` refuses the open; then all of it is undone."""

    @abstractmethod
    def quiesce(self, channel: int, pasid: int) -> None:
        """Stop a channel's work for a PASID, and take that out; afterwards the device sends no such request any more.

        Must not fail, and must bear a channel that was programmed in part only.
        """

    def ioctl(self, process: Process, request: str, *numbers: int) -> int:
        """What a program asks of the device beyond open and close. ``-ENOTTY``: there is no such request."""
        raise KernelError("ENOTTY", f"{self.name} has no ioctl {request!r}")

    def choose(self, process: Process, mode: str | None) -> int:
        """The channel that a process gets: the lowest that is free. ``-EINVAL`` a mode, ``-EBUSY`` all are taken."""
        if mode is not None:
            raise KernelError("EINVAL", f"{self.name} has no {mode} queues: it is opened without naming any")
        taken = self.clients.values()
        free = [channel for channel in range(self.channels) if channel not in taken]
        if not free:
            raise KernelError("EBUSY", f"all {self.channels} {self.unit}s of {self.name} are taken")
        return free[0]

    # --- the device's life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The function is this driver's from now on."""
        self.started = True

    def stop(self) -> None:
        """The function goes, or is given away as a whole. No process has it open."""
        self.started = False

    def check_idle(self) -> None:
        """``-EBUSY`` while anybody uses the device, so that it cannot be given away."""
        if len(self.clients):
            raise KernelError(
                "EBUSY", f"{self.name} must not be in use to be given away; {len(self.clients)} processes have it open"
            )

    def check_removable(self) -> None:
        """``-EBUSY`` while somebody uses the device who cannot be made to lose it."""

    # --- processes ----------------------------------------------------------------------------------------------------

    def open(self, process: Process, mode: str | None = None) -> int:
        """Open the device for a process: bind it for SVA, program its PASID. Returns the PASID.

        Errors: ``-EBUSY`` it has the device open already; those of :meth:`choose`, of the SVA bind, of :meth:`program`.
        """
        if self.channel_of(process) is not None:
            raise KernelError("EBUSY", f"{process.name} is already bound to {self.name}")
        channel = self.choose(process, mode)
        with self.timeline.because(self._tell(Verb.OPEN, process, channel)):
            pasid = self._sva.bind(process, self.rid)
            try:
                self.program(channel, pasid)
            except KernelError:
                self.quiesce(channel, pasid)
                self._sva.unbind(process, self.rid)
                raise
            self.enter(process, channel)
        return pasid

    def close(self, process: Process) -> None:
        """Undo :meth:`open`: stop the work, then unbind. ``-EINVAL`` if the process does not have the device open."""
        channel = self.channel_of(process)
        if channel is None:
            raise KernelError("EINVAL", f"{process.name} is not bound to {self.name}")
        with self.timeline.because(self._tell(Verb.CLOSE, process, channel)):
            self.process_exit(process)
            self._sva.unbind(process, self.rid)

    def process_exit(self, process: Process) -> None:
        """A process dies: its files are closed. Its memory is unbound already; only its channel is left to stop."""
        channel = self.channel_of(process)
        if channel is not None:
            if process.mm.pasid is not None:
                self.quiesce(channel, process.mm.pasid)
            self.leave(process)

    def channel_of(self, process: Process) -> int | None:
        """The channel that a process has open."""
        return self.clients.get(process.path)

    def opened(self, process: Process) -> int:
        """The channel that a process has open; ``-EBADF`` if it has none."""
        channel = self.channel_of(process)
        if channel is None:
            raise KernelError("EBADF", f"{process.name} must have {self.name} open")
        return channel

    def enter(self, process: Process, channel: int) -> None:
        """Note that a process has a channel."""
        self.clients[process.path] = channel

    def leave(self, process: Process) -> None:
        """Undo :meth:`enter`."""
        del self.clients[process.path]

    def _tell(self, verb: Verb, process: Process, channel: int) -> Event:
        facts = {"pid": process.pid, self.unit: channel}
        return self.emit(verb, f"{self.name} {self.unit}{channel} for {process.name}", None, None, **facts)


class Module(Part):
    """A driver that kernels of this machine have loaded."""

    def __init__(self, timeline: Timeline, path: str, driver: type[Driver]) -> None:
        super().__init__(timeline, path)
        self.driver = driver


class Drivers(Part):
    """The device drivers that the kernels of a machine have, by the vendor and device ID of what they drive."""

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.modules = Table[tuple[int, int], Module](timeline, f"{path}.modules")

    def load(self, driver: type[Driver]) -> None:
        """Load a driver; once more is fine.

        Errors: ``-EINVAL`` it is not whole, or says of no function that it is for that; ``-EEXIST`` another driver is
        loaded for this function.
        """
        if isabstract(driver):
            missing = " and ".join(sorted(driver.__abstractmethods__))
            raise KernelError("EINVAL", f"{driver.__name__} must have the methods {missing}")
        identity = getattr(driver, "identity", None)
        if identity is None:
            raise KernelError("EINVAL", f"{driver.__name__} must have an identity: which function it drives")
        known = self.modules.get(identity[:2])
        if known is None:
            self.modules[identity[:2]] = Module(self.timeline, f"{self.path}[{driver.__name__}]", driver)
        elif known.driver is not driver:
            who = f"{known.driver.__name__} drives {identity.vendor:04x}:{identity.device:04x}"
            raise KernelError("EEXIST", f"{driver.__name__} must be for another function: {who} already")

    def find(self, identity: PciIdentity) -> type[Driver]:
        """The driver of a function; ``-ENODEV`` if there is none."""
        known = self.modules.get((identity.vendor, identity.device))
        if known is None:
            raise KernelError("ENODEV", f"no driver is loaded for {identity.vendor:04x}:{identity.device:04x}")
        return known.driver
