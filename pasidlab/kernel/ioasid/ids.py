"""IOASIDs and their references: alloc, free, get, put, and the look-ups.

Models the greater part of ``drivers/iommu/ioasid.c`` with the IOASID extensions (V4 structures, posted February 2021,
never merged). What users hang on an ID (private data, SPIDs) is in :mod:`.core`, which is the whole.

Where the documents of the series and its code differ, the documents are followed; every such place is a row of
:data:`pasidlab.deviations.DEVIATIONS`. The kernel's ``ioasid_alloc`` answers INVALID_IOASID for each kind of failure;
here it raises :class:`IoasidRefused`, which has a reason and no errno, since its callers choose one.

Invariants: an ID is in ``ids`` and in its set's table exactly while it has a reference; it is charged to its payer for
just as long; a dying ID gets no new reference; a call that is refused has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.allocators import Allocators
from pasidlab.kernel.ioasid.capacity import PCIE_CAPACITY, Capacity
from pasidlab.kernel.ioasid.lock import AllocatorLock
from pasidlab.kernel.ioasid.notifier import HEARD_ON, IoasidEvent
from pasidlab.kernel.ioasid.quota.contract import IoasidRefused, QuotaPolicy
from pasidlab.kernel.ioasid.quota.fixed import FixedQuota
from pasidlab.kernel.ioasid.record import INVALID_IOASID, IoasidRecord, Phase
from pasidlab.kernel.ioasid.sets import IoasidSet, IoasidSets, SetType
from pasidlab.kernel.slab import Slab
from pasidlab.kernel.workqueue import OrderedWorkqueue
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.timeline import Agenda, Timeline

__all__ = ["IoasidIds"]


class IoasidIds(Actor):
    """The numbers of one kernel: ``ids`` are those that are out, with whatever is known of each."""

    actor = "ioasid"

    def __init__(
        self,
        timeline: Timeline,
        path: str,
        altitude: str,
        agenda: Agenda,
        capacity: int = PCIE_CAPACITY,
        policy: Callable[[IoasidIds], QuotaPolicy] = FixedQuota,
    ) -> None:
        super().__init__(timeline, path, altitude)
        self.lock = AllocatorLock(self)
        self.slab = Slab(timeline, f"{path}.slab")
        self.capacity = Capacity(timeline, f"{path}.capacity", altitude, capacity, self.lock)
        self.allocators = Allocators(timeline, f"{path}.allocators", self.slab)
        self.sets = IoasidSets(timeline, f"{path}.sets", altitude, self.capacity, self.lock, self.slab)
        self.notifiers = self.sets.notifiers
        self.work = OrderedWorkqueue(timeline, f"{path}.work", agenda, altitude, self.lock.take)
        self.ids = Table[int, IoasidRecord](timeline, f"{path}.ids")
        self.policy = policy(self)
        self.sets.forget = self.policy.forget

    # --- alloc and free -----------------------------------------------------------------------------------------------

    def alloc(
        self,
        the_set: IoasidSet | None,
        minimum: int,
        maximum: int,
        holder: str,
        private: Part | None = None,
        current: Part | None = None,
    ) -> int:
        """The lowest free ID in the inclusive range, owned by ``the_set``; the first reference belongs to ``holder``.

        ``current`` is the mm of the calling process, whom a policy may charge. Raises :class:`IoasidRefused`: the set
        is gone or free-pending, the policy refuses, the quota is used up, no number or no memory is free.
        """
        self.lock.take("ioasid_alloc")
        if the_set is None:
            raise IoasidRefused("an IOASID must belong to an ioasid_set")
        if not self.sets.has(the_set):
            raise IoasidRefused(f"{the_set.name} has no ioasid_set any more")
        self._refuse_ending(the_set)
        if minimum < 0:
            raise ValueError(f"an IOASID is unsigned: the range must start at 0 or above, not {minimum}")
        payer = the_set.token if current is None else current
        self.policy.charge(the_set, payer)
        try:
            record = self._make(the_set, minimum, maximum, holder, private, payer)
        except (IoasidRefused, KernelError):
            self._uncharge_refused(the_set, payer)
            raise
        number = record.ioasid
        self.ids[number] = record
        the_set.ids[number] = record
        event = self.emit(
            Verb.ALLOC, f"IOASID {number}", after=the_set.name, ioasid=number, set_id=the_set.set_id, refs=1
        )
        with self.timeline.because(event):
            self.notifiers.deliver(record, IoasidEvent.ALLOC, HEARD_ON[IoasidEvent.ALLOC])
        return number

    def _uncharge_refused(self, the_set: IoasidSet, payer: Part | None) -> None:
        self.policy.uncharge(the_set, payer)

    def _make(
        self, the_set: IoasidSet, minimum: int, maximum: int, holder: str, private: Part | None, payer: Part | None
    ) -> IoasidRecord:
        """Choose a number and make its record; what fails on the way is taken back."""
        if the_set.full:
            raise IoasidRefused(f"{the_set.name} has used its quota of {the_set.quota} PASIDs")
        self._remember("struct ioasid_data")
        allocator = self.allocators.active
        number = allocator.alloc(minimum, maximum)
        if number is None or not 0 <= number < INVALID_IOASID:
            raise IoasidRefused(allocator.refusal)
        try:
            if number in self.ids:
                raise IoasidRefused(f"the allocator answered {number}, which is already out")
            self._remember("the table of IDs")
            self._remember("the table of the set's IDs")
        except IoasidRefused:
            allocator.free(number)
            raise
        return IoasidRecord(self.timeline, f"{self.path}.id[{number}]", number, the_set, holder, private, payer)

    def _remember(self, what: str) -> None:
        """Memory for a new ID; for want of it there is no ID."""
        try:
            self.slab.alloc(what)
        except KernelError as error:
            raise IoasidRefused(error.reason) from None

    @staticmethod
    def _refuse_ending(the_set: IoasidSet) -> None:
        if the_set.free_pending:
            raise IoasidRefused(f"the set of {the_set.name} ends with its last ID and takes no new ones")

    def free(self, the_set: IoasidSet | None, ioasid: int) -> None:
        """Give an ID back. Always succeeds: an unknown, foreign or dying ID is left alone, and an event says so.

        ``None`` skips the check of the owner. With other references out the ID becomes FREE_PENDING, subscribers get
        FREE once, and the number can be reused when the last of them has let go; it counts against the quota until
        then. The allocator's own reference is dropped last.
        """
        self.lock.take("ioasid_free")
        record = self.ids.get(ioasid)
        why = self._not_to_free(the_set, record)
        if record is None or why:
            self.emit(Verb.IGNORE, f"free of IOASID {ioasid}: {why}", ioasid=ioasid)
            return
        event = self.emit(Verb.FREE, f"IOASID {ioasid}", before=str(record.state), ioasid=ioasid, refs=record.refs)
        with self.timeline.because(event):
            if record.refs > 1:
                self._free_used(record)
            else:
                self._drop(record, 0)

    def _free_used(self, record: IoasidRecord) -> None:
        record.phase = Phase.TOLD
        try:
            self.notifiers.deliver(record, IoasidEvent.FREE, HEARD_ON[IoasidEvent.FREE])
        finally:
            record.phase = Phase.PENDING
            self._drop(record, 0)

    @staticmethod
    def _not_to_free(the_set: IoasidSet | None, record: IoasidRecord | None) -> str:
        if record is None:
            return "it is not allocated"
        if the_set is not None and record.owner is not the_set:
            return f"it belongs to {record.owner.name}, not to {the_set.name}"
        return "it was freed already" if record.free_pending else ""

    def free_all(self, the_set: IoasidSet) -> None:
        """Free every ID of a set (``ioasid_free_all_in_set``); silent for a set that is gone or empty.

        Those with other users stay in the set's table, free-pending, until these have let go.
        """
        self.lock.take("ioasid_free_all_in_set")
        if self.sets.has(the_set):
            self.sets.for_each(the_set, lambda ioasid: self.free(the_set, ioasid))

    # --- references ---------------------------------------------------------------------------------------------------

    def get(self, ioasid: int, holder: str, the_set: IoasidSet | None = None) -> None:
        """Take a reference in the name of ``holder``.

        Errors: ``-EINVAL`` unknown, ``-ENOENT`` FREE_PENDING, ``-EACCES`` owned by another set than ``the_set``.
        """
        self.lock.take("ioasid_get")
        self.get_locked(ioasid, holder, the_set)

    def get_locked(self, ioasid: int, holder: str, the_set: IoasidSet | None = None) -> None:
        """As :meth:`get`, for handlers, which run under the lock."""
        record = self.ids.get(ioasid)
        if record is None:
            raise KernelError("EINVAL", f"PASID {ioasid} is not allocated")
        self._refuse_get(record)
        self._check_owner(record, the_set)
        self._take(record, holder)

    def _refuse_get(self, record: IoasidRecord) -> None:
        self._refuse_dying(record)

    def _take(self, record: IoasidRecord, holder: str) -> None:
        record.holders = (*record.holders, holder)
        number, refs = record.ioasid, record.refs
        self.emit(Verb.GET, f"IOASID {number}", refs - 1, refs, ioasid=number, holder=holder, refs=refs)

    def get_if_owned(self, ioasid: int, holder: str, current: Part | None) -> None:
        """Take a reference if the calling process, whose mm is ``current``, owns the ID.

        Errors: ``-ENOENT`` unknown, ``-EINVAL`` its set is not of type MM, ``-EPERM`` another process's; then those of
        :meth:`get`.
        """
        self.lock.take("ioasid_get_if_owned")
        owner = self.set_of(ioasid)
        if owner.kind is not SetType.MM:
            raise KernelError("EINVAL", f"PASID {ioasid} belongs to {owner.name}, which is no process")
        if current is not owner.token:
            raise KernelError("EPERM", f"PASID {ioasid} belongs to {owner.name}, not to the calling process")
        self.get_locked(ioasid, holder)

    def put(self, ioasid: int, holder: str, the_set: IoasidSet | None = None) -> bool:
        """Drop ``holder``'s reference; ``True`` if that was the last one and the ID was reclaimed. Nothing happens if
        the ID is unknown or not of ``the_set``.

        To drop what one does not hold is a mistake of the caller: ``ValueError``. The allocator's own reference goes by
        :meth:`free` and in no other way.
        """
        self.lock.take("ioasid_put")
        return self.put_locked(ioasid, holder, the_set)

    def put_locked(self, ioasid: int, holder: str, the_set: IoasidSet | None = None) -> bool:
        """As :meth:`put`, for handlers."""
        record = self.ids.get(ioasid)
        if record is None or (the_set is not None and record.owner is not the_set):
            self.emit(Verb.IGNORE, f"put of IOASID {ioasid}: no such ID here", ioasid=ioasid)
            return False
        if holder not in record.users:
            raise ValueError(f"{holder} must hold a reference on IOASID {ioasid}, beside the allocator's, to drop it")
        return self._drop(record, record.holders.index(holder, record.refs - len(record.users)))

    def _drop(self, record: IoasidRecord, at: int) -> bool:
        holder = record.holders[at]
        record.holders = record.holders[:at] + record.holders[at + 1 :]
        left = record.refs
        self.emit(Verb.PUT, f"IOASID {record.ioasid}", left + 1, left, ioasid=record.ioasid, holder=holder, refs=left)
        if left:
            return False
        self._reclaim(record)
        return True

    def _reclaim(self, record: IoasidRecord) -> None:
        """The last reference is gone: the number returns, the payer is relieved, an ending set may end."""
        owner, number = record.owner, record.ioasid
        del self.ids[number]
        owner.erase(record)
        record.retire()
        self.allocators.active.free(number)
        self.emit(Verb.RECLAIM, f"IOASID {number}", before=owner.name, after="pool", ioasid=number, refs=0)
        self.policy.uncharge(owner, record.payer)
        if owner.free_pending and not owner.count:
            self.sets.destroy(owner)

    # --- looking up ---------------------------------------------------------------------------------------------------

    def find(
        self, ioasid: int, the_set: IoasidSet | None = None, getter: Callable[[Part], bool] | None = None
    ) -> Part | None:
        """The private data of a living ID, ``None`` if it has none, or if ``getter`` says no to it. Takes no lock.

        Errors: ``-ENOENT`` unknown or FREE_PENDING, ``-EACCES`` owned by another set than ``the_set``.
        """
        private = self.living(ioasid, the_set).private
        return private if private is None or getter is None or getter(private) else None

    def living(self, ioasid: int, the_set: IoasidSet | None = None) -> IoasidRecord:
        """The record of an ID that is not dying. Errors as for :meth:`find`."""
        record = self._alive(ioasid)
        self._check_owner(record, the_set)
        return record

    def refs(self, ioasid: int) -> int:
        """How many references there are on an ID; 0 if it is not out. Events carry it, so that it can be followed."""
        record = self.ids.get(ioasid)
        return record.refs if record is not None else 0

    def set_of(self, ioasid: int) -> IoasidSet:
        """The set of an ID, also of a dying one (``ioasid_find_set``). ``-ENOENT`` unknown. Takes no lock."""
        return self._known(ioasid).owner

    def _known(self, ioasid: int) -> IoasidRecord:
        record = self.ids.get(ioasid)
        if record is None:
            raise KernelError("ENOENT", f"PASID {ioasid} is not allocated")
        return record

    def _alive(self, ioasid: int) -> IoasidRecord:
        record = self._known(ioasid)
        self._refuse_dying(record)
        return record

    @staticmethod
    def _refuse_dying(record: IoasidRecord) -> None:
        """A dying ID is as good as gone: nobody finds it, nobody takes a reference, by whatever way.

        Only its SPID is still taken in its set, until the IOMMU has cleaned up.
        """
        if record.free_pending:
            raise KernelError(
                "ENOENT", f"PASID {record.ioasid} was freed and only waits for {', '.join(record.holders)} to let go"
            )

    @staticmethod
    def _check_owner(record: IoasidRecord, the_set: IoasidSet | None) -> None:
        if the_set is not None and record.owner is not the_set:
            raise KernelError("EACCES", f"PASID {record.ioasid} belongs to {record.owner.name}, not to {the_set.name}")
