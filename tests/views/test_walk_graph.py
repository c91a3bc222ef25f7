"""The picture of a walk: no place depends on the outcome, nothing moves while it is stepped through."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.iommu.contract import Walk
from pasidlab.hardware.iommu.vtd.faults import FaultReason
from pasidlab.views import Figure, text, topology
from pasidlab.views.layout import geometry
from pasidlab.views.walk_graph import walk_graph
from pasidlab.views.walk_path import WalkPath, shape_of
from pasidlab.views.walk_table import stop_bits, walk_table
from tests.hardware.iommu.vtd.by_hand import IOVA, PASID, RID, Bench
from tests.views.walks import FAULTS, asked, first, nested, second


def places(walk: Walk) -> dict[str, object]:
    """Where every box stands."""
    return dict(geometry(topology(walk_graph(walk))).nodes)


def five_over_five() -> Walk:
    """The largest walk: five levels, each found through five."""
    bench = Bench(fl5lp=True, sagaw=0b1110, mgaw=57, haw=52)
    bench.entry(PGTT=3, AW=3, FLPM=1)
    bench.first_level(levels=5, page=0x30_0000)
    for table in range(5):
        bench.second_level(0x50000 + table * 0x1000, 0x50000 + table * 0x1000, levels=5)
    bench.second_level(0x30_0000, levels=5)
    return asked(bench)


ENDS: list[Walk] = [asked(first()), asked(first(leaf=2)), asked(second()), asked(nested()), five_over_five()]
ALL: list[Walk] = [*ENDS, *(make() for make in FAULTS.values())]


@pytest.mark.parametrize("walk", ALL, ids=lambda walk: walk.fault.name if walk.fault else f"{len(walk.stops)} stops")
def test_stepping_moves_nothing(walk: Walk) -> None:
    """Every step has the layout of the end; the stop at the step acts, those before it are done, none else."""
    path, shape = WalkPath(walk), topology(walk_graph(walk))
    for step in range(len(walk.stops) + 1):
        figure = walk_graph(walk, step)
        assert topology(figure) == shape
        now = [node.key for node in figure.nodes if node.state == "now"]
        assert now == ([path.boxes[step - 1]] if step else [])
        done = {node.key for node in figure.nodes if node.state in {"live", "now"}} - {"request"}
        assert {key for key in done if not key.startswith("asked")} == set(path.boxes[:step])


def test_a_place_depends_on_the_kind_of_walk_only() -> None:
    """All nested walks have the same boxes in the same places, wherever they end."""
    by_shape: dict[object, dict[str, object]] = {}
    for walk in ALL:
        found = places(walk)
        assert by_shape.setdefault(shape_of(walk), found) == found
    assert len(by_shape) >= 5


@pytest.mark.parametrize("walk", ALL, ids=lambda walk: walk.fault.name if walk.fault else f"{len(walk.stops)} stops")
def test_every_stop_has_a_box_and_boxes_do_not_meet(walk: Walk) -> None:
    """At most 60 boxes, no two overlap, and every stop is in one of them."""
    figure, path = walk_graph(walk), WalkPath(walk)
    assert len(figure.nodes) <= 60
    assert len(path.boxes) == len(walk.stops)
    assert set(path.boxes) <= {node.key for node in figure.nodes}
    rects = list(geometry(topology(figure)).nodes.values())
    for one, other in itertools.combinations(rects, 2):
        apart = one.x + one.width < other.x or other.x + other.width < one.x
        assert apart or one.y + one.height < other.y or other.y + other.height < one.y


@pytest.mark.parametrize("reason", FAULTS, ids=str)
def test_a_fault_is_shown_where_it_lies(reason: FaultReason) -> None:
    """One box says fault, an arrow leads from it to the result, which says the code."""
    walk = FAULTS[reason]()
    figure = walk_graph(walk)
    culprit = WalkPath(walk).culprit
    assert figure.node("result").lines == (f"fault {int(reason):#x}", reason.label)
    assert {node.key for node in figure.nodes if node.state == "fault"} == {culprit, "result"}
    ways = [edge for edge in figure.edges if edge.head == "result" and edge.present]
    assert [edge.tail for edge in ways] == ([culprit] if culprit != "result" else [])


@pytest.mark.parametrize("walk", ENDS, ids=lambda walk: f"{len(walk.stops)} stops")
def test_an_address_is_the_result(walk: Walk) -> None:
    """And an arrow leads to it."""
    figure = walk_graph(walk)
    assert figure.node("result").lines == (f"{walk.address:#x}", "host-physical")
    assert [edge.state for edge in figure.edges if edge.head == "result" and edge.present] == ["live"]


def test_each_row_says_what_it_looks_for() -> None:
    """On the left of a nested walk the guest-physical address of the first-level entry, at last that of the page."""
    bench = nested()
    figure = walk_graph(asked(bench))
    for level in (4, 3, 2, 1):
        assert figure.node(f"asked:{level}").lines[0] == f"{bench.first_at(level):#x}"
    assert figure.node("asked:0").lines[0] == f"{0x30_0000 | IOVA & 0xFFF:#x}"


def test_what_a_large_page_spares_is_told() -> None:
    """Below the entry that names 2 MiB nothing is read."""
    figure = walk_graph(asked(first(leaf=2)))
    assert figure.node("first:2").state == "live"
    assert (figure.node("first:1").state, figure.node("first:1").word) == ("off", " ")


def test_what_caches_answer_is_told() -> None:
    """After a real request the same question is answered by the caches: they say so, and the rest is not read."""
    bench = Bench(caches=True)
    bench.nested()
    bench.unit.translate(bench.request())
    walk = bench.unit.walk(bench.request())
    figure = walk_graph(walk)
    assert [stop.cache for stop in walk.stops] == ["context cache", "PASID cache", "IOTLB"]
    assert (figure.node("context").state, figure.node("context").word) == ("cached", "cached")
    assert (figure.node("first:1").state, figure.node("first:1").lines) == ("cached", ("first L1", "IOTLB"))
    assert figure.node("root").state == "off"
    assert [row.cells[-1] for row in walk_table(walk).rows[:3]] == ["context cache", "PASID cache", "IOTLB"]


def test_the_table_has_a_row_for_each_stop() -> None:
    """Number, stage, structure, level, address, words, fields, origin; the last row is the outcome."""
    walk = asked(nested())
    table = walk_table(walk)
    assert len(table.rows) == 29
    assert table.rows[3].cells[:5] == ("4", "lookup", "PASID entry", "", "0x40d00")
    assert table.rows[4].cells[1:4] == ("second level", "second-level entry", "4")
    assert table.rows[-1].cells[4] == f"{walk.address:#x}"
    assert stop_bits(walk, 3).title == "Stop 4 of 28: PASID entry"


def test_the_text_tells_what_the_picture_shows() -> None:
    """Boxes, states, the fault."""
    said = text(walk_graph(asked(first(), address=1 << 47)))
    assert f"The way of {asked(first(), address=1 << 47).request}" in said
    assert "fault 0x80 · SGN.1 (▲  )" in said


def test_a_walk_shows_itself_in_a_notebook() -> None:
    """Picture, words and table; the text as before."""
    bundle = asked(nested())._repr_mimebundle_()
    page = bundle["text/html"]
    assert bundle["text/plain"] == repr(asked(nested()))
    assert "<svg" in page
    assert "<table" in page
    assert "The translation is nested." in page
    assert page.count("<details>") == 28
    assert " id=" not in page


@given(st.integers(0, 30))
def test_any_number_of_steps_is_taken_as_at_most_all(step: int) -> None:
    """Beyond the last stop lies the outcome."""
    walk = asked(second())
    figure: Figure = walk_graph(walk, step)
    assert (figure.node("result").state == "live") == (step > len(walk.stops))
    assert figure.node("request").lines == (f"{RID >> 8:02x}:01.0", f"PASID {PASID} read")
