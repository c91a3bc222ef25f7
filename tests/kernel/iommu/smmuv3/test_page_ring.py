"""Page requests of the PRI queue, and transactions that the unit holds: both are served, and answered in their way."""

import pytest

from pasidlab.hardware.iommu.smmuv3 import register_file as reg
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.pcie import Access, DmaRequest, PageGroupResponse, PageRequest, ResponseCode
from pasidlab.kernel.iommu.page_requests import EVERY_PASID
from pasidlab.timeline import Part

RID = 0x6A08
PASID = 5


class Sink(Part):
    """Who receives page requests, and answers as it was told to."""

    def __init__(self, time, answer):
        super().__init__(time, "sink")
        self.answer = answer
        self.asked = []

    def page_requested(self, request):
        self.asked.append(request)
        return self.answer


@pytest.fixture
def bench(make_bench):
    """A device with ATS, and a process on it."""
    bench = make_bench(ats=True)
    bench.space, bench.page = bench.mm()
    bench.driver.write_process(RID, PASID, bench.space)
    return bench


@pytest.fixture
def held(make_bench):
    """A device that may be held, and a process on it with one page that is not there yet."""
    bench = make_bench(stall=True)
    bench.space, bench.page = bench.mm()
    bench.lazy = bench.space.mmap(4096, populate=False)
    bench.driver.write_process(RID, PASID, bench.space)
    return bench


def serve(bench):
    """Let the thread run, if it was woken; whether it was."""
    return bench.agenda.run_all() > 0


def ask(bench, **fields):
    """The device asks for a page."""
    bench.unit.page_request(PageRequest(RID, PASID, 0x7000, True, False)._replace(**fields))


# --- PRI --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", list(ResponseCode))
def test_a_request_is_given_to_its_sink_and_answered(bench, code):
    """The interrupt wakes a thread; what the sink says goes back by CMD_PRI_RESP."""
    sink = bench.driver.page_requests.sinks[RID, PASID] = Sink(bench.time, code)
    ask(bench, group=85)
    assert bench.function.told[-1:] != [PageGroupResponse(RID, PASID, 85, code)]
    assert serve(bench)
    assert [request.address for request in sink.asked] == [0x7000]
    assert bench.function.told[-1] == PageGroupResponse(RID, PASID, 85, code)


def test_a_request_that_nobody_bound_is_invalid(bench):
    """The driver answers by itself."""
    ask(bench, pasid=6, group=1)
    ask(bench, pasid=None, group=2)
    serve(bench)
    assert bench.function.told[-2:] == [
        PageGroupResponse(RID, 6, 1, ResponseCode.INVALID),
        PageGroupResponse(RID, None, 2, ResponseCode.INVALID),
    ]


def test_the_queue_wraps(bench):
    """More requests than it has entries, one after the other."""
    bench.driver.page_requests.sinks[RID, PASID] = Sink(bench.time, ResponseCode.SUCCESS)
    for group in range(300):
        ask(bench, group=group)
        serve(bench)
    assert bench.function.told[-1] == PageGroupResponse(RID, PASID, 299, ResponseCode.SUCCESS)


def test_lost_requests_are_acknowledged_and_the_unit_takes_new_ones(bench):
    """The queue has 256 entries; what is too much the unit answers by itself."""
    bench.driver.page_requests.sinks[RID, PASID] = Sink(bench.time, ResponseCode.SUCCESS)
    for group in range(257):
        ask(bench, group=group)
    serve(bench)
    ask(bench, group=300)
    assert len(bench.unit.page_queue.requests()) == 1
    serve(bench)
    assert bench.function.told[-1] == PageGroupResponse(RID, PASID, 300, ResponseCode.SUCCESS)


def test_without_page_requests_the_ring_is_empty(make_bench):
    """There are no such registers."""
    bench = make_bench(SmmuIdentity(pri=False), ats=True)
    assert not bench.driver.page_requests.serve()


# --- held transactions ------------------------------------------------------------------------------------------------


def test_a_held_read_is_served_and_tried_again(held):
    """The event wakes the thread; CMD_RESUME lets the device try again."""
    sink = held.driver.page_requests.sinks[RID, PASID] = Sink(held.time, ResponseCode.SUCCESS)
    fault = held.unit.translate(DmaRequest(RID, held.lazy + 8, Access.READ, PASID))
    assert fault.stall == 0
    assert serve(held)
    (request,) = sink.asked
    assert (request.address, request.read, request.write, request.group) == (held.lazy, True, False, 0)
    assert held.function.told == [(0, True)]
    assert held.unit.stalls.keys() == []


@pytest.mark.parametrize("code", [ResponseCode.INVALID, ResponseCode.FAILURE])
def test_a_held_write_that_cannot_be_served_ends(held, code):
    """CMD_RESUME with an abort."""
    held.driver.page_requests.sinks[RID, PASID] = Sink(held.time, code)
    held.unit.translate(DmaRequest(RID, held.lazy, Access.WRITE, PASID))
    serve(held)
    assert held.function.told == [(0, False)]


def test_one_that_is_answered_later(held):
    """The sink gives no answer now."""
    held.driver.page_requests.sinks[RID, EVERY_PASID] = Sink(held.time, None)
    held.unit.translate(DmaRequest(RID, held.lazy, Access.WRITE, PASID))
    serve(held)
    assert held.function.told == []
    held.driver.page_requests.respond(RID, PASID, 0, ResponseCode.SUCCESS)
    assert held.function.told == [(0, True)]


def test_what_is_held_is_drained_with_its_descriptor(held):
    """Nobody has read the event yet: it is read, and the transaction ends."""
    held.unit.translate(DmaRequest(RID, held.lazy, Access.WRITE, PASID))
    held.driver.clear_entry(RID, PASID)
    assert held.function.told == [(0, False)]
    assert held.unit.stalls.keys() == []
    assert not held.driver.events.held.keys()


def test_more_held_transactions_than_the_event_queue_has_room_for(held):
    """Their records wait for room, and none is lost."""
    held.driver.page_requests.sinks[RID, PASID] = Sink(held.time, ResponseCode.SUCCESS)
    for _ in range(200):
        held.unit.translate(DmaRequest(RID, held.lazy, Access.WRITE, PASID))
    serve(held)
    assert sorted(held.function.told) == [(tag, True) for tag in range(200)]


def test_the_handler_keeps_what_the_thread_has_not_taken(held):
    """The end of an operation reads the queue; the thread is woken for what is held."""
    held.driver.page_requests.sinks[RID, PASID] = Sink(held.time, ResponseCode.SUCCESS)
    held.unit.translate(DmaRequest(RID, held.lazy, Access.WRITE, PASID))
    held.driver.events.service()
    assert held.unit.registers[reg.EVTQ_CONS] == held.unit.registers[reg.EVTQ_PROD]
    assert len(held.driver.events.held) == 1
    assert serve(held)
    assert held.function.told == [(0, True)]
    assert not held.driver.events.log.values()
