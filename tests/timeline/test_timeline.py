"""Time: events with causes, operations (done, refused, undone), travel, branches, and observers that only look."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.errors import KernelError
from pasidlab.timeline import Part, Table, Timeline, Verb


class World(Part, state=("value",)):
    """A number, and calls that change it in several steps."""

    def __init__(self, time):
        super().__init__(time, "world")
        self.value = 0
        self.log = Table[Any, Any](time, "world.log")

    def add(self, *amounts, error=None):
        """One operation: a step for each amount, and then perhaps an error."""
        with self.timeline.operation(f"world.add{amounts}"):
            for amount in amounts:
                before, self.value = self.value, self.value + amount
                self.emit_step(amount, before)
            if error is not None:
                raise error

    def emit_step(self, amount, before):
        """One named step."""
        self.timeline.emit("host", "world", Verb.HANDLE, f"add {amount}", before, self.value, amount=amount)


@pytest.fixture
def time():
    """A fresh timeline."""
    return Timeline()


@pytest.fixture
def world(time):
    """A world on it, which booted."""
    world = World(time)
    world.add(0)
    time.floor = time.now
    return world


def subjects(events):
    """What was told."""
    return [event.subject for event in events]


# --- events ---------------------------------------------------------------------------------------------------------


def test_events_are_numbered_without_gaps_and_carry_their_operation(time, world):
    """The total order, and which call an event belongs to."""
    world.add(1, 2)
    world.add(3)
    assert [event.number for event in time.events] == list(range(len(time.events)))
    assert [event.operation for event in time.events] == [0, 0, 1, 1, 1, 2, 2]


def test_an_event_keeps_its_facts_in_order_and_answers_for_unknown_ones_with_none(time):
    """Facts are looked up by name."""
    event = time.emit("host", "x", Verb.ALLOC, "y", b=1, a=2)
    assert event.facts == (("b", 1), ("a", 2))
    assert event.fact("a") == 2
    assert event.fact("c") is None


tree = st.recursive(st.just(()), lambda below: st.lists(below, max_size=3).map(tuple), max_leaves=12)


@given(tree)
def test_causes_form_the_tree_in_which_the_events_were_emitted(shape):
    """Every event but the call has one earlier cause, and the tree of causes is the tree of `because` blocks."""
    time = Timeline()

    def grow(branches, name):
        event = time.emit("host", "x", Verb.HANDLE, name)
        with time.because(event):
            for number, below in enumerate(branches):
                grow(below, f"{name}.{number}")

    with time.operation("grow"):
        grow(shape, "root")
    by_number = {event.number: event for event in time.events}
    roots = [event for event in time.events if event.cause is None]
    assert subjects(roots) == ["grow"]
    for event in time.events[2:]:
        assert event.cause is not None
        assert event.cause < event.number
        assert by_number[event.cause].subject == event.subject.rpartition(".")[0]


def test_the_cause_ends_with_its_block_even_when_the_block_fails(time):
    """An error does not leave a cause behind."""
    event = time.emit("host", "x", Verb.HANDLE, "a")
    with pytest.raises(ValueError, match="oops"), time.because(event):
        raise ValueError("oops")
    assert time.emit("host", "x", Verb.HANDLE, "b").cause is None


# --- operations -----------------------------------------------------------------------------------------------------


def test_an_operation_begins_with_the_call_and_owns_what_follows(time, world):
    """The first event is the person's line; the operation knows its steps."""
    world.add(1, 2)
    operation = time.operation_now
    assert operation.line == "world.add(1, 2)"
    assert subjects(time.events_of(operation)) == ["world.add(1, 2)", "add 1", "add 2"]
    assert operation.refused is None


def test_a_refused_operation_keeps_what_happened_and_ends_with_the_refusal(time, world):
    """A KernelError is an answer: steps until then stand, the last event says errno and reason."""
    with pytest.raises(KernelError):
        world.add(5, error=KernelError("ENOSPC", "no room"))
    operation = time.operation_now
    last = time.events_of(operation)[-1]
    assert (last.verb, last.subject, last.after) == (Verb.REFUSE, "no room", "-ENOSPC")
    assert operation.refused == "-ENOSPC: no room"
    assert world.value == 5


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()], ids=["bug", "interrupt"])
def test_any_other_exception_undoes_the_whole_operation(time, world, error):
    """A mistake leaves state, events, operations and digest as they were."""
    world.add(1)
    before = time.digest(), time.events, time.operations, time.now, time.journal.position
    with pytest.raises(type(error)):
        world.add(2, 3, error=error)
    assert (time.digest(), time.events, time.operations, time.now, time.journal.position) == before
    world.add(4)
    assert world.value == 5


def test_a_call_within_a_call_belongs_to_the_outer_one(time, world):
    """One click is one operation, however many verbs it uses."""
    with time.operation("outer"):
        world.add(1)
        world.add(2)
    assert [operation.line for operation in time.operations] == ["world.add(0,)", "outer"]
    assert subjects(time.events_of(time.operation_now)) == ["outer", "add 1", "add 2"]


def test_changes_after_the_last_event_belong_to_the_last_step(time, world):
    """Going back and forth over an operation loses nothing."""
    with time.operation("tail"):
        world.value = 9
    time.back_over()
    assert world.value == 0
    time.forward_over()
    assert world.value == 9


