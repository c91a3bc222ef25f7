"""The user-space hypervisor: one process a VM, which opens VFIO and KVM, emulates the IOMMU and boots the guest.

Where the machine has /dev/ioasid, that is opened before VFIO, and host PASIDs come from there.

Models QEMU as far as PASIDs go. It is a process of the host kernel: its memory is the guest's memory, its mm is the
token by which VFIO, KVM and mediated devices find the VM's ioasid_set.

A policy decides what numbers the guest sees and which devices it may have (:mod:`.policies`). Unless it was given, the
first device decides: an ADI means ``translated``, a physical function ``identity``.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import BusError, KernelError
from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.bus import ECAM_SIZE, ConfigSpaces
from pasidlab.hardware.config_space import ConfigSpace
from pasidlab.hardware.cpu import Cpu, LocalApic
from pasidlab.hardware.mmio import AddressMap
from pasidlab.kernel.driver import PciDevice
from pasidlab.kernel.ioasid.quota.cgroup import cgroups_of
from pasidlab.kernel.iommu.device import Numbering
from pasidlab.kernel.iommu.uapi import GuestPasidBind
from pasidlab.kernel.kernel import Kernel
from pasidlab.kernel.platform import ECAM_BASE, Platform
from pasidlab.timeline import Actor, Part, Table, Verb
from pasidlab.virt.kvm import GuestMemory, KvmVm
from pasidlab.virt.policies import POLICIES
from pasidlab.virt.traps import SERVED
from pasidlab.virt.vdcm import MediatedDevice
from pasidlab.virt.vfio import AssignedFunction, VfioContainer
from pasidlab.virt.viommu.contract import VirtualPlatform
from pasidlab.virt.viommu.units import VIRTUAL_UNITS

if TYPE_CHECKING:
    from pasidlab.hardware.mmio import MmioTarget
    from pasidlab.kernel.driver import Driver
    from pasidlab.kernel.idxd import Idxd
    from pasidlab.timeline import Timeline
    from pasidlab.virt.ioasid_user import IoasidDevice, PasidSource
    from pasidlab.virt.traps import TrapDesk

__all__ = ["GUEST_MEMORY", "Vmm"]

GUEST_MEMORY: Final = 4 << 20
"""Bytes of memory that a guest gets when nothing else is asked for."""
_FIRST_SLOT: Final = 0x18
"""Guest devices appear at 00:03.0, 00:04.0, and so on."""
_BAR_BASE: Final = 0xE000_0000
_BAR_STEP: Final = 0x100_0000
_BAR2_OFFSET: Final = 0x80_0000
_IOMMU_REGION_NAME: Final = "vIOMMU"


class VirtualFunction(NamedTuple):
    """A function that a guest gets: its registers and configuration space, and where its ``portal`` is on the host.

    BAR0 has ``size`` bytes.
    """

    registers: MmioTarget
    config: ConfigSpace
    portal: int
    size: int = at.BAR0_SIZE


class VirtualBus(Part, ConfigSpaces):
    """A guest's PCI functions: what the hypervisor answers to configuration accesses.

    A whole function shows a copy of its own: what the guest switches on there, the host has switched on already.
    """

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.functions = Table[int, ConfigSpace](timeline, f"{path}.functions")

    def config_of(self, rid: int) -> ConfigSpace | None:
        """The configuration registers of a function."""
        return self.functions.get(rid)


class Vmm(Actor, state=("_next_slot", "policy", "running")):
    """One VM's hypervisor process with everything that it holds open."""

    actor = "vmm"

    def __init__(
        self,
        host: Kernel,
        name: str,
        quota: int,
        policy: str | None,
        memory: int = GUEST_MEMORY,
        device: IoasidDevice | None = None,
        cgroup: str | None = None,
        desk: TrapDesk = SERVED,
    ) -> None:
        super().__init__(host.timeline, f"{host.altitude}.vmm[{name}]", host.altitude)
        self.name = name
        self.host = host
        self.policy = policy
        self._desk = desk
        self._next_slot = 0
        share = f"quota {quota}" if cgroup is None else f"in group {cgroup}"
        event = self.emit(Verb.CREATE, f"VM {name}", after=f"{memory / (1 << 20):g} MiB, {share}")
        with ExitStack() as undo, self.timeline.because(event):
            undo.callback(self._bury)
            self.process = host.spawn(f"vmm-{name}")
            undo.callback(host.exit, self.process)
            if cgroup is not None:
                groups = cgroups_of(host.ioasid)
                groups.migrate(self.process.mm, groups.groups.find(cgroup), name)
            self.kvm = KvmVm(host, self.process, name, desk)
            undo.callback(self.kvm.close)
            self.ioasid_file = device.open(self.process, name, quota) if device is not None else None
            if self.ioasid_file is not None:
                undo.callback(self.ioasid_file.close)
            self.container = VfioContainer(host, self.process, name, quota, device)
            undo.callback(self.container.close)
            base = self.process.mm.mmap(memory)
            self.memory = GuestMemory(host.platform.memory, self.process.mm, base, memory)
            self.container.map_dma(0, base, memory)
            apic = LocalApic(self.timeline, f"{name}.vcpu0.apic")
            virtual = VirtualPlatform(self.memory, apic, desk)
            iommu = host.platform.iommu
            make_unit = VIRTUAL_UNITS[iommu.name]
            self.viommu = make_unit(self.timeline, name, virtual, self.container, self.pasid_source)
            self.container.listen(self.viommu)
            self.viommu.identity_mapped = policy is not None and not POLICIES[policy].own_numbers
            self.mmio = AddressMap(self.timeline, f"{self.path}.mmio")
            self.mmio.add(iommu.base, iommu.size, self.viommu, _IOMMU_REGION_NAME)
            self.bus = VirtualBus(self.timeline, f"{self.path}.bus")
            self.mmio.add(ECAM_BASE, ECAM_SIZE, self.bus, "PCI configuration space")
            architecture = host.platform.cpu.architecture
            self.cpu = Cpu(self.timeline, f"{name}.vcpu0", name, self.kvm.vmcs, architecture=architecture)
            agenda = host.platform.agenda
            cpu, drivers = self.cpu, host.platform.drivers
            platform = Platform(self.timeline, agenda, name, self.memory, memory, self.mmio, cpu, apic, drivers, iommu)
            self.guest = Kernel(platform)
            undo.pop_all()
        for file in (self.kvm, self.ioasid_file, self.container):
            if file is not None:
                self.process.open_file(file)
        self.mdevs = Table[str, MediatedDevice](self.timeline, f"{self.path}.mdevs")
        self.functions = Table[str, str](self.timeline, f"{self.path}.functions")
        self.running = True

    @property
    def pasid_source(self) -> PasidSource:
        """Through which interface this hypervisor gets host PASIDs."""
        return self.container if self.ioasid_file is None else self.ioasid_file

    # --- devices ------------------------------------------------------------------------------------------------------

    def _adopt_policy(self, wanted: str) -> None:
        """The first device decides the policy, where numbers of the guest are backed by numbers of the host."""
        if self.policy is None and not self.host.platform.iommu.binds_tables:
            self.policy = wanted
            self.viommu.identity_mapped = not POLICIES[wanted].own_numbers

    def _admit_interface(self) -> None:
        """``-EOPNOTSUPP``: this IOMMU cannot tell interfaces of one device apart. ``-EPERM``: the policy does not let
        this VM have an ADI beside its physical functions.
        """
        if not self.host.iommu.takes_interfaces:
            raise KernelError("EOPNOTSUPP", self.host.iommu.why_no_aux)
        if self.policy is not None and not POLICIES[self.policy].mixes and len(self.functions):
            raise KernelError(
                "EPERM",
                f"{self.name} must have one kind of device only (policy {self.policy}), and has the physical function "
                f"{', '.join(self.functions.keys())}",
            )

    def _admit_function(self) -> Numbering:
        """Whose PASIDs a physical function of this VM will carry.

        ``-EPERM``: the policy does not let it have one, or not beside its ADIs. ``-EBUSY``: it has no policy yet, and
        numbers already that would not fit.
        """
        if self.host.platform.iommu.binds_tables:
            return Numbering.GUEST
        if self.policy is None and len(self.viommu.pasids):
            raise KernelError("EBUSY", f"{self.name} already has PASIDs of its own numbering: free them first")
        policy = POLICIES[self.policy or "identity"]
        if policy.function is None:
            raise KernelError(
                "EPERM",
                f"{self.name} sees its own PASID numbers (policy {self.policy}), but a physical function is programmed "
                "without mediation and would put them on the wire: assign it to a VM with the policy identity",
            )
        if not policy.mixes and len(self.mdevs):
            raise KernelError(
                "EPERM",
                f"{self.name} must have one kind of device only (policy {self.policy}), and has the interfaces "
                f"{', '.join(self.mdevs.keys())}",
            )
        return policy.function

    def attach_adi(self, parent: Idxd, mode: str, name: str) -> Driver:
        """Cut an assignable interface from ``parent`` and give it to the guest; returns the guest's driver of it.

        Errors: ``-EPERM`` the policy does not allow it; those of :meth:`Idxd.claim`; ``-EBUSY`` the VM already has
        PASIDs (a late subscriber would miss events).
        """
        self._admit_interface()
        queue = parent.claim(mode, name)
        event = self.emit(Verb.ASSIGN, f"ADI {name} to {self.name}", after=f"{mode} wq{queue.index} of {parent.name}")
        with self.timeline.because(event):
            try:
                device = MediatedDevice(self.host, parent, queue, self.container, name, self._desk)
            except KernelError:
                parent.release(queue, name)
                raise
            self._adopt_policy("translated")
            self.mdevs[name] = device
            self.process.open_file(device)
            self.container.attach_aux(name, parent.rid)
            portal = parent.bar2 + at.portal_offset(queue.index, ims=True)
            pages = at.PORTAL_PAGE if mode == "shared" else 2 * at.PORTAL_PAGE
            first = at.PORTAL_LIMITED if mode == "shared" else at.PORTAL_UNLIMITED
            function = VirtualFunction(device, device.config, portal + first)
            found = self._plug(name, function, first, pages)
            device.plugged(self.guest.platform, found.bar2 + first)
            return self.guest.probe(*found)

    def attach_function(self, device: Driver, name: str) -> Driver:
        """Give a whole physical function to the guest, unmediated; returns the guest's driver of it.

        Errors: ``-EPERM`` the policy does not allow it.
        """
        numbering = self._admit_function()
        event = self.emit(Verb.ASSIGN, f"PF {name} to {self.name}", after="unmediated", rid=device.rid)
        with self.timeline.because(event):
            device.stop()
            file = AssignedFunction(device, f"{self.path}.function[{name}]")
            self._adopt_policy("identity")
            if self.policy is not None and POLICIES[self.policy].untranslated:
                self.kvm.translate_pasids(on=False)
            self.container.attach(name, device.rid, numbering)
            self.functions[name] = device.name
            self.process.open_file(file)
            regions = self.host.platform.mmio.regions
            first, second = regions[device.bar0], regions.get(device.bar2)
            has_ats = self.host.iommu.devices[device.rid].ats
            config = ConfigSpace(self.timeline, f"{self.path}.config[{name}]", device.pci.identity, ats=has_ats)
            function = VirtualFunction(first.target, config, device.bar2, first.size)
            return self.guest.probe(*self._plug(name, function, 0, 0 if second is None else second.size))

    def _plug(self, name: str, function: VirtualFunction, offset: int, size: int) -> PciDevice:
        """Put BAR0, configuration space and the portals into the guest's address map; what its kernel will find there.

        Portals are pages of the real device.
        """
        slot = self._next_slot
        self._next_slot = slot + 1
        rid, bar0 = _FIRST_SLOT + 8 * slot, _BAR_BASE + slot * _BAR_STEP
        bar2 = bar0 + _BAR2_OFFSET if size else 0
        self.mmio.add(bar0, function.size, function.registers, f"{name} BAR0")
        self.bus.functions[rid] = function.config
        if size:
            target, target_offset = self.host.platform.mmio.find(function.portal)
            self.mmio.add(bar2 + offset, size, target, f"{name} portals", target_offset)
        self.viommu.devices[rid] = name
        if self.container.can_stall(name):
            self.guest.iommu.stall_capable[rid] = True
        return PciDevice(name, rid, bar0, bar2)

    def bind_raw(self, device: str, host_pasid: int, root: int) -> None:
        """Ask VFIO to bind a guest page table under any host PASID, past the emulated unit."""
        self.container.bind_pgtbl(device, GuestPasidBind(host_pasid, root))

    def settle(self) -> None:
        """Deliver the fault interrupt of the guest's unit.

        A guest that has overwritten what its handler reads loses its own log, and disturbs nobody else.
        """
        try:
            self.guest.faults.service()
        except (KernelError, BusError) as error:
            self.emit(Verb.IGNORE, f"{self.name}: its fault handler stopped: {error}")

    # --- the end ------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """The process dies: the guest stops where it is, and the kernel closes its files: KVM, the devices, VFIO.

        The guest's devices were stopped by no one: closing them resets them, before the tables behind them change.
        """
        self.running = False
        event = self.emit(Verb.DESTROY, f"VM {self.name}")
        self.container.listen(None)
        self.guest.ioasid.work.cancel_all()
        self.guest.iommu.page_requests.cancel()
        with self.timeline.because(event):
            files = self.process.files
            last = [number for number, file in files.items() if file is self.container]
            self.host.exit(self.process, [number for number in files.keys() if number not in last] + last)
            self._bury()

    def _bury(self) -> None:
        """Whatever the guest was made of is gone, and so is the emulation around it."""
        kvm, vfio, viommu = (f"{self.host.altitude}.{part}[{self.name}]" for part in ("kvm", "vfio", "viommu"))
        self.timeline.journal.bury(self.name, self.path, kvm, vfio, viommu)
