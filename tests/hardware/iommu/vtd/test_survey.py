"""The survey finds, from RTADDR, what lies where; and knows which bits must be zero there."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hardware.iommu.contract import Stop, Walk
from pasidlab.hardware.iommu.vtd.identity import Revision
from pasidlab.hardware.iommu.vtd.survey import VtdSurvey, must_be_zero
from pasidlab.hardware.layouts.vtd import FL_ENTRY, PASID_ENTRY, SL_ENTRY
from pasidlab.hardware.pcie import Access
from tests.hardware.iommu.vtd.by_hand import (
    BEYOND,
    CONTEXT,
    DIRECTORY,
    DIRECTORY_AT,
    ENTRY_AT,
    FIRST,
    IOVA,
    PAGE,
    PASID,
    RAM,
    RID,
    ROOT,
    SECOND,
    TABLE,
    Bench,
)

RESERVED = {0x3A, 0x42, 0x52, 0x5A, 0x72, 0x7A}
"""Fault reasons that say: a reserved bit is set."""


def survey(bench: Bench) -> VtdSurvey:
    """A survey of a bench."""
    return VtdSurvey(bench.memory, bench.unit.root_pointer, bench.unit.rules)


def questions(bench: Bench) -> Walk:
    """The walk of the bench's request, from the tables alone."""
    return bench.unit.walk(bench.request(), caches=False)


def nested() -> Bench:
    """A nested translation."""
    bench = Bench()
    bench.nested()
    return bench


@pytest.mark.parametrize("pgtt", [1, 2, 3])
def test_every_structure_that_a_walk_reads_is_found(pgtt: int) -> None:
    """With the same layout, words and level, at the same address; also asked by its last byte."""
    bench = Bench()
    if pgtt == 3:
        bench.nested()
    else:
        bench.entry(PGTT=pgtt)
        bench.first_level() if pgtt == 1 else bench.second_level()
    found = survey(bench)
    for stop in questions(bench).stops:
        for byte in (0, stop.layout.size - 1):
            there = [entry for entry in found.at(stop.address + byte) if entry.use.layout is stop.layout]
            assert [(entry.address, entry.words, entry.use.level) for entry in there] == [
                (stop.address, stop.words, stop.level or 0)
            ]


def test_an_entry_says_whose_it_is() -> None:
    """Requester ID, PASID, domain, and the input addresses that it serves."""
    bench = nested()
    found = survey(bench)
    entry = found.at(ENTRY_AT)[0]
    assert (entry.use.rid, entry.use.pasid, entry.number) == (RID, PASID, PASID & 63)
    leaf = found.at(bench.first_at(1))[0]
    assert (leaf.input, leaf.use.guest, leaf.use.pasid) == (IOVA & ~0xFFF, FIRST + 0x3000, PASID)
    middle = found.at(bench.second_at(2, FIRST))[0]
    assert (middle.use.did, middle.input) == (7, FIRST & ~0x1F_FFFF)


def test_a_page_is_reached_by_both_levels() -> None:
    """The second level maps it; through it, so does the first level of the process."""
    found = survey(nested()).mapped(PAGE | 0x123)
    assert [(known.entry.use.name, known.input) for known in found] == [
        ("second-level entry", 0x30_0123),
        ("first-level entry", IOVA & ~0xFFF | 0x123),
    ]


def test_large_pages_are_reached_too() -> None:
    """A byte in the middle of 2 MiB."""
    bench = Bench()
    bench.entry(PGTT=1)
    bench.first_level(leaf=2)
    found = survey(bench).mapped(PAGE + 0x12345)
    assert [(known.entry.use.level, known.input) for known in found] == [(2, (IOVA & ~0x1F_FFFF) + 0x12345)]


def test_guest_addresses_are_led_through_the_second_level() -> None:
    """As the unit would; where nothing is mapped there is no answer."""
    found = survey(nested())
    assert found.through((SECOND, 4), FIRST + 0x18) == FIRST + 0x18
    assert found.through((SECOND, 4), 0x7000_0000) is None
    assert found.through((BEYOND, 4), 0) is None


@pytest.mark.parametrize("pointer", [0, ROOT, ROOT | 0x800, ROOT | 0xC00, BEYOND | 0x400])
def test_without_a_scalable_root_table_nothing_is_found(pointer: int) -> None:
    """Legacy, reserved and abort mode, and a table that no memory answers for."""
    bench = nested()
    assert VtdSurvey(bench.memory, pointer, bench.unit.rules).frames() == []


