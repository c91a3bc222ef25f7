"""A ladder: rows in order, one below the other, whatever they say."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.views import Ladder, Lane, Row, ladder_svg, ladder_text
from pasidlab.views.ladder_svg import MORE, SAY, drawing
from pasidlab.views.measure import text_width
from pasidlab.views.style import bar_rules, rules
from pasidlab.views.theme import ROW_KINDS
from tests.views.hostile import names

LANES = (Lane("a", "app", "vm1"), Lane("k", "kernel", "host"), Lane("v", "KVM", "host"))


@st.composite
def ladders(draw: st.DrawFn) -> Ladder:
    """Ladders with any names and texts."""
    lanes = tuple(
        Lane(f"l{at}", draw(names), draw(st.sampled_from(("", "vm", "host")))) for at in range(draw(st.integers(1, 9)))
    )
    ends = st.sampled_from([lane.key for lane in lanes])
    rows: list[Row] = []
    depth = -1
    for at in range(draw(st.integers(0, 12))):
        depth = draw(st.integers(0, depth + 1))
        head = draw(st.just("") | ends)
        rows.append(
            Row(str(at), draw(ends), head, draw(names), draw(names), depth, draw(st.sampled_from(sorted(ROW_KINDS))))
        )
    present = draw(st.sampled_from(["", *(row.key for row in rows)]))
    return Ladder("any", draw(names), lanes, tuple(rows), present)


@settings(deadline=None)
@given(ladders())
def test_nothing_overlaps_and_nothing_is_clipped(ladder: Ladder) -> None:
    """Each row has its own band; each text stands inside the picture and inside its band."""
    parts = drawing(ladder)
    foot = 0.0
    for row in parts.rows:
        assert row.y >= foot
        foot = row.y + row.height
        group = ET.fromstring(f"<g>{row.svg}</g>")
        for text in group.iter("text"):
            size = {"say": SAY, "more": MORE}.get(text.get("class") or "")
            assert 8 <= float(text.get("y") or 0) <= row.height
            if size:
                left = float(text.get("x") or 0)
                assert left >= 0
                assert left + text_width("".join(text.itertext()), size) <= parts.width
    assert foot <= parts.body_height


@settings(deadline=None)
@given(ladders())
def test_a_ladder_is_well_formed_and_deterministic(ladder: Ladder) -> None:
    """A hostile text makes no element; the same ladder gives the same picture and words."""
    picture = ladder_svg(ladder)
    tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(picture).iter()}
    assert tags <= {"svg", "style", "rect", "g", "path", "text", "title", "tspan", "circle"}
    assert ladder_svg(ladder) == picture
    assert len(ladder_text(ladder).split("\n")) == 1 + len(ladder.rows)


@settings(deadline=None)
@given(ladders())
def test_a_row_does_not_depend_on_what_comes_after_it(ladder: Ladder) -> None:
    """While a flow grows, the texts and places of earlier rows stay, so the live view leaves them alone."""
    if len(ladder.rows) < 2 or max(row.depth for row in ladder.rows) > max(row.depth for row in ladder.rows[:-1]):
        return
    shorter = Ladder("any", "", ladder.lanes, ladder.rows[:-1])
    grown = Ladder("any", "", ladder.lanes, ladder.rows)
    pairs = zip(drawing(shorter).rows, drawing(grown).rows, strict=False)
    assert all((one.key, one.y, one.height) == (other.key, other.y, other.height) for one, other in pairs)


def test_rows_after_the_present_one_are_the_future() -> None:
    """Classes tell present and future; with no present row all is past."""
    rows = tuple(Row(str(at), "a", "k", "x") for at in range(3))
    marks = [row.classes for row in drawing(Ladder("l", "L", LANES, rows, "1")).rows]
    assert marks == ["r-normal", "r-normal is-present", "r-normal is-future"]
    assert {row.classes for row in drawing(Ladder("l", "L", LANES, rows)).rows} == {"r-normal"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((Row("1", "a", "x"),), "must be one of ladder l, not 'x'"),
        ((Row("1", "a"), Row("1", "a")), "must be unique"),
        ((Row("1", "a", depth=1),), "a depth of at most 0, not 1"),
        ((Row("1", "a"), Row("2", "a", depth=2)), "a depth of at most 1, not 2"),
    ],
)
def test_a_ladder_that_cannot_be_drawn_is_refused(rows: tuple[Row, ...], message: str) -> None:
    """Unknown lanes, doubled keys and holes in the tree of causes are told when the ladder is made."""
    with pytest.raises(ValueError, match=message):
        Ladder("l", "L", LANES, rows)


def test_a_refusal_is_told_in_words() -> None:
    """Not by colour alone: glyph and word stand in front, in the picture and in the text."""
    ladder = Ladder("l", "L", LANES, (Row("1", "a", "k", "alloc", "-ENOSPC", kind="refuse"),))
    assert "✕ refused: alloc  (-ENOSPC)" in ladder_text(ladder)
    assert ">✕ refused</tspan>" in ladder_svg(ladder)


def test_no_rule_of_another_picture_moves_the_words_of_a_ladder() -> None:
    """A live page has the rules of all pictures at once: a class of the bits that ends its text somewhere is theirs."""
    ladder = Ladder("l", "L", LANES, (Row("1", "a", text="no", kind="refuse"), Row("2", "a", "k", "x", "y")))
    used = set(re.findall(r'<t(?:ext|span) class="([a-z ]+)"', ladder_svg(ladder)))
    used.remove("title")
    assert used == {"say", "more", "no", "sign"}
    rest = re.sub(r"(?m)^[^{\n]*\.row\b[^{\n]*\{.*$", "", rules() + bar_rules())
    assert [name for name in sorted(used) if re.search(rf"\.{name}\b", rest)] == []
