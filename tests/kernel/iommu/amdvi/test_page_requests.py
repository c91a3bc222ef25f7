"""Page requests from the driver's side: the log is read, requests are served, answers are commands (facts 4.2)."""

import pytest

from pasidlab.hardware.iommu.amdvi import register_file as reg
from pasidlab.hardware.layouts.amd import CONTROL_REG, STATUS_REG
from pasidlab.hardware.pcie import InvalidateRequest, PageGroupResponse, PageRequest, ResponseCode
from pasidlab.kernel.iommu.page_requests import EVERY_PASID

RID = 0x6A08
PAGE = 0x7F00_0000_2000
LOG_SIZE = 512


class Sink:
    """Who receives page requests: answers at once with ``answer``, or later."""

    path = "sink"

    def __init__(self, answer=ResponseCode.SUCCESS):
        self.answer = answer
        self.asked = []

    def page_requested(self, request):
        self.asked.append(request)
        return self.answer


def ask(bench, pasid=5, group=1, last=True, address=PAGE, **fields):
    """A request of the device."""
    bench.unit.page_request(PageRequest(RID, pasid, address, True, False, group=group, last=last, **fields))


def answers(bench):
    """What the device was answered."""
    return [told for told in bench.function.told if isinstance(told, PageGroupResponse)]


@pytest.fixture
def served(bench):
    """PASID 5 of the device is served at once."""
    bench.sink = bench.driver.page_requests.sinks[RID, 5] = Sink()
    return bench


def test_the_interrupt_wakes_a_thread_which_answers(served):
    """Nothing happens in the interrupt itself; then the request is handed on, and the answer is a command."""
    ask(served, group=0x155)
    assert served.sink.asked == []
    (action,) = served.agenda.actions()
    assert action.label == "IOMMU driver of host: serve page requests"
    served.watch()
    served.agenda.run_all()
    assert [(request.address, request.group) for request in served.sink.asked] == [(PAGE, 0x155)]
    assert served.names == ["COMPLETE_PPR_REQUEST"]
    assert answers(served) == [PageGroupResponse(RID, 5, 0x155, ResponseCode.SUCCESS)]


def test_one_interrupt_for_several_requests(served):
    """The status bit stays up until the driver reads; the thread reads to the end."""
    for group in range(3):
        ask(served, group=group)
    assert len(served.agenda.actions()) == 1
    served.agenda.run_all()
    assert [answer.group for answer in answers(served)] == [0, 1, 2]
    ask(served, group=7)
    assert len(served.agenda.actions()) == 1


def test_a_group_is_answered_once_at_its_last_request(served):
    """The upper bit of the tag says which one that is."""
    ask(served, last=False)
    served.agenda.run_all()
    assert answers(served) == []
    ask(served, address=PAGE + 0x1000)
    served.agenda.run_all()
    assert len(answers(served)) == 1


def test_nobody_bound_means_invalid(bench):
    """The driver answers by itself."""
    ask(bench, pasid=9)
    bench.agenda.run_all()
    assert answers(bench) == [PageGroupResponse(RID, 9, 1, ResponseCode.INVALID)]


def test_a_request_without_pasid_is_answered_without_one(bench):
    """GN=0."""
    ask(bench, pasid=None)
    bench.agenda.run_all()
    assert answers(bench) == [PageGroupResponse(RID, None, 1, ResponseCode.INVALID)]


def test_whoever_has_the_whole_table_receives_everything(bench):
    """With PASID and without; answered later."""
    sink = bench.driver.page_requests.sinks[RID, EVERY_PASID] = Sink(answer=None)
    for pasid in (None, 5, 0xFFFF):
        ask(bench, pasid=pasid)
    bench.agenda.run_all()
    assert [request.pasid for request in sink.asked] == [None, 5, 0xFFFF]
    assert answers(bench) == []
    bench.driver.page_requests.respond(RID, None, 1, ResponseCode.SUCCESS)
    assert answers(bench) == [PageGroupResponse(RID, None, 1, ResponseCode.SUCCESS)]


def test_the_log_is_read_once_and_zeroed(served):
    """Head meets tail, entries are zero, the interrupt bit is clear."""
    ask(served)
    served.agenda.run_all()
    ring = served.mmio.read(reg.BASE + reg.PPR_LOG) & 0xF_FFFF_FFFF_F000
    assert served.mmio.read(reg.BASE + reg.PPR_HEAD) == served.mmio.read(reg.BASE + reg.PPR_TAIL) == 16
    assert not any(served.memory.load_words(ring, 4))
    assert not served.mmio.read(reg.BASE + reg.STATUS) & STATUS_REG["PPRInt"].mask


def test_the_log_goes_round(served):
    """More requests than fit, served in time: each is answered."""
    for at in range(LOG_SIZE + 20):
        ask(served, group=at % 512)
        served.agenda.run_all()
    assert len(answers(served)) == LOG_SIZE + 20


def test_a_full_log_answers_by_itself_and_starts_again(served):
    """PPRAutoRspEn: what finds no room is told to try again; after the overflow the log takes requests."""
    for at in range(LOG_SIZE):
        ask(served, group=at % 512)
    assert [answer.code for answer in answers(served)] == [ResponseCode.SUCCESS]
    assert served.mmio.read(reg.BASE + reg.STATUS) & STATUS_REG["PPROverflow"].mask
    served.agenda.run_all()
    assert len(answers(served)) == LOG_SIZE
    assert not served.mmio.read(reg.BASE + reg.STATUS) & STATUS_REG["PPROverflow"].mask
    assert served.mmio.read(reg.BASE + reg.CONTROL) & CONTROL_REG["PPRLogEn"].mask
    ask(served, group=3)
    served.agenda.run_all()
    assert len(answers(served)) == LOG_SIZE + 1


def test_draining_empties_tlbs_and_log(served):
    """Read, answer, flush, wait, read again."""
    ask(served)
    flush = [served.driver.queue.device_pasid_pages(RID, 5)]
    served.driver.page_requests.drain(RID, 5, flush)
    assert len(answers(served)) == 1
    assert isinstance(served.function.told[-1], InvalidateRequest)
    assert not served.unit.page_queue.requests()


def test_a_device_without_page_requests_needs_no_draining(make_bench):
    """Nothing can be on its way."""
    bench = make_bench(ats=False)
    bench.watch()
    bench.driver.page_requests.drain(RID, 5, [bench.driver.queue.device_pages(RID)])
    assert bench.names == []


def test_what_is_no_page_request_is_passed_over(served):
    """An entry with another type (Linux prints 'Unknown PPR request'): the next one is read."""
    ring = served.mmio.read(reg.BASE + reg.PPR_LOG) & 0xF_FFFF_FFFF_F000
    ask(served, group=1)
    ask(served, group=2)
    served.memory.store(ring, served.memory.load(ring) & ~(0xF << 60) | 5 << 60)
    served.agenda.run_all()
    assert [answer.group for answer in answers(served)] == [2]
