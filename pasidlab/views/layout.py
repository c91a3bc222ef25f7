"""Where things stand: Graphviz places boxes and routes arrows; nothing that it draws is used, only its coordinates.

Graphviz is asked for JSON (``-Tjson0``: attributes of the finished layout). Its unit is the point, read here as a
pixel; its y axis points up, ours down. The ``dot`` program is one engine; whoever has another (the browser's
WebAssembly) passes the answer to :func:`placed`.

Why not Graphviz's own SVG: its text is measured with the fonts of the machine that ran it and shown with others', its
ids clash between two pictures on a page, and its boxes cannot have a bar, a state on the right, or lines of different
weight.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import lru_cache

from pasidlab.views.dot_text import plan
from pasidlab.views.escape import key_of
from pasidlab.views.geometry import Curve, Geometry, Rect
from pasidlab.views.routes import routed
from pasidlab.views.topology import Topology
from pasidlab.views.twins import in_order

__all__ = ["GraphvizError", "answered", "available", "geometry", "placed", "read", "seated"]

_MISSING = (
    "drawing needs the Graphviz program `dot`, which is not on the PATH;"
    " install it (apt-get install graphviz, brew install graphviz), or use the text twin of the figure"
)


class GraphvizError(RuntimeError):
    """Graphviz is missing, or gave an answer that is not a layout."""


def available() -> bool:
    """Whether the ``dot`` program can be run here."""
    return shutil.which("dot") is not None


def geometry(shape: Topology) -> Geometry:
    """The layout of a topology: its own, if its boxes have fixed places, else that of the ``dot`` program, whose
    answers are kept: time travel finds them again.
    """
    if shape.fixed:
        return seated(shape, routed(shape))
    return placed(shape, answered(plan(shape)))


def placed(shape: Topology, answer: str) -> Geometry:
    """The layout of ``shape`` in Graphviz's ``answer`` to :func:`~pasidlab.views.dot_text.plan`, twins in order."""
    return seated(shape, in_order(shape, read(answer)))


def seated(shape: Topology, found: Geometry) -> Geometry:
    """Tokens have their places on their boards; Graphviz does not know them."""
    nodes = dict(found.nodes)
    for node in shape.nodes:
        if node.inside:
            board = nodes[node.inside]
            nodes[node.key] = Rect(board.x + node.x, board.y + node.y, node.width, node.height)
    return found._replace(nodes=nodes)


@lru_cache(maxsize=64)
def answered(text: str) -> str:
    """The ``dot`` program's answer to a plan."""
    return _run_dot(text)


def _run_dot(text: str) -> str:
    program = shutil.which("dot")
    if program is None:
        raise GraphvizError(_MISSING)
    for more in ([], ["-Gsplines=line"]):  # on rare figures dot loses an arrow that it wanted to bend
        done = subprocess.run(
            [program, "-Tjson0", *more], input=text, capture_output=True, encoding="utf-8", check=False
        )
        if not done.returncode:
            return done.stdout
    raise GraphvizError(f"dot refused a figure: {done.stderr.strip()}")


def read(answer: str) -> Geometry:
    """The layout in Graphviz's JSON.

    >>> box = '{"name": "a", "id": "a", "pos": "50,25", "width": "1", "height": "0.5"}'
    >>> read(f'{{"bb": "0,0,100,50", "objects": [{box}]}}').nodes["a"]
    Rect(x=14.0, y=7.0, width=72.0, height=36.0)
    """
    try:
        whole = json.loads(answer)
    except ValueError as error:
        raise GraphvizError(f"an answer of Graphviz must be JSON, not {answer[:60]!r}") from error
    objects, edges = _items(whole, "objects"), _items(whole, "edges")
    _, _, width, height = _numbers(_text(whole, "bb"))
    named = [(key_of(_text(item, "id")), item) for item in objects if "id" in item]
    nodes = {key: _node(item, height) for key, item in named if "pos" in item}
    frames = {key: _frame(item, height) for key, item in named if "bb" in item}
    ways = {key_of(_text(item, "id")): _curve(item, height) for item in edges if "id" in item}
    return Geometry(width, height, nodes, ways, frames)


def _node(item: dict[str, object], height: float) -> Rect:
    x, y = _numbers(_text(item, "pos"))
    wide, tall = float(_text(item, "width")) * 72, float(_text(item, "height")) * 72
    return Rect(round(x - wide / 2, 2), round(height - y - tall / 2, 2), round(wide, 2), round(tall, 2))


def _frame(item: dict[str, object], height: float) -> Rect:
    left, low, right, high = _numbers(_text(item, "bb"))
    return Rect(left, round(height - high, 2), round(right - left, 2), round(high - low, 2))


def _curve(item: dict[str, object], height: float) -> Curve:
    points: list[tuple[float, float]] = []
    tip: tuple[float, float] | None = None
    for word in _text(item, "pos").split():
        x, y = _numbers(word.removeprefix("e,").removeprefix("s,"))
        place = (x, round(height - y, 2))
        if word.startswith("e,"):
            tip = place
        elif not word.startswith("s,"):
            points.append(place)
    label = None
    if "lp" in item:
        x, y = _numbers(_text(item, "lp"))
        label = (x, round(height - y, 2))
    return Curve(tuple(points), tip, label)


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _items(whole: object, name: str) -> list[dict[str, object]]:
    found = whole.get(name, []) if isinstance(whole, dict) else None
    if not isinstance(found, list):
        raise GraphvizError(f"an answer of Graphviz must hold a list {name!r}")
    return [item for item in found if isinstance(item, dict)]


def _text(item: object, name: str) -> str:
    value = item.get(name) if isinstance(item, dict) else None
    if not isinstance(value, str):
        raise GraphvizError(f"an answer of Graphviz must hold {name!r} as text, not {value!r}")
    return value
