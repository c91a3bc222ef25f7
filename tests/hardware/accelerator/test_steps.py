"""Progress in steps: a page at a time, anything in between, and what draining and aborting leave of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.accelerator import Command, CommandError, Completion, CompletionStatus, Descriptor, Flag, Opcode
from pasidlab.hardware.accelerator.commands import queue_bitmap
from pasidlab.timeline import Verb

PASID, OTHER = 5, 6
RECORDS = 0x20000
WANTED = Flag.CRAV | Flag.RCR
COPY = Descriptor(Opcode.MEMMOVE, src=0x1000, dst=0x9000, size=9000, completion_addr=RECORDS, flags=WANTED, pasid=PASID)
SHIFT = {PASID: 0x30, OTHER: 0x80}
"""Where the 48 pages of each PASID lie: that many frames further on."""


@pytest.fixture
def bench(make_bench):
    return ready(make_bench())


def ready(bench):
    for pasid, shift in SHIFT.items():
        for page in range(48):
            bench.map(pasid, page, page + shift)
    bench.start(0, pasid_en=1)
    bench.start(1, pasid=OTHER, pasid_en=1)
    return bench


def place(address, pasid=PASID):
    return address + (SHIFT[pasid] << 12)


def peek(bench, address, length, pasid=PASID):
    return bench.memory.read(place(address, pasid), length)


def poke(bench, address, data, pasid=PASID):
    bench.memory.write(place(address, pasid), data)


def record(bench, address=RECORDS, pasid=PASID):
    return Completion.from_bytes(peek(bench, address, 32, pasid))


def step(bench, number=0):
    bench.agenda.run(bench.agenda.actions()[number].number)


def pattern(size, seed=1):
    return bytes((at * 7 + seed) % 251 for at in range(size))


# --- one action, one step ---------------------------------------------------------------------------------------------


def test_a_copy_of_one_page_ends_in_its_only_action(bench):
    """One EXECUTE, its DMA, COMPLETE: nothing is ever in flight."""
    bench.enqueue(COPY._replace(size=4096))
    step(bench)
    assert bench.device.in_flight() == bench.agenda.actions() == []
    assert bench.verbs()[-5:] == [Verb.EXECUTE, Verb.DMA, Verb.DMA, Verb.DMA, Verb.COMPLETE]


def test_a_longer_copy_goes_on_action_by_action(bench):
    """Each moves a page at most, says where it is, and the record comes with the last."""
    poke(bench, 0x1000, pattern(9000))
    bench.enqueue(COPY)
    step(bench)
    assert bench.device.in_flight() == [(0, COPY, 4096)]
    assert [action.label for action in bench.agenda.actions()] == [
        "dsa0 wq0 goes on with MEMMOVE for PASID 5, 4096 of 9000 bytes"
    ]
    assert peek(bench, 0x9000, 9000) == pattern(4096) + bytes(9000 - 4096)
    step(bench)
    assert record(bench).status == CompletionStatus.NONE
    step(bench)
    assert record(bench) == (CompletionStatus.SUCCESS, 0, 9000, 0, 0)
    assert peek(bench, 0x9000, 9000) == pattern(9000)
    assert bench.device.in_flight() == bench.agenda.actions() == []


def test_its_slot_is_free_while_it_is_in_flight(bench):
    """A queue of sixteen takes sixteen more."""
    bench.enqueue(COPY)
    step(bench)
    assert bench.device.occupancy(0) == 0
    assert [bench.enqueue(COPY) for _ in range(17)] == [True] * 16 + [False]


def test_each_step_is_told_with_the_bytes_behind_it(bench):
    """EXECUTE events with done = 0, 4096, 8192; COMPLETE is caused by the last."""
    bench.enqueue(COPY)
    bench.agenda.run_all()
    steps = [event for event in bench.time.events if event.verb is Verb.EXECUTE]
    assert [event.fact("done") for event in steps] == [0, 4096, 8192]
    (end,) = [event for event in bench.time.events if event.verb is Verb.COMPLETE]
    assert end.cause == steps[-1].number


def test_two_copies_take_turns(bench):
    """Oldest action first: neither waits for the other to end."""
    bench.enqueue(COPY)
    bench.enqueue(COPY._replace(src=0x4000, dst=0xD000, completion_addr=RECORDS + 32))
    bench.agenda.run_all()
    told = [event.fact("src") for event in bench.time.events if event.verb is Verb.EXECUTE]
    assert told == [0x1000, 0x4000] * 3


def test_a_page_that_goes_in_the_middle_ends_the_copy_there(bench):
    """What was written stays; the record tells how much."""
    poke(bench, 0x1000, pattern(9000))
    bench.enqueue(COPY)
    step(bench)
    del bench.unit.pages[bench.device.rid, PASID, 0xA]
    step(bench)
    assert record(bench) == (CompletionStatus.PAGE_FAULT_NOBOF, 0, 4096, 0xA000, 1)
    assert peek(bench, 0x9000, 4096) == pattern(4096)


def test_a_source_that_changes_in_between_is_copied_as_it_is_then(bench):
    """No snapshot is taken: each step reads when it runs."""
    bench.enqueue(COPY)
    step(bench)
    poke(bench, 0x1000, b"late" * 2250)
    bench.agenda.run_all()
    assert peek(bench, 0x9000, 4096) == bytes(4096)
    assert peek(bench, 0xA000, 4) == b"late"


def test_compare_ends_with_the_step_that_finds_the_difference(bench):
    """The pages behind it are never read."""
    poke(bench, 0x2004, b"x")
    bench.enqueue(COPY._replace(opcode=Opcode.COMPARE))
    step(bench)
    step(bench)
    assert record(bench) == (CompletionStatus.SUCCESS, 1, 4100, 0, 0)
    assert bench.agenda.actions() == []


# --- draining and aborting --------------------------------------------------------------------------------------------

ALL = [
    (Command.DRAIN_ALL, 0),
    (Command.DRAIN_WQ, queue_bitmap(0)),
    (Command.DRAIN_PASID, PASID),
    (Command.DISABLE_WQ, queue_bitmap(0)),
    (Command.DISABLE_DEVICE, 0),
]
DROPPING = [
    (Command.ABORT_ALL, 0),
    (Command.ABORT_WQ, queue_bitmap(0)),
    (Command.ABORT_PASID, PASID),
    (Command.RESET_WQ, queue_bitmap(0)),
    (Command.RESET_DEVICE, 0),
]


def begun(bench, steps=1):
    poke(bench, 0x1000, pattern(9000))
    bench.enqueue(COPY)
    for _ in range(steps):
        step(bench)
    return bench


@pytest.mark.parametrize(("command", "operand"), ALL)
def test_draining_carries_out_the_rest(bench, command, operand):
    """All bytes, and the record."""
    assert begun(bench).command(command, operand) == CommandError.SUCCESS
    assert record(bench).status == CompletionStatus.SUCCESS
    assert peek(bench, 0x9000, 9000) == pattern(9000)
    assert bench.device.in_flight() == bench.agenda.actions() == []


@pytest.mark.parametrize(("command", "operand"), DROPPING)
def test_aborting_drops_the_rest(bench, command, operand):
    """What was written stays written, and there is no record, now or later."""
    assert begun(bench).command(command, operand) == CommandError.SUCCESS
    bench.agenda.run_all()
    assert record(bench).status == CompletionStatus.NONE
    assert peek(bench, 0x9000, 9000) == pattern(4096) + bytes(9000 - 4096)
    assert bench.device.in_flight() == []


@pytest.mark.parametrize("command", [Command.DRAIN_PASID, Command.ABORT_PASID])
def test_another_pasid_stays_in_flight(bench, command):
    """Only the PASID of the operand is meant; on a dedicated queue it is the queue's own."""
    begun(bench)
    bench.post(COPY._replace(pasid=PASID), wq=1)
    step(bench, 1)
    assert [(wq, done) for wq, _, done in bench.device.in_flight()] == [(0, 4096), (1, 4096)]
    bench.command(command, PASID)
    assert [(wq, done) for wq, _, done in bench.device.in_flight()] == [(1, 4096)]
    bench.agenda.run_all()
    assert record(bench, pasid=OTHER).status == CompletionStatus.SUCCESS


