"""Transactions that are held, and page requests: tags, records that wait, resumption; the PRI queue and its answers."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.smmuv3.page_queue import decode_page_request
from pasidlab.hardware.iommu.smmuv3.register_file import CR0, EVTQ_CONS, GERROR, PRIQ_BASE, PRIQ_CONS, PRIQ_PROD
from pasidlab.hardware.layouts.smmu_queue import EVENT
from pasidlab.hardware.pcie import Access, PageGroupResponse, PageRequest, RequestKind
from tests.hardware.iommu.smmuv3.by_hand import BEYOND, IOVA, NEIGHBOUR, ON, PAGE, PASID, RID, Bench, command

THERE = PAGE | IOVA & 0xFFF
FAULTING = 0x5000


@pytest.fixture
def bench():
    """Stage 1 that holds what faults; one page is there."""
    return holding()


def holding(**identity):
    """The same on a unit of one's own."""
    found = Bench(**identity)
    found.cd(S=1)
    found.first()
    return found


def stall(bench, address=FAULTING, **who):
    """A transaction that faults: its fault."""
    return bench.unit.translate(bench.request(address=address, **who))


def tags(records):
    """The stall tags in event records."""
    return [EVENT["STAG"].get(words) for words in records if EVENT["STALL"].get(words)]


def test_a_transaction_that_faults_is_held(bench):
    """It gets a tag, software a record that says so; what translates is not concerned."""
    assert bench.ask() == THERE
    faults = [stall(bench), stall(bench, 0x6000)]
    assert [(fault.stall, fault.suppressed) for fault in faults] == [(0, False), (1, False)]
    assert tags(bench.events()) == [0, 1]
    assert [request.request.address for request in bench.unit.stalls.values()] == [0x5000, 0x6000]


def test_a_question_holds_nothing(bench):
    """Only real transactions are."""
    fault = bench.unit.walk(bench.request(address=FAULTING)).fault
    assert (fault.name, fault.stall) == ("F_TRANSLATION", None)
    assert len(bench.unit.stalls) == 0


@pytest.mark.parametrize(("response", "retry"), [(1, True), (3, True), (0, False), (2, False)])
def test_software_lets_it_go(bench, response, retry):
    """Retry, terminate or abort: the device is told, and the tag is free."""
    tag = stall(bench).stall
    bench.tell(command("resume", SID=RID, STAG=tag, RESP=response))
    assert bench.endpoint.resumptions == [(tag, retry)]
    assert stall(bench).stall == tag


@pytest.mark.parametrize(("sid", "tag"), [(NEIGHBOUR, 0), (RID, 1), (RID, 0xFFFF)])
def test_a_tag_that_does_not_match_does_nothing(bench, sid, tag):
    """Not this stream's, or nobody's."""
    stall(bench)
    bench.tell(command("resume", SID=sid, STAG=tag, RESP=1))
    assert bench.endpoint.resumptions == bench.neighbour.resumptions == []
    assert bench.unit.stalls.keys() == [0]


def test_all_of_a_stream_can_be_ended(bench):
    """CMD_STALL_TERM."""
    stall(bench)
    stall(bench, 0x6000)
    bench.tell(command("stall_term", SID=NEIGHBOUR))
    assert len(bench.unit.stalls) == 2
    bench.tell(command("stall_term", SID=RID))
    assert bench.endpoint.resumptions == [(0, False), (1, False)]


def test_switching_off_ends_what_is_held(bench):
    """Nobody would let it go any more."""
    stall(bench)
    bench.unit.mmio_write(CR0, ON & ~1, 4)
    assert bench.endpoint.resumptions == [(0, False)]
    assert len(bench.unit.stalls) == 0


def test_a_record_of_a_held_transaction_is_never_lost(bench):
    """It waits for room in the event queue."""
    for number in range(130):
        assert stall(bench, 0x10_0000 + number * 0x1000).stall == number
    first = bench.take_events()
    assert tags(first) == list(range(128))
    assert tags(bench.take_events()) == [128, 129]
    assert bench.events() == []


def test_no_more_are_told_than_the_unit_can_hold():
    """STALL_MAX: the next record comes when one was resumed."""
    bench = holding(stall_max=2)
    for number in range(3):
        stall(bench, 0x10_0000 + number * 0x1000)
    assert tags(bench.take_events()) == [0, 1]
    bench.tell(command("resume", SID=RID, STAG=0, RESP=1))
    assert tags(bench.take_events()) == [2]


def test_a_held_transaction_is_recorded_although_the_context_does_not_ask_for_it(bench):
    """CD.R=0 would leave software without the tag."""
    bench.cd(S=1, R=0)
    assert stall(bench).suppressed is False
    assert tags(bench.events()) == [0]


