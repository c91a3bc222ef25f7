"""Machine: one physical computer, and the verbs that a notebook calls.

Everything that a person does is a method here or on the handles that these methods return (:mod:`pasidlab.handles`).
Each such call is one *operation* on the timeline, recorded as the Python line that repeats it. The modelled world lives
below; nothing here decides how it behaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.handles import App, AssignedDevice, Cgroup, PhysicalFunction, VirtualMachine, transaction, verb
from pasidlab.handles.firmware import bus_request, send
from pasidlab.handles.hypervisor import Hypervisor
from pasidlab.handles.names import check_name
from pasidlab.handles.slots import check_kind, check_stall, plug_in, taken_names
from pasidlab.hardware.accelerator.device import Accelerator
from pasidlab.hardware.bus import ECAM_SIZE, PcieBus
from pasidlab.hardware.cpu import Cpu, LocalApic
from pasidlab.hardware.fabric import Fabric
from pasidlab.hardware.function import Function
from pasidlab.hardware.iommu.contract import Fault, Identity, Walk
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.hardware.iommu.family import Parts
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.hardware.mmio import AddressMap
from pasidlab.invariants import Report, check
from pasidlab.kernel.driver import Driver, Drivers
from pasidlab.kernel.idxd import Idxd
from pasidlab.kernel.ioasid.quota import QUOTA_POLICIES
from pasidlab.kernel.kernel import Kernel
from pasidlab.kernel.platform import ECAM_BASE, Platform
from pasidlab.timeline import HOST, Agenda, EnabledAction, Part, Table, Timeline
from pasidlab.virt.ioasid_user import IoasidDevice
from pasidlab.virt.policies import NO_POLICY, POLICIES
from pasidlab.virt.vmm import GUEST_MEMORY, Vmm

if TYPE_CHECKING:
    from collections.abc import Callable

    from pasidlab.kernel.process import Process

__all__ = ["DEFAULT_QUOTA", "PASID_APIS", "Machine"]

PASID_APIS: Final = ("vfio", "dev-ioasid")
"""How a hypervisor asks for host PASIDs: through its VFIO container, or through the device file /dev/ioasid."""
DEFAULT_QUOTA: Final = 1000
"""PASIDs for a VM when nothing else is asked for: the default of VFIO's ``pasid_quota`` module parameter."""
_MEMORY: Final = 1 << 30
_HYPERVISOR: Final = "vmm-"


