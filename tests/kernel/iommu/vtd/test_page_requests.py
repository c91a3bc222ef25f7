"""Page requests at the driver: the interrupt wakes a thread, which finds who can bring the page; a group is answered
once. What nobody may serve is refused; at the end of a binding nothing of it is left.
"""

import pytest

from pasidlab.hardware.iommu.vtd import register_file as reg
from pasidlab.hardware.iommu.vtd.page_queue import OVERFLOW, PENDING
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.hardware.layouts.vtd_queue import PAGE_REQUEST
from pasidlab.hardware.pcie import SERVE_PAGES, PageGroupResponse, PageRequest, ResponseCode
from pasidlab.kernel.iommu.page_requests import Pending
from pasidlab.timeline import Verb
from tests.kernel.iommu.vtd.conftest import Bench

RID, PASID, OTHER = 0x6A08, 5, 6
AT = 0x7F00_0000_2000
SUCCESS, INVALID, FAILURE = ResponseCode.SUCCESS, ResponseCode.INVALID, ResponseCode.FAILURE
SLOTS = 4096 // PAGE_REQUEST.size
WORDS = PASID_ENTRY.encode(P=1, PGTT=1, AW=2, FLPTPTR=0x5000, DID=1)


class Sink:
    """Remembers requests, and answers what it is told to: ``None`` means later."""

    path = "sink"

    def __init__(self, answer=SUCCESS):
        self.answer = answer
        self.seen = []

    def page_requested(self, request):
        """Take it."""
        self.seen.append(request)
        return self.answer


class Requests(Bench):
    """A device with PRI, and a sink for its ``PASID``."""

    def __init__(self, answer=SUCCESS):
        super().__init__(ats=True)
        self.sink = Sink(answer)
        self.driver.set_entry(RID, PASID, WORDS, "test")
        self.requests = self.driver.page_requests
        self.requests.sinks[RID, PASID] = self.sink
        self.function.told.clear()

    def ask(self, address=AT, **changes):
        """The device asks for a page."""
        request = PageRequest(RID, PASID, address, True, False)
        self.unit.page_request(request._replace(**changes))

    def serve(self):
        """Let the thread run."""
        assert self.agenda.run_named(SERVE_PAGES)

    @property
    def answers(self):
        """Group and code of every answer."""
        return [(told.group, told.code) for told in self.function.told if isinstance(told, PageGroupResponse)]


@pytest.fixture
def bench():
    """Its sink succeeds at once."""
    return Requests()


@pytest.fixture
def later():
    """Its sink answers later."""
    return Requests(answer=None)


# --- the thread -------------------------------------------------------------------------------------------------------


def test_the_interrupt_wakes_the_thread_and_the_thread_answers(bench):
    """Nothing happens in the interrupt itself."""
    bench.ask(group=3)
    (action,) = bench.agenda.actions()
    assert action.what == SERVE_PAGES
    assert (bench.sink.seen, bench.answers) == ([], [])
    bench.serve()
    assert [request.address for request in bench.sink.seen] == [AT]
    assert bench.answers == [(3, SUCCESS)]
    assert bench.agenda.actions() == []


def test_the_thread_reads_the_queue_to_its_end(bench):
    """One interrupt, one run, any number of requests."""
    for group in range(20):
        bench.ask(AT + (group << 12), group=group)
    assert len(bench.agenda.actions()) == 1
    bench.serve()
    assert bench.answers == [(group, SUCCESS) for group in range(20)]
    assert bench.mmio.read(reg.BASE + reg.PQH) == bench.mmio.read(reg.BASE + reg.PQT)
    assert bench.mmio.read(reg.BASE + reg.PRS, 4) == 0


def test_a_masked_interrupt_leaves_the_thread_asleep(bench):
    """Until the driver unmasks it."""
    bench.mmio.write(reg.BASE + reg.PECTL, 1 << 31, 4)
    bench.ask()
    assert bench.agenda.actions() == []
    bench.mmio.write(reg.BASE + reg.PECTL, 0, 4)
    bench.serve()
    assert bench.answers == [(0, SUCCESS)]


def test_requests_that_come_while_the_thread_runs_are_served_as_well(bench):
    """The sink's answer makes the device ask for more."""
    more = [1, 2, 3]

    class Greedy(Sink):
        def page_requested(self, request):
            if more:
                bench.ask(group=more.pop(0))
            return super().page_requested(request)

    bench.requests.sinks[RID, PASID] = Greedy()
    bench.ask(group=0)
    bench.agenda.run_all()
    assert sorted(bench.answers) == [(group, SUCCESS) for group in range(4)]


def test_a_thread_that_is_cancelled_does_not_run(bench):
    """Its kernel stops where it is."""
    bench.ask()
    bench.requests.cancel()
    assert bench.agenda.actions() == []
    bench.requests.cancel()


