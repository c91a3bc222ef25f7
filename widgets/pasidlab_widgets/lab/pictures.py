"""The live pictures, as panes of two stacks: what there is (above) and what has just happened (below).

Only the panes that can be seen are drawn; a hidden one is drawn when it is opened. Each pane remembers what it showed
last, so that what a step changed is marked, and has a :class:`~pasidlab.views.room.Room` so that nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import ipywidgets as w

from pasidlab.views.changes import mark_figure, mark_table
from pasidlab.views.figure import Figure
from pasidlab.views.flow import flow_of_operation
from pasidlab.views.holders import holders
from pasidlab.views.machine_map import machine_map
from pasidlab.views.mapping import guest_to_host
from pasidlab.views.room import Room
from pasidlab_widgets.graph import GraphView
from pasidlab_widgets.lab.words import EMPTY, PANES
from pasidlab_widgets.ladder import LadderView
from pasidlab_widgets.table import TableView

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["FlowPane", "GraphPane", "HoldersPane", "Pane", "Stack", "map_pane", "mapping_pane"]


class Troubled(Protocol):
    """A view that can say what went wrong."""

    def on_trouble(self, callback: Callable[[BaseException], None]) -> None:
        """Give errors to ``callback``."""


class Pane(Protocol):
    """One picture. ``name`` is a key of the catalogue's panes."""

    name: str
    widget: w.Widget

    @property
    def view(self) -> Troubled:
        """The live view, which reports what goes wrong in the page."""

    def draw(self, machine: Machine) -> None:
        """Show the present step."""

    def forget(self) -> None:
        """A new future began: what was reserved for the old one can go."""

    def leave(self) -> None:
        """Another machine comes: what was shown and chosen of the old one counts no more."""


class Stack:
    """Panes of which one can be seen."""

    def __init__(self, panes: Sequence[Pane], guard: Callable[[Callable[[], None]], Callable[[], None]]) -> None:
        self.panes = tuple(panes)
        self._machine: Machine | None = None
        self._old: set[str] = set()
        self.widget = w.Tab(
            children=[pane.widget for pane in panes], titles=[PANES[pane.name] for pane in panes], selected_index=0
        )
        self.widget.add_class("pl-stack")
        show = guard(self._draw)
        self.widget.observe(lambda _: show(), "selected_index")

    @property
    def shown(self) -> Pane:
        """The pane that can be seen."""
        return self.panes[self.widget.selected_index or 0]

    def open(self, name: str) -> bool:
        """Bring the pane of this name to the front, also one that stands in another; whether there is one."""
        for at, pane in enumerate(self.panes):
            inner = getattr(pane, "inner", None)
            if pane.name == name or (isinstance(inner, Stack) and inner.open(name)):
                self.widget.selected_index = at
                return True
        return False

    def refresh(self, machine: Machine) -> None:
        """Draw what can be seen; the others are out of date from now on."""
        self._machine = machine
        self._old = {pane.name for pane in self.panes}
        self._draw()

    def forget(self) -> None:
        """A new future began."""
        for pane in self.panes:
            pane.forget()

    def leave(self) -> None:
        """Another machine comes; nothing is drawn until it is there."""
        self._machine = None
        for pane in self.panes:
            pane.leave()

    def _draw(self) -> None:
        pane = self.shown
        if self._machine is not None and pane.name in self._old:
            self._old.discard(pane.name)
            pane.draw(self._machine)


class GraphPane:
    """A figure that a projection makes of the machine. ``mark`` marks what is different from what was shown before."""

    def __init__(
        self,
        name: str,
        project: Callable[[Machine, Room], Figure],
        height: str,
        mark: Callable[[Figure | None, Figure], Figure] = mark_figure,
    ) -> None:
        self.name = name
        self.room = Room()
        self.view = GraphView(height=height)
        self.widget: w.Widget = self.view
        self._project = project
        self._mark = mark
        self._before: Figure | None = None

    def draw(self, machine: Machine) -> None:
        """Show the present step; mark what is different from what was shown before."""
        figure = self._project(machine, self.room)
        now = next((node.key for node in figure.nodes if node.state == "now" and node.present), "")
        self.view.show(self._mark(self._before, figure), now)
        self._before = figure

    def forget(self) -> None:
        """Lay out afresh."""
        self.room.forget()

    def leave(self) -> None:
        """Nothing is known, marked, or selected."""
        self.forget()
        self._before, self.view.selected = None, ""


def map_pane(height: str) -> GraphPane:
    """Who is there, and which PASID travels where."""
    return GraphPane("map", machine_map, height)


def mapping_pane(height: str) -> GraphPane:
    """Guest PASIDs, KVM's entries, host IOASIDs."""
    return GraphPane("mapping", guest_to_host, height)


class FlowPane:
    """The ladder of the operation at the present step. A picked row is the step to travel to."""

    name = "flow"

    def __init__(self, height: str, travel: Callable[[int], None]) -> None:
        self.view = LadderView(height=height, empty=EMPTY["flow"])
        self.view.on_pick(lambda key: travel(int(key) + 1))
        self.widget: w.Widget = self.view

    def draw(self, machine: Machine) -> None:
        """Show the operation."""
        self.view.show(flow_of_operation(machine.timeline))

    def forget(self) -> None:
        """Nothing is reserved."""

    def leave(self) -> None:
        """The ladder is of one operation; nothing else is known."""


class HoldersPane:
    """Every IOASID that is out, and who holds it."""

    name = "holders"

    def __init__(self, height: str) -> None:
        self.view = TableView(height=height)
        self.widget: w.Widget = self.view

    def draw(self, machine: Machine) -> None:
        """Show the table; mark the cells that changed."""
        table = holders(machine)
        before = self.view.table
        self.view.show(mark_table(before, table))

    def forget(self) -> None:
        """Nothing is reserved."""

    def leave(self) -> None:
        """No row was there before, none is selected."""
        self.view.table, self.view.selected = None, ""
