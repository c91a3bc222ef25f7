"""Hostile guests, step by step, beside honest ones: whatever a guest writes anywhere, it harms nobody but itself.

After every step all invariants hold (but for what a guest does to its own first-level translations, rule 13), honest
programs keep their secrets and their copies succeed. No call answers with anything but an error of the kernel, and
nothing that waits answers with an error at all. When everybody is gone nothing is left.
"""

from __future__ import annotations

import re
from collections import Counter

from pasidlab.errors import BusError, KernelError
from pasidlab.hardware.cpu import GeneralProtection
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.machine import Machine
from tests.properties.hostile import EVIL_MOVES, MEMORY, Mischief, refused_to

SEEDS = range(20)
STEPS = 110
FIRST_LEVEL_LINE = re.compile(r"^the (?:IOTLB|paging-structure cache|device TLB of \w+) holds .*?\bPASID (\d+),")
MOVES = {**EVIL_MOVES, "run_one": 14, "run_all": 1, "honest_copy": 4, "honest_end": 1, "kill": 0.3}


class Estate(Mischief):
    """Two devices; on the first two VMs with interfaces, one of them honest, and native programs; a VM with the second.

    ``evil`` names the VMs that do anything.
    """

    evil = ("vm1", "pf")

    def __init__(self, seed, seen):
        super().__init__(seed, seen)
        self.m = Machine(pasid_api=("vfio", "dev-ioasid")[seed & 1])
        self.dsa0 = self.m.plug_accelerator("dsa0", ats=bool(seed % 4))
        self.dsa1 = self.m.plug_accelerator("dsa1")
        self.secrets: dict[str, tuple[int, bytes]] = {}
        self.settle_in()
        self.leave()
        self.idle = self.held()
        self.settle_in()
        self.begin = self.m.timeline.now

    # --- who lives here -----------------------------------------------------------------------------------------------

    def settle_in(self):
        """Everybody who is missing comes."""
        names = {vm.name for vm in self.m.vms}
        for name in ("good", *self.evil):
            if name not in names:
                self.move_in(name)
        if not self.m.natives:
            self.honest_program(self.m, self.dsa0)

    def move_in(self, name):
        """A VM with its devices and its first program."""
        vm = self.m.create_vm(name, quota=8, memory=MEMORY)
        if name == "pf":
            self.m.assign_pf(self.dsa1, vm)
        else:
            for queue in ("shared", "shared") if name == "vm1" else ("shared",):
                refused_to(("EBUSY",), self.m.assign_adi, self.dsa0, vm, queue=queue)
        if name in self.evil:
            self.program(vm)
        else:
            self.honest_program(vm, vm.devices[0])

    def honest_program(self, where, device):
        """A program that nobody may harm: a secret, and a copy now and then."""
        app = where.spawn(self.new_name())
        secret = f"secret of {app.name} ".encode() * 8
        self.secrets[app.name] = app.buffer(secret), secret
        app.bind(device)

    def honest(self):
        """The programs that nobody may harm, with their devices."""
        good = self.m.vm("good")
        native = [(self.m.app(process.name), self.dsa0) for process in self.m.natives]
        return native + [(app, good.devices[0]) for app in good.apps]

    def leave(self):
        """Everybody goes, and what is left to do is done."""
        for process in self.m.natives:
            self.m.app(process.name).exit()
        for vm in self.m.vms:
            vm.crash()
        self.m.run()
        self.secrets.clear()

    def held(self):
        """What must be the same whenever everybody is gone."""
        requests, devices = self.m.kernel.iommu.page_requests, self.m.accelerators.values()
        return {
            "pages": self.m.kernel.pages.used,
            "ioasids": self.m.kernel.ioasid.ids.keys(),
            "available": self.m.kernel.ioasid.capacity.available,
            "sinks": requests.sinks.keys(),
            "requests": requests.pending.keys(),
            "groups": [device.waits.groups.keys() for device in devices],
            "queues": [device.occupancy(number) for device in devices for number in range(device.num_wqs)],
            "tlb": [device.tlb.lines.keys() for device in devices],
            "pending": self.m.pending,
        }

    # --- what must hold -----------------------------------------------------------------------------------------------

    def check(self):
        """Every rule, but for what a hostile guest does to its own first-level translations (rule 13), and secrets."""
        violations = self.m.check().violations
        others = [violation for violation in violations if not self.harms_itself(violation)]
        assert others == [], "\n".join(map(str, others))
        self.seen["stale for itself"] += bool(violations)
        for app, _ in self.honest():
            at, secret = self.secrets[app.name]
            assert app.read(at, len(secret)) == secret, app

    def harms_itself(self, violation):
        """A line that a guest's first-level table made, and that this guest should have invalidated."""
        found = FIRST_LEVEL_LINE.match(violation.where) if violation.rule.number == 13 else None
        return found is not None and int(found[1]) not in self.honest_pasids()

    def honest_pasids(self):
        """Under which numbers honest programs are known to the host."""
        good = self.m.vm("good").pasids
        return {good[app.pasid] if app.altitude == "good" else app.pasid for app, _ in self.honest()}

    # --- one step -----------------------------------------------------------------------------------------------------

    def step(self):
        """Somebody does something, or something that waits happens."""
        (name,) = self.r.choices(tuple(MOVES), tuple(MOVES.values()))
        vm = self.r.choice([vm for vm in self.m.vms if vm.name in self.evil])
        self.said = f"{vm.name}: {name}"
        self.seen[name] += 1
        if name.startswith(("run", "honest", "kill")):
            getattr(self, name)(vm)
            return
        try:
            with self.m.timeline.operation(self.said):
                getattr(self, name)(vm)
        except (KernelError, GeneralProtection) as error:
            self.seen[error.name if isinstance(error, KernelError) else "GP"] += 1
        except BusError:
            self.seen["trips over its own tables"] += 1
        except ValueError as error:
            if f"{vm.name}.pages.frames: " not in str(error):
                raise
            self.seen["frees its own page twice"] += 1

    def run_one(self, vm):
        """Anything that waits happens; nothing comes out of it."""
        if pending := self.m.pending:
            self.m.run(self.r.choice(pending).number)

    def run_all(self, vm):
        """It comes to rest, whatever the guests have prepared."""
        self.m.run()
        assert self.m.pending == []

    def honest_copy(self, vm):
        """An honest copy into memory that is not there yet succeeds, or its queue is full."""
        app, device = self.r.choice(self.honest())
        at, secret = self.secrets[app.name]
        ats = self.m.accelerators["dsa0"].config.ats_enabled
        dst = app.buffer(PAGE_SIZE, populate=not ats)
        outcome = refused_to(("EAGAIN",), app.copy, device, at, dst, len(secret), block_on_fault=ats)
        if outcome is not None:
            assert outcome.ok, (app, outcome)
            assert app.read(dst, len(secret)) == secret
            self.seen["honest bytes"] += 1
        app.free(dst)

    def honest_end(self, vm):
        """An honest program goes, and another one comes."""
        app, device = self.r.choice(self.honest())
        where = self.m if device is self.dsa0 else self.m.vm("good")
        app.exit()
        self.honest_program(where, device)

    def kill(self, vm):
        """A hostile VM is killed in the middle of everything, and started again."""
        vm.crash()
        self.move_in(vm.name)
        self.said = f"{vm.name} was killed"


