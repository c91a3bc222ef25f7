"""Handles: what a notebook holds of a VM, a process or a device, and the verbs on them.

A handle has no state: it names something in the machine and looks it up when used. After going back in time a handle
means what that name meant then; a handle of something that is gone answers with an error that says so.

Each verb is one operation on the timeline. The Python line that repeats it is derived from the call itself, so the lab
can show it and a recorded run can hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, ClassVar, Concatenate, ParamSpec, TypeVar

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.descriptor import Completion, CompletionStatus, Descriptor, Opcode
from pasidlab.hardware.pcie import PASID_LIMIT, format_rid
from pasidlab.kernel import user
from pasidlab.kernel.iommu.vtd.vcmd import INTERFACE
from pasidlab.kernel.platform import IOMMU_BASE
from pasidlab.timeline import HOST

if TYPE_CHECKING:
    from pasidlab.hardware.accelerator.device import Accelerator
    from pasidlab.kernel.idxd import Idxd
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.kernel.process import Process
    from pasidlab.machine import Machine
    from pasidlab.virt.vmm import Vmm

__all__ = [
    "App",
    "AssignedDevice",
    "Handle",
    "Outcome",
    "PhysicalFunction",
    "Ticket",
    "VirtualMachine",
    "transaction",
    "verb",
]

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound="Handle")


class Handle:
    """Something of a machine that a person can name. ``expression`` is Python that finds it again.

    ``draw`` is set by the package itself (:mod:`pasidlab.views.rich`): pictures are made above this floor.
    """

    draw: ClassVar[Callable[[Handle], dict[str, str]] | None] = None

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @property
    def expression(self) -> str:
        """Python that evaluates to this handle, given the machine as ``m``."""
        raise AttributeError("every handle names itself")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """How a notebook shows this handle: a picture or a table from the floor above, and always its text."""
        drawn = {} if Handle.draw is None else Handle.draw(self)
        return {"text/plain": repr(self), **drawn}


def verb(method: Callable[Concatenate[H, P], R]) -> Callable[Concatenate[H, P], R]:
    """Make a method one operation of its machine's timeline, recorded as the line that repeats it."""
    return _operation(method, atomic=False)


def transaction(method: Callable[Concatenate[H, P], R]) -> Callable[Concatenate[H, P], R]:
    """A verb of the administrator's: when it is refused, only the call and its refusal remain."""
    return _operation(method, atomic=True)


def _operation(method: Callable[Concatenate[H, P], R], *, atomic: bool) -> Callable[Concatenate[H, P], R]:
    @wraps(method)
    def operation(self: H, /, *args: P.args, **kwargs: P.kwargs) -> R:
        machine = self.machine
        with machine.timeline.operation(line_of(self, method.__name__, args, kwargs), atomic=atomic):
            try:
                return method(self, *args, **kwargs)
            finally:
                machine.settle()

    return operation


def line_of(handle: Handle, name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> str:
    """``m.vm("vm1").spawn("app")``: the call as Python text."""
    words = [_word(value) for value in args] + [f"{key}={_word(value)}" for key, value in kwargs.items()]
    return f"{handle.expression}.{name}({', '.join(words)})"


def _word(value: object) -> str:
    if isinstance(value, Handle):
        return value.expression
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, int) and not isinstance(value, bool) and value >= 4096:
        return hex(value)
    return repr(value)


class PhysicalFunction(Handle):
    """A whole accelerator: ``rid`` is its requester ID on the bus."""

    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__(machine)
        self.name = name

    @property
    def expression(self) -> str:
        """``m.device("dsa0")``."""
        return f'm.device("{self.name}")'

    @property
    def hardware(self) -> Accelerator:
        """The modelled device."""
        device = self.machine.accelerators.get(self.name)
        if device is None:
            raise KernelError("ENODEV", f"the machine has no device {self.name}")
        return device

    @property
    def rid(self) -> int:
        """The requester ID that its DMA carries."""
        return self.hardware.rid

    def __repr__(self) -> str:
        if self.name not in self.machine.accelerators:
            return f"<PF {self.name}, gone>"
        owner = self.machine.owner_of(self)
        return f"<PF {self.name} at {format_rid(self.rid)}, driven by {owner.name if owner else HOST}>"


