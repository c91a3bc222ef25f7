"""The rules about the event stream read each event once, and start afresh when time is turned back."""

from pasidlab import Machine
from pasidlab.invariants.history import History
from pasidlab.timeline import HOST, Verb


def world():
    """A machine and a way to make its host's core say something."""
    m = Machine()

    def say(verb, number=7, **facts):
        return m.timeline.emit(HOST, "ioasid", verb, f"IOASID {number}", ioasid=number, **facts)

    return m, say


def violated(m):
    """The numbers of the rules that are broken."""
    return [violation.rule.number for violation in m.check().violations]


def test_a_number_handed_out_twice_is_found_and_stays_found():
    """Rule 2, in whichever check the second alloc was new."""
    m, say = world()
    say(Verb.ALLOC)
    assert violated(m) == []
    say(Verb.ALLOC)
    assert violated(m) == [2]
    assert violated(m) == [2]


def test_what_was_undone_is_forgotten():
    """Back before the mistake, and on another way: nothing is held against the new history."""
    m, say = world()
    say(Verb.ALLOC)
    before = m.timeline.now
    say(Verb.ALLOC)
    assert violated(m) == [2]
    m.timeline.go(before)
    assert violated(m) == []
    say(Verb.RECLAIM)
    say(Verb.ALLOC)
    assert violated(m) == []


def test_a_reference_on_a_dying_number_breaks_rule_4():
    """Between FREE and reclaim."""
    m, say = world()
    say(Verb.ALLOC)
    say(Verb.GET, holder="a")
    say(Verb.FREE)
    say(Verb.GET, holder="b")
    assert violated(m) == [4]


def test_two_binds_or_two_frees_break_rule_9():
    """(BIND UNBIND)*, at most one FREE."""
    for told, broken in ((("BIND", "UNBIND", "BIND"), []), (("BIND", "BIND"), [9]), (("FREE", "FREE"), [9])):
        m, say = world()
        say(Verb.ALLOC)
        for event in told:
            say(Verb.NOTIFY, event=event)
        assert violated(m) == broken


def test_a_handler_that_takes_the_lock_breaks_rule_12():
    """Whatever it tried is named."""
    m, say = world()
    told = say(Verb.NOTIFY, event="FREE")
    with m.timeline.because(told):
        handled = m.timeline.emit(HOST, "kvm", Verb.HANDLE, "FREE")
        with m.timeline.because(handled):
            say(Verb.DEADLOCK)
    assert str(m.check().violations[0]).startswith("invariant 12")


def test_reading_on_is_the_same_as_reading_anew():
    """The remembered reading against one from the start, at every step of a run with a mistake in it."""
    m, say = world()
    reading = History()
    for verb in (Verb.ALLOC, Verb.FREE, Verb.GET, Verb.RECLAIM, Verb.ALLOC, Verb.ALLOC, Verb.RECLAIM):
        say(verb, holder="x")
        assert reading.catch_up(m.timeline).found == History().catch_up(m.timeline).found
    for step in range(m.timeline.now, m.timeline.floor, -1):
        m.timeline.go(step)
        assert reading.catch_up(m.timeline).found == History().catch_up(m.timeline).found
