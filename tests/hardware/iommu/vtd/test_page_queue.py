"""Page requests at the unit: the ring, its overflow, the interrupt, what the unit answers itself, what it forgets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hardware.cpu import INTERRUPT_BASE
from pasidlab.hardware.iommu.vtd.page_queue import OVERFLOW, PENDING, decode_page_request, encode_page_request
from pasidlab.hardware.iommu.vtd.register_file import PECTL, PQA, PQH, PQT, PRS
from pasidlab.hardware.layouts.vtd_queue import FRCD, PAGE_REQUEST, QI_PAGE_GROUP_RESP
from pasidlab.hardware.pcie import Access, PageGroupResponse, PageRequest, ResponseCode
from pasidlab.timeline import Verb
from tests.hardware.iommu.vtd.by_hand import BEYOND, IOVA, PAGE, PASID, RID
from tests.hardware.iommu.vtd.cached_bench import DID, NEIGHBOUR, CachedBench

RING, VECTOR = 0xC000, 0x41
SLOTS = 4096 // PAGE_REQUEST.size
ASKED = PageRequest(RID, PASID, IOVA & ~0xFFF, read=True, write=False, group=3)


class Handler:
    """Counts interrupts."""

    path = "handler"

    def __init__(self):
        self.count = 0

    def interrupt(self):
        """One more."""
        self.count += 1


class QueueBench(CachedBench):
    """A page request ring of one page, and a handler of its interrupt."""

    def __init__(self, mask=False, **identity):
        super().__init__(**identity)
        self.entry(PGTT=1)
        self.handler = Handler()
        self.apic.handlers[VECTOR] = self.handler
        for register, value in ((PQH, 0), (PQT, 0), (PQA, RING)):
            self.unit.mmio_write(register, value)
        self.unit.mmio_write(PECTL + 4, VECTOR, 4)
        self.unit.mmio_write(PECTL + 8, INTERRUPT_BASE)
        self.mask(mask)

    def mask(self, on):
        """Write PECTL.IM."""
        self.unit.mmio_write(PECTL, int(on) << 31, 4)

    @property
    def status(self):
        """PRS."""
        return self.unit.mmio_read(PRS, 4)

    def fill(self, count):
        """Page requests of different groups."""
        for number in range(count):
            self.unit.page_request(ASKED._replace(group=number % 512, address=number << 12))

    def serve(self):
        """Software reads everything and clears the status."""
        self.unit.mmio_write(PQH, self.unit.mmio_read(PQT))
        self.unit.mmio_write(PRS, PENDING | OVERFLOW, 4)

    def codes(self):
        """What the device was answered."""
        return [(answer.group, answer.code) for answer in self.endpoint.answers]


@pytest.fixture
def bench():
    """Interrupts pass."""
    return QueueBench()


# --- the record -------------------------------------------------------------------------------------------------------

flags = st.booleans()
requests = st.builds(
    PageRequest,
    st.integers(0, 0xFFFF),
    st.none() | st.integers(0, 0xFFFFF),
    st.integers(0, (1 << 52) - 1).map(lambda page: page << 12),
    flags,
    flags,
    flags,
    flags,
    st.integers(0, 511),
    flags,
    st.none() | st.tuples(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1)),
)


@settings(max_examples=100)
@given(requests)
def test_a_record_says_what_the_request_said(request):
    """Every field comes back; 32 bytes."""
    words = encode_page_request(request)
    assert len(words) == 4
    assert decode_page_request(words) == request
    assert not PAGE_REQUEST.reserved(words)


def test_the_address_in_a_record_is_that_of_the_page():
    """The low bits of an address do not fit and do not matter."""
    words = encode_page_request(ASKED._replace(address=IOVA))
    assert decode_page_request(words).address == IOVA & ~0xFFF


# --- the ring ---------------------------------------------------------------------------------------------------------


def test_a_request_is_written_at_the_tail_and_told_in_the_status(bench):
    """Record first, then PQT, PRS.PPR and the interrupt."""
    bench.unit.page_request(ASKED)
    assert bench.memory.load_words(RING, 4) == encode_page_request(ASKED)
    assert (bench.unit.mmio_read(PQT), bench.status, bench.handler.count) == (32, PENDING, 1)
    assert bench.unit.page_queue.requests() == [ASKED]
    assert bench.codes() == []


def test_the_ring_goes_round(bench):
    """Records follow each other over its end, as long as software reads."""
    for turn in range(3 * SLOTS // 4):
        bench.fill(2)
        assert len(bench.unit.page_queue.requests()) == 2, turn
        bench.serve()
    assert bench.unit.mmio_read(PQT) == 3 * SLOTS // 2 * 32 % 4096
    assert bench.codes() == []


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_ring_holds_one_record_less_than_there_is_room_for(order):
    """Head = tail means empty. PQA's low bits are log2 of its pages."""
    bench = QueueBench()
    bench.unit.mmio_write(PQA, 0x10_0000 | order)
    room = (SLOTS << order) - 1
    bench.fill(room)
    assert (bench.status, len(bench.unit.page_queue.requests())) == (PENDING, room)
    bench.fill(1)
    assert bench.status == PENDING | OVERFLOW


