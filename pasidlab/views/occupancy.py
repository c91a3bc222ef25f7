"""Projection: who owns how much of the 20-bit space. Numbers for charts: the live one (Bokeh, in the widgets) and the
still one (:mod:`pasidlab.views.quota_bars`).

The space is folded into 128 x 128 cells of 64 PASIDs each, so that a single one stays visible on any screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.timeline import HOST
from pasidlab.views.numbers import quota_words
from pasidlab.views.table import Column, Line, Table
from pasidlab.views.words import OCCUPANCY

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = [
    "PASIDS_PER_CELL",
    "SIDE",
    "Cell",
    "SetUse",
    "SpaceUse",
    "cells",
    "set_table",
    "set_use",
    "set_words",
    "space_use",
]

SIDE: Final = 128
PASIDS_PER_CELL: Final = (1 << 20) // (SIDE * SIDE)


class SetUse(NamedTuple):
    """One ioasid_set: how many of its quota are out, and how many of these only wait to be reclaimed.

    ``quota`` is ``None`` where the set has none of its own: then an administrator's policy limits it. ``ending``: the
    set was freed and goes with its last ID.
    """

    set_id: int
    name: str
    used: int
    pending: int
    quota: int | None
    ending: bool

    @property
    def living(self) -> int:
        """IDs that can be used."""
        return self.used - self.pending

    @property
    def left(self) -> int | None:
        """What the quota still allows; ``None`` without a quota."""
        return None if self.quota is None else max(0, self.quota - self.used)


class SpaceUse(NamedTuple):
    """The capacity of the whole: promised to sets as quotas, kept by an administrator's policy, reserved, and left.

    ``lost`` is what these do not add up to: 0 unless somebody has forgotten to give capacity back (below 0: has given
    back what was never there).
    """

    total: int
    promised: int
    policy: int
    reserved: int
    left: int
    lost: int


class Cell(NamedTuple):
    """64 neighbouring PASIDs of which some are out: column and row in the square, the owner of most, how many, and
    which.
    """

    column: int
    row: int
    owner: str
    taken: int
    numbers: str


def set_use(machine: Machine) -> list[SetUse]:
    """Every set, the host's first.

    >>> from pasidlab import Machine
    >>> set_use(Machine())
    [SetUse(set_id=0, name='host', used=0, pending=0, quota=32768, ending=False)]
    """
    return [
        SetUse(
            the_set.set_id,
            the_set.name,
            the_set.count,
            sum(record.free_pending for record in the_set.ids.values()),
            the_set.quota,
            the_set.free_pending,
        )
        for the_set in machine.kernel.ioasid.sets.values()
    ]


def space_use(machine: Machine) -> SpaceUse:
    """Who was promised how much of the capacity.

    >>> from pasidlab import Machine
    >>> m = Machine(); vm = m.create_vm("vm1", quota=64)
    >>> space_use(m)
    SpaceUse(total=1048576, promised=32832, policy=0, reserved=0, left=1015744, lost=0)
    """
    core = machine.kernel.ioasid
    capacity, promised = core.capacity, sum(the_set.quota or 0 for the_set in core.sets.values())
    policy = core.policy.held
    lost = capacity.total - capacity.available - capacity.reserved - promised - policy
    return SpaceUse(capacity.total, promised, policy, capacity.reserved, capacity.available, lost)


def cells(machine: Machine) -> list[Cell]:
    """The cells that are not empty, lowest numbers first."""
    found: dict[int, list[tuple[int, str]]] = {}
    for number, record in machine.kernel.ioasid.ids.items():
        found.setdefault(number // PASIDS_PER_CELL, []).append((number, record.owner.name))
    return [_cell(index, members) for index, members in found.items()]


def _cell(index: int, members: list[tuple[int, str]]) -> Cell:
    owners = [owner for _, owner in members]
    most = max(sorted(set(owners), key=lambda name: (name != HOST, name)), key=owners.count)
    text = ", ".join(str(number) for number, _ in members[:8]) + (
        f" and {len(members) - 8} more" if len(members) > 8 else ""
    )
    return Cell(index % SIDE, index // SIDE, most, len(members), text)


def set_words(use: SetUse) -> str:
    """A set in one line.

    >>> set_words(SetUse(1, "vm1", 3, 1, 64, False)), set_words(SetUse(2, "vm2", 3, 0, None, True))
    ('3 of 64, 1 free-pending', '3, no quota of its own, ends with its last ID')
    """
    parts = [quota_words(use.used, use.quota)]
    parts += [OCCUPANCY["no-quota"]] if use.quota is None else []
    parts += [OCCUPANCY["pending"].format(count=use.pending)] if use.pending else []
    parts += [OCCUPANCY["ending"]] if use.ending else []
    return ", ".join(parts)


def set_table(machine: Machine) -> Table:
    """Every set in numbers: the chart's text twin."""
    columns = (
        Column("set", "set"),
        Column("owner", "owner"),
        Column("used", "used", mono=True),
        Column("pending", "free-pending", mono=True),
        Column("left", "left", mono=True),
        Column("quota", "quota", mono=True),
        Column("note", "note"),
    )
    space = space_use(machine)
    rest = (
        Line("policy", ("", OCCUPANCY["policy"], "", "", "", str(space.policy), "")),
        Line("reserved", ("", OCCUPANCY["reserved"], "", "", "", str(space.reserved), "")),
        Line("available", ("", OCCUPANCY["left"], "", "", str(space.left), "", f"of {space.total}")),
    )
    lost = (Line("lost", ("", OCCUPANCY["lost"], "", "", "", str(space.lost), ""), "fault"),) if space.lost else ()
    return Table("ioasid-sets", OCCUPANCY["sets"], columns, (*map(_row, set_use(machine)), *rest, *lost))


def _row(use: SetUse) -> Line:
    left, quota = ("" if number is None else str(number) for number in (use.left, use.quota))
    note = [OCCUPANCY["no-quota"]] if use.quota is None else []
    note += [OCCUPANCY["ending"]] if use.ending else []
    state = "pending" if use.ending or use.pending else "live" if use.used else "idle"
    cells = (str(use.set_id), use.name, str(use.used), str(use.pending), left, quota, ", ".join(note))
    return Line(f"set:{use.set_id}", cells, state)