def test_tables_that_name_each_other_end() -> None:
    """A memory full of loops: every table is also its own child."""
    bench = nested()
    for at in range(512):
        bench.memory.store(FIRST + at * 8, FIRST | 0x27)
        bench.memory.store(SECOND + at * 8, SECOND | 3)
    found = survey(bench)
    assert len(found.frames()) < 200


def test_one_frame_may_be_several_tables() -> None:
    """A PASID table that is also used as a page table is told as both."""
    bench = Bench()
    bench.entry(PGTT=1, FLPTPTR=TABLE)
    assert {use.name for use in survey(bench).uses(ENTRY_AT)} == {"PASID entry", "first-level entry"}


def test_every_frame_of_a_directory_is_known() -> None:
    """2^14 slots of 8 bytes: 32 frames, each with the number of its first slot."""
    found = survey(nested())
    assert [found.uses(DIRECTORY + at * 4096)[0].first for at in range(32)] == [at * 512 for at in range(32)]
    assert found.uses(CONTEXT)[0].name == "context entry"


def test_looking_changes_nothing() -> None:
    """Not one word, not one event."""
    bench = nested()
    before, events = bench.timeline.digest(), len(bench.timeline.events)
    found = survey(bench)
    [found.entries(use) for at in found.frames() for use in found.uses(at)]
    found.mapped(PAGE)
    assert (bench.timeline.digest(), len(bench.timeline.events)) == (before, events)


def _flip(bench: Bench, stop: Stop, bit: int) -> None:
    at = stop.address + bit // 64 * 8
    bench.memory.store(at, bench.memory.load(at) ^ 1 << bit % 64)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([1, 2, 3]), st.integers(0, 27), st.integers(0, 511), st.sampled_from(Revision))
def test_a_bit_must_be_zero_where_the_unit_refuses_it(pgtt: int, at: int, bit: int, revision: Revision) -> None:
    """One bit of one structure is turned over: the unit faults for a reserved bit exactly if it must be zero.

    Unless an earlier check of the same structure decides (present, permission), or another entry is read instead.
    """
    bench = Bench(revision=revision)
    if pgtt == 3:
        bench.nested()
    else:
        bench.entry(PGTT=pgtt)
        bench.first_level() if pgtt == 1 else bench.second_level()
    stops = questions(bench).stops
    stop = stops[at % len(stops)]
    _flip(bench, stop, bit % (stop.layout.size * 8))
    walk = questions(bench)
    last = walk.stops[-1]
    mine = must_be_zero(last.layout, last.words, bench.unit.rules, last.level or 0, nested=_in_nested(last, pgtt))
    wrong = last.layout.join(last.words) & mine
    if walk.fault is not None and walk.fault.code in RESERVED:
        assert wrong
    elif walk.fault is None:
        for known in walk.stops:
            zero = must_be_zero(
                known.layout, known.words, bench.unit.rules, known.level or 0, nested=_in_nested(known, pgtt)
            )
            if known.layout.size != 16:  # of a root entry only one half is looked at
                assert not known.layout.join(known.words) & zero


def _in_nested(stop: Stop, pgtt: int) -> bool:
    return pgtt == 3 and stop.layout is FL_ENTRY


def test_a_page_size_that_the_unit_has_not_must_not_be_asked_for() -> None:
    """PS at the top level; PS at 1 GiB on a unit without such pages."""
    small = Bench(sllps=0, fl1gp=False).unit.rules
    assert must_be_zero(SL_ENTRY, (1 << 7,), small, 3) & 1 << 7
    assert must_be_zero(FL_ENTRY, (1 << 7 | 1,), small, 3) & 1 << 7
    assert must_be_zero(SL_ENTRY, (3,), small, 4) & 1 << 7


def test_pointers_wider_than_the_machine_must_be_zero() -> None:
    """Of those that the translation uses: SLPTPTR and FLPTPTR at or above the address width."""
    rules = Bench().unit.rules
    words = PASID_ENTRY.encode(P=1, PGTT=3, AW=2)
    assert must_be_zero(PASID_ENTRY, words, rules) & 1 << 63
    assert must_be_zero(PASID_ENTRY, words, rules) & 1 << 191


def test_a_real_request_and_its_survey_agree() -> None:
    """The bytes that a request reaches are the bytes that the survey says it reaches."""
    bench = nested()
    address = bench.ask(Access.READ)
    assert address < RAM
    assert IOVA in {known.input for known in survey(bench).mapped(address)}
    assert survey(bench).at(DIRECTORY_AT)[0].number == (PASID >> 6) & 511
