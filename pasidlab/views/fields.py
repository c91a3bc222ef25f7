"""Projection: the words of one structure -> table of its fields. The text beside the picture of its bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.views.bits import Span, span_bits, spans
from pasidlab.views.iommu_words import BITS
from pasidlab.views.table import Column, Line, Table

if TYPE_CHECKING:
    from pasidlab.views.bits import Bits

__all__ = ["field_table", "set_fields"]

_COLUMNS: Final = (
    Column("field", "field"),
    Column("bits", "bits", mono=True),
    Column("value", "value", mono=True),
    Column("meaning", "meaning", wrap=True),
)


def field_table(bits: Bits) -> Table:
    """Every field, lowest bits first, with bits, value and meaning; and whatever else is set.

    >>> from pasidlab.hardware.layouts.vtd import PASID_DIR_ENTRY
    >>> from pasidlab.views.bits import Bits
    >>> [row.cells[:3] for row in field_table(Bits("e", "E", PASID_DIR_ENTRY, (0x5005,))).rows]
    [('P', '0', '0x1'), ('FPD', '1', '0x0'), ('', '11:2', '0x1'), ('SMPTBLPTR', '63:12', '0x5000')]
    """
    rows = tuple(_row(span) for span in spans(bits) if span.name or span.value)
    return Table(f"{bits.name}-fields", bits.title, _COLUMNS, rows)


def _row(span: Span) -> Line:
    state = "fault" if span.wrong else "live" if span.value else "idle"
    meaning = f"{span.meaning}: {BITS['wrong']}" if span.wrong and span.name else span.meaning
    if span.wrong and not span.name:
        meaning = BITS["wrong"]
    return Line(span.key, (span.name, span_bits(span), f"{span.value:#x}", meaning), state)


def set_fields(bits: Bits) -> str:
    """The fields that are not zero, in one line.

    >>> from pasidlab.hardware.layouts.vtd import PASID_DIR_ENTRY
    >>> from pasidlab.views.bits import Bits
    >>> set_fields(Bits("e", "E", PASID_DIR_ENTRY, (0x5001,)))
    'P=1 SMPTBLPTR=0x5000'
    """
    shown = [f"{span.key}={span.value if span.value < 10 else hex(span.value)}" for span in spans(bits) if span.value]
    return " ".join(shown) or BITS["all-zero"]
