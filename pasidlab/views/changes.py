"""What is different between two figures, tables or structures of the same thing: marked, so that the eye finds it."""

from __future__ import annotations

from dataclasses import replace

from pasidlab.views.bits import Bits
from pasidlab.views.figure import Edge, Figure, Node
from pasidlab.views.table import Line, Table

__all__ = ["mark_bits", "mark_figure", "mark_table"]


def mark_figure(before: Figure | None, now: Figure) -> Figure:
    """``now`` with every box and arrow marked that says or does something else than in ``before``.

    >>> from pasidlab.views.figure import Node
    >>> was, now = (Figure("f", "F", (Node("a", (text,)), Node("b", ("B",)))) for text in ("1", "2"))
    >>> [node.changed for node in mark_figure(was, now).nodes]
    [True, False]
    """
    if before is None:
        return now
    nodes = {node.key: node for node in before.nodes}
    edges = {edge.key: edge for edge in before.edges}
    return replace(
        now,
        nodes=tuple(replace(node, changed=_node_differs(nodes.get(node.key), node)) for node in now.nodes),
        edges=tuple(replace(edge, changed=_edge_differs(edges.get(edge.key), edge)) for edge in now.edges),
    )


def _node_differs(before: Node | None, now: Node) -> bool:
    if before is None or not before.present:
        return now.present
    return now.present and (before.lines, before.state, before.word) != (now.lines, now.state, now.word)


def _edge_differs(before: Edge | None, now: Edge) -> bool:
    if before is None or not before.present:
        return now.present
    return now.present and (before.label, before.state) != (now.label, now.state)


def mark_table(before: Table | None, now: Table) -> Table:
    """``now`` with every cell marked that says something else than in ``before``; of new rows, all."""
    if before is None:
        return now
    rows = {row.key: row for row in before.rows}
    return replace(now, rows=tuple(_mark_row(rows.get(row.key), row, now) for row in now.rows))


def _mark_row(before: Line | None, now: Line, table: Table) -> Line:
    old = before.cells if before is not None else ("",) * len(now.cells)
    columns = [column.key for column in table.columns]
    changed = (key for key, was, cell in zip(columns, old, now.cells, strict=True) if was != cell)
    return replace(now, changed=tuple(changed))


def mark_bits(before: Bits | None, now: Bits) -> Bits:
    """``now`` with every bit marked that is different in ``before``.

    >>> from pasidlab.hardware.layouts.vtd import PASID_DIR_ENTRY
    >>> mark_bits(*(Bits("e", "E", PASID_DIR_ENTRY, (word,)) for word in (0x5001, 0x5002))).changed
    3
    """
    return now if before is None else replace(now, changed=before.value ^ now.value)
