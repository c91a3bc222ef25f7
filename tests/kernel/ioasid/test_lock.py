"""Handlers run under the allocator's lock: what takes it again is reported and refused (facts 1.2, 1.9; bug class 12).

Which calls take the lock is checked against the whole API, so that a new call cannot be forgotten here.
"""

from typing import Any

import pytest

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.allocators import Allocators
from pasidlab.kernel.ioasid.capacity import Capacity
from pasidlab.kernel.ioasid.core import IoasidCore
from pasidlab.kernel.ioasid.ids import IoasidIds
from pasidlab.kernel.ioasid.notifier import NotifyFlag, Priority
from pasidlab.kernel.ioasid.sets import IoasidSets
from pasidlab.kernel.ioasid.subscriptions import Subscriptions
from pasidlab.timeline import Actor, Verb


class Stranger:
    """An allocator that nobody knows."""

    path, refusal = "stranger", "none"


class Scene:
    """What the calls below need: a set with an ID that has a SPID and a user, an empty set, a token without set."""

    def __init__(self, bench, make_listener):
        self.core, self.tokens = bench.core, bench.tokens
        self.other = make_listener("other")
        self.the_set, self.empty = bench.set("mm1"), bench.set("mm2")
        self.number = bench.alloc(self.the_set)
        self.core.attach_spid(self.number, 5)
        self.core.get(self.number, "user")
        self.free_number = 30


LOCKING: dict[str, Any] = {
    "capacity.install": lambda at: at.core.capacity.install(32),
    "capacity.reserve": lambda at: at.core.capacity.reserve(1),
    "capacity.cancel": lambda at: at.core.capacity.cancel(0),
    "sets.alloc": lambda at: at.core.sets.alloc("new", at.tokens["mm3"], 1),
    "sets.free": lambda at: at.core.sets.free(at.empty),
    "sets.adjust": lambda at: at.core.sets.adjust(at.the_set, 9),
    "sets.find_mm": lambda at: at.core.sets.find_mm(at.tokens["mm1"]),
    "alloc": lambda at: at.core.alloc(at.the_set, 1, 9, "x"),
    "free": lambda at: at.core.free(at.the_set, at.number),
    "free of an unknown ID": lambda at: at.core.free(None, at.free_number),
    "free_all": lambda at: at.core.free_all(at.the_set),
    "get": lambda at: at.core.get(at.number, "x"),
    "get_if_owned": lambda at: at.core.get_if_owned(at.number, "x", at.tokens["mm1"]),
    "put": lambda at: at.core.put(at.number, "user"),
    "put of an unknown ID": lambda at: at.core.put(at.free_number, "user"),
    "attach_data": lambda at: at.core.attach_data(at.number, at.tokens["mm3"]),
    "detach_data": lambda at: at.core.detach_data(at.number),
    "attach_spid": lambda at: at.core.attach_spid(at.number, 6),
    "detach_spid": lambda at: at.core.detach_spid(at.number),
    "find_by_spid": lambda at: at.core.find_by_spid(at.the_set, 5),
    "register_allocator": lambda at: at.core.register_allocator(Stranger()),
    "unregister_allocator": lambda at: at.core.unregister_allocator(Stranger()),
    "notifiers.register": lambda at: at.core.notifiers.register(at.other),
    "notifiers.unregister": lambda at: at.core.notifiers.unregister(at.other),
    "notifiers.register_mm": lambda at: at.core.notifiers.register_mm(at.tokens["mm3"], at.other),
    "notifiers.unregister_mm": lambda at: at.core.notifiers.unregister_mm(at.tokens["mm3"], at.other),
    "work.flush": lambda at: at.core.work.flush(),
}
"""Every call that takes the lock, or waits for others, as a handler could make it."""

FREE: dict[str, Any] = {
    "get_locked": lambda at: at.core.get_locked(at.number, "x"),
    "put_locked": lambda at: at.core.put_locked(at.number, "user"),
    "work.queue": lambda at: at.core.work.queue(at.other, "later", "something for later"),
    "work.cancel": lambda at: at.core.work.cancel(at.other),
    "find": lambda at: at.core.find(at.number),
    "living": lambda at: at.core.living(at.number),
    "refs": lambda at: at.core.refs(at.number),
    "set_of": lambda at: at.core.set_of(at.number),
    "sets.get": lambda at: at.core.sets.get(0),
    "sets.has": lambda at: at.core.sets.has(at.the_set),
    "sets.require": lambda at: at.core.sets.require(at.the_set),
    "sets.for_each": lambda at: at.core.sets.for_each(at.the_set, lambda number: None),
    "sets.keys": lambda at: at.core.sets.keys(),
    "sets.values": lambda at: at.core.sets.values(),
    "sets.items": lambda at: at.core.sets.items(),
    "notifiers.listeners": lambda at: at.core.notifiers.listeners(at.the_set, NotifyFlag.SET),
    "notifiers.registrations": lambda at: at.core.notifiers.registrations(),
}
"""What a handler may do: the variants made for it, deferred work, and looking."""

