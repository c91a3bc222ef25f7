"""Deviations about FREE, and about IDs that were freed and wait for their users."""

from typing import Final

from pasidlab.deviations.row import Deviation

__all__ = ["DYING"]

_CORE: Final = "pasidlab.kernel.ioasid.core:IoasidCore"
_IDS: Final = "pasidlab.kernel.ioasid.ids:IoasidIds"

DYING: Final = (
    Deviation(
        name="dying-get-errno",
        subject="a reference on a dying ID",
        code="-EBUSY",
        documents="v1, v2: -ENOENT",
        model="-ENOENT (an ID that does not exist is -EINVAL, as in the code: the documents do not say)",
        source="1.5 (doc-v1, doc-v2)",
        site=f"{_IDS}._refuse_get",
    ),
    Deviation(
        name="dying-find",
        subject="looking a dying ID up",
        code="succeeds, and returns the private data until somebody detaches it",
        documents="v1, v2: -ENOENT",
        model="-ENOENT, also for bind and unbind, which look the ID up",
        source="1.5 (doc-v1, doc-v2)",
        site=f"{_IDS}.living",
    ),
    Deviation(
        name="dying-spid-reference",
        subject="a look-up by SPID that takes a reference, on a dying ID",
        code="succeeds: a guest can keep its dying ID from ever draining",
        documents="no new reference in FREE_PENDING",
        model="finds nothing",
        source="1.5, 10 no. 15",
        breaks=(4,),
        site=f"{_CORE}.find_by_spid",
    ),
    Deviation(
        name="dying-attach-spid",
        subject="attaching a SPID to a dying ID",
        code="allowed, and BIND is sent",
        documents="no new reference in FREE_PENDING",
        model="-ENOENT",
        source="1.5",
        breaks=(9,),
        site=f"{_CORE}._to_get_a_spid",
    ),
    Deviation(
        name="dying-attach-data",
        subject="attaching private data to a dying ID",
        code="allowed: only an unknown ID and data that is there already are refused",
        documents="not said; a dying ID is not found (-ENOENT)",
        model="-ENOENT",
        source="1.5",
        site=f"{_CORE}._to_carry_data",
    ),
    Deviation(
        name="dying-unbind",
        subject="UNBIND of a dying ID",
        code="V4: the IOMMU's clean-up after FREE detaches the SPID, which sends UNBIND",
        documents="v2: FREE has told everybody; V4: UNBIND is how KVM hears of it",
        model="v2: the SPID is cleared silently",
        source="1.9, 2.2",
        site=f"{_CORE}._tell_unbind",
    ),
    Deviation(
        name="free-all-hides-dying",
        subject="freeing all IDs of a set",
        code="also takes those that wait for their users out of the set's table, so that no look-up by SPID finds them",
        documents="not said; to expect: an ID belongs to its set until it is reclaimed",
        model="they stay in the table, and count, until reclaim",
        source="1.4",
        breaks=(2, 8, 11),
        site=f"{_IDS}.free_all",
    ),
    Deviation(
        name="free-without-set",
        subject="ioasid_free without a set",
        code="v3 and later: compares the owner with NULL, so never frees",
        documents="the comment of the function: NULL skips the check of the owner",
        model="the check is skipped",
        source="1.5",
        breaks=(3,),
        site=f"{_IDS}._not_to_free",
    ),
    Deviation(
        name="own-reference-first",
        subject="the allocator's own reference at FREE",
        code="dropped before anybody is told",
        documents="v2: dropped last, after the handlers; v1: first",
        model="v2: dropped last, so that no handler can make the ID vanish under the others",
        source="2.2",
        site=f"{_IDS}._free_used",
    ),
    Deviation(
        name="active-never",
        subject="the state ACTIVE",
        code="exists but is never written: IDLE until FREE_PENDING (v3 wrote it at alloc)",
        documents="V4: a user besides the allocator holds a reference",
        model="V4, derived from the references",
        source="1.3",
        site="pasidlab.kernel.ioasid.record:IoasidRecord.state",
    ),
)
"""FREE, and what follows it."""