def test_the_changes_of_a_step_are_those_between_two_events(time, world):
    """The highlights of a picture: exactly what this step changed."""
    world.add(1, 2)
    assert [(key, old, new) for _, key, old, new in time.changes_of_step(time.now)] == [("value", 1, 3)]
    assert [(key, old, new) for _, key, old, new in time.changes_of_step(time.now - 1)] == [("value", 0, 1)]
    with pytest.raises(ValueError, match=f"between 1 and {time.now}"):
        time.changes_of_step(time.now + 1)


# --- travelling -----------------------------------------------------------------------------------------------------

scripts = st.lists(st.lists(st.integers(-3, 3), max_size=3), min_size=1, max_size=6)


@given(scripts, st.lists(st.floats(0, 1), max_size=12))
def test_the_state_at_a_step_is_what_it_was_when_that_event_was_emitted(script, travels):
    """Whatever the way there: state, digest and visible events of a step never change."""
    time = Timeline()
    world = World(time)
    seen: dict[int, Any] = {}
    time.observe(lambda event: seen.__setitem__(event.number + 1, (world.value, time.journal.digest())))
    for amounts in script:
        world.add(*amounts)
    events = time.events
    for where in travels:
        step = round(where * time.last)
        time.go(step)
        assert time.events == events[:step]
        if step:
            assert (world.value, time.digest()) == seen[step]
    time.go(time.last)
    assert (world.value, time.events) == (sum(map(sum, script)), events)


def test_travel_ends_at_the_boot_and_at_the_newest_step(time, world):
    """Back and forward stop at the borders; go names them."""
    world.add(1)
    time.back(1000)
    assert time.now == time.floor
    time.forward(1000)
    assert time.now == time.last
    for step in (time.floor - 1, time.last + 1):
        with pytest.raises(ValueError, match=f"between {time.floor} and {time.last}, not {step}"):
            time.go(step)


def test_stepping_over_operations(time, world):
    """back_over goes to before a call, forward_over to the end of the next one, also from the middle."""
    world.add(1, 1)
    world.add(2, 2)
    middle = time.now - 1
    time.back_over()
    assert world.value == 2
    time.forward_over()
    assert world.value == 6
    time.go(middle)
    time.back_over()
    assert world.value == 2
    time.back_over()
    time.back_over()
    assert (time.now, world.value) == (time.floor, 0)


def test_a_call_made_in_the_past_starts_a_new_future(time, world):
    """The undone operations are gone, their numbers are used again."""
    world.add(1)
    world.add(10)
    time.back_over()
    world.add(100)
    assert world.value == 101
    assert [operation.line for operation in time.operations] == ["world.add(0,)", "world.add(1,)", "world.add(100,)"]
    assert time.now == time.last
    assert [event.number for event in time.events] == list(range(time.last))


def test_a_branch_from_the_middle_of_an_operation_lets_it_end_first(time, world):
    """No call is ever half made: the present operation is completed, what came after it is dropped."""
    world.add(1, 10, 100)
    world.add(5000)
    time.go(time.operations[1].last - 1)
    assert (world.value, time.at_stake) == (11, 2)
    world.add(1000)
    assert world.value == 1111
    assert [operation.line for operation in time.operations][1:] == ["world.add(1, 10, 100)", "world.add(1000,)"]


def test_time_travel_within_an_operation_is_refused(time, world):
    """The present cannot be left while it is being made."""
    with pytest.raises(RuntimeError, match="must wait until the operation has ended"), time.operation("paradox"):
        time.back()
    assert time.operations[-1].line == "world.add(0,)"


# --- observers ------------------------------------------------------------------------------------------------------


def test_observers_see_each_event_as_it_happens_until_they_leave(time, world):
    """A view is told in order, and can be removed."""
    seen: list[Any] = []
    leave = time.observe(seen.append)
    world.add(1)
    leave()
    world.add(2)
    assert subjects(seen) == ["world.add(1,)", "add 1"]
    leave()


@pytest.mark.parametrize(
    "act",
    [
        lambda time, world: world.add(7),
        lambda time, world: time.emit("x", "x", Verb.HANDLE, "x"),
        lambda time, world: time.back(),
        lambda time, world: setattr(world, "value", 7),
        lambda time, world: world.log.__setitem__(1, 1),
        lambda time, world: 1 // 0,
    ],
    ids=["call", "emit", "travel", "assign", "table", "fail"],
)
def test_an_observer_that_acts_or_fails_is_detached_and_has_changed_nothing(time, world, caplog, act):
    """With such an observer the run is the run without it; the log says that it was detached."""
    twin_time = Timeline()
    twin = World(twin_time)
    twin.add(0)
    calls = []

    def meddle(event):
        calls.append(event)
        act(time, world)

    time.observe(meddle)
    with caplog.at_level(logging.ERROR):
        for one in (world, twin):
            one.add(1, 2)
    assert (time.events, time.digest(), time.last) == (twin_time.events, twin_time.digest(), twin_time.last)
    assert len(calls) == 1
    assert "is detached" in caplog.text


def test_one_broken_observer_does_not_keep_the_others_from_looking(time, world, caplog):
    """Each is told on its own."""
    seen: list[Any] = []
    time.observe(lambda event: 1 // 0)
    time.observe(seen.append)
    world.add(1)
    assert subjects(seen) == ["world.add(1,)", "add 1"]
    assert caplog.text.count("is detached") == 1
