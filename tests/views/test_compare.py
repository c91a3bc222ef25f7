"""The comparison as figure and tables: nothing jumps, what stands in a box is what the tables say, and asking changes
nothing.
"""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.stories.compare import compare_machines
from pasidlab.views import Figure, svg, table_html, table_text, text, topology
from pasidlab.views.box import box_texts
from pasidlab.views.compare import Comparison, prices, spent, steps, tags, tries, writers
from pasidlab.views.compare_figure import compare_figure
from pasidlab.views.compare_words import COMPARE, STEPS, TRIES
from pasidlab.views.price import WORDS

BOUND = [name for name, family in FAMILIES.items() if family.binds_tables]


@pytest.fixture(scope="module")
def found() -> Comparison:
    """The script on a machine of each kind."""
    return compare_machines()


def after(found: Comparison, step: str) -> Figure:
    """The figure at the end of a step."""
    return compare_figure(found, found.go(found.ends[list(STEPS).index(step) + 1]))


def arrows(figure: Figure, kind: str) -> set[str]:
    """The arrows of one column that are there."""
    return {edge.key.removeprefix(f"{kind}:") for edge in figure.edges if edge.present and edge.key.startswith(kind)}


def test_nothing_jumps_from_the_first_event_to_the_last(found: Comparison) -> None:
    """One layout for all places of the slider, no word is cut, and no machine is changed by being drawn."""
    shapes = set()
    for place in range(found.last + 1):
        moment = found.go(place)
        digests = [one.machine.timeline.digest() for one in found.played]
        figure = compare_figure(found, moment)
        shapes.add(topology(figure))
        assert [words for node in figure.nodes for words in box_texts(node) if words.endswith("…")] == []
        tags(found, moment)
        assert [one.machine.timeline.digest() for one in found.played] == digests
    assert len(shapes) == 1


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_solid_arrows_are_the_way_of_silicon(found: Comparison, kind: str) -> None:
    """Through the host's table, or through the guest's; the dashed one says what the host copies."""
    figure = after(found, "second")
    bound = {"host-entry>guest-table", "guest-table>guest-pages"}
    shadow = {"host-entry>host-table", "host-table>guest-pages"}
    seen = arrows(figure, kind)
    assert seen >= {"device>host-entry", "guest-pages>host-second"}
    assert seen & (bound | shadow) == (bound if kind in BOUND else shadow)
    copied = {"guest-entry>host-entry"} if kind in BOUND else {"guest-table>host-table"}
    assert seen & {"guest-entry>host-entry", "guest-table>host-table"} == copied


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_box_says_what_is_in_the_table(found: Comparison, kind: str) -> None:
    """PASIDs of both processes; later of one; later of none."""
    for step, words in (("bind", "PASID 1"), ("second", "PASIDs 1, 2"), ("unbind", "PASID 1"), ("exit", "no PASID")):
        figure = after(found, step)
        assert figure.node(f"{kind}:guest-table").lines[0] == f"guest: {words}"
        reading = f"{kind}:guest-table" if kind in BOUND else f"{kind}:host-table"
        assert figure.node(reading).word == COMPARE["read"]
    assert figure.node(f"{kind}:host-second").word == COMPARE["read"]
    assert after(found, "end").node(f"{kind}:guest-table").word == COMPARE["absent"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_device_says_what_it_has_sent(found: Comparison, kind: str) -> None:
    """The number is on the wire in the step in which it copies."""
    assert after(found, "bind").node(f"{kind}:device").lines[1] == COMPARE["sends-none"]
    assert after(found, "copy").node(f"{kind}:device").lines[1] == "sends PASID 1"


def test_a_price_may_stand_beside_the_figure_instead(found: Comparison) -> None:
    """The lab has a table for it."""
    moment = found.go(found.last)
    with_prices, without = compare_figure(found, moment), compare_figure(found, moment, priced=False)
    gone = {node.key for node in with_prices.nodes} - {node.key for node in without.nodes}
    assert gone == {f"{kind}:price" for kind in FAMILIES}


def test_what_is_spent_adds_up_to_the_price_of_all_steps(found: Comparison) -> None:
    """At each end of a step, and in the middle of one."""
    for at, end in enumerate(found.ends[1:]):
        moment = found.go(end)
        for one in found.played:
            now, whole = spent(one, moment)
            assert now == one.did[at].price
            assert whole.traps == sum(did.price.traps for did in one.did[: at + 1])
    middle = found.go(found.ends[2] + 5)
    for one in found.played:
        now, whole = spent(one, middle)
        assert whole.traps == now.traps + sum(did.price.traps for did in one.did[:2])
    assert spent(found.played[0], found.go(0))[1] == type(now)()


def test_tables_mark_where_the_machines_differ(found: Comparison) -> None:
    """And nothing where they agree."""
    for table in (prices(found), prices(found, "bind"), *(steps(found, count) for count in WORDS)):
        for row in table.rows:
            assert bool(row.changed) is (len(set(row.cells[1:])) > 1)


def test_the_tables_have_a_row_for_everything(found: Comparison) -> None:
    """Counts, steps, what was tried; text and HTML of each."""
    assert [row.key for row in prices(found).rows] == list(WORDS)
    assert [row.key for row in steps(found, "traps").rows] == [*STEPS, "total"]
    assert [row.key for row in tries(found).rows] == list(TRIES)
    assert len(writers(found).rows) == len(STEPS) * len(FAMILIES)
    assert [row.cells[1] for row in writers(found, 2).rows] == list(FAMILIES)
    assert writers(found, -1).rows == ()
    for table in (prices(found), steps(found, "traps"), writers(found), tries(found)):
        assert table.title in table_text(table)
        assert "<table" in table_html(table)


def test_a_trap_that_comes_twice_is_said_once(found: Comparison) -> None:
    """With how often."""
    said = [row.cells[3] for row in writers(found).rows]
    assert any("(2 times)" in words for words in said)
    assert "none" in said


def test_the_figure_has_a_still_picture_and_a_text_twin(found: Comparison) -> None:
    """In which every machine has its name."""
    figure = after(found, "second")
    assert svg(figure).startswith("<svg")
    for family in FAMILIES.values():
        assert family.title.partition(", ")[0] in text(figure)


def test_in_a_notebook_the_wide_figure_shrinks_with_the_page(found: Comparison) -> None:
    """It has no size of its own there, only its proportions; one machine fits and keeps its size, like the file."""
    figure, alone = after(found, "second"), compare_machines(("vtd",))
    shown = figure._repr_mimebundle_()["image/svg+xml"]
    assert 'class="pasidlab" width="100%" viewBox="0 0 ' in shown
    assert 'width="100%"' not in svg(figure)
    assert 'width="100%"' not in after(alone, "second")._repr_mimebundle_()["image/svg+xml"]
