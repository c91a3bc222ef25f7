"""The IOASIDs of the host, as a pane with five pictures: life cycle, holders of one ID, notifier chains, quotas,
and what each administrator allows.

Only the picture that can be seen is drawn, as in the stack that holds the pane. The ID whose holders are shown is
chosen in a menu, or by clicking it wherever it appears; it stays chosen when it is not out, so that time travel shows
when it came and went.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

import ipywidgets as w

from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.views.chains import chains
from pasidlab.views.changes import mark_figure
from pasidlab.views.figure import Figure, Node
from pasidlab.views.keepers import keepers
from pasidlab.views.life_cycle import life_cycle
from pasidlab.views.room import Room
from pasidlab_widgets.graph import GraphView
from pasidlab_widgets.lab import choices
from pasidlab_widgets.lab.controls import Menu
from pasidlab_widgets.lab.hypervisor_words import OWN_IOASIDS
from pasidlab_widgets.lab.pictures import GraphPane, Pane, Stack
from pasidlab_widgets.lab.words import EMPTY

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["IoasidsPane", "KeepersPane", "chains_pane", "ioasid_of", "life_pane"]

Guard = Callable[[Callable[[], None]], Callable[[], None]]
_NONE = Figure("keepers", EMPTY["no-ioasid"], (Node("none", (EMPTY["no-ioasid"],), columns=44),))


def ioasid_of(key: str) -> int | None:
    """The IOASID that a box or a row with this key stands for.

    >>> ioasid_of("ioasid:101"), ioasid_of("host:101"), ioasid_of("set:1")
    (101, 101, None)
    """
    kind, _, number = key.partition(":")
    return int(number) if kind in ("ioasid", "host") and number.isdecimal() else None


class IoasidsPane:
    """Five pictures of which one can be seen. ``inner`` is their stack; above it is ``said`` why guests have none."""

    name = "ioasids"

    def __init__(self, panes: list[Pane], guard: Guard) -> None:
        self.inner = Stack(panes, guard)
        self.inner.widget.add_class("pl-inner")
        self.said = ""
        self._own = w.HTML(layout=w.Layout(display="none"))
        self.widget: w.Widget = w.VBox([self._own, self.inner.widget])

    @property
    def view(self) -> IoasidsPane:
        """The pane itself: it passes on what its pictures report."""
        return self

    def on_trouble(self, callback: Callable[[BaseException], None]) -> None:
        """Give errors of every picture to ``callback``."""
        for pane in self.inner.panes:
            pane.view.on_trouble(callback)

    def draw(self, machine: Machine) -> None:
        """Show the present step in the picture that can be seen."""
        self.said = OWN_IOASIDS if FAMILIES[machine.iommu].binds_tables else ""
        self._own.value = f'<div class="pl-hint">{escape(self.said)}</div>' if self.said else ""
        self._own.layout.display = None if self.said else "none"
        self.inner.refresh(machine)

    def forget(self) -> None:
        """Lay out afresh."""
        self.inner.forget()

    def leave(self) -> None:
        """Another machine comes."""
        self.inner.leave()


def life_pane(height: str) -> GraphPane:
    """Where each ID is in its life. What moved is marked; of arrows only the move of the step stands out."""
    return GraphPane("life", life_cycle, height, _mark_boxes)


def chains_pane(height: str) -> GraphPane:
    """Who is told what. Whose turn it is says more than what has changed."""
    return GraphPane("chains", chains, height, lambda _, figure: figure)


def _mark_boxes(before: Figure | None, now: Figure) -> Figure:
    """Mark the tokens that changed: boards only count them."""
    marked = mark_figure(before, now)
    nodes = (replace(node, changed=node.changed and bool(node.inside)) for node in marked.nodes)
    return replace(marked, nodes=tuple(nodes), edges=now.edges)


class KeepersPane:
    """Who holds one IOASID. ``chosen`` is called with the ID when a person chooses it in the menu."""

    name = "keepers"

    def __init__(self, height: str, guard: Guard, chosen: Callable[[int], None]) -> None:
        self._machine: Machine | None = None
        self._rooms: dict[int, Room] = {}
        self._before: dict[int, Figure] = {}
        self._chosen = chosen
        self.ioasid: int | None = None
        self.menu = Menu("ioasid", guard(self._picked))
        self.view = GraphView(height=height)
        self.widget: w.Widget = w.VBox([self.menu.widget, self.view])

    def choose(self, ioasid: int) -> None:
        """The ID to show from now on."""
        self.ioasid = ioasid
        if self._machine is not None:
            self.draw(self._machine)

    def draw(self, machine: Machine) -> None:
        """Show the present step."""
        self._machine = machine
        self.menu.offer(choices.ioasids(machine, self.ioasid))
        if self.ioasid is None and self.menu.value:
            self.ioasid = int(self.menu.value)
        self.menu.show(str(self.ioasid) if self.ioasid is not None else "")
        self._redraw(machine)

    def forget(self) -> None:
        """Lay out afresh."""
        self._rooms.clear()

    def leave(self) -> None:
        """No ID is chosen."""
        self.forget()
        self._before.clear()
        self._machine, self.ioasid, self.view.selected = None, None, ""

    def _picked(self) -> None:
        if self.menu.value:
            self._chosen(int(self.menu.value))

    def _redraw(self, machine: Machine) -> None:
        if self.ioasid is None:
            self.view.show(_NONE)
            return
        figure = keepers(machine, self.ioasid, self._rooms.setdefault(self.ioasid, Room()))
        self.view.show(mark_figure(self._before.get(self.ioasid), figure))
        self._before = {self.ioasid: figure}
