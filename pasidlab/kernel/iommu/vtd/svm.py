"""Binding address spaces to PASIDs: a process natively, a guest's page table for a VM.

Models ``drivers/iommu/intel/svm.c`` of the guest SVA series. The order is the documented one: program the entry, take
the reference, then attach the SPID, which is what notifies the other users (KVM, mediated devices); on the way back
clear the entry, detach the SPID (they are told), detach the data, drop the reference. A bind that fails on the way
leaves nothing behind.

One binding record a PASID; only its first device takes the reference and notifies, only its last one undoes that.
Users are counted on devices with auxiliary domains only: there several interfaces of one parent share its table.

A bind with HPASID_DEF is for the domain's default PASID, whose second-level entry it replaces by a nested one. Nobody
is told (there is no SPID), and unbind leaves no entry: the second-level one does not come back (a reading of the code).

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
from pasidlab.kernel.iommu.checks import refuse
from pasidlab.kernel.iommu.uapi import HPASID_DEF, GuestPasidBind
from pasidlab.kernel.iommu.vtd import entries
from pasidlab.kernel.iommu.vtd.device import enable_pasid
from pasidlab.kernel.iommu.vtd.guest_bind import DEVICE_CHECKS, PASID_CHECKS, GuestBind
from pasidlab.kernel.iommu.vtd.nested import NestedEntry
from pasidlab.kernel.pci import PciFunction
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.kernel.iommu.vtd.domain import Domain
    from pasidlab.kernel.iommu.vtd.driver import VtdDriver
    from pasidlab.kernel.mm import Mm
    from pasidlab.timeline import Timeline

__all__ = ["Svm", "SvmBinding"]

_HOLDER: Final = "iommu"


class SvmBinding(Part, state=("guest",)):
    """What a bound PASID carries: the devices it is bound on, by requester ID, each with its number of users.

    ``numbers``: under which PASID the requests of a device mean it, where that is not the host's number.
    """

    def __init__(self, timeline: Timeline, path: str, pasid: int, *, guest: bool) -> None:
        super().__init__(timeline, path)
        self.pasid = pasid
        self.guest = guest
        self.devices = Table[int, int](timeline, f"{path}.devices")
        self.numbers = Table[int, int](timeline, f"{path}.numbers")

    def number_on(self, rid: int) -> int:
        """The PASID that requests of ``rid`` carry when they mean this binding: the index of its entry there."""
        return self.numbers.get(rid, self.pasid)


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
        words = entries.first_level(mm.root, self.driver.unit)
        meaning = "first-level: a process's page table"
        if binding is None:
            binding = self._first(
                pasid,
                lambda: self.driver.set_entry(rid, pasid, words, meaning),
                lambda: self.driver.clear_entry(rid, pasid),
                guest=False,
            )
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

    def bind_guest(self, rid: int, domain: Domain, data: GuestPasidBind | None, the_set: IoasidSet) -> None:
        """Nest a guest's page table over its VM's domain, under a host PASID.

        Errors, in the order of facts/ioasid.md 4.2: no data ``-EINVAL`` (row 1); the request and the device
        (:data:`.guest_bind.DEVICE_CHECKS`, rows 2 to 6); HPASID_DEF without a default PASID on this device ``-EINVAL``
        (7, UNVERIFIED which errno); host PASID out of range, unknown device (:data:`.guest_bind.PASID_CHECKS`, 8, 9);
        PASID not allocated or dying ``-ENOENT``, owned by another set ``-EACCES`` (10; a default PASID is the host's);
        bound on no device ``-EINVAL`` (11); already bound on this device ``-EBUSY`` (12), unless it has auxiliary
        domains; ``-ENOMEM`` (13); PASIDs cannot be enabled on the device (14); :data:`.nested.NESTED_CHECKS` (15).
        Last, which the code ignores: ``-EINVAL`` the guest's number already stands for another host PASID.

        On a device that carries the guest's numbers (:class:`.device.Numbering`) the entry is that of the guest's
        number; ``-EINVAL`` a bind that names none.
        """
        if data is None:
            raise KernelError("EINVAL", "a bind must have bind data")
        device = self.driver.devices.get(rid)
        refuse(DEVICE_CHECKS, GuestBind(rid, device, data))
        if data.flags & HPASID_DEF:
            data = data._replace(hpasid=self._default_pasid(domain, rid), gpasid=None)
        refuse(PASID_CHECKS, GuestBind(rid, device, data))
        self._look_up(data.hpasid, None if data.flags & HPASID_DEF else the_set)
        binding = self._with_devices(data.hpasid)
        if binding is not None and rid in binding.devices:
            self._bind_again(binding, rid, domain)
            return
        if binding is None:
            self._bind_first(rid, domain, data)
        else:
            self._add_device(binding, rid, domain, data)
        pasid = data.hpasid
        refs = self.core.refs(pasid)
        self.emit(Verb.BIND, f"PASID {pasid} on {format_rid(rid)}", rid=rid, pasid=pasid, gpasid=data.gpasid, refs=refs)

    def _default_pasid(self, domain: Domain, rid: int) -> int:
        """The default PASID with which a device reaches a domain. ``-EINVAL``: it is not an auxiliary one there."""
        if domain.default_pasid is None or rid not in domain.aux:
            raise KernelError("EINVAL", f"the domain of {domain.name} must have a default PASID on {format_rid(rid)}")
        return domain.default_pasid

    def _look_up(self, pasid: int, the_set: IoasidSet | None) -> None:
        self.core.living(pasid, the_set)

    def _with_devices(self, pasid: int) -> SvmBinding | None:
        """The binding of a PASID; one without any device is a mistake of this driver, which the code warns of."""
        binding = self._binding(pasid)
        if binding is not None and not len(binding.devices):
            raise KernelError("EINVAL", f"PASID {pasid} has a binding, which must be on some device")
        return binding

    def _bind_again(self, binding: SvmBinding, rid: int, domain: Domain) -> None:
        """The PASID is bound on this device: refused, or on a device with auxiliary domains one more user.

        What the new request asks for is not looked at: the interfaces of one parent share its entry.
        """
        if rid not in domain.aux:
            raise KernelError("EBUSY", f"PASID {binding.pasid} is already bound on {format_rid(rid)}")
        binding.devices[rid] += 1

    def _bind_first(self, rid: int, domain: Domain, data: GuestPasidBind) -> None:
        """The first device of a PASID: entry, reference, and only then the SPID, which tells the others."""
        number = self._number(rid, data)
        binding = self._first(
            data.hpasid,
            lambda: self._write_nested(rid, domain, data),
            lambda: self.driver.clear_entry(rid, number, ioasid=data.hpasid),
            guest=True,
        )
        self._record(binding, rid, domain, data)
        self._announce(binding, rid, data)

    def _add_device(self, binding: SvmBinding, rid: int, domain: Domain, data: GuestPasidBind) -> None:
        """A further device: an entry of its own, no reference, nobody is told."""
        self._write_nested(rid, domain, data)
        self._record(binding, rid, domain, data)

    def _record(self, binding: SvmBinding, rid: int, domain: Domain, data: GuestPasidBind) -> None:
        """A device's first count of users (only devices with auxiliary domains count), and its number."""
        binding.devices[rid] = int(rid in domain.aux)
        number = self._number(rid, data)
        if number != binding.pasid:
            binding.numbers[rid] = number

    def _number(self, rid: int, data: GuestPasidBind) -> int:
        """The PASID under which requests of ``rid`` will mean what is bound."""
        if rid not in self.driver.numbering:
            return data.hpasid
        if data.gpasid is None or not 0 < data.gpasid < PASID_LIMIT:
            raise KernelError(
                "EINVAL", f"a bind on {format_rid(rid)} must name the guest's PASID, by which the device will ask"
            )
        return data.gpasid

    def _write_nested(self, rid: int, domain: Domain, data: GuestPasidBind) -> None:
        """Memory for the device's record, PASIDs on, then the entry. What is in its place now is torn down first."""
        self.core.slab.alloc("struct intel_svm_dev")
        enable_pasid(PciFunction(self.driver._mmio, rid))
        number = self._number(rid, data)
        words, meaning = self._nested(rid, number, domain, data)
        if entries.is_present(self.driver.table_of(rid).read(number)):
            self.driver.clear_entry(rid, number, ioasid=data.hpasid)
        self.driver.set_entry(rid, number, words, meaning, ioasid=data.hpasid)

    def _nested(self, rid: int, number: int, domain: Domain, data: GuestPasidBind) -> tuple[tuple[int, ...], str]:
        """The words of a nested entry, and what they mean. Errors: :data:`.nested.NESTED_CHECKS`."""
        current = self.driver.table_of(rid).read(number)
        words = NestedEntry(data, domain, self.driver.unit, current).words()
        return words, f"nested: guest table at {data.gpgd:#x} over memory of {domain.name}"

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
            self._clear(binding, rid)
            self._leave(binding, rid)
        if self.core.ids[binding.pasid].spid is not None:
            self.core.detach_spid(binding.pasid)
        self._forget(binding)

    def unbind_guest(self, rid: int, pasid: int, the_set: IoasidSet, *, entirely: bool = False) -> None:
        """Undo one :meth:`bind_guest`, or with ``entirely`` all of them: the domain leaves the device.

        Errors: ``-ENOENT``/``-EACCES`` as for bind. A PASID that is allocated but not bound on this device is no error
        and nothing happens (a late unbind after FREE finds it so).
        """
        self.core.living(pasid, the_set)
        self._unbind(rid, pasid, entirely=entirely)

    def unbind_default(self, rid: int, domain: Domain) -> None:
        """Undo a :meth:`bind_guest` with HPASID_DEF. ``-EINVAL``: the domain has no default PASID on this device."""
        pasid = self._default_pasid(domain, rid)
        self.core.living(pasid)
        self._unbind(rid, pasid, entirely=False)

    def _unbind(self, rid: int, pasid: int, *, entirely: bool) -> None:
        binding = self._binding(pasid)
        if binding is None or rid not in binding.devices:
            return
        if binding.devices[rid] > 1 and not entirely:
            binding.devices[rid] -= 1
            return
        self._clear(binding, rid)
        self._release_device(binding, rid)

    def _clear(self, binding: SvmBinding, rid: int, *, fault_disable: bool = False) -> None:
        """Take away the entry of a binding on one device."""
        number = binding.number_on(rid)
        self.driver.clear_entry(rid, number, fault_disable=fault_disable, ioasid=binding.pasid)

    # --- the binding record -------------------------------------------------------------------------------------------

    def _binding(self, pasid: int) -> SvmBinding | None:
        record = self.core.ids.get(pasid)
        private = record.private if record is not None else None
        return private if isinstance(private, SvmBinding) else None

    def binding_of(self, pasid: int) -> SvmBinding | None:
        """The binding of a PASID, if it is bound."""
        return self._binding(pasid)

    def number_on(self, rid: int, pasid: int) -> int:
        """The wire number: what requests of ``rid`` carry when they mean ``pasid`` (which need not be bound there)."""
        binding = self._binding(pasid)
        return pasid if binding is None else binding.number_on(rid)

    def _bound(self, pasid: int, rid: int) -> SvmBinding:
        binding = self._binding(pasid)
        if binding is None or rid not in binding.devices:
            raise KernelError("EINVAL", f"PASID {pasid} is not bound on {format_rid(rid)}")
        return binding

    def _first(self, pasid: int, write: Callable[[], None], clear: Callable[[], None], *, guest: bool) -> SvmBinding:
        """The first device binds: attach the record, write the entry, take the driver's one reference."""
        binding = self._attach(pasid, guest=guest)
        with ExitStack() as undo:
            undo.callback(self._detach, binding)
            write()
            undo.callback(clear)
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

    @staticmethod
    def _leave(binding: SvmBinding, rid: int) -> None:
        del binding.devices[rid]
        if rid in binding.numbers:
            del binding.numbers[rid]

    def _release_device(self, binding: SvmBinding, rid: int) -> None:
        self._leave(binding, rid)
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
                    self._clear(binding, rid, fault_disable=True)
                except KernelError as error:
                    self.emit(Verb.REFUSE, f"clean-up of PASID {pasid}: {error.reason}", after=f"-{error.name}")
                self._release_device(binding, rid)
