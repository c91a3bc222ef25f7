"""Projection: sets and their quotas -> bars. What of each is in use, what only waits to be reclaimed, what is left.

The first bar is the capacity of the whole: what was promised to sets, what a policy keeps for sets without a quota of
their own, what an administrator reserved. The numbers are those of :mod:`pasidlab.views.occupancy`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.views.bars import Bar, Bars, Share
from pasidlab.views.figure import fold
from pasidlab.views.occupancy import SetUse, SpaceUse, set_use, set_words, space_use
from pasidlab.views.words import OCCUPANCY

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["quota_bar", "quota_bars", "space_bar"]

_SETS: Final = 24


def quota_bars(machine: Machine) -> Bars:
    """The quota of every set at the present step.

    >>> from pasidlab import Machine
    >>> m = Machine(); vm = m.create_vm("vm1", quota=64)
    >>> quota_bars(m).bars[2].said
    '0 of 64, 64 left'
    """
    shown, folded = fold(set_use(machine), _SETS)
    bars = (space_bar(space_use(machine)), *map(_bar, shown))
    more = OCCUPANCY["more"].format(count=folded) if folded else ""
    return Bars("ioasid-quotas", OCCUPANCY["title"], bars, OCCUPANCY["note"], more)


def quota_bar(machine: Machine, set_id: int) -> Bars:
    """The quota of one set.

    >>> from pasidlab import Machine
    >>> m = Machine(); vm = m.create_vm("vm1", quota=64)
    >>> quota_bar(m, 1).title
    'The quota of vm1'
    """
    use = next(use for use in set_use(machine) if use.set_id == set_id)
    return Bars("ioasid-quota", OCCUPANCY["one"].format(name=use.name), (_bar(use),))


def space_bar(use: SpaceUse) -> Bar:
    """The capacity as one bar."""
    shares = (
        Share("promised", OCCUPANCY["promised"], use.promised, "idle"),
        Share("policy", OCCUPANCY["policy"], use.policy, "new"),
        Share("reserved", OCCUPANCY["reserved"], use.reserved, "off"),
        Share("lost", OCCUPANCY["lost"], max(0, use.lost), "fault"),
    )
    said = ", ".join(f"{share.label} {share.amount}" for share in shares if share.amount)
    said = f"{said}, {OCCUPANCY['left']} {use.left}" if said else f"{OCCUPANCY['left']} {use.left}"
    return Bar("space", OCCUPANCY["space"].format(total=use.total), said, shares, use.total)


def _bar(use: SetUse) -> Bar:
    shares = (
        Share("used", OCCUPANCY["used"], use.living, "live"),
        Share("pending", OCCUPANCY["pending-key"], use.pending, "pending"),
    )
    whole = use.quota if use.quota is None else max(use.quota, use.used)
    title = OCCUPANCY["set"].format(set_id=use.set_id, name=use.name)
    said = [set_words(use)] + ([OCCUPANCY["quota-left"].format(count=use.left)] if use.left is not None else [])
    return Bar(f"set:{use.set_id}", title, ", ".join(said), shares, whole)
