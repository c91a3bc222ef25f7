"""Names that want to break out, and figures made of them."""

from __future__ import annotations

from hypothesis import strategies as st

from pasidlab.views import Cluster, Edge, Figure, Node
from pasidlab.views.theme import KINDS, STATES

NAMES = (
    '"><script>alert(1)</script>',
    "]]>--><!--",
    '\\" -> pwned [label="x',
    "a\\",
    "&lt;b&gt; &quot;",
    "<table><tr><td>",
    "line\nbreak\r\x00\x1b[31m",
    "\u202eright to left",
    "\ud800 alone",
    "W" * 300,
    "蝦夷" * 40,
    "\\N\\G\\E",
    "</style></svg>",
    "a" + "\u0301" * 50,
    "",
)
names = st.sampled_from(NAMES) | st.text(max_size=40)


@st.composite
def figures(draw: st.DrawFn) -> Figure:
    """Small figures whose keys, labels and lines are anything at all."""
    keys = draw(st.lists(names.filter(bool), min_size=1, max_size=6, unique=True))
    frames = [f"frame {at}" for at in range(draw(st.integers(0, 2)))]
    clusters = tuple(Cluster(key, draw(names), frames[at - 1] if at else "") for at, key in enumerate(frames))
    nodes = tuple(
        Node(
            f"n{key}",
            tuple(draw(st.lists(names, max_size=3))),
            draw(st.sampled_from(sorted(KINDS))),
            draw(st.sampled_from(["", *frames])),
            draw(st.sampled_from(sorted(STATES))),
            draw(st.booleans()),
            draw(names),
            draw(st.booleans()),
            draw(st.integers(4, 30)),
            hint=draw(names),
        )
        for key in keys
    )
    board = Node("board", (draw(names),), "state", seats=4)
    tokens = tuple(
        Node(f"t{at}", (draw(names),), "token", present=draw(st.booleans()), hint=draw(names), inside="board", seat=at)
        for at in range(draw(st.integers(0, 4)))
    )
    ends = st.sampled_from([node.key for node in nodes])
    edges = tuple(
        Edge(
            f"e{at}",
            draw(ends),
            draw(ends),
            draw(st.sampled_from(("arrow", "flow", "link"))),
            draw(st.sampled_from(sorted(STATES))),
            draw(names),
            columns=draw(st.integers(0, 12)),
            loose=draw(st.booleans()),
        )
        for at in range(draw(st.integers(0, 5)))
    )
    return Figure(
        "any", draw(names), (*nodes, board, *tokens), edges, clusters, draw(st.sampled_from(("LR", "TB"))), draw(names)
    )
