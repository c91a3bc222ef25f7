"""Every fault point: whichever allocation fails inside a call, the world is as if the call had never been made.

For each call of the core, in each of several worlds, the 1st, 2nd, ... nth request for memory fails, until the call
gets through. After each failure the digest, and everything that can be reached, is as before; then the call is tried
again and must lead to the very world to which it would have led without a failure. ``pytest -s`` shows the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.core import IoasidCore, IoasidRefused
from pasidlab.kernel.ioasid.notifier import Priority
from pasidlab.kernel.ioasid.quota.cgroup import CgroupQuota
from pasidlab.kernel.ioasid.quota.fixed import FixedQuota
from pasidlab.kernel.ioasid.quota.rlimit import RlimitQuota
from pasidlab.kernel.slab import Slab
from pasidlab.timeline import Agenda, Part, Table, Timeline, Verb
from tests.properties.snapshot import snapshot
from tests.worlds import World

POINTS: dict[tuple[str, str], int] = {}
"""How many fault points each call had, by call and world."""


class Listener:
    """A subscriber that takes a reference at BIND and lets go at UNBIND or FREE."""

    def __init__(self, core: IoasidCore, name: str) -> None:
        self.path = self.notifier_name = name
        self.notifier_priority = Priority.CPU
        self.core = core

    def ioasid_notified(self, event, payload):
        if event == "BIND":
            self.core.get_locked(payload.ioasid, self.path)
        elif event in ("UNBIND", "FREE") and self.path in self.core.ids[payload.ioasid].holders:
            self.core.put_locked(payload.ioasid, self.path)
        return True

    def run_work(self, what):
        self.core.detach_spid(int(what))


class Custom(Part):
    """A custom allocator that keeps its own books: ``out`` are the numbers that it has given."""

    refusal = "no number is left"

    def __init__(self, time: Timeline, path: str) -> None:
        super().__init__(time, path)
        self.out = Table[int, bool](time, f"{path}.out")

    def alloc(self, minimum, maximum):
        number = next(number for number in range(40, 60) if number not in self.out)
        self.out[number] = True
        return number

    def free(self, ioasid):
        del self.out[ioasid]


class Scene:
    """A core, and everything that the calls below name: two sets, an ID with a SPID and users, a dying ID."""

    def __init__(self, policy: Any = FixedQuota, custom: bool = False) -> None:
        self.time = Timeline()
        self.agenda = Agenda(self.time)
        self.core = IoasidCore(self.time, "k", "host", self.agenda, capacity=32, policy=policy)
        self.mm = {name: Part(self.time, name) for name in ("mm1", "mm2", "mm3")}
        self.kvm, self.late = Listener(self.core, "kvm"), Listener(self.core, "late")
        self.custom, self.other = Custom(self.time, "custom"), Custom(self.time, "other")
        if custom:
            self.core.register_allocator(self.custom)
        self.core.notifiers.register_mm(self.mm["mm1"], self.kvm)
        self.core.notifiers.register_mm(self.mm["mm3"], self.kvm)
        core = self.core
        self.one = core.policy.make_set("vm1", self.mm["mm1"], 8)
        self.two = core.policy.make_set("vm2", self.mm["mm2"], 4)
        self.used, self.dying, self.idle = (self.alloc(self.one) for _ in range(3))
        core.attach_spid(self.used, 5)
        for number in (self.used, self.dying):
            core.get(number, "user")
        core.free(self.one, self.dying)
        core.capacity.reserve(2)
        core.work.queue(self.late, str(self.used), "later")

    def without_ids(self) -> None:
        """Every ID comes back (the first custom allocator must be registered before there is one)."""
        self.core.free_all(self.one)
        self.core.put(self.dying, "user")
        self.core.put(self.used, "user")

    def alloc(self, the_set: Any) -> int:
        """An ID for whoever owns the set."""
        return self.core.alloc(the_set, 1, 99, "owner", current=the_set.token)


CALLS: dict[str, Callable[[Scene], object]] = {
    "capacity.install": lambda at: at.core.capacity.install(32),
    "capacity.reserve": lambda at: at.core.capacity.reserve(1),
    "capacity.cancel": lambda at: at.core.capacity.cancel(1),
    "sets.alloc of type MM": lambda at: at.core.sets.alloc("vm3", at.mm["mm3"], 2),
    "sets.alloc of type NONE": lambda at: at.core.sets.alloc("host", None, 2),
    "sets.alloc without quota": lambda at: at.core.sets.alloc("vm3", at.mm["mm3"], None),
    "policy.make_set": lambda at: at.core.policy.make_set("vm3", at.mm["mm3"], 2),
    "policy.change": lambda at: at.core.policy.change(at.one, 6),
    "sets.free": lambda at: at.core.sets.free(at.two),
    "sets.adjust": lambda at: at.core.sets.adjust(at.one, 9) if at.one.quota is not None else None,
    "sets.find_mm": lambda at: at.core.sets.find_mm(at.mm["mm1"]),
    "sets.for_each": lambda at: at.core.sets.for_each(at.one, lambda number: at.core.free(at.one, number)),
    "alloc": lambda at: at.alloc(at.one),
    "the first alloc of a set": lambda at: at.alloc(at.two),
    "free of an idle ID": lambda at: at.core.free(at.one, at.idle),
    "free of a used ID": lambda at: at.core.free(None, at.used),
    "free_all": lambda at: at.core.free_all(at.one),
    "get": lambda at: at.core.get(at.used, "another"),
    "get_if_owned": lambda at: at.core.get_if_owned(at.used, "another", at.mm["mm1"]),
    "put": lambda at: at.core.put(at.used, "user"),
    "the last put": lambda at: at.core.put(at.dying, "user"),
    "find": lambda at: at.core.find(at.used),
    "set_of": lambda at: at.core.set_of(at.used),
    "attach_data": lambda at: at.core.attach_data(at.used, at.mm["mm3"]),
    "detach_data": lambda at: at.core.detach_data(at.used),
    "attach_spid": lambda at: at.core.attach_spid(at.idle, 6),
    "detach_spid": lambda at: at.core.detach_spid(at.used),
    "find_by_spid": lambda at: at.core.find_by_spid(at.one, 5, "another"),
    "notifiers.register on the global chain": lambda at: at.core.notifiers.register(at.late),
    "notifiers.register on the chain of a set": lambda at: at.core.notifiers.register(at.late, at.one),
    "notifiers.register_mm before the set": lambda at: at.core.notifiers.register_mm(at.mm["mm3"], at.late),
    "notifiers.register_mm on the empty set": lambda at: at.core.notifiers.register_mm(at.mm["mm2"], at.late),
    "notifiers.unregister": lambda at: at.core.notifiers.unregister(at.late),
    "notifiers.unregister_mm": lambda at: at.core.notifiers.unregister_mm(at.mm["mm1"], at.kvm),
    "register_allocator": lambda at: at.core.register_allocator(at.other),
    "unregister_allocator": lambda at: at.core.unregister_allocator(at.other),
    "work.queue": lambda at: at.core.work.queue(at.late, "99", "later"),
    "work.cancel": lambda at: at.core.work.cancel(at.late),
    "work.flush": lambda at: at.core.work.flush(),
}
"""Every call, in a world in which it succeeds."""

WORLDS: dict[str, Callable[[], Scene]] = {
    "fixed quotas": Scene,
    "custom allocator": lambda: Scene(custom=True),
    "cgroup": lambda: Scene(CgroupQuota),
    "rlimit": lambda: Scene(RlimitQuota, custom=True),
}

FAULT_POINTS = {
    "sets.alloc of type MM": 2,
    "sets.alloc of type NONE": 2,
    "sets.alloc without quota": 2,
    "policy.make_set": 2,
    "alloc": 3,
    "the first alloc of a set": 3,
    "notifiers.register_mm before the set": 1,
    "notifiers.register_mm on the empty set": 1,
    "register_allocator": 1,
}
"""Which calls allocate, and how often; all others never do."""


def attempt(scene: Scene, call: str) -> str:
    """``""``, or the reason for which there was no memory."""
    reason = ""
    try:
        CALLS[call](scene)
    except (KernelError, IoasidRefused) as error:
        reason = str(error)
    assert not reason or "no memory for" in reason
    return reason


def walk_fault_points(slab: Slab, begin: Callable[[], object], call: Callable[[], str], most: int = 20) -> int:
    """Let the 1st, 2nd, ... request fail until there is none left to fail; returns how many there were."""
    for nth in range(1, most):
        before = begin()
        slab.fail_nth = nth
        failure = call()
        assert failure or slab.fail_nth, f"request {nth} failed, and nobody was told"
        slab.fail_nth = 0
        if not failure:
            return nth - 1
        assert begin() == before, f"request {nth} failed ({failure}), and left something behind"
    raise AssertionError("a call must not need memory without end")


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_runs_out_of_memory_has_never_been_made(call, world):
    """At every fault point; tried again, it leads to the very world to which it leads without failures."""
    straight = WORLDS[world]()
    bumpy = WORLDS[world]()
    if call == "register_allocator":
        straight.without_ids()
        bumpy.without_ids()
    assert attempt(straight, call) == ""

    def everything() -> object:
        return bumpy.time.digest(), snapshot(bumpy)

    points = walk_fault_points(bumpy.core.slab, everything, lambda: attempt(bumpy, call))
    assert everything() == (straight.time.digest(), snapshot(straight))
    POINTS[call, world] = points
    assert points == FAULT_POINTS.get(call, 0)


def test_the_table_of_fault_points_is_complete():
    """Each call in each world; printed."""
    print(f"\n{'call':<42}" + "".join(f"{world:>18}" for world in WORLDS))
    for call in CALLS:
        print(f"{call:<42}" + "".join(f"{POINTS.get((call, world), 0):>18}" for world in WORLDS))
    assert set(FAULT_POINTS) <= set(CALLS)


@pytest.mark.parametrize("world", WORLDS)
def test_a_long_life_with_failures_everywhere_leaks_nothing(world):
    """Sets, IDs, subscribers come and go, each call failing at each of its points first; the end is the beginning."""
    scene = WORLDS[world]()
    core = scene.core
    core.work.cancel_all()
    begin = scene.time.digest(), core.capacity.available, core.policy.held

    def stubbornly(call: Callable[[], Any]) -> Any:
        answers: list[Any] = []

        def once() -> str:
            try:
                answers.append(call())
            except (KernelError, IoasidRefused) as error:
                return str(error)
            return ""

        walk_fault_points(core.slab, lambda: (scene.time.digest(), snapshot(scene)), once)
        return answers[-1]

    def live() -> None:
        stubbornly(lambda: core.notifiers.register_mm(scene.mm["mm3"], scene.late))
        the_set = stubbornly(lambda: core.policy.make_set("vm3", scene.mm["mm3"], 3))
        numbers = [stubbornly(lambda: core.alloc(the_set, 1, 99, "owner", current=scene.mm["mm3"])) for _ in range(3)]
        stubbornly(lambda: core.attach_spid(numbers[0], 7))
        stubbornly(lambda: core.free_all(the_set))
        stubbornly(lambda: core.sets.free(the_set))
        stubbornly(lambda: core.policy.leave(scene.mm["mm3"]))
        stubbornly(lambda: core.notifiers.unregister_mm(scene.mm["mm3"], scene.late))

    live()
    live()
    assert (scene.time.digest(), core.capacity.available, core.policy.held) == begin


# --- on a whole machine ----------------------------------------------------------------------------------------------


class Site(World):
    """A machine with a VM that has an interface and a process, a second one whose process is bound, a native one."""

    def __init__(self, queue: str) -> None:
        super().__init__()
        self.vm1 = self.vm("vm1", queue)
        self.app = self.vm1.spawn("app")
        self.native = self.m.spawn("native")
        self.bare = self.vm("bare")
        self.vm9 = self.vm("vm9", queue)
        self.bound = self.vm9.spawn("bound")
        self.bound.bind(self.vm9.devices[0])

    @property
    def kernels(self) -> dict[str, Any]:
        """The host's kernel and those of the guests."""
        running = {"host": self.m.kernel, "guest": self.vm1.kernel}
        return running | {"other guest": self.vm9.kernel, "bare": self.bare.kernel}

    def counts(self) -> object:
        """What could leak: IDs, sets, capacity, pages, registrations, queued work; on the host and in the guest."""
        return [
            (
                {number: record.holders for number, record in kernel.ioasid.ids.items()},
                {number: (one.name, one.count, one.quota) for number, one in kernel.ioasid.sets.items()},
                kernel.ioasid.capacity.available,
                kernel.pages.used,
                len(kernel.ioasid.notifiers.registrations()),
                len(kernel.ioasid.work.waiting()),
                len(kernel.processes),
            )
            for kernel in self.kernels.values()
        ]


