"""A structure, bit by bit: plain data for the picture of its words, each field with name, bits and value.

Every bit belongs to one :class:`Span`: a field of the layout, bits that hardware demands to be zero, or bits that
nobody looks at. Which bits must be zero depends on the unit (:mod:`pasidlab.hardware.iommu.vtd.survey`); without being
told, they are those to which the layout gives no name. What a field is (an address, a number, a flag) is read from the
layout, and told by colour, by a word in the legend, and by the field's width.

Invariant: the spans of a structure cover each of its bits once, lowest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from pasidlab.views import bits_svg
from pasidlab.views.escape import clean
from pasidlab.views.iommu_words import BITS

if TYPE_CHECKING:
    from pasidlab.hardware.bits import Field, Layout

__all__ = ["Bits", "Span", "SpanKind", "bits_text", "span_bits", "span_words", "spans"]

SpanKind = Literal["pointer", "number", "flag", "reserved", "ignored"]


@dataclass(frozen=True, slots=True)
class Bits:
    """The words of one structure. ``reserved`` are the bits that must be zero, ``changed`` those that a step changed.

    >>> from pasidlab.hardware.layouts.vtd import PASID_DIR_ENTRY
    >>> Bits("entry", "A directory entry", PASID_DIR_ENTRY, (0x5001,))
    <Bits entry: vtd_pasid_dir_entry, 8 bytes>
    """

    name: str
    title: str
    layout: Layout
    words: tuple[int, ...]
    note: str = ""
    reserved: int | None = None
    changed: int = 0

    def __post_init__(self) -> None:
        self.layout.join(self.words)

    @property
    def value(self) -> int:
        """All words as one number; bit 0 is the lowest bit of the first word."""
        return self.layout.join(self.words)

    @property
    def must_be_zero(self) -> int:
        """The bits that must be zero."""
        return self.layout.reserved_mask if self.reserved is None else self.reserved

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": bits_text(self), "image/svg+xml": bits_svg.bits_svg(self)}

    def __repr__(self) -> str:
        return f"<Bits {self.name}: {self.layout.name}, {self.layout.size} bytes>"


class Span(NamedTuple):
    """Neighbouring bits of one meaning, ``msb`` down to ``lsb``. Bits without a name have none.

    ``wrong`` are those bits among them that must be zero and are not.
    """

    name: str
    msb: int
    lsb: int
    kind: SpanKind
    value: int
    meaning: str
    wrong: int = 0

    @property
    def key(self) -> str:
        """What a picture calls it: the field's name, or its bits."""
        return self.name or f"bits:{self.msb}:{self.lsb}"


def spans(bits: Bits) -> list[Span]:
    """Every span, lowest bits first; bits without a name end at the border of a word.

    >>> from pasidlab.hardware.layouts.vtd import PASID_DIR_ENTRY
    >>> [(span.key, span.kind) for span in spans(Bits("e", "E", PASID_DIR_ENTRY, (0x5001,)))]
    [('P', 'flag'), ('FPD', 'flag'), ('bits:11:2', 'reserved'), ('SMPTBLPTR', 'pointer')]
    """
    whole, zero, width = bits.value, bits.must_be_zero, bits.layout.word_bits
    found: list[Span] = []
    at = 0
    for field in sorted(bits.layout.fields, key=lambda field: field.lsb):
        found += _unnamed(whole, zero, at, field.lsb, width)
        found.append(_named(field, bits, whole, zero))
        at = field.msb + 1
    return found + _unnamed(whole, zero, at, bits.layout.size * 8, width)


def _named(field: Field, bits: Bits, whole: int, zero: int) -> Span:
    wrong = whole & zero & field.mask
    kind: SpanKind = "reserved" if field.mask & zero == field.mask else _kind(field)
    return Span(field.name, field.msb, field.lsb, kind, field.get(bits.words), field.meaning, wrong)


def _kind(field: Field) -> SpanKind:
    return "pointer" if field.shift else "flag" if field.width == 1 else "number"


def _unnamed(whole: int, zero: int, first: int, end: int, width: int) -> list[Span]:
    """The bits from ``first`` up to ``end``, cut where a word ends and where "must be zero" begins or ends."""
    found: list[Span] = []
    start = first
    for at in range(first + 1, end + 1):
        if at == end or at % width == 0 or (zero >> at ^ zero >> start) & 1:
            mask = (1 << at) - (1 << start)
            kind: SpanKind = "reserved" if zero >> start & 1 else "ignored"
            found.append(Span("", at - 1, start, kind, (whole & mask) >> start, BITS[kind], whole & zero & mask))
            start = at
    return found


def span_bits(span: Span) -> str:
    """Its bits, as the specification writes them.

    >>> span_bits(Span("AW", 4, 2, "number", 2, "depth")), span_bits(Span("P", 0, 0, "flag", 1, "present"))
    ('4:2', '0')
    """
    return str(span.lsb) if span.msb == span.lsb else f"{span.msb}:{span.lsb}"


def span_words(span: Span) -> str:
    """A span in one line: for tooltips, for screen readers, and for the text twin."""
    name = clean(span.name) or BITS["unnamed"]
    wrong = f" ({BITS['wrong']})" if span.wrong else ""
    return f"{name}, {BITS['bits' if span.msb != span.lsb else 'bit']} {span_bits(span)}: {span.value:#x}{wrong}, " + (
        clean(span.meaning)
    )


def bits_text(bits: Bits) -> str:
    """The words in hexadecimal, and every span that is not zero.

    >>> from pasidlab.hardware.layouts.vtd import PASID_DIR_ENTRY
    >>> print(bits_text(Bits("e", "A directory entry", PASID_DIR_ENTRY, (0x5005,))))
    A directory entry
    +0x00  0x0000000000005005
      P, bit 0: 0x1, present
      no name, bits 11:2: 0x1 (set, but must be zero), must be zero
      SMPTBLPTR, bits 63:12: 0x5000, where the PASID table of 64 entries is
    """
    width = bits.layout.word_bits
    lines = [clean(bits.title), *([clean(bits.note)] if bits.note else [])]
    for at, word in enumerate(bits.words):
        lines.append(f"+{at * width // 8:#04x}  {word:#0{2 + width // 4}x}")
        inside = [span for span in spans(bits) if span.lsb // width == at]
        lines += [f"  {span_words(span)}" for span in inside if span.value]
    return "\n".join(lines)
