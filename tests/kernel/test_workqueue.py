"""An ordered workqueue: one item at a time, in the order of queueing; only the oldest can run next."""

import itertools

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pasidlab.errors import KernelError
from pasidlab.kernel.workqueue import OrderedWorkqueue
from pasidlab.timeline import Agenda, Timeline, Verb


class Worker:
    """Notes what it did, and does what the test told it to do then."""

    def __init__(self, name, done, react=None):
        self.path = name
        self.done = done
        self.react = react or {}

    def run_work(self, what):
        self.done.append((self.path, what))
        if what in self.react:
            self.react[what]()


class Bench:
    """A queue, two workers, and what was done."""

    def __init__(self):
        self.time = Timeline()
        self.agenda = Agenda(self.time)
        self.queue = OrderedWorkqueue(self.time, "wq", self.agenda)
        self.done: list[tuple[str, str]] = []
        self.a, self.b = Worker("a", self.done), Worker("b", self.done)

    def put(self, worker, what):
        """Queue something."""
        return self.queue.queue(worker, what, f"{worker.path} does {what}")

    def waiting(self):
        """What is queued."""
        return [(work.worker.path, work.what) for work in self.queue.waiting()]

    def enabled(self):
        """What the agenda offers."""
        return [(action.runner, action.what, action.label) for action in self.agenda.actions()]


@pytest.fixture
def bench():
    """A fresh queue."""
    return Bench()


def test_only_the_oldest_item_is_an_enabled_action(bench):
    """Of all that waits; when it has run, the next one is."""
    bench.put(bench.a, "1")
    bench.put(bench.b, "1")
    assert bench.enabled() == [(bench.queue, "1", "a does 1")]
    bench.agenda.run(bench.agenda.actions()[0].number)
    assert bench.enabled() == [(bench.queue, "1", "b does 1")]
    assert bench.done == [("a", "1")]


def test_everything_runs_in_the_order_of_queueing(bench):
    """To quiescence, over several workers."""
    for worker, what in ((bench.b, "1"), (bench.a, "2"), (bench.b, "0")):
        assert bench.put(worker, what) is True
    assert bench.waiting() == [("b", "1"), ("a", "2"), ("b", "0")]
    assert bench.agenda.run_all() == 3
    assert bench.done == [("b", "1"), ("a", "2"), ("b", "0")]


def test_an_empty_queue_has_no_action_and_leaves_no_trace(bench):
    """As if nothing had ever been queued."""
    before = bench.time.digest()
    bench.put(bench.a, "1")
    bench.put(bench.b, "1")
    bench.agenda.run_all()
    assert (bench.enabled(), bench.time.digest()) == ([], before)


def test_what_waits_already_is_not_queued_again(bench):
    """False; the same words of another worker, and other words of the same, are other work."""
    assert [bench.put(*item) for item in ((bench.a, "1"), (bench.a, "1"), (bench.b, "1"), (bench.a, "2"))] == [
        *(True, False, True, True)
    ]
    assert bench.agenda.run_all() == 3
    assert bench.put(bench.a, "1") is True


def test_a_running_item_can_be_queued_again_and_runs_later(bench):
    """It is not waiting any more; it goes behind the others, and nothing can be chosen meanwhile."""
    enabled = []

    def again():
        assert bench.put(bench.a, "1") is True
        assert bench.put(bench.a, "1") is False
        enabled.extend(bench.enabled())

    bench.a.react["1"] = lambda: (again(), bench.a.react.clear())
    bench.put(bench.a, "1")
    bench.put(bench.b, "1")
    assert bench.agenda.run_all() == 3
    assert bench.done == [("a", "1"), ("b", "1"), ("a", "1")]
    assert enabled == []


