"""A drawing without its paper, in parts: each has a key, so that a live view gets only those that are different."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Drawn"]


class Drawn(NamedTuple):
    """Width and height in pixels, and the markup of each part, back to front.

    >>> Drawn(10, 10, {"a": "<g/>", "b": "<g/>"}).svg
    '<g/>\\n<g/>'
    """

    width: float
    height: float
    parts: dict[str, str]

    @property
    def svg(self) -> str:
        """All parts together."""
        return "\n".join(self.parts.values())
