"""Every fault is explained in words: what was looked for, what was found, what a driver would have to do."""

from __future__ import annotations

import pytest

from pasidlab import Machine
from pasidlab.hardware.iommu.vtd.faults import FaultReason
from pasidlab.views.explain import bit_names, explain
from pasidlab.views.fault_words_vtd import FAULTS as WORDS
from tests.views.walks import FAULTS, NOT_RAISED, asked, nested, with_context
from tests.views.worlds import bound_vms


def test_no_reason_is_missing() -> None:
    """Each reason of the unit has its three sentences, and each that can be brought about has a walk below."""
    assert WORDS.keys() == set(FaultReason)
    assert FAULTS.keys() | NOT_RAISED == set(FaultReason)
    assert all(part.endswith((".", ").")) for words in WORDS.values() for part in words)


@pytest.mark.parametrize("reason", FAULTS, ids=str)
def test_a_fault_is_explained_with_all_its_facts(reason: FaultReason) -> None:
    """The walk ends in this reason, and no fact is missing in its sentences."""
    walk = FAULTS[reason]()
    assert walk.fault is not None
    assert walk.fault.code == reason
    said = explain(walk)
    assert said.title.startswith(f"Fault {int(reason):#x} {reason.label}: ")
    assert len(said.sentences) == 4
    assert not [sentence for sentence in said.sentences if "?" in sentence or "{" in sentence]


@pytest.mark.parametrize("reason", [r for r in FAULTS if "reserved bit set" in r.meaning], ids=str)
def test_the_reserved_bits_that_are_set_are_named(reason: FaultReason) -> None:
    """By their numbers in the structure, and they are those that the unit demands to be zero."""
    walk = FAULTS[reason]()
    stop = walk.stops[-1]
    assert walk.unit is not None
    zero = walk.unit.reading.must_be_zero(stop.layout, stop.words, stop.level or 0)
    wrong = stop.layout.join(stop.words) & zero
    assert wrong
    assert explain(walk).sentences[1].startswith(f"{bit_names(wrong)} set in the ")


def test_fault_processing_disable_is_said() -> None:
    """A fault that nobody hears of is told apart from one that is logged."""
    loud, silent = (asked(with_context(P=0, FPD=fpd)) for fpd in (0, 1))
    assert "would be recorded" in explain(loud).sentences[-1]
    assert "blocked without a record" in explain(silent).sentences[-1]


def test_an_address_is_explained_by_what_it_cost() -> None:
    """How it was translated, and how many structures were read: 24 for the page tables, 4 before them."""
    said = explain(asked(nested()))
    assert said.sentences[:2] == ("The translation is nested.", "The unit read 28 structures from memory.")


def test_marking_is_not_counted_as_reading() -> None:
    """Untouched tables: the second level is asked again whether accessed may be set, at each of the four levels."""
    machine = bound_vms(1)
    vm = machine.vm("vm1")
    walk = machine.translate(vm.devices[0].rid, vm.pasids[1], vm.apps[0].buffer(b"x"), caches=False)
    assert explain(walk).sentences[1] == "The unit read 28 structures from memory."
    assert "16 times more" in explain(walk).sentences[2]


def test_a_unit_that_is_off_reads_nothing() -> None:
    """Before the driver has switched it on, addresses go through."""
    machine = Machine()
    machine.unit.mmio_write(0x18, 0, 4)
    assert explain(machine.translate(0x6A08, 5, 0x1000)).sentences == (
        "The unit does not translate (GSTS.TES=0): addresses go through as they are.",
    )
