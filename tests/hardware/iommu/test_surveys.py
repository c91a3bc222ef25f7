"""What lies where, on the units whose guests own their tables: found by a survey as the unit's own walks find it."""

from __future__ import annotations

import random

import pytest

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.amdvi.rules import AmdRules
from pasidlab.hardware.iommu.amdvi.survey import must_be_zero
from pasidlab.hardware.layouts.amd import DTE, GCR3_ENTRY, V1_PTE, V2_PTE
from tests.hardware.iommu.amdvi import by_hand as amdvi
from tests.hardware.iommu.smmuv3 import by_hand as smmuv3

BENCHES = {"smmuv3": smmuv3, "amdvi": amdvi}


def nested(family):
    """A nested translation; of AMD's with GCR3 tables at guest-physical addresses, too."""
    made = BENCHES[family].Bench()
    made.nested()
    if family == "amdvi":
        made.control(*amdvi.ON, "GCR3TRPMode")
        made.host_maps(amdvi.GCR3, amdvi.GCR3 + 0x1000)
    return made


@pytest.mark.parametrize("family", BENCHES)
def test_every_structure_that_a_walk_reads_is_found(family):
    """With the same layout, words and level, at the same address; also asked by its last byte."""
    made = nested(family)
    found = made.unit.reading.survey()
    walk = made.unit.walk(made.request(), caches=False)
    assert walk.address is not None
    for stop in walk.stops:
        for byte in (0, stop.layout.size - 1):
            there = [one for one in found.at(stop.address + byte) if one.use.layout is stop.layout]
            assert (stop.address, stop.words) in [(one.address, one.words) for one in there]
            assert stop.level is None or stop.level in [one.use.level for one in there]


@pytest.mark.parametrize("family", BENCHES)
def test_a_page_is_reached_by_both_levels(family):
    """The second level maps it; through it, so does the process."""
    made = nested(family)
    walk = made.unit.walk(made.request(), caches=False)
    found = made.unit.reading.survey().mapped(walk.address)
    stages = {known.entry.use.stage: known.input for known in found}
    assert stages["first"] == BENCHES[family].IOVA
    assert stages.keys() == {"first", "second"}


@pytest.mark.parametrize("family", BENCHES)
def test_pointers_of_nested_entries_lead_through_the_second_level(family):
    """From entry to entry of the walk, as far as fields hold addresses."""
    made = nested(family)
    found = made.unit.reading.survey()
    fields = {"smmuv3": ("S1ContextPtr", "L2Ptr", "TTB0"), "amdvi": ("GCR3_A", "CR3")}[family]
    walk = made.unit.walk(made.request(), caches=False)
    followed = 0
    for stop in walk.stops:
        use = next(one.use for one in found.at(stop.address) if one.use.layout is stop.layout)
        for name in fields if stop.stage == "lookup" else ():
            target = found.leads_to(use, stop.words, name) if name in stop.fields() else None
            if target is not None and target[1] is not None:
                followed += found.through(target[1], target[0]) is not None
    assert followed >= 2


@pytest.mark.parametrize("family", BENCHES)
def test_looking_changes_nothing(family):
    """No word, no event."""
    made = nested(family)
    before = made.timeline.digest()
    found = made.unit.reading.survey()
    for frame in found.frames():
        for use in found.uses(frame):
            found.entries(use)
    assert made.timeline.digest() == before


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("family", BENCHES)
def test_a_memory_full_of_garbage_is_surveyed_and_its_walks_have_places(family, seed):
    """Tables that name each other, nonsense, nothing: no error, and every stop has a box."""
    dice, made = random.Random(seed), nested(family)
    tables = made.unit.reading.survey().frames()
    for _ in range(400):
        at = dice.choice(tables) + 8 * dice.randrange(512)
        word = dice.choice((dice.getrandbits(64), dice.choice(tables) | dice.getrandbits(12), 0))
        made.memory.store(at, word)
    found = made.unit.reading.survey()
    assert len(found.frames()) < 3000
    for address in (0x1000, BENCHES[family].IOVA, 1 << 47):
        for pasid in (None, 0, 1, BENCHES[family].PASID):
            walk = made.unit.walk(made.request(address=address, pasid=pasid), caches=False)
            way = made.unit.reading.way(walk)
            boxes = [box for row in way.shape.rows for box in row]
            assert len(way.boxes) == len(walk.stops)
            assert set(way.boxes) <= set(boxes)
            assert way.end in boxes


@pytest.mark.parametrize("layout", [DTE, GCR3_ENTRY, V1_PTE, V2_PTE], ids=lambda layout: layout.name)
def test_a_bit_must_be_zero_where_an_amd_iommu_refuses_it(layout: Layout):
    """Bit by bit: set one more in an entry of a sound walk, and the unit refuses it for that, or it does not matter."""
    made = amdvi.Bench()
    made.nested()
    stops = made.unit.walk(made.request(), caches=False).stops
    stop = next(one for one in stops if one.layout is layout and (one.level or 1) == 1)
    zero = must_be_zero(layout, stop.words, AmdRules(made.unit.identity), stop.level or 0, nested=True)
    whole = layout.join(stop.words)
    for bit in range(64 * layout.word_count):
        if whole >> bit & 1:
            continue
        made.memory.store_words(stop.address, layout.split(whole | 1 << bit))
        fault = made.unit.walk(made.request(), caches=False).fault
        refused = fault is not None and fault.reason.endswith("_RESERVED")
        assert refused == bool(zero >> bit & 1), bit
