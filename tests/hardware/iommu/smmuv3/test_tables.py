"""From StreamID and SubstreamID to the context descriptor: each step, its event, and the table of S1DSS."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.smmuv3.register_file import CR0, CR2, GBPA
from pasidlab.hardware.layouts.smmu import CD_TABLE_DESC, STREAM_TABLE_DESC
from tests.hardware.iommu.smmuv3.by_hand import (
    BEYOND,
    CONTEXTS,
    IOVA,
    LEAF,
    ON,
    PAGE,
    PASID,
    RID,
    STREAMS,
    STREAMS_2,
    Bench,
)

THERE = PAGE | IOVA & 0xFFF


@pytest.fixture
def bench():
    """Stage 1, with a page."""
    found = Bench()
    found.cd()
    found.first()
    return found


# --- the unit itself --------------------------------------------------------------------------------------------------


def test_while_switched_off_addresses_pass_or_are_blocked(bench):
    """GBPA.ABORT decides, and takes effect only with UPDATE."""
    bench.unit.mmio_write(CR0, ON & ~1, 4)
    assert bench.ask() == IOVA
    bench.unit.mmio_write(GBPA, 1 << 20, 4)
    assert bench.ask() == IOVA
    bench.unit.mmio_write(GBPA, 1 << 20 | 1 << 31, 4)
    assert bench.ask() == "ABORT"
    assert bench.unit.mmio_read(GBPA, 4) == 1 << 20
    assert bench.events() == []


def test_while_switched_off_an_address_that_is_too_wide_is_blocked():
    """Nothing is recorded."""
    bench = Bench(on=0)
    assert bench.ask(address=1 << 48) == "ABORT"


# --- stream table -----------------------------------------------------------------------------------------------------


def test_a_two_level_stream_table_leads_to_the_entry(bench):
    """The first level by the upper bits, the entry by the lower ones."""
    stops = bench.unit.walk(bench.request()).stops
    assert [stop.name for stop in stops[:4]] == [
        "stream table descriptor",
        "stream table entry",
        "context descriptor table entry",
        "context descriptor",
    ]
    assert (stops[0].address, stops[1].address) == (STREAMS + (RID >> 8) * 8, STREAMS_2 + (RID & 0xFF) * 64)
    assert bench.ask() == THERE


@pytest.mark.parametrize("split", [6, 8, 10])
def test_the_split_says_which_bits_choose_the_first_level(split):
    """The same entry by three splits."""
    bench = Bench()
    bench.cd()
    bench.first()
    bench.again(base=0x2000, SPLIT=split)
    second = STREAMS_2 - ((RID & (1 << split) - 1) - (RID & 0xFF)) * 64
    base = 0x30_0000 if second % (64 << split) else second
    bench.memory.store(0x2000 + (RID >> split) * 8, STREAM_TABLE_DESC.encode(span=split + 1, L2Ptr=base)[0])
    words = bench.memory.load_words(STREAMS_2 + (RID & 0xFF) * 64, 8)
    bench.memory.store_words(base + (RID & (1 << split) - 1) * 64, words)
    assert bench.ask() == THERE


def test_a_linear_stream_table_leads_to_the_entry(bench):
    """Without a first level; its base is aligned to its size."""
    words = bench.memory.load_words(STREAMS_2 + (RID & 0xFF) * 64, 8)
    bench.again(base=0x40_0000, FMT=0)
    bench.memory.store_words(0x40_0000 + RID * 64, words)
    bench.first(page=0x7_0000)
    assert bench.ask() == 0x7_0000 | IOVA & 0xFFF


@pytest.mark.parametrize(
    ("span", "rid", "event"),
    [
        (0, RID, "C_BAD_STREAMID"),
        (4, RID, "C_BAD_STREAMID"),
        (10, RID, "C_BAD_STREAMID"),
        (31, RID, "C_BAD_STREAMID"),
        (9, RID, THERE),
    ],
)
def test_the_span_says_how_many_entries_there_are(bench, span, rid, event):
    """None, fewer than the StreamID needs, more than the split allows, all."""
    bench.memory.store(STREAMS + (RID >> 8) * 8, STREAM_TABLE_DESC.encode(span=span, L2Ptr=STREAMS_2)[0])
    assert bench.ask(rid=rid) == event


def test_a_stream_beyond_the_table_is_bad(bench):
    """LOG2SIZE counts bits; the event is recorded only with RECINVSID."""
    bench.again(LOG2SIZE=14)
    assert bench.ask() == "C_BAD_STREAMID"
    assert [words[0] for words in bench.take_events()] == [0x02 | PASID << 12 | 1 << 11 | RID << 32]
    bench.unit.mmio_write(CR2, 0, 4)
    assert bench.unit.translate(bench.request()).suppressed
    assert bench.events() == []


@pytest.mark.parametrize("where", ["first level", "entry"])
def test_a_stream_table_that_cannot_be_read_is_told_with_its_address(bench, where):
    """F_STE_FETCH with FetchAddr."""
    if where == "entry":
        bench.memory.store(STREAMS + (RID >> 8) * 8, STREAM_TABLE_DESC.encode(span=9, L2Ptr=BEYOND)[0])
        at = BEYOND + (RID & 0xFF) * 64
    else:
        bench.again(base=BEYOND)
        at = BEYOND + (RID >> 8) * 8
    assert bench.ask() == "F_STE_FETCH"
    assert bench.events()[0][3] == at


@pytest.mark.parametrize(
    ("values", "identity"),
    [
        ({"V": 0}, {}),
        ({"Config": 5}, {"s1p": False, "ssidsize": 0}),
        ({"Config": 6, "S2AA64": 1, "S2T0SZ": 16, "S2SL0": 2}, {"s2p": False}),
        ({"S1CDMax": 20}, {"ssidsize": 16}),
        ({"S1Fmt": 1}, {"cd2l": False}),
        ({"S1ContextPtr": 1 << 50}, {}),
        ({"S1STALLD": 1}, {"stall_model": 1}),
        ({"EATS": 2}, {}),
        ({"Config": 6, "S2T0SZ": 16, "S2SL0": 2}, {}),
        ({"Config": 6, "S2AA64": 1, "S2T0SZ": 16, "S2SL0": 2, "S2ENDI": 1}, {}),
        ({"Config": 6, "S2AA64": 1, "S2T0SZ": 16, "S2SL0": 3}, {}),
        ({"Config": 6, "S2AA64": 1, "S2T0SZ": 15, "S2SL0": 2, "S2PS": 5}, {}),
        ({"Config": 6, "S2AA64": 1, "S2T0SZ": 40, "S2SL0": 0, "S2PS": 5}, {}),
        ({"Config": 6, "S2AA64": 1, "S2T0SZ": 16, "S2SL0": 1, "S2PS": 5}, {}),
        ({"Config": 6, "S2AA64": 1, "S2T0SZ": 30, "S2SL0": 2, "S2PS": 5}, {}),
        ({"Config": 6, "S2AA64": 1, "S2T0SZ": 16, "S2SL0": 2, "S2TG": 3, "S2PS": 5}, {}),
        ({"Config": 6, "S2AA64": 1, "S2T0SZ": 16, "S2SL0": 2, "S2TTB": 1 << 40, "S2PS": 0}, {}),
        ({"Config": 6, "S2AA64": 1, "S2T0SZ": 16, "S2SL0": 2, "S2PS": 5, "S2VMID": 0x100}, {"vmid16": False}),
    ],
)
def test_a_stream_table_entry_that_contradicts_itself_or_the_unit_is_bad(values, identity):
    """C_BAD_STE, with nothing but the stream in its record."""
    bench = Bench(**identity)
    bench.ste(**values)
    assert bench.ask(pasid=None) == "C_BAD_STE"
    assert bench.events() == [(0x04 | RID << 32, 0, 0, 0)]


@pytest.mark.parametrize("config", [0, 1, 2, 3])
def test_a_stream_that_is_told_to_abort_is_blocked_silently(bench, config):
    """Config 0 to 3, whatever else the entry says."""
    bench.ste(Config=config, S1CDMax=31)
    assert bench.ask() == "ABORT"
    assert bench.events() == []


def test_a_bypassed_stream_keeps_its_addresses(bench):
    """Config 4; only what is too wide is refused, as a fault of stage 1."""
    bench.ste(Config=4)
    assert bench.ask(pasid=None) == IOVA
    assert bench.ask(pasid=None, address=1 << 48) == "F_ADDR_SIZE"


# --- which context descriptor -----------------------------------------------------------------------------------------

BAD, OFF = "C_BAD_SUBSTREAMID", "F_STREAM_DISABLED"


@pytest.mark.parametrize(
    ("pasid", "answers"),
    [
        (None, ("CD 0", OFF, "bypass", "CD 0")),
        (0, (BAD, "CD 0", "CD 0", OFF)),
        (3, (BAD, "CD 3", "CD 3", "CD 3")),
        (16, (BAD, BAD, BAD, BAD)),
    ],
)
@pytest.mark.parametrize("case", range(4))
def test_the_table_of_s1dss(pasid, answers, case):
    """S1CDMax=0, and S1CDMax=4 with S1DSS 0, 1, 2: without SubstreamID, with 0, with one in range, with one beyond."""
    bench = Bench()
    bench.ste(S1Fmt=0, S1CDMax=0 if case == 0 else 4, S1DSS=max(0, case - 1))
    for number in (0, 3):
        root = 0x6_0000 + number * 0x4000
        bench.memory.store_words(CONTEXTS + number * 64, bench.cd_words(ASID=number, TTB0=root))
        bench.first(base=root, page=PAGE + number * 0x1000)
    expected = {"CD 0": THERE, "CD 3": THERE + 0x3000, "bypass": IOVA}.get(answers[case], answers[case])
    assert bench.ask(pasid=pasid) == expected


@pytest.mark.parametrize("values", [{"Config": 4}, {"Config": 6, "S2AA64": 1, "S2T0SZ": 16, "S2SL0": 2, "S2PS": 5}])
def test_a_substream_without_stage_1_is_bad(bench, values):
    """Config 4 and 6; the record keeps the SubstreamID without SSV."""
    bench.ste(**values)
    assert bench.ask() == BAD
    assert bench.events()[0][0] == 0x08 | PASID << 12 | RID << 32


def test_a_unit_without_substreams_takes_none():
    """SSIDSIZE=0: S1CDMax is ignored, and any SubstreamID is bad."""
    bench = Bench(ssidsize=0)
    bench.ste(S1CDMax=20)
    bench.memory.store_words(CONTEXTS, bench.cd_words())
    bench.first()
    assert bench.ask(pasid=None) == THERE
    assert bench.ask(pasid=0) == BAD


def test_leaves_of_4_kib_have_64_descriptors():
    """S1Fmt 1: bits 19:6 and 5:0."""
    bench = Bench()
    bench.ste(S1Fmt=1, S1ContextPtr=0x40_0000)
    bench.memory.store(0x40_0000 + (PASID >> 6) * 8, CD_TABLE_DESC.encode(V=1, L2Ptr=0x3000)[0])
    bench.memory.store_words(0x3000 + (PASID & 63) * 64, bench.cd_words())
    bench.first(page=0x20_0000)
    assert bench.ask() == 0x20_0000 | IOVA & 0xFFF


@pytest.mark.parametrize("word", [0, CD_TABLE_DESC.encode(V=1, L2Ptr=1 << 48)[0]])
def test_a_leaf_that_is_not_there_makes_the_substream_bad(bench, word):
    """L1CD.V=0, or a pointer beyond what the unit can address."""
    bench.memory.store(CONTEXTS + (PASID >> 10) * 8, word)
    assert bench.ask() == BAD


@pytest.mark.parametrize("where", ["table", "leaf"])
def test_context_descriptors_that_cannot_be_read_are_told_with_their_address(bench, where):
    """F_CD_FETCH with FetchAddr."""
    if where == "table":
        bench.ste(S1ContextPtr=BEYOND)
        at = BEYOND + (PASID >> 10) * 8
    else:
        bench.memory.store(CONTEXTS + (PASID >> 10) * 8, CD_TABLE_DESC.encode(V=1, L2Ptr=BEYOND)[0])
        at = BEYOND + (PASID & 0x3FF) * 64
    assert bench.ask() == "F_CD_FETCH"
    assert bench.events()[0][3] == at


@pytest.mark.parametrize(
    ("values", "identity", "ste"),
    [
        ({"V": 0}, {}, {}),
        ({"AA64": 0}, {}, {}),
        ({"ENDI": 1}, {}, {}),
        ({"T0SZ": 15}, {}, {}),
        ({"T0SZ": 40}, {}, {}),
        ({"TG0": 3}, {}, {}),
        ({"TG0": 1}, {"gran64k": False}, {}),
        ({"EPD1": 0, "TG1": 0, "T1SZ": 16}, {}, {}),
        ({"EPD1": 0, "TG1": 2, "T1SZ": 0}, {}, {}),
        ({"IPS": 0, "TTB0": 1 << 33}, {}, {}),
        ({"S": 1}, {}, {"S1STALLD": 1}),
        ({"S": 1}, {"stall_model": 1}, {}),
        ({"S": 0}, {"stall_model": 2}, {}),
        ({"ASID": 0x100}, {"asid16": False}, {}),
    ],
)
def test_a_context_descriptor_that_contradicts_itself_or_the_unit_is_bad(values, identity, ste):
    """C_BAD_CD, with stream and substream in its record."""
    bench = Bench(**identity)
    bench.ste(**ste)
    bench.cd(**values)
    assert bench.ask() == "C_BAD_CD"
    assert bench.events() == [(0x0A | 1 << 11 | PASID << 12 | RID << 32, 0, 0, 0)]


@pytest.mark.parametrize("values", [{"T0SZ": 63, "TG0": 3, "EPD0": 1}, {"T1SZ": 63, "TG1": 0}])
def test_settings_of_a_half_that_is_off_do_not_matter(bench, values):
    """EPD: nothing else is looked at, and addresses of that half fault."""
    bench.cd(**values)
    assert bench.ask() == ("F_TRANSLATION" if "EPD0" in values else THERE)


def test_a_misaligned_leaf_is_taken_as_aligned(bench):
    """L2Ptr bits 15:12 of a 64 KiB leaf count as zero."""
    bench.memory.store(CONTEXTS + (PASID >> 10) * 8, CD_TABLE_DESC.encode(V=1, L2Ptr=LEAF + 0x3000)[0])
    assert bench.ask() == THERE
