"""The pane of quotas and of the 20-bit space, drawn by Bokeh: how much of the capacity is promised, how much of its
quota each set has in use and how much of that is free-pending, the first 256 PASIDs one by one, and the whole space as
128 x 128 cells of 64.

All ranges are fixed (an automatic range answers Python at every click). Colours are Okabe and Ito's; who owns a number
is also told by its tooltip, and by the table that is the text twin of the chart (:func:`pasidlab.views.occupancy`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import ipywidgets as w
from bokeh.events import Event, Tap
from bokeh.layouts import row
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d
from bokeh.models.annotations import Title
from bokeh.plotting import figure

from pasidlab.timeline import HOST
from pasidlab.views.figure import fold
from pasidlab.views.occupancy import PASIDS_PER_CELL, SIDE, SetUse, cells, set_use, set_words, space_use
from pasidlab.views.words import OCCUPANCY
from pasidlab_widgets.bokeh_view import BokehView
from pasidlab_widgets.lab.words import CHART
from pasidlab_widgets.theme_probe import ThemeProbe

if TYPE_CHECKING:
    from bokeh.plotting import figure as Figure

    from pasidlab.machine import Machine

__all__ = ["OWNER_COLOURS", "SpacePane", "dying_data", "first_data", "sets_data", "space_data"]

OWNER_COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
"""The host's colour, then those of the VMs by slot, again from the second on when there are more than seven."""
_FIRST: Final = 16
_SETS: Final = 7
_ROWS: Final = _SETS + 1
_PROMISED: Final = "#999999"
_DASH: Final = (3, 2)
_LEAST: Final = 0.008
"""The least width at which a share can be seen."""
_HEIGHT: Final = 300
Data = dict[str, list[object]]


def colour_of(machine: Machine, owner: str) -> str:
    """The colour of a set's owner; it depends on the VM's slot, so it stays when others come and go."""
    slot = machine.numbers.get(owner)
    if owner == HOST or slot is None:
        return OWNER_COLOURS[0]
    return OWNER_COLOURS[1 + slot % (len(OWNER_COLOURS) - 1)]


def sets_data(machine: Machine) -> Data:
    """A bar for the capacity and for each set: what is in use, up to where it is taken, and what there is to say.

    What is free-pending reaches from ``living`` to ``taken``. A set without a quota of its own has a dashed outline.

    >>> from pasidlab import Machine
    >>> m = Machine(); vm = m.create_vm("vm1", quota=4); sets_data(m)["label"]
    ['all 1048576: 32772 promised, 0 reserved', 'host: 0 of 32768', 'vm1: 0 of 4']
    """
    space, uses = space_use(machine), _folded(machine)
    promised = space.promised + space.policy
    words = CHART["space-use"].format(total=space.total, promised=promised, reserved=space.reserved)
    shares = [_shares(promised, space.reserved, space.total)]
    shares += [_shares(use.living, use.pending, use.quota) for use in uses]
    return {
        "y": [-at for at in range(len(shares))],
        "living": [living for living, _ in shares],
        "taken": [taken for _, taken in shares],
        "colour": [_PROMISED, *(_PROMISED if use.set_id < 0 else colour_of(machine, use.name) for use in uses)],
        "outline": ["solid", *("solid" if use.quota is not None else "dashed" for use in uses)],
        "label": [words, *(f"{use.name}: {set_words(use)}" for use in uses)],
    }


def _folded(machine: Machine) -> list[SetUse]:
    """The sets that have a bar each, and one bar for the others together."""
    shown, folded = fold(set_use(machine), _SETS)
    rest = set_use(machine)[len(shown) :]
    if not folded:
        return list(shown)
    used, pending = sum(use.used for use in rest), sum(use.pending for use in rest)
    quotas = [use.quota for use in rest if use.quota is not None]
    whole = sum(quotas) if len(quotas) == len(rest) else None
    return [*shown, SetUse(-1, OCCUPANCY["more"].format(count=folded), used, pending, whole, False)]


def _shares(living: int, pending: int, whole: int | None) -> tuple[float, float]:
    """Where two shares end in a bar of width 1; what is not nothing is seen. Without a whole the bar is half full."""
    whole = 2 * (living + pending) if whole is None else whole
    end = max(_LEAST, living / whole) if living else 0.0
    return end, min(1.0, end + max(_LEAST, pending / whole)) if pending else end


