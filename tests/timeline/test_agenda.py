"""Enabled actions: an explicit list, chosen from outside, oldest first when nobody chooses."""

import pytest

from pasidlab.timeline import Agenda, Part, Timeline, Verb


class Worker(Part):
    """Remembers what it was asked to do, and can ask for more."""

    def __init__(self, time, agenda, path="worker"):
        super().__init__(time, path)
        self.agenda = agenda
        self.followers = {}

    def run_enabled(self, what):
        self.timeline.emit("host", self.path, Verb.RUN_WORK, what)
        for follower in self.followers.get(what, ()):
            self.agenda.enable(self, follower, follower)


@pytest.fixture
def time():
    """A fresh timeline."""
    return Timeline()


@pytest.fixture
def agenda(time):
    """Its agenda."""
    return Agenda(time)


def done(time):
    """What was done, in order, as the event stream tells it."""
    return [event.subject for event in time.events]


def test_nothing_runs_by_itself(time, agenda):
    """An enabled action waits until somebody picks it."""
    agenda.enable(Worker(time, agenda), "a", "do a")
    assert [(action.what, action.label) for action in agenda.actions()] == [("a", "do a")]
    assert done(time) == []


def test_any_action_can_be_picked(time, agenda):
    """The order is the chooser's."""
    worker = Worker(time, agenda)
    first, second = agenda.enable(worker, "a", ""), agenda.enable(worker, "b", "")
    agenda.run(second)
    agenda.run(first)
    assert done(time) == ["b", "a"]
    assert agenda.actions() == []


def test_running_to_quiescence_takes_the_oldest_first_and_includes_what_that_enables(time, agenda):
    """Work that queues work is carried out as well, behind what waited already."""
    worker = Worker(time, agenda)
    worker.followers["a"] = ["c"]
    agenda.enable(worker, "a", "")
    agenda.enable(worker, "b", "")
    assert agenda.run_all() == 3
    assert done(time) == ["a", "b", "c"]


def test_an_endless_chain_of_work_is_an_error(time, agenda):
    """A livelock is found, not waited for."""
    worker = Worker(time, agenda)
    worker.followers["a"] = ["a"]
    agenda.enable(worker, "a", "")
    with pytest.raises(RuntimeError, match="must come to rest within 50 steps"):
        agenda.run_all(limit=50)


def test_a_disabled_action_never_runs(time, agenda):
    """Taking work off the list is not doing it."""
    number = agenda.enable(Worker(time, agenda), "a", "")
    agenda.disable(number)
    assert agenda.run_all() == 0
    assert done(time) == []
    with pytest.raises(KeyError):
        agenda.disable(number)


def test_an_empty_agenda_has_the_digest_of_an_unused_one(time, agenda):
    """Work that is done leaves no trace in the state."""
    before = time.digest()
    worker = Worker(time, agenda)
    agenda.enable(worker, "a", "")
    agenda.enable(worker, "b", "")
    assert time.digest() != before
    agenda.run_all()
    assert time.digest() == before


def test_actions_can_be_listed_by_runner(time, agenda):
    """A device finds its own work among everybody's."""
    one, other = Worker(time, agenda, "one"), Worker(time, agenda, "other")
    agenda.enable(one, "a", "")
    agenda.enable(other, "b", "")
    assert [action.what for action in agenda.actions(other)] == ["b"]


def test_waiting_work_travels_in_time(time, agenda):
    """Going back before the action was enabled takes it off the list, forward puts it back."""
    worker = Worker(time, agenda)
    before = time.journal.position
    agenda.enable(worker, "a", "")
    after = time.journal.position
    time.journal.seek(before)
    assert agenda.actions() == []
    time.journal.seek(after)
    assert [action.what for action in agenda.actions()] == ["a"]
