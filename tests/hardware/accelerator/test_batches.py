"""Batches: a list of descriptors in memory, carried out one after the other, each with a record, then the batch's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.accelerator import Command, Completion, CompletionStatus, Descriptor, Flag, Opcode
from pasidlab.hardware.accelerator.register_map import GENCAP, OPCAP, SWERR
from pasidlab.hardware.config_space import PASID_CAPABILITY
from pasidlab.hardware.layouts import dsa
from pasidlab.timeline import Verb
from tests.twins.naive_dsa import Child, NaiveDsa, Record

PASID, OTHER = 5, 6
PAGES = 48
LIST, RECORDS, OWN = 0x20000, 0x22000, 0x22800
WANTED = Flag.CRAV | Flag.RCR
BATCH = Descriptor(Opcode.BATCH, src=LIST, completion_addr=OWN, flags=WANTED, pasid=PASID)
COPY = Descriptor(Opcode.MEMMOVE, src=0x1000, dst=0x9000, size=64)
NOOP = Descriptor(Opcode.NOOP)
ABSENT = 0x2F000
SHIFT = {PASID: 0x30, OTHER: 0x80}


@pytest.fixture
def bench(make_bench):
    return ready(make_bench())


def ready(bench, missing=()):
    for pasid, shift in SHIFT.items():
        for page in set(range(PAGES - 1)) - set(missing):
            bench.map(pasid, page, page + shift)
    bench.start(0, pasid_en=1)
    bench.start(1, pasid=OTHER, pasid_en=1)
    return bench


def peek(bench, address, length, pasid=PASID):
    return bench.memory.read(address + (SHIFT[pasid] << 12), length)


def poke(bench, address, data, pasid=PASID):
    bench.memory.write(address + (SHIFT[pasid] << 12), data)


def record(bench, number=None, pasid=PASID):
    return Completion.from_bytes(peek(bench, OWN if number is None else RECORDS + 32 * number, 32, pasid))


def lay(bench, *children, at=LIST, pasid=PASID, flags=WANTED):
    """Write a list into memory, with a record for each."""
    for number, child in enumerate(children):
        work = child._replace(completion_addr=RECORDS + 32 * number, flags=child.flags | flags)
        poke(bench, at + 64 * number, work.to_bytes(), pasid)


def submit(bench, *children, flags=WANTED, **changes):
    """Lay a list and submit its batch."""
    lay(bench, *children, at=changes.get("src", LIST), flags=flags)
    assert bench.enqueue(BATCH._replace(size=len(children))._replace(**changes))


def run(bench, *children, **changes):
    """The same, and run it: statuses of the children, status and number of the batch."""
    submit(bench, *children, **changes)
    bench.agenda.run_all()
    own = record(bench)
    statuses = [CompletionStatus(record(bench, at).status).name for at in range(len(children))]
    return statuses, CompletionStatus(own.status).name, own.bytes_completed


# --- what a batch does ------------------------------------------------------------------------------------------------


def test_the_capability_register_lists_it(bench):
    """OPCAP bit 1."""
    assert bench.device.mmio_read(OPCAP) >> Opcode.BATCH & 1


def test_all_are_done_and_each_has_its_record(bench):
    """The batch's own record counts them and comes last."""
    poke(bench, 0x1000, b"first")
    poke(bench, 0x2000, b"then")
    children = (COPY, COPY._replace(src=0x2000, dst=0xA000), NOOP)
    assert run(bench, *children) == (["SUCCESS"] * 3, "SUCCESS", 3)
    assert (peek(bench, 0x9000, 5), peek(bench, 0xA000, 4)) == (b"first", b"then")
    ends = [event for event in bench.time.events if event.verb is Verb.COMPLETE]
    assert [event.fact("batch_idx") for event in ends] == [0, 1, 2, None]


