"""GraphView: a figure that lives. Laid out once for each topology, then only states, texts and hints travel, and the
places of tokens that change their seats.

Graphviz is called through the ``graphviz`` package where its ``dot`` program is installed; elsewhere the page lays
out with Graphviz as WebAssembly (``static/engine.js``, sent once a page when it is asked for) and sends the
coordinates back. Both ways end in the same :func:`~pasidlab.views.figure_svg.figure_svg`, so a picture looks the same
whoever placed its boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import graphviz

from pasidlab.views import layout
from pasidlab.views.box import tooltip
from pasidlab.views.dot_text import dot, plan
from pasidlab.views.escape import address
from pasidlab.views.figure import Figure
from pasidlab.views.figure_svg import MARGIN, figure_svg, number
from pasidlab.views.geometry import Geometry
from pasidlab.views.topology import Topology, states, texts, topology
from pasidlab_widgets.view import STATIC, View, page_side

__all__ = ["GraphView"]


@lru_cache(maxsize=64)
def _lay_out(text: str) -> str:
    """The ``dot`` program's answer to a plan; kept, so that time travel finds the earlier ones again."""
    return str(graphviz.Source(text).pipe(format="json0", encoding="utf-8"))


class GraphView(View):
    """A live figure. :meth:`show` takes the next one; the page moves from one to the other.

    >>> from pasidlab.views import Node
    >>> view = GraphView(Figure("map", "Machine", (Node("vm:vm1", ("vm1",), "vm", state="live"),)), height="400px")
    >>> view.state["states"]
    {'vm:vm1': 's-live'}
    >>> view.on_pick(lambda key: print("picked", key))
    """

    _esm = page_side("graph")

    def __init__(
        self, figure: Figure | None = None, *, duration: int = 350, height: str = "", selected: str = ""
    ) -> None:
        self.figure = figure
        self._shape: Topology | None = None
        self._answers: dict[str, str] = {}
        super().__init__(height=height, selected=selected)
        self.publish(
            drawing=None, plan="", sight="", seats={}, states={}, texts={}, hints={}, label="", duration=duration
        )
        if figure:
            self.show(figure)

    @property
    def source(self) -> graphviz.Source:
        """The figure as a ``graphviz.Source``, for instance for ``view.source.render("map", format="pdf")``."""
        return graphviz.Source(dot(self.figure) if self.figure else "digraph {}")

    def show(self, figure: Figure, sight: str = "") -> None:
        """Show ``figure``: a new layout if its topology is new, else only what it says and how it does.

        The box called ``sight`` is brought into sight, should the picture be larger than its room.
        """
        self.figure = figure
        values: dict[str, object] = {
            "label": figure.title,
            "sight": address(sight),
            "states": states(figure),
            "texts": texts(figure),
            "hints": {address(node.key): tooltip(node) for node in figure.nodes},
        }
        shape = topology(figure)
        if shape != self._shape:
            places = self._places(shape)
            if places is None:
                values["plan"] = plan(shape)
            else:
                if self._shape is None or _without_seats(self._shape) != _without_seats(shape):
                    values["drawing"] = _drawing(figure, places)
                values["seats"] = _seats(shape, places)
                self._shape = shape
        self.publish(**values)

    def _places(self, shape: Topology) -> Geometry | None:
        """The layout, or ``None`` if the page has to make it."""
        if shape.fixed:
            return layout.geometry(shape)
        text = plan(shape)
        answer = self._answers.get(text) or (_lay_out(text) if layout.available() else None)
        return layout.placed(shape, answer) if answer is not None else None

    def receive(self, message: Mapping[str, object], buffers: list[bytes]) -> None:
        """Layouts that the page made, and its wish for the engine."""
        if message.get("type") == "need-engine":
            self._send_engine()
        elif message.get("type") == "layout":
            text = str(message.get("plan"))
            if self.figure and text == self.state["plan"]:
                self._answers[text] = str(message.get("answer"))
                self.show(self.figure)

    def _send_engine(self) -> None:
        file = STATIC / "engine.js"
        if file.exists():
            self.send({"type": "engine"}, [file.read_bytes()])
        else:
            self.send(
                {"type": "engine", "text": "neither the program dot nor the file engine.js is there to lay out graphs"}
            )


def _without_seats(shape: Topology) -> Topology:
    """What a drawing depends on when tokens are put in their places afterwards."""
    return shape._replace(nodes=tuple(node._replace(inside=node.inside and "board", x=0, y=0) for node in shape.nodes))


def _seats(shape: Topology, places: Geometry) -> dict[str, object]:
    """Where each token stands, by address."""
    at = {node.key: places.nodes[node.key] for node in shape.nodes if node.inside}
    return {address(key): f"{number(rect.x)} {number(rect.y)}" for key, rect in at.items()}


def _drawing(figure: Figure, places: Geometry) -> dict[str, object]:
    return {
        "svg": figure_svg(figure, places),
        "width": places.width + 2 * MARGIN,
        "height": places.height + 2 * MARGIN,
        "margin": MARGIN,
    }
