"""The tree of control groups with the files of the ``ioasids`` controller: max, current, events.

Models ``kernel/cgroup/ioasids.c`` of the V4 series (RFC, never merged). Each group but the root has a ``max`` (0 at
first: nothing is allowed), the number of IDs that are charged to it and its descendants (``current``), and how often it
refused (``events``: the code never counted).

What is written to ``max`` is set aside: growth takes the difference from the capacity, a smaller ``max`` gives it back,
and current may be above it. "max" takes everything that is left (the code recorded only that, not the sum, as the new
limit). Removing a group gives its reserve back (the code forgot to). Each level sets its own ``max`` aside, so that a
nested group is paid for at each level: that is how the code reads, no source says whether it was meant.

Invariant: what a group has set aside is its ``max``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal

from pasidlab.errors import KernelError
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.capacity import Capacity
    from pasidlab.timeline import Timeline

__all__ = ["ROOT", "Group", "Groups"]

ROOT: Final = "/"
"""The name of the root, which has none of the files and is charged nothing."""


class Group(Part, state=("current", "events", "max")):
    """One group; ``name`` is its path from the root (``"tenants/a"``).

    ``scope_of``: it was made for this process only and goes when the process and its IDs have gone.
    """

    def __init__(
        self, timeline: Timeline, path: str, name: str, parent: Group | None, scope_of: Part | None = None
    ) -> None:
        super().__init__(timeline, path)
        self.name = name
        self.parent = parent
        self.scope_of = scope_of
        self.max = 0
        self.current = 0
        self.events = 0

    def levels(self) -> Iterator[Group]:
        """This group and those above it, without the root."""
        level: Group | None = self
        while level is not None:
            yield level
            level = level.parent

    def __repr__(self) -> str:
        if self.retired:
            return f"<cgroup {self.name}, removed>"
        return f"<cgroup {self.name}: {self.current} of {self.max}>"


class Groups(Actor):
    """All groups below the root, by name."""

    actor = "ioasid"

    def __init__(self, timeline: Timeline, path: str, altitude: str, capacity: Capacity) -> None:
        super().__init__(timeline, path, altitude)
        self._capacity = capacity
        self._groups = Table[str, Group](timeline, f"{path}.table")

    # --- the tree -----------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Group | None:
        """The group of that name, ``None`` for the root; ``-ENOENT`` if there is none."""
        if name == ROOT:
            return None
        group = self._groups.get(name)
        if group is None:
            raise KernelError("ENOENT", f"there is no group {name}")
        return group

    def make(self, name: str, limit: int | Literal["max"] = 0, scope_of: Part | None = None) -> Group:
        """mkdir, and a first write to ``max``.

        Errors: ``-EINVAL`` an empty part in the name, a limit below 0; ``-EEXIST``; ``-ENOENT`` the group above is
        missing; ``-ENOSPC`` the limit.
        """
        if not all(name.split("/")):
            raise KernelError("EINVAL", f"a group's name must be words with / between them, not {name!r}")
        if name in self._groups:
            raise KernelError("EEXIST", f"the group {name} is there already")
        above = name.rpartition("/")[0]
        parent = self.find(above) if above else None
        if limit != 0:
            self._check(name, 0, self._wanted(0, limit))
        group = Group(self.timeline, f"{self.path}.group[{name}]", name, parent, scope_of)
        self._groups[name] = group
        self.emit(Verb.CREATE, f"group {name}", after="max 0", group=name)
        if limit != 0:
            self.write_max(group, limit)
        return group

    def remove(self, group: Group) -> None:
        """rmdir: the reserve returns. ``-EBUSY`` with groups below it, or IDs that are charged to it."""
        below = self.below(group)
        if below or group.current:
            what = f"groups below it ({below[0].name})" if below else f"{group.current} PASIDs charged to it"
            raise KernelError("EBUSY", f"the group {group.name} must be empty to be removed, it has {what}")
        self._return_reserve(group)
        del self._groups[group.name]
        self.emit(Verb.CLOSE, f"group {group.name}", after=f"its reserve of {group.max} returns", group=group.name)
        group.retire()

    def _return_reserve(self, group: Group) -> None:
        self._capacity.give(group.max)

    def below(self, group: Group | None) -> list[Group]:
        """The groups directly below one, or below the root."""
        return [other for other in self._groups.values() if other.parent is group]

    def values(self) -> list[Group]:
        """All groups, in order of their names."""
        return self._groups.values()

    # --- max ----------------------------------------------------------------------------------------------------------

    @property
    def reserved(self) -> int:
        """What all groups together have set aside."""
        return sum(group.max for group in self._groups.values())

    def write_max(self, group: Group, limit: int | Literal["max"]) -> None:
        """Another limit, also below what is charged.

        Errors: ``-EINVAL`` negative or unchanged; ``-ENOSPC`` it grows by more than is left.
        """
        old, new = group.max, self._wanted(group.max, limit)
        self._check(group.name, old, new)
        self._capacity.take(new - old, f"the growth of group {group.name}")
        group.max = new
        self.emit(
            Verb.ADJUST,
            f"max of group {group.name}",
            old,
            new,
            group=group.name,
            used=group.current,
            shrinks=new < old,
        )

    def _wanted(self, old: int, limit: int | Literal["max"]) -> int:
        return old + self._capacity.available if limit == "max" else limit

    def _check(self, name: str, old: int, new: int) -> None:
        if new < 0:
            raise KernelError("EINVAL", f"the max of group {name} must be 0 or more PASIDs, not {new}")
        if new == old:
            raise KernelError("EINVAL", f"the max of group {name} is {old} already")
        if new - old > self._capacity.available:
            raise KernelError(
                "ENOSPC",
                f"the max of group {name} must be at most {old + self._capacity.available}, not {new}: "
                "the rest is promised to others",
            )

    # --- charges ------------------------------------------------------------------------------------------------------

    def add(self, group: Group | None, count: int, why: Verb | None = None) -> None:
        """``count`` more (or fewer) for a group and all above it; with ``why`` each level tells it."""
        for level in group.levels() if group is not None else ():
            level.current += count
            if why is not None:
                old = level.current - count
                self.emit(why, f"group {level.name}", old, level.current, group=level.name, limit=level.max)
