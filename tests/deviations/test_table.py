"""The table of deviations: complete rows, real invariants, and a place in the model where each is decided."""

from pathlib import Path

import pytest

from pasidlab.deviations import DEVIATIONS
from pasidlab.invariants import RULES
from pasidlab.timeline import Part
from tests.deviations.switch import ROWS, decider

ROOT = Path(__file__).parent.parent.parent
DECIDED = [row for row in DEVIATIONS if row.site]


def test_names_are_unique():
    """A name is what the switch will be called by."""
    assert len(ROWS) == len(DEVIATIONS)


@pytest.mark.parametrize("row", DEVIATIONS, ids=lambda row: row.name)
def test_a_row_is_complete(row):
    """Every column says something, and names invariants and rows that exist."""
    assert all((row.subject, row.code, row.documents, row.model, row.source))
    assert set(row.breaks) <= {rule.number for rule in RULES}
    assert set(row.needs) <= set(ROWS) - {row.name}
    assert list(row.breaks) == sorted(set(row.breaks))


@pytest.mark.parametrize("row", DEVIATIONS, ids=lambda row: row.name)
def test_a_row_has_a_site_or_says_what_the_model_lacks(row):
    """What cannot be acted out here breaks nothing here."""
    assert bool(row.site) != bool(row.lacks)
    assert row.site or not (row.breaks or row.needs)


@pytest.mark.parametrize("row", DECIDED, ids=lambda row: row.name)
def test_the_model_has_one_place_where_it_is_decided(row):
    """A site is a method or a property of a part, named by the class that has it: a switch can stand in for that."""
    owner, name = decider(row.site)
    found = vars(owner)[name]
    found = found.__func__ if isinstance(found, staticmethod) else found
    assert callable(found) or isinstance(found, property)
    assert issubclass(owner, Part)


def test_no_two_deviations_are_decided_in_one_place():
    """So that each can be switched on by itself, and together with any other."""
    assert len({row.site for row in DECIDED}) == len(DECIDED)


def test_a_row_says_which_column_is_not_the_models():
    """Where the model does as the code did, the switch turns on what the documents say."""
    assert {row.name for row in DECIDED if row.turns_on == "documents"} == {
        "ending-set-token",
        "reserve-answer",
        "put-before-free",
        "passed-file",
    }


def test_a_row_as_text():
    """All that is known about it, with what it needs."""
    text = str(ROWS["failed-bind-leaves"])
    assert text.startswith(
        "failed-bind-leaves: a bind whose entry cannot be written\n  the code:      SPID, KVM's entry"
    )
    assert text.endswith(
        "source: 10 no. 8; breaks: 3, with bind-tells-first; decided in pasidlab.kernel.iommu.vtd.svm:Svm._take_back"
    )
    assert str(ROWS["two-locks"]).endswith("not acted out: there are no threads that could wait for each other")


def test_the_documentation_shows_the_same_table():
    """docs/model.md holds every row, in the words of the table."""
    from pasidlab.cli import deviations_markdown

    assert deviations_markdown() in (ROOT / "docs" / "model.md").read_text()
