"""The picture of a structure's bits: every bit once, names that do not touch, what must be zero and is not."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.bits import Field, Layout
from pasidlab.hardware.layouts import cpu, dsa, pcie, vtd, vtd_queue
from pasidlab.views.bits import Bits, bits_text, span_words, spans
from pasidlab.views.bits_svg import bits_body, bits_svg
from pasidlab.views.changes import mark_bits
from pasidlab.views.fields import field_table, set_fields
from pasidlab.views.measure import text_width
from tests.views.hostile import NAMES

NS = "{http://www.w3.org/2000/svg}"
LAYOUTS = [
    found
    for module in (vtd, vtd_queue, cpu, pcie, dsa)
    for found in vars(module).values()
    if isinstance(found, Layout) and found.size % 4 == 0
]
FULL = {layout.name: layout.split((1 << 8 * layout.size) - 1) for layout in LAYOUTS}
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)


def picture(layout: Layout, words: tuple[int, ...] | None = None) -> ET.Element:
    """The drawing of a structure, parsed."""
    return ET.fromstring(bits_svg(Bits("b", "B", layout, words or FULL[layout.name])))


@every_layout
def test_every_bit_belongs_to_one_span(layout: Layout) -> None:
    """Lowest first, without gaps, each within the structure."""
    at = 0
    for span in spans(Bits("b", "B", layout, FULL[layout.name])):
        assert span.lsb == at
        at = span.msb + 1
    assert at == layout.size * 8


@every_layout
def test_every_field_is_drawn_and_its_value_told(layout: Layout) -> None:
    """A group with its name for each word that it touches, and a tooltip with bits, value and meaning."""
    groups = [g for g in picture(layout).iter(f"{NS}g") if "field" in (g.get("class") or "") and g.get("data-key")]
    keys = [g.get("data-key") for g in groups]
    for field in layout.fields:
        words = field.msb // layout.word_bits - field.lsb // layout.word_bits + 1
        assert keys.count(field.name) == words
    titles = {g.get("data-key"): g.findtext(f"{NS}title") for g in groups}
    for span in spans(Bits("b", "B", layout, FULL[layout.name])):
        assert titles[span.key] == span_words(span)


@every_layout
def test_names_do_not_touch(layout: Layout) -> None:
    """On each line the names are apart, and stay inside the picture."""
    drawn = bits_body(Bits("b", "B", layout, FULL[layout.name]))
    for part in (markup for key, markup in drawn.parts.items() if key.startswith("word")):
        lines: dict[str, list[tuple[float, float]]] = {}
        for x, y, text in re.findall(r'<text class="name" x="([\d.]+)" y="([\d.]+)">([^<]*)<', part):
            half = text_width(text, 9.5) / 2
            lines.setdefault(y, []).append((float(x) - half, float(x) + half))
        for places in lines.values():
            places.sort()
            assert all(one[1] <= other[0] for one, other in pairwise(places))
            assert places[0][0] >= 0
            assert places[-1][1] <= drawn.width + 12


def test_a_reserved_bit_that_is_set_is_wrong() -> None:
    """Marked in the picture, in the table, in the text; other bits without a name are not looked at."""
    words = (vtd.FL_ENTRY.encode(P=1, ADDR=0x5000)[0] | 1 << 51 | 1 << 9,)
    bits = Bits("e", "An entry", vtd.FL_ENTRY, words, reserved=0xF_0000_0000_0000)
    found = {span.key: span for span in spans(bits)}
    assert found["ADDR"].wrong == 1 << 51
    assert (found["bits:9:8"].kind, found["bits:9:8"].wrong) == ("ignored", 0)
    assert "is-wrong" in bits_svg(bits)
    assert "set, but must be zero" in bits_text(bits)
    assert {row.key: row.state for row in field_table(bits).rows}["ADDR"] == "fault"


def test_a_field_that_the_unit_does_not_have_is_hatched() -> None:
    """Named, but drawn as bits that must be zero."""
    reserved = vtd.PASID_ENTRY["SLEE"].mask
    bits = Bits("e", "An entry", vtd.PASID_ENTRY, vtd.PASID_ENTRY.encode(P=1), reserved=reserved)
    assert {span.key: span.kind for span in spans(bits)}["SLEE"] == "reserved"


def test_what_a_step_changed_is_marked() -> None:
    """The bits that are different, and only these; in the legend, too."""
    before, now = (Bits("e", "E", vtd.PASID_DIR_ENTRY, (word,)) for word in (0x5000, 0x5001))
    marked = mark_bits(before, now)
    assert marked.changed == 1
    assert 'class="changed"' in bits_svg(marked)
    assert "changed by this step" in bits_svg(marked)
    assert 'class="changed"' not in bits_svg(mark_bits(now, now))


@given(st.integers(0, (1 << 64) - 1))
def test_values_move_nothing(word: int) -> None:
    """Names stay where they are, whatever the fields hold (reserved words grow when a bit is set in them)."""
    zero, now = (bits_body(Bits("e", "E", vtd.FL_ENTRY, (value,), reserved=0)) for value in (0, word))
    places = [re.findall(r'class="name" x="([\d.]+)" y="([\d.]+)"', drawn.parts["word 0"]) for drawn in (zero, now)]
    assert places[0] == places[1]
    assert zero.height == now.height


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_title_is_only_a_title(name: str) -> None:
    """It makes no element; there are no ids and no event handlers."""
    layout = Layout("odd", 8, (Field("A<b>", 0, 3, name),), "nowhere")
    parsed = ET.fromstring(bits_svg(Bits("odd", name, layout, (5,), name)))
    assert {element.tag.removeprefix(NS) for element in parsed.iter()} <= {
        "svg",
        "style",
        "rect",
        "g",
        "path",
        "text",
        "title",
    }
    assert not [key for element in parsed.iter() for key in element.attrib if key == "id" or key.startswith("on")]


def test_the_text_is_the_picture_in_words() -> None:
    """Words in hexadecimal, and every field that is not zero."""
    words = vtd.PASID_ENTRY.encode(P=1, PGTT=3, DID=5)
    said = bits_text(Bits("e", "PASID entry 5", vtd.PASID_ENTRY, words))
    assert "+0x00  0x00000000000000c1" in said
    assert "  PGTT, bits 8:6: 0x3, translation: 1 first-level" in said
    assert set_fields(Bits("e", "E", vtd.PASID_ENTRY, words)) == "P=1 PGTT=3 DID=5"
    assert set_fields(Bits("e", "E", vtd.PASID_ENTRY, (0,) * 8)) == "all zero"


def test_structures_of_four_bytes_have_32_bits() -> None:
    """KVM's entries and the fault status register."""
    drawn = bits_body(Bits("e", "E", cpu.VMX_PASID_TABLE_ENTRY, (0x8000_0005,)))
    assert drawn.width < 500
    assert "HOST_PASID = 0x5" in drawn.svg
