"""The pane of the 20-bit space, drawn by Bokeh: how much of its quota each set has used, the first 256 PASIDs one by
one, and the whole space as 128 x 128 cells of 64.

All ranges are fixed (an automatic range answers Python at every click). Colours are Okabe and Ito's; who owns a number
is also told by its tooltip, and by the table that is the text twin of the chart (:func:`pasidlab.views.occupancy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import ipywidgets as w
from bokeh.layouts import row
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d
from bokeh.models.annotations import Title
from bokeh.plotting import figure

from pasidlab.timeline import HOST
from pasidlab.views.occupancy import PASIDS_PER_CELL, SIDE, cells, set_use
from pasidlab_widgets.bokeh_view import BokehView
from pasidlab_widgets.lab.words import CHART
from pasidlab_widgets.theme_probe import ThemeProbe

if TYPE_CHECKING:
    from bokeh.plotting import figure as Figure

    from pasidlab.machine import Machine

__all__ = ["OWNER_COLOURS", "SpacePane", "first_data", "sets_data", "space_data"]

OWNER_COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
"""The host's colour, then those of the VMs by slot, again from the second on when there are more than seven."""
_FIRST: Final = 16
_ROWS: Final = 9
_HEIGHT: Final = 300
Data = dict[str, list[object]]


def colour_of(machine: Machine, owner: str) -> str:
    """The colour of a set's owner; it depends on the VM's slot, so it stays when others come and go."""
    slot = machine.numbers.get(owner)
    if owner == HOST or slot is None:
        return OWNER_COLOURS[0]
    return OWNER_COLOURS[1 + slot % (len(OWNER_COLOURS) - 1)]


def sets_data(machine: Machine) -> Data:
    """A bar for each set: which part of its quota is out.

    >>> from pasidlab import Machine
    >>> m = Machine(); vm = m.create_vm("vm1", quota=4); sets_data(m)["label"]
    ['host: 0 of 32768', 'vm1: 0 of 4']
    """
    uses = set_use(machine)[:_ROWS]
    return {
        "y": [-at for at in range(len(uses))],
        "share": [use.used / use.quota for use in uses],
        "colour": [colour_of(machine, use.name) for use in uses],
        "label": [f"{use.name}: {use.used} of {use.quota}" for use in uses],
    }


def first_data(machine: Machine) -> Data:
    """The PASIDs below 256 that are out, each a square with its number."""
    out = [(number, record) for number, record in machine.kernel.ioasid.ids.items() if number < _FIRST * _FIRST]
    return {
        "x": [number % _FIRST for number, _ in out],
        "y": [-(number // _FIRST) for number, _ in out],
        "number": [str(number) for number, _ in out],
        "colour": [colour_of(machine, record.owner.name) for _, record in out],
        "owner": [_owned(record.owner.name, record.spid) for _, record in out],
    }


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
    """The chart. Colours of paper and ink follow the page through ``probe``."""

    name = "space"

    def __init__(self, probe: ThemeProbe) -> None:
        self._sources = {name: ColumnDataSource() for name in ("sets", "first", "space")}
        self._plots = [self._sets(), self._first(), self._space()]
        for plot in self._plots:
            _calm(plot)
        self.view = BokehView(row(*self._plots, sizing_mode="stretch_width"), label=CHART["label"])
        self.widget: w.Widget = self.view
        self._colour(probe.colours)
        probe.observe(lambda change: self._colour(change["new"]), "colours")

    def draw(self, machine: Machine) -> None:
        """Show the present step."""
        data = {"sets": sets_data(machine), "first": first_data(machine), "space": space_data(machine)}
        with self.view.batch():
            for name, source in self._sources.items():
                if dict(source.data) != data[name]:
                    source.data = data[name]

    def forget(self) -> None:
        """Nothing is reserved."""

    # --- plots --------------------------------------------------------------------------------------------------------

    def _sets(self) -> Figure:
        plot = _plot("sets", Range1d(start=0, end=1), Range1d(start=0.6 - _ROWS, end=1.0))
        plot.hbar(y="y", right="share", height=0.28, color="colour", source=self._sources["sets"])
        plot.segment(x0=0, x1=1, y0="y", y1="y", color="#8c959f", line_alpha=0.5, source=self._sources["sets"])
        written = plot.text(x=0, y="y", text="label", y_offset=-9, text_font_size="12px", source=self._sources["sets"])
        self._labels = written.glyph
        plot.yaxis.visible = plot.ygrid.visible = False
        plot.xaxis.ticker = FixedTicker(ticks=[0, 0.5, 1])
        plot.xaxis.major_label_overrides = {0: "0", 0.5: "50 %", 1: "100 %"}
        return plot

    def _first(self) -> Figure:
        plot = _plot("first", Range1d(start=-0.6, end=_FIRST - 0.4), Range1d(start=0.4 - _FIRST, end=0.6))
        source = self._sources["first"]
        squares = plot.rect(x="x", y="y", width=0.92, height=0.92, color="colour", source=source)
        plot.text(
            x="x", y="y", text="number", text_align="center", text_baseline="middle", text_font_size="9px",
            text_color="#000000", source=source,
        )  # fmt: skip
        plot.add_tools(HoverTool(renderers=[squares], tooltips=[("PASID", "@number"), (CHART["owner"], "@owner")]))
        _square_axes(plot, _FIRST, _FIRST)
        return plot

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