def test_one_action_is_one_step_of_one_descriptor(bench):
    """Between two anything may happen; progress counts the descriptors that have ended."""
    submit(bench, COPY, COPY._replace(size=9000), NOOP)
    seen = []
    while actions := bench.agenda.actions():
        bench.agenda.run(actions[0].number)
        seen += [done for _, _, done in bench.device.in_flight()]
    assert seen == [1, 1, 1, 2]


def test_an_action_in_the_middle_says_how_far_it_is(bench):
    """In descriptors."""
    submit(bench, COPY, NOOP)
    bench.agenda.run(bench.agenda.actions()[0].number)
    assert [action.label for action in bench.agenda.actions()] == [
        "dsa0 wq0 goes on with BATCH for PASID 5, 1 of 2 descriptors"
    ]


def test_a_descriptor_is_fetched_when_its_turn_comes(bench):
    """A list that changes before is carried out as it is then; one that is being carried out does not change."""
    submit(bench, COPY._replace(size=9000), COPY)
    bench.agenda.run(bench.agenda.actions()[0].number)
    lay(bench, NOOP, NOOP)
    bench.agenda.run_all()
    assert (record(bench, 0).bytes_completed, record(bench, 1).bytes_completed) == (9000, 0)


@pytest.mark.parametrize(("bad", "status"), [
    (COPY._replace(src=ABSENT), "PAGE_FAULT_NOBOF"),
    (COPY._replace(size=0), "XFER_ERANGE"),
    (COPY._replace(size=(1 << 21) + 1), "XFER_ERANGE"),
    (COPY._replace(rsvd=1), "NOZERO_RESERVE"),
    (COPY._replace(opcode=0x77), "BAD_OPCODE"),
    (BATCH._replace(size=2), "BAD_OPCODE"),
    (COPY._replace(opcode=Opcode.DUALCAST, op_specific=1), "DCAST_ERR"),
])  # fmt: skip
def test_one_that_fails_does_not_stop_the_others(bench, bad, status):
    """BATCH_FAIL, and all were done; a batch in a batch is one that fails."""
    assert run(bench, COPY, bad, COPY) == (["SUCCESS", status, "SUCCESS"], "BATCH_FAIL", 3)


def test_overlap_without_the_capability_fails_alone(bench):
    """OVERLAP_BUFFERS is its own."""
    bench.device.set_fields(GENCAP, dsa.GENCAP, overlap_copy=0)
    assert run(bench, NOOP, COPY._replace(dst=0x1004)) == (["SUCCESS", "OVERLAP_BUFFERS"], "BATCH_FAIL", 2)


def test_a_page_beyond_memory_fails_alone(bench):
    """HW_ERR1 is its own; for the list it is the batch's."""
    bench.map(PASID, 3, 1 << 20)
    assert run(bench, NOOP, COPY._replace(dst=0x3000)) == (["SUCCESS", "HW_ERR1"], "BATCH_FAIL", 2)
    bench.enqueue(BATCH._replace(src=0x3000, size=2))
    bench.agenda.run_all()
    assert CompletionStatus(record(bench).status) is CompletionStatus.HW_ERR1


def test_a_fence_behind_a_failure_ends_the_batch(bench):
    """It is not carried out, nor is what follows; the record counts those before."""
    fenced = COPY._replace(flags=Flag.FENCE)
    assert run(bench, COPY._replace(size=0), NOOP, fenced, NOOP) == (
        ["XFER_ERANGE", "SUCCESS", "NONE", "NONE"],
        "BATCH_FAIL",
        2,
    )


def test_a_fence_behind_successes_means_nothing(bench):
    """They have ended already: descriptors run one after the other here."""
    fenced = COPY._replace(flags=Flag.FENCE)
    assert run(bench, fenced, fenced, COPY._replace(size=0)) == (["SUCCESS"] * 2 + ["XFER_ERANGE"], "BATCH_FAIL", 3)


