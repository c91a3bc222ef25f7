"""The unit as a whole: untranslated while off, fault records and their overflow, events."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.vtd.registers import GCMD, GCMD_QIE, GCMD_TE, IQA, IQT
from pasidlab.hardware.layouts.vtd_queue import FRCD, QI_CONTEXT_CACHE, QI_PASID_CACHE, QI_WAIT
from pasidlab.hardware.pcie import Access
from pasidlab.timeline import Verb
from tests.hardware.iommu.vtd.by_hand import IOVA, PAGE, PASID, RID, Bench


@pytest.fixture
def bench():
    """A unit whose PASID entry is absent."""
    return Bench(nfr=2)


def test_a_unit_that_is_off_translates_nothing(bench):
    """TE=0: addresses pass as they are, and there is nothing to explain."""
    bench.unit.mmio_write(GCMD, 0, 4)
    assert bench.ask() == IOVA
    assert bench.unit.walk(bench.request()).stops == ()
    bench.unit.mmio_write(GCMD, GCMD_TE, 4)
    assert bench.ask() == 0x59


def test_a_fault_record_tells_who_what_where_why(bench):
    """Requester, PASID if the request carried one, page, reason, direction."""
    bench.ask(Access.WRITE)
    bench.ask(Access.READ, pasid=None)
    written, read = (FRCD.decode(words) for words in bench.unit.faults.records())
    common = {"FI": IOVA & ~0xFFF, "SID": RID, "FR": 0x59, "F": 1, "T2": 0, "PRIV": 0, "EXE": 0, "AT": 0}
    assert written == common | {"PP": 1, "PV": PASID, "T1": 0}
    assert read == common | {"PP": 0, "PV": 0, "T1": 1}


def test_faults_are_events(bench):
    """Recorded, lost or suppressed, each tells requester, PASID, code, address and access."""
    for _ in range(3):
        bench.ask()
    bench.context(FPD=1)
    bench.ask(Access.WRITE)
    events = [event for event in bench.timeline.events if event.verb is Verb.FAULT]
    fates = [event.fact("fate") for event in events]
    assert fates == ["recorded", "recorded", "lost: no free record", "suppressed by FPD"]
    facts = {"rid": RID, "pasid": PASID, "code": 0x59, "address": IOVA, "access": "write"}
    assert {name: events[-1].fact(name) for name in facts} == facts


def test_each_invalidation_descriptor_is_an_event(bench):
    """In words, with the numbers as facts; a wait descriptor is none."""
    descriptors = (
        QI_PASID_CACHE.encode(TYPE=7, G=1, DID=3, PASID=5),
        QI_CONTEXT_CACHE.encode(TYPE=1, G=3, DID=3, SID=RID),
        QI_WAIT.encode(TYPE=5, SW=1, STADDR=0x3000, STDATA=1),
    )
    for index, words in enumerate(descriptors):
        bench.memory.store_words(0x8000 + 16 * index, words)
    bench.unit.mmio_write(IQA, 0x8000)
    bench.unit.mmio_write(GCMD, GCMD_QIE | GCMD_TE, 4)
    bench.unit.mmio_write(IQT, 48)
    events = [event for event in bench.timeline.events if event.verb is Verb.INVALIDATE]
    assert [event.subject for event in events] == [
        "PASID cache: one PASID, DID=0x3 PASID=0x5",
        "context cache: a device, DID=0x3 SID=6a:01.0",
    ]
    assert (events[0].fact("pasid"), events[0].fact("did"), events[1].fact("rid")) == (5, 3, RID)


def test_there_are_no_caches_to_be_stale():
    """A changed table serves the very next request, without any invalidation."""
    bench = Bench()
    bench.entry(PGTT=1)
    bench.first_level()
    assert bench.ask() == PAGE | 0x890
    bench.first_level(page=PAGE + 0x1000)
    assert bench.ask() == PAGE | 0x1890