def test_what_finds_no_room_is_answered_with_success(bench):
    """So that the device tries again: only the last of a group is answered."""
    bench.fill(SLOTS - 1)
    bench.unit.page_request(ASKED._replace(group=7, last=False))
    assert bench.codes() == []
    bench.unit.page_request(ASKED._replace(group=7))
    assert bench.codes() == [(7, ResponseCode.SUCCESS)]


def test_an_overflow_lasts_until_software_clears_it(bench):
    """Room alone does not help: PRO must be cleared, then requests are written again."""
    bench.fill(SLOTS)
    bench.unit.mmio_write(PQH, bench.unit.mmio_read(PQT))
    bench.unit.page_request(ASKED)
    assert bench.unit.page_queue.requests() == []
    assert bench.codes()[-1] == (3, ResponseCode.SUCCESS)
    bench.unit.mmio_write(PRS, OVERFLOW, 4)
    bench.unit.page_request(ASKED)
    assert bench.unit.page_queue.requests() == [ASKED]


def test_a_stop_marker_is_queued_and_never_answered(bench):
    """Last, and neither read nor write; not even when there is no room for it."""
    marker = ASKED._replace(read=False, last=True)
    bench.unit.page_request(marker)
    assert bench.unit.page_queue.requests() == [marker]
    bench.fill(SLOTS)
    before = len(bench.codes())
    bench.unit.page_request(marker)
    assert len(bench.codes()) == before


def test_a_ring_that_no_memory_answers_for_counts_as_full(bench):
    """UNVERIFIED; nothing is lost without an answer."""
    bench.unit.mmio_write(PQA, BEYOND)
    bench.unit.page_request(ASKED)
    assert bench.status == OVERFLOW
    assert bench.codes() == [(3, ResponseCode.SUCCESS)]


# --- the interrupt ----------------------------------------------------------------------------------------------------


def test_one_interrupt_until_software_has_cleared_the_cause(bench):
    """A second request beside one that was not served is no new event."""
    bench.fill(3)
    assert bench.handler.count == 1
    bench.unit.mmio_write(PRS, PENDING, 4)
    bench.fill(1)
    assert bench.handler.count == 2


def test_a_masked_interrupt_is_pending_until_it_is_unmasked():
    """IM=1 after reset, too: a driver that never clears it hears nothing."""
    bench = QueueBench(mask=True)
    bench.fill(1)
    assert (bench.handler.count, bench.unit.mmio_read(PECTL, 4) >> 30 & 1) == (0, 1)
    bench.mask(False)
    assert (bench.handler.count, bench.unit.mmio_read(PECTL, 4) >> 30 & 1) == (1, 0)


def test_a_pending_interrupt_is_taken_back_when_its_cause_is_served():
    """Software looked by itself: unmasking later brings nothing."""
    bench = QueueBench(mask=True)
    bench.fill(1)
    bench.serve()
    bench.mask(False)
    assert bench.handler.count == 0


def test_an_overflow_alone_interrupts(bench):
    """PRS.PPR was cleared before; PRO is a cause of its own."""
    bench.fill(SLOTS - 1)
    bench.unit.mmio_write(PRS, PENDING, 4)
    bench.fill(1)
    assert (bench.status, bench.handler.count) == (OVERFLOW, 2)