class AssignedDevice(Handle):
    """A device inside a VM: an assignable interface (ADI), or a whole physical function."""

    def __init__(self, machine: Machine, vm: str, name: str) -> None:
        super().__init__(machine)
        self.vm_name = vm
        self.name = name

    @property
    def expression(self) -> str:
        """``m.vm("vm1").device("adi0")``."""
        return f'm.vm("{self.vm_name}").device("{self.name}")'

    @property
    def mediated(self) -> bool:
        """Whether it is an ADI (its registers trap) rather than a whole function."""
        return self.name in self.machine.vm(self.vm_name).vmm.mdevs

    @property
    def parent(self) -> PhysicalFunction:
        """The physical function whose queue it is."""
        vmm = self.machine.vm(self.vm_name).vmm
        mdev = vmm.mdevs.get(self.name)
        return PhysicalFunction(self.machine, mdev.parent.name if mdev is not None else self.name)

    @property
    def rid(self) -> int:
        """The requester ID that its DMA carries on the bus: its parent's."""
        return self.parent.rid

    def __repr__(self) -> str:
        if self.vm_name not in self.machine.vmms:
            return f"<device {self.name}, its VM {self.vm_name} is gone>"
        kind = "ADI" if self.mediated else "PF"
        return f"<{kind} {self.name} in {self.vm_name}, on {self.parent.name}>"


class VirtualMachine(Handle):
    """A running VM."""

    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__(machine)
        self.name = name

    @property
    def expression(self) -> str:
        """``m.vm("vm1")``."""
        return f'm.vm("{self.name}")'

    @property
    def vmm(self) -> Vmm:
        """Its hypervisor process; ``-ESRCH`` once the VM is gone."""
        vmm = self.machine.vmms.get(self.name)
        if vmm is None:
            raise KernelError("ESRCH", f"no VM named {self.name} is running")
        return vmm

    @property
    def kernel(self) -> Kernel:
        """The guest's kernel."""
        return self.vmm.guest

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self.name in self.machine.vmms

    @property
    def pasids(self) -> dict[int, int]:
        """Guest PASID to host PASID, for every PASID that the VM has been given."""
        return dict(self.vmm.viommu.pasids.items())

    @property
    def devices(self) -> list[AssignedDevice]:
        """What is assigned to it."""
        return [AssignedDevice(self.machine, self.name, name) for name in self.vmm.viommu.devices.values()]

    def device(self, name: str) -> AssignedDevice:
        """One assigned device by name; ``-ENODEV`` if the VM has none of that name."""
        if name not in self.kernel.accelerators:
            raise KernelError("ENODEV", f"{self.name} has no device {name}")
        return AssignedDevice(self.machine, self.name, name)

    @transaction
    def spawn(self, name: str) -> App:
        """Start a process in the guest. Errors: ``-EINVAL`` name, ``-EEXIST`` it is taken."""
        self.machine.check_name("process", name, ())
        return App(self.machine, self.name, self.kernel.spawn(name))

    def app(self, name: str) -> App:
        """The handle of a guest process; ``-ESRCH`` if none of that name runs."""
        return App.find(self.machine, self.name, self.kernel.processes.values(), name)

    @property
    def apps(self) -> list[App]:
        """The processes that run in the guest."""
        return [App(self.machine, self.name, process) for process in self.kernel.processes.values()]

    @verb
    def free_pasid(self, pasid: int) -> None:
        """Let the guest give a PASID back by virtual command, bound or not: what a forgetful or hostile guest may do.

        Errors: ``-EINVAL`` the hypervisor answers "invalid PASID": the VM does not own it.
        """
        if not 0 <= pasid < PASID_LIMIT:
            raise KernelError("EINVAL", f"a PASID must be between 0 and {PASID_LIMIT - 1}, not {pasid}")
        self.kernel.ioasid.allocators.active.free(pasid)
        answer = (self.kernel.platform.mmio.read(IOMMU_BASE + INTERFACE.vcrsp),)
        if INTERFACE.response["SC"].get(answer) != INTERFACE.success:
            raise KernelError(
                "EINVAL", f"{self.name} must own PASID {pasid} to free it: the hypervisor answered 'invalid PASID'"
            )

    @verb
    def bind_raw(self, device: AssignedDevice, host_pasid: int, app: App) -> None:
        """Let the hypervisor ask VFIO to bind a process's page table under any host PASID: what a wrong or hostile one
        may do.

        Errors: ``-EINVAL`` out of range, ``-ENOENT`` not allocated, ``-EACCES`` another VM's, ``-EBUSY`` bound already
        on a whole function (on an interface one more user is counted: its siblings share the parent's table).
        """
        self.vmm.bind_raw(device.name, host_pasid, app.process.mm.root)

    @verb
    def crash(self) -> None:
        """Kill the hypervisor process: its file descriptors close, and everything that the VM held comes back."""
        machine, vmm = self.machine, self.vmm
        functions = vmm.functions.keys()
        vmm.kill()
        del machine.vmms[self.name]
        del machine.numbers[self.name]
        for name in functions:
            machine.kernel.accelerators[name].start()

    def __repr__(self) -> str:
        if not self.running:
            return f"<VM {self.name}, gone>"
        the_set = self.vmm.container.set
        counts = f"{the_set.count} of {the_set.quota} PASIDs, {len(self.devices)} devices, {len(self.apps)} processes"
        return f"<VM {self.name}: {counts}>"


