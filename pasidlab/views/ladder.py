"""A ladder as plain data: who called whom, in order. Lanes are the actors, each row is one event.

The picture of a kernel flow (ioctl, notification, handlers): time runs down, an arrow goes from the lane that acts to
the lane that is asked, and what a lane does by itself stands on its line. ``depth`` is the row's place in the tree of
causes: a row was caused by the nearest row above it with a smaller depth. Keys of rows are stable (an event's
number), so the live view can point at the present step and recognise rows.

Invariants, checked at creation: keys are unique; rows name lanes that exist; depth grows by at most one a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from pasidlab.views import ladder_svg, theme
from pasidlab.views.escape import clean

__all__ = ["Ladder", "Lane", "Row", "ladder_text"]


@dataclass(frozen=True, slots=True)
class Lane:
    """A column: one actor. Neighbours of one ``group`` (the altitude: ``"vm1"``, ``"host"``) share a heading.

    >>> Lane("host/kvm", "KVM", "host").label
    'KVM'
    """

    key: str
    label: str
    group: str = ""
    spoken: str = ""

    @property
    def name(self) -> str:
        """What texts call the lane."""
        return clean(self.spoken or self.label)


@dataclass(frozen=True, slots=True)
class Row:
    """One event: an arrow from lane ``tail`` to lane ``head``, or a note on ``tail`` alone when there is no ``head``.

    ``text`` is what happens, ``detail`` what else is known of it, ``kind`` a name from
    :data:`pasidlab.views.theme.ROW_KINDS`.

    >>> Row("7", "guest", "vmm", "trap: PASID alloc", depth=1).kind
    'normal'
    """

    key: str
    tail: str
    head: str = ""
    text: str = ""
    detail: str = ""
    depth: int = 0
    kind: str = "normal"

    def __post_init__(self) -> None:
        theme.row_kind(self.kind)


@dataclass(frozen=True, slots=True)
class Ladder:
    """A ladder. Rows after ``present``, the key of the row that has just happened, are the future.

    Without ``present`` all rows are past.

    >>> Ladder("flow", "Bind", (Lane("a", "app"), Lane("k", "kernel")), (Row("1", "a", "k", "bind"),))
    <Ladder flow: lanes 2, rows 1>
    """

    name: str
    title: str
    lanes: tuple[Lane, ...]
    rows: tuple[Row, ...] = ()
    present: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        _check(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": ladder_text(self), "image/svg+xml": ladder_svg.ladder_svg(self)}

    def __repr__(self) -> str:
        return f"<Ladder {self.name}: lanes {len(self.lanes)}, rows {len(self.rows)}>"


def _check(ladder: Ladder) -> None:
    lanes = {lane.key for lane in ladder.lanes}
    rows = {row.key for row in ladder.rows}
    if len(lanes) != len(ladder.lanes) or len(rows) != len(ladder.rows):
        raise ValueError(f"the keys of lanes, and those of rows, must be unique in ladder {ladder.name}")
    if ladder.present and ladder.present not in rows:
        raise ValueError(f"the present row of ladder {ladder.name} must be one of its rows, not {ladder.present!r}")
    deepest = 0
    for row in ladder.rows:
        for end in filter(None, (row.tail, row.head)):
            if end not in lanes:
                raise ValueError(f"a lane of row {row.key!r} must be one of ladder {ladder.name}, not {end!r}")
        if not row.tail or not 0 <= row.depth <= deepest:
            raise ValueError(f"row {row.key!r} must have a lane and a depth of at most {deepest}, not {row.depth}")
        deepest = row.depth + 1


def ladder_text(ladder: Ladder) -> str:
    """The ladder as text: number, from, to, and what happens, indented below its cause; ``>`` marks the present row.

    >>> lanes = (Lane("a", "app"), Lane("k", "kernel"), Lane("v", "KVM"))
    >>> bound = Row("2", "k", "v", "PASID 101 bound", depth=1, kind="notify")
    >>> rows = (Row("1", "a", "k", "bind"), bound, Row("3", "v", "", "sets entry 1", depth=2))
    >>> print(ladder_text(Ladder("flow", "Bind", lanes, rows, present="2")))
    Bind
       1  app    -> kernel  bind
    >  2  kernel -> KVM       ◆ notify: PASID 101 bound
       3  KVM                   sets entry 1
    """
    labels = {lane.key: lane.name for lane in ladder.lanes}
    used = [labels[end] for row in ladder.rows for end in (row.tail, row.head) if end]
    wide = max(map(len, used), default=0)
    lines = [clean(ladder.title), *([clean(ladder.note)] if ladder.note else [])]
    for at, row in enumerate(ladder.rows, 1):
        mark = ">" if row.key == ladder.present else " "
        head = f"-> {labels[row.head]:<{wide}}" if row.head and row.head != row.tail else " " * (wide + 3)
        said = ": ".join(part for part in (row_words(row), clean(row.text)) if part)
        more = f"  ({clean(row.detail)})" if row.detail else ""
        lines.append(f"{mark}{at:>3}  {labels[row.tail]:<{wide}} {head}  {'  ' * row.depth}{said}{more}".rstrip())
    return "\n".join(lines)


def row_words(row: Row) -> str:
    """Glyph and word in front of a row that is not a normal one."""
    kind = theme.row_kind(row.kind)
    return " ".join(part for part in (kind.glyph, kind.word) if part)
