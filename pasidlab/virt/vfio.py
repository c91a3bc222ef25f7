"""VFIO: how a user-space hypervisor maps its guest's memory for DMA and manages PASIDs.

Models the vfio_iommu_type1 container with the series "vfio: expose virtual Shared Virtual Addressing to VMs" (v6, 2020,
never merged): the PASID request ioctl (alloc, free), and the nesting operations (bind page table, unbind, cache
invalidation).

One container a VM, of nesting type. Its ioasid_set has the hypervisor's mm as token. The set is made when the container
is opened, as /dev/ioasid does in the V4 series, so that a quota which is too large is refused when it is given; v6 made
it when the first device was attached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.ioasid.core import IoasidRefused
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.idxd import Idxd
    from pasidlab.kernel.iommu.uapi import GuestPasidBind
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.kernel.process import Process

__all__ = ["HOLDER", "AssignedFunction", "AttachedDevice", "VfioContainer"]

HOLDER: Final = "vfio"


class AttachedDevice(NamedTuple):
    """A device in a container: by its own requester ID, or as an auxiliary part (an ADI) of a parent with that ID."""

    rid: int
    aux: bool


class AssignedFunction(Part):
    """A whole function that a hypervisor has open through VFIO; closing it resets the device."""

    def __init__(self, device: Idxd, path: str) -> None:
        super().__init__(device.timeline, path)
        self.device = device

    def close(self) -> None:
        """Function-level reset: whatever the guest left running stops before the tables behind it change."""
        self.device.reset()


class VfioContainer(Actor, state=("open",)):
    """One VM's DMA and PASIDs, as its hypervisor process ``owner`` manages them through ioctls."""

    actor = "vfio"

    def __init__(self, kernel: Kernel, owner: Process, name: str, quota: int) -> None:
        super().__init__(kernel.timeline, f"{kernel.altitude}.vfio[{name}]", kernel.altitude)
        self._kernel = kernel
        self.owner_mm = owner.mm
        self.set = kernel.ioasid.set_alloc(name, owner.mm, quota)
        self.domain = kernel.iommu.domain_alloc(name)
        self.devices = Table[str, AttachedDevice](self.timeline, f"{self.path}.devices")
        self.pasids = Table[int, bool](self.timeline, f"{self.path}.pasids")
        self.open = True
        self.emit(Verb.OPEN, f"container of {name}", after=f"domain {self.domain.did}")

    # --- memory -------------------------------------------------------------------------------------------------------

    def map_dma(self, iova: int, virtual: int, size: int) -> None:
        """VFIO_IOMMU_MAP_DMA: pin the owner's memory at ``virtual`` and let devices reach it at ``iova``."""
        if (iova | virtual | size) % PAGE_SIZE:
            raise KernelError("EINVAL", "addresses and size of a DMA mapping must be multiples of 4096")
        for offset in range(0, size, PAGE_SIZE):
            self.domain.map(iova + offset, self.owner_mm.physical(virtual + offset, write=True))
        self.emit(Verb.MAP, f"{size / (1 << 20):g} MiB at {iova:#x}", after="domain", iova=iova, size=size)

    # --- devices ------------------------------------------------------------------------------------------------------

    def attach(self, key: str, rid: int) -> None:
        """Attach a whole device: its requests without PASID reach the guest's memory."""
        event = self.emit(Verb.IOCTL, f"attach device {key}", rid=rid)
        with self.timeline.because(event):
            self._kernel.iommu.attach_domain(self.domain, rid)
        self.devices[key] = AttachedDevice(rid, aux=False)

    def attach_aux(self, key: str, rid: int) -> int:
        """Attach one assignable interface of the parent ``rid``; returns the VM's default PASID."""
        event = self.emit(Verb.IOCTL, f"attach interface {key}", rid=rid)
        with self.timeline.because(event):
            pasid = self._kernel.iommu.attach_aux(self.domain, rid, self._kernel.host_set)
        self.devices[key] = AttachedDevice(rid, aux=True)
        return pasid

    def detach(self, key: str) -> None:
        """Detach a device: its PASIDs are unbound first, also those that were freed and wait for their clean-up."""
        device = self.devices[key]
        last = [other.rid for other in self.devices.values()].count(device.rid) == 1
        self._kernel.svm.flush(self.set)
        for pasid in self.set.ids.keys():
            if not self.set.ids[pasid].free_pending:
                self._kernel.svm.unbind_guest(device.rid, pasid, self.set, entirely=last)
        if device.aux:
            self._kernel.iommu.detach_aux(self.domain, device.rid, self._kernel.host_set)
        else:
            self._kernel.iommu.detach_domain(self.domain, device.rid)
        del self.devices[key]

    # --- VFIO_IOMMU_PASID_REQUEST -------------------------------------------------------------------------------------

    def pasid_alloc(self, minimum: int, maximum: int) -> int:
        """Allocate a host PASID in the inclusive range. ``-EINVAL`` bad range, ``-ENOSPC`` the core refuses."""
        if minimum > maximum:
            raise KernelError("EINVAL", f"the range must be min <= max, not [{minimum}, {maximum}]")
        event = self.emit(Verb.IOCTL, "PASID_REQUEST alloc", min=minimum, max=maximum)
        with self.timeline.because(event):
            try:
                pasid = self._kernel.ioasid.alloc(self.set, minimum, maximum, HOLDER)
            except IoasidRefused as refusal:
                raise KernelError("ENOSPC", str(refusal)) from None
            self.pasids[pasid] = True
        return pasid

    def pasid_free(self, minimum: int, maximum: int) -> None:
        """Free every PASID of this VM in the inclusive range; there need not be one. ``-EINVAL`` bad range."""
        if minimum > maximum:
            raise KernelError("EINVAL", f"the range must be min <= max, not [{minimum}, {maximum}]")
        event = self.emit(Verb.IOCTL, "PASID_REQUEST free", min=minimum, max=maximum)
        with self.timeline.because(event):
            for pasid in self.pasids.keys():
                if minimum <= pasid <= maximum:
                    del self.pasids[pasid]
                    self._kernel.ioasid.free(self.set, pasid)

    # --- VFIO_IOMMU_NESTING_OP ----------------------------------------------------------------------------------------

    def bind_pgtbl(self, key: str, data: GuestPasidBind) -> None:
        """Bind a guest page table on the device ``key``.

        Errors as for :meth:`pasidlab.kernel.iommu.vtd.svm.Svm.bind_guest`.
        """
        device = self._device(key)
        event = self.emit(Verb.IOCTL, "NESTING_OP bind", hpasid=data.hpasid, gpasid=data.gpasid, gpgd=data.gpgd)
        with self.timeline.because(event):
            self._kernel.svm.bind_guest(device.rid, self.domain, data, self.set)

    def unbind_pgtbl(self, key: str, hpasid: int) -> None:
        """Unbind. Only the common part of the bind data is needed: the host PASID."""
        device = self._device(key)
        event = self.emit(Verb.IOCTL, "NESTING_OP unbind", hpasid=hpasid)
        with self.timeline.because(event):
            self._kernel.svm.unbind_guest(device.rid, hpasid, self.set)

    def cache_invalidate(self, hpasid: int) -> None:
        """Forward a guest's first-level invalidation of one PASID to the unit."""
        event = self.emit(Verb.IOCTL, "NESTING_OP cache-invalidate", hpasid=hpasid)
        with self.timeline.because(event):
            queue = self._kernel.iommu.queue
            queue.submit(queue.pasid_iotlb(self.domain.did, hpasid))

    def _device(self, key: str) -> AttachedDevice:
        device = self.devices.get(key)
        if device is None:
            raise KernelError("ENODEV", f"no device {key} is attached to this container")
        return device

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The file descriptor is closed: detach devices, free every PASID, then the set, then the domain."""
        event = self.emit(Verb.CLOSE, f"container of {self.set.name}")
        with self.timeline.because(event):
            for key in self.devices.keys():
                self.detach(key)
            self.pasid_free(0, self._kernel.ioasid.capacity - 1)
            self._kernel.ioasid.set_free(self.set)
            self._kernel.iommu.domain_free(self.domain)
            self.open = False

    def __repr__(self) -> str:
        devices = ", ".join(format_rid(device.rid) for device in self.devices.values())
        return f"<VFIO container of {self.set.name}: {devices or 'no devices'}>"
