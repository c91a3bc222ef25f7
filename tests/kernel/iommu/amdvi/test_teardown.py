"""Taking a PASID away: the order of commands, what memory says meanwhile, and steps that are left out."""

import pytest

from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.pcie import Access, DmaRequest, InvalidateRequest, PageRequest, ResponseCode
from pasidlab.kernel.iommu.amdvi.teardown import STEPS
from pasidlab.timeline import Verb

RID = 0x6A08
WHOLE = 1 << 64


class Sink:
    """Who receives page requests, and answers later."""

    path = "sink"

    def __init__(self):
        self.asked = []

    def page_requested(self, request):
        self.asked.append(request)


@pytest.fixture
def bound(bench):
    """A process bound to the device, with one page that the unit has translated."""
    bench.pasid, bench.space = bench.bind()
    bench.at = bench.space.mmap(PAGE_SIZE)
    bench.request = DmaRequest(RID, bench.at, Access.READ, bench.pasid)
    bench.page = bench.unit.translate(bench.request)
    bench.watch(lambda: bench.driver.read_entry(RID, bench.pasid))
    bench.function.told.clear()
    return bench


def test_the_entry_goes_first_then_the_unit_then_the_device(bound):
    """One store clears the entry; every command finds it gone; a wait stands behind each step."""
    bound.driver.clear_entry(RID, bound.pasid)
    assert bound.names[:2] == ["INVALIDATE_IOMMU_PAGES", "INVALIDATE_IOTLB_PAGES"]
    assert {words for _, words in bound.unit.seen} == {(0,)}
    first = bound.unit.seen[0][0]
    assert (first.pasid, first.field("PDE"), first.range()) == (bound.pasid, 1, (0, WHOLE))
    assert bound.function.told[0] == InvalidateRequest(RID, bound.pasid, 0, WHOLE)


def test_each_step_is_waited_for_before_the_next_begins(bound):
    """The device is told in another batch than the unit (facts 4): the semaphore moves in between."""
    before = bound.driver.queue._done
    at = []
    bound.unit.looks[:] = [lambda: at.append(bound.driver.queue._done)]
    bound.driver.clear_entry(RID, bound.pasid)
    assert at[:2] == [before + 1, before + 2]


def test_page_requests_are_drained_last(bound):
    """Both invalidations come again, with a wait between them, behind everything that the device had asked."""
    bound.driver.clear_entry(RID, bound.pasid)
    ring, last = bound.driver.queue._ring, bound.driver.queue._tail - 16
    drained = [bound.memory.load(ring + at) >> 60 for at in range(last - 48, last + 16, 16)]
    assert drained == [3, 1, 4, 1]
    assert bound.names == ["INVALIDATE_IOMMU_PAGES", "INVALIDATE_IOTLB_PAGES"] * 2


def test_nothing_is_left_in_any_cache(bound):
    """No TLB line, no GCR3 entry, no paging structure; the next request is a fault."""
    bound.driver.clear_entry(RID, bound.pasid)
    for cache in (bound.unit.caches.tlb, bound.unit.caches.gcr3, bound.unit.caches.paging):
        assert not cache.keys()
    assert not isinstance(bound.unit.translate(bound.request), int)


def test_an_entry_that_is_not_there_stays_so(bound):
    """Nothing is sent for it."""
    bound.driver.clear_entry(RID, bound.pasid + 1)
    assert bound.names == []


def test_without_the_iotlb_step_the_page_is_still_reached(bound):
    """What the unit keeps translates for a PASID that is gone."""
    bound.driver.teardown.left_out = frozenset({"iotlb"})
    bound.driver.clear_entry(RID, bound.pasid)
    assert bound.unit.translate(bound.request) == bound.page


def test_without_the_pasid_cache_step_the_old_page_table_is_walked_again(bound):
    """PDE=0: the pages are forgotten, the GCR3 entry is not, so that a new walk starts at the old root."""
    bound.driver.teardown.left_out = frozenset({"pasid-cache"})
    bound.driver.clear_entry(RID, bound.pasid)
    assert bound.names[0] == "INVALIDATE_IOMMU_PAGES"
    assert not [tag for _, tag, _ in bound.unit.caches.tlb.keys() if tag == bound.pasid]
    assert bound.unit.translate(bound.request) == bound.page


def test_without_the_device_tlb_step_the_device_is_not_told(bound):
    """Its own translations stay, and the unit trusts what comes translated."""
    bound.driver.teardown.left_out = frozenset({"device-tlb", "drain"})
    bound.driver.clear_entry(RID, bound.pasid)
    assert bound.function.told == []


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_is_left_out_is_told(bound, step):
    """No driver does that on purpose: an event says it."""
    bound.driver.teardown.left_out = frozenset({step})
    bound.driver.clear_entry(RID, bound.pasid)
    left = [event.subject for event in bound.time.events if event.verb is Verb.LEAVE_OUT]
    assert left == [STEPS[step]]


def test_the_steps_have_the_names_that_they_have_everywhere():
    """Stories leave them out by name, whatever the unit."""
    assert set(STEPS) == {"pasid-cache", "iotlb", "device-tlb", "drain"}


def test_a_request_that_waits_is_answered_before_the_pasid_is_gone(bound):
    """What the sink has not answered ends as invalid."""
    sink = bound.driver.page_requests.sinks[RID, bound.pasid] = Sink()
    bound.unit.page_request(PageRequest(RID, bound.pasid, bound.at, True, False, group=3))
    bound.agenda.run_all()
    assert len(sink.asked) == 1
    bound.driver.clear_entry(RID, bound.pasid)
    answers = [told for told in bound.function.told if not isinstance(told, InvalidateRequest)]
    assert [(answer.group, answer.code) for answer in answers] == [(3, ResponseCode.INVALID)]
    assert not bound.driver.page_requests.pending.keys()
    assert (RID, bound.pasid) not in bound.driver.page_requests.sinks


def test_a_process_that_exits_has_its_late_dma_recorded(bound):
    """No bit of a GCR3 entry keeps faults out of the log: they are there (facts 4: SE and SA are per device)."""
    bound.svm.unbind_mm(RID, bound.pasid, fault_disable=True)
    bound.unit.translate(bound.request)
    bound.faults.service()
    assert len(bound.faults.log.values()) == 1