# --- who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"address": 1 << 47},
        {"address": (1 << 64) - (1 << 47) - 4096},
        {"privileged": True},
        {"privileged": True, "read": False, "write": True},
        {"execute": True},
        {"pasid": None},
    ],
)
def test_what_linux_refuses_is_answered_invalid(bench, changes):
    """Facts 1.9: no PASID, not canonical, privileged access, execute together with read. The sink hears nothing."""
    bench.ask(group=2, **changes)
    bench.serve()
    assert (bench.sink.seen, bench.answers) == ([], [(2, INVALID)])


@pytest.mark.parametrize("address", [0, (1 << 47) - 4096, (1 << 64) - (1 << 47), (1 << 64) - 4096])
def test_both_ends_of_the_canonical_address_space_can_be_asked_for(bench, address):
    """The kernel's half, too: the sink decides."""
    bench.ask(address)
    bench.serve()
    assert [request.address for request in bench.sink.seen] == [address]


@pytest.mark.parametrize(
    ("read", "write", "execute"), [(True, False, False), (False, True, False), (True, True, False)]
)
def test_the_sink_sees_what_was_asked(bench, read, write, execute):
    """Access and address arrive as they were sent."""
    bench.ask(read=read, write=write, execute=execute)
    bench.serve()
    (seen,) = bench.sink.seen
    assert (seen.rid, seen.pasid, seen.read, seen.write, seen.execute) == (RID, PASID, read, write, execute)


def test_a_pasid_that_nobody_has_bound_on_this_device_is_refused(bench):
    """Bound elsewhere does not count."""
    bench.driver.set_entry(RID, OTHER, WORDS, "test")
    bench.requests.sinks[0x6A10, OTHER] = bench.sink
    bench.ask(pasid=OTHER)
    bench.serve()
    assert (bench.sink.seen, bench.answers) == ([], [(0, INVALID)])


def test_a_stop_marker_gets_no_answer(bench):
    """Last, without any access."""
    bench.ask(read=False)
    bench.serve()
    assert (bench.sink.seen, bench.answers) == ([], [])


def test_refusals_say_why(bench):
    """In the event of the request that was handled."""
    bench.ask(privileged=True)
    bench.serve()
    told = [event.after for event in bench.time.events if event.verb is Verb.HANDLE]
    assert told == ["invalid: privileged requests are not served"]


# --- groups -----------------------------------------------------------------------------------------------------------


def test_a_group_is_answered_once_at_its_last_request(bench):
    """Requests before the last one are handled, and not answered."""
    for page in range(3):
        bench.ask(AT + (page << 12), group=4, last=False)
    bench.serve()
    assert (len(bench.sink.seen), bench.answers) == (3, [])
    bench.ask(AT + 0x3000, group=4)
    bench.serve()
    assert (len(bench.sink.seen), bench.answers) == (4, [(4, SUCCESS)])
    assert not len(bench.requests.pending)


def test_the_worst_answer_counts(bench):
    """One page that cannot be brought spoils its group."""
    for number, code in enumerate((SUCCESS, INVALID, SUCCESS)):
        bench.sink.answer = code
        bench.ask(AT + (number << 12), group=4, last=number == 2)
        bench.serve()
    assert bench.answers == [(4, INVALID)]


@pytest.mark.parametrize("first", [True, False])
def test_the_worst_answer_counts_wherever_it_comes(bench, first):
    """A request that the driver itself refuses is part of its group, before or behind a good one."""
    bad: dict[str, bool] = {"privileged": True}
    good: dict[str, bool] = {}
    for number, changes in enumerate((bad, good) if first else (good, bad)):
        bench.ask(group=4, last=number == 1, **changes)
    bench.serve()
    assert bench.answers == [(4, INVALID)]


def test_groups_of_one_index_are_told_apart_by_pasid(bench):
    """PASID and index name a group."""
    bench.driver.set_entry(RID, OTHER, WORDS, "test")
    bench.requests.sinks[RID, OTHER] = other = Sink(answer=INVALID)
    bench.ask(group=4, last=False)
    bench.ask(group=4, pasid=OTHER)
    bench.serve()
    assert (len(other.seen), bench.answers) == (1, [(4, INVALID)])
    bench.ask(group=4)
    bench.serve()
    assert bench.answers == [(4, INVALID), (4, SUCCESS)]


# --- answers that come later ------------------------------------------------------------------------------------------


def test_a_sink_may_answer_later(later):
    """Nothing is sent before."""
    later.ask(group=7)
    later.serve()
    waiting = Pending(1, SUCCESS, True, (RID, PASID))
    assert (later.answers, later.requests.pending.items()) == ([], [((RID, PASID, 7), waiting)])
    later.requests.respond(RID, PASID, 7, SUCCESS)
    assert (later.answers, later.requests.pending.items()) == ([(7, SUCCESS)], [])


@pytest.mark.parametrize("key", [(RID, PASID, 8), (RID, OTHER, 7), (0x6A10, PASID, 7)])
def test_an_answer_without_request_is_einval_and_changes_nothing(later, key):
    """Wrong group, PASID or device: nothing is sent, the group waits on."""
    later.ask(group=7)
    later.serve()
    before = later.time.digest()
    assert later.refused(later.requests.respond, *key, SUCCESS).name == "EINVAL"
    assert later.time.digest() == before


