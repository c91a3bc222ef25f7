"""A running VM: its processes, its devices, its PASIDs, its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import BusError, KernelError
from pasidlab.handles.app import App
from pasidlab.handles.batch import checked_copy
from pasidlab.handles.cgroup import Cgroup
from pasidlab.handles.device import AssignedDevice
from pasidlab.handles.handle import Handle, transaction, verb
from pasidlab.handles.names import check_name
from pasidlab.handles.quota import number, prlimit
from pasidlab.handles.work import Outcome
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.pcie import PASID_LIMIT
from pasidlab.kernel.dmaengine import memcpy
from pasidlab.kernel.ioasid.quota.cgroup import CgroupQuota, cgroups_of
from pasidlab.kernel.ioasid.quota.group import ROOT
from pasidlab.kernel.ioasid.record import INVALID_IOASID
from pasidlab.timeline import HOST

if TYPE_CHECKING:
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.machine import Machine
    from pasidlab.virt.vmm import Vmm

__all__ = ["VirtualMachine"]


_LONGEST_READ: Final = 1 << 28


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
        """Guest PASID to host PASID, for every PASID that the VM has been given by the host.

        None, where the guest owns its table: its numbers are its own (:mod:`pasidlab.kernel.iommu.contract`).
        """
        return dict(self.vmm.viommu.pasids.items())

    @property
    def devices(self) -> list[AssignedDevice]:
        """What is assigned to it."""
        return [AssignedDevice(self.machine, self.name, name) for name in self.vmm.viommu.devices.values()]

    def device(self, name: str) -> AssignedDevice:
        """One assigned device by name; ``-ENODEV`` if the VM has none of that name."""
        if name not in self.kernel.drivers:
            raise KernelError("ENODEV", f"{self.name} has no device {name}")
        return AssignedDevice(self.machine, self.name, name)

    # --- what an administrator allows ---------------------------------------------------------------------------------

    @property
    def quota(self) -> int | None:
        """How many PASIDs it may have by the policy of this machine: the set's quota, its soft limit, or the max of its
        group; ``None`` in the root group, and once its set has ended.
        """
        the_set = self.vmm.container.set
        return None if the_set.retired else self.machine.kernel.ioasid.policy.limit(the_set)

    @property
    def used(self) -> int:
        """How many PASIDs count against :attr:`quota`: its own, or those of all that share its group."""
        policy = self.machine.kernel.ioasid.policy
        group = policy.set_group(self.vmm.container.set) if isinstance(policy, CgroupQuota) else None
        return self.vmm.container.set.count if group is None else group.current

    @property
    def group(self) -> Cgroup:
        """The control group of its hypervisor; ``-EINVAL`` where there are none."""
        group = cgroups_of(self.machine.kernel.ioasid).group_of(self.vmm.process.mm)
        return Cgroup(self.machine, ROOT if group is None else group.name)

    @transaction
    def set_quota(self, quota: int, hard: int | None = None, privileged: bool = True) -> None:
        """Allow it another number of PASIDs.

        By fixed quotas the set is adjusted: ``-EINVAL`` below 1 or below what is out, ``-ENOSPC`` more than is left. By
        rlimits this is prlimit: one number sets both limits, ``hard`` sets the hard one apart; ``-EINVAL`` negative, or
        above ``hard``; ``-EPERM`` the hypervisor itself (not ``privileged``) raises the hard limit. By control groups
        ``max`` of its group is written, which its neighbours there share: errors of :meth:`Cgroup.set_max`.
        """
        policy = self.machine.kernel.ioasid.policy
        if not prlimit(policy, self.vmm.process.mm, self.name, quota, hard, privileged):
            policy.change(self.vmm.container.set, quota)

    @transaction
    def move_to(self, group: Cgroup | str) -> None:
        """Move its hypervisor to another control group (``"/"`` is the root); its PASIDs are charged there from now on.

        Never refused for a limit: what is too much is told by ``current`` above ``max``. Errors: ``-ENOENT`` no such
        group, ``-EINVAL`` the quota policy is another one.
        """
        target = Cgroup.find(self.machine, group.path if isinstance(group, Cgroup) else group)
        policy = cgroups_of(self.machine.kernel.ioasid)
        policy.migrate(self.vmm.process.mm, policy.groups.find(target.path))

    # --- what its hypervisor may ask ----------------------------------------------------------------------------------

    @verb
    def request_pasid(self, minimum: int = 1, maximum: int = PASID_LIMIT - 1, caller: App | None = None) -> int:
        """Let the hypervisor ask for a host PASID, by VFIO or /dev/ioasid as the machine has it; the guest sees none of
        it. ``caller``: a process on the host to which it handed the file.

        Errors: ``-EINVAL`` the range, or a caller that is no process of the host; the policy's refusal as ``-ENOSPC``
        by VFIO, as ``-EINVAL`` by /dev/ioasid.
        """
        for bound in (minimum, maximum):
            if not 0 <= number(bound, "a bound of the range") <= INVALID_IOASID:
                raise KernelError("EINVAL", f"a bound of the range must have 32 bits, not {bound:#x}")
        if caller is not None and (type(caller) is not App or caller.machine is not self.machine):
            raise KernelError("EINVAL", f"the caller must be a process of this machine, not {caller!r}")
        if caller is not None and caller.altitude != HOST:
            raise KernelError("EINVAL", f"the caller must be a process of the host, {caller.name} runs in a guest")
        return self.vmm.pasid_source.pasid_alloc(minimum, maximum, None if caller is None else caller.process.mm)

    @verb
    def return_pasid(self, host_pasid: int) -> None:
        """Let the hypervisor free a host PASID; one that it does not have is left alone. ``-EINVAL`` not a number."""
        number(host_pasid, "a PASID")
        self.vmm.pasid_source.pasid_free(host_pasid, host_pasid)

    @verb
    def open_ioasid(self) -> None:
        """Let the hypervisor open /dev/ioasid once more: ``-EBUSY``, once for each process. ``-ENOENT`` this machine
        has no such device.
        """
        if self.machine.ioasid_device is None:
            raise KernelError("ENOENT", "/dev/ioasid does not exist: this machine hands PASIDs out through VFIO")
        self.machine.ioasid_device.open(self.vmm.process, self.name)

    # --- processes ----------------------------------------------------------------------------------------------------

    @transaction
    def spawn(self, name: str) -> App:
        """Start a process in the guest. Errors: ``-EINVAL`` name, ``-EEXIST`` it is taken."""
        check_name("process", name, ())
        return App(self.machine, self.name, self.kernel.spawn(name))

    def app(self, name: str) -> App:
        """The handle of a guest process; ``-ESRCH`` if none of that name runs."""
        return App.find(self.machine, self.name, self.kernel.processes.values(), name)

    @property
    def apps(self) -> list[App]:
        """The processes that run in the guest."""
        return [App(self.machine, self.name, process) for process in self.kernel.processes.values()]

    # --- the guest's kernel itself ------------------------------------------------------------------------------------

    @verb
    def page(self, content: bytes = b"") -> int:
        """Let the guest's kernel take a page for itself, with ``content`` in it; returns its guest-physical address.

        Errors: ``-EINVAL`` more than 4096 bytes, ``-ENOMEM``.
        """
        if len(content) > PAGE_SIZE:
            raise KernelError("EINVAL", f"a page must hold the content: at most {PAGE_SIZE} bytes, not {len(content)}")
        address = self.kernel.pages.alloc()
        self.vmm.memory.write(address, content)
        return address

    def read(self, address: int, length: int) -> bytes:
        """Read guest-physical memory. ``-EFAULT`` where the guest has none, ``-EINVAL`` no such range."""
        if type(address) is not int or type(length) is not int or not 0 <= length <= _LONGEST_READ:
            raise KernelError("EINVAL", f"address and length must be numbers, not {address!r} and {length!r}")
        try:
            return self.vmm.memory.read(address, length)
        except BusError as error:
            raise KernelError("EFAULT", f"{self.name} must have memory at {error.address:#x}") from None

    @verb
    def copy(self, device: AssignedDevice | str, src: int, dst: int, size: int, pasid: int | None = None) -> Outcome:
        """Let the guest's kernel copy by the device for itself, between guest-physical addresses, on a dedicated queue.

        The queue is programmed without PASID, or with any ``pasid``. On an interface both no PASID and 0 mean the VM's
        default PASID. Errors: ``-EINVAL`` size or address, ``-ENODEV`` no such device or no dedicated queue, ``-EBUSY``
        its dedicated queues are taken, ``-ENXIO`` the device refuses the queue (a PASID that is not this VM's).

        >>> from pasidlab import Machine
        >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm = m.create_vm("vm1")
        >>> adi, page = m.assign_adi(dsa, vm, queue="dedicated"), vm.page(b"no process here")
        >>> vm.copy(adi, page, page + 2048, 15), vm.read(page + 2048, 15)
        (<copied 15 bytes>, b'no process here')
        """
        checked_copy(src, dst, size)
        if pasid is not None and not 0 <= number(pasid, "a PASID") < PASID_LIMIT:
            raise KernelError("EINVAL", f"a PASID must be between 0 and {PASID_LIMIT - 1}, not {pasid}")
        name = device if isinstance(device, str) else device.name
        driver = self.kernel.accelerators.get(name)
        if driver is None:
            raise KernelError("ENODEV", f"{self.name} has no device {name}")
        return Outcome(memcpy(self.kernel, driver, (src, dst, size), pasid))

    @verb
    def free_pasid(self, pasid: int) -> None:
        """Let the guest give a PASID back to its hypervisor, bound or not: what a forgetful or hostile guest may do.

        On VT-d that is a virtual command. Errors: ``-EINVAL`` the hypervisor answers "invalid PASID": the VM does not
        own it; ``-EOPNOTSUPP`` the guest owns its table of PASIDs, and its numbers are none of the host's.
        """
        if not 0 <= number(pasid, "a PASID") < PASID_LIMIT:
            raise KernelError("EINVAL", f"a PASID must be between 0 and {PASID_LIMIT - 1}, not {pasid}")
        if not self.kernel.iommu.free_by_command(pasid):
            raise KernelError(
                "EINVAL", f"{self.name} must own PASID {pasid} to free it: the hypervisor answered 'invalid PASID'"
            )

    @verb
    def bind_raw(self, device: AssignedDevice, host_pasid: int, app: App) -> None:
        """Let the hypervisor ask VFIO to bind a process's page table under any host PASID: what a wrong or hostile one
        may do.

        Errors: ``-EINVAL`` out of range, or a process of somebody else; ``-ENOENT`` not allocated, ``-EACCES`` another
        VM's, ``-EBUSY`` bound already on a whole function (on an interface one more user is counted: its siblings share
        the parent's table).
        """
        if app.altitude != self.name:
            raise KernelError("EINVAL", f"{app.name} must be a process of {self.name}, it runs on {app.altitude}")
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
            machine.kernel.drivers[name].start()

    def __repr__(self) -> str:
        if not self.running:
            return f"<VM {self.name}, gone>"
        count, quota = self.vmm.container.set.count, self.quota
        used = f"{count} PASIDs" if quota is None else f"{count} of {quota} PASIDs"
        counts = f"{used}, {len(self.devices)} devices, {len(self.apps)} processes"
        return f"<VM {self.name}: {counts}>"
