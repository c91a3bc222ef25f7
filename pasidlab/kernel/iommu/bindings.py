"""Binding address spaces to PASIDs: the record of who is bound where, and a process's own page table.

Models what ``drivers/iommu/intel/svm.c``, ``arm-smmu-v3-sva.c`` and AMD's ``iommu_v2``/``iommu.c`` do alike for a
process: one record a PASID, an entry on each device. The order is the documented one: program the entry, take the
reference, and only then let others know; on the way back clear the entry, detach the data, drop the reference. A bind
that fails on the way leaves nothing behind. Only the first device of a PASID takes the reference, only the last one
drops it.

FREE of a bound PASID (a guest that forgot to unbind) is handled later, by work on the core's ordered queue: handlers
are atomic and must not wait for hardware. UNBIND is sent in process context: what its handlers queued (a mediated
device drains its queue) has run before the reference is dropped, since afterwards the number may be somebody else's.

How a *guest's* page tables are bound one by one is VT-d's alone (:mod:`.vtd.svm`): the other two bind a guest's whole
table (:meth:`.contract.IommuDriver.bind_table`).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.ioasid.notifier import IoasidEvent, Payload, Priority
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.kernel.iommu.contract import IommuDriver
    from pasidlab.kernel.iommu.domain import Domain
    from pasidlab.kernel.iommu.uapi import GuestPasidBind
    from pasidlab.kernel.mm import Mm
    from pasidlab.timeline import Timeline

__all__ = ["Bindings", "SvmBinding"]

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


class Bindings(Actor):
    """The PASID bindings of one IOMMU driver. Subscribes to FREE on the global chain."""

    actor = "iommu"

    def __init__(self, driver: IommuDriver) -> None:
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
        if binding is None:
            binding = self._first(
                pasid,
                lambda: self.driver.write_process(rid, pasid, mm),
                lambda: self.driver.clear_entry(rid, pasid),
                guest=False,
            )
        else:
            self.driver.write_process(rid, pasid, mm)
        binding.devices[rid] = 1
        self.emit(Verb.BIND, f"PASID {pasid} on {format_rid(rid)}", rid=rid, pasid=pasid, refs=self.core.refs(pasid))

    def unbind_mm(self, rid: int, pasid: int, *, fault_disable: bool = False) -> None:
        """Undo :meth:`bind_mm`. With ``fault_disable`` DMA that comes too late is blocked without a fault record."""
        binding = self._bound(pasid, rid)
        self.driver.clear_entry(rid, pasid, fault_disable=fault_disable)
        self._release_device(binding, rid)

    # --- a guest's page table, one PASID at a time --------------------------------------------------------------------

    def bind_guest(self, rid: int, domain: Domain, data: GuestPasidBind | None, the_set: IoasidSet) -> None:
        """Nest one guest page table under a host PASID. ``-EOPNOTSUPP``: this unit takes whole tables only."""
        raise KernelError("EOPNOTSUPP", self.driver.why_whole_tables)

    def unbind_guest(self, rid: int, pasid: int, the_set: IoasidSet, *, entirely: bool = False) -> None:
        """Undo :meth:`bind_guest`; where nothing can have been bound so, nothing happens."""
        self.core.living(pasid, the_set)

    def unbind_default(self, rid: int, domain: Domain) -> None:
        """Undo a bind with HPASID_DEF. ``-EOPNOTSUPP`` as for :meth:`bind_guest`."""
        raise KernelError("EOPNOTSUPP", self.driver.why_whole_tables)

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
