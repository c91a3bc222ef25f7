"""VFIO: how a user-space hypervisor maps its guest's memory for DMA and manages PASIDs.

Models the vfio_iommu_type1 container with the series "vfio: expose virtual Shared Virtual Addressing to VMs" (v6, 2020,
never merged): the PASID request ioctl (alloc, free), and the nesting operations (bind page table, unbind, cache
invalidation).

One container a VM, of nesting type. It takes any number of devices (the real one takes one IOMMU group). Its
ioasid_set has the hypervisor's mm as token. The set is made when the container is opened, as /dev/ioasid does in the V4
series, so that a quota which is too large is refused when it is given; v6 made it when the first device was attached.
Where /dev/ioasid is the interface (:mod:`pasidlab.virt.ioasid_user`), the
container only takes a reference on the set that the process has open there, and answers PASID requests with
``-EOPNOTSUPP`` (V4 moved them out; the errno is that of a container without ``vfio_mm`` in v6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pasidlab.errors import KernelError
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.pcie import PageRequest, ResponseCode, format_rid
from pasidlab.kernel.ioasid.core import IoasidRefused
from pasidlab.kernel.iommu.device import Numbering
from pasidlab.kernel.iommu.page_requests import EVERY_PASID
from pasidlab.kernel.iommu.uapi import HPASID_DEF, GuestPasidBind
from pasidlab.timeline import Actor, Part, Table, Verb
from pasidlab.virt.ioasid_user import IoasidUser

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pasidlab.kernel.driver import Driver
    from pasidlab.kernel.iommu.contract import FaultListener
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.kernel.process import Process
    from pasidlab.timeline import Event
    from pasidlab.virt.ioasid_user import IoasidDevice

__all__ = ["HOLDER", "AssignedFunction", "AttachedDevice", "VfioContainer"]

HOLDER: Final = "vfio"


class PageListener(Protocol):
    """The hypervisor's end of the reporting of page requests."""

    path: str

    def page_requested(self, request: PageRequest) -> ResponseCode | None:
        """Take a request of a device with its host PASID; ``None``: the answer comes later."""


class AttachedDevice(NamedTuple):
    """A device in a container: by its own requester ID, or as an auxiliary part (an ADI) of a parent with that ID.

    ``numbering``: whose PASIDs its requests carry.
    """

    rid: int
    aux: bool
    numbering: Numbering = Numbering.HOST


class AssignedFunction(Part):
    """A whole function that a hypervisor has open through VFIO. Opening and closing it reset the device.

    Models ``vfio_pci_core_enable`` and ``vfio_pci_core_disable``: function-level resets. What whoever had the function
    before left in its TLB does not reach the next one.
    """

    def __init__(self, device: Driver, path: str) -> None:
        super().__init__(device.timeline, path)
        self.device = device
        device.pci.reset()

    def close(self) -> None:
        """Function-level reset: whatever the guest left running stops before the tables behind it change."""
        self.device.pci.reset()