# --- the list ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "status"), [
    ({"src": LIST + 32}, CompletionStatus.DESCLIST_ALIGN),
    ({"size": 1}, CompletionStatus.DESC_CNT_ERANGE),
    ({"size": 33}, CompletionStatus.DESC_CNT_ERANGE),
    ({"src": LIST + 1, "size": 0}, CompletionStatus.DESCLIST_ALIGN),
    ({"rsvd": 1}, CompletionStatus.NOZERO_RESERVE),
    ({"src": ABSENT}, CompletionStatus.BATCH_PAGE_FAULT),
])  # fmt: skip
def test_a_batch_that_is_refused_does_nothing(bench, changes, status):
    """The record tells why; no descriptor of the list was looked at."""
    submit(bench, NOOP, NOOP)
    bench.agenda.run_all()
    poke(bench, RECORDS, bytes(64))
    bench.enqueue(BATCH._replace(size=2)._replace(**changes))
    bench.agenda.run_all()
    assert (CompletionStatus(record(bench).status), record(bench).bytes_completed) == (status, 0)
    assert peek(bench, RECORDS, 64) == bytes(64)


def test_the_longest_list_is_the_queues(bench):
    """2^max_batch_shift descriptors are taken, one more is not."""
    assert run(bench, *[NOOP] * 32)[1:] == ("SUCCESS", 32)


def test_privileged_batches_need_the_capability(bench):
    """PRIV_BAD is the batch's: its list is not read."""
    bench.device.config.write(PASID_CAPABILITY + 4, 1 << 16)
    submit(bench, NOOP, NOOP, priv=1)
    bench.agenda.run_all()
    assert CompletionStatus(record(bench).status) is CompletionStatus.PRIV_BAD


def test_a_list_whose_second_page_is_missing_ends_there(bench):
    """What came before was done; BATCH_PAGE_FAULT tells the address and how many."""
    del bench.unit.pages[bench.device.rid, PASID, (LIST >> 12) + 1]
    start = LIST + 0x1000 - 128
    assert run(bench, COPY, NOOP, NOOP, src=start)[1:] == ("BATCH_PAGE_FAULT", 2)
    assert record(bench).fault_addr == LIST + 0x1000
    assert [record(bench, at).status for at in range(3)] == [1, 1, 0]


# --- whose memory -----------------------------------------------------------------------------------------------------


def test_the_list_runs_with_the_batchs_pasid_whatever_it_says(bench):
    """On a shared queue PASID and privilege of the batch, on a dedicated one the queue's."""
    poke(bench, 0x1000, b"five")
    poke(bench, 0x1000, b"six!", OTHER)
    liar = COPY._replace(pasid=OTHER, priv=1)
    assert run(bench, liar, liar)[1] == "SUCCESS"
    assert (peek(bench, 0x9000, 4), peek(bench, 0x9000, 4, OTHER)) == (b"five", bytes(4))
    assert {(request.pasid, request.privileged) for request in bench.unit.requests} == {(PASID, False)}
    lay(bench, COPY._replace(pasid=PASID), NOOP, pasid=OTHER)
    bench.post(BATCH._replace(size=2), wq=1)
    bench.agenda.run_all()
    assert peek(bench, 0x9000, 4, OTHER) == b"six!"


# --- what no record can tell ------------------------------------------------------------------------------------------


def software_error(bench):
    return dsa.SWERR.decode(bench.device.get_words(SWERR, dsa.SWERR))


def test_an_error_of_one_of_a_batch_names_its_place(bench):
    """SWERR.batch and batch_idx; the batch counts it as failed."""
    submit(bench, NOOP, COPY._replace(size=0), flags=0)
    bench.agenda.run_all()
    error = software_error(bench)
    assert (error["batch"], error["batch_idx"], error["error"], error["operation"]) == (1, 1, 0x13, Opcode.MEMMOVE)
    assert CompletionStatus(record(bench).status) is CompletionStatus.BATCH_FAIL


