"""A running process: its memory, the devices that it is bound to, the work that it submits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.handles.batch import BatchOutcome, BatchTicket, batch_list, checked_copies, checked_copy
from pasidlab.handles.handle import Handle, transaction, verb
from pasidlab.handles.quota import prlimit
from pasidlab.handles.work import Outcome, Ticket
from pasidlab.hardware.accelerator.descriptor import Descriptor, Flag, Opcode
from pasidlab.hardware.accelerator.page_waits import NOT_READY
from pasidlab.hardware.pcie import SERVE_PAGES
from pasidlab.kernel import user
from pasidlab.kernel.idxd import Idxd
from pasidlab.timeline import HOST

if TYPE_CHECKING:
    from pasidlab.kernel.driver import Driver
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.kernel.process import Process
    from pasidlab.machine import Machine
    from pasidlab.timeline import EnabledAction

__all__ = ["App"]


class App(Handle):
    """A running process (a ``task_struct`` with its mm), in a guest or on the host."""

    def __init__(self, machine: Machine, altitude: str, process: Process) -> None:
        super().__init__(machine)
        self.altitude = altitude
        self._process = process
        self.name = process.name

    @classmethod
    def find(cls, machine: Machine, altitude: str, processes: Sequence[Process], name: str) -> App:
        """The one of ``processes`` that is called ``name``; ``-ESRCH`` if there is none."""
        for process in processes:
            if process.name == name:
                return cls(machine, altitude, process)
        raise KernelError("ESRCH", f"no process named {name} runs on {altitude}")

    @property
    def expression(self) -> str:
        """``m.vm("vm1").app("app")``, or ``m.app("app")`` on the host."""
        where = "m" if self.altitude == HOST else f'm.vm("{self.altitude}")'
        return f'{where}.app("{self.name}")'

    @property
    def kernel(self) -> Kernel:
        """The kernel that it runs on."""
        return self.machine.kernel if self.altitude == HOST else self.machine.vm(self.altitude).kernel

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.alive

    @property
    def process(self) -> Process:
        """The kernel's process; ``-ESRCH`` once it has exited."""
        if not self.alive:
            raise KernelError("ESRCH", f"process {self.name} on {self.altitude} has exited")
        return self._process

    @property
    def pasid(self) -> int | None:
        """The PASID that its kernel knows it by, or ``None`` while it is bound to nothing."""
        return self.process.mm.pasid

    @transaction
    def set_quota(self, quota: int, hard: int | None = None, privileged: bool = True) -> None:
        """prlimit: how many PASIDs it may pay for; one number sets both limits.

        Errors: ``-EINVAL`` negative, above ``hard``, or its kernel does not limit processes; ``-EPERM`` the process
        itself (not ``privileged``) raises the hard limit.
        """
        policy = self.kernel.ioasid.policy
        if not prlimit(policy, self.process.mm, self.name, quota, hard, privileged):
            raise KernelError("EINVAL", f"a limit for {self.name} needs the quota policy rlimit, not {policy.name}")

    # --- its memory ---------------------------------------------------------------------------------------------------

    @verb
    def buffer(self, content: int | bytes, populate: bool = True) -> int:
        """Allocate memory: that many zero bytes, or a copy of these; returns the virtual address.

        Without ``populate`` its pages come when they are first touched, by the CPU or by a device (MAP_POPULATE).
        """
        data = bytes(content) if isinstance(content, bytes) else b""
        mm = self.process.mm
        at = mm.mmap(len(data) if isinstance(content, bytes) else content, populate=populate)
        mm.write(at, data)
        return at

    @verb
    def free(self, address: int) -> None:
        """Give a buffer back (munmap): whoever translates to its pages is told first. ``-EINVAL`` no buffer there."""
        self.process.mm.munmap(address)

    @verb
    def write(self, address: int, data: bytes) -> None:
        """Write to its memory by the CPU. ``-EFAULT`` where nothing is mapped."""
        self.process.mm.write(address, data)

    def read(self, address: int, length: int) -> bytes:
        """Read its memory by the CPU. ``-EFAULT`` where nothing is mapped, ``-EINVAL`` no such range."""
        if type(address) is not int or type(length) is not int or length < 0:
            raise KernelError("EINVAL", f"address and length must be numbers, not {address!r} and {length!r}")
        return self.process.mm.read(address, length)

    # --- shared virtual addressing ------------------------------------------------------------------------------------

    @verb
    def bind(self, device: Handle | str, queue: str | None = None) -> int:
        """Bind to a device (open one of its queues); returns the PASID, as this process's own kernel numbers it.

        Errors: ``-ENODEV`` no such device or queue here, ``-EBUSY`` bound already or the dedicated queue is taken,
        ``-ENOSPC`` no PASID is to be had: the quota.
        """
        return self._driver(device).open(self.process, queue)

    @verb
    def unbind(self, device: Handle | str) -> None:
        """Undo :meth:`bind`; the last one gives the PASID back. ``-EINVAL`` when it is not bound."""
        self._driver(device).close(self.process)

    @verb
    def ioctl(self, device: Handle | str, request: str, *numbers: int) -> int:
        """Ask a device's driver for what it offers beyond open and close, such as the start of some work.

        Errors: ``-ENODEV`` no such device here, ``-ENOTTY`` its driver knows no such request, and what the driver says.
        """
        return self._driver(device).ioctl(self.process, request, *numbers)

    @verb
    def submit(self, device: Handle | str, src: int, dst: int, size: int, block_on_fault: bool = False) -> Ticket:
        """Submit a copy and do not wait.

        With ``block_on_fault`` the device asks for pages that are missing and goes on when they are there (PRI).

        Errors: ``-EINVAL`` size, ``-EFAULT`` #GP: no valid IA32_PASID, ``-EAGAIN`` not accepted.
        """
        driver = self._accelerator(device)
        checked_copy(src, dst, size)
        work = Descriptor(Opcode.MEMMOVE, src=src, dst=dst, size=size, flags=Flag.BOF if block_on_fault else 0)
        return Ticket(self, driver.name, self._give(driver, work))

    def _give(self, driver: Idxd, work: Descriptor) -> int:
        """Submit a descriptor to the queue that this process has; returns where its record will be."""
        queue = driver.queue_of(self.process) or driver.first_queue()
        record = self.process.completion_slot()
        user.submit(self.kernel, self.process, driver, queue, work, record)
        self.process.use_completion_slot()
        return record

    @verb
    def copy(self, device: Handle | str, src: int, dst: int, size: int, block_on_fault: bool = False) -> Outcome:
        """Let the device copy ``size`` bytes between two of this process's virtual addresses, and wait for it.

        Only this piece of work is carried out, with the page requests that it leads to; what others have submitted
        goes on waiting.

        Errors: as for :meth:`submit`. A DMA fault is no error of the call: the outcome tells it, and the IOMMU has
        recorded it.
        """
        before = self.machine.pending
        ticket = self.submit(device, src, dst, size, block_on_fault)
        self._wait(ticket, before)
        return Outcome(ticket.poll())

    @verb
    def submit_batch(
        self,
        device: Handle | str,
        copies: Sequence[tuple[int, int, int]],
        block_on_fault: bool = False,
        fence: bool = False,
    ) -> BatchTicket:
        """Submit copies (source, destination, bytes) as one batch, and do not wait: see :meth:`batch`."""
        driver, wanted = self._accelerator(device), checked_copies(copies)
        mm, flags = self.process.mm, Flag.BOF if block_on_fault else Flag(0)
        length = len(batch_list(wanted, 0, 0))
        place = mm.mmap(length)
        mm.write(place, batch_list(wanted, place, flags | Flag.FENCE if fence else flags))
        batch = Descriptor(Opcode.BATCH, src=place, size=len(wanted), flags=flags)
        try:
            record = self._give(driver, batch)
        except KernelError:
            mm.munmap(place)
            raise
        return BatchTicket(self, driver.name, record, place, len(wanted))

    @verb
    def batch(
        self,
        device: Handle | str,
        copies: Sequence[tuple[int, int, int]],
        block_on_fault: bool = False,
        fence: bool = False,
    ) -> BatchOutcome:
        """Let the device make several copies with one submission, and wait for them.

        ``copies`` are (source, destination, bytes); the device reads them as a list of descriptors from a buffer in
        this process's memory, which is freed at the end. A copy that fails does not keep the others from being made;
        with ``fence`` those behind it are not. The outcome has one of its own for each copy.

        Errors: as for :meth:`submit`, ``-ENOMEM`` no memory for the list. A list of one copy, or of more than the queue
        allows (32), is the device's to refuse: status DESC_CNT_ERANGE.

        >>> from pasidlab import Machine
        >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); app = m.spawn("app"); number = app.bind(dsa)
        >>> src, dst = app.buffer(b"one and two"), app.buffer(16)
        >>> done = app.batch(dsa, [(src, dst, 3), (0, dst, 3), (src + 8, dst + 8, 3)])
        >>> done, app.read(dst, 11)
        (<BATCH_FAIL after 3 of 3 copies, 6 bytes>, b'one\\x00\\x00\\x00\\x00\\x00two')
        >>> done.copies
        (<copied 3 bytes>, <PAGE_FAULT_NOBOF after 0 bytes at 0x0>, <copied 3 bytes>)
        """
        before = self.machine.pending
        ticket = self.submit_batch(device, copies, block_on_fault, fence)
        self._wait(ticket, before)
        outcome = ticket.outcome()
        if outcome.completion is not None:
            self.process.mm.munmap(ticket.place)
        return outcome

    def _wait(self, ticket: Ticket, before: Sequence[EnabledAction]) -> None:
        """Run the steps of the work that was submitted after ``before``, and nothing else but who serves its pages."""
        new = {action.number for action in self.machine.pending if action not in before}
        devices = self.machine.accelerators.values()
        mine = next(((device, held) for device in devices for held in device.held() if held.action in new), None)
        while mine is not None and ticket.poll() is None:
            device, (wq, data, *_) = mine[0], mine[1].progress
            held = next((one for one in device.held(wq) if one.progress.data == data), None)
            if held is not None and held.action != NOT_READY:
                self.machine.agenda.run(held.action)
            elif held is None or not self.machine.agenda.run_named(SERVE_PAGES):
                break

    @verb
    def exit(self) -> None:
        """End the process. What it was bound to is unbound in the order of a process exit."""
        self.kernel.exit(self.process)

    kill = exit

    def _driver(self, device: Handle | str) -> Driver:
        name = device if isinstance(device, str) else getattr(device, "name", "")
        driver = self.kernel.drivers.get(name)
        if driver is None or not driver.started:
            raise KernelError("ENODEV", f"{self.altitude} has no device {name}")
        return driver

    def _accelerator(self, device: Handle | str) -> Idxd:
        driver = self._driver(device)
        if not isinstance(driver, Idxd):
            raise KernelError("EOPNOTSUPP", f"{driver.name} must have work queues to take descriptors, and has none")
        return driver

    def __repr__(self) -> str:
        if not self.alive:
            return f"<process {self.name} on {self.altitude}, exited>"
        pasid = self.pasid
        return f"<process {self.name} on {self.altitude}, {f'PASID {pasid}' if pasid is not None else 'not bound'}>"
