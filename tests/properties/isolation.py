"""A data centre with hostile tenants: three VMs, accelerators, host processes, an administrator, time travel.

``good`` and the processes of the host are honest (:mod:`tests.properties.isolation_programs`). ``bad1`` and ``bad2`` do
anything (:mod:`tests.properties.hostile`). The administrator kills, creates and equips all of them at random. With
VT-d one accelerator is cut into shared and dedicated interfaces over several VMs; the other one goes to a VM as a
whole, when the policy allows it. With SMMUv3 and AMD each VM gets accelerators as a whole, and owns the tables of their
PASIDs.

After each step: every rule of ``check()``, the second opinion of :mod:`tests.properties.isolation_oracle`, the bytes of
the honest, and that nobody else's step changed one of their frames. What a hostile guest does to its own first-level
translations (rule 13) is its own affair.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import nullcontext

from pasidlab.errors import BusError, KernelError
from pasidlab.hardware.cpu import GeneralProtection
from pasidlab.hardware.cpu.faults import UndefinedInstruction
from pasidlab.machine import Machine
from pasidlab.virt.policies import POLICIES
from tests.properties.hostile import ALONE, MEMORY, refused_to
from tests.properties.hostile_tables import TABLE_MOVES, AmdMischief, SmmuMischief
from tests.properties.hostile_vtd import VTD_MOVES, VtdMischief
from tests.properties.isolation_oracle import FIRST_NUMBERS, WHOLE_DIRECTORY, Oracle, VtdOracle
from tests.properties.isolation_oracle_tables import AmdOracle, SmmuOracle
from tests.properties.isolation_programs import HONEST_MOVES, HOST_SIDE, MARK, Honesty, IsolationFailure, Program

__all__ = ["CENTRES", "ENFORCING", "TENANCY", "TIME", "TWO_MEANINGS", "DataCentre"]

ENFORCING = tuple(policy for policy in POLICIES if policy != "unenforced")
BAD = ("bad1", "bad2")
TENANCY = {"kill": 0.35, "arrive": 0.8, "equip": 1.2, "quota": 0.3, "slow_path": 0.4, "look": 1}
TIME = {"run_one": 14, "run_all": 1, "travel": 0.5}
ON_A_VM = ("kill", "equip", "quota", "slow_path")
ADMINISTRATOR = "the administrator"
TAGGED = re.compile(r"^the (?:IOTLB|paging-structure cache) holds domain (\d+), PASID (\d+),")
ON_DEVICE = re.compile(r"^the device TLB of (\w+) holds PASID (\d+),")
TWO_MEANINGS = "steps with a number of two meanings"
REMEMBERED = 12
OFTEN = 16
"""Every so many steps nothing is taken for granted."""


class DataCentre(Honesty):
    """The world, made from a seed. ``policies``: what VMs may be created with, where there are policies.

    What is told by the classes below: the machine and its IOMMU, what guests do to that, who gets which device.
    """

    iommu: str
    evil: Mapping[str, float]
    """What hostile guests do, and how often, against each other."""
    second_opinion: type[Oracle]

    def __init__(self, seed, seen, policies=ENFORCING):
        super().__init__(seed, seen)
        r = self.r
        self.policies = policies
        self.m = Machine(iommu=self.iommu, pasid_api=r.choice(("vfio", "dev-ioasid")))
        self.plug()
        self.programs: dict[str, Program] = {}
        self.steps = 0
        self.actor: str | None = None
        self.idle = self.inventory()
        self.owner_of_dsa1 = r.choice(("good", *BAD, *BAD, None))
        self.remembered: dict[str, object] = {}
        self.entries_at_boot: dict[tuple[str, int], tuple[int, ...]] = {}
        for name in ("good", *BAD):
            self.move_in(name)
        for _ in range(2):
            self.honest_program(HOST_SIDE)
        self.begin = self.m.timeline.now
        self.oracle = self.second_opinion(self.m)
        self.moments = [(self.m.timeline.now, dict(self.programs))]

    # --- who lives here -----------------------------------------------------------------------------------------------

    def vms(self, names=BAD):
        """Those of these VMs that run."""
        return [vm for vm in self.m.vms if vm.name in names]

    def assign(self, call, *args, **options):
        """A device for a VM, where that is possible."""
        if refused_to(("EBUSY", "EPERM", "ENODEV", "EINVAL", "ENOSPC"), call, *args, **options) is None:
            self.seen["assignment refused"] += 1

    def leave(self):
        """Everybody goes, and what is left to do is done."""
        for process in self.m.natives:
            self.m.app(process.name).exit()
        for vm in self.m.vms:
            vm.crash()
        self.m.run()
        self.programs = {}

    def inventory(self):
        """What must be the same whenever everybody is gone. (Tables of PASID entries stay where one was needed.)"""
        driver, devices, oracle = self.m.kernel.iommu, self.m.accelerators.values(), self.second_opinion(self.m)
        requests, tables = driver.page_requests, [driver.entry_table(rid) for rid in driver.devices.keys()]
        leaves = sum(len(table.frames()) for table in tables if table is not None)
        return {
            "pages": self.m.kernel.pages.used - leaves,
            "ioasids": list(self.m.kernel.ioasid.ids.keys()),
            "available": self.m.kernel.ioasid.capacity.available,
            "entries": list(oracle.entries()),
            "sinks": list(requests.sinks.keys()),
            "requests": list(requests.pending.keys()),
            "groups": [list(device.waits.groups.keys()) for device in devices],
            "queues": [device.occupancy(number) for device in devices for number in range(device.num_wqs)],
            "tlb": [list(device.tlb.lines.keys()) for device in devices],
            "translations": oracle.tags(),
            "pending": self.m.pending,
        }

    # --- the administrator --------------------------------------------------------------------------------------------

    def kill(self, vm):
        """A VM dies in the middle of everything."""
        vm.crash()
        self.forget(vm.name)

    def arrive(self):
        """Who is missing comes."""
        missing = [name for name in ("good", *BAD) if name not in {vm.name for vm in self.m.vms}]
        if missing:
            self.before_moving(missing)
            self.move_in(self.r.choice(missing))

    def quota(self, vm):
        """Another number of PASIDs for a VM."""
        vm.set_quota(self.r.randrange(1, 10))

    def slow_path(self, vm):
        """Its hypervisor takes the submissions to an interface itself, as while a VM migrates, or no more."""
        if mdev := self.any_of(vm.vmm.mdevs.values()):
            mdev.emulate_portal(on=bool(self.r.getrandbits(1)))

    def look(self):
        """Questions change nothing, and whatever they find belongs to the owner: any device, number, address."""
        r, oracle = self.r, self.second_opinion(self.m)
        numbers = [None, 0, *self.m.kernel.ioasid.ids.keys(), r.getrandbits(20)]
        addresses = [self.frame(), self.number(), *(place for p in self.programs.values() for place in p.content)]
        for _ in range(4):
            rid, pasid = r.choice(list(oracle.devices)), r.choice(numbers)
            access, caches = r.choice(("read", "write")), r.random() < 0.5
            oracle.answer(rid, pasid, r.choice(addresses), access, caches)

    # --- time ---------------------------------------------------------------------------------------------------------

    def run_one(self):
        """Anything that waits happens; nothing comes out of it."""
        if pending := self.m.pending:
            self.m.run(self.r.choice(pending).number)

    def run_all(self):
        """It comes to rest, whatever the guests have prepared."""
        self.m.run()
        assert self.m.pending == []

    def travel(self):
        """Back to a moment that was: everything is as it was, and another future begins."""
        at = self.r.randrange(len(self.moments))
        step, programs = self.moments[at]
        del self.moments[at + 1 :]
        self.m.timeline.go(step)
        self.programs = dict(programs)

    def remember(self):
        """This moment can be travelled to."""
        self.moments = [*self.moments[-REMEMBERED:], (self.m.timeline.now, dict(self.programs))]

    # --- one step -----------------------------------------------------------------------------------------------------

    @property
    def moves(self):
        """Every kind of step, and how often, against each other."""
        return {**self.evil, **HONEST_MOVES, **TENANCY, **TIME}

    def draw(self, moves=None):
        """Any kind of step (of these)."""
        moves = self.moves if moves is None else moves
        return self.r.choices(list(moves), list(moves.values()))[0]

    def step(self, name):
        """Somebody does something, or something that waits happens; then everything is looked at."""
        self.said = name
        self.seen[name] += 1
        self.steps += 1
        before, programs, position = self.at_rest(), self.programs, self.m.timeline.journal.position
        kept, self.actor = self.oracle.kept(BAD), None
        self.act(name)
        self.oracle = self.second_opinion(self.m)
        untouched = {} if name == "travel" else self.untouched(before, position)
        if self.actor is not None:
            self.left_alone(before, untouched)
        if self.actor in BAD and (forgotten := kept - self.oracle.kept(BAD)):
            raise IsolationFailure(f"a step of {self.actor} emptied caches of others: {sorted(forgotten)}")
        self.verify({name for name in programs if self.place_of(programs[name], name) in untouched}, programs)
        if name != "travel":
            self.remember()

    def act(self, name):
        """One step, one operation; what may be refused is counted. ``actor`` is who did it, if it was one alone."""
        move, vms = getattr(self, name), []
        if name in self.evil:
            if name in ALONE and any(program.flights for program in self.programs.values()):
                return  # whoever takes the hypervisors' place decides the traps of the honest as well
            if not (vms := self.vms()):
                return
        elif name in TENANCY:
            vms = self.m.vms if name in ON_A_VM else [None]
        else:
            move()
            return
        if (vm := self.any_of(vms)) is None and name in ON_A_VM:
            return
        self.actor = ADMINISTRATOR if vm is None else vm.name
        self.said = f"{self.actor}: {name}"
        try:
            alone = name in (
                *ALONE,
                *TENANCY,
            )  # a call of the administrator is undone when refused, but not inside another
            with nullcontext() if alone else self.m.timeline.operation(self.said):
                move(*([vm] if vm is not None else []))
        except (KernelError, GeneralProtection, UndefinedInstruction) as error:
            self.seen[error.name if isinstance(error, KernelError) else type(error).__name__] += 1
            self.seen["refused"] += 1
        except BusError:
            self.seen["trips over its own tables"] += 1
        except ValueError as error:
            if f"{self.actor}.pages.frames: " not in str(error):
                raise
            self.seen["frees its own page twice"] += 1

    def end(self):
        """Everybody leaves, and nothing is left of them."""
        self.secrets_are_kept()
        self.leave()
        self.oracle = self.second_opinion(self.m)
        self.verify()
        left, idle = self.inventory(), self.idle
        if found := {what: left[what] for what in left if left[what] != idle[what]}:
            raise IsolationFailure(f"when everybody is gone there is {found}")
        self.seen.update(f"event {event.verb}" for event in self.m.timeline.since(self.begin))

    # --- what must hold -----------------------------------------------------------------------------------------------

    def at_rest(self):
        """The frames of honest places for which no device works: nobody else's step may change one word of them."""
        busy = {self.place_of(program, name) for name, program in self.programs.items() if program.flights}
        frames = {**self.oracle.frames, **{p.name: self.oracle.below(p.mm.root) for p in self.m.natives}}
        return {place: own for place, own in frames.items() if place not in (*BAD, *busy)}

    def place_of(self, program, name):
        """What has frames of its own: a VM, or a process of the host."""
        return name if program.where == HOST_SIDE else program.where

    def untouched(self, before, position):
        """The places with the same frames as before, no word of which has changed."""
        memory, flat = self.m.memory, self.m.timeline.journal.log.flat
        records = zip(flat[4 * position :: 4], flat[4 * position + 1 :: 4], strict=True)
        changed = {address >> 12 for cells, address in records if cells is memory and isinstance(address, int)}
        now = self.at_rest()
        return {place for place, own in before.items() if now.get(place) == own and own.isdisjoint(changed)}

    def left_alone(self, before, untouched):
        """In a step of somebody else no word of these places has changed.

        But where nobody enforces a policy another guest may be asked for a page, and bring it: its bytes stay.
        """
        for place in self.at_rest():
            if place in before and place not in untouched and place != self.actor:
                if not self.unenforced():
                    raise IsolationFailure(f"a step of {self.actor} changed memory of {place}")
                self.seen["steps with a page asked of another"] += 1

    def unenforced(self):
        """Whether there is a VM whose numbers nobody keeps apart."""
        return any(vmm.policy == "unenforced" for vmm in self.m.vmms.values())

    def verify(self, untouched=frozenset(), before=None):
        """The rules, the second opinion, the honest bytes (of ``untouched`` programs only now and then)."""
        self.rules()
        self.oracle.look(WHOLE_DIRECTORY if self.steps % OFTEN == 0 else FIRST_NUMBERS)
        for name, program in list(self.programs.items()):
            if self.steps % OFTEN and name in untouched and before is not None and before[name] is program:
                continue
            self.settle(name)
            self.read_back(name)
        if self.steps % (4 * OFTEN) == 0:
            self.secrets_are_kept()

    def secrets_are_kept(self):
        """Nothing of what the honest keep is anywhere in memory of the hostile."""
        for name in BAD:
            for frame in self.oracle.frames.get(name, ()):
                if MARK in self.m.memory.load_words(frame << 12, 512):
                    raise IsolationFailure(f"{name} has a secret at {frame << 12:#x}")

    def rules(self):
        """Every rule holds, but for what a hostile guest does to its own first-level translations.

        Two meanings of a number (rule 14) are possible where nobody enforces a policy, and nowhere else.
        """
        violations = self.m.check().violations
        if not violations:
            return
        double = [violation for violation in violations if violation.rule.number == 14 and self.unenforced()]
        stale = [violation for violation in violations if self.harms_itself(violation)]
        if others := [violation for violation in violations if violation not in double + stale]:
            raise IsolationFailure("\n".join(map(str, others)))
        self.seen[TWO_MEANINGS] += bool(double)
        self.seen["steps with lines stale for their own guest"] += bool(stale)