def test_cancelling_takes_one_item_or_all_of_a_worker_off_the_queue(bench):
    """Says how many; the order of the others stays; the next one becomes the action."""
    for worker, what in ((bench.a, "1"), (bench.b, "1"), (bench.a, "2"), (bench.a, "3"), (bench.b, "2")):
        bench.put(worker, what)
    assert bench.queue.cancel(bench.a, "9") == 0
    assert bench.queue.cancel(bench.a, "1") == 1
    assert bench.enabled() == [(bench.queue, "1", "b does 1")]
    assert bench.queue.cancel(bench.a) == 2
    assert bench.waiting() == [("b", "1"), ("b", "2")]
    assert bench.queue.cancel_all() == 2
    assert (bench.waiting(), bench.enabled(), bench.done) == ([], [], [])


def test_cancelling_from_inside_a_work_item_works(bench):
    """The item that runs is not on the queue."""
    bench.a.react["1"] = lambda: bench.queue.cancel(bench.a)
    for what in "123":
        bench.put(bench.a, what)
    assert bench.agenda.run_all() == 1
    assert (bench.waiting(), bench.done) == ([], [("a", "1")])


def test_flush_waits_for_all_that_is_queued(bench):
    """In order; says how many; the agenda has nothing left."""
    bench.put(bench.a, "1")
    bench.put(bench.b, "2")
    assert bench.queue.flush() == 2
    assert bench.done == [("a", "1"), ("b", "2")]
    assert bench.enabled() == []
    assert bench.queue.flush() == 0


def test_flush_waits_only_for_what_was_queued_when_it_began(bench):
    """Work that queues itself again would be waited for without end."""
    bench.a.react["1"] = lambda: bench.put(bench.a, "1")
    bench.put(bench.a, "1")
    bench.put(bench.b, "1")
    assert bench.queue.flush() == 2
    assert bench.waiting() == [("a", "1")]
    assert bench.enabled() == [(bench.queue, "1", "a does 1")]


def test_flush_does_not_run_what_an_item_has_cancelled(bench):
    """Neither does it count it."""
    bench.a.react["1"] = lambda: bench.queue.cancel(bench.b)
    bench.put(bench.a, "1")
    bench.put(bench.b, "1")
    bench.put(bench.a, "2")
    assert bench.queue.flush() == 2
    assert bench.done == [("a", "1"), ("a", "2")]


@pytest.mark.parametrize("way", ["agenda", "flush"])
def test_flush_from_its_own_work_is_a_deadlock(bench, way):
    """-EDEADLK: it would wait for itself. The item is over, which is told; the others go on."""
    bench.a.react["1"] = bench.queue.flush
    bench.put(bench.a, "1")
    bench.put(bench.b, "1")
    run = bench.agenda.run_all if way == "agenda" else bench.queue.flush
    assert run() == 2
    assert [event.after for event in bench.time.events if event.verb is Verb.REFUSE] == ["-EDEADLK"]
    assert (bench.queue.running, bench.waiting()) == (False, [])


def test_work_that_is_refused_something_ends_and_does_not_stop_who_waits(bench):
    """Work has nobody to return an error to: it is told, and the rest of the queue runs."""

    def fail():
        raise KernelError("EIO", "the unit does not answer")

    bench.a.react["1"] = fail
    bench.put(bench.a, "1")
    bench.put(bench.b, "1")
    assert bench.queue.flush() == 2
    refusals = [event for event in bench.time.events if event.verb is Verb.REFUSE]
    assert [(event.after, "the unit does not answer" in event.subject) for event in refusals] == [("-EIO", True)]


def test_who_must_not_sleep_must_not_flush(bench):
    """A handler runs under a spinlock: -EDEADLK, and nothing has run."""

    def refuse(call):
        raise KernelError("EDEADLK", f"{call} in a handler")

    strict = OrderedWorkqueue(bench.time, "strict", bench.agenda, might_sleep=refuse)
    strict.queue(bench.a, "1", "a does 1")
    with pytest.raises(KernelError, match="flush_workqueue"):
        strict.flush()
    assert [work.what for work in strict.waiting()] == ["1"]