class Machine(Hypervisor):
    """A computer with an IOMMU, a host kernel, and no devices or VMs yet.

    >>> m = Machine(iommu="vtd")
    >>> dsa = m.plug_accelerator("dsa0")
    >>> vm1 = m.create_vm("vm1", quota=64); adi1 = m.assign_adi(dsa, vm1, queue="shared")
    >>> app1 = vm1.spawn("app"); app1.bind(adi1)
    1
    >>> src, dst = app1.buffer(b"hello, device"), app1.buffer(13)
    >>> app1.copy(adi1, src, dst, 13)
    <copied 13 bytes>
    >>> app1.read(dst, 13), m.check().ok
    (b'hello, device', True)
    """

    def __init__(
        self,
        iommu: str = "vtd",
        memory: int = _MEMORY,
        quota_policy: str = "fixed",
        pasid_api: str = "vfio",
        identity: Identity | None = None,
    ) -> None:
        """``quota_policy`` is how the administrator limits PASIDs (:mod:`pasidlab.kernel.ioasid.quota`), ``pasid_api``
        how hypervisors ask for them (:mod:`pasidlab.virt.ioasid_user`), ``identity`` what the IOMMU can do.

        ``ValueError`` for what a machine cannot have, :class:`KernelError` ``-ENODEV`` for an IOMMU that its kernel
        cannot drive.
        """
        if iommu not in list(FAMILIES):
            known = ", ".join(f"{family.name!r} ({family.title})" for family in FAMILIES.values())
            raise ValueError(f"iommu must be one of {known}, not {iommu!r}")
        family = FAMILIES[iommu]
        if quota_policy not in QUOTA_POLICIES:
            raise ValueError(f"quota_policy must be one of {', '.join(QUOTA_POLICIES)}, not {quota_policy!r}")
        if pasid_api not in PASID_APIS:
            raise ValueError(f"pasid_api must be one of {', '.join(PASID_APIS)}, not {pasid_api!r}")
        if type(memory) is not int or memory % 4096 or not 1 << 20 <= memory <= 1 << 46:
            raise ValueError(f"memory must be whole pages between 1 MiB and 64 TiB, not {memory!r} bytes")
        family.check(identity, memory)
        super().__init__(self)
        self.iommu = iommu
        self.quota_policy = quota_policy
        self.pasid_api = pasid_api
        self.timeline = Timeline()
        time = self.timeline
        self.world = Part(time, "machine")
        self.agenda = Agenda(time)
        self.memory = PhysicalMemory(time, "memory", memory)
        self.bus = PcieBus(time, "pcie")
        self.apic = LocalApic(time, "cpu0.apic")
        self.unit = family.make(Parts(time, self.memory, self.bus, self.apic), identity)
        self.fabric = Fabric(time, self.memory, self.unit, self.apic)
        self.mmio = AddressMap(time, "mmio")
        self.mmio.add(family.base, family.size, self.unit, "IOMMU registers")
        self.mmio.add(ECAM_BASE, ECAM_SIZE, self.bus, "PCI configuration space")
        self.cpu = Cpu(time, "cpu0", HOST, architecture=family.architecture)
        self.functions = Table[str, Function](time, "functions")
        self.drivers = Drivers(time, "drivers")
        self.drivers.load(Idxd)
        self.vmms = Table[str, Vmm](time, "vmms")
        self.numbers = Table[str, int](time, "vm-numbers")
        self.supervisor: Callable[[], None] | None = None
        more = f", memory={memory:#x}" if memory != _MEMORY else ""
        more += f', quota_policy="{quota_policy}"' if quota_policy != "fixed" else ""
        more += f', pasid_api="{pasid_api}"' if pasid_api != "vfio" else ""
        more += f", identity={identity.expression}" if identity is not None else ""
        with time.operation(f'm = Machine(iommu="{iommu}"{more})'):
            cpu, apic = self.cpu, self.apic
            drivers = self.drivers
            platform = Platform(time, self.agenda, HOST, self.memory, memory, self.mmio, cpu, apic, drivers, family)
            self.kernel = Kernel(platform, QUOTA_POLICIES[quota_policy])
            self.ioasid_device = IoasidDevice(self.kernel) if pasid_api == "dev-ioasid" else None
        time.floor = time.now

    @property
    def expression(self) -> str:
        """The Python name of this machine in recorded lines."""
        return "m"

    # --- hardware -----------------------------------------------------------------------------------------------------

    @transaction
    def plug_accelerator(
        self, name: str = "dsa0", shared: int = 2, dedicated: int = 4, ats: bool = True, stall: bool = False
    ) -> PhysicalFunction:
        """Plug in a DSA-like accelerator with work queues and let the host drive it.

        With two or more shared queues the last one serves native processes; the other shared queues and all dedicated
        ones are for assignable interfaces; where there can be no such interfaces all queues serve processes. With
        ``ats`` it has a TLB of its own and can ask for pages (ATS, PRI), as the real one; without, every access goes to
        the IOMMU as it is. With ``stall`` it bears that the IOMMU holds what faults, and has no ATS. Errors:
        ``-EINVAL`` name, number of queues, ``stall`` and ``ats``; ``-EOPNOTSUPP`` this IOMMU cannot hold; ``-EEXIST``
        the name is taken.
        """
        if shared < 0 or dedicated < 0 or not 1 <= shared + dedicated <= 8:
            raise KernelError(
                "EINVAL", f"an accelerator must have 1 to 8 work queues, not {shared} shared and {dedicated} dedicated"
            )
        check_stall(self, ats, stall)
        plug_in(self, name, lambda slot: Accelerator.in_slot(slot, shared, dedicated), ats, stall)
        driver = self.kernel.accelerators[name]
        for queue in driver.queues.values() if self.kernel.iommu.takes_interfaces else ():
            if queue.dedicated or queue.index < max(1, shared - 1):
                driver.give_to_mdev(queue.index)
        return PhysicalFunction(self, name)

    @transaction
    def plug(self, name: str, function: type[Function], driver: type[Driver], ats: bool = True) -> PhysicalFunction:
        """Plug in a device of your own making, and load its driver into this machine's kernels (``docs/devices.md``).

        ``ats`` as for :meth:`plug_accelerator`. Errors: ``-EINVAL`` name, or the classes are not those of a function
        and its driver; ``-EEXIST`` the name is taken, or another driver is loaded for such a function; ``-ENOSPC``.
        """
        check_kind(function, driver)
        self.drivers.load(driver)
        plug_in(self, name, function, ats)
        return PhysicalFunction(self, name)

    @property
    def accelerators(self) -> dict[str, Accelerator]:
        """Those of :attr:`functions` that have work queues, by name."""
        return {name: device for name, device in self.functions.items() if isinstance(device, Accelerator)}

    def device(self, name: str) -> PhysicalFunction | AssignedDevice:
        """The handle of a physical function, or of an assignable interface, by name."""
        if name in self.functions:
            return PhysicalFunction(self, name)
        for vmm in self.vmms.values():
            if name in vmm.mdevs:
                return AssignedDevice(self, vmm.name, name)
        raise KernelError("ENODEV", f"the machine has no device {name}")

    # --- virtual machines ---------------------------------------------------------------------------------------------

    @transaction
    def create_vm(
        self,
        name: str,
        quota: int = DEFAULT_QUOTA,
        policy: str | None = None,
        memory: int = GUEST_MEMORY,
        cgroup: str | None = None,
    ) -> VirtualMachine:
        """Create a VM: hypervisor process, KVM, VFIO container with an ioasid_set of ``quota`` PASIDs, and a booted
        guest.

        ``policy`` is one of :mod:`pasidlab.virt.policies` (``"translated"``, ``"identity"``, ``"refuse"``,
        ``"unenforced"``), or ``None``: the first device decides. Where control groups limit PASIDs the VM gets a group
        of its own name with ``quota`` as max, or joins ``cgroup``, whose max then counts. Errors: ``-EINVAL`` name,
        quota below 1, policy or memory, a group together with a quota or without control groups; ``-EOPNOTSUPP`` a
        policy where the guest owns its table; ``-EEXIST`` the name is taken, or a group has it; ``-ENOENT`` no such
        group; ``-ENOSPC`` the quotas of all sets would exceed the 2^20 PASIDs there are.
        """
        check_name("VM", name, taken_names(self))
        if type(quota) is not int or quota < 1:
            raise KernelError("EINVAL", f"the quota must be at least 1 PASID, not {quota!r}")
        if policy is not None and FAMILIES[self.iommu].binds_tables:
            raise KernelError("EOPNOTSUPP", NO_POLICY.format(iommu=self.iommu))
        if policy not in (None, *POLICIES):
            raise KernelError("EINVAL", f"the policy must be one of {', '.join(POLICIES)}, not {policy!r}")
        if memory % 4096 or not 1 << 20 <= memory <= 1 << 28:
            raise KernelError("EINVAL", f"guest memory must be whole pages between 1 and 256 MiB, not {memory} bytes")
        if cgroup is not None:
            Cgroup.find(self, cgroup)
            if quota != DEFAULT_QUOTA:
                raise KernelError(
                    "EINVAL", f"{name} is limited by the max of {cgroup} and can have no quota of its own"
                )
        number = next(at for at in range(len(self.numbers) + 1) if at not in self.numbers.values())
        vmm = Vmm(self.kernel, name, quota, policy, memory, self.ioasid_device, cgroup, self.desk)
        self.vmms[name] = vmm
        self.numbers[name] = number
        return VirtualMachine(self, name)

    def vm(self, name: str) -> VirtualMachine:
        """The handle of a running VM; ``-ESRCH`` if there is none of that name."""
        if type(name) is not str or name not in self.vmms:
            raise KernelError("ESRCH", f"no VM named {name} is running")
        return VirtualMachine(self, name)

    @property
    def vms(self) -> list[VirtualMachine]:
        """The running VMs, in order of creation."""
        return [VirtualMachine(self, name) for name in sorted(self.vmms.keys(), key=lambda name: self.numbers[name])]

    @transaction
    def create_cgroup(self, path: str, max: int | str = 0) -> Cgroup:
        """Make a control group (mkdir, then a write to ``ioasids.max``): ``path`` from the root, words with / between.

        Errors: ``-EINVAL`` the quota policy is another one, a word of the path, max; ``-EEXIST``; ``-ENOENT`` the group
        above is missing; ``-ENOSPC`` more than is left.
        """
        return Cgroup.make(self, path, max)

    def cgroup(self, path: str, max: int | str | None = None) -> Cgroup:
        """The control group at ``path`` (``"/"`` is the root), ``-ENOENT`` if there is none; with ``max`` it is made
        (:meth:`create_cgroup`). ``-EINVAL`` the quota policy is another one.
        """
        return Cgroup.find(self, path) if max is None else self.create_cgroup(path, max=max)

    @transaction
    def assign_adi(self, device: PhysicalFunction, vm: VirtualMachine, queue: str = "shared") -> AssignedDevice:
        """Cut an assignable device interface from a function's ``"shared"`` or a ``"dedicated"`` queue and give it to a
        VM.

        Errors: ``-EINVAL`` queue kind, ``-EPERM`` the VM's policy, ``-ENODEV`` no such queue, ``-EBUSY`` all dedicated
        queues are taken, the function is assigned as a whole, or the VM has PASIDs already (a late subscriber would
        miss their events).
        """
        parent = self._driver(device)
        if not isinstance(parent, Idxd):
            raise KernelError("EOPNOTSUPP", f"{device.name} has no work queues and no VDCM to cut interfaces from it")
        taken = taken_names(self)
        name = next(f"adi{at}" for at in range(len(taken) + 1) if f"adi{at}" not in taken)
        vm.vmm.attach_adi(parent, queue, name)
        return AssignedDevice(self, vm.name, name)

    @transaction
    def assign_pf(self, device: PhysicalFunction, vm: VirtualMachine) -> AssignedDevice:
        """Give a whole physical function to a VM, unmediated: its guest's PASIDs go to hardware as they are.

        Errors: ``-EPERM`` the VM's policy, ``-EBUSY`` the function is in use.
        """
        parent = self._driver(device)
        parent.check_idle()
        vm.vmm.attach_function(parent, device.name)
        return AssignedDevice(self, vm.name, device.name)

    def owner_of(self, device: PhysicalFunction) -> VirtualMachine | None:
        """The VM to which a physical function is assigned as a whole."""
        for vmm in self.vmms.values():
            if device.name in vmm.functions:
                return VirtualMachine(self, vmm.name)
        return None

    def _driver(self, device: PhysicalFunction) -> Driver:
        """The host's driver of a function that the host still drives."""
        driver = self.kernel.drivers.get(device.name)
        if driver is None:
            raise KernelError("ENODEV", f"the host has no device {device.name}")
        owner = self.owner_of(device)
        if owner is not None:
            raise KernelError("EBUSY", f"{device.name} is assigned to {owner.name} as a whole")
        return driver

    # --- native processes ---------------------------------------------------------------------------------------------

    @transaction
    def spawn(self, name: str) -> App:
        """Start a process on the host itself (native SVA). Errors: ``-EINVAL`` name, ``-EEXIST`` it is taken."""
        check_name("process", name, ())
        if name.startswith(_HYPERVISOR):
            raise KernelError("EINVAL", f"a process must not be called {name}: such names belong to hypervisors")
        return App(self, HOST, self.kernel.spawn(name))

    def app(self, name: str) -> App:
        """The handle of a process on the host; ``-ESRCH`` if none of that name runs."""
        return App.find(self, HOST, self.natives, name)

    @property
    def natives(self) -> list[Process]:
        """The host's processes that are not hypervisors, oldest first."""
        return [process for process in self.kernel.processes.values() if not process.name.startswith(_HYPERVISOR)]

    # --- looking and poking -------------------------------------------------------------------------------------------

    def translate(
        self,
        rid: int,
        pasid: int | None = None,
        address: int = 0,
        access: str = "read",
        *,
        privileged: bool = False,
        caches: bool = True,
    ) -> Walk:
        """Ask what would happen to a request: every stop of the walk, then an address or a fault. Changes nothing.

        Without ``caches`` the tables alone answer: where that is something else, what the caches hold is stale.
        ``-EINVAL`` for a request that cannot be on a bus.
        """
        return self.unit.walk(bus_request(rid, pasid, address, access, privileged), caches=caches)

    @verb
    def leave_out(self, *steps: str) -> None:
        """From now on the host's IOMMU driver forgets these steps when it takes a PASID entry away: a buggy driver.

        Without any, it does everything again. ``-EINVAL`` this driver has no such step (:attr:`.Teardown.steps`).
        """
        teardown = self.kernel.iommu.teardown
        for step in steps:
            if step not in teardown.steps:
                raise KernelError("EINVAL", f"a step must be one of {', '.join(teardown.steps)}, not {step!r}")
        teardown.left_out = frozenset(steps)

    @verb
    def dma(
        self, device: PhysicalFunction, pasid: int | None, address: int, access: str = "read", tlb: bool = False
    ) -> int | Fault:
        """Let a device put one request on the bus, as broken or hostile firmware could: with any PASID, at any address.

        With ``tlb`` it goes the way of the device's descriptors: through its own TLB, if ATS is on. Returns the
        host-physical address that was read (or, for a write, that 8 zero bytes were written to), or the fault, which
        the IOMMU has recorded. ``-EFAULT``: no memory there, or the IOMMU has no page for the device's TLB.
        """
        if access not in ("read", "write"):
            raise KernelError("EINVAL", f"access must be 'read' or 'write', not {access!r}")
        return send(device, bus_request(device.rid, pasid, address, access), tlb=tlb)

    @property
    def pending(self) -> list[EnabledAction]:
        """What could happen next: queued work, descriptors that wait in a device."""
        return self.agenda.actions()

    @verb
    def run(self, number: int | None = None) -> int:
        """Carry out one enabled action, or all of them until nothing is left to do; returns how many ran."""
        if number is None:
            return self.agenda.run_all(settle=self.settle)
        if number not in {action.number for action in self.agenda.actions()}:
            raise KernelError("EINVAL", f"no enabled action has the number {number}")
        self.agenda.run(number)
        return 1

    def check(self) -> Report:
        """Evaluate the invariants; the report names what is wrong, and the holder of every reference."""
        return check(self)

    def settle(self) -> None:
        """Deliver the fault interrupts of the IOMMUs, if one is pending. Runs at the end of every operation."""
        self.kernel.faults.service()
        for vmm in self.vmms.values():
            vmm.settle()

    @property
    def fault_log(self) -> list[str]:
        """The host kernel's log of DMA faults, oldest first."""
        return self.kernel.faults.log.values()

    def __repr__(self) -> str:
        devices = ", ".join(self.functions.keys()) or "no devices"
        ways = f"; quota policy {self.quota_policy}" if self.quota_policy != "fixed" else ""
        ways += "; PASIDs from /dev/ioasid" if self.ioasid_device is not None else ""
        return f"<Machine {self.iommu}: {devices}; {len(self.vmms)} VMs{ways}; step {self.timeline.now}>"
