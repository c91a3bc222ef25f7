"""Figures as data: whatever of a machine is shown is one of three plain values, drawn here as SVG, DOT, HTML or text.

* :class:`Figure`: boxes, arrows and frames (laid out by Graphviz), :class:`Ladder`: who called whom, :class:`Table`.
* ``topology(figure)`` decides where things stand; ``states(figure)`` and ``texts(figure)`` are what a step changes.
* ``svg(figure)``, ``ladder_svg(ladder)``, ``table_html(table)``: still pictures; ``text(figure)``,
  ``ladder_text(ladder)``, ``table_text(table)``: the same in words; ``dot(figure)``: Graphviz's language.

In a notebook each of the three shows itself. Standard library only, nothing of Jupyter, nothing of machines:
projections import this, not the other way round.
"""

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
    "Table",
    "Topology",
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
