"""Taking an entry away: the order of descriptors, what the entry looks like meanwhile, and steps that are left out."""

import json
from pathlib import Path

import pytest

from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.hardware.layouts.vtd_queue import QI_IOTLB, QI_PASID_CACHE, QI_PASID_DEV_TLB, QI_PIOTLB
from pasidlab.hardware.pcie import Access, DmaRequest, InvalidateRequest, PageRequest
from pasidlab.kernel.iommu.vtd import entries
from pasidlab.kernel.iommu.vtd.teardown import STEPS
from pasidlab.timeline import Verb

RID = 0x6A08
PASID = 5
WHOLE = 1 << 64
DATA = Path(__file__).parents[3] / "data" / "golden_vectors.json"
GOLDEN = {vector["id"]: vector for vector in json.loads(DATA.read_text())["vectors"]}
TRACES = [name for name, vector in GOLDEN.items() if vector["structure"] == "vtd_teardown_trace"]


def types(bench):
    """The descriptors' types, oldest first."""
    return [words[0] & 0xF for words, *_ in bench.unit.seen]


def build(bench, kind, pasid=PASID):
    """Write an entry of a kind; returns its words."""
    _, domain = bench.vm()
    fields = {
        "first": {"PGTT": 1, "FLPTPTR": 0x5000, "DID": entries.FLPT_DEFAULT_DID},
        "second": {"PGTT": 2, "SLPTPTR": domain.table.root, "DID": domain.did},
        "nested": {"PGTT": 3, "FLPTPTR": 0x5000, "SLPTPTR": domain.table.root, "DID": domain.did},
        "pass-through": {"PGTT": 4, "DID": entries.FLPT_DEFAULT_DID},
    }
    words = PASID_ENTRY.encode(P=1, AW=2, PWSNP=1, **fields[kind])
    bench.driver.set_entry(RID, pasid, words, "test")
    return words


@pytest.mark.parametrize("name", [name for name in TRACES if GOLDEN[name]["inputs"]["TE"]])
def test_the_descriptors_are_the_kernels_with_the_device_tlb_among_them(make_bench, name):
    """Linux 6.1's intel_pasid_tear_down_entry with ATS: types and contents, and the entry at each of them.

    Which function throttles the invalidations (PFSID), and how many are pending (MIP), depends on the machine.
    """
    bench, vector = make_bench(ats=True), GOLDEN[name]
    inputs, trace = vector["inputs"], vector["trace"]
    first, second = (int(trace[0][f"entry_qw{at}"], 0) for at in range(2))
    pointer = 0x5000 if inputs["PGTT"] in (1, 3) else 0
    bench.driver.set_entry(RID, inputs["PASID"], (first | 1, second, pointer, 0, 0, 0, 0, 0), "test")
    bench.watch(inputs["PASID"])
    bench.driver.clear_entry(RID, inputs["PASID"], fault_disable=bool(inputs.get("fault_ignore")))
    seen = bench.unit.seen[: len(trace)]
    assert {entry for _, entry in seen} == {(first, second, pointer, 0, 0, 0, 0, 0)}
    for (words, _), step in zip(seen, trace, strict=True):
        expected = [int(word, 0) for word in step["qw"]]
        if step["type"] == 8:
            machine = {"PFSID_LO": 0, "PFSID_HI": 0, "MIP": 0, "SID": RID}
            assert QI_PASID_DEV_TLB.change(words, **machine) == QI_PASID_DEV_TLB.change(expected, **machine)
        else:
            assert list(words) == expected
    assert bench.entry(inputs["PASID"])[:2] == tuple(int(word, 0) for word in vector["expected"][:2])


@pytest.mark.parametrize(
    ("kind", "flush"),
    [("first", QI_PIOTLB), ("pass-through", QI_PIOTLB), ("second", QI_IOTLB), ("nested", QI_IOTLB)],
)
def test_the_order_is_pasid_cache_iotlb_device_tlb_then_the_drain(make_bench, kind, flush):
    """The unit outwards; what the second level decides is flushed by its domain."""
    bench = make_bench(ats=True)
    words = build(bench, kind)
    bench.watch(PASID)
    bench.driver.clear_entry(RID, PASID)
    kinds = {QI_IOTLB: 2, QI_PIOTLB: 6}
    assert types(bench) == [7, kinds[flush], 8, 6, 8]
    cleared = (words[0] & ~1, *words[1:])
    assert [entry for _, entry in bench.unit.seen] == [cleared] * 3 + [(0,) * 8] * 2
    assert bench.function.told == [InvalidateRequest(RID, PASID, 0, WHOLE)] * 2


