"""The IOASID core behind the face of its naive twin, users with habits, and the two compared call by call.

An action is plain data: the name of a call and its arguments. ``Pair.do`` carries it out on both cores, compares what
they answer and what every subscriber heard; ``Pair.compare`` compares all that can be observed.
"""

from __future__ import annotations

from typing import Any

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.core import IoasidCore, IoasidRefused
from pasidlab.kernel.ioasid.notifier import NotifyFlag, Priority
from pasidlab.timeline import Agenda, Part, Timeline, Verb
from tests.twins.naive_ioasid import NaiveIoasid, Refused

SUBSCRIBERS = {
    "kvm": Priority.CPU,
    "vdcm": Priority.DEVICE,
    "iommu": Priority.IOMMU,
    "late": Priority.LAST,
    "deaf": Priority.DEVICE,
    "rogue": Priority.CPU,
}
TOKENS, DATA = ("mm1", "mm2", "mm3"), ("data1", "data2")
ALLOCATORS = ("down1", "down2", "stuck")
"""The first letter stands for the functions: down1 and down2 share theirs."""


class UsersHabits:
    """What the users do, on whichever core: in handlers only what is allowed there, except for the rogue."""

    def priority(self, who: str) -> int:
        """As registered."""
        return SUBSCRIBERS[who]

    def hear(self, core: Any, who: str, event: str, payload: tuple) -> None:
        """KVM and VDCM live from BIND to UNBIND or FREE, the IOMMU cleans up later, the rogue breaks the rules."""
        number = payload[0]
        if who == "rogue":
            wrong = {"ALLOC": core.detach_data, "BIND": core.detach_spid, "UNBIND": core.free_id, "FREE": core.put_id}
            wrong[event](number)
        elif who == "iommu" and event == "FREE":
            core.queue(who, str(number))
            core.queue(who, str(number))
        elif who in ("kvm", "vdcm") and event == "BIND":
            core.get_locked(number, who)
        elif who in ("kvm", "vdcm") and event in ("UNBIND", "FREE"):
            while core.holds(number, who):
                core.put_locked(number, who)

    def work(self, core: Any, who: str, what: str) -> None:
        """The clean-up: the SPID goes, then the worker's own references; waiting for oneself is refused."""
        core.detach_spid(int(what))
        while core.holds(int(what), who):
            core.put(int(what), who)
        core.flush()

    def choose(self, core: Any, allocator: str) -> int | None:
        """From 23 down to 20 whatever the range; or always the same number."""
        if allocator == "stuck":
            return 7
        return next((number for number in (23, 22, 21, 20) if not core.is_out(number)), None)


class _Subscriber:
    def __init__(self, core: CoreFace, name: str) -> None:
        self.path = self.notifier_name = name
        self.notifier_priority = SUBSCRIBERS[name]
        self._core = core

    def ioasid_notified(self, event, payload):
        private = payload.private.path if payload.private is not None else None
        told = (payload.ioasid, payload.spid, payload.set_id, private)
        self._core.heard.append((self.path, str(event), told))
        self._core.habits.hear(self._core, self.path, str(event), told)
        return True

    def run_work(self, what):
        self._core.habits.work(self._core, self.path, what)


class _Custom:
    refusal = "nothing left"

    def __init__(self, core: CoreFace, name: str) -> None:
        self.path = name
        self._core = core

    def alloc(self, minimum, maximum):
        return self._core.habits.choose(self._core, self.path)

    def free(self, ioasid):
        """It keeps no books."""


class _Down(_Custom):
    pass


class _Stuck(_Custom):
    pass