VERBS: dict[str, Callable[[Site], object]] = {
    "create_vm": lambda at: at.m.create_vm("vm2", quota=4, memory=1 << 20),
    "assign_adi, the first": lambda at: at.m.assign_adi(at.dsa, at.bare, queue="shared"),
    "assign_adi, the second": lambda at: at.m.assign_adi(at.dsa, at.vm1, queue="dedicated"),
    "bind in the guest": lambda at: at.app.bind(at.vm1.devices[0]),
    "bind on the host": lambda at: at.native.bind(at.dsa),
    "spawn in the guest": lambda at: at.vm1.spawn("another"),
    "spawn on the host": lambda at: at.m.spawn("another"),
    "unbind in the guest": lambda at: at.bound.unbind(at.vm9.devices[0]),
    "free in the guest": lambda at: at.vm9.free_pasid(1),
    "exit in the guest": lambda at: at.bound.exit(),
}
MACHINE_POINTS = {
    ("create_vm", "host"): 4,
    ("assign_adi, the first", "host"): 4,
    ("assign_adi, the second", "host"): 1,
    ("bind in the guest", "host"): 6,
    ("bind in the guest", "guest"): 4,
    ("bind on the host", "host"): 4,
}
"""How many requests for small memory a core gets; all others make none."""
UNHEARD = {"bind in the guest"}
"""Where a failure cannot stop the caller: a guest that writes its tables is not told what its hypervisor could not do,
and the answer of KVM's handler is ignored. An event tells of it, and what was begun is complete or not there.
"""


