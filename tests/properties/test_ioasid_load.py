"""Two thousand operations on twenty sets: every invariant of the design (section 6), asked after every step.

Once on a core alone, with subscribers on all chains and the invariants written out here, naively; once on a machine
with twenty VMs, where ``Machine.check`` asks all fourteen. What was done, and how it ended, is printed (``pytest -s``).
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from pasidlab import Machine
from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.core import IoasidCore, IoasidRefused
from pasidlab.kernel.ioasid.notifier import Priority
from pasidlab.timeline import Agenda, Part, Timeline, Verb

STEPS = 2000
SETS = 20


def printed(title: str, done: Counter) -> None:
    """What was done, and how it ended."""
    print(f"\n{title}")
    for what in sorted({key[0] for key in done}):
        ends = ", ".join(f"{end} {count}" for (name, end), count in sorted(done.items()) if name == what)
        print(f"  {what:<14}{ends}")


# --- a core alone ----------------------------------------------------------------------------------------------------


class User:
    """A subscriber with books of its own: what it was told, and which references it holds."""

    def __init__(self, load: Load, name: str, priority: Priority, cleans_up: bool = False) -> None:
        self.path = self.notifier_name = name
        self.notifier_priority = priority
        self.load, self.cleans_up = load, cleans_up
        self.told: dict[int, list[str]] = {}
        self.held: Counter[int] = Counter()

    def ioasid_notified(self, event, payload):
        """References from BIND to UNBIND or FREE; the IOMMU lets go later."""
        number, core = payload.ioasid, self.load.core
        self.told.setdefault(number, []).append(str(event))
        self.load.order.append((str(event), number, self.notifier_priority))
        if event == "BIND":
            core.get_locked(number, self.path)
            self.held[number] += 1
        elif self.cleans_up and event in ("UNBIND", "FREE"):
            core.work.queue(self, str(number), f"{self.path} cleans up {number}")
        elif event in ("UNBIND", "FREE"):
            self.let_go(number, core.put_locked)
        return True

    def let_go(self, number, put):
        """Every reference of one ID."""
        while self.held[number]:
            self.held[number] -= 1
            put(number, self.path)

    def run_work(self, what):
        """The clean-up that a handler put off."""
        number = int(what)
        self.load.core.detach_spid(number)
        self.let_go(number, self.load.core.put)


class Load:
    """One core with twenty sets, their users, and what a seed makes of them."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.time = Timeline()
        self.agenda = Agenda(self.time)
        self.core = IoasidCore(self.time, "ioasid", "host", self.agenda, capacity=300)
        self.tokens = [Part(self.time, f"mm{at}") for at in range(SETS)]
        self.order: list[tuple[str, int, Priority]] = []
        self.iommu = User(self, "iommu", Priority.IOMMU, cleans_up=True)
        self.users = [self.iommu]
        self.held: Counter[tuple[int, str]] = Counter()
        self.owned: set[int] = set()
        self.life: dict[int, str] = {}
        self.read = 0
        self.done: Counter[tuple[str, str]] = Counter()
        self.empty = self.time.digest()
        self.core.notifiers.register(self.iommu)
        for token in self.tokens:
            for name, priority in (("kvm", Priority.CPU), ("vdcm", Priority.DEVICE)):
                user = User(self, f"{name}:{token.path}", priority)
                self.users.append(user)
                self.core.notifiers.register_mm(token, user)
            self.core.sets.alloc(token.path, token, 10)

    # --- what can be done

    def step(self) -> None:
        """One operation, drawn by weight."""
        calls = {"alloc": 14, "get": 5, "put": 5, "free": 5, "attach_spid": 6, "detach_spid": 3, "find_by_spid": 3}
        calls |= {"run_work": 6, "flush": 1, "free_all": 1, "end_set": 2, "new_set": 3, "adjust": 2, "data": 2}
        what = self.random.choices(list(calls), list(calls.values()))[0]
        self.order.clear()
        try:
            with self.time.operation(what):
                answer = getattr(self, what)()
        except KernelError as error:
            answer = f"-{error.name}"
        self.done[what, "ok" if answer is None else str(answer)] += 1

    def a_set(self) -> Any:
        """Any set."""
        return self.random.choice(self.core.sets.values())

    def an_id(self) -> int:
        """An ID that is out, nearly always."""
        numbers = self.core.ids.keys()
        return self.random.choice(numbers) if numbers and self.random.random() < 0.95 else 999

    def alloc(self):
        try:
            number = self.core.alloc(self.a_set(), 1, 250, "owner")
        except IoasidRefused:
            return "no ID"
        self.owned.add(number)
        return None

    def free(self):
        number = self.an_id()
        self.core.free(None, number)
        self.owned.discard(number)

    def free_all(self):
        the_set = self.a_set()
        self.owned -= set(the_set.ids.keys())
        self.core.free_all(the_set)

    def get(self):
        number = self.an_id()
        self.core.get(number, "user")
        self.held[number, "user"] += 1

    def put(self):
        mine = sorted(key for key, count in self.held.items() if count)
        if mine:
            number, holder = self.random.choice(mine)
            self.held[number, holder] -= 1
            return "reclaimed" if self.core.put(number, holder) else None
        return "nothing to put"

    def attach_spid(self):
        self.core.attach_spid(self.an_id(), self.random.randrange(6))

    def detach_spid(self):
        self.core.detach_spid(self.an_id())

    def find_by_spid(self):
        number = self.core.find_by_spid(self.a_set(), self.random.randrange(6), "finder")
        if number is None:
            return "nothing"
        self.held[number, "finder"] += 1
        return None

    def run_work(self):
        actions = self.agenda.actions()
        assert len(actions) == min(1, len(self.core.work.waiting()))
        if actions:
            self.agenda.run(actions[0].number)

    def flush(self):
        self.core.work.flush()

    def end_set(self):
        the_set = self.a_set()
        if len(self.core.sets) > SETS // 2:
            self.core.sets.free(the_set)

    def new_set(self):
        token = self.random.choice(self.tokens)
        self.core.sets.alloc(token.path, token, self.random.choice((1, 4, 10, 20)))

    def adjust(self):
        self.core.sets.adjust(self.a_set(), self.random.randrange(1, 16))

    def data(self):
        number = self.an_id()
        if self.random.random() < 0.5:
            self.core.detach_data(number)
        else:
            self.core.attach_data(number, self.tokens[0])

    # --- what must hold

    def check(self) -> None:
        """Invariants 2, 3, 4, 5, 6, 9 and 12 of the design, and the order of delivery."""
        core, sets = self.core, self.core.sets.values()
        self.follow_events()
        assert sorted(self.life) == core.ids.keys()
        members = sorted(number for the_set in sets for number in the_set.ids.keys())
        assert members == core.ids.keys(), "2: an ID belongs to exactly one set"
        for number, record in core.ids.items():
            expected = ["owner"] * (number in self.owned)
            expected += [
                holder for (other, holder), count in self.held.items() if other == number for _ in range(count)
            ]
            expected += [user.path for user in self.users for _ in range(user.held[number])]
            assert sorted(record.holders) == sorted(expected), "3: references are exactly the users'"
            assert expected, "3: no reference, no ID"
            assert record.free_pending is (number not in self.owned)
            assert self.life[number] == ("dying" if record.free_pending else "living")
            assert core.set_of(number) is record.owner in sets
        quotas = sum(the_set.quota for the_set in sets if the_set.quota is not None)
        assert quotas + core.capacity.reserved + core.capacity.available == core.capacity.total, "5: sums"
        assert all(the_set.count <= (the_set.quota or 0) for the_set in sets), "5: quotas"
        for the_set in sets:
            spids = [record.spid for record in the_set.ids.values() if record.spid is not None]
            assert len(spids) == len(set(spids)), "6: SPIDs are unique in a set"
            assert the_set.spids.keys() == sorted(spids)
        for user in self.users:
            for told in user.told.values():
                assert self.is_level("".join(event[0] for event in told)), f"9: {user.path} was told {told}"
        for what in {heard[:2] for heard in self.order}:
            order = [priority for *heard, priority in self.order if tuple(heard) == what]
            assert order == sorted(order, reverse=True), "CPU before DEVICE before IOMMU"

    def follow_events(self) -> None:
        """Invariants 2, 4 and 12, from the stream alone; with a reclaim everybody begins a new page."""
        for event in self.time.since(self.read):
            number = event.fact("ioasid")
            assert event.verb is not Verb.DEADLOCK, "12: no handler takes the lock"
            if not isinstance(number, int):
                continue
            if event.verb is Verb.ALLOC:
                assert number not in self.life, "2: handed out twice without a reclaim between"
                self.life[number] = "living"
            elif event.verb is Verb.FREE:
                self.life[number] = "dying"
            elif event.verb is Verb.GET:
                assert self.life[number] == "living", "4: no new reference on a dying ID"
            elif event.verb is Verb.RECLAIM:
                del self.life[number]
                for user in self.users:
                    user.told.pop(number, None)
        self.read = self.time.now

    @staticmethod
    def is_level(told: str) -> bool:
        """ALLOC, (BIND UNBIND)*, perhaps a BIND that still holds, at most one FREE, and then nothing."""
        body = told.removeprefix("A").removesuffix("F")
        return "F" not in body and "A" not in body and body in ("BU" * (len(body) // 2), "BU" * (len(body) // 2) + "B")

    def end(self) -> None:
        """Everybody lets go, every set and every registration ends."""
        core = self.core
        for the_set in core.sets.values():
            core.free_all(the_set)
        self.owned.clear()
        core.work.flush()
        for (number, holder), count in self.held.items():
            for _ in range(count):
                core.put(number, holder)
        self.held.clear()
        self.check()
        for the_set in core.sets.values():
            core.sets.free(the_set)
        core.notifiers.unregister(self.iommu)
        for token in self.tokens:
            for user in self.users:
                if user.path.endswith(f":{token.path}"):
                    core.notifiers.unregister_mm(token, user)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_thousand_operations_on_twenty_sets_keep_every_invariant_of_the_core(seed):
    """After each of them; and when all is returned, the world is as before the first."""
    load = Load(seed)
    for _ in range(STEPS):
        load.step()
        load.check()
    printed(f"a core alone, seed {seed}: {STEPS} operations, {load.time.now} events", load.done)
    load.end()
    assert len(load.core.ids) == len(load.core.sets) == 0
    assert load.time.digest() == load.empty


def test_all_two_thousand_operations_can_be_undone_and_redone():
    """To every moment of them, in any order: the same digest, and everybody who listens is found there again."""
    load = Load(4)
    seen = [(load.time.now, load.time.digest(), len(load.core.ids))]
    for _ in range(STEPS):
        load.step()
        seen.append((load.time.now, load.time.digest(), len(load.core.ids)))
    for step, digest, count in [seen[0], seen[-1], *Random(4).sample(seen, 200)]:
        load.time.go(step)
        assert (load.time.digest(), len(load.core.ids)) == (digest, count)


# --- a machine -------------------------------------------------------------------------------------------------------


class Site:
    """A machine with three accelerators and twenty VMs; what a seed makes of it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.m = Machine()
        self.dsas = [self.m.plug_accelerator(f"dsa{at}", shared=2, dedicated=6) for at in range(3)]
        self.done: Counter[tuple[str, str]] = Counter()
        for at in range(SETS):
            self.start(f"vm{at}")

    def start(self, name: str) -> None:
        """A VM with one or two interfaces of one or two devices, and a process."""
        vm = self.m.create_vm(name, quota=self.random.randrange(1, 5), memory=1 << 20)
        for dsa in self.random.sample(self.dsas, self.random.choice((1, 1, 2))):
            try:
                self.m.assign_adi(dsa, vm, queue=self.random.choice(("shared", "shared", "dedicated")))
            except KernelError:
                self.m.assign_adi(dsa, vm, queue="shared")
        vm.spawn("app0")

    def step(self) -> None:
        """One operation, drawn by weight."""
        calls = {"bind": 8, "copy": 8, "unbind": 4, "free_pasid": 4, "run_one": 4, "run_all": 1, "submit": 3}
        calls |= {"spawn": 2, "exit": 2, "crash": 1, "create": 2}
        what = self.random.choices(list(calls), list(calls.values()))[0]
        try:
            answer = getattr(self, what)()
        except KernelError as error:
            answer = f"-{error.name}"
        self.done[what, "ok" if answer is None else str(answer)] += 1

    def vm(self) -> Any:
        """Any VM that runs."""
        return self.random.choice(self.m.vms)

    def pair(self) -> tuple[Any, Any]:
        """A process and a device of one VM."""
        vm = self.vm()
        apps = vm.apps
        return (self.random.choice(apps) if apps else vm.spawn("app9")), self.random.choice(vm.devices)

    def at_work(self) -> tuple[Any, Any]:
        """A process that has the device open, nearly always."""
        pairs = [
            (app, device)
            for vm in self.m.vms
            for app in vm.apps
            for device in vm.devices
            if vm.kernel.accelerators[device.name].queue_of(app.process) is not None
        ]
        return self.random.choice(pairs) if pairs and self.random.random() < 0.9 else self.pair()

    def bind(self):
        app, device = self.pair()
        app.bind(device)

    def unbind(self):
        app, device = self.at_work()
        app.unbind(device)

    def copy(self):
        app, device = self.at_work()
        return app.copy(device, app.buffer(b"bytes"), app.buffer(5), 5).status.name

    def submit(self):
        app, device = self.at_work()
        app.submit(device, app.buffer(b"bytes"), app.buffer(5), 5)

    def free_pasid(self):
        known = [(vm, pasid) for vm in self.m.vms for pasid in vm.pasids]
        vm, pasid = self.random.choice(known) if known and self.random.random() < 0.9 else (self.vm(), 9)
        vm.free_pasid(pasid)

    def run_one(self):
        pending = self.m.pending
        return None if pending and self.m.run(self.random.choice(pending).number) else "nothing to run"

    def run_all(self):
        self.m.run()

    def spawn(self):
        self.vm().spawn(f"app{self.random.randrange(4)}")

    def exit(self):
        self.pair()[0].exit()

    def crash(self):
        self.vm().crash()

    def create(self):
        gone = sorted({f"vm{at}" for at in range(SETS)} - {vm.name for vm in self.m.vms})
        if not gone:
            return "all run"
        self.start(self.random.choice(gone))
        return None


@pytest.mark.slow
def test_two_thousand_operations_on_twenty_vms_keep_every_invariant_of_the_machine():
    """``Machine.check`` after each of them: bind, copy, free, crash, start again, deferred work in between."""
    site = Site(1)
    assert site.m.check().ok, site.m.check()
    for _ in range(STEPS):
        site.step()
        report = site.m.check()
        assert report.ok, report
    printed(f"20 VMs: {STEPS} operations, {site.m.timeline.now} events", site.done)
    for vm in site.m.vms:
        vm.crash()
    site.m.run()
    assert site.m.check().ok, site.m.check()
    assert [len(the_set.ids) for the_set in site.m.kernel.ioasid.sets.values()] == [0]