def test_a_record_that_cannot_be_written_counts_as_a_failure(bench):
    """The copy was made, and nobody could be told."""
    lay(bench, NOOP, NOOP)
    poke(bench, LIST, COPY._replace(flags=WANTED, completion_addr=ABSENT).to_bytes())
    bench.enqueue(BATCH._replace(size=2))
    bench.agenda.run_all()
    error = software_error(bench)
    assert (error["batch"], error["batch_idx"], error["error"], error["fault_addr"]) == (1, 0, 0x1A, ABSENT)
    assert CompletionStatus(record(bench).status) is CompletionStatus.BATCH_FAIL


def test_an_error_of_the_batch_itself_is_none_of_a_batch(bench):
    """SWERR.batch = 0."""
    submit(bench, NOOP, NOOP, src=ABSENT - 0x1000, size=1, flags=0)
    bench.enqueue(BATCH._replace(size=1, flags=0))
    bench.agenda.run_all()
    error = software_error(bench)
    assert (error["valid"], error["batch"], error["error"]) == (1, 0, CompletionStatus.DESC_CNT_ERANGE)


# --- draining and aborting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(5))
@pytest.mark.parametrize("command", [Command.DRAIN_ALL, Command.ABORT_ALL, Command.RESET_DEVICE])
def test_a_batch_in_the_middle_is_drained_or_dropped_as_a_whole(bench, command, steps):
    """Draining ends with all records; after an abort no further byte moves and no further record is written."""
    submit(bench, COPY, COPY._replace(dst=0xA000, size=9000), COPY)
    for _ in range(steps):
        bench.agenda.run(bench.agenda.actions()[0].number)
    before = peek(bench, 0, 0x23000)
    bench.command(command)
    bench.agenda.run_all()
    drained = command is Command.DRAIN_ALL
    assert (CompletionStatus(record(bench).status) is CompletionStatus.SUCCESS) is (drained or steps == 5)
    assert drained or peek(bench, 0, 0x23000) == before
    assert bench.device.held() == bench.agenda.actions() == []


# --- a naive second one -----------------------------------------------------------------------------------------------

ADDRESSES = st.integers(0x1000, 0x7000)
CHILDREN = st.builds(
    Child,
    opcode=st.sampled_from([0, 3, 3, 3, 4, 5, 1, 0x77]),
    src=ADDRESSES,
    dst=ADDRESSES,
    size=st.integers(0, 0x2800),
    flags=st.sampled_from([0, 0, 1]),
)


@given(
    children=st.lists(CHILDREN, min_size=2, max_size=5),
    missing=st.sets(st.integers(1, 10), max_size=3),
    cut=st.sampled_from([set(), set(), {(LIST >> 12) + 1}]),
    start=st.sampled_from([LIST, LIST + 0x1000 - 64, LIST + 0x1000 - 128]),
    data=st.data(),
)
def test_random_batches_do_what_a_naive_twin_does(make_bench, children, missing, cut, start, data):
    """Statuses, counts and every byte, with another PASID's copy anywhere in between."""
    bench = ready(make_bench(), missing | cut)
    memory = bytes(at // 97 % 251 for at in range(0x10000))
    poke(bench, 0, memory)
    works = [Descriptor(**child._asdict()) for child in children]
    submit(bench, *works, src=start)
    bench.enqueue(COPY._replace(size=0x3000, pasid=OTHER))
    while actions := bench.agenda.actions():
        bench.agenda.run(data.draw(st.sampled_from(actions)).number)
    twin = NaiveDsa(bytearray(memory), missing | cut)
    records, own = twin.batch(start, children)
    assert told(record(bench)) == own
    assert [told(record(bench, at)) for at in range(len(records))] == records
    assert peek(bench, RECORDS + 32 * len(records), 32 * (len(children) - len(records))) == bytes(
        32 * (len(children) - len(records))
    )
    assert peek(bench, 0, 0x10000) == twin.memory


def told(completion):
    """A record as far as the twin goes."""
    return Record(completion.status, completion.result, completion.bytes_completed, completion.write)
