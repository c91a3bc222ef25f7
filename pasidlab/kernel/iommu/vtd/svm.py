"""Binding address spaces to PASIDs: a process natively, a guest's page table for a VM.

Models ``drivers/iommu/intel/svm.c`` of the guest SVA series. The order is the documented one: program the entry, take
the reference, then attach the SPID, which is what notifies the other users (KVM, mediated devices); on the way back
clear the entry, detach the SPID (they are told), detach the data, drop the reference. A bind that fails on the way
leaves nothing behind.

One binding record a PASID; only its first device takes the reference and notifies, only its last one undoes that.

FREE of a bound PASID (a guest that forgot to unbind) is handled later, by work on the core's ordered queue: handlers
are atomic and must not wait for hardware. UNBIND is sent in process context: what its handlers queued (a mediated
device drains its queue) has run before the reference is dropped, since afterwards the number may be somebody else's.
"""

from __future__ import annotations

from contextlib import ExitStack
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
    from pasidlab.timeline import Timeline

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

    def __init__(self, driver: VtdDriver) -> None:
        super().__init__(driver.timeline, f"{driver.path}.svm", driver.altitude)
        self.driver = driver
        self.core = driver.core
        self.core.notifiers.register(self)

    # --- a process's own page table -----------------------------------------------------------------------------------

    def bind_mm(self, rid: int, pasid: int, mm: Mm) -> None:
        """Let ``rid`` reach the process's virtual addresses with ``pasid``: a first-level entry."""
        binding = self._binding(pasid)
        if binding is not None and rid in binding.devices:
            raise KernelError("EBUSY", f"PASID {pasid} is already bound on {format_rid(rid)}")
        words = entries.first_level(mm.root, snoop=self.driver.snoop)
        meaning = "first-level: a process's page table"
        if binding is None:
            binding = self._first(rid, pasid, words, meaning, guest=False)
        else:
            self.driver.set_entry(rid, pasid, words, meaning)
        binding.devices[rid] = 1
        self.emit(Verb.BIND, f"PASID {pasid} on {format_rid(rid)}", rid=rid, pasid=pasid, refs=self.core.refs(pasid))

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
        if binding is None:
            self._bind_first(rid, domain, data)
        else:
            self.driver.set_entry(rid, pasid, *self._nested(domain, data))
            binding.devices[rid] = 1
        refs = self.core.refs(pasid)
        self.emit(Verb.BIND, f"PASID {pasid} on {format_rid(rid)}", rid=rid, pasid=pasid, gpasid=data.gpasid, refs=refs)

    def _nested(self, domain: Domain, data: GuestPasidBind) -> tuple[tuple[int, ...], str]:
        """The words of a nested entry, and what they mean."""
        words = entries.nested(data, domain, snoop=self.driver.snoop, lacks=self.driver.lacks)
        return words, f"nested: guest table at {data.gpgd:#x} over memory of {domain.name}"

    def _bind_first(self, rid: int, domain: Domain, data: GuestPasidBind) -> None:
        """The first device of a PASID: entry, reference, and only then the SPID, which tells the others."""
        binding = self._first(rid, data.hpasid, *self._nested(domain, data), guest=True)
        binding.devices[rid] = 1
        self._announce(binding, rid, data)

    def _check_guest_bind(self, rid: int, data: GuestPasidBind, the_set: IoasidSet) -> None:
        if data.format != FORMAT_VTD:
            raise KernelError("EINVAL", f"the bind data must be in VT-d format (1), not {data.format}")
        if data.vtd_flags & ~sum(VTD_FLAGS.values()):
            raise KernelError("EINVAL", f"the flags must be a sum of {VTD_FLAGS}, not {data.vtd_flags:#x}")
        if not 1 <= data.hpasid < PASID_LIMIT:
            raise KernelError("EINVAL", f"the host PASID must be between 1 and {PASID_LIMIT - 1}, not {data.hpasid}")
        if rid not in self.driver.tables:
            raise KernelError("EINVAL", f"the IOMMU must know the device, not {format_rid(rid)}")
        self._look_up(data.hpasid, the_set)

    def _look_up(self, pasid: int, the_set: IoasidSet) -> None:
        self.core.living(pasid, the_set)

    def _announce(self, binding: SvmBinding, rid: int, data: GuestPasidBind) -> None:
        """Attach the SPID, which notifies BIND; if it is refused, take everything back."""
        if data.gpasid is None:
            return
        try:
            self.core.attach_spid(data.hpasid, data.gpasid)
        except KernelError:
            self._take_back(binding, rid)
            raise

    def _take_back(self, binding: SvmBinding, rid: int) -> None:
        """Undo what a first bind did before it failed: entry, SPID (if they are there), record, reference."""
        if rid in binding.devices:
            self.driver.clear_entry(rid, binding.pasid)
            del binding.devices[rid]
        if self.core.ids[binding.pasid].spid is not None:
            self.core.detach_spid(binding.pasid)
        self._forget(binding)

    def unbind_guest(self, rid: int, pasid: int, the_set: IoasidSet, *, entirely: bool = False) -> None:
        """Undo one :meth:`bind_guest`, or with ``entirely`` all of them: the domain leaves the device.

        Errors: ``-ENOENT``/``-EACCES`` as for bind. A PASID that is allocated but not bound on this device is no error
        and nothing happens (a late unbind after FREE finds it so).
        """
        self.core.living(pasid, the_set)
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

    def _first(self, rid: int, pasid: int, words: tuple[int, ...], meaning: str, *, guest: bool) -> SvmBinding:
        """The first device binds: attach the record, write the entry, take the driver's one reference."""
        binding = self._attach(pasid, guest=guest)
        with ExitStack() as undo:
            undo.callback(self._detach, binding)
            self.driver.set_entry(rid, pasid, words, meaning)
            undo.callback(self.driver.clear_entry, rid, pasid)
            self._hold(pasid)
            undo.pop_all()
        return binding

    def _attach(self, pasid: int, *, guest: bool) -> SvmBinding:
        self.core.slab.alloc("struct intel_svm")
        binding = SvmBinding(self.timeline, f"{self.path}.binding[{pasid}]", pasid, guest=guest)
        try:
            self.core.attach_data(pasid, binding)
        except KernelError:
            binding.retire()
            raise
        return binding

    def _detach(self, binding: SvmBinding) -> None:
        self.core.detach_data(binding.pasid)
        binding.retire()

    def _hold(self, pasid: int) -> None:
        self.core.get(pasid, _HOLDER)

    def _let_go(self, pasid: int) -> None:
        self.core.put(pasid, _HOLDER)

    def _release_device(self, binding: SvmBinding, rid: int) -> None:
        del binding.devices[rid]
        pasid = binding.pasid
        refs = self.core.refs(pasid)
        self.emit(Verb.UNBIND, f"PASID {pasid} on {format_rid(rid)}", rid=rid, pasid=pasid, refs=refs)
        if not len(binding.devices):
            self._end(binding)

    def _end(self, binding: SvmBinding) -> None:
        """SPID, data, reference: in this order, since the last put may end the set and with it the chain."""
        if self.core.ids[binding.pasid].spid is not None:
            self.core.detach_spid(binding.pasid)
        if not self.core.work.running:
            self.core.work.flush()
        self._forget(binding)

    def _forget(self, binding: SvmBinding) -> None:
        self._detach(binding)
        self._let_go(binding.pasid)

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
        refs = self.core.refs(payload.ioasid)
        self.emit(Verb.QUEUE_WORK, f"clean up PASID {payload.ioasid}", ioasid=payload.ioasid, refs=refs)
        self.core.work.queue(self, str(payload.ioasid), f"IOMMU driver: clean up PASID {payload.ioasid}")
        return True

    def run_work(self, what: str) -> None:
        """The queued clean-up: tear every device's entry down in silence, then let go."""
        pasid = int(what)
        binding = self._binding(pasid)
        event = self.emit(Verb.RUN_WORK, f"clean up PASID {pasid}", ioasid=pasid, refs=self.core.refs(pasid))
        with self.timeline.because(event):
            if binding is None:
                return
            for rid in binding.devices.keys():
                try:
                    self.driver.clear_entry(rid, pasid, fault_disable=True)
                except KernelError as error:
                    self.emit(Verb.REFUSE, f"clean-up of PASID {pasid}: {error.reason}", after=f"-{error.name}")
                self._release_device(binding, rid)
