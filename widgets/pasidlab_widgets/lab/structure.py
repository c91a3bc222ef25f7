"""One structure of memory on the page: the picture of its bits, and beside it the table of its fields.

A field that is picked in one of them is marked in both. A field that holds an address can be followed: whoever owns the
structure is told, and opens memory there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import ipywidgets as w

from pasidlab.views.changes import mark_bits, mark_table
from pasidlab.views.fields import field_table
from pasidlab.views.table import Column, Table
from pasidlab_widgets.picture import PictureView
from pasidlab_widgets.table import TableView

if TYPE_CHECKING:
    from pasidlab.views.bits import Bits

__all__ = ["StructureView"]


class StructureView:
    """Bits and fields of one structure. ``followed`` is called with the key of a field that was picked."""

    def __init__(self, height: str, title: str, empty: str, followed: Callable[[str], None] | None = None) -> None:
        self._empty = _nothing(title, empty)
        self._followed = followed
        self.shown: Bits | None = None
        self.picture = PictureView(empty=empty)
        self.fields = TableView(self._empty, height=height)
        for view in (self.picture, self.fields):
            view.on_pick(self.pick)
        self.widget = w.Box([self.picture, self.fields])
        self.widget.add_class("pl-structure")

    def on_trouble(self, callback: Callable[[BaseException], None]) -> None:
        """Give errors of both views to ``callback``."""
        for view in (self.picture, self.fields):
            view.on_trouble(callback)

    def wait(self, title: str, empty: str) -> None:
        """Say something else from now on while there is nothing to show."""
        self._empty = _nothing(title, empty)
        self.picture.publish(empty=empty)

    def show(self, bits: Bits | None) -> None:
        """Show a structure, or none. What is different from the same structure before is marked."""
        before, self.shown = self.shown, bits
        if bits is None:
            self.picture.show(None)
            self.fields.show(self._empty)
            self._mark("")
            return
        same = before is not None and (before.title, before.layout) == (bits.title, bits.layout)
        if before is not None and same:
            self.picture.show(mark_bits(before, bits))
            self.fields.show(mark_table(_fields(before), _fields(bits)))
            return
        self._mark("")
        self.picture.show(bits)
        self.fields.show(_fields(bits))

    def pick(self, key: str) -> None:
        """A field was picked: mark it here and there."""
        self._mark(key)
        if self._followed is not None:
            self._followed(key)

    def _mark(self, key: str) -> None:
        self.picture.selected = self.fields.selected = key


def _nothing(title: str, empty: str) -> Table:
    return Table("structure", title, (Column("field", "field"),), (), empty)


def _fields(bits: Bits) -> Table:
    """The fields below what the picture has no room to say: where the structure lies."""
    table = field_table(bits)
    return replace(table, title=bits.note[:1].upper() + bits.note[1:]) if bits.note else table
