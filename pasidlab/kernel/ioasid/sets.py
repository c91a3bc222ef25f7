"""ioasid_sets: the IDs of one owner, its quota, its notifier chain; and the table of all sets.

Models ``struct ioasid_set`` and the set functions of the IOASID extensions: the host has one set, each VM one, found by
the *token* that its users have in common (the mm of the hypervisor process). ``alloc`` and ``free`` follow the V4
series, in which a set lives as long as its IDs; ``adjust`` is of the v2 and v3 series (V4 has none).

A quota is capacity set aside. A set may also have none of its own (``quota`` is ``None``): then an administrator's
policy pays for each of its IDs (:mod:`pasidlab.kernel.ioasid.quota`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.kernel.bitmap import Bitmap
from pasidlab.kernel.ioasid.notifier import Chain
from pasidlab.kernel.ioasid.record import INVALID_IOASID, IoasidRecord
from pasidlab.kernel.ioasid.subscriptions import Subscriptions
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.capacity import Capacity
    from pasidlab.kernel.ioasid.lock import AllocatorLock
    from pasidlab.kernel.slab import Slab
    from pasidlab.timeline import Timeline

__all__ = ["IoasidSet", "IoasidSets", "SetType"]


class SetType(IntEnum):
    """What the token of a set is (``enum ioasid_set_type``)."""

    NONE = 1
    MM = 2


class IoasidSet(Part, state=("free_pending", "quota")):
    """``quota`` IDs at most; ``ids`` are those out at present, free-pending ones included. ``spids`` is the index of
    their set-private numbers (the guest's PASIDs).
    """

    def __init__(
        self,
        timeline: Timeline,
        path: str,
        set_id: int,
        name: str,
        token: Part | None,
        quota: int | None,
        kind: SetType = SetType.NONE,
    ) -> None:
        super().__init__(timeline, path)
        self.set_id = set_id
        self.name = name
        self.token = token
        self.kind = kind
        self.quota = quota
        self.free_pending = False
        self.ids: Table[int, IoasidRecord] = Table(timeline, f"{path}.ids")
        self.spids: Table[int, int] = Table(timeline, f"{path}.spids")
        self.chain = Chain(timeline, f"{path}.chain")

    @property
    def count(self) -> int:
        """How many IDs are charged to the quota."""
        return len(self.ids)

    @property
    def full(self) -> bool:
        """Whether the quota is used up."""
        return self.quota is not None and len(self.ids) >= self.quota

    def erase(self, record: IoasidRecord) -> None:
        """Take an ID out of the tables (``xa_erase``: one that is not there is no mistake)."""
        if record.ioasid in self.ids:
            del self.ids[record.ioasid]
        self.erase_spid(record)

    def erase_spid(self, record: IoasidRecord) -> None:
        """Take an ID's guest number out of the index, if it is there."""
        if record.spid is not None and self.spids.get(record.spid) == record.ioasid:
            del self.spids[record.spid]

    def __repr__(self) -> str:
        if self.retired:
            return f"<ioasid_set {self.set_id} {self.name}, freed>"
        quota = "no quota" if self.quota is None else f"{self.count} of {self.quota}"
        return f"<ioasid_set {self.set_id} {self.name}: {quota}{', free-pending' if self.free_pending else ''}>"


class IoasidSets(Actor):
    """Every set of one core. ``forget`` is called with a set that ends (the core sets it: the quota policy's)."""

    actor = "ioasid"
    forget: Callable[[IoasidSet], None]

    def __init__(
        self, timeline: Timeline, path: str, altitude: str, capacity: Capacity, lock: AllocatorLock, slab: Slab
    ) -> None:
        super().__init__(timeline, path, altitude)
        self._capacity = capacity
        self._lock = lock
        self._slab = slab
        self._sets = Table[int, IoasidSet](timeline, f"{path}.table")
        self._numbers = Bitmap(timeline, f"{path}.numbers", INVALID_IOASID)
        self.notifiers = Subscriptions(timeline, f"{path}.notifiers", altitude, lock, slab, self._sets)

    # --- alloc and free -----------------------------------------------------------------------------------------------

    def alloc(self, name: str, token: Part | None, quota: int | None, kind: SetType | int | None = None) -> IoasidSet:
        """Make a set owned by ``token`` (an mm; ``None`` for a kernel's own) with ``quota`` IDs set aside for it: 0
        takes all that are left, ``None`` sets none aside.

        Who registered for this token before the set existed is connected now. Errors, in the order in which they are
        checked: ``-EINVAL`` a kind that does not exist, a negative quota; ``-ENOSPC`` not enough capacity left;
        ``-EINVAL`` an MM set without token or a NONE set with one; ``-EEXIST`` the token has a set (also one that is
        free-pending); ``-ENOSPC`` no set number; ``-ENOMEM``.
        """
        self._lock.take("ioasid_set_alloc")
        kind = self._kind(token, kind)
        if quota is not None and (type(quota) is not int or quota < 0):
            raise KernelError("EINVAL", f"the quota of {name} must be a number, 0 or more, not {quota!r}")
        quota = self._all_left(name) if quota == 0 else quota
        if quota is not None and quota > self._capacity.available:
            raise KernelError(
                "ENOSPC",
                f"the quota of {name} must be at most {self._capacity.available}, not {quota}: "
                "the rest is promised to others",
            )
        self._check_token(name, token, kind)
        self._slab.alloc("struct ioasid_set")
        set_id = self._free_number()
        self._slab.alloc("the table of sets")
        self._numbers.take(set_id)
        made = IoasidSet(self.timeline, f"{self.path}.set[{set_id}]", set_id, name, token, quota, kind)
        self._sets[set_id] = made
        self.notifiers.connect(made)
        self._capacity.take(quota or 0, name)
        words = "no quota of its own" if quota is None else f"quota {quota}"
        self.emit(Verb.SET_ALLOC, f"set {set_id} for {name}", after=words, set_id=set_id, quota=quota)
        return made

    def _all_left(self, name: str) -> int:
        """What a quota of 0 means."""
        return self._capacity.available

    def _free_number(self) -> int:
        number = self._numbers.find(0, INVALID_IOASID - 1)
        if number is None:
            raise KernelError("ENOSPC", "no ioasid_set number is left")
        return number

    @staticmethod
    def _kind(token: Part | None, kind: SetType | int | None) -> SetType:
        if kind is None:
            return SetType.NONE if token is None else SetType.MM
        try:
            return SetType(kind)
        except ValueError:
            raise KernelError("EINVAL", f"the type of a set must be NONE (1) or MM (2), not {kind}") from None

    def _check_token(self, name: str, token: Part | None, kind: SetType) -> None:
        if kind is SetType.MM and token is None:
            raise KernelError("EINVAL", f"a set of type MM must have an mm as token, which {name} lacks")
        if kind is SetType.NONE and token is not None:
            raise KernelError("EINVAL", f"a set of type NONE must not have a token, as {name} has")
        if token is not None and self._has_set(token):
            raise KernelError("EEXIST", f"{name} already has an ioasid_set: one set for each mm")

    def _has_set(self, token: Part) -> bool:
        return self.find_mm(token) is not None

    def free(self, the_set: IoasidSet) -> None:
        """End an empty set: its quota returns, its subscribers wait for the token's next set.

        Errors: ``-EINVAL`` it is gone; ``-EBUSY`` IDs are left: the set takes no new ones from now on and ends by
        itself with its last ID.
        """
        self._lock.take("ioasid_set_free")
        self.require(the_set)
        if the_set.count:
            the_set.free_pending = True
            raise KernelError(
                "EBUSY", f"{the_set.name} still has {the_set.count} PASIDs out: its set ends with the last of them"
            )
        self.destroy(the_set)

    def destroy(self, the_set: IoasidSet) -> None:
        """A set without IDs goes (the core calls this when the last one is reclaimed)."""
        quota, set_id = the_set.quota, the_set.set_id
        self.forget(the_set)
        self._return_quota(quota)
        del self._sets[set_id]
        self._numbers.release(set_id)
        the_set.chain.retire()
        the_set.retire()
        before = "no quota of its own" if quota is None else f"quota {quota}"
        self.emit(Verb.SET_FREE, f"set {set_id} of {the_set.name}", before=before, after="returned", set_id=set_id)

    def _return_quota(self, quota: int | None) -> None:
        self._capacity.give(quota or 0)

    # --- quota --------------------------------------------------------------------------------------------------------

    def adjust(self, the_set: IoasidSet, quota: int) -> None:
        """Give a set another quota.

        Errors: ``-EINVAL`` below 1, below the number of IDs that are out, or the set has none of its own or is gone;
        ``-ENOSPC`` it grows by more than is left. A refusal changes nothing.
        """
        self._lock.take("ioasid_adjust_set")
        self.require(the_set)
        if the_set.quota is None:
            raise KernelError("EINVAL", f"{the_set.name} has no quota of its own to adjust: a policy limits it")
        if type(quota) is not int or quota < 1:
            raise KernelError("EINVAL", f"the quota of {the_set.name} must be a number, at least 1, not {quota!r}")
        if the_set.count > quota:
            raise KernelError(
                "EINVAL", f"the quota of {the_set.name} must be at least the {the_set.count} PASIDs out, not {quota}"
            )
        before = the_set.quota
        self._capacity.take(quota - before, f"the growth of {the_set.name}")
        the_set.quota = quota
        words = f"quota of set {the_set.set_id} of {the_set.name}"
        self.emit(Verb.ADJUST, words, before, quota, set_id=the_set.set_id, quota=quota)

    # --- looking up ---------------------------------------------------------------------------------------------------

    def has(self, the_set: IoasidSet) -> bool:
        """Whether a set is in the table: it may be gone, or its number another's, or it may be another core's."""
        return self._sets.get(the_set.set_id) is the_set

    def require(self, the_set: IoasidSet) -> None:
        """``-EINVAL`` unless the set is in the table."""
        if not self.has(the_set):
            raise KernelError("EINVAL", f"{the_set.name} has no ioasid_set any more")

    def find_mm(self, token: Part | None) -> IoasidSet | None:
        """The set of type MM whose token is ``token`` (``ioasid_find_mm_set``); no reference is taken."""
        self._lock.take("ioasid_find_mm_set")
        if token is None:
            return None
        return next((known for known in self._sets.values() if known.token is token), None)

    def for_each(self, the_set: IoasidSet, visit: Callable[[int], None]) -> None:
        """Call ``visit`` with each ID of a set, lowest first.

        No lock is held: it may free what it visits and what lies ahead. What it allocates is not visited.
        """
        self.require(the_set)
        for ioasid in the_set.ids.keys():
            if ioasid in the_set.ids:
                visit(ioasid)

    def get(self, set_id: int) -> IoasidSet | None:
        """The set with this number."""
        return self._sets.get(set_id)

    def keys(self) -> list[int]:
        """The numbers of all sets, lowest first."""
        return self._sets.keys()

    def values(self) -> list[IoasidSet]:
        """All sets, lowest number first."""
        return self._sets.values()

    def items(self) -> list[tuple[int, IoasidSet]]:
        """All sets with their numbers, lowest first."""
        return self._sets.items()

    def __iter__(self) -> Iterator[int]:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)

    def __contains__(self, set_id: object) -> bool:
        return set_id in self._sets

    def __getitem__(self, set_id: int) -> IoasidSet:
        return self._sets[set_id]