class VtdCentre(VtdMischief, DataCentre):
    """The host owns the tables: interfaces of one device serve several VMs, and each PASID is bound by itself."""

    iommu = "vtd"
    evil = VTD_MOVES
    second_opinion = VtdOracle

    def plug(self):
        """One device to be cut, one to be given away."""
        self.m.plug_accelerator("dsa0", shared=3, dedicated=2, ats=self.r.random() < 0.75)
        self.m.plug_accelerator("dsa1", shared=2, dedicated=1, ats=self.r.random() < 0.75)

    def move_in(self, name):
        """A VM with a policy, devices and a first program."""
        r = self.r
        whole = name == self.owner_of_dsa1
        policy = r.choice([policy for policy in (*self.policies, None) if name in BAD or policy != "unenforced"])
        if whole and policy == "translated":
            policy = "identity"
        vm = self.m.create_vm(name, quota=r.choice((4, 8)), policy=policy, memory=MEMORY)
        self.seen[f"policy {policy}"] += 1
        if whole:
            self.assign(self.m.assign_pf, self.device("dsa1"), vm)
        if not (vm.devices and policy == "refuse"):
            for queue in r.choice((("shared",), ("shared", "dedicated"), ("dedicated",), ("shared", "shared"))):
                self.assign(self.m.assign_adi, self.device("dsa0"), vm, queue=queue)
        if name in BAD:
            self.program(vm)
        elif vm.devices:
            self.honest_program(name)

    def before_moving(self, missing):
        """Sometimes the other device goes to somebody else."""
        if self.m.owner_of(self.device("dsa1")) is None:
            self.owner_of_dsa1 = self.r.choice((*missing, None))

    def equip(self, vm):
        """One more device for somebody, if the rules allow it."""
        device = self.device(self.r.choice(("dsa0", "dsa1")))
        if self.r.random() < 0.3:
            self.assign(self.m.assign_pf, device, vm)
        else:
            self.assign(self.m.assign_adi, device, vm, queue=self.r.choice(("shared", "dedicated")))

    def harms_itself(self, violation):
        """A line that a hostile guest's first-level table made, and that this guest should have invalidated."""
        if violation.rule.number != 13:
            return False
        oracle = self.oracle
        if found := TAGGED.match(violation.where):
            owner = oracle.domains.get(int(found[1]))
        elif found := ON_DEVICE.match(violation.where):
            owner = oracle.owner(self.m.accelerators[found[1]].rid, int(found[2]))
        else:
            return False
        return owner is not None and owner.kind == "vm" and owner.name in BAD


