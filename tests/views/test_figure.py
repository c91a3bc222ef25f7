"""A figure: what it refuses, what decides its layout, what a step changes."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from pasidlab.views import Cluster, Edge, Figure, Node, dot, fold, slots, states, text, texts, topology
from pasidlab.views.box import box_slots
from pasidlab.views.escape import address
from tests.views.hostile import figures

A, B = Node("a", ("A",)), Node("b", ("B",))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (((A, A),), "must be unique"),
        (((A, Node("", ("?",))),), "must be unique and not empty"),
        (((A,), (Edge("a", "a", "a"),)), "must be unique"),
        (((A,), (Edge("e", "a", "x"),)), "must be a box of figure f, not 'x'"),
        (((replace(A, cluster="c"),),), "must be declared, not 'c'"),
        (((A,), (), (Cluster("c", "C", "d"), Cluster("d", "D"))), "declared before it, not 'd'"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused(parts: tuple, message: str) -> None:
    """A wrong key is told when the figure is made, by name, not when it is drawn."""
    with pytest.raises(ValueError, match=message):
        Figure("f", "F", *parts)


@settings(deadline=None)
@given(figures())
def test_what_is_said_does_not_move_anything(figure: Figure) -> None:
    """Other words, other states, absent instead of present: same topology, so no new layout."""
    changed = replace(
        figure,
        title="other",
        nodes=tuple(
            replace(
                node, lines=("x",) * len(node.lines), state="fault", present=not node.present, word="y", changed=True
            )
            for node in figure.nodes
        ),
        edges=tuple(replace(edge, state="live", label="z", present=False) for edge in figure.edges),
    )
    assert topology(changed) == topology(figure)
    assert hash(topology(changed)) == hash(topology(figure))


@settings(deadline=None)
@given(figures())
def test_states_and_texts_cover_everything_that_is_drawn(figure: Figure) -> None:
    """Each box, arrow and frame has classes; each box has exactly the texts that it has places for."""
    keys = [node.key for node in figure.nodes] + [edge.key for edge in figure.edges]
    keys += [cluster.key for cluster in figure.clusters]
    assert set(states(figure)) == set(map(address, keys))
    for node in figure.nodes:
        assert len(texts(figure)[address(node.key)]) == len(box_slots(node))


@settings(deadline=None)
@given(figures())
def test_same_figure_same_words(figure: Figure) -> None:
    """DOT and the text twin depend on nothing but the figure."""
    twin = replace(figure)
    assert dot(twin) == dot(figure)
    assert text(twin) == text(figure)


def test_an_arrow_is_absent_with_either_of_its_ends() -> None:
    """Nobody has to hide the arrows of what is hidden."""
    figure = Figure("f", "F", (A, replace(B, present=False)), (Edge("e", "a", "b"),))
    assert "s-absent" in states(figure)["e"]
    assert "→" not in text(figure)


def test_a_frame_is_drawn_while_something_in_it_is_present() -> None:
    """Frames around nothing are hidden, also those around hidden frames."""
    nested = (Cluster("outer", "outer"), Cluster("inner", "inner", "outer"))
    full = Figure("f", "F", (replace(A, cluster="inner"), B), (), nested)
    bare = Figure("f", "F", (replace(A, cluster="inner", present=False), B), (), nested)
    assert (states(full)["outer"], states(full)["inner"]) == ("", "")
    assert (states(bare)["outer"], states(bare)["inner"]) == ("s-absent", "s-absent")


def test_the_text_twin_tells_what_the_picture_shows() -> None:
    """Kind, state in words, what changed, and the labels of arrows."""
    nodes = (Node("q", ("wq0",), "queue", state="pending", word="draining", changed=True), B)
    said = text(
        Figure("f", "Queues", nodes, (Edge("e", "q", "b", state="fault", label="PASID 5", columns=8),), note="n")
    )
    assert said.splitlines() == [
        "Queues",
        "n",
        "├─ work queue wq0 (▼ draining, changed)",
        "└─ B",
        "arrows:",
        "  wq0 → B: PASID 5, fault",
    ]


def test_fold_keeps_the_order_and_counts_the_rest() -> None:
    """The last place is for the box that says how many more there are."""
    assert fold(range(40), 4) == (range(3), 37)
    assert fold([], 4) == ([], 0)
    with pytest.raises(ValueError, match="room must be at least 1"):
        fold("abc", 0)


def test_slots_are_asked_for_rarely() -> None:
    """Growing from 0 to 64 things needs six layouts."""
    assert len({slots(count) for count in range(65)}) == 6