# --- what the unit refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda bench: bench.context(DTE=1), 0x47),
        (lambda bench: bench.context(P=0), 0x41),
        (lambda bench: bench.context(DTE=1, PRE=1, PASIDE=0), 0x45),
        (lambda bench: bench.context(DTE=1, PRE=1, PASIDDIRPTR=0x3000), 0x51),
        (lambda bench: bench.entry(P=0), 0x59),
        (lambda bench: bench.entry(PGTT=0), 0x5B),
    ],
)
def test_a_request_whose_entries_do_not_allow_it_is_a_fault_and_answered_invalid(bench, spoil, code):
    """Recorded as page request; nothing reaches the queue (specification 6.5.3.1, table 31)."""
    spoil(bench)
    bench.unit.page_request(ASKED)
    assert bench.codes() == [(3, ResponseCode.INVALID)]
    assert bench.unit.page_queue.requests() == []
    (record,) = (FRCD.decode(words) for words in bench.unit.faults.records())
    assert (record["FR"], record["SID"], record["PV"], record["T2"]) == (code, RID, PASID, 1)


def test_a_refused_request_that_is_not_the_last_is_dropped(bench):
    """It has no answer; the fault is recorded all the same."""
    bench.context(DTE=1)
    bench.unit.page_request(ASKED._replace(last=False))
    assert bench.codes() == []
    assert len(bench.unit.faults.records()) == 1


# --- what a page request makes the unit forget ------------------------------------------------------------------------


@pytest.mark.parametrize(("pgtt", "left"), [(1, {PASID: 1, -1: 0}), (2, {PASID: 0, -1: 1}), (3, {PASID: 0, -1: 0})])
def test_the_page_that_is_asked_for_is_forgotten(pgtt, left):
    """First level: this page of this PASID. Second level: this page of the domain. Nested: the whole domain."""
    bench = QueueBench()
    if pgtt == 3:
        bench.nested()
        bench.first_level(IOVA + 0x1000, 0x30_0000)
    else:
        bench.entry(PGTT=pgtt)
        for page in (0, 0x1000):
            (bench.first_level if pgtt == 1 else bench.second_level)(IOVA + page, PAGE + page)
    for page in (0, 0x1000):
        assert bench.ask(address=IOVA + page) >= PAGE
    bench.unit.page_request(ASKED)
    lines = bench.caches.iotlb
    assert {tag: len(lines.select(lambda key, tag=tag: key[1] == tag)) for tag in left} == left
    assert (DID, PASID, IOVA >> 12) not in lines


def test_a_page_that_has_become_writable_needs_no_explicit_invalidation(bench):
    """Read-only when it was first used; the device asks, software upgrades the entry and only answers."""
    bench.first_level(RW=0)
    assert bench.ask() == PAGE | IOVA & 0xFFF
    bench.unit.page_request(ASKED._replace(read=False, write=True))
    bench.first_level(RW=1)
    assert bench.ask(Access.WRITE) == PAGE | IOVA & 0xFFF


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 15])
def test_a_response_descriptor_becomes_a_message_to_the_device(bench, code):
    """Requester, PASID, group, code."""
    words = QI_PAGE_GROUP_RESP.encode(TYPE=9, PP=1, RC=code, RID=RID, PASID=PASID, LPIG=1, PRGI=3)
    bench.invalidate(words)
    assert bench.endpoint.answers == [PageGroupResponse(RID, PASID, 3, code)]
    told = [event for event in bench.timeline.events if event.verb is Verb.PAGE_RESPONSE]
    assert [event.fact("code") for event in told] == [code]


def test_a_response_without_pasid_carries_none(bench):
    """PP=0: the field says nothing."""
    bench.invalidate(QI_PAGE_GROUP_RESP.encode(TYPE=9, RID=NEIGHBOUR, PASID=PASID, PRGI=9))
    assert bench.neighbour.answers == [PageGroupResponse(NEIGHBOUR, None, 9, 0)]


def test_a_response_to_nobody_is_lost(bench):
    """The queue goes on."""
    bench.invalidate(QI_PAGE_GROUP_RESP.encode(TYPE=9, RID=0x6AF8, PRGI=9))
    assert bench.endpoint.answers == []


def test_the_tables_of_a_request_are_kept_like_those_of_any_other(bench):
    """Context and PASID entry come from the caches: what changed there must be invalidated first."""
    bench.unit.page_request(ASKED)
    bench.entry(P=0)
    bench.unit.page_request(ASKED)
    assert len(bench.unit.page_queue.requests()) == 2
