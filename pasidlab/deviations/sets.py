"""Deviations about sets, the capacity that they share, and allocators."""

from typing import Final

from pasidlab.deviations.row import Deviation

__all__ = ["SETS"]

_CORE: Final = "pasidlab.kernel.ioasid.core:IoasidCore"
_IDS: Final = "pasidlab.kernel.ioasid.ids:IoasidIds"
_SETS: Final = "pasidlab.kernel.ioasid.sets:IoasidSets"
_CAPACITY: Final = "pasidlab.kernel.ioasid.capacity:Capacity"

SETS: Final = (
    Deviation(
        name="quota-kept",
        subject="the quota of a set that ends",
        code="v1 and v3 gave it back (v3 at once, with IDs still free-pending); the code of 2021 forgot it: every VM "
        "leaks its quota until -ENOSPC",
        documents="it returns to the system",
        model="it returns, when the set ends",
        source="1.4, 1.7",
        breaks=(5,),
        site=f"{_SETS}._return_quota",
    ),
    Deviation(
        name="quota-zero",
        subject="a quota of 0",
        code="v3: -EINVAL; V4: all that is left",
        documents="not said",
        model="V4",
        source="0.2, 1.4",
        site=f"{_SETS}._all_left",
    ),
    Deviation(
        name="set-type-zero",
        subject="a set of type 0",
        code="only types that are too large are refused, so 0 passes, and no rule about tokens applies to it",
        documents="V4: NONE (1) and MM (2)",
        model="-EINVAL",
        source="1.1, 1.4",
        site=f"{_SETS}._kind",
    ),
    Deviation(
        name="set-number-bound",
        subject="the number of a new set",
        code="at most the capacity that is available (v3: that will be left): once most is promised, small sets are "
        "refused",
        documents="not said; to expect: capacity that is left can be given to a set",
        model="any number",
        source="1.4, 10 no. 20",
        site=f"{_SETS}._free_number",
    ),
    Deviation(
        name="ending-set-grows",
        subject="allocating in a free-pending set",
        code="accepted: nothing looks at the flag",
        documents="not said; to expect: the set ends when its last ID is reclaimed",
        model="refused, else it might never end",
        source="1.4",
        site=f"{_IDS}._refuse_ending",
    ),
    Deviation(
        name="ending-set-token",
        subject="the token of a free-pending set",
        code="stays taken: the same process gets -EEXIST until the last ID has drained",
        documents="a comment in V4 says that it is released at once, which was so in v3 only",
        model="as the code: users still find their set, and its chain, by that token",
        source="1.4",
        site=f"{_SETS}._has_set",
    ),
    Deviation(
        name="set-without-reference",
        subject="finding a set by its mm",
        code="v3 took a reference; V4 and later take none, though the comment says so: the set may go while it is used",
        documents="a reference is taken",
        model="none is taken",
        source="1.4, 10 no. 16",
        lacks="no other call runs between look-up and use",
    ),
    Deviation(
        name="install-forgets",
        subject="installing a capacity",
        code="overwrites what is available, so reservations made before are forgotten",
        documents="not said; to expect: a reservation lasts until it is cancelled",
        model="what was promised stays promised; less capacity than that is refused",
        source="1.7",
        breaks=(5,),
        site=f"{_CAPACITY}._left_after_install",
    ),
    Deviation(
        name="install-twice",
        subject="installing the default capacity",
        code="looks as if nothing had been installed, so that a second one is accepted",
        documents="not said; to expect: a capacity is installed once",
        model="once, whatever its size",
        source="1.7",
        site=f"{_CAPACITY}._not_to_install",
    ),
    Deviation(
        name="reserve-answer",
        subject="what reserving capacity returns",
        code="the amount that was reserved",
        documents="the comment of the function: what remains",
        model="as the code",
        source="1.7",
        site=f"{_CAPACITY}.reserve",
    ),
    Deviation(
        name="cancel-trusts",
        subject="giving reserved capacity back",
        code="anything up to the capacity is believed",
        documents="not said; to expect: what was reserved is given back",
        model="-EINVAL for more than was reserved",
        source="1.7",
        breaks=(5,),
        site=f"{_CAPACITY}.cancel",
    ),
    Deviation(
        name="alloc-keeps-charge",
        subject="an allocation that is refused after it was charged",
        code="a full quota and want of memory return without uncharging the cgroup",
        documents="not said; to expect: what is not allocated is not charged",
        model="uncharged, whatever failed",
        source="1.11, 8.2",
        breaks=(5,),
        site=f"{_IDS}._uncharge_refused",
    ),
    Deviation(
        name="alloc-returns-freed",
        subject="an ID that cannot be stored in its set",
        code="the number is returned although it was freed again, so that two owners get it; with the default "
        "allocator its record is freed twice",
        documents="INVALID_IOASID",
        model="refused, and the number is given back once",
        source="1.11",
        breaks=(3,),
        site=f"{_IDS}.alloc",
    ),
    Deviation(
        name="orphaned-ids",
        subject="unregistering the last custom allocator while its IDs are out",
        code="only a warning: the IDs are in the table of no allocator any more, and cannot be freed",
        documents="it should happen with no IDs left",
        model="-EBUSY (ours: the kernel's function returns nothing)",
        source="1.10",
        breaks=(2, 3),
        site=f"{_CORE}.unregister_allocator",
    ),
)
"""Sets, capacity, allocators."""