def test_every_descriptor_names_domain_and_pasid_of_the_entry(make_bench):
    """Not those of a neighbour."""
    bench = make_bench(ats=True)
    words = build(bench, "nested")
    bench.watch(PASID)
    bench.driver.clear_entry(RID, PASID)
    cache, iotlb, device = (words for words, _ in bench.unit.seen[:3])
    did = entries.did_of(words)
    assert (QI_PASID_CACHE["DID"].get(cache), QI_PASID_CACHE["PASID"].get(cache)) == (did, PASID)
    assert (QI_IOTLB["G"].get(iotlb), QI_IOTLB["DID"].get(iotlb)) == (2, did)
    assert (QI_PASID_DEV_TLB["SID"].get(device), QI_PASID_DEV_TLB["PASID"].get(device)) == (RID, PASID)


def test_the_entry_of_requests_without_pasid_is_flushed_without_pasid(make_bench):
    """PASID 0: device-TLB descriptor type 3."""
    bench = make_bench(ats=True)
    bench.watch(0)
    bench.driver.clear_entry(RID, 0)
    assert types(bench)[:3] == [7, 6, 3]
    assert bench.function.told[0] == InvalidateRequest(RID, None, 0, WHOLE)


def test_an_entry_that_is_not_present_is_left_alone(make_bench):
    """No descriptor, no event, and a silent entry stays silent."""
    bench = make_bench(ats=True)
    build(bench, "first")
    bench.driver.clear_entry(RID, PASID, fault_disable=True)
    bench.watch(PASID)
    begin = bench.time.now
    bench.driver.clear_entry(RID, PASID)
    assert bench.unit.seen == []
    assert bench.time.since(begin) == []
    assert bench.entry(PASID)[0] == PASID_ENTRY["FPD"].mask


@pytest.mark.parametrize(("silent", "word"), [(False, 0), (True, 2)])
def test_what_is_left_of_an_entry_is_fpd_or_nothing(make_bench, silent, word):
    """FPD=1 keeps late DMA out of the fault log."""
    bench = make_bench(ats=True)
    build(bench, "first")
    bench.driver.clear_entry(RID, PASID, fault_disable=silent)
    assert bench.entry(PASID) == (word, 0, 0, 0, 0, 0, 0, 0)
    request = DmaRequest(RID, 0x1000, Access.READ, PASID)
    assert bench.unit.walk(request).fault.suppressed is silent


LEFT = {"pasid-cache": [6, 8, 6, 8], "iotlb": [7, 8, 8], "device-tlb": [7, 6, 6], "drain": [7, 6, 8]}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_is_left_out_is_not_sent_and_said(make_bench, step):
    """The others are; an event names what is missing, every time."""
    bench = make_bench(ats=True)
    build(bench, "first")
    bench.driver.teardown.left_out = frozenset({step})
    bench.watch(PASID)
    begin = bench.time.now
    bench.driver.clear_entry(RID, PASID)
    assert types(bench) == LEFT[step]
    left_out = [event.subject for event in bench.time.since(begin) if event.verb is Verb.LEAVE_OUT]
    assert left_out == [STEPS[step]]


def test_with_every_step_left_out_only_memory_changes(make_bench):
    """P is cleared, the entry zeroed, nobody is told."""
    bench = make_bench(ats=True)
    build(bench, "first")
    bench.driver.teardown.left_out = frozenset(STEPS)
    bench.watch(PASID)
    bench.driver.clear_entry(RID, PASID)
    assert bench.unit.seen == []
    assert bench.entry(PASID) == (0,) * 8


def test_the_drain_repeats_the_flushes_of_the_pasid(make_bench):
    """Between fence and waiting wait: IOTLB and device TLB once more, so that nothing in flight refills them."""
    bench = make_bench(ats=True)
    build(bench, "first")
    bench.watch(PASID)
    bench.driver.clear_entry(RID, PASID)
    assert types(bench)[3:] == [6, 8]


def test_a_device_without_page_requests_needs_no_drain(bench):
    """Two descriptors for a first-level entry."""
    build(bench, "first")
    bench.watch(PASID)
    bench.driver.clear_entry(RID, PASID)
    assert types(bench) == [7, 6]


def test_page_requests_that_wait_in_the_queue_are_answered_by_the_teardown(make_bench):
    """The entry is gone when it returns, and so is every request for it."""
    bench = make_bench(ats=True)
    build(bench, "first")
    bench.unit.page_request(PageRequest(RID, PASID, 0x1000, True, False, group=3))
    bench.function.told.clear()
    bench.driver.clear_entry(RID, PASID)
    answers = [(told.group, told.code) for told in bench.function.told if not isinstance(told, InvalidateRequest)]
    assert answers == [(3, 1)]
    assert bench.unit.page_queue.requests() == []