@pytest.mark.parametrize("command", [Command.DRAIN_WQ, Command.ABORT_WQ, Command.DISABLE_WQ, Command.RESET_WQ])
def test_another_queue_stays_in_flight(bench, command):
    """Only the queues of the operand are meant."""
    begun(bench)
    bench.post(COPY, wq=1)
    step(bench, 1)
    bench.command(command, queue_bitmap(1))
    assert [(wq, done) for wq, _, done in bench.device.in_flight()] == [(0, 4096)]


def test_each_descriptor_is_counted_once(bench):
    """One in flight and two in the queue are three, however many steps they take."""
    begun(bench)
    bench.enqueue(COPY)
    bench.enqueue(COPY)
    bench.command(Command.DRAIN_ALL)
    assert [event.fact("count") for event in bench.time.events if event.verb is Verb.DRAIN] == [3]


# --- laws -------------------------------------------------------------------------------------------------------------

SIZES = st.integers(1, 0x4000)
PLACES = st.tuples(st.integers(0x1000, 0x6000), st.integers(0x1000, 0x6000))


@given(place=PLACES, size=SIZES, others=st.lists(st.tuples(PLACES, SIZES), max_size=3), data=st.data())
def test_steps_of_others_in_between_do_not_matter(make_bench, place, size, others, data):
    """A copy in steps, with any steps of another PASID's copies in between, is the copy at once."""
    bench = ready(make_bench())
    before = pattern(0x20000)
    poke(bench, 0, before)
    src, dst = place
    bench.enqueue(COPY._replace(src=src, dst=dst, size=size))
    for (other_src, other_dst), other_size in others:
        bench.enqueue(COPY._replace(src=other_src, dst=other_dst, size=other_size, pasid=OTHER))
    while actions := bench.agenda.actions():
        step(bench, data.draw(st.integers(0, len(actions) - 1)))
    assert record(bench) == (CompletionStatus.SUCCESS, 0, size, 0, 0)
    after = bytearray(before)
    after[dst : dst + size] = before[src : src + size]
    assert peek(bench, 0, 0x20000) == after