@pytest.mark.parametrize("memory", ["small", "pages"])
@pytest.mark.parametrize("queue", ["shared", "dedicated"])
@pytest.mark.parametrize("where", ["host", "guest", "other guest"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_machine_that_runs_out_of_memory_leaks_nothing_and_can_try_again(verb, where, queue, memory):
    """Core or page allocator: after each failure the invariants hold, nothing is missing; tried again, it succeeds."""
    site = Site(queue)
    kernel = site.kernels[where]
    slab = kernel.ioasid.slab if memory == "small" else kernel.pages.slab

    def call() -> str:
        try:
            VERBS[verb](site)
        except KernelError as error:
            return str(error)
        told = [event for event in site.time.events_of(site.time.operations[-1]) if event.verb is Verb.REFUSE]
        if slab.fail_nth or not told:
            return ""
        assert verb in UNHEARD
        assert site.m.check().ok, site.m.check()
        site.time.back_over()
        return str(told[0])

    def counts() -> object:
        assert site.m.check().ok, site.m.check()
        return site.counts()

    points = walk_fault_points(slab, counts, call, most=400)
    assert site.m.check().ok, site.m.check()
    print(f"\n{verb}, {memory} memory of {where}: {points} fault points")
    assert memory == "pages" or points == MACHINE_POINTS.get((verb, where), 0)


def test_a_vm_that_was_refused_again_and_again_leaves_the_machine_as_it_was():
    """Administrator's calls are all or nothing: the digest says so."""
    site = Site("shared")
    before = site.time.digest()
    for nth in range(1, MACHINE_POINTS["create_vm", "host"] + 1):
        site.m.kernel.ioasid.slab.fail_nth = nth
        with pytest.raises(KernelError, match="ENOMEM"):
            site.m.create_vm("vm2", memory=1 << 20)
        site.m.kernel.ioasid.slab.fail_nth = 0
        assert site.time.digest() == before
    site.m.create_vm("vm2", memory=1 << 20)
    site.m.vm("vm2").crash()
    assert site.m.check().ok