INSIDE = {
    *("capacity.take", "capacity.give", "sets.destroy", "notifiers.connect", "notifiers.deliver"),
    *("allocators.entries", "allocators.register", "allocators.unregister"),
}
"""What the parts of the core do for each other, under the lock that the core has taken."""

EVENTS = ("ALLOC", "BIND", "UNBIND", "FREE")


def make_happen(bench, event, the_set):
    """Let one more ID of a set go through its life up to an event."""
    number = bench.alloc(the_set)
    if event in ("BIND", "UNBIND"):
        bench.core.attach_spid(number, 77)
    if event == "UNBIND":
        bench.core.detach_spid(number)
    if event == "FREE":
        bench.core.get(number, "user")
        bench.core.free(the_set, number)


def outside(call, scene):
    """How a call ends that no handler makes."""
    try:
        call(scene)
    except KernelError as error:
        return error.name
    return "ok"


def deadlocks(bench):
    """What was reported."""
    return [event for event in bench.time.events if event.verb is Verb.DEADLOCK]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("call", LOCKING)
def test_a_handler_that_takes_the_lock_is_reported_and_refused(bench, make_listener, call, event):
    """-EDEADLK, an event that names call and handler, no change; everyone else is still told, and life goes on."""
    heard: list[Any] = []
    bad = bench.listen("bad", Priority.CPU, heard=heard)
    bench.listen("good", heard=heard)
    scene, found = Scene(bench, make_listener), []

    def try_it(payload):
        before = bench.time.digest()
        with pytest.raises(KernelError) as refused:
            LOCKING[call](scene)
        found.append((refused.value.name, bench.time.digest() == before))
        raise refused.value

    heard.clear()
    bad.react[event] = try_it
    make_happen(bench, event, scene.the_set)
    assert found == [("EDEADLK", True)]
    assert [name for name, what, _ in heard if what == event] == ["bad", "good"]
    (report,) = deadlocks(bench)
    assert report.fact("handler") == "bad"
    assert str(report.fact("call")).startswith("ioasid_" if call != "work.flush" else "flush_workqueue")
    (notify,) = (one for one in bench.time.events if one.number == report.cause)
    assert (notify.verb, notify.fact("event")) == (Verb.NOTIFY, event)
    bad.react.clear()
    assert outside(LOCKING[call], scene) != "EDEADLK"


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("call", FREE)
def test_what_takes_no_lock_is_fine_in_a_handler(bench, make_listener, call, event):
    """The variants for handlers, work for later, and looking."""
    kvm = bench.listen("kvm")
    scene = Scene(bench, make_listener)
    kvm.react[event] = lambda payload: FREE[call](scene)
    make_happen(bench, event, scene.the_set)
    assert deadlocks(bench) == []
    assert bench.verbs(Verb.REFUSE) == []


def test_a_handler_that_ignores_the_refusal_goes_on(bench, make_listener):
    """And does what it may do instead: its reference goes, and the rest is queued."""
    kvm = bench.listen("kvm", Priority.CPU)
    the_set = bench.set()

    def handle(payload):
        with pytest.raises(KernelError, match="EDEADLK"):
            bench.core.put(payload.ioasid, "user")
        bench.core.put_locked(payload.ioasid, "user")

    kvm.react["FREE"] = handle
    number = bench.dying(the_set)
    assert number not in bench.core.ids
    assert len(deadlocks(bench)) == 1
    assert bench.verbs(Verb.REFUSE) == []


def test_the_lock_is_free_again_whatever_a_handler_did(bench):
    """Also if it raised something that is no errno."""
    kvm = bench.listen("kvm")
    the_set = bench.set()
    kvm.react["ALLOC"] = lambda payload: [].pop()
    with pytest.raises(IndexError):
        bench.alloc(the_set)
    kvm.react.clear()
    assert bench.core.lock.handler is None
    bench.alloc(the_set)


def api(kind, prefix=""):
    """The public methods that a class adds to what every actor has."""
    return {f"{prefix}{name}" for name, value in vars(kind).items() if callable(value) and not name.startswith("_")} - {
        f"{prefix}{name}" for name in dir(Actor)
    }


def test_no_call_of_the_api_is_left_out():
    """Locking, fit for handlers, or inside: each public method of the core and its parts is one of the three."""
    whole = api(IoasidIds) | api(IoasidCore) | api(IoasidSets, "sets.") | api(Subscriptions, "notifiers.")
    whole |= api(Capacity, "capacity.") | api(Allocators, "allocators.")
    named = {name.split(" of an ")[0] for name in (*LOCKING, *FREE) if not name.startswith("work.")} | INSIDE
    assert named == whole
