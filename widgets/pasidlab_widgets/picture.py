"""PictureView: a drawing in parts that lives, for the bits of a structure and for rows of cells.

A part (a word, a row of cells) travels when its markup is different; the page patches it in place.
"""

from __future__ import annotations

from pasidlab.views.bits import Bits
from pasidlab.views.bits_svg import bits_body
from pasidlab.views.cells import Cells
from pasidlab.views.cells_svg import cells_body
from pasidlab.views.escape import clean
from pasidlab_widgets.view import View, page_side

__all__ = ["PictureView"]


class PictureView(View):
    """A live picture of bits or cells. :meth:`show` takes the next one; a pick gives the key of the field or cell.

    >>> from pasidlab.hardware.layouts.vtd import PASID_DIR_ENTRY
    >>> view = PictureView(Bits("e", "An entry", PASID_DIR_ENTRY, (0x5001,)))
    >>> view.state["label"], view.state["order"]
    ('An entry', ['ruler', 'word 0', 'legend'])
    """

    _esm = page_side("picture")

    def __init__(
        self, picture: Bits | Cells | None = None, *, height: str = "", selected: str = "", empty: str = "nothing yet"
    ) -> None:
        self.picture: Bits | Cells | None = None
        super().__init__(selected=selected, height=height)
        self.publish(label="", parts={}, order=[], size=[0, 0], empty=empty)
        if picture is not None:
            self.show(picture)

    def show(self, picture: Bits | Cells | None) -> None:
        """Show ``picture``, or nothing."""
        self.picture = picture
        if picture is None:
            self.publish(label="", parts={}, order=[])
            return
        drawn = bits_body(picture) if isinstance(picture, Bits) else cells_body(picture)
        self.publish(
            label=clean(picture.title),
            parts=drawn.parts,
            order=list(drawn.parts),
            size=[drawn.width, drawn.height],
        )
