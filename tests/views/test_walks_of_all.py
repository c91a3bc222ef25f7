"""Walks of the three IOMMUs, in pictures and in words: what holds of VT-d's holds of the others'."""

from __future__ import annotations

import itertools

import pytest

from pasidlab.hardware.iommu.amdvi.faults import Reason
from pasidlab.hardware.iommu.smmuv3.faults import SmmuEvent
from pasidlab.views import text, topology
from pasidlab.views.explain import explain
from pasidlab.views.fault_words_amdvi import FAULTS as AMD_WORDS
from pasidlab.views.fault_words_smmuv3 import FAULTS as SMMU_WORDS
from pasidlab.views.layout import geometry
from pasidlab.views.stale import stale_stops
from pasidlab.views.walk_graph import walk_graph
from pasidlab.views.walk_path import WalkPath, shape_of
from pasidlab.views.walk_table import stop_bits, walk_table
from tests.hardware.iommu.smmuv3.by_hand import CONTEXTS, IOVA, PAGE
from tests.views import walks_amdvi, walks_smmuv3

FAULTS = {f"smmuv3 {key}": value for key, value in walks_smmuv3.FAULTS.items()}
FAULTS |= {f"amdvi {reason.name}": value for reason, value in walks_amdvi.FAULTS.items()}
ENDS = {f"smmuv3 {key}": make for key, make in walks_smmuv3.ENDS.items()}
ENDS |= {f"amdvi {key}": make for key, make in walks_amdvi.ENDS.items()}
ALL = ENDS | {key: make for key, (make, _) in FAULTS.items()}


def test_no_event_of_an_smmu_is_without_sentences():
    """Every event, both stages where both can raise it, and each that can be brought about has a walk."""
    known = {key.split(" S2")[0] for key in SMMU_WORDS} - {"ABORT"}
    assert known == {event.name for event in SmmuEvent}
    made = {" ".join(key.split(" ")[: 2 if " S2" in key else 1]) for key in walks_smmuv3.FAULTS}
    assert made | walks_smmuv3.NOT_RAISED == SMMU_WORDS.keys()


def test_no_reason_of_an_amd_iommu_is_without_sentences():
    """And each that a question can end in has a walk."""
    assert AMD_WORDS.keys() == set(Reason)
    assert walks_amdvi.FAULTS.keys() | walks_amdvi.NOT_ASKED == set(Reason)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_shown_where_it_lies_and_explained_with_all_its_facts(name):
    """One box says fault; four sentences, none of which lacks a fact."""
    make, culprit = FAULTS[name]
    walk = make()
    assert walk.fault is not None
    assert (walk.fault.reason or walk.fault.name) == name.split(" ")[1]
    assert WalkPath(walk).culprit == culprit
    figure = walk_graph(walk)
    assert {node.key for node in figure.nodes if node.state == "fault"} == {culprit, "result"}
    said = explain(walk)
    assert len(said.sentences) == 4
    assert not [sentence for sentence in said.sentences if "?" in sentence or "{" in sentence]
    assert all(sentence[0].isupper() or sentence[0].isdigit() for sentence in said.sentences)


@pytest.mark.parametrize("name", [name for name in ENDS if "linear" not in name])
def test_an_address_is_the_result(name):
    """An arrow leads to it, and the words say how it was translated."""
    walk = ENDS[name]()
    figure = walk_graph(walk)
    assert walk.address is not None
    assert figure.node("result").lines[0] == f"{walk.address:#x}"
    assert [edge.state for edge in figure.edges if edge.head == "result" and edge.present] == ["live"]
    assert explain(walk).sentences[0].startswith("The translation is ")


@pytest.mark.parametrize("name", ALL)
def test_stepping_moves_nothing(name):
    """Every step has the layout of the end; the stop at the step acts; boxes do not meet."""
    walk = ALL[name]()
    path, whole = WalkPath(walk), topology(walk_graph(walk))
    assert len(path.boxes) == len(walk.stops)
    assert set(path.boxes) <= set(path.order)
    for step in range(len(walk.stops) + 1):
        figure = walk_graph(walk, step)
        assert topology(figure) == whole
        now = [node.key for node in figure.nodes if node.state == "now"]
        assert now == ([path.boxes[step - 1]] if step else [])
    rects = list(geometry(whole).nodes.values())
    for one, other in itertools.combinations(rects, 2):
        apart = one.x + one.width < other.x or other.x + other.width < one.x
        assert apart or one.y + one.height < other.y or other.y + other.height < one.y
    assert text(walk_graph(walk))


def test_a_place_depends_on_the_kind_of_walk_only():
    """All walks of one shape have the same boxes in the same places, wherever they end."""
    by_shape: dict[object, object] = {}
    for make in ALL.values():
        walk = make()
        found = dict(geometry(topology(walk_graph(walk))).nodes)
        assert by_shape.setdefault(shape_of(walk), found) == found
    assert len(by_shape) >= 10


@pytest.mark.parametrize("name", ALL)
def test_the_table_has_a_row_for_each_stop_and_each_stop_its_bits(name):
    """And one for the end."""
    walk = ALL[name]()
    assert len(walk_table(walk).rows) == len(walk.stops) + 1
    for at in range(len(walk.stops)):
        assert stop_bits(walk, at).title.startswith(f"Stop {at + 1} of {len(walk.stops)}: ")


def test_each_row_of_a_nested_walk_says_what_it_looks_for():
    """Context descriptors and GCR3 entries, which the second level finds, too; then each table, at last the page."""
    figure = walk_graph(walks_smmuv3.asked(walks_smmuv3.nested()))
    assert figure.node("asked:cd").lines == (f"{walks_smmuv3.CD_AT:#x}", "intermediate (IPA)")
    assert figure.node("asked:l1cd").lines[0] == f"{CONTEXTS + 32:#x}"
    assert figure.node("first:1").lines[0] == "stage 1 L3"
    assert figure.node("asked:0").lines[0] == f"{PAGE | IOVA & 0xFFF:#x}"
    figure = walk_graph(walks_amdvi.asked(walks_amdvi.nested("GCR3TRPMode")))
    assert figure.node("asked:gcr3-1").lines == (f"{walks_amdvi._gcr3_at():#x}", "guest-physical")
    assert figure.node("first:4").lines[0] == "guest L4"


def test_what_a_question_may_not_mark_has_its_boxes():
    """An AMD IOMMU asks the host table again, entry by entry, whether it may set accessed bits in the guest's table."""
    walk = walks_amdvi.asked(walks_amdvi.nested())
    marks = [box for box, stop in zip(WalkPath(walk).boxes, walk.stops, strict=True) if stop.stage == "mark"]
    assert marks == [box for level in (4, 3, 2, 1) for box in [f"first:{level}"] * 4]


@pytest.mark.parametrize("family", ["smmuv3", "amdvi"])
def test_what_caches_answer_is_told_and_what_is_stale_too(family):
    """After a real request caches answer; when an entry changes behind their back that is said."""
    walks = walks_smmuv3 if family == "smmuv3" else walks_amdvi
    made = walks.bench(caches=True)
    made.unit.translate(made.request())
    walk = made.unit.walk(made.request())
    assert any(stop.in_tlb for stop in walk.stops)
    assert stale_stops(walk) == frozenset()
    entry = "cd" if family == "smmuv3" else "gcr3"
    getattr(made, entry)(V=0)
    walk = made.unit.walk(made.request())
    stale = stale_stops(walk)
    assert walk.stops[-1].in_tlb
    assert len(walk.stops) - 1 in stale
    assert "is not what memory says now" in str(explain(walk, stale))
