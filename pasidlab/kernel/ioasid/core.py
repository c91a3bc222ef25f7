"""The IOASID core: IDs with references, and what their users hang on them: private data and SPIDs.

Models ``drivers/iommu/ioasid.c`` with the IOASID extensions (V4 structures, posted February 2021, never merged). IDs
and references are in :mod:`.ids`, sets and their quotas in :mod:`.sets`, notifier chains in :mod:`.subscriptions`,
allocators in :mod:`.allocators`, the capacity in :mod:`.capacity`, the lock in :mod:`.lock`; deferred clean-up waits in
the ordered workqueue ``work``.

Where the documents of the series and its code differ, the documents are followed; every such place is a row of
:data:`pasidlab.deviations.DEVIATIONS`.

Invariants: besides those of :mod:`.ids`, an ID has one SPID at most, and in each set a SPID stands for one ID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.ids import IoasidIds
from pasidlab.kernel.ioasid.notifier import HEARD_ON, IoasidEvent
from pasidlab.kernel.ioasid.quota.contract import IoasidRefused
from pasidlab.kernel.ioasid.record import INVALID_IOASID, IoasidRecord
from pasidlab.timeline import Part, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.allocators import AllocatorOps
    from pasidlab.kernel.ioasid.sets import IoasidSet

__all__ = ["IoasidCore", "IoasidRefused"]


class IoasidCore(IoasidIds):
    """One kernel's IOASIDs.

    >>> from pasidlab.timeline import Agenda, Part, Timeline
    >>> time = Timeline(); core = IoasidCore(time, "ioasid", "host", Agenda(time))
    >>> vm = core.sets.alloc("vm1", Part(time, "mm"), quota=2)
    >>> core.alloc(vm, 1, 100, "vfio"); core.get(1, "iommu")
    1
    >>> core.free(vm, 1); core.ids[1]
    <IOASID 1 of vm1, free-pending, held by iommu>
    >>> core.put(1, "iommu"), len(core.ids)
    (True, 0)
    """

    # --- private data -------------------------------------------------------------------------------------------------

    def attach_data(self, ioasid: int, private: Part) -> None:
        """Attach a user's private data; ``-ENOENT`` unknown or dying, ``-EBUSY`` something is attached already."""
        self.lock.take("ioasid_attach_data")
        record = self._to_carry_data(ioasid)
        if record.private is not None:
            raise KernelError("EBUSY", f"PASID {ioasid} already carries private data")
        record.private = private

    def _to_carry_data(self, ioasid: int) -> IoasidRecord:
        return self._alive(ioasid)

    def detach_data(self, ioasid: int) -> None:
        """Take the private data off, if there is any (it waits for readers, so no handler may call it)."""
        self.lock.take("ioasid_detach_data")
        record = self.ids.get(ioasid)
        if record is None:
            self.emit(Verb.IGNORE, f"private data of IOASID {ioasid}: it is not allocated", ioasid=ioasid)
        else:
            record.private = None

    # --- SPIDs --------------------------------------------------------------------------------------------------------

    def attach_spid(self, ioasid: int, spid: int) -> None:
        """Give an ID its set-private number (the guest's PASID) and tell the set's subscribers: BIND.

        Errors: ``-EINVAL`` not a number that can be one; ``-ENOENT`` unknown or dying; ``-EINVAL`` another ID of the
        set has this SPID, or this ID has one already.
        """
        self.lock.take("ioasid_attach_spid")
        if type(spid) is not int or not 0 <= spid < INVALID_IOASID:
            raise KernelError("EINVAL", f"a guest PASID must be between 0 and {INVALID_IOASID - 1}, not {spid!r}")
        record = self._to_get_a_spid(ioasid)
        self._refuse_twin(record, spid)
        self._refuse_second_spid(record)
        record.spid = spid
        record.owner.spids[spid] = ioasid
        event = self.emit(Verb.ATTACH_SPID, f"IOASID {ioasid}", after=spid, ioasid=ioasid, spid=spid, refs=record.refs)
        with self.timeline.because(event):
            self.notifiers.deliver(record, IoasidEvent.BIND, HEARD_ON[IoasidEvent.BIND])

    def _to_get_a_spid(self, ioasid: int) -> IoasidRecord:
        return self._alive(ioasid)

    @staticmethod
    def _refuse_twin(record: IoasidRecord, spid: int) -> None:
        twin = record.owner.spids.get(spid)
        if twin is not None and twin != record.ioasid:
            raise KernelError(
                "EINVAL", f"guest PASID {spid} of {record.owner.name} already stands for host PASID {twin}"
            )

    @staticmethod
    def _refuse_second_spid(record: IoasidRecord) -> None:
        if record.spid is not None:
            raise KernelError("EINVAL", f"PASID {record.ioasid} already has the SPID {record.spid}")

    def detach_spid(self, ioasid: int) -> None:
        """Tell the set's subscribers UNBIND (with the SPID still in the payload), then clear the SPID.

        An ID without SPID, or unknown, is left alone, and an event says so. One in FREE_PENDING is cleared silently:
        FREE has told its users.
        """
        self.lock.take("ioasid_detach_spid")
        record = self.ids.get(ioasid)
        if record is None or record.spid is None:
            self.emit(Verb.IGNORE, f"SPID of IOASID {ioasid}: it has none", ioasid=ioasid)
            return
        event = self.emit(
            Verb.DETACH_SPID, f"IOASID {ioasid}", record.spid, "none", ioasid=ioasid, spid=record.spid, refs=record.refs
        )
        with self.timeline.because(event):
            self._tell_unbind(record)
        record.owner.erase_spid(record)
        record.spid = None

    def _tell_unbind(self, record: IoasidRecord) -> None:
        if not record.free_pending:
            self.notifiers.deliver(record, IoasidEvent.UNBIND, HEARD_ON[IoasidEvent.UNBIND])

    def find_by_spid(self, the_set: IoasidSet, spid: int, holder: str | None = None) -> int | None:
        """The ID of ``the_set`` with this SPID; with ``holder`` a reference is taken, on a living ID only.

        ``None`` (the kernel's INVALID_IOASID): no such SPID, or the set is gone.
        """
        self.lock.take("ioasid_find_by_spid")
        ioasid = the_set.spids.get(spid) if self.sets.has(the_set) else None
        if ioasid is None or holder is None:
            return ioasid
        if self.ids[ioasid].free_pending:
            return None
        self.get_locked(ioasid, holder)
        return ioasid

    # --- allocators ---------------------------------------------------------------------------------------------------

    def register_allocator(self, ops: AllocatorOps) -> None:
        """Let numbers come from elsewhere. Errors: those of :meth:`.allocators.Allocators.register`."""
        self.lock.take("ioasid_register_allocator")
        self.allocators.register(ops, len(self.ids))
        self.emit(Verb.REGISTER, f"allocator {ops.path}", after=f"active: {self.allocators.active.path}")

    def unregister_allocator(self, ops: AllocatorOps) -> None:
        """Undo :meth:`register_allocator`; ignored, with an event, if it is not registered. ``-EBUSY`` IDs are out."""
        self.lock.take("ioasid_unregister_allocator")
        if self.allocators.unregister(ops, len(self.ids)):
            self.emit(Verb.UNREGISTER, f"allocator {ops.path}", after=f"active: {self.allocators.active.path}")
        else:
            self.emit(Verb.IGNORE, f"{ops.path} is not registered as an allocator")
