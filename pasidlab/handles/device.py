"""Devices: a whole function on the bus, and what a VM has of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.handles.handle import Handle, verb
from pasidlab.hardware.accelerator.device import Accelerator
from pasidlab.hardware.pcie import format_rid
from pasidlab.timeline import HOST

if TYPE_CHECKING:
    from pasidlab.hardware.function import Function
    from pasidlab.machine import Machine

__all__ = ["AssignedDevice", "PhysicalFunction"]


class PhysicalFunction(Handle):
    """A whole PCIe function, an accelerator or another device: ``rid`` is its requester ID on the bus."""

    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__(machine)
        self.name = name

    @property
    def expression(self) -> str:
        """``m.device("dsa0")``."""
        return f'm.device("{self.name}")'

    @property
    def hardware(self) -> Accelerator:
        """The modelled accelerator; ``-EOPNOTSUPP`` where it is a :attr:`function` of another kind."""
        device = self.function
        if not isinstance(device, Accelerator):
            raise KernelError("EOPNOTSUPP", f"{self.name} is no accelerator, but a {type(device).__name__}")
        return device

    @property
    def function(self) -> Function:
        """The modelled device, of whatever kind."""
        device = self.machine.functions.get(self.name)
        if device is None:
            raise KernelError("ENODEV", f"the machine has no device {self.name}")
        return device

    @property
    def rid(self) -> int:
        """The requester ID that its DMA carries."""
        return self.function.rid

    def __repr__(self) -> str:
        if self.name not in self.machine.functions:
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

    @verb
    def emulate_portal(self, on: bool = True) -> None:
        """Let the hypervisor take the portal away from the guest and carry submissions out itself, or give it back.

        This is the slow path of a migration: each descriptor traps, and its PASID is converted by software instead of
        the CPU. ``-EINVAL`` a whole function, or an interface with a dedicated queue: their descriptors carry no PASID.

        >>> from pasidlab import Machine
        >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm = m.create_vm("vm1"); adi = m.assign_adi(dsa, vm)
        >>> app = vm.spawn("app"); number = app.bind(adi); src, dst = app.buffer(b"slowly"), app.buffer(6)
        >>> adi.emulate_portal(); app.copy(adi, src, dst, 6), app.read(dst, 6)
        (<copied 6 bytes>, b'slowly')
        """
        device = self.machine.vm(self.vm_name).vmm.mdevs.get(self.name)
        if device is None or device.queue.dedicated:
            raise KernelError(
                "EINVAL", f"{self.name} must be an interface of a shared queue for its portal to be emulated"
            )
        device.emulate_portal(on)

    def __repr__(self) -> str:
        if self.vm_name not in self.machine.vmms:
            return f"<device {self.name}, its VM {self.vm_name} is gone>"
        kind = "ADI" if self.mediated else "PF"
        return f"<{kind} {self.name} in {self.vm_name}, on {self.parent.name}>"