@given(place=PLACES, size=SIZES, steps=st.integers(0, 9))
def test_an_abort_at_any_step_leaves_the_beginning_or_the_end(make_bench, place, size, steps):
    """The first ``done`` bytes are copied, or the last ones when the copy ran backwards; the others are untouched."""
    bench = ready(make_bench())
    before = pattern(0x20000)
    poke(bench, 0, before)
    src, dst = place
    bench.enqueue(COPY._replace(src=src, dst=dst, size=size))
    for _ in range(steps):
        if bench.agenda.actions():
            step(bench)
    done = sum(done for _, _, done in bench.device.in_flight())
    ended = record(bench).status == CompletionStatus.SUCCESS
    bench.command(Command.ABORT_ALL)
    bench.agenda.run_all()
    done = size if ended else done
    first = size - done if src < dst < src + size else 0
    after = bytearray(before)
    after[dst + first : dst + first + done] = before[src + first : src + first + done]
    assert peek(bench, 0, 0x20000) == after
    assert (record(bench).status == CompletionStatus.SUCCESS) is ended


@given(detours=st.lists(SIZES, max_size=4))
def test_equal_states_have_equal_digests(make_bench, detours):
    """Whatever was in flight before and has ended: the next copy half-way looks the same."""

    def digest(lengths):
        bench = ready(make_bench())
        for length in lengths:
            bench.enqueue(COPY._replace(size=length, flags=0))
        bench.agenda.run_all()
        begun(bench)
        return bench.time.digest()

    assert digest(detours) == digest([])


@given(steps=st.integers(0, 3))
def test_undo_goes_back_between_two_steps(make_bench, steps):
    """Progress is state: going back to any step and forward again gives the same digest."""
    bench = ready(make_bench())
    bench.enqueue(COPY)
    points = [(bench.time.journal.position, bench.time.digest())]
    while bench.agenda.actions():
        step(bench)
        points.append((bench.time.journal.position, bench.time.digest()))
    for position, digest in (points[steps], points[-1]):
        bench.time.journal.seek(position)
        assert bench.time.digest() == digest
