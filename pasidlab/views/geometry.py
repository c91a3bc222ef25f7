"""Places on paper: rectangles of boxes and frames, ways of arrows. Pixels; x to the right, y down."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Curve", "Geometry", "Rect"]


class Rect(NamedTuple):
    """A rectangle: left upper corner, width, height."""

    x: float
    y: float
    width: float
    height: float


class Curve(NamedTuple):
    """An arrow's way: a start and control points of cubic curves; where its head's tip is, and its label's middle."""

    points: tuple[tuple[float, float], ...]
    tip: tuple[float, float] | None
    label: tuple[float, float] | None


class Geometry(NamedTuple):
    """A finished layout: size of the whole, and the place of everything by key."""

    width: float
    height: float
    nodes: dict[str, Rect]
    edges: dict[str, Curve]
    frames: dict[str, Rect]