def first_data(machine: Machine, known: Sequence[int] = ()) -> Data:
    """The PASIDs below 256 that are out, each a square with its number; those of ``known`` that are not keep a row that
    is not drawn, so that a step changes few cells.
    """
    ids = machine.kernel.ioasid.ids
    out = {number: record for number, record in ids.items() if number < _FIRST * _FIRST}
    rows = [(number, out.get(number)) for number in sorted({*known, *out})]
    return {
        "x": [number % _FIRST if record else None for number, record in rows],
        "y": [-(number // _FIRST) if record else None for number, record in rows],
        "number": [str(number) if record else "" for number, record in rows],
        "colour": [colour_of(machine, record.owner.name) if record else "#000000" for _, record in rows],
        "owner": [f"{_owned(record.owner.name, record.spid)}, {record.state}" if record else "" for _, record in rows],
    }


def dying_data(machine: Machine) -> Data:
    """The squares of those that are free-pending: they get a dashed outline (hatching would cost 100 ms a click)."""
    ids = machine.kernel.ioasid.ids.items()
    dying = [number for number, record in ids if record.free_pending and number < _FIRST * _FIRST]
    return {"x": [number % _FIRST for number in dying], "y": [-(number // _FIRST) for number in dying]}


def _owned(owner: str, spid: int | None) -> str:
    return f"guest PASID {spid} of {owner}" if spid is not None else owner


def space_data(machine: Machine) -> Data:
    """The cells of the whole space in which something is out."""
    found = cells(machine)
    return {
        "x": [cell.column for cell in found],
        "y": [-cell.row for cell in found],
        "colour": [colour_of(machine, cell.owner) for cell in found],
        "owner": [cell.owner for cell in found],
        "numbers": [cell.numbers for cell in found],
    }


class SpacePane:
    """The chart. Colours of paper and ink follow the page through ``probe``; ``picked`` gets an ID that was clicked."""

    name = "space"

    def __init__(self, probe: ThemeProbe, picked: Callable[[int], None]) -> None:
        self._picked = picked
        self._known: set[int] = set()
        self._sources = {name: ColumnDataSource() for name in ("sets", "first", "dying", "space")}
        self._plots = [self._sets(), self._first(), self._space()]
        for plot in self._plots:
            _calm(plot)
        self.view = BokehView(row(*self._plots, sizing_mode="stretch_width"), label=CHART["label"])
        self.widget: w.Widget = self.view
        self._colour(probe.colours)
        probe.observe(lambda change: self._colour(change["new"]), "colours")

    def draw(self, machine: Machine) -> None:
        """Show the present step."""
        self._known.update(number for number in machine.kernel.ioasid.ids.keys() if number < _FIRST * _FIRST)
        first = first_data(machine, sorted(self._known))
        data = {"sets": sets_data(machine), "first": first, "space": space_data(machine), "dying": dying_data(machine)}
        with self.view.batch():
            for name, source in self._sources.items():
                _update(source, data[name])

    def forget(self) -> None:
        """No row is kept."""
        self._known.clear()

    def leave(self) -> None:
        """No row is kept; marks there are none."""
        self.forget()

    # --- plots --------------------------------------------------------------------------------------------------------

    def _sets(self) -> Figure:
        plot = _plot("sets", Range1d(start=-0.01, end=1.01), Range1d(start=0.6 - _ROWS, end=1.0))
        source = self._sources["sets"]
        plot.hbar(y="y", right=1, height=0.3, fill_color=None, line_color="#8c959f", line_dash="outline", source=source)
        plot.hbar(y="y", right="living", height=0.3, color="colour", source=source)
        plot.hbar(
            y="y",
            left="living",
            right="taken",
            height=0.3,
            color="colour",
            fill_alpha=0.35,
            line_dash=_DASH,
            source=source,
        )
        written = plot.text(x=0, y="y", text="label", y_offset=-9, text_font_size="12px", source=source)
        self._labels = written.glyph
        plot.yaxis.visible = plot.ygrid.visible = False
        plot.xaxis.ticker = FixedTicker(ticks=[0, 0.5, 1])
        plot.xaxis.major_label_overrides = {0: "0", 0.5: "50 %", 1: "100 %"}
        return plot

    def _first(self) -> Figure:
        plot = _plot("first", Range1d(start=-0.6, end=_FIRST - 0.4), Range1d(start=0.4 - _FIRST, end=0.6))
        source = self._sources["first"]
        squares = plot.rect(x="x", y="y", width=0.92, height=0.92, color="colour", source=source)
        plot.rect(
            x="x", y="y", width=0.78, height=0.78, fill_color=None, line_color="#000000", line_width=2, line_dash=_DASH,
            source=self._sources["dying"],
        )  # fmt: skip
        plot.on_event(Tap, self._tapped)
        plot.text(
            x="x", y="y", text="number", text_align="center", text_baseline="middle", text_font_size="9px",
            text_color="#000000", source=source,
        )  # fmt: skip
        plot.add_tools(HoverTool(renderers=[squares], tooltips=[("PASID", "@number"), (CHART["owner"], "@owner")]))
        _square_axes(plot, _FIRST, _FIRST)
        return plot

    def _tapped(self, event: Event) -> None:
        """A square was clicked: its ID is picked, if one is out there."""
        if not isinstance(event, Tap) or event.x is None or event.y is None:
            return
        column, row = round(event.x), -round(event.y)
        number = row * _FIRST + column
        if 0 <= column < _FIRST and str(number) in self._sources["first"].data["number"]:
            self._picked(number)

    def _space(self) -> Figure:
        plot = _plot("space", Range1d(start=-3, end=SIDE + 2), Range1d(start=-SIDE - 2, end=3))
        dots = plot.scatter(
            x="x", y="y", size=8, marker="square", color="colour", line_color="#1b1f24", source=self._sources["space"]
        )
        plot.add_tools(HoverTool(renderers=[dots], tooltips=[("PASIDs", "@numbers"), (CHART["owner"], "@owner")]))
        _square_axes(plot, SIDE, SIDE * PASIDS_PER_CELL)
        return plot

    def _colour(self, colours: Mapping[str, str]) -> None:
        """Take the page's colours."""
        paper, ink, grid = colours["paper"], colours["ink"], colours["grid"]
        with self.view.batch():
            for plot in self._plots:
                plot.background_fill_color = plot.border_fill_color = paper
                _title(plot).text_color = ink
                plot.outline_line_color = grid
                for axis in plot.axis:
                    axis.major_label_text_color = axis.axis_label_text_color = ink
                    axis.axis_line_color = axis.major_tick_line_color = grid
                for lines in plot.grid:
                    lines.grid_line_color = grid
            self._labels.text_color = ink


def _update(source: ColumnDataSource, data: Data) -> None:
    """Give a source its new data: cell by cell while it has as many rows, else all of it."""
    old = dict(source.data)
    if {len(column) for column in old.values()} != {
        len(column) for column in data.values()
    } or old.keys() != data.keys():
        source.data = data
        return
    cells = {
        name: [(at, value) for at, value in enumerate(column) if value != old[name][at]]
        for name, column in data.items()
    }
    changed = {name: patches for name, patches in cells.items() if patches}
    if changed:
        source.patch(changed)


def _plot(name: str, x_range: Range1d, y_range: Range1d) -> Figure:
    return figure(
        title=CHART[name], x_range=x_range, y_range=y_range, height=_HEIGHT, min_width=240, sizing_mode="stretch_width",
        tools="", toolbar_location=None, name=name,
    )  # fmt: skip


def _calm(plot: Figure) -> None:
    _title(plot).text_font_size = "12px"
    plot.axis.minor_tick_line_color = None
    plot.axis.major_label_text_font_size = "11px"
    plot.grid.grid_line_alpha = 0.5


def _title(plot: Figure) -> Title:
    title = plot.title
    assert isinstance(title, Title)
    return title


def _square_axes(plot: Figure, side: int, step: int) -> None:
    """Rows from top to bottom, labelled with their first PASID."""
    ticks = [at * side // 4 for at in range(4)]
    plot.xaxis.visible = plot.xgrid.visible = False
    plot.yaxis.ticker = FixedTicker(ticks=[-tick for tick in ticks])
    plot.yaxis.major_label_overrides = {-tick: f"{tick * step:#x}" for tick in ticks}
