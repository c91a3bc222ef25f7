"""Binding address spaces to PASIDs: a process natively, a guest's page table for a VM.

Models ``drivers/iommu/intel/svm.c`` of the guest SVA series. The order is the documented one: program the entry, take
the reference, then attach the SPID, which is what notifies the other users (KVM, mediated devices); on the way back
clear the entry, detach the SPID (they are told), detach the data, drop the reference. A bind that fails on the way
leaves nothing behind.

One binding record a PASID; only its first device takes the reference and notifies, only its last one undoes that.

FREE of a bound PASID (a guest that forgot to unbind) is handled later, by queued work on the agenda: handlers are
atomic and must not wait for hardware.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.pcie import PASID_LIMIT, format_rid
from pasidlab.kernel.ioasid.notifier import IoasidEvent, Payload, Priority
from pasidlab.kernel.iommu.uapi import FORMAT_VTD, VTD_FLAGS, GuestPasidBind
from pasidlab.kernel.iommu.vtd import entries
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.kernel.iommu.vtd.domain import Domain
    from pasidlab.kernel.iommu.vtd.driver import VtdDriver
    from pasidlab.kernel.mm import Mm
    from pasidlab.timeline import Agenda, Timeline

__all__ = ["Svm", "SvmBinding"]

_HOLDER: Final = "iommu"


class SvmBinding(Part, state=("guest",)):
    """What a bound PASID carries: the devices it is bound on, by requester ID, each with its number of users."""

    def __init__(self, timeline: Timeline, path: str, pasid: int, *, guest: bool) -> None:
        super().__init__(timeline, path)
        self.pasid = pasid
        self.guest = guest
        self.devices = Table[int, int](timeline, f"{path}.devices")


class Svm(Actor):
    """The PASID bindings of one IOMMU driver. Subscribes to FREE on the global chain."""

    actor = "iommu"

    def __init__(self, driver: VtdDriver, agenda: Agenda) -> None:
        super().__init__(driver.timeline, f"{driver.path}.svm", driver.altitude)
        self.driver = driver
        self.core = driver.core
        self._agenda = agenda
        self.core.register_notifier(self)

    # --- a process's own page table -----------------------------------------------------------------------------------

    def bind_mm(self, rid: int, pasid: int, mm: Mm) -> None:
        """Let ``rid`` reach the process's virtual addresses with ``pasid``: a first-level entry."""
        binding = self._binding(pasid)
        if binding is not None and rid in binding.devices:
            raise KernelError("EBUSY", f"PASID {pasid} is already bound on {format_rid(rid)}")
        words = entries.first_level(mm.root, snoop=self.driver.snoop)
        self.driver.set_entry(rid, pasid, words, "first-level: a process's page table")
        if binding is None:
            binding = self._adopt(pasid, guest=False)
        binding.devices[rid] = 1
        self.emit(
            Verb.BIND, f"PASID {pasid} on {format_rid(rid)}", rid=rid, pasid=pasid, refs=self.core.find(pasid).refs
        )

    def unbind_mm(self, rid: int, pasid: int, *, fault_disable: bool = False) -> None:
        """Undo :meth:`bind_mm`. With ``fault_disable`` DMA that comes too late is blocked without a fault record."""
        binding = self._bound(pasid, rid)
        self.driver.clear_entry(rid, pasid, fault_disable=fault_disable)
        self._release_device(binding, rid)

    # --- a guest's page table -----------------------------------------------------------------------------------------

    def bind_guest(self, rid: int, domain: Domain, data: GuestPasidBind, the_set: IoasidSet) -> None:
        """Nest a guest's page table over its VM's domain, under a host PASID.

        Errors, in the order in which they are checked: ``-EINVAL`` format, flags that do not exist, host PASID out of
        range (0 is refused; the guest's number is not checked), unknown device; ``-ENOENT`` PASID not allocated or
        dying, ``-EACCES`` owned by another set, ``-EBUSY`` already bound on this device (unless it is shared by
        auxiliary domains), ``-EINVAL`` what a nested entry cannot do, or the guest's number already stands for another
        host PASID.
        """
        pasid = data.hpasid
        self._check_guest_bind(rid, data, the_set)
        binding = self._binding(pasid)
        if binding is not None and rid in binding.devices:
            if rid not in domain.aux:
                raise KernelError("EBUSY", f"PASID {pasid} is already bound on {format_rid(rid)}")
            binding.devices[rid] += 1
            return
        if not self.driver.nesting:
            raise KernelError("EINVAL", "the IOMMU must support nested translation")
        words = entries.nested(data, domain, snoop=self.driver.snoop, lacks=self.driver.lacks)
        self.driver.set_entry(rid, pasid, words, f"nested: guest table at {data.gpgd:#x} over memory of {domain.name}")
        if binding is None:
            binding = self._adopt(pasid, guest=True)
            binding.devices[rid] = 1
            self._announce(binding, rid, data)
        else:
            binding.devices[rid] = 1
        refs = self.core.find(pasid).refs
        self.emit(Verb.BIND, f"PASID {pasid} on {format_rid(rid)}", rid=rid, pasid=pasid, gpasid=data.gpasid, refs=refs)

    def _check_guest_bind(self, rid: int, data: GuestPasidBind, the_set: IoasidSet) -> None:
        if data.format != FORMAT_VTD:
            raise KernelError("EINVAL", f"the bind data must be in VT-d format (1), not {data.format}")
        if data.vtd_flags & ~sum(VTD_FLAGS.values()):
            raise KernelError("EINVAL", f"the flags must be a sum of {VTD_FLAGS}, not {data.vtd_flags:#x}")
        if not 1 <= data.hpasid < PASID_LIMIT:
            raise KernelError("EINVAL", f"the host PASID must be between 1 and {PASID_LIMIT - 1}, not {data.hpasid}")
        if rid not in self.driver.tables:
            raise KernelError("EINVAL", f"the IOMMU must know the device, not {format_rid(rid)}")
        self.core.find(data.hpasid, the_set)

    def _announce(self, binding: SvmBinding, rid: int, data: GuestPasidBind) -> None:
        """Attach the SPID, which notifies BIND; if it is refused, take everything back."""
        if data.gpasid is None:
            return
        try:
            self.core.attach_spid(data.hpasid, data.gpasid)
        except KernelError:
            self.driver.clear_entry(rid, data.hpasid)
            del binding.devices[rid]
            self._forget(binding)
            raise

    def unbind_guest(self, rid: int, pasid: int, the_set: IoasidSet, *, entirely: bool = False) -> None:
        """Undo one :meth:`bind_guest`, or with ``entirely`` all of them: the domain leaves the device.

        Errors: ``-ENOENT``/``-EACCES`` as for bind. A PASID that is allocated but not bound on this device is no error
        and nothing happens (a late unbind after FREE finds it so).
        """
        self.core.find(pasid, the_set)
        binding = self._binding(pasid)
        if binding is None or rid not in binding.devices:
            return
        if binding.devices[rid] > 1 and not entirely:
            binding.devices[rid] -= 1
            return
        self.driver.clear_entry(rid, pasid)
        self._release_device(binding, rid)

    # --- the binding record -------------------------------------------------------------------------------------------

    def _binding(self, pasid: int) -> SvmBinding | None:
        record = self.core.ids.get(pasid)
        private = record.private if record is not None else None
        return private if isinstance(private, SvmBinding) else None

    def binding_of(self, pasid: int) -> SvmBinding | None:
        """The binding of a PASID, if it is bound."""
        return self._binding(pasid)

    def _bound(self, pasid: int, rid: int) -> SvmBinding:
        binding = self._binding(pasid)
        if binding is None or rid not in binding.devices:
            raise KernelError("EINVAL", f"PASID {pasid} is not bound on {format_rid(rid)}")
        return binding

    def _adopt(self, pasid: int, *, guest: bool) -> SvmBinding:
        """The first device binds: attach the record, take the driver's one reference."""
        binding = SvmBinding(self.timeline, f"{self.path}.binding[{pasid}]", pasid, guest=guest)
        self.core.attach_data(pasid, binding)
        self.core.get(pasid, _HOLDER)
        return binding

    def _release_device(self, binding: SvmBinding, rid: int) -> None:
        del binding.devices[rid]
        self.emit(Verb.UNBIND, f"PASID {binding.pasid} on {format_rid(rid)}", rid=rid, pasid=binding.pasid)
        if not len(binding.devices):
            self.core.detach_spid(binding.pasid)
            self._forget(binding)

    def _forget(self, binding: SvmBinding) -> None:
        """SPID, data, reference: in this order, since the last put may end the set and with it the chain."""
        pasid = binding.pasid
        self.core.detach_data(pasid)
        binding.retire()
        self.core.put(pasid, _HOLDER)

    # --- FREE before unbind -------------------------------------------------------------------------------------------

    @property
    def notifier_name(self) -> str:
        """Shown in the chain."""
        return "IOMMU driver"

    @property
    def notifier_priority(self) -> Priority:
        """Behind the CPU and the devices."""
        return Priority.IOMMU

    def ioasid_notified(self, event: IoasidEvent, payload: Payload) -> bool:
        """FREE of a bound PASID: queue the clean-up (this is atomic context)."""
        if event is not IoasidEvent.FREE or self._binding(payload.ioasid) is None:
            return False
        self.emit(Verb.QUEUE_WORK, f"clean up PASID {payload.ioasid}", ioasid=payload.ioasid)
        self._agenda.enable(self, str(payload.ioasid), f"IOMMU driver cleans up PASID {payload.ioasid}")
        return True

    def flush(self, the_set: IoasidSet) -> None:
        """Do the queued clean-up of a set's PASIDs now: the domain that their entries point to is about to go."""
        for action in self._agenda.actions(self):
            if int(action.what) in the_set.ids:
                self._agenda.run(action.number)

    def run_enabled(self, what: str) -> None:
        """The queued clean-up: tear every device's entry down in silence, then let go."""
        pasid = int(what)
        binding = self._binding(pasid)
        event = self.emit(Verb.RUN_WORK, f"clean up PASID {pasid}", ioasid=pasid)
        with self.timeline.because(event):
            if binding is None:
                return
            for rid in binding.devices.keys():
                self.driver.clear_entry(rid, pasid, fault_disable=True)
                self._release_device(binding, rid)
