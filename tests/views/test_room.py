"""What a picture remembers, and what it marks as changed."""

from __future__ import annotations

from itertools import pairwise

from pasidlab.views import Edge, Figure, Node
from pasidlab.views.changes import mark_figure
from pasidlab.views.room import Room


def figure(*keys: str) -> Figure:
    """Boxes in a row."""
    arrows = tuple(Edge(f"{a}>{b}", a, b) for a, b in pairwise(keys))
    return Figure("f", "F", tuple(Node(key, (key,)) for key in keys), arrows)


def test_new_parts_come_behind_the_part_that_they_follow() -> None:
    """So declared order, and with it the layout, does not depend on when something was seen."""
    room = Room()
    room.fit(figure("a", "c"))
    assert [node.key for node in room.fit(figure("a", "b", "c")).nodes] == ["a", "b", "c"]
    assert [node.key for node in room.fit(figure("z", "a")).nodes] == ["z", "a", "b", "c"]


def test_a_new_scale_forgets_the_old_places() -> None:
    """What is folded differently is arranged afresh; what was recalled stays recalled."""
    room = Room()
    room.rescale(4)
    room.fit(figure("a", "b"))
    room.recall("vms", [(0,)])
    room.rescale(2)
    assert [node.key for node in room.fit(figure("a")).nodes] == ["a"]
    assert room.recall("vms", []) == [(0,)]


def test_a_part_that_comes_back_counts_as_changed() -> None:
    """And one that goes is not marked: it cannot be seen."""
    room = Room()
    both = room.fit(figure("a", "b"))
    one = room.fit(figure("a"))
    assert [node.changed for node in mark_figure(both, one).nodes] == [False, False]
    assert [node.changed for node in mark_figure(one, both).nodes] == [False, True]
    assert [edge.changed for edge in mark_figure(one, both).edges] == [True]
