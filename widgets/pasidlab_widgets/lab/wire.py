"""The panes "On the wire" (one process and its devices) and "Queue" (one work queue with everybody's descriptors)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import ipywidgets as w

from pasidlab.views.changes import mark_figure
from pasidlab.views.figure import Figure, Node
from pasidlab.views.queue_figure import work_queue
from pasidlab.views.wire_figure import on_the_wire
from pasidlab.views.wire_words import QUEUE, WIRE
from pasidlab_widgets.graph import GraphView
from pasidlab_widgets.lab import choices
from pasidlab_widgets.lab.controls import Button, Menu
from pasidlab_widgets.lab.words import WHY

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["QueuePane", "WirePane"]

Guard = Callable[[Callable[[], None]], Callable[[], None]]
_NO_PROCESS: Final = Figure("wire", WIRE["nothing"], (Node("none", (WIRE["nothing"],), columns=52, at=(0, 0)),))
_NO_QUEUE: Final = Figure("queue", QUEUE["nothing"], (Node("none", (QUEUE["nothing"],), columns=52, at=(0, 0)),))


class _ChosenPane(ABC):
    """A figure of something that menus choose; what changed is marked while the choice is the same."""

    name: str
    buttons: dict[str, Button]
    fields: dict[str, w.Text | w.IntText]

    @abstractmethod
    def _offer(self, machine: Machine) -> None:
        """Offer in the menus what there is now."""

    @abstractmethod
    def _chosen(self, machine: Machine) -> tuple[str, Figure]:
        """What is chosen, and its figure."""

    def __init__(self, height: str, menus: dict[str, Menu], *more: w.Widget) -> None:
        self._machine: Machine | None = None
        self._before: tuple[str, Figure] | None = None
        self.menus = menus
        self.buttons, self.fields = {}, {}
        self.view = GraphView(height=height)
        asking = w.Box([*(menu.widget for menu in menus.values()), *more])
        asking.add_class("pl-asking")
        self.widget: w.Widget = w.VBox([asking, self.view])
        self.widget.add_class("pl-tables")

    def draw(self, machine: Machine) -> None:
        """Show the present step of what is chosen."""
        self._machine = machine
        self._offer(machine)
        key, figure = self._chosen(machine)
        before = self._before[1] if self._before is not None and self._before[0] == key else None
        self.view.show(mark_figure(before, figure))
        self._before = key, figure

    def _again(self) -> None:
        """Something else was chosen."""
        if self._machine is not None:
            self.draw(self._machine)

    def forget(self) -> None:
        """A new future: nothing of it is to be compared with what was shown."""
        self._before = None

    def leave(self) -> None:
        """Nothing is known of another machine."""
        self._machine = self._before = None
        self.view.selected = ""


class WirePane(_ChosenPane):
    """One process and what each of its devices carries on the wire."""

    name = "wire"

    def __init__(self, height: str, guard: Guard) -> None:
        super().__init__(height, {"wire-process": Menu("wire-process", guard(self._again))})

    def _offer(self, machine: Machine) -> None:
        self.menus["wire-process"].offer(choices.processes(machine))

    def _chosen(self, machine: Machine) -> tuple[str, Figure]:
        key = self.menus["wire-process"].value
        return key, on_the_wire(machine, choices.app_of(machine, key)) if key else _NO_PROCESS


class QueuePane(_ChosenPane):
    """One work queue. ``step`` carries out one enabled action."""

    name = "queue"

    def __init__(self, height: str, guard: Guard, step: Callable[[], None]) -> None:
        button = Button("run-step", step)
        menus = {
            "queue-device": Menu("queue-device", guard(self._again)),
            "queue-number": Menu("queue-number", guard(self._again)),
        }
        super().__init__(height, menus, button.widget)
        self.buttons = {"run-step": button}

    def refresh(self, machine: Machine) -> None:
        """What can be pressed now."""
        self.buttons["run-step"].allow("" if machine.pending else WHY["no-work"])

    def _offer(self, machine: Machine) -> None:
        self.menus["queue-device"].offer(choices.accelerators(machine))
        self.menus["queue-number"].offer(choices.queues(machine, self.menus["queue-device"].value))

    def _chosen(self, machine: Machine) -> tuple[str, Figure]:
        device, number = self.menus["queue-device"].value, self.menus["queue-number"].value
        return f"{device}/{number}", work_queue(machine, device, int(number)) if device and number else _NO_QUEUE
