"""Figures as data: whatever of a machine is shown is one of six plain values, drawn here as SVG, DOT, HTML or text.

* :class:`Figure`: boxes, arrows and frames (laid out by Graphviz, or with fixed places), :class:`Ladder`: who called
  whom, :class:`Table`.
* :class:`Bars`: how much of a whole is taken; :class:`Cells`: where in very many places; :class:`Bits`: a structure.
* ``topology(figure)`` decides where things stand; ``states(figure)`` and ``texts(figure)`` are what a step changes.
* ``svg(figure)``, ``ladder_svg(ladder)``, ``table_html(table)``, ``bars_svg(bars)`` and so on: still pictures;
  ``text(figure)``, ``ladder_text(ladder)``, ``table_text(table)``, ``bars_text(bars)`` and so on: the same in words;
  ``dot(figure)``: Graphviz's language.

In a notebook each of them shows itself. Standard library only, nothing of Jupyter, nothing of machines:
projections import this, not the other way round.
"""

from pasidlab.views.bars import Bar, Bars, Share, bars_text
from pasidlab.views.bars_svg import bars_svg
from pasidlab.views.bits import Bits, bits_text
from pasidlab.views.bits_svg import bits_svg
from pasidlab.views.cells import Cell, CellRow, Cells, cells_text
from pasidlab.views.cells_svg import cells_svg
from pasidlab.views.dot_text import dot
from pasidlab.views.figure import Cluster, Edge, Figure, Node, fold, slots
from pasidlab.views.ladder import Ladder, Lane, Row, ladder_text
from pasidlab.views.ladder_svg import ladder_svg
from pasidlab.views.layout import GraphvizError
from pasidlab.views.still import svg
from pasidlab.views.table import Column, Line, Table, table_html, table_text
from pasidlab.views.text_twin import text
from pasidlab.views.topology import Topology, states, texts, topology

__all__ = [
    "Bar",
    "Bars",
    "Bits",
    "Cell",
    "CellRow",
    "Cells",
    "Cluster",
    "Column",
    "Edge",
    "Figure",
    "GraphvizError",
    "Ladder",
    "Lane",
    "Line",
    "Node",
    "Row",
    "Share",
    "Table",
    "Topology",
    "bars_svg",
    "bars_text",
    "bits_svg",
    "bits_text",
    "cells_svg",
    "cells_text",
    "dot",
    "fold",
    "ladder_svg",
    "ladder_text",
    "slots",
    "states",
    "svg",
    "table_html",
    "table_text",
    "text",
    "texts",
    "topology",
]