def test_what_is_no_fault_of_stage_1_is_not_held():
    """Stage 2, fetches and configuration errors end the transaction."""
    bench = Bench()
    bench.nested()
    bench.cd(S=1)
    bench.second(PAGE, TYPE=0)
    assert stall(bench, IOVA).stall is None
    bench.cd(S=1, TTB0=BEYOND)
    assert stall(bench, IOVA).stall is None
    assert tags(bench.events()) == []


def test_a_unit_without_the_stall_model_does_not_know_the_commands():
    """CMD_RESUME is illegal there."""
    bench = Bench(stall_model=1)
    bench.put(command("resume", SID=RID, STAG=0, RESP=1))
    assert bench.unit.mmio_read(GERROR, 4) & 1


# --- page requests ----------------------------------------------------------------------------------------------------


def ask_for(group=0, last=True, read=True, pasid=PASID, rid=RID):
    """A page request."""
    return PageRequest(rid, pasid, 0x7000, read, False, group=group, last=last)


def test_a_page_request_waits_for_software(bench):
    """In the PRI queue, with an interrupt for the first one."""
    bench.unit.page_request(ask_for(3))
    bench.unit.page_request(ask_for(4, pasid=None))
    assert bench.unit.page_queue.requests() == [ask_for(3), ask_for(4, pasid=None)]
    assert [event.fact("vector") for event in bench.timeline.events if event.verb == "interrupt"] == [0x42]
    assert bench.unit.mmio_read(PRIQ_PROD, 4) == 2


@pytest.mark.parametrize(("response", "code"), [(0, 15), (1, 1), (2, 0)])
def test_software_answers(bench, response, code):
    """Failure, invalid, success; with and without SubstreamID."""
    bench.tell(command("pri_resp", SID=RID, SSV=1, SSID=PASID, GRPID=7, RESP=response))
    bench.tell(command("pri_resp", SID=RID, GRPID=8, RESP=response))
    assert bench.endpoint.answers == [PageGroupResponse(RID, PASID, 7, code), PageGroupResponse(RID, None, 8, code)]


def test_an_overflow_is_answered_by_the_unit_until_software_has_seen_it(bench):
    """Success for the last of a group, silence for the others and for stop markers; room alone changes nothing."""
    for group in range(257):
        bench.unit.page_request(ask_for(group))
    assert bench.endpoint.answers == [PageGroupResponse(RID, PASID, 256, 0)]
    produced = bench.unit.mmio_read(PRIQ_PROD, 4)
    assert produced == 1 << 31 | 256
    bench.unit.mmio_write(PRIQ_CONS, 256, 4)
    bench.unit.page_request(ask_for(1))
    bench.unit.page_request(ask_for(2, last=False))
    bench.unit.page_request(ask_for(3, read=False))
    assert [answer.group for answer in bench.endpoint.answers] == [256, 1]
    bench.unit.mmio_write(PRIQ_CONS, produced, 4)
    bench.unit.page_request(ask_for(5))
    assert [request.group for request in bench.unit.page_queue.requests()] == [5]


def test_a_queue_that_is_off_or_broken_fails_the_request():
    """PRIQEN=0; a ring that no memory answers for, which is a global error until software acknowledges it."""
    bench = Bench(on=ON & ~2)
    bench.unit.page_request(ask_for(1))
    bench.unit.mmio_write(PRIQ_BASE, BEYOND | 8)
    bench.unit.mmio_write(CR0, ON, 4)
    bench.unit.page_request(ask_for(2))
    bench.unit.page_request(ask_for(3))
    assert [(answer.group, answer.code) for answer in bench.endpoint.answers] == [(1, 15), (2, 15), (3, 15)]
    assert bench.unit.mmio_read(GERROR, 4) == 1 << 3
    assert bench.unit.page_queue.requests() == []


def test_a_page_request_needs_nothing_of_the_tables(bench):
    """The unit does not look a stream up for it."""
    bench.ste(V=0)
    bench.unit.page_request(ask_for(1))
    assert len(bench.unit.page_queue.requests()) == 1


def test_all_of_a_request_survives_the_queue(bench):
    """Rights, privilege, execution."""
    asked = PageRequest(RID, 0, 0x7000, False, True, True, True, 511, last=False)
    bench.unit.page_request(asked)
    words = bench.unit.page_queue.ring.waiting()
    assert [decode_page_request(one) for one in words] == [asked]


def test_reading_events_asks_for_nothing(bench):
    """A store to CONS with nothing held changes only CONS."""
    bench.unit.mmio_write(EVTQ_CONS, 0, 4)
    answer = bench.unit.translate(bench.request(Access.WRITE)._replace(kind=RequestKind.MEMORY))
    assert answer == THERE
