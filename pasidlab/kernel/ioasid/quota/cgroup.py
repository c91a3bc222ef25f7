"""A control group: hierarchical, shared by its members, and the charge moves with them.

Models the ``ioasids`` controller of the V4 series (RFC patches 15 to 17, never merged). A set of type MM has no quota
of its own; each of its IDs is charged to the group of its owner, the process whose mm is the token, and to every group
above it but the root. The process may move: then the whole count of its set moves along, without a look at any limit;
further IDs are refused until the group is below its limit again.

Where code and sense differ this follows sense: the charge of an ID returns to the group of the set's owner, also when
somebody else runs the last put, when the owner is dead, and when the allocation fails half-way; an ID is paid for by
the group or by a quota, not by both. The code got each of these wrong (READING).

Not modelled: a move that is cancelled half-way (the code then moved one per task back, not the count), and processes
whose parent's group is not the root: a process starts in the root, unless it is put elsewhere.

Choice of our own: IDs of members of the root are not charged, but each draws one from the capacity while it is out,
or sums would not be true. Since a move is never refused, a set may come to the root when nothing is left to draw; then
``drawn`` stays behind its count until as many of the root's IDs have gone.

Invariants: ``current`` of a group is the number of IDs of the sets in it and below; it exceeds ``max`` only after a
move or a smaller ``max``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.quota.contract import IoasidRefused
from pasidlab.kernel.ioasid.quota.group import ROOT, Group, Groups
from pasidlab.kernel.ioasid.sets import SetType
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.ids import IoasidIds
    from pasidlab.kernel.ioasid.sets import IoasidSet

__all__ = ["CgroupQuota", "cgroups_of"]


class CgroupQuota(Actor, state=("drawn",)):
    """``groups`` is the tree; ``drawn`` IDs of the capacity are out for members of the root."""

    actor = "ioasid"
    name = "cgroup"

    def __init__(self, core: IoasidIds) -> None:
        super().__init__(core.timeline, f"{core.path}.cgroup", core.altitude)
        self._sets = core.sets
        self._capacity = core.capacity
        self.groups = Groups(core.timeline, f"{self.path}.groups", core.altitude, core.capacity)
        self._members = Table[str, str](core.timeline, f"{self.path}.members")
        self._charged = Table[int, str](core.timeline, f"{self.path}.charged")
        self.drawn = 0

    @property
    def held(self) -> int:
        """What the groups have set aside, and what members of the root have out."""
        return self.groups.reserved + self.drawn

    # --- membership ---------------------------------------------------------------------------------------------------

    def group_of(self, mm: Part) -> Group | None:
        """The group of a process; ``None`` for the root, where processes are that were never moved."""
        return self.groups.find(self._members.get(mm.path, ROOT))

    def set_group(self, the_set: IoasidSet) -> Group | None:
        """The group to which a set's IDs are charged: its owner's, the last one if that process is gone."""
        return self.groups.find(self._charged.get(the_set.set_id, ROOT))

    def members(self, group: Group | None) -> list[str]:
        """The paths of the mms that were put into a group (into the root: explicitly)."""
        name = ROOT if group is None else group.name
        return [path for path, where in self._members.items() if where == name]

    def migrate(self, mm: Part, group: Group | None, who: str = "") -> None:
        """Move a process; ``None`` is the root. Never refused: the count of its set goes along, limits or not."""
        the_set, name = self._sets.find_mm(mm), ROOT if group is None else group.name
        source = self.group_of(mm) if the_set is None else self.set_group(the_set)
        if source is group and self._members.get(mm.path) == name:
            self.emit(Verb.IGNORE, f"move to group {name}: it is there already")
            return
        count = 0 if the_set is None else the_set.count
        self._members[mm.path] = name
        if the_set is not None:
            self._assign(the_set, group)
        self.groups.add(source, -count)
        self.groups.add(group, count)
        who = who or (mm.path.removesuffix(".mm") if the_set is None else the_set.name)
        self.emit(
            Verb.MIGRATE,
            who,
            ROOT if source is None else source.name,
            name,
            count=count,
            group=name,
            used=0 if group is None else group.current,
        )
        self._settle(count if group is None else 0)

    def remove(self, group: Group) -> None:
        """rmdir. ``-EBUSY`` with members, groups below it, or IDs that are charged to it."""
        if self.members(group) or group.name in self._charged.values():
            raise KernelError("EBUSY", f"the group {group.name} must be empty to be removed, it has members")
        self.groups.remove(group)

    def _assign(self, the_set: IoasidSet, group: Group | None) -> None:
        if group is not None:
            self._charged[the_set.set_id] = group.name
        elif the_set.set_id in self._charged:
            del self._charged[the_set.set_id]

    # --- sets ---------------------------------------------------------------------------------------------------------

    def make_set(self, name: str, token: Part, quota: int) -> IoasidSet:
        """A set without quota, charged to the group of its process.

        A process that was put nowhere gets a group of its own, called ``name``, whose max is ``quota``. Errors: also
        those of :meth:`.group.Groups.make`.
        """
        own = token.path not in self._members
        if own:
            self.migrate(token, self.groups.make(name, quota, scope_of=token), name)
        try:
            made = self._sets.alloc(name, token, None)
        except KernelError:
            if own:
                self.leave(token)
            raise
        self._assign(made, self.group_of(token))
        return made

    def change(self, the_set: IoasidSet, quota: int) -> None:
        """Write ``max`` of the set's group, which it may share with others; ``-ENOENT`` the root has no such file."""
        group = self.set_group(the_set)
        if group is None:
            raise KernelError("ENOENT", f"{the_set.name} is in the root, which has no limit to write")
        self.groups.write_max(group, quota)

    def limit(self, the_set: IoasidSet) -> int | None:
        """``max`` of the set's group; none in the root. A kernel's own set has its quota."""
        group = self.set_group(the_set)
        return the_set.quota if group is None else group.max

    def forget(self, the_set: IoasidSet) -> None:
        """The set has ended, and nothing is charged for it any more."""
        if the_set.set_id in self._charged:
            del self._charged[the_set.set_id]
        if the_set.token is not None:
            self._tidy(the_set.token)

    def leave(self, mm: Part) -> None:
        """A process that is gone is no member; what its set still has out stays charged."""
        if mm.path in self._members:
            del self._members[mm.path]
            self._tidy(mm)

    def _tidy(self, mm: Part) -> None:
        """A group that was made for one process goes when that process is gone and nothing is left in it.

        One that the process only left, or below which somebody has made others, stays until it is removed by hand.
        """
        for group in self.groups.values():
            charged = group.current or group.name in self._charged.values()
            if group.scope_of is mm and not (charged or self.members(group) or self.groups.below(group)):
                self.groups.remove(group)

    # --- paying -------------------------------------------------------------------------------------------------------

    def charge(self, the_set: IoasidSet, payer: Part | None) -> None:
        """One more for the group of the owner and all above; only the owner's own process may ask.

        What the code answers is in the words of the refusal, -EINVAL, -EPERM or -EAGAIN: outside it is INVALID_IOASID.
        """
        if the_set.kind is not SetType.MM:
            return
        if payer is None:
            raise IoasidRefused(f"nobody to charge for {the_set.name}: the caller has no mm (-EINVAL)")
        if payer is not the_set.token:
            raise IoasidRefused(f"only the process that owns the set of {the_set.name} can be charged for it (-EPERM)")
        group = self.group_of(payer)
        self._assign(the_set, group)
        if group is None:
            self._draw(the_set)
            return
        for level in group.levels():
            if level.current >= level.max:
                self._note_refusal(level)
                raise IoasidRefused(
                    f"{the_set.name} cannot be charged: group {level.name} has {level.current} PASIDs in use and a max "
                    f"of {level.max} (-EAGAIN)"
                )
        self.groups.add(group, 1, Verb.CHARGE)

    @staticmethod
    def _note_refusal(group: Group) -> None:
        group.events += 1

    def uncharge(self, the_set: IoasidSet, payer: Part | None) -> None:
        """Back to the owner's group, whoever runs the last put, and whether or not the owner still lives."""
        if the_set.kind is SetType.MM and self._can_uncharge(the_set):
            self.groups.add(self._relieved(the_set), -1, Verb.UNCHARGE)
            self._settle()

    def _can_uncharge(self, the_set: IoasidSet) -> bool:
        return True

    def _relieved(self, the_set: IoasidSet) -> Group | None:
        """The group that has one PASID less."""
        return self.set_group(the_set)

    # --- the root -----------------------------------------------------------------------------------------------------

    def _draw(self, the_set: IoasidSet) -> None:
        if the_set.quota is not None:
            return
        if not self._capacity.available:
            raise IoasidRefused(f"no PASID is left for {the_set.name}, which is in the root and was promised none")
        self._capacity.take(1, the_set.name)
        self.drawn += 1

    def root_count(self) -> int:
        """How many IDs the sets without quota in the root have out."""
        return sum(
            the_set.count
            for the_set in self._sets.values()
            if the_set.quota is None and the_set.set_id not in self._charged
        )

    def _settle(self, wanted: int = 0) -> None:
        """What is drawn must not exceed what is out in the root; ``wanted`` more are drawn as far as there are any."""
        out = self.root_count()
        surplus = self.drawn - out
        if surplus > 0:
            self.drawn -= surplus
            self._capacity.give(surplus)
        elif wanted:
            more = min(wanted, -surplus, self._capacity.available)
            self._capacity.take(more, "the root")
            self.drawn += more


def cgroups_of(core: IoasidIds) -> CgroupQuota:
    """The groups of a core. ``-EINVAL`` its policy is another one."""
    policy = core.policy
    if not isinstance(policy, CgroupQuota):
        raise KernelError("EINVAL", f"control groups need the quota policy cgroup, and this one is {policy.name}")
    return policy
