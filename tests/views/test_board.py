"""Boards and tokens: a token that changes its seat moves nothing else, and words follow it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pasidlab.views import Edge, Figure, Node, dot, svg, text, topology
from pasidlab.views.layout import geometry

BOARDS = (Node("a", ("A",), "state", seats=4), Node("b", ("B",), "state", seats=4))
TOKEN = Node("t", ("101",), "token", inside="a", seat=3, hint="IOASID 101")
FIGURE = Figure("f", "F", (*BOARDS, TOKEN), (Edge("e", "a", "b"),))


def with_token(token: Node) -> Figure:
    """The figure with another token."""
    return replace(FIGURE, nodes=(*BOARDS, token))


def test_a_token_stands_inside_its_board() -> None:
    """Below the board's words, within its outline."""
    found = geometry(topology(FIGURE)).nodes
    board, token = found["a"], found["t"]
    assert board.x < token.x < token.x + token.width < board.x + board.width
    assert board.y + 30 < token.y < token.y + token.height < board.y + board.height


def test_no_two_seats_overlap() -> None:
    """On a full board."""
    tokens = tuple(Node(f"t{at}", (str(at),), "token", inside="a", seat=at) for at in range(4))
    places = [geometry(topology(Figure("f", "F", (*BOARDS, *tokens)))).nodes[token.key] for token in tokens]
    for one in places:
        for other in places:
            apart = one.x + one.width <= other.x or other.x + other.width <= one.x
            assert one is other or apart or one.y + one.height <= other.y or other.y + other.height <= one.y


def test_a_move_moves_nothing_else() -> None:
    """Boards and arrows keep their places, whoever lays out."""
    before, after = geometry(topology(FIGURE)), geometry(topology(with_token(replace(TOKEN, inside="b"))))
    assert before.edges == after.edges
    assert {key: rect for key, rect in before.nodes.items() if key != "t"} == {
        key: rect for key, rect in after.nodes.items() if key != "t"
    }
    assert after.nodes["t"].x - before.nodes["t"].x == after.nodes["b"].x - before.nodes["a"].x


def test_graphviz_does_not_know_tokens() -> None:
    """Elsewhere they are words on their board."""
    assert '"t"' not in dot(FIGURE)
    assert "101" in dot(FIGURE)


def test_the_text_twin_tells_who_stands_where() -> None:
    """Below the board, in full; a token that is hidden is not told."""
    assert text(FIGURE).splitlines()[1:3] == ["├─ state A", "│  └─ IOASID 101"]
    assert "101" not in text(with_token(replace(TOKEN, present=False)))
    assert "(changed)" in text(with_token(replace(TOKEN, changed=True)))


def test_a_long_title_is_cut_to_its_seat() -> None:
    """And never taller or wider than others."""
    assert "…" in svg(with_token(replace(TOKEN, lines=("W" * 50,))))


@pytest.mark.parametrize(
    "wrong", [replace(TOKEN, seat=4), replace(TOKEN, inside="t"), replace(TOKEN, inside="nowhere")]
)
def test_a_token_needs_a_seat(wrong: Node) -> None:
    """Of a board that is there."""
    with pytest.raises(ValueError, match="must stand on a seat of a board"):
        with_token(wrong)


def test_a_seat_holds_one_token() -> None:
    """Hidden ones may wait where another stands; arrows lead to boards only."""
    twin = replace(TOKEN, key="u")
    with pytest.raises(ValueError, match="must hold one token"):
        Figure("f", "F", (*BOARDS, TOKEN, twin))
    Figure("f", "F", (*BOARDS, TOKEN, replace(twin, present=False)))
    with pytest.raises(ValueError, match="must be a box"):
        Figure("f", "F", (*BOARDS, TOKEN), (Edge("e", "a", "t"),))
