"""Deviations of what administrators have: the ioasids control group, and /dev/ioasid."""

from typing import Final

from pasidlab.deviations.row import Deviation

__all__ = ["ADMINISTRATORS"]

_CGROUP: Final = "pasidlab.kernel.ioasid.quota.cgroup:CgroupQuota"
_GROUPS: Final = "pasidlab.kernel.ioasid.quota.group:Groups"

ADMINISTRATORS: Final = (
    Deviation(
        name="cgroup-wrong-task",
        subject="whose group is relieved when an ID is reclaimed",
        code="that of the task which runs the last put: for clean-up work that is the root, and the charge is lost",
        documents="not said",
        model="the group of the set's owner",
        source="8.2, 10 no. 23",
        breaks=(5,),
        site=f"{_CGROUP}._relieved",
    ),
    Deviation(
        name="cgroup-dead-owner",
        subject="an ID that is reclaimed when its owner is dead",
        code="the uncharge is refused (the mm is defunct), and the charge is lost; so ends every VM with IDs",
        documents="not said",
        model="uncharged",
        source="2.5, 8.2",
        breaks=(5,),
        site=f"{_CGROUP}._can_uncharge",
    ),
    Deviation(
        name="cgroup-events",
        subject="ioasids.events",
        code="never counts",
        documents="not said, but that there is such a file",
        model="counts, in the group whose limit it was",
        source="8.2",
        site=f"{_CGROUP}._note_refusal",
    ),
    Deviation(
        name="cgroup-rmdir-keeps",
        subject="the reserve of a group that is removed",
        code="does not return",
        documents="not said",
        model="returns",
        source="8.2",
        breaks=(5,),
        site=f"{_GROUPS}._return_reserve",
    ),
    Deviation(
        name="cgroup-write-max",
        subject='writing "max"',
        code="reserves everything that is left, but records only that amount as the new limit: the old one is lost",
        documents="not said",
        model="the limit grows by what is left",
        source="8.2",
        breaks=(5,),
        site=f"{_GROUPS}.write_max",
    ),
    Deviation(
        name="cgroup-paid-twice",
        subject="control groups and the quotas of sets",
        code="both reserve from the same capacity, so that each ID is paid for twice",
        documents="review of V4: why two pools?",
        model="a set in a group has no quota of its own",
        source="8.2, 8.3, 10 no. 24",
        site=f"{_CGROUP}.make_set",
    ),
    Deviation(
        name="cgroup-cancelled-move",
        subject="a move to another group that is cancelled",
        code="moves one charge a task back, not the count of the set",
        documents="not said",
        model="a move is never cancelled",
        source="8.2",
        lacks="moves have one step, which is never refused",
    ),
    Deviation(
        name="passed-file",
        subject="/dev/ioasid in the hands of another process",
        code="alloc is refused by the cgroup's charge only (-EPERM inside, -EINVAL outside), free by nothing",
        documents="not usable for requests",
        model="as the code: the quota policy decides",
        source="3.5",
        site="pasidlab.virt.ioasid_user:IoasidFile.request_alloc",
    ),
)
"""Control groups and /dev/ioasid."""
