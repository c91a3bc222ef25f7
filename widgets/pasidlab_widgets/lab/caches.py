"""The pane "Caches": every line that the IOMMU and the devices keep, and whether the tables still say the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as w

from pasidlab.views.cache_table import cache_rows, cache_table
from pasidlab.views.changes import mark_table
from pasidlab_widgets.table import TableView

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["CachesPane"]


class CachesPane:
    """The table of caches. ``opened`` is called with the address from which a picked line was read, or to which it
    leads.
    """

    name = "caches"

    def __init__(self, height: str, opened: Callable[[int], None]) -> None:
        self._machine: Machine | None = None
        self._opened = opened
        self.view = TableView(height=height)
        self.view.on_pick(self._picked)
        self.widget: w.Widget = self.view

    def draw(self, machine: Machine) -> None:
        """Show the present step; mark what changed."""
        self._machine = machine
        self.view.show(mark_table(self.view.table, cache_table(machine)))

    def forget(self) -> None:
        """Nothing is reserved."""

    def leave(self) -> None:
        """Nothing is known of another machine's caches."""
        self._machine = self.view.table = None

    def _picked(self, key: str) -> None:
        line = cache_rows(self._machine).get(key) if self._machine is not None else None
        if line is not None and line.at:
            self._opened(line.at)
