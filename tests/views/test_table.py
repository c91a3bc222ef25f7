"""A table: cells are text, changes are marked, rows are known by key."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.views import Column, Line, Table, table_html, table_text
from tests.views.hostile import names

COLUMNS = (Column("pasid", "PASID", mono=True), Column("owner", "owner"), Column("state", "state"))


@settings(deadline=None)
@given(st.lists(st.tuples(names, names), max_size=5), names)
def test_cells_are_text(rows: list[tuple[str, str]], title: str) -> None:
    """A hostile cell makes no element; text and HTML have one row for each line."""
    lines = tuple(Line(f"{at}{a}", (a, b, "x"), "live", ("owner",)) for at, (a, b) in enumerate(rows))
    table = Table("t", title, COLUMNS, lines, "none")
    page = ET.fromstring(table_html(table))
    assert {element.tag for element in page.iter()} <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert len(page.findall("tbody/tr")) == max(1, len(rows))
    assert len(table_text(table).splitlines()) == (3 + len(rows) if rows else 2)


def test_the_state_column_has_the_glyph() -> None:
    """Colour of the bar, glyph, and word."""
    table = Table("t", "T", COLUMNS, (Line("1", ("101", "vm1", "free-pending"), "pending", ("state",)),))
    assert table_text(table).splitlines()[-1] == "101    vm1    ▼ free-pending*"
    assert '<td class="state is-changed">▼ free-pending</td>' in table_html(table)


def test_columns_line_up_with_wide_letters() -> None:
    """A column is as wide as a terminal shows it."""
    table = Table("t", "T", COLUMNS, (Line("1", ("蝦夷", "vm1", "")), Line("2", ("1", "vm2", ""))))
    assert table_text(table).splitlines()[-2:] == ["蝦夷   vm1", "1      vm2"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((Line("1", ("a",)),), "must have 3 cells, not 1"),
        ((Line("1", ("a", "b", "c")), Line("1", ("a", "b", "c"))), "must be unique"),
        ((Line("1", ("a", "b", "c"), changed=("x",)),), "must be one of"),
    ],
)
def test_a_table_that_cannot_be_drawn_is_refused(rows: tuple[Line, ...], message: str) -> None:
    """Wrong rows are told when the table is made."""
    with pytest.raises(ValueError, match=message):
        Table("t", "T", COLUMNS, rows)
