"""Figures whose boxes have fixed places: arrows go at right angles and lie on no box; nobody else is asked."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pasidlab.views import Cluster, Edge, Figure, Node, layout, svg, topology
from pasidlab.views.geometry import Curve, Rect
from pasidlab.views.layout import geometry
from pasidlab.views.still import bundle
from pasidlab.views.walk_graph import walk_graph
from tests.views.walks import FAULTS, asked, first, nested, second


def corners(curve: Curve) -> list[tuple[float, float]]:
    """The points at which a way turns, its tip included."""
    found = [curve.points[0], *curve.points[3::3]]
    return [*found, curve.tip] if curve.tip else found


def lies_on(curve: Curve, rect: Rect) -> bool:
    """Whether a way runs through the inside of a box."""
    for (x0, y0), (x1, y1) in pairwise(corners(curve)):
        left, right, top, low = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        if (
            left < rect.x + rect.width - 1
            and right > rect.x + 1
            and top < rect.y + rect.height - 1
            and low > rect.y + 1
        ):
            return True
    return False


@pytest.mark.parametrize(
    "walk", [asked(first()), asked(second()), asked(nested()), *(make() for make in FAULTS.values())]
)
def test_no_arrow_lies_on_a_box(walk) -> None:
    """Also the one that goes around to the result; every piece of a way is level or upright."""
    figure = walk_graph(walk)
    found = geometry(topology(figure))
    for edge in figure.edges:
        way = found.edges[edge.key]
        for (x0, y0), (x1, y1) in pairwise(corners(way)):
            assert x0 == x1 or y0 == y1
        crossed = [key for key, rect in found.nodes.items() if lies_on(way, rect)]
        assert crossed == []


def test_an_arrow_ends_at_its_boxes() -> None:
    """It begins at the edge of one and its tip touches the other."""
    boxes = (Node("a", ("A",), at=(0, 0)), Node("b", ("B",), at=(300, 0)), Node("c", ("C",), at=(0, 120)))
    edges = (Edge("ab", "a", "b"), Edge("bc", "b", "c"), Edge("around", "a", "c", loose=True))
    found = geometry(topology(Figure("f", "F", boxes, edges)))
    a, b, c = (found.nodes[key] for key in "abc")
    assert found.edges["ab"].points[0] == (a.width, a.height / 2)
    assert found.edges["ab"].tip == (b.x, b.height / 2)
    assert found.edges["bc"].tip == (c.width / 2, c.y)
    assert found.edges["around"].tip == (c.width, c.y + c.height / 2)
    assert max(x for x, _ in found.edges["around"].points) > b.x + b.width


def test_frames_hold_their_boxes() -> None:
    """With room for the label; a frame without boxes is not drawn."""
    boxes = (Node("a", ("A",), cluster="f", at=(40, 60)), Node("b", ("B",), at=(300, 0)))
    found = geometry(topology(Figure("f", "F", boxes, (), (Cluster("f", "frame"), Cluster("g", "empty")))))
    frame, box = found.frames["f"], found.nodes["a"]
    assert frame.x < box.x
    assert frame.y + 20 < box.y
    assert frame.y + frame.height > box.y + box.height
    assert "g" not in found.frames


def test_some_fixed_places_are_not_enough() -> None:
    """Every box has one, or none."""
    with pytest.raises(ValueError, match="must have a fixed place, or none"):
        Figure("f", "F", (Node("a", ("A",), at=(0, 0)), Node("b", ("B",))))


def test_graphviz_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk is drawn where the dot program is not installed."""
    monkeypatch.setattr(layout, "available", lambda: False)
    monkeypatch.setattr(layout, "_run_dot", lambda text: pytest.fail("dot was run"))
    figure = walk_graph(asked(nested()))
    assert "<svg" in svg(figure)
    assert "image/svg+xml" in bundle(figure)