class TableCentre(DataCentre):
    """Guests own their tables: a device is a VM's as a whole, and its numbers are the guest's own affair."""

    def plug(self):
        """A device for the host, and one for each VM that comes early enough."""
        for at in range(4):
            ats = self.r.random() < 0.7
            stall = not ats and not self.m.kernel.iommu.why_no_stalls and self.r.random() < 0.7
            self.m.plug_accelerator(f"dsa{at}", shared=1, dedicated=2, ats=ats, stall=stall)

    def move_in(self, name):
        """A VM with one or two devices and a first program."""
        r = self.r
        vm = self.m.create_vm(name, quota=r.choice((4, 8)), memory=MEMORY)
        self.remembered[name] = self.at_boot(vm)
        for _ in range(r.choice((1, 1, 2))):
            self.give(vm)
        if name in BAD:
            self.program(vm)
        elif vm.devices:
            self.honest_program(name)

    def before_moving(self, missing):
        """Devices are free, or they are not."""

    def give(self, vm):
        """Any device but the host's own, if nobody has it."""
        self.assign(self.m.assign_pf, self.device(self.r.choice(("dsa1", "dsa2", "dsa3"))), vm)
        for rid in vm.kernel.iommu.devices.keys():
            words = self.entry_layout.word_count
            at = vm.kernel.iommu.device_entry(rid)
            if at is not None:  # a guest may have lost the way to its own entry
                self.entries_at_boot.setdefault((vm.name, rid), vm.kernel.platform.memory.load_words(at, words))

    def equip(self, vm):
        """One more device for somebody; an interface is nothing that could be had."""
        if self.r.random() < 0.2:
            device, queue = self.device("dsa0"), self.r.choice(("shared", "dedicated"))
            assert refused_to(("EOPNOTSUPP",), self.m.assign_adi, device, vm, queue=queue) is None
        else:
            self.give(vm)

    def harms_itself(self, violation):
        """What a guest's own table made is left to that guest by the rules themselves."""
        return False


class SmmuCentre(SmmuMischief, TableCentre):
    """A machine with SMMUv3."""

    iommu = "smmuv3"
    evil = TABLE_MOVES
    second_opinion = SmmuOracle


class AmdCentre(AmdMischief, TableCentre):
    """A machine with AMD's IOMMU."""

    iommu = "amdvi"
    evil = TABLE_MOVES
    second_opinion = AmdOracle


CENTRES = {centre.iommu: centre for centre in (VtdCentre, SmmuCentre, AmdCentre)}
"""By the name of the machine's IOMMU."""