class CoreFace:
    """:class:`IoasidCore` with names and handles instead of objects: the methods of :class:`NaiveIoasid`."""

    def __init__(self, capacity: int, habits: UsersHabits) -> None:
        self.time, self.habits = Timeline(), habits
        self.agenda = Agenda(self.time)
        self.core = IoasidCore(self.time, "k.ioasid", "host", self.agenda, capacity=capacity)
        self.sets: list[Any] = []
        self.heard: list[tuple] = []
        self.parts: dict[str | None, Any] = {None: None} | {name: Part(self.time, name) for name in TOKENS + DATA}
        self.users: dict[str, Any] = {name: _Subscriber(self, name) for name in SUBSCRIBERS}
        self.users |= {name: (_Stuck if name == "stuck" else _Down)(self, name) for name in ALLOCATORS}

    def install(self, total):
        return self.core.capacity.install(total)

    def reserve(self, count):
        return self.core.capacity.reserve(count)

    def cancel(self, count):
        return self.core.capacity.cancel(count)

    def set(self, handle):
        return None if handle is None else self.sets[handle]

    def set_alloc(self, name, token, quota, kind=None):
        self.sets.append(self.core.sets.alloc(name, self.parts[token], quota, kind))
        return self.sets[-1].set_id

    def set_free(self, handle):
        self.core.sets.free(self.sets[handle])

    def adjust(self, handle, quota):
        self.core.sets.adjust(self.sets[handle], quota)

    def find_mm(self, token):
        found = self.core.sets.find_mm(self.parts[token])
        return None if found is None else found.set_id

    def for_each(self, handle, visit):
        visited: list[int] = []

        def note(number):
            visited.append(number)
            visit(self, handle, number)

        self.core.sets.for_each(self.sets[handle], note)
        return visited

    def alloc(self, handle, minimum, maximum, holder, data=None):
        return self.core.alloc(self.sets[handle], minimum, maximum, holder, self.parts[data])

    def free(self, handle, number):
        self.core.free(self.set(handle), number)

    def free_id(self, number):
        self.core.free(None, number)

    def free_all(self, handle):
        self.core.free_all(self.sets[handle])

    def get(self, number, holder, handle=None):
        self.core.get(number, holder, self.set(handle))

    def get_locked(self, number, holder, handle=None):
        self.core.get_locked(number, holder, self.set(handle))

    def get_if_owned(self, number, holder, current):
        self.core.get_if_owned(number, holder, self.parts[current])

    def put(self, number, holder, handle=None):
        return self.core.put(number, holder, self.set(handle))

    def put_id(self, number):
        return self.core.put(number, "owner")

    def put_locked(self, number, holder, handle=None):
        return self.core.put_locked(number, holder, self.set(handle))

    def find(self, number, handle=None, getter=None):
        found = self.core.find(number, self.set(handle), getter and (lambda part: getter(part.path)))
        return None if found is None else found.path

    def set_of(self, number):
        return self.core.set_of(number).set_id

    def attach_data(self, number, data):
        self.core.attach_data(number, self.parts[data])

    def detach_data(self, number):
        self.core.detach_data(number)

    def attach_spid(self, number, spid):
        self.core.attach_spid(number, spid)

    def detach_spid(self, number):
        self.core.detach_spid(number)

    def find_by_spid(self, handle, spid, holder=None):
        return self.core.find_by_spid(self.sets[handle], spid, holder)

    def register(self, who, handle=None):
        self.core.notifiers.register(self.users[who], self.set(handle))

    def unregister(self, who, handle=None):
        self.core.notifiers.unregister(self.users[who], self.set(handle))

    def register_mm(self, token, who):
        self.core.notifiers.register_mm(self.parts[token], self.users[who])

    def unregister_mm(self, token, who):
        self.core.notifiers.unregister_mm(self.parts[token], self.users[who])

    def register_allocator(self, name):
        self.core.register_allocator(self.users[name])

    def unregister_allocator(self, name):
        self.core.unregister_allocator(self.users[name])

    def queue(self, who, what):
        return self.core.work.queue(self.users[who], what, f"{who} does {what}")

    def cancel_work(self, who, what=None):
        return self.core.work.cancel(self.users[who], what)

    def run_work(self):
        actions = self.agenda.actions(self.core.work)
        if actions:
            self.agenda.run(actions[0].number)

    def flush(self):
        return self.core.work.flush()

    def holds(self, number, who):
        record = self.core.ids.get(number)
        return record.holders.count(who) if record is not None else 0

    def is_out(self, number):
        return number in self.core.ids

    def observe(self):
        core, sets = self.core, self.core.sets.items()
        capacity, both = core.capacity, NotifyFlag.ALL | NotifyFlag.SET
        return {
            "capacity": (capacity.total, capacity.available, capacity.reserved, capacity.installed),
            "sets": {
                number: (
                    *(one.name, one.token and one.token.path, one.kind, one.quota, one.free_pending),
                    tuple(who.path for who in one.chain.subscribers()),
                )
                for number, one in sets
            },
            "members": {number: tuple(one.ids.keys()) for number, one in sets},
            "spids": {number: dict(one.spids.items()) for number, one in sets},
            "ids": {
                number: (
                    *(record.owner.set_id, record.holders, record.free_pending, record.spid),
                    record.private and record.private.path,
                )
                for number, record in core.ids.items()
            },
            "states": {number: str(record.state) for number, record in core.ids.items()},
            "everyone": tuple(who.path for who in core.notifiers.global_chain.subscribers()),
            "by mm": sorted(
                (row.token.path, row.subscriber.path, row.active) for row in core.notifiers.registrations()
            ),
            "free goes to": {number: [who.path for who in core.notifiers.listeners(one, both)] for number, one in sets},
            "allocators": [[ops.path for ops in entry] for entry in core.allocators.entries()],
            "waiting": [(work.worker.path, work.what) for work in core.work.waiting()],
            "enabled": [action.what for action in self.agenda.actions()],
        }