class Ticket(Handle):
    """Work that was submitted: ask :meth:`poll` whether the device has written its completion record."""

    def __init__(self, app: App, device: str, record: int) -> None:
        super().__init__(app.machine)
        self.app = app
        self.device = device
        self.record = record

    @property
    def expression(self) -> str:
        """The submission has no name of its own."""
        return f"{self.app.expression}.ticket({self.record:#x})"

    def poll(self) -> Completion | None:
        """The completion record, or ``None`` while there is none."""
        return user.poll(self.app.process, self.record)

    def __repr__(self) -> str:
        done = self.poll()
        return f"<submitted to {self.device}, {'done' if done else 'waiting'}>"


class Outcome:
    """How a copy ended: ``status`` of the completion record, ``copied`` bytes, and on a page fault the faulting
    address.
    """

    def __init__(self, completion: Completion | None) -> None:
        self.completion = completion
        self.status = CompletionStatus(completion.status) if completion else CompletionStatus.NONE
        self.copied = completion.bytes_completed if completion else 0
        self.fault_address = completion.fault_addr if completion else None

    @property
    def ok(self) -> bool:
        """Whether the device reports success."""
        return self.status is CompletionStatus.SUCCESS

    def __repr__(self) -> str:
        if self.ok:
            return f"<copied {self.copied} bytes>"
        if self.completion is None:
            return "<no completion record: the descriptor was dropped, or the record itself could not be written>"
        return f"<{self.status.name} after {self.copied} bytes at {self.fault_address:#x}>"


class App(Handle):
    """A running process, in a guest or on the host."""

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

    # --- its memory ---------------------------------------------------------------------------------------------------

    @verb
    def buffer(self, content: int | bytes) -> int:
        """Allocate memory: that many zero bytes, or a copy of these; returns the virtual address."""
        data = bytes(content) if isinstance(content, bytes) else b""
        mm = self.process.mm
        at = mm.mmap(len(data) if isinstance(content, bytes) else content)
        mm.write(at, data)
        return at

    @verb
    def write(self, address: int, data: bytes) -> None:
        """Write to its memory by the CPU. ``-EFAULT`` where nothing is mapped."""
        self.process.mm.write(address, data)

    def read(self, address: int, length: int) -> bytes:
        """Read its memory by the CPU. ``-EFAULT`` where nothing is mapped."""
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
    def submit(self, device: Handle | str, src: int, dst: int, size: int) -> Ticket:
        """Submit a copy and do not wait.

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
        work = Descriptor(Opcode.MEMMOVE, src=src, dst=dst, size=size)
        user.submit(self.kernel, self.process, driver, queue, work, record)
        self.process.use_completion_slot()
        return Ticket(self, driver.name, record)

    @verb
    def copy(self, device: Handle | str, src: int, dst: int, size: int) -> Outcome:
        """Let the device copy ``size`` bytes between two of this process's virtual addresses, and wait for it.

        Only this piece of work is carried out; what others have submitted goes on waiting.

        Errors: as for :meth:`submit`. A DMA fault is no error of the call: the outcome tells it, and the IOMMU has
        recorded it.
        """
        before = {action.number for action in self.machine.pending}
        ticket = self.submit(device, src, dst, size)
        for action in self.machine.pending:
            if action.number not in before:
                self.machine.agenda.run(action.number)
        return Outcome(ticket.poll())

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
