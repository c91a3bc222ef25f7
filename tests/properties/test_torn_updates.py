"""Updates of several words: hardware that looks in between sees the old entry, the new one, or none; never a mixture.

Two ways to look. *Prefixes*: memory after each single store of an update. *Pieces*: an entry of 64 bytes is read as
four pieces of 16, the one with P first, the others in any order and at any later moment; a reader that has begun is
done before an invalidation of its cache completes. Physical page 0 is full of entries that lead back to it: who follows
a pointer that is not there yet, or not any more, ends there.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise, product

import pytest

from pasidlab.hardware.iommu.vtd.register_file import GCMD, GCMD_SRTP, GCMD_TE, RTADDR
from pasidlab.hardware.iommu.vtd.unit import VtdUnit
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.hardware.memory import PAGE_SIZE, Memory
from pasidlab.hardware.pcie import Access, DmaRequest
from pasidlab.kernel.iommu.uapi import GuestPasidBind
from pasidlab.kernel.iommu.vtd.pasid_table import PasidTable
from pasidlab.kernel.mm import Mm
from pasidlab.timeline import Timeline
from tests.kernel.iommu.vtd.conftest import RID, Bench
from tests.worlds import World

PASID, FRESH, NEW_DEVICE = 5, 700, 0x6B10
PIECE = 16
KINDS = ("absent", "first", "second", "nested", "pass-through")
CACHE_OF_ENTRIES = {1: "context", 7: "PASID entry"}


class Torn(Bench):
    """Two processes, two VMs with memory at the same addresses, and what the words of each kind of entry are."""

    def __init__(self):
        super().__init__(ats=True)
        self.memory.store_words(0, [0x67] * 512)
        self.processes = [self.process(name) for name in ("one", "other")]
        self.domains = [self.vm(name)[1] for name in ("vm1", "vm2")]
        self.at = self.processes[0].mmap(PAGE_SIZE)
        assert self.processes[1].mmap(PAGE_SIZE) == self.at
        for domain in self.domains:
            domain.map(0, 0)
            domain.map(self.at, self.pages.alloc())
            for mm in self.processes:
                for table, _ in self.tables_of(mm):
                    domain.map(table, table)
                domain.map(mm.physical(self.at), self.pages.alloc())

    def process(self, name):
        """An address space."""
        return Mm(self.time, f"mm-{name}", self.pages)

    def tables_of(self, mm):
        """The pages that an address is looked up in."""
        table, found = mm.root, []
        for shift in (39, 30, 21, 12):
            found.append((table, shift))
            table = self.memory.load(table + (self.at >> shift & 511) * 8) & 0xF_FFFF_FFFF_F000
        return found

    def words(self, kind, which=0):
        """An entry of a kind, for one process or VM or the other."""
        mm, domain = self.processes[which], self.domains[which]
        fields = {
            "first": {"PGTT": 1, "FLPTPTR": mm.root, "DID": 1},
            "second": {"PGTT": 2, "SLPTPTR": domain.table.root, "DID": domain.did},
            "nested": {"PGTT": 3, "FLPTPTR": mm.root, "SLPTPTR": domain.table.root, "DID": domain.did},
            "pass-through": {"PGTT": 4, "DID": 1},
        }[kind]
        return PASID_ENTRY.encode(P=1, AW=2, PWSNP=1, SRE=1, ERE=1, **fields)

    def put(self, kind, which=0, pasid=PASID):
        """Let the driver write an entry."""
        if kind != "absent":
            self.driver.set_entry(RID, pasid, self.words(kind, which), "test")

    def replace(self, kind, which, pasid=PASID):
        """As the driver does it: take the old one away, write the new one."""
        self.driver.clear_entry(RID, pasid)
        self.put(kind, which, pasid)


def requests(bench, rid, pasid):
    """What a device may ask with a PASID; those of PASID 0 are made without one."""
    for address, access, privileged in product((bench.at, 0x1234_5000), (Access.READ, Access.WRITE), (False, True)):
        yield DmaRequest(rid, address, access, pasid or None, privileged)


def outcomes(unit, asked):
    """Where each request leads; ``None`` for a fault."""
    return [unit.walk(request, caches=False).address for request in asked]


class Recording:
    """The stores of an update, and after how many of them each invalidation came."""

    def __init__(self, bench, operation):
        journal = bench.time.journal
        begin = journal.position
        bench.unit.looks[:] = [lambda: journal.position]
        bench.unit.seen.clear()
        operation()
        bench.unit.looks.clear()
        self.bench, self.begin, self.end = bench, begin, journal.position
        queue = {bench.driver.queue._ring >> 12, (bench.driver.queue._ring >> 12) + 1, bench.driver.queue._status >> 12}
        self.stores = [
            (position, key, old, new)
            for position, (cells, key, old, new) in enumerate(journal.changes(begin), begin)
            if cells is bench.memory and key >> 12 not in queue
        ]
        fences = {position for words, position in bench.unit.seen if words[0] & 0xF in CACHE_OF_ENTRIES}
        self.fences = sorted({sum(at < fence for at, *_ in self.stores) for fence in fences})

    def prefixes(self, asked):
        """The outcomes after each store (first: before all of them)."""
        journal = self.bench.time.journal
        try:
            for position in (self.begin, *(at + 1 for at, *_ in self.stores)):
                journal.seek(position)
                yield outcomes(self.bench.unit, asked)
        finally:
            journal.seek(self.end)

    def epochs(self):
        """Within which numbers of stores a reader begins and ends."""
        borders = [0, *self.fences, len(self.stores)]
        return [(first, last) for first, last in pairwise(borders) if first <= last]


class PieceWise(Memory):
    """Memory as a reader finds it that reads the pieces of one entry at different moments."""

    def __init__(self, recording, entry, size):
        self.base = recording.bench.memory
        self.entry, self.size = entry, size
        self.history: dict[int, list[tuple[int, int]]] = {}
        for number, (_, key, old, new) in enumerate(recording.stores):
            self.history.setdefault(key, [(-1, old)]).append((number, new))
        self.moments = [0] * (size // PIECE)

    def load(self, address):
        """The word as it was when its piece was read; everything else as it was when P was."""
        known = self.history.get(address)
        if known is None:
            return self.base.load(address)
        inside = self.entry <= address < self.entry + self.size
        moment = self.moments[(address - self.entry) // PIECE] if inside else self.moments[0]
        return [word for number, word in known if number < moment][-1]

    def store(self, address, value):
        """A reader stores nothing."""
        raise AssertionError


def pieces(recording, entry, size, asked):
    """The outcomes of every reader: P's piece first, the others at any later moment before the next invalidation."""
    memory = PieceWise(recording, entry, size)
    reader = VtdUnit(Timeline(), "reader", "hardware", memory, recording.bench.unit.identity)
    reader.mmio_write(RTADDR, recording.bench.unit.root_pointer)
    reader.mmio_write(GCMD, GCMD_SRTP | GCMD_TE, 4)
    for first, last in recording.epochs():
        for moment in range(first, last + 1):
            for others in product(range(moment, last + 1), repeat=size // PIECE - 1):
                memory.moments[:] = [moment, *others]
                yield outcomes(reader, asked)


def mixtures(seen, old, new):
    """Addresses that neither the old state nor the new one gives."""
    found = set()
    for outcome in seen:
        found |= {here for here, was, will in zip(outcome, old, new, strict=True) if here not in (None, was, will)}
    return found


def look(bench, operation, entry, size=64, rid=RID, pasid=PASID):
    """Do it, and look in both ways: the mixtures, and how often was looked."""
    asked = list(requests(bench, rid, pasid))
    old = outcomes(bench.unit, asked)
    recording = Recording(bench, operation)
    new = outcomes(bench.unit, asked)
    steps = list(recording.prefixes(asked))
    readers = list(pieces(recording, entry(), size, asked))
    assert steps[0] == old
    assert steps[-1] == new
    return mixtures(steps, old, new), mixtures(readers, old, new), len(steps), len(readers)


def entry_of(bench, pasid=PASID, rid=RID):
    """Where an entry is, once it has a table."""
    return lambda: bench.driver.tables[rid].address(pasid)


# --- what the driver does ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", KINDS)
@pytest.mark.parametrize("before", KINDS)
def test_an_entry_is_seen_as_the_old_one_the_new_one_or_none(before, after, record_property):
    """From every kind to every kind, of another process and another VM; also from nothing and to nothing."""
    bench = Torn()
    bench.put(before, 0)
    old, new, steps, readers = look(bench, partial(bench.replace, after, 1), entry_of(bench))
    assert (old, new) == (set(), set())
    record_property("looks", (steps, readers))
    assert readers > (0 if before == after == "absent" else 3)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_first_entry_of_a_leaf_table_appears_with_it(kind):
    """The directory entry comes first, and what it leads to is empty."""
    bench = Torn()
    old, new, steps, _ = look(bench, partial(bench.put, kind, 0, FRESH), entry_of(bench, FRESH), pasid=FRESH)
    assert (old, new) == (set(), set())
    assert steps >= 4


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("silent", [False, True])
def test_a_teardown_goes_from_the_entry_to_nothing(kind, silent):
    """In two phases; with FPD or without."""
    bench = Torn()
    bench.put(kind)
    teardown = partial(bench.driver.clear_entry, RID, PASID, fault_disable=silent)
    old, new, steps, _ = look(bench, teardown, entry_of(bench))
    assert (old, new) == (set(), set())
    assert steps >= 4


def test_a_guest_bind_is_seen_whole():
    """Nested: two pointers, a domain and the rights appear at once."""
    bench = Torn()
    the_set, _ = bench.vm("vm3")
    pasid = bench.core.alloc(the_set, 1, 1000, "test")
    data = GuestPasidBind(pasid, bench.processes[0].root, 1)
    bind = partial(bench.svm.bind_guest, RID, bench.domains[0], data, the_set)
    old, new, steps, readers = look(bench, bind, entry_of(bench, pasid), pasid=pasid)
    assert (old, new) == (set(), set())
    assert min(steps, readers) >= 4
    unbind = partial(bench.svm.unbind_guest, RID, pasid, the_set)
    old, new, steps, _ = look(bench, unbind, entry_of(bench, pasid), pasid=pasid)
    assert (old, new) == (set(), set())


def test_a_device_gets_its_root_context_and_pasid_table_one_after_the_other():
    """A new bus: root entry, context entry, directory, entry; a context entry is read as two pieces."""
    bench = Torn()
    context = partial(bench.driver._context_slot, NEW_DEVICE)
    bench.bus.endpoints[NEW_DEVICE] = type(bench.function)(bench.time, True, NEW_DEVICE)
    old, new, steps, readers = look(bench, partial(bench.driver.add_device, NEW_DEVICE), context, 32, NEW_DEVICE, 0)
    assert (old, new) == (set(), set())
    assert min(steps, readers) >= 5
    remove = partial(bench.driver.remove_device, NEW_DEVICE)
    old, new, steps, readers = look(bench, remove, context, 32, NEW_DEVICE, 0)
    assert (old, new) == (set(), set())


@pytest.mark.parametrize("attach", [True, False])
def test_requests_without_pasid_change_over_in_one_step(attach):
    """Pass-through and a VM's memory: never anything else."""
    bench = Torn()
    domain = bench.domains[0]
    if not attach:
        bench.driver.attach_domain(domain, RID)
    change = bench.driver.attach_domain if attach else bench.driver.detach_domain
    old, new, steps, _ = look(bench, partial(change, domain, RID), entry_of(bench, 0), pasid=0)
    assert (old, new) == (set(), set())
    assert steps >= 4


# --- drivers that are wrong -------------------------------------------------------------------------------------------


def p_first(self, pasid, words):
    """Writes an entry from its first word on."""
    self._pages.memory.store_words(self.address(pasid, build=True), words)


def zero_first(self, pasid):
    """Empties the whole entry before anybody is told, from its end."""
    at = self.address(pasid)
    for index in reversed(range(8)):
        self._pages.memory.store(at + 8 * index, 0)


def zero_upwards(self, pasid):
    """The same from its beginning: P goes first, but a reader who has seen it reads on."""
    self._pages.memory.store_words(self.address(pasid), (0,) * 8)


@pytest.mark.parametrize("kind", ["first", "nested"])
def test_a_driver_that_writes_p_first_is_found_out(kind, monkeypatch):
    """A prefix has P without the pointer, and so has a reader."""
    bench = Torn()
    bench.put("pass-through", 0, PASID + 1)
    monkeypatch.setattr(PasidTable, "write", p_first)
    old, new, *_ = look(bench, partial(bench.put, kind, 1), entry_of(bench))
    assert old
    assert new


@pytest.mark.parametrize("kind", ["first", "nested"])
def test_a_driver_that_zeroes_first_is_found_out(kind, monkeypatch):
    """From its end: some prefix still has P. From its beginning: only a reader of pieces notices."""
    for wrong, by_prefix in ((zero_first, True), (zero_upwards, False)):
        bench = Torn()
        bench.put(kind, 1)
        monkeypatch.setattr(PasidTable, "clear_present", wrong)
        old, new, *_ = look(bench, partial(bench.driver.clear_entry, RID, PASID), entry_of(bench))
        monkeypatch.undo()
        assert bool(old) is by_prefix
        assert new


def test_a_driver_that_writes_over_a_live_entry_is_found_out():
    """Another process's pointer beside the old domain, or no pointer beside the new kind."""
    bench = Torn()
    bench.put("nested", 0)
    old, new, *_ = look(bench, partial(bench.put, "nested", 1), entry_of(bench))
    assert old | new


def test_a_driver_that_does_not_wait_between_the_phases_is_found_out():
    """Without the PASID-cache invalidation a reader who saw P reads the zeros of the second phase."""
    bench = Torn()
    bench.put("first", 1)
    bench.driver.teardown.left_out = frozenset({"pasid-cache"})
    old, new, *_ = look(bench, partial(bench.driver.clear_entry, RID, PASID), entry_of(bench))
    assert not old
    assert new


# --- whole operations of a machine ------------------------------------------------------------------------------------


class Busy(World):
    """A VM with an interface, a VM with a function, a native process: something is bound everywhere."""

    def __init__(self):
        super().__init__()
        self.vm1 = self.vm("vm1", "shared")
        self.pf = self.m.plug_accelerator("dsa1")
        self.vm2 = self.m.create_vm("vm2", memory=1 << 20)
        self.device2 = self.m.assign_pf(self.pf, self.vm2)
        self.apps = [self.vm1.spawn("a"), self.vm2.spawn("b"), self.m.spawn("c")]
        self.devices = [self.vm1.devices[0], self.device2, self.dsa]
        for app, device in zip(self.apps, self.devices, strict=True):
            app.bind(device)
            app.buffer(b"here")

    def asked(self):
        """Requests of both devices with the numbers that are or may be in use."""
        addresses = (0x7F00_0000_2000, 0x2000, 0x7F00_0000_0000)
        for rid, pasid, address in product((self.dsa.rid, self.pf.rid), (None, *range(1, 7)), addresses):
            yield DmaRequest(rid, address, Access.READ, pasid)


OPERATIONS = {
    "a guest unbinds": lambda world: world.apps[0].unbind(world.devices[0]),
    "a guest of a function unbinds": lambda world: world.apps[1].unbind(world.devices[1]),
    "a process exits": lambda world: world.apps[2].exit(),
    "a guest process exits": lambda world: world.apps[0].exit(),
    "a VM is killed": lambda world: world.vm1.crash(),
    "a VM with a function is killed": lambda world: world.vm2.crash(),
    "another one binds": lambda world: world.m.spawn("d").bind(world.dsa),
    "a guest frees early": lambda world: (world.vm1.free_pasid(1), world.m.run()),
    "memory is freed": lambda world: world.apps[2].free(0x7F00_0000_2000),
    "guest memory is freed": lambda world: world.apps[0].free(0x7F00_0000_2000),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_at_no_store_of_an_operation_does_a_device_reach_anything_new(name, record_property):
    """After each store in a table: where it led before, where it will lead, or nowhere."""
    world = Busy()
    unit, journal, asked = world.m.unit, world.time.journal, list(world.asked())
    walks = [unit.walk(request, caches=False) for request in asked]
    old, begin = [walk.address for walk in walks], journal.position
    OPERATIONS[name](world)
    after = [unit.walk(request, caches=False) for request in asked]
    frames = {stop.address >> 12 for walk in (*walks, *after) for stop in walk.stops}
    new, end = [walk.address for walk in after], journal.position
    positions = [
        position + 1
        for position, (cells, key, *_) in enumerate(journal.changes(begin), begin)
        if cells is world.m.memory and isinstance(key, int) and key >> 12 in frames
    ]
    seen = []
    for position in positions:
        journal.seek(position)
        seen.append(outcomes(unit, asked))
    journal.seek(end)
    record_property("stores", len(positions))
    assert mixtures(seen, old, new) == set()
    assert positions