def test_the_second_answer_is_einval(later):
    """The group is closed."""
    later.ask(group=7)
    later.serve()
    later.requests.respond(RID, PASID, 7, FAILURE)
    assert later.refused(later.requests.respond, RID, PASID, 7, SUCCESS).name == "EINVAL"
    assert later.answers == [(7, FAILURE)]


def test_an_answer_before_the_last_request_waits_for_it(later):
    """The group's answer is the worst of all."""
    later.ask(group=7, last=False)
    later.serve()
    later.requests.respond(RID, PASID, 7, INVALID)
    assert later.answers == []
    later.ask(AT + 0x1000, group=7)
    later.serve()
    later.requests.respond(RID, PASID, 7, SUCCESS)
    assert later.answers == [(7, INVALID)]


def test_one_answer_covers_all_requests_of_a_group_that_are_out(later):
    """VFIO answers groups, not pages."""
    for page in range(3):
        later.ask(AT + (page << 12), group=7, last=page == 2)
    later.serve()
    later.requests.respond(RID, PASID, 7, SUCCESS)
    assert later.answers == [(7, SUCCESS)]


# --- overflow ---------------------------------------------------------------------------------------------------------


def test_an_overflow_is_cleared_by_the_thread_and_nothing_is_lost_without_an_answer(bench):
    """What found no room was answered with success, so that the device asks again."""
    for number in range(SLOTS + 5):
        bench.ask(AT + (number << 12), group=number)
    assert bench.mmio.read(reg.BASE + reg.PRS, 4) == PENDING | OVERFLOW
    dropped = list(range(SLOTS - 1, SLOTS + 5))
    assert bench.answers == [(group, SUCCESS) for group in dropped]
    bench.agenda.run_all()
    assert sorted(bench.answers) == [(group, SUCCESS) for group in range(SLOTS + 5)]
    assert bench.mmio.read(reg.BASE + reg.PRS, 4) == 0
    bench.ask(group=1)
    bench.agenda.run_all()
    assert bench.answers[-1] == (1, SUCCESS)


def test_the_ring_wraps_around_without_losing_its_place(bench):
    """Three times round, in uneven bites."""
    asked = 0
    for bite in (100, 90, 127, 3, 60):
        for group in range(bite):
            bench.ask(group=group)
        bench.serve()
        asked += bite
    assert len(bench.sink.seen) == len(bench.answers) == asked


# --- the end of a binding ---------------------------------------------------------------------------------------------


def test_a_drain_serves_the_queue_and_answers_what_a_sink_still_has(later):
    """Of this PASID on this device; others wait on."""
    later.driver.set_entry(RID, OTHER, WORDS, "test")
    later.requests.sinks[RID, OTHER] = Sink(answer=None)
    later.ask(group=1)
    later.serve()
    later.ask(group=2)
    later.ask(group=3, pasid=OTHER)
    later.driver.clear_entry(RID, PASID)
    assert sorted(later.answers) == [(1, INVALID), (2, INVALID)]
    assert later.requests.pending.keys() == [(RID, OTHER, 3)]
    assert later.unit.page_queue.requests() == []
    assert later.requests.sinks.keys() == [(RID, OTHER)]


def test_what_is_asked_for_after_the_entry_went_is_refused_by_the_unit(bench):
    """The driver never sees it."""
    bench.driver.clear_entry(RID, PASID)
    bench.ask(group=9)
    assert bench.answers == [(9, INVALID)]
    assert bench.unit.page_queue.requests() == []


def test_a_drain_that_finds_an_overflow_begins_again(later):
    """Requests that were dropped meanwhile may come again: fence, flushes and wait are sent once more."""
    later.watch(PASID)
    flush = [later.driver.queue.pasid_iotlb(1, PASID)]
    later.requests.drain(RID, PASID, flush)
    once = len(later.unit.seen)
    for group in range(SLOTS + 1):
        later.ask(group=group)
    later.unit.seen.clear()
    later.requests.drain(RID, PASID, flush)
    assert later.mmio.read(reg.BASE + reg.PRS, 4) == 0
    assert len([words for words, *_ in later.unit.seen if words[0] & 0xF == 6]) >= once
    assert {group for group, _ in later.answers} == set(range(SLOTS + 1))


def test_a_device_without_page_requests_is_not_drained():
    """There is nothing to wait for."""
    bench = Bench()
    bench.unit.seen.clear()
    bench.driver.page_requests.drain(RID, PASID, [bench.driver.queue.pasid_iotlb(1, PASID)])
    assert bench.unit.seen == []


@pytest.mark.parametrize(("address", "code"), [(AT, SUCCESS), (1 << 60, INVALID)])
def test_private_data_ends_a_group(bench, address, code):
    """A request that carries some is answered although more of its group might come, and nothing waits on."""
    bench.ask(address, last=False, private=(1, 2), group=7)
    bench.serve()
    assert bench.answers == [(7, code)]
    assert bench.requests.pending.items() == []