class NaiveFace(NaiveIoasid):
    """The twin, with the few words more that the users speak."""

    def free_id(self, number):
        self.free(None, number)

    def put_id(self, number):
        return self.put(number, "owner")

    def is_out(self, number):
        return number in self.ids


def outcome(call, *args):
    """What a call answers, or why not, as a word."""
    try:
        return call(*args)
    except KernelError as error:
        return f"-{error.name}"
    except Refused as refused:
        return "no ID" if str(refused) == "INVALID" else f"-{refused}"
    except IoasidRefused:
        return "no ID"
    except ValueError:
        return "a mistake of the caller"


class Pair:
    """Both cores, and what they did so far: after each operation its step on the timeline and the twin's state."""

    def __init__(self, capacity: int = 12) -> None:
        habits = UsersHabits()
        self.core, self.twin = CoreFace(capacity, habits), NaiveFace(capacity, habits)
        self.time.emit("host", "test", Verb.BOOT, "a pair of cores")
        self.past: list[tuple[int, list[Any], bytes]] = []
        self.at = 0
        self._note()

    @property
    def time(self) -> Timeline:
        """The timeline of the clever core."""
        return self.core.time

    def do(self, what: str, *args: Any) -> Any:
        """Carry out one call on both, as one operation; the answers and what was heard must be the same."""
        self.core.heard.clear()
        self.twin.heard.clear()
        with self.time.operation(f"{what}{args}"):
            answer = outcome(getattr(self.core, what), *args)
        expected = outcome(getattr(self.twin, what), *args)
        assert answer == expected, f"{what}{args}: the core answers {answer!r}, the twin {expected!r}"
        heard, said = self.core.heard, self.twin.heard
        assert heard == said, f"{what}{args}: the core told {heard}, the twin {said}"
        del self.past[self.at + 1 :]
        self._note()
        self.at += 1
        return answer

    def compare(self) -> dict[str, Any]:
        """Everything that can be observed is the same; returns it."""
        found, expected = self.core.observe(), self.twin.observe()
        for what, value in expected.items():
            assert found[what] == value, f"{what}: the core has {found[what]}, the twin {value}"
        return expected

    def go(self, at: int) -> None:
        """Travel to the moment after the operation number ``at`` (0: before the first), back or forward."""
        step, sets, saved = self.past[at]
        self.time.go(step)
        self.core.sets[:] = sets
        self.twin.load(saved)
        self.at = at

    def _note(self) -> None:
        self.past.append((self.time.now, list(self.core.sets), self.twin.save()))
