"""A running process: its memory, the devices that it is bound to, the work that it submits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.handles.handle import Handle, transaction, verb
from pasidlab.handles.quota import prlimit
from pasidlab.handles.work import Outcome, Ticket
from pasidlab.hardware.accelerator.descriptor import Descriptor, Flag, Opcode
from pasidlab.hardware.pcie import SERVE_PAGES
from pasidlab.kernel import user
from pasidlab.timeline import HOST

if TYPE_CHECKING:
    from pasidlab.kernel.idxd import Idxd
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.kernel.process import Process
    from pasidlab.machine import Machine

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
    def submit(self, device: Handle | str, src: int, dst: int, size: int, block_on_fault: bool = False) -> Ticket:
        """Submit a copy and do not wait.

        With ``block_on_fault`` the device asks for pages that are missing and goes on when they are there (PRI).

        Errors: ``-EINVAL`` size, ``-EFAULT`` #GP: no valid IA32_PASID, ``-EAGAIN`` not accepted.
        """
        driver = self._driver(device)
        if not 1 <= size < 1 << 32:
            raise KernelError("EINVAL", f"the number of bytes to copy must be between 1 and 2^32 - 1, not {size}")
        for address in (src, dst):
            if not 0 <= address < 1 << 64:
                raise KernelError("EINVAL", f"an address must have at most 64 bits, not {address:#x}")
        queue = driver.queue_of(self.process) or driver.first_queue()
        record = self.process.completion_slot()
        work = Descriptor(Opcode.MEMMOVE, src=src, dst=dst, size=size, flags=Flag.BOF if block_on_fault else 0)
        user.submit(self.kernel, self.process, driver, queue, work, record)
        self.process.use_completion_slot()
        return Ticket(self, driver.name, record)

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
        agenda = self.machine.agenda
        while ticket.poll() is None:
            new = [action for action in self.machine.pending if action not in before]
            if new:
                agenda.run(new[0].number)
            elif not (self._waits(ticket) and agenda.run_named(SERVE_PAGES)):
                break
        return Outcome(ticket.poll())

    def _waits(self, ticket: Ticket) -> bool:
        """Whether a device holds this piece of work until a page has come."""
        return any(
            Descriptor.from_bytes(work.data).completion_addr == ticket.record
            for device in self.machine.accelerators.values()
            for _, work in device.waits.working()
        )

    @verb
    def exit(self) -> None:
        """End the process. What it was bound to is unbound in the order of a process exit."""
        self.kernel.exit(self.process)

    kill = exit

    def _driver(self, device: Handle | str) -> Idxd:
        name = device if isinstance(device, str) else getattr(device, "name", "")
        driver = self.kernel.accelerators.get(name)
        if driver is None or not len(driver.queues):
            raise KernelError("ENODEV", f"{self.altitude} has no device {name}")
        return driver

    def __repr__(self) -> str:
        if not self.alive:
            return f"<process {self.name} on {self.altitude}, exited>"
        pasid = self.pasid
        return f"<process {self.name} on {self.altitude}, {f'PASID {pasid}' if pasid is not None else 'not bound'}>"