NEEDED = {
    **dict.fromkeys(EVIL_MOVES, 20),
    "run_one": 100,
    "run_all": 20,
    "honest_copy": 50,
    "honest_end": 10,
    "kill": 5,
    "honest bytes": 50,
    "answered by hand": 10,
    "stale for itself": 1,
    "EIO": 20,
    "event trap": 200,
    "event page-request": 100,
    "event page-response": 50,
    "event bind": 50,
    "event unbind": 50,
    "event reclaim": 50,
    "event fault": 20,
    "event complete": 100,
    "event refuse": 100,
}
"""How often each of these has to occur for the walks to mean anything."""


def walk(seed, seen):
    """One estate from the beginning to the end."""
    estate = Estate(seed, seen)
    for number in range(STEPS):
        try:
            estate.step()
            estate.check()
        except Exception as error:
            error.add_note(f"seed {seed}, step {number}: {estate.said}")
            raise
    estate.said = "everybody leaves"
    estate.leave()
    assert estate.m.check().ok, estate.m.check()
    assert estate.held() == estate.idle
    seen.update(f"event {event.verb}" for event in estate.m.timeline.since(estate.begin))


def test_a_hostile_guest_harms_nobody_but_itself(record_property):
    """Whatever guests write, in whatever order: isolation, order, secrets, service for the honest, and no leak."""
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        walk(seed, seen)
    counts = dict(sorted(seen.items()))
    record_property("seen", counts)
    print(len(SEEDS) * STEPS, "steps:", counts)
    assert {what: seen[what] for what, least in NEEDED.items() if seen[what] < least} == {}
