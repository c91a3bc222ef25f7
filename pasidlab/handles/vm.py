"""A running VM: its processes, its devices, its PASIDs, its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.handles.app import App
from pasidlab.handles.device import AssignedDevice
from pasidlab.handles.handle import Handle, transaction, verb
from pasidlab.hardware.pcie import PASID_LIMIT
from pasidlab.kernel.iommu.vtd.vcmd import INTERFACE
from pasidlab.kernel.platform import IOMMU_BASE

if TYPE_CHECKING:
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.machine import Machine
    from pasidlab.virt.vmm import Vmm

__all__ = ["VirtualMachine"]


class VirtualMachine(Handle):
    """A running VM: a hypervisor process (as QEMU is one), its KVM VM and VFIO container, and the guest in it."""

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
