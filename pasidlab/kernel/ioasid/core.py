"""The IOASID core: sets, allocation, references with named holders, SPIDs, and the notifications that keep users in
step.

Models ``drivers/iommu/ioasid.c`` with the IOASID extensions (V4 semantics, posted February 2021, never merged). Where
the documents of the series and its code differ, the documents are followed:

* free always succeeds and nobody can take a reference on a dying ID, by whatever look-up (``-ENOENT``, as for an ID
  that does not exist; the code answered -EBUSY, and let a look-up by SPID take one);
* on FREE, KVM is told before the device and the IOMMU, and the allocator's own reference is dropped last;
* the quota of a set returns to the system when the set goes (the last version of the code forgot it).

The kernel's ``ioasid_alloc`` answers INVALID_IOASID for each kind of failure; here it raises :class:`IoasidRefused`,
which has a reason and no errno, since its callers choose one.

Not modelled yet: set adjust, capacity reserve and cancel, sharing of allocator operations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.kernel.bitmap import Bitmap
from pasidlab.kernel.ioasid.allocators import Allocators
from pasidlab.kernel.ioasid.notifier import Chain, IoasidEvent, NotifyFlag, Payload, Subscriber
from pasidlab.kernel.ioasid.record import IoasidRecord
from pasidlab.kernel.ioasid.sets import IoasidSet
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["CAPACITY", "IoasidCore", "IoasidRefused"]

CAPACITY: Final = 1 << 20
"""The PCIe PASID space: 20 bits."""


class IoasidRefused(Exception):
    """No ID: what the kernel reports as INVALID_IOASID, with the reason in words."""


class IoasidCore(Actor, state=("available",)):
    """One kernel's IOASIDs. ``available`` is the capacity that no set has taken as its quota."""

    actor = "ioasid"

    def __init__(self, timeline: Timeline, path: str, altitude: str, capacity: int = CAPACITY) -> None:
        super().__init__(timeline, path, altitude)
        self.capacity = capacity
        self.available = capacity
        self.ids = Table[int, IoasidRecord](timeline, f"{path}.ids")
        self.sets = Table[int, IoasidSet](timeline, f"{path}.sets")
        self.allocators = Allocators(timeline, f"{path}.allocators", capacity)
        self.chain = Chain(timeline, f"{path}.chain")
        self._set_ids = Bitmap(timeline, f"{path}.set_ids", capacity)
        self._waiting = Table[tuple[str, str], tuple[Part, Subscriber]](timeline, f"{path}.waiting")

    # --- sets -----------------------------------------------------------------------------------------------------

    def set_alloc(self, name: str, token: Part | None, quota: int) -> IoasidSet:
        """Make a set with ``quota`` IDs (0: all that is left), owned by ``token`` (an mm, or ``None`` for the host).

        Subscribers that registered for this token before the set existed are connected now.
        Errors: ``-EINVAL`` negative quota, ``-EEXIST`` the token has a set, ``-ENOSPC`` not enough capacity left.
        """
        if quota < 0:
            raise KernelError("EINVAL", f"the quota of {name} must be 0 or more, not {quota}")
        quota = quota or self.available
        if token is not None and self.find_set(token) is not None:
            raise KernelError("EEXIST", f"{name} already has an ioasid_set: one set for each mm")
        if quota > self.available:
            raise KernelError(
                "ENOSPC",
                f"the quota of {name} must be at most {self.available}, not {quota}: the other sets hold the rest",
            )
        set_id = self._set_ids.find(0, self.capacity - 1)
        if set_id is None:
            raise KernelError("ENOSPC", "no ioasid_set number is left")
        self._set_ids.take(set_id)
        made = IoasidSet(self.timeline, f"{self.path}.set[{set_id}]", set_id, name, token, quota)
        self.sets[set_id] = made
        self.available -= quota
        for owner, subscriber in self._waiting.values():
            if owner is token:
                made.chain.register(subscriber)
        self.emit(Verb.SET_ALLOC, f"set {set_id} for {name}", after=f"quota {quota}", set_id=set_id, quota=quota)
        return made

    def set_free(self, the_set: IoasidSet) -> None:
        """End a set: at once when it is empty; with IDs left it ends with its last ID (``-EBUSY`` in the kernel's
        terms).

        The quota returns to the system when the set goes.
        """
        if self.sets.get(the_set.set_id) is not the_set:
            raise KernelError("EINVAL", f"{the_set.name} has no ioasid_set any more")
        if the_set.count:
            the_set.free_pending = True
        else:
            self._set_destroy(the_set)

    def _set_destroy(self, the_set: IoasidSet) -> None:
        quota, set_id = the_set.quota, the_set.set_id
        self.available += quota
        del self.sets[set_id]
        self._set_ids.release(set_id)
        the_set.chain.retire()
        the_set.retire()
        self.emit(
            Verb.SET_FREE, f"set {set_id} of {the_set.name}", before=f"quota {quota}", after="returned", set_id=set_id
        )

    def find_set(self, token: Part) -> IoasidSet | None:
        """The set whose token is ``token``."""
        return next((known for known in self.sets.values() if known.token is token), None)

    def free_all(self, the_set: IoasidSet) -> None:
        """Free every ID of a set."""
        for ioasid in the_set.ids.keys():
            self.free(the_set, ioasid)

    # --- IDs ------------------------------------------------------------------------------------------------------

    def alloc(self, the_set: IoasidSet, minimum: int, maximum: int, holder: str) -> int:
        """An ID in the inclusive range, owned by ``the_set``; the first reference belongs to ``holder``."""
        if the_set.count >= the_set.quota:
            raise IoasidRefused(f"{the_set.name} has used its quota of {the_set.quota} PASIDs")
        number = self.allocators.active.alloc(minimum, maximum)
        if number is None:
            raise IoasidRefused(self.allocators.active.refusal)
        if number in self.ids:
            self.allocators.active.free(number)
            raise IoasidRefused(f"the allocator answered {number}, which is already out")
        record = IoasidRecord(self.timeline, f"{self.path}.id[{number}]", number, the_set, holder)
        self.ids[number] = record
        the_set.ids[number] = record
        event = self.emit(
            Verb.ALLOC, f"IOASID {number}", after=the_set.name, ioasid=number, set_id=the_set.set_id, refs=1
        )
        with self.timeline.because(event):
            self._notify(record, IoasidEvent.ALLOC, NotifyFlag.SET)
        return number

    def free(self, the_set: IoasidSet, ioasid: int) -> None:
        """Give an ID back. Always succeeds: an unknown, foreign or already dying ID is left alone.

        With other references out the ID becomes FREE_PENDING, subscribers get FREE once, and the number can be reused
        when the last of them has let go; it counts against the quota until then.
        """
        record = self.ids.get(ioasid)
        if record is None or record.owner is not the_set or record.free_pending:
            return
        event = self.emit(Verb.FREE, f"IOASID {ioasid}", before=str(record.state), ioasid=ioasid, refs=record.refs)
        with self.timeline.because(event):
            allocator = record.holders[0]
            if record.refs > 1:
                record.free_pending = True
                self._notify(record, IoasidEvent.FREE, NotifyFlag.ALL | NotifyFlag.SET)
            self._drop(record, allocator)

    def get(self, ioasid: int, holder: str, the_set: IoasidSet | None = None) -> None:
        """Take a reference in the name of ``holder``.

        Errors: ``-ENOENT`` unknown or FREE_PENDING, ``-EACCES`` owned by another set than ``the_set``.
        """
        record = self._living(ioasid)
        self._check_owner(record, the_set)
        record.holders = (*record.holders, holder)
        self.emit(
            Verb.GET, f"IOASID {ioasid}", record.refs - 1, record.refs, ioasid=ioasid, holder=holder, refs=record.refs
        )

    def put(self, ioasid: int, holder: str) -> bool:
        """Drop ``holder``'s reference; ``True`` if that was the last one and the ID was reclaimed."""
        record = self.ids.get(ioasid)
        if record is None or holder not in record.holders:
            raise ValueError(f"{holder} must hold a reference on IOASID {ioasid} to drop it")
        return self._drop(record, holder)

    def _drop(self, record: IoasidRecord, holder: str) -> bool:
        holders = list(record.holders)
        holders.remove(holder)
        record.holders = tuple(holders)
        left = len(holders)
        self.emit(Verb.PUT, f"IOASID {record.ioasid}", left + 1, left, ioasid=record.ioasid, holder=holder, refs=left)
        if left:
            return False
        self._reclaim(record)
        return True

    def _reclaim(self, record: IoasidRecord) -> None:
        owner, number = record.owner, record.ioasid
        del self.ids[number]
        del owner.ids[number]
        record.retire()
        self.allocators.active.free(number)
        self.emit(Verb.RECLAIM, f"IOASID {number}", before=owner.name, after="pool", ioasid=number, refs=0)
        if owner.free_pending and not owner.count:
            self._set_destroy(owner)

    def find(self, ioasid: int, the_set: IoasidSet | None = None) -> IoasidRecord:
        """The living record of an ID. Errors as for :meth:`get`."""
        record = self._living(ioasid)
        self._check_owner(record, the_set)
        return record

    def _living(self, ioasid: int) -> IoasidRecord:
        record = self.ids.get(ioasid)
        if record is None:
            raise KernelError("ENOENT", f"PASID {ioasid} is not allocated")
        if record.free_pending:
            raise KernelError(
                "ENOENT", f"PASID {ioasid} was freed and only waits for {', '.join(record.holders)} to let go"
            )
        return record

    @staticmethod
    def _check_owner(record: IoasidRecord, the_set: IoasidSet | None) -> None:
        if the_set is not None and record.owner is not the_set:
            raise KernelError("EACCES", f"PASID {record.ioasid} belongs to {record.owner.name}, not to {the_set.name}")

    # --- private data and SPIDs -----------------------------------------------------------------------------------

    def attach_data(self, ioasid: int, private: Part) -> None:
        """Attach a user's private data; ``-ENOENT`` unknown or dying, ``-EBUSY`` something is attached already."""
        record = self._living(ioasid)
        if record.private is not None:
            raise KernelError("EBUSY", f"PASID {ioasid} already carries private data")
        record.private = private

    def detach_data(self, ioasid: int) -> None:
        """Take the private data off."""
        self.ids[ioasid].private = None

    def attach_spid(self, ioasid: int, spid: int) -> None:
        """Give an ID its set-private number (the guest's PASID) and tell the set's subscribers: BIND.

        Errors: ``-ENOENT`` unknown or dying; ``-EINVAL`` another ID of the set has this SPID, or this ID has one
        already.
        """
        record = self._living(ioasid)
        if record.spid is not None:
            raise KernelError("EINVAL", f"PASID {ioasid} already has the SPID {record.spid}")
        twin = self.find_by_spid(record.owner, spid)
        if twin is not None:
            raise KernelError(
                "EINVAL", f"guest PASID {spid} of {record.owner.name} already stands for host PASID {twin}"
            )
        record.spid = spid
        event = self.emit(Verb.ATTACH_SPID, f"IOASID {ioasid}", after=spid, ioasid=ioasid, spid=spid, refs=record.refs)
        with self.timeline.because(event):
            self._notify(record, IoasidEvent.BIND, NotifyFlag.SET)

    def detach_spid(self, ioasid: int) -> None:
        """Tell the set's subscribers UNBIND (with the SPID still in the payload), then clear the SPID.

        An ID in FREE_PENDING is cleared silently: FREE has told its users already.
        """
        record = self.ids.get(ioasid)
        if record is None or record.spid is None:
            return
        event = self.emit(Verb.DETACH_SPID, f"IOASID {ioasid}", record.spid, "none", ioasid=ioasid, spid=record.spid)
        with self.timeline.because(event):
            if not record.free_pending:
                self._notify(record, IoasidEvent.UNBIND, NotifyFlag.SET)
        record.spid = None

    def find_by_spid(self, the_set: IoasidSet, spid: int, holder: str | None = None) -> int | None:
        """The ID of ``the_set`` with this SPID; with ``holder`` a reference is taken, on a living ID only."""
        for ioasid, record in the_set.ids.items():
            if record.spid == spid and not (holder and record.free_pending):
                if holder:
                    self.get(ioasid, holder, the_set)
                return ioasid
        return None

    # --- notifiers ------------------------------------------------------------------------------------------------

    def register_notifier(self, subscriber: Subscriber) -> None:
        """Subscribe to the global chain (every set's FREE)."""
        self.chain.register(subscriber)
        self.emit(Verb.REGISTER, subscriber.notifier_name, after="global chain")

    def register_notifier_mm(self, token: Part, subscriber: Subscriber) -> None:
        """Subscribe to the set of ``token``, which need not exist yet.

        Errors: ``-EBUSY`` registered twice, or the set already has IDs (events are not replayed).
        """
        key = (token.path, subscriber.path)
        if key in self._waiting:
            raise KernelError("EBUSY", f"{subscriber.notifier_name} is already registered for this VM")
        the_set = self.find_set(token)
        if the_set is not None and the_set.count:
            raise KernelError(
                "EBUSY",
                f"{subscriber.notifier_name} must register before {the_set.name} allocates its first PASID: "
                "past events are not replayed",
            )
        self._waiting[key] = (token, subscriber)
        if the_set is not None:
            the_set.chain.register(subscriber)
        where = f"chain of set {the_set.set_id}" if the_set else "pending: no set yet"
        self.emit(Verb.REGISTER, subscriber.notifier_name, after=where, priority=subscriber.notifier_priority.name)

    def unregister_notifier_mm(self, token: Part, subscriber: Subscriber) -> None:
        """Undo :meth:`register_notifier_mm`."""
        self._waiting.pop((token.path, subscriber.path))
        the_set = self.find_set(token)
        if the_set is not None:
            the_set.chain.unregister(subscriber)
        self.emit(Verb.UNREGISTER, subscriber.notifier_name)

    def subscribers(self, the_set: IoasidSet, flags: NotifyFlag) -> list[Subscriber]:
        """Who hears an event of ``the_set``, in order of delivery."""
        found: list[Subscriber] = []
        if NotifyFlag.ALL in flags:
            found += self.chain.subscribers()
        if NotifyFlag.SET in flags:
            found += the_set.chain.subscribers()
        return sorted(found, key=lambda subscriber: -subscriber.notifier_priority)

    def _notify(self, record: IoasidRecord, event: IoasidEvent, flags: NotifyFlag) -> None:
        payload = Payload(record.ioasid, record.spid, record.owner.set_id)
        listeners = self.subscribers(record.owner, flags)
        if not listeners:
            return
        told = self.emit(
            Verb.NOTIFY,
            f"{event} of IOASID {record.ioasid}",
            event=event.value,
            ioasid=record.ioasid,
            spid=record.spid,
            refs=record.refs,
        )
        with self.timeline.because(told):
            for subscriber in listeners:
                subscriber.ioasid_notified(event, payload)
