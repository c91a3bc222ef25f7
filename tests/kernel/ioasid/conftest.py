"""An IOASID core by itself, and subscribers that remember what they were told."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.core import IoasidCore, IoasidRefused
from pasidlab.kernel.ioasid.notifier import Priority
from pasidlab.timeline import Agenda, Part, Timeline, Verb


class Listener:
    """A subscriber: notes each event, and does what the test told it to do on it."""

    def __init__(self, name, priority=Priority.LAST, heard=None, react=None):
        self.path = self.notifier_name = name
        self.notifier_priority = priority
        self.heard = [] if heard is None else heard
        self.react = react or {}

    def ioasid_notified(self, event, payload):
        self.heard.append((self.notifier_name, str(event), payload))
        if event in self.react:
            self.react[event](payload)
        return True


class Bench:
    """A core with 32 IDs, and short ways to use it."""

    def __init__(self, capacity=32):
        self.time = Timeline()
        self.agenda = Agenda(self.time)
        self.core = IoasidCore(self.time, "k.ioasid", "host", self.agenda, capacity=capacity)
        self.tokens = {name: Part(self.time, name) for name in ("mm1", "mm2", "mm3")}

    def set(self, name="mm1", quota=8):
        """The set of a token."""
        return self.core.sets.alloc(name, self.tokens[name], quota)

    def alloc(self, the_set, minimum=1, maximum=1 << 20):
        """An ID held by `owner`."""
        return self.core.alloc(the_set, minimum, maximum, "owner")

    def listen(self, name, priority=Priority.LAST, token="mm1", **more):
        """A subscriber of a token's set, or with ``token=None`` of the global chain."""
        listener = Listener(name, priority, **more)
        if token is None:
            self.core.notifiers.register(listener)
        else:
            self.core.notifiers.register_mm(self.tokens[token], listener)
        return listener

    def dying(self, the_set, holder="user"):
        """An ID that was freed while ``holder`` uses it."""
        number = self.alloc(the_set)
        self.core.get(number, holder)
        self.core.free(the_set, number)
        return number

    def refs(self, ioasid):
        """The reference count."""
        return self.core.ids[ioasid].refs

    def verbs(self, *wanted):
        """Verb and subject of the events with one of these verbs."""
        return [(event.verb, event.subject) for event in self.time.events if event.verb in wanted]

    def told(self):
        """The events that went out, in order."""
        return [event.fact("event") for event in self.time.events if event.verb is Verb.NOTIFY]

    def errno(self, call, *args, **kwargs):
        """The errno of a call that must be refused, and must change nothing."""
        before = self.time.digest()
        with pytest.raises(KernelError) as refused:
            call(*args, **kwargs)
        assert self.time.digest() == before
        return refused.value.name

    def refused(self, call, *args, **kwargs):
        """Why there is no ID (INVALID_IOASID); nothing may have changed."""
        before = self.time.digest()
        with pytest.raises(IoasidRefused) as refused:
            call(*args, **kwargs)
        assert self.time.digest() == before
        return str(refused.value)

    def unchanged(self, call, *args, **kwargs):
        """What a call answers that must change nothing."""
        before = self.time.digest()
        answer = call(*args, **kwargs)
        assert self.time.digest() == before
        return answer


@pytest.fixture
def bench():
    """A fresh core."""
    return Bench()


@pytest.fixture
def make_bench():
    """Cores of any capacity."""
    return Bench


@pytest.fixture
def make_listener():
    """Subscribers that are not registered yet."""
    return Listener
