"""The Python line of every click: a list to read and to travel by, and one script to copy.

Each operation is one line. A refused one is marked, and stands in the script as a comment with the answer, so that the
script runs from top to bottom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as w

from pasidlab.views.table import Column, Line, Table
from pasidlab_widgets.lab.words import BUTTONS, EMPTY
from pasidlab_widgets.table import TableView

if TYPE_CHECKING:
    from pasidlab.machine import Machine
    from pasidlab.timeline import Operation, Timeline

__all__ = ["LinesPane", "line_table", "script"]


def script(timeline: Timeline) -> str:
    """Everything up to the present step as one Python script.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> print(script(m.timeline))
    from pasidlab import Machine
    <BLANKLINE>
    m = Machine(iommu="vtd")
    m.plug_accelerator("dsa0")
    <BLANKLINE>
    """
    past = [operation for operation in timeline.operations if operation.first < timeline.now]
    return "\n".join(["from pasidlab import Machine", "", *map(_script_line, past), ""])


def _script_line(operation: Operation) -> str:
    if operation.refused is None:
        return operation.line
    return f"# {operation.line}  # refused, {operation.refused}".replace("\n", " ")


def line_table(timeline: Timeline) -> Table:
    """Every operation, newest first, those of an undone future included."""
    columns = (Column("line", "Python", mono=True), Column("answer", "answer"), Column("steps", "steps", mono=True))
    rows = tuple(_row(operation, timeline.now) for operation in reversed(timeline.operations))
    return Table("lines", EMPTY["lines-title"], columns, rows, empty=EMPTY["lines"])


def _row(operation: Operation, now: int) -> Line:
    answer = f"refused: {operation.refused}" if operation.refused else ""
    state = "pending" if operation.refused else "live" if operation.first < now <= operation.last else "idle"
    if operation.first >= now:
        state, answer = "off", answer or "undone"
    return Line(f"line:{operation.last}", (operation.line, answer, _steps(operation)), state)


def _steps(operation: Operation) -> str:
    first = operation.first + 1
    return str(first) if first == operation.last else f"{first}-{operation.last}"


class LinesPane:
    """The list of lines, newest on top; a picked one is the moment to travel to."""

    name = "lines"

    def __init__(self, height: str, travel: Callable[[int], None]) -> None:
        label, hint = BUTTONS["script"]
        self._machine: Machine | None = None
        self.view = TableView(height=height)
        self.view.on_pick(lambda key: travel(int(key.partition(":")[2])))
        self.button = w.ToggleButton(description=label, tooltip=hint, layout=w.Layout(width="auto"))
        self.script = w.Textarea(layout=w.Layout(width="auto", height="220px", display="none"))
        self.script.add_class("pl-script")
        self.button.observe(lambda _: self._toggle(), "value")
        self.widget: w.Widget = w.VBox([self.view, self.button, self.script])

    def draw(self, machine: Machine) -> None:
        """Show the lines, and the script while it is open."""
        self._machine = machine
        self.view.show(line_table(machine.timeline))
        if self.button.value:
            self.script.value = script(machine.timeline)

    def _toggle(self) -> None:
        if self._machine is not None:
            self.script.value = script(self._machine.timeline) if self.button.value else ""
        self.script.layout.display = None if self.button.value else "none"

    def forget(self) -> None:
        """Nothing is reserved."""

    def leave(self) -> None:
        """Nothing is known."""
        self._machine = None