def test_two_queues_do_not_hold_each_other_up(bench):
    """Each has its own head; a work item of one may flush the other."""
    other = OrderedWorkqueue(bench.time, "other", bench.agenda)
    other.queue(bench.b, "x", "b does x")
    bench.a.react["1"] = other.flush
    bench.put(bench.a, "1")
    assert [what for _, what, _ in bench.enabled()] == ["x", "1"]
    bench.agenda.run(bench.agenda.actions(bench.queue)[0].number)
    assert bench.done == [("a", "1"), ("b", "x")]
    assert bench.enabled() == []


def test_time_travel_restores_the_queue_and_its_action(bench):
    """Undo and redo around every step."""
    bench.time.emit("host", "test", Verb.BOOT, "a queue")
    calls = [
        lambda: bench.put(bench.a, "1"),
        lambda: bench.put(bench.b, "1"),
        lambda: bench.agenda.run(bench.agenda.actions()[0].number),
        lambda: bench.queue.cancel(bench.b),
        lambda: bench.put(bench.b, "2"),
        bench.queue.flush,
    ]
    seen = [(bench.time.now, bench.waiting(), bench.enabled(), bench.time.digest())]
    for at, call in enumerate(calls):
        with bench.time.operation(f"call {at}"):
            call()
        seen.append((bench.time.now, bench.waiting(), bench.enabled(), bench.time.digest()))
    for step, *then in (*reversed(seen), *seen):
        bench.time.go(step)
        assert [bench.waiting(), bench.enabled(), bench.time.digest()] == then


@pytest.mark.parametrize("course", list(itertools.product("qrc", repeat=4)), ids="".join)
def test_whatever_is_queued_run_or_cancelled_the_action_is_the_head(bench, course):
    """Exactly one action while something waits, none otherwise: every course of four calls."""
    for at, call in enumerate(course):
        if call == "q":
            bench.put(bench.a if at % 2 else bench.b, str(at))
        elif call == "c":
            bench.queue.cancel(bench.a)
        elif bench.agenda.actions():
            bench.agenda.run(bench.agenda.actions()[0].number)
        assert [what for _, what, _ in bench.enabled()] == [what for _, what in bench.waiting()[:1]]


class TwinOfQueue(RuleBasedStateMachine):
    """Any course of calls: the queue is a plain list."""

    def __init__(self):
        super().__init__()
        self.bench = Bench()
        self.twin, self.done = [], []

    def worker(self, name):
        """One of the two."""
        return self.bench.a if name == "a" else self.bench.b

    @rule(name=st.sampled_from("ab"), what=st.sampled_from("123"))
    def queue(self, name, what):
        """New, or waiting already."""
        assert self.bench.put(self.worker(name), what) is ((name, what) not in self.twin)
        if (name, what) not in self.twin:
            self.twin.append((name, what))

    @precondition(lambda self: self.twin)
    @rule()
    def run(self):
        """The head runs."""
        (action,) = self.bench.agenda.actions()
        self.bench.agenda.run(action.number)
        self.done.append(self.twin.pop(0))

    @rule(name=st.sampled_from("ab"), what=st.sampled_from("123") | st.none())
    def cancel(self, name, what):
        """Some go unrun."""
        gone = [item for item in self.twin if item[0] == name and what in (None, item[1])]
        assert self.bench.queue.cancel(self.worker(name), what) == len(gone)
        self.twin = [item for item in self.twin if item not in gone]

    @rule()
    def flush(self):
        """All run."""
        assert self.bench.queue.flush() == len(self.twin)
        self.done += self.twin
        self.twin = []

    @invariant()
    def both_agree(self):
        """What waits, what could run, what was done."""
        assert self.bench.waiting() == self.twin
        assert self.bench.done == self.done
        assert [what for _, what, _ in self.bench.enabled()] == [what for _, what in self.twin[:1]]


TestTwinOfQueue = TwinOfQueue.TestCase
