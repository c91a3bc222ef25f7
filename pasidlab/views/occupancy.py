"""Projection: who owns how much of the 20-bit space. Numbers for a chart; the chart itself is the widgets' business.

The space is folded into 128 x 128 cells of 64 PASIDs each, so that a single one stays visible on any screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.timeline import HOST
from pasidlab.views.table import Column, Line, Table

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["PASIDS_PER_CELL", "SIDE", "Cell", "SetUse", "cells", "set_table", "set_use"]

SIDE: Final = 128
PASIDS_PER_CELL: Final = (1 << 20) // (SIDE * SIDE)


class SetUse(NamedTuple):
    """One ioasid_set: how many of its quota are out."""

    set_id: int
    name: str
    used: int
    quota: int


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
    [SetUse(set_id=0, name='host', used=0, quota=32768)]
    """
    sets = machine.kernel.ioasid.sets.values()
    return [SetUse(the_set.set_id, the_set.name, the_set.count, the_set.quota) for the_set in sets]


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


def set_table(machine: Machine) -> Table:
    """The same as a table: the chart's text twin."""
    columns = (
        Column("set", "set"),
        Column("owner", "owner"),
        Column("used", "used", mono=True),
        Column("quota", "quota", mono=True),
    )
    rows = tuple(
        Line(
            f"set:{use.set_id}",
            (str(use.set_id), use.name, str(use.used), str(use.quota)),
            "live" if use.used else "idle",
        )
        for use in set_use(machine)
    )
    left = machine.kernel.ioasid.available
    rest = Line("available", ("", "not promised", "", str(left)), "idle")
    return Table("ioasid-sets", "IOASID sets", columns, (*rows, rest))