class VfioContainer(Actor, state=("listener", "open")):
    """One VM's DMA and PASIDs, as its hypervisor process ``owner`` manages them through ioctls.

    ``user`` owns the PASIDs: the container's own (``vfio_mm``), or with ``device`` that of /dev/ioasid.
    """

    actor = "vfio"

    def __init__(
        self, kernel: Kernel, owner: Process, name: str, quota: int, device: IoasidDevice | None = None
    ) -> None:
        super().__init__(kernel.timeline, f"{kernel.altitude}.vfio[{name}]", kernel.altitude)
        self._kernel = kernel
        self.owner_mm = owner.mm
        self.domain = kernel.iommu.domain_alloc(name)
        self.domain.enable_nesting()
        try:
            self.user = self._owner_of_pasids(name, quota, device)
        except KernelError:
            kernel.iommu.domain_free(self.domain)
            raise
        self.set = self.user.set
        self._pins = Table[int, int](self.timeline, f"{self.path}.pins")
        self.devices = Table[str, AttachedDevice](self.timeline, f"{self.path}.devices")
        self.listener: PageListener | None = None
        self.open = True
        self.emit(Verb.OPEN, f"container of {name}", after=f"domain {self.domain.did}")

    def _owner_of_pasids(self, name: str, quota: int, device: IoasidDevice | None) -> IoasidUser:
        if device is not None:
            return device.user_of(self.owner_mm).get(HOLDER)
        return IoasidUser(self._kernel, self.owner_mm, name, quota, HOLDER)

    # --- memory -------------------------------------------------------------------------------------------------------

    def map_dma(self, iova: int, virtual: int, size: int) -> None:
        """VFIO_IOMMU_MAP_DMA: pin the owner's memory at ``virtual`` and let devices reach it at ``iova``.

        Errors: ``-EINVAL`` not whole pages, ``-EFAULT`` nothing is there, ``-EEXIST`` mapped already, ``-ENOMEM``; then
        nothing is mapped or pinned.
        """
        if (iova | virtual | size) % PAGE_SIZE:
            raise KernelError("EINVAL", "addresses and size of a DMA mapping must be multiples of 4096")
        frames = [self.owner_mm.physical(virtual + at, write=True) for at in range(0, size, PAGE_SIZE)]
        for index, frame in enumerate(frames):
            try:
                self.domain.map(iova + index * PAGE_SIZE, frame)
            except KernelError:
                for at in range(iova, iova + index * PAGE_SIZE, PAGE_SIZE):
                    self.domain.unmap(at)
                raise
        self._pins[iova] = self._kernel.pages.pin(frames)
        self.emit(Verb.MAP, f"{size / (1 << 20):g} MiB at {iova:#x}", after="domain", iova=iova, size=size)

    @property
    def pinned(self) -> set[int]:
        """The addresses of the frames that are kept in place for devices."""
        return set().union(*(self._kernel.pages.pinned(number) for number in self._pins.values()))

    # --- devices ------------------------------------------------------------------------------------------------------

    def attach(self, key: str, rid: int, numbering: Numbering = Numbering.HOST) -> None:
        """Attach a whole device: its requests without PASID reach the guest's memory, those with one mean what
        ``numbering`` says.
        """
        event = self.emit(Verb.IOCTL, f"attach device {key}", rid=rid)
        with self.timeline.because(event):
            self._kernel.iommu.attach_domain(self.domain, rid, numbering)
        self.devices[key] = AttachedDevice(rid, aux=False, numbering=numbering)

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
        self._kernel.ioasid.work.flush()
        self._let_go_of_table(device.rid)
        for pasid in self.set.ids.keys():
            if not self.set.ids[pasid].free_pending:
                self._kernel.svm.unbind_guest(device.rid, pasid, self.set, entirely=last)
        if device.aux:
            self._kernel.iommu.detach_aux(self.domain, device.rid, self._kernel.host_set)
        else:
            self._kernel.iommu.detach_domain(self.domain, device.rid)
        del self.devices[key]

    # --- VFIO_IOMMU_PASID_REQUEST -------------------------------------------------------------------------------------

    def pasid_alloc(self, minimum: int, maximum: int, current: Part | None = None) -> int:
        """Allocate a host PASID in the inclusive range; ``current`` is the mm of the caller (default: the owner's).

        Errors: ``-EINVAL`` bad range, ``-EOPNOTSUPP`` PASIDs come from /dev/ioasid, ``-ENOSPC`` the core refuses,
        ``-ENOMEM``.
        """
        event = self._pasid_request("alloc", minimum, maximum)
        with self.timeline.because(event):
            try:
                return self.user.alloc(minimum, maximum, current)
            except IoasidRefused as refusal:
                raise KernelError("ENOSPC", str(refusal)) from None

    def pasid_free(self, minimum: int, maximum: int) -> None:
        """Free every PASID of this VM in the inclusive range; there need not be one.

        Errors: ``-EINVAL`` bad range, ``-EOPNOTSUPP`` PASIDs come from /dev/ioasid.
        """
        event = self._pasid_request("free", minimum, maximum)
        with self.timeline.because(event):
            for pasid in self.user.pasids.keys():
                if minimum <= pasid <= maximum:
                    self.user.free(pasid)

    def _pasid_request(self, what: str, minimum: int, maximum: int) -> Event:
        if minimum > maximum:
            raise KernelError("EINVAL", f"the range must be min <= max, not [{minimum}, {maximum}]")
        if self.user.holder != HOLDER:
            raise KernelError("EOPNOTSUPP", "PASIDs of this machine come from /dev/ioasid, not from a VFIO container")
        return self.emit(Verb.IOCTL, f"PASID_REQUEST {what}", min=minimum, max=maximum)

    # --- VFIO_IOMMU_NESTING_OP ----------------------------------------------------------------------------------------

    def bind_pgtbl(self, key: str, data: GuestPasidBind | bytes) -> None:
        """Bind a guest page table on the device ``key``; ``data`` as a record, or as the bytes that user space passes.

        Errors: ``-ENODEV`` no such device, ``-EOPNOTSUPP`` the IOMMU does not nest, then those of the generic layer
        (:meth:`.GuestPasidBind.from_bytes`, :meth:`.GuestPasidBind.check`) and of its driver
        (:meth:`pasidlab.kernel.iommu.vtd.svm.Svm.bind_guest`).
        """
        device = self._nesting_device(key)
        bind = GuestPasidBind.from_bytes(data) if isinstance(data, bytes) else data
        event = self.emit(Verb.IOCTL, "NESTING_OP bind", hpasid=bind.hpasid, gpasid=bind.gpasid, gpgd=bind.gpgd)
        with self.timeline.because(event):
            bind.check()
            self._kernel.svm.bind_guest(device.rid, self.domain, bind, self.set)
            if not bind.flags & HPASID_DEF:
                number = self._kernel.svm.number_on(device.rid, bind.hpasid)
                self._kernel.iommu.page_requests.sinks[device.rid, number] = self

    def unbind_pgtbl(self, key: str, data: GuestPasidBind | int) -> None:
        """Unbind. Only the common part of the bind data is needed; a host PASID stands for data that names it.

        What generic layer and IOMMU driver answer is ignored, with an event: a late unbind finds nothing and fails
        harmlessly. ``-ENODEV`` no such device, ``-EOPNOTSUPP`` the IOMMU does not nest.
        """
        device = self._nesting_device(key)
        bind = GuestPasidBind(data) if isinstance(data, int) else data
        event = self.emit(Verb.IOCTL, "NESTING_OP unbind", hpasid=bind.hpasid)
        with self.timeline.because(event):
            try:
                bind.check()
                if bind.flags & HPASID_DEF:
                    self._kernel.svm.unbind_default(device.rid, self.domain)
                else:
                    self._kernel.svm.unbind_guest(device.rid, bind.hpasid, self.set)
            except KernelError as error:
                self.emit(Verb.IGNORE, f"unbind of PASID {bind.hpasid}: {error.reason}", after=f"-{error.name}")

    def _nesting_device(self, key: str) -> AttachedDevice:
        """The device of a nesting operation. ``-EOPNOTSUPP``: there is no nesting information for this container."""
        device = self._device(key)
        if not self._kernel.iommu.nesting:
            raise KernelError("EOPNOTSUPP", "the IOMMU must support nested translation to bind guest page tables")
        return device

    # --- a guest's whole table ----------------------------------------------------------------------------------------

    def hardware_info(self) -> tuple[int, ...]:
        """The identification registers of the host's unit (IOMMU_GET_HW_INFO), for an emulated one like it."""
        return self._kernel.iommu.hardware_info

    def can_stall(self, key: str) -> bool:
        """Whether the unit may hold transactions of a device, which the guest's firmware then says as well."""
        return self._kernel.iommu.devices[self._device(key).rid].stall

    def bind_table(self, key: str, entry: tuple[int, ...], listener: FaultListener | None = None) -> None:
        """Nest the whole table of PASIDs that a guest's own device entry names, for the device ``key``.

        From now on every page request of the device goes to the hypervisor, and the faults that are the guest's affair
        to ``listener``. Errors: ``-ENODEV`` no such device, and those of
        :meth:`.IommuDriver.bind_table`.
        """
        device, iommu = self._device(key), self._kernel.iommu
        event = self.emit(Verb.IOCTL, f"bind the PASID table of {key}", rid=device.rid)
        with self.timeline.because(event):
            iommu.bind_table(self.domain, device.rid, entry)
            iommu.page_requests.sinks[device.rid, EVERY_PASID] = self
            if listener is not None:
                iommu.listeners[device.rid] = listener

    def unbind_table(self, key: str) -> None:
        """Undo :meth:`bind_table`; nothing happens if none was bound. ``-ENODEV`` no such device."""
        device = self._device(key)
        if not self._kernel.iommu.has_table(device.rid):
            return
        event = self.emit(Verb.IOCTL, f"unbind the PASID table of {key}", rid=device.rid)
        with self.timeline.because(event):
            self._let_go_of_table(device.rid)

    def _let_go_of_table(self, rid: int) -> None:
        iommu = self._kernel.iommu
        iommu.unbind_table(self.domain, rid)
        if (rid, EVERY_PASID) in iommu.page_requests.sinks:
            del iommu.page_requests.sinks[rid, EVERY_PASID]
        if rid in iommu.listeners:
            del iommu.listeners[rid]

    def forward(self, command: tuple[int, ...], devices: Mapping[int, str]) -> None:
        """Carry out a guest's invalidation command on the real unit; ``devices`` are the keys of this container's
        devices by the requester ID that the guest knows. Errors: those of :meth:`.IommuDriver.forward`.
        """
        event = self.emit(Verb.IOCTL, "cache-invalidate, a command of the guest")
        with self.timeline.because(event):
            rids = {guest: self._device(key).rid for guest, key in devices.items()}
            self._kernel.iommu.forward(self.domain, command, rids)

    def cache_invalidate(self, hpasid: int, pages: tuple[int, int] | None = None) -> None:
        """Forward a guest's first-level invalidation of one PASID: all of it, or some ``pages`` (start, number).

        The guest need not know of device TLBs: they are flushed as well.
        """
        event = self.emit(Verb.IOCTL, "NESTING_OP cache-invalidate", hpasid=hpasid)
        with self.timeline.because(event):
            for number, rids in sorted(self._numbers(hpasid).items()):
                self._kernel.iommu.flush_guest(self.domain, number, rids, pages)

    def _numbers(self, hpasid: int) -> dict[int, list[int]]:
        """Under which numbers which devices of this container mean a host PASID."""
        found: dict[int, list[int]] = {}
        for rid in sorted({device.rid for device in self.devices.values()}):
            found.setdefault(self._kernel.svm.number_on(rid, hpasid), []).append(rid)
        return found

    # --- page requests ------------------------------------------------------------------------------------------------

    def listen(self, listener: PageListener | None) -> None:
        """Give page requests of bound PASIDs to the hypervisor (the fault region of the device, and its eventfd).

        ``None``: it is there no more; requests are refused from now on.
        """
        self.listener = listener

    def page_requested(self, request: PageRequest) -> ResponseCode | None:
        """The IOMMU driver reports a page request: hand it to the hypervisor, who will answer."""
        if self.listener is None:
            return ResponseCode.INVALID
        facts = {"rid": request.rid, "pasid": request.pasid, "address": request.address, "group": request.group}
        event = self.emit(Verb.PAGE_FAULT, str(request), after=f"to the hypervisor of {self.set.name}", **facts)
        with self.timeline.because(event):
            return self.listener.page_requested(request)

    def page_response(self, key: str, hpasid: int | None, group: int, code: ResponseCode) -> None:
        """The hypervisor answers. ``-ENODEV`` no such device, ``-EINVAL`` there was no such request.

        A response failure would stop the page requests of the whole device. Who has a part of it only must not do that
        to the others: it counts as invalid (our choice: UNVERIFIED).
        """
        device = self._device(key)
        if device.aux and code is ResponseCode.FAILURE:
            code = ResponseCode.INVALID
        event = self.emit(Verb.IOCTL, "page response", hpasid=hpasid, group=group, code=int(code))
        with self.timeline.because(event):
            number = hpasid if hpasid is None else self._kernel.svm.number_on(device.rid, hpasid)
            self._kernel.iommu.page_requests.respond(device.rid, number, group, code)

    def _device(self, key: str) -> AttachedDevice:
        device = self.devices.get(key)
        if device is None:
            raise KernelError("ENODEV", f"no device {key} is attached to this container")
        return device

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The file descriptor is closed: detach devices, let go of the PASIDs, whose last user frees them and the set,
        then free the domain.
        """
        event = self.emit(Verb.CLOSE, f"container of {self.set.name}")
        with self.timeline.because(event):
            for key in self.devices.keys():
                self.detach(key)
            self.user.put(HOLDER)
            self._kernel.iommu.domain_free(self.domain)
            for iova in self._pins.keys():
                self._kernel.pages.unpin(self._pins.pop(iova))
            self.open = False

    def __repr__(self) -> str:
        devices = ", ".join(format_rid(device.rid) for device in self.devices.values())
        return f"<VFIO container of {self.set.name}: {devices or 'no devices'}>"
