"""Projection: a walk -> figure, whole or up to one of its stops.

The first row is the lookup: root, context, PASID directory, PASID entry. Below it stand the page tables. In a nested
walk each row is one first-level level: on its left the guest-physical address of the entry, then the second level that
finds it, on its right the entry itself; the last row finds the page. So the picture has the form of the
two-dimensional walk that a nested translation is, and no place depends on the outcome
(:mod:`pasidlab.views.walk_path`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.pcie import format_rid
from pasidlab.views.figure import Edge, Figure, Node
from pasidlab.views.iommu_words import WALK
from pasidlab.views.unit_words import unit_words
from pasidlab.views.walk_path import WalkPath

if TYPE_CHECKING:
    from collections.abc import Collection

    from pasidlab.hardware.iommu.contract import Stop, Walk
    from pasidlab.hardware.iommu.shape import Shape

__all__ = ["walk_graph", "walk_title"]

_GAP, _ROW_GAP = 20, 22
_WIDE: Final = {"request": 15, "first": 15, "second": 7, "asked": 20, "result": 20}
_LOOKUP: Final = 14
_FIRST_ALONE: Final = 12
_SECOND_ALONE: Final = 12
_LOOKUP_TALL, _TALL = 62, 47
_SHORT: Final = {"paging-structure cache": WALK["paging-cache"], "stream table cache": WALK["stream-cache"]}
"""Names of caches that are too long for a box."""
_QUIET: Final = frozenset({"live", "idle", "off", "cached"})
"""States that small boxes tell by their glyph alone; the tooltip has the word, and of a cache the line below."""


class _Look(NamedTuple):
    """How a box is: state, and a word for it."""

    state: str
    word: str


def walk_graph(walk: Walk, step: int | None = None, stale: Collection[int] = ()) -> Figure:
    """The picture of ``walk`` when ``step`` of its stops have been made (default: when it is over).

    ``stale`` are the numbers of stops (from 0) whose cache says something else than memory does.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> figure = walk_graph(m.translate(dsa.rid, 9, 0x1000, caches=False))
    >>> figure.node("entry").word, figure.node("result").lines
    ('fault', ('fault 0x59', 'SPT.2'))
    """
    made = _Parts(walk, step, frozenset(stale))
    for row, keys in enumerate(made.path.rows):
        made.add_row(row, keys)
    made.add_arrows()
    return Figure("walk", walk_title(walk), tuple(made.nodes), tuple(made.edges), note=_note(walk, made.path.shape))


def _note(walk: Walk, shape: Shape) -> str:
    """What the rows are."""
    words = unit_words(walk.unit)
    if shape.nested:
        return words["note-nested"]
    return words["note-first" if shape.first else "note-second" if shape.second else "note"]


def walk_title(walk: Walk) -> str:
    """What was asked, in one line."""
    return WALK["title"].format(request=walk.request)


class _Parts:
    """The parts of the figure while it is put together."""

    def __init__(self, walk: Walk, step: int | None, stale: frozenset[int]) -> None:
        self.path = WalkPath(walk)
        self._words = unit_words(walk.unit)
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self._walk = walk
        self._stale = stale
        count = len(walk.stops)
        self._done = count if step is None else min(step, count)
        self._over = step is None or step > count
        self._current = "" if self._over or not self._done else self.path.boxes[self._done - 1]
        self._stops: dict[str, list[int]] = {}
        for at, box in enumerate(self.path.boxes[: self._done]):
            self._stops.setdefault(box, []).append(at)
        reached = [self.path.order.index(box) for box in self._stops if box in self.path.order]
        self._front = max(reached, default=0)

    # --- boxes --------------------------------------------------------------------------------------------------------

    def add_row(self, row: int, keys: tuple[str, ...]) -> None:
        """The boxes of one row, from left to right."""
        y = 0 if not row else _LOOKUP_TALL + _ROW_GAP + (row - 1) * (_TALL + _ROW_GAP)
        x = 0
        for key in keys:
            node = self._box(key, (x, y))
            self.nodes.append(node)
            x += round(24 + node.columns * 7.4) + (_GAP - 6 if key.startswith("second") else _GAP)

    def _box(self, key: str, at: tuple[int, int]) -> Node:
        kind = key.partition(":")[0]
        look, shape = self._look(key), self.path.shape
        if kind == "request":
            request = self._walk.request
            pasid = WALK["no-pasid"] if request.pasid is None else WALK["pasid"].format(pasid=request.pasid)
            asked = WALK["asks"].format(pasid=pasid, access=request.access)
            return Node(key, (format_rid(request.rid), asked), "device", state=look.state, word=look.word,
                        columns=_WIDE[kind], hint=str(request), at=at)  # fmt: skip
        if kind == "asked":
            return self._asked(key, look, at)
        if kind == "result":
            return self._result(look, at)
        if kind == "second":
            return self._second(key, look, at)
        if kind == "first" or key in shape.behind:
            name = self._words[key] if kind != "first" else self._first_name(key)
            wide = _WIDE["first"] if shape.nested else _FIRST_ALONE
            word = " " if look.state in _QUIET else look.word
            return Node(key, (name, self._where(key)), "entry", state=look.state, word=word, columns=wide,
                        hint=self._hint(key), at=at)  # fmt: skip
        lines = (self._words[kind], self._where(key))
        word = " " if look.state == "off" else look.word
        return Node(key, lines, "table", state=look.state, word=word, columns=_LOOKUP, hint=self._hint(key), at=at)

    def _first_name(self, key: str) -> str:
        name = self._words["first" if self.path.shape.nested else "first-alone"]
        return name.format(level=self.path.shape.label(key))

    def _second(self, key: str, look: _Look, at: tuple[int, int]) -> Node:
        """Small in the rows of a nested walk, where there are many."""
        alone = not self.path.shape.nested
        name = self._words["second"].format(level=self.path.shape.label(key))
        wide = _SECOND_ALONE if alone else _WIDE["second"]
        word = " " if look.state in _QUIET or not alone else look.word
        lines = (name, self._where(key) if alone else self._number(key))
        return Node(key, lines, "entry", state=look.state, word=word, columns=wide, hint=self._hint(key), at=at)

    def _asked(self, key: str, look: _Look, at: tuple[int, int]) -> Node:
        """The address that a row is about; not known before it has been read."""
        kind = "guest-physical" if self.path.shape.second else "virtual" if self.path.shape.first else "address"
        address = self.path.guest.get(key)
        behind = self.path.order.index(key) <= self._front + 1 or self._over
        shown = f"{address:#x}" if address is not None and behind else WALK["unknown"]
        said = self._words[kind] if kind in self._words else WALK[kind]
        return Node(key, (shown, said), "thing", state=look.state, word=" ", columns=_WIDE["asked"], at=at)

    def _result(self, look: _Look, at: tuple[int, int]) -> Node:
        fault, lines = self._walk.fault, (WALK["page"], WALK["unknown"])
        if self._over and fault is not None:
            lines = (WALK["fault"].format(code=f"{fault.code:#x}"), fault.name)
        elif self._over:
            lines = (f"{self._walk.address or 0:#x}", self._words["host-physical"])
        hint = fault.meaning if self._over and fault is not None else ""
        word = " " if look.state in _QUIET else look.word
        return Node("result", lines, "thing", state=look.state, word=word, columns=_WIDE["result"], hint=hint, at=at)

    # --- how they are -------------------------------------------------------------------------------------------------

    def _look(self, key: str) -> _Look:
        if self._over and key == self.path.culprit:
            return _Look("fault", WALK["here"])
        if key == "request" or (key == "result" and self._over):
            return self._end(key)
        stops = self._stops.get(key, [])
        if key == self._current:
            return _Look("now", WALK["mark" if self._walk.stops[self._done - 1].stage == "mark" else "now"])
        if stops:
            return self._read(stops)
        if key.startswith("asked") and self._is_asked(key):
            return _Look("live", " ")
        if self._over and self._walk.fault is not None and self.path.order.index(key) > self._front:
            return _Look("off", WALK["not-reached"])
        return _Look("off", WALK["not-read"]) if self._passed(key) or self._over else _Look("idle", "")

    def _end(self, key: str) -> _Look:
        if key == "request":
            return _Look("live", WALK["request"])
        return _Look("fault" if self._walk.fault is not None else "live", " ")

    def _read(self, stops: list[int]) -> _Look:
        if any(at in self._stale for at in stops):
            return _Look("pending", WALK["stale"])
        cached = any(self._walk.stops[at].cached for at in stops)
        return _Look("cached", WALK["cached"]) if cached else _Look("live", WALK["read"])

    def _is_asked(self, key: str) -> bool:
        """Whether the walk has looked an address up, or let it through."""
        if self.path.shape.nested:
            row = key.partition(":")[2]
            return any(box.startswith(f"second:{row}:") for box in self._stops)
        looked = any(box.startswith(("first:", "second:")) for box in self._stops)
        return looked or (self._over and self._walk.address is not None)

    def _passed(self, key: str) -> bool:
        """Whether the walk has come to what lies behind a box."""
        return self.path.order.index(key) < self._front or (self._over and self._walk.address is not None)

    # --- words --------------------------------------------------------------------------------------------------------

    def _stop(self, key: str) -> Stop | None:
        stops = self._stops.get(key)
        return self._walk.stops[stops[0]] if stops else None

    def _where(self, key: str) -> str:
        stop = self._stop(key)
        if stop is None:
            return ""
        short = _SHORT.get(stop.cache, stop.cache)
        return WALK["from"].format(cache=short) if stop.cached else WALK["at"].format(address=f"{stop.address:#x}")

    def _number(self, key: str) -> str:
        stops = self._stops.get(key)
        if stops and self._walk.stops[stops[0]].cached:
            return WALK["cached"]
        return WALK["number"].format(number=stops[0] + 1) if stops else ""

    def _hint(self, key: str) -> str:
        stops = self._stops.get(key, ())
        return "; ".join(WALK["stop"].format(number=at + 1, stop=self._walk.stops[at]) for at in stops)

    # --- arrows -------------------------------------------------------------------------------------------------------

    def add_arrows(self) -> None:
        """From box to box in the order of the walk; at its end from the last stop to the result.

        The last arrow is there from the start, unseen, so that the end needs no new layout.
        """
        order = self.path.order
        states = {node.key: node.state for node in self.nodes}
        for tail, head in pairwise(order):
            used = {states[tail], states[head]}.isdisjoint({"idle", "off"})
            if head != "result":
                state = "fault" if used and states[head] == "fault" else "live" if used else "idle"
                self.edges.append(Edge(f"{tail}>{head}", tail, head, state=state))
        last = self.path.end
        state = "fault" if self._walk.fault is not None else "live"
        beside = order.index(last) == len(order) - 2
        present = self._over and last != "result"
        tail = last if last != "result" else order[-2]
        self.edges.append(Edge("end>result", tail, "result", state=state, present=present, loose=not beside))
