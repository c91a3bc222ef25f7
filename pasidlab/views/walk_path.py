"""The way of a walk as a picture needs it: which boxes in which rows, and which of its stops belongs to which box.

What is a box says :mod:`pasidlab.hardware.iommu.shape`; the unit that walked puts the walk into it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.hardware.iommu.shape import UNKNOWN, Shape, Way

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import Walk

__all__ = ["WalkPath", "shape_of"]


def shape_of(walk: Walk) -> Shape:
    """The shape that the tables decide."""
    return _way(walk).shape


def _way(walk: Walk) -> Way:
    """The unit's own word; of a walk without a unit nothing is known."""
    return (
        walk.unit.reading.way(walk)
        if walk.unit is not None
        else Way(UNKNOWN, ("result",) * len(walk.stops), {}, "result")
    )


class WalkPath:
    """The boxes of a walk: ``order`` as they are passed, ``rows`` as they are drawn, and the box of each stop.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); app = m.spawn("app"); pasid = app.bind(dsa)
    >>> path = WalkPath(m.translate(dsa.rid, pasid, app.buffer(1), caches=False))
    >>> path.rows[1]
    ('asked:0', 'first:4', 'first:3', 'first:2', 'first:1', 'result')
    >>> path.boxes
    ('root', 'context', 'directory', 'entry', 'first:4', 'first:3', 'first:2', 'first:1')
    """

    def __init__(self, walk: Walk) -> None:
        way = _way(walk)
        self.walk = walk
        self.shape, self.boxes, self.guest, self.end = way
        self.rows = self.shape.rows
        self.order = tuple(key for row in self.rows for key in row)

    @property
    def culprit(self) -> str:
        """The box at which a fault lies; empty if the walk led to an address."""
        return "" if self.walk.fault is None else self.end
