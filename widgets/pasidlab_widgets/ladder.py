"""LadderView: a ladder that lives. Rows are known by key; the present one is kept in sight inside its own box."""

from __future__ import annotations

from pasidlab.views import theme
from pasidlab.views.escape import clean
from pasidlab.views.ladder import Ladder, Row, row_words
from pasidlab.views.ladder_svg import drawing
from pasidlab_widgets.view import View, page_side

__all__ = ["LadderView"]


class LadderView(View):
    """A live ladder. :meth:`show` takes the next one; a pick gives the key of the row (the event to travel to).

    >>> from pasidlab.views import Lane
    >>> bind = Ladder("flow", "Bind", (Lane("a", "app"),), (Row("7", "a", text="bind"),), present="7")
    >>> LadderView(bind, height="300px").state["marks"]
    {'7': 'r-normal is-present'}
    """

    _esm = page_side("ladder")

    def __init__(
        self, ladder: Ladder | None = None, *, height: str = "", selected: str = "", empty: str = "nothing yet"
    ) -> None:
        self.ladder = ladder
        super().__init__(height=height, selected=selected)
        self.publish(
            title="",
            width=0,
            head="",
            headHeight=0,
            bodyHeight=0,
            lanes=[],
            rows={},
            marks={},
            present="",
            empty=empty,
        )
        if ladder:
            self.show(ladder)

    def show(self, ladder: Ladder) -> None:
        """Show ``ladder``; rows that were there before stay as they are."""
        self.ladder = ladder
        parts = drawing(ladder)
        words = {row.key: row for row in parts.rows}
        labels = {lane.key: lane.name for lane in ladder.lanes}
        rows = {
            drawn.key: [drawn.y, drawn.height, _words(row, labels), drawn.svg]
            for drawn, row in zip(parts.rows, ladder.rows, strict=True)
        }
        self.publish(
            title=ladder.title,
            width=parts.width,
            head=parts.head,
            headHeight=parts.head_height,
            bodyHeight=parts.body_height,
            lanes=list(parts.lanes),
            rows=rows,
            marks={key: drawn.classes for key, drawn in words.items()},
            present=next((row.key for row in parts.rows if "is-present" in row.classes), ""),
        )


def _words(row: Row, labels: dict[str, str]) -> str:
    """A row for screen readers."""
    way = f"{labels[row.tail]} to {labels[row.head]}" if row.head and row.head != row.tail else labels[row.tail]
    said = [row_words(row).removeprefix(theme.row_kind(row.kind).glyph).strip(), clean(row.text), clean(row.detail)]
    return ": ".join([way, *filter(None, said)])
