"""The SMMU's look-up and walk against the naive twin: random changes to tables that work, random requests."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.iommu.smmuv3.unit import SmmuUnit
from pasidlab.hardware.layouts.smmu import CD, S1_ENTRY, S2_ENTRY, STE
from pasidlab.hardware.pcie import Access
from tests.hardware.iommu.smmuv3.by_hand import (
    BEYOND,
    CONTEXTS,
    FIRST,
    IOVA,
    LEAF,
    PAGE,
    PASID,
    RAM,
    RID,
    SECOND,
    STREAMS,
    STREAMS_2,
    Bench,
)
from tests.twins.naive_smmuv3 import Request, Twin, Unit

NEEDS = {Access.READ: 1, Access.WRITE: 2, Access.EXECUTE: 4, Access.ATOMIC: 3}
STE_AT, CD_AT = STREAMS_2 + (RID & 0xFF) * 64, LEAF + (PASID & 0x3FF) * 64
POINTERS = (0, FIRST, PAGE, CONTEXTS, LEAF, BEYOND, 1 << 33, 1 << 47, 0xFFFF_FFFF_F000)
INTERESTING = (0, 1, 2, 3, 4, 5, 6, 7, 16, 20, 24, 25, 31, 39)
CARDS = st.sampled_from(
    [
        *[SmmuIdentity()] * 5,
        SmmuIdentity(oas=52),
        SmmuIdentity(oas=40, asid16=False, vmid16=False),
        SmmuIdentity(s2p=False, stall_model=1),
        SmmuIdentity(stall_model=2, cd2l=False),
        SmmuIdentity(ssidsize=0),
        SmmuIdentity(s1p=False, ssidsize=0),
        SmmuIdentity(ssidsize=16, gran4k=False),
        SmmuIdentity(gran16k=False, gran64k=False, ats=False, pri=False),
    ]
)


def twin_of(unit: SmmuUnit) -> Twin:
    """The twin of a unit: the same memory, and a copy of its facts."""
    card, streams = unit.identity, unit.stream_table
    granules = {size for size, has in ((12, card.gran4k), (14, card.gran16k), (16, card.gran64k)) if has}
    facts = Unit(
        *(card.s1p, card.s2p, card.ssidsize, card.cd2l, card.stall_model, card.ats, card.asid16, card.vmid16),
        granules=granules,
        oas=card.oas,
    )
    return Twin(unit.memory.load, RAM, facts, streams.base, streams.bits, streams.split)


@st.composite
def changes(draw, layout):
    """New values of a few fields: what is interesting, or anything."""
    found = {}
    for name in draw(st.lists(st.sampled_from([field.name for field in layout]), max_size=3)):
        field = layout[name]
        most = (1 << field.width) - 1
        if field.shift:
            value = draw(st.sampled_from(POINTERS)) >> field.shift << field.shift & most << field.shift
        else:
            value = draw(st.sampled_from(INTERESTING) | st.integers(0, most)) & most
        found[name] = value
    return found


def spoil(bench, at, layout, values):
    """Change fields of a structure that is there."""
    words = bench.memory.load_words(at, layout.word_count)
    bench.memory.store_words(at, layout.change(words, **values))


def leaves(bench):
    """Where page-table entries of both stages lie, as a walk of the whole reads them."""
    stops = bench.unit.walk(bench.request(), caches=False).stops
    return sorted({(stop.address, stop.stage == "first") for stop in stops if stop.stage in ("first", "second")})


def said(bench, request):
    """What the unit's walk ends in, in the twin's words."""
    found = bench.unit._resolve(request, bench.unit._way(keep=False))
    if isinstance(found, int):
        return "address", found
    event = int(found.event) if found.event is not None else 0
    if found.event is not None and (found.event.by_walk or event == 0x0B):
        return event, 2 if found.s2 else 1, int(found.klass), found.ipa or found.fetch
    return event, 0, 0, found.fetch


@settings(max_examples=250)
@given(data=st.data())
def test_unit_and_twin_agree_on_random_tables(data):
    """Any configuration, any fields spoilt anywhere on the way, any request: the same address, or the same event."""
    card = data.draw(CARDS, "unit")
    bench = Bench(**{name: getattr(card, name) for name in SmmuIdentity.__dataclass_fields__})
    bench.nested()
    spots = leaves(bench) or [(FIRST, True)]
    config = data.draw(st.sampled_from([7, 5, 7, 5, 7, 6, 4]), "configuration")
    bench.stage_2(config, **data.draw(st.sampled_from([{}, {"S1DSS": 0}, {"S1DSS": 1}, {"S2PTW": 1}])))
    what = data.draw(st.sampled_from(["tables", "tables", "STE", "CD", "all"]), "what is spoilt")
    if what in ("STE", "all"):
        spoil(bench, STE_AT, STE, data.draw(changes(STE), "stream table entry"))
    if what in ("CD", "all"):
        spoil(bench, CD_AT, CD, data.draw(changes(CD), "context descriptor"))
    for at, first in data.draw(st.lists(st.sampled_from(spots), max_size=2), "entries"):
        layout = S1_ENTRY if first else S2_ENTRY
        spoil(bench, at, layout, data.draw(changes(layout)))
    if data.draw(st.integers(0, 19)) == 13:
        bench.memory.store(STREAMS + (RID >> 8) * 8, data.draw(st.integers(0, (1 << 64) - 1)))
    twin = twin_of(bench.unit)
    pasids = st.sampled_from([PASID, PASID, PASID, None, 0, 1 << 19] if config & 1 else [None, None, None, PASID])
    addresses = st.sampled_from([IOVA, IOVA, PAGE, IOVA | 1 << 60, IOVA | 1 << 55, 1 << 47, 1 << 52, (1 << 64) - 1])
    for _ in range(3):
        asked = bench.request(
            data.draw(st.sampled_from(list(Access))), data.draw(addresses), data.draw(pasids), data.draw(st.booleans())
        )
        meant = Request(asked.rid, asked.pasid, asked.address, NEEDS[asked.access], asked.privileged)
        assert said(bench, asked) == twin.answer(meant)


@settings(max_examples=150)
@given(data=st.data())
def test_unit_and_twin_agree_on_other_shapes_of_page_tables(data):
    """Granules, sizes, start levels: one leaf reached by tables that are full of the way to it."""
    bench = Bench(oas=data.draw(st.sampled_from([48, 52, 44])))
    granule = data.draw(st.sampled_from([0, 1, 2]))
    size = data.draw(st.integers(16, 39))
    stage2 = data.draw(st.booleans())
    entry = data.draw(st.sampled_from([0x4C3, 0x4C1, 0x443, 0xC43])) | 15 << 2
    if stage2:
        start = data.draw(st.integers(0, 2))
        bench.stage_2(6, S2TG=granule, S2T0SZ=size, S2SL0=start, S2TTB=0x20_0000, S2PS=data.draw(st.integers(4, 7)))
    else:
        bench.cd(TG0=granule, T0SZ=size, TTB0=0x20_0000, IPS=data.draw(st.integers(4, 7)))
    for at in range(0x20_0000, 0x28_0000, 0x1_0000):
        below = at + 0x1_0000 | 3 if data.draw(st.integers(0, 3)) else entry | 0x40_0000
        for place in range(at, at + 0x1_0000, 8):
            if place & 0x38 == 0:
                bench.memory.store(place, below)
    twin = twin_of(bench.unit)
    address = data.draw(st.integers(0, (1 << 64 - size) - 1) | st.integers(0, (1 << 50) - 1)) & ~0x7FFF
    for given_address in (address, address & 0x0000_FE00_3FE0_0000):
        asked = bench.request(address=given_address, pasid=None if stage2 else PASID)
        meant = Request(asked.rid, asked.pasid, asked.address, 1, False)
        assert said(bench, asked) == twin.answer(meant)


@settings(max_examples=40)
@given(data=st.data())
def test_garbage_is_answered(data):
    """Tables full of garbage, also with loops: a verdict, the same as the twin's, and no exception."""
    bench = Bench()
    config = data.draw(st.sampled_from([5, 6, 7]))
    bench.cd()
    bench.stage_2(config)
    garbage = data.draw(st.lists(st.integers(0, (1 << 64) - 1), min_size=7, max_size=7))
    tables = data.draw(st.lists(st.sampled_from([FIRST, SECOND, CONTEXTS, LEAF, STREAMS_2]), min_size=1, max_size=5))
    for table in tables:
        for index in range(512):
            word = garbage[index % 7]
            bench.memory.store(table + 8 * index, word if index % 5 == 0 else word & 0x17_F000 | 0x4C3)
    twin = twin_of(bench.unit)
    for rid in (RID, RID ^ 1):
        for pasid in (None, PASID):
            asked = bench.request(pasid=pasid, rid=rid)
            assert said(bench, asked) == twin.answer(Request(rid, pasid, IOVA, 1, False))
            assert bench.ask(pasid=pasid, rid=rid)
            bench.unit.entries(rid)
