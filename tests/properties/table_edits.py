"""Software that edits VT-d tables and submits exactly the invalidations that an edit needs (facts 1.7 and 1.8, and the
specification's table 28), or all but one kind of them.

Two processes' tables, two domains, four PASIDs, two devices with one directory, and a second set of context table and
directory to change to. A PASID is translated by a process's table, by a domain's, or by the one over the other: then
the process's tables are pages of the guest.
"""

from __future__ import annotations

from collections import Counter
from random import Random

from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.hardware.pcie import Access, DmaRequest
from tests.hardware.iommu.vtd.by_hand import CONTEXT, RID, ROOT_AT
from tests.hardware.iommu.vtd.cached_bench import NEIGHBOUR, CachedBench, context_cache, iotlb, pasid_cache, piotlb

__all__ = ["KINDS", "Software"]

KINDS = (
    "context device",
    "context global",
    "PASID cache",
    "PASID cache of a domain",
    "PASID cache global",
    "pages of a PASID",
    "tables of a PASID",
    "all of a PASID",
    "pages of a domain",
    "tables of a domain",
    "all of a domain",
    "IOTLB global",
)
"""The invalidations that can be left out. "Tables" means to send them with the hint that only leaves have changed."""
PROCESS_DOMAIN = 1
DOMAINS = {7: 0x90000, 8: 0xA0000}
"""Domain ids, and where each one's tables begin."""
PROCESSES = (0x50000, 0x60000)
"""Where each process's tables begin: 15 pages, by level and index."""
PASIDS = (1, 2, 3, 65)
DEVICES = (RID, NEIGHBOUR)
CONTEXTS, DIRECTORIES, LEAVES = (CONTEXT, 0x3000), (0x10000, 0x30000), (0x40000, 0x44000)
"""The two sets of tables above the PASID entries."""
DATA, LARGE = 0x20_0000, 0x40_0000
SPARE = 0x30_0000
"""Frames that pages can move to."""
P, RW, US, XD, PS = 1, 2, 4, 1 << 63, 1 << 7
MARKS = 0x60
SHIFT = {1: 12, 2: 21, 3: 30, 4: 39}
ADDRESS = 0x000F_FFFF_FFFF_F000


def places() -> list[int]:
    """The pages of a process: one bit for each level's index."""
    return [sum((number >> level - 1 & 1) << SHIFT[level] for level in SHIFT) for number in range(16)]


class Software:
    """Edits, the invalidations that they need, the comparison of both ways to answer. ``hot`` pages are used most."""

    def __init__(self, seed: int = 0, *, caching_mode: bool = False, omits: str = "", **identity) -> None:
        self.bench = CachedBench(cm=caching_mode, **identity)
        self.memory, self.unit = self.bench.memory, self.bench.unit
        self.caching_mode, self.omits = caching_mode, omits
        self.sent: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.good: dict[int, int] = {}
        """What each entry is when all is well; edits come back to it now and then."""
        for root in PROCESSES:
            self.build_process(root)
        for did, root in DOMAINS.items():
            self.build_domain(did, root)
        random = Random(seed)
        self.hot = random.sample(places(), 3)
        self.contexts = 0
        for directory in (1, 0):
            self.directory = directory
            for index in {pasid >> 6 for pasid in PASIDS}:
                self.memory.store(DIRECTORIES[directory] + index * 8, LEAVES[directory] + index * 0x1000 | P)
            for pasid in PASIDS:
                self.memory.store_words(self.slot(pasid), self.new_entry(random))
        self.point_contexts()
        self.memory.store(ROOT_AT, CONTEXTS[0] | P)
        self.bench.invalidate(context_cache(1), pasid_cache(3), iotlb(1))

    def context_at(self, rid: int) -> int:
        """Where a device's context entry is now."""
        return CONTEXTS[self.contexts] + (rid & 0x7F) * 32

    def point_contexts(self) -> None:
        """Let both devices use the present directory: entries of one PASID and domain must be alike for all."""
        for rid in DEVICES:
            self.memory.store(self.context_at(rid), DIRECTORIES[self.directory] | 7 << 9 | 0x1D)

    # --- tables -------------------------------------------------------------------------------------------------------

    def store(self, at: int, word: int) -> None:
        """A word that is good."""
        self.good[at] = word
        self.memory.store(at, word)

    def table(self, root: int, level: int, address: int) -> int:
        """Where a process's table of ``level`` is: page 0 is the top, then 2, 4 and 8 pages by the indexes above."""
        above = [address >> SHIFT[upper] & 1 for upper in range(4, level, -1)]
        number = sum(bit << len(above) - 1 - at for at, bit in enumerate(above))
        return root + ((1 << len(above)) - 1 + number) * 0x1000

    def entry_at(self, root: int, level: int, address: int) -> int:
        """Where the entry of ``level`` for an address is, when all is well."""
        return self.table(root, level, address) + (address >> SHIFT[level] & 511) * 8

    def build_process(self, root: int) -> None:
        """Sixteen pages, none of them neighbours."""
        for number, address in enumerate(places()):
            for level in (4, 3, 2):
                below = self.table(root, level - 1, address)
                self.store(self.entry_at(root, level, address), below | P | RW | US | MARKS)
            frame = DATA + (number * 2 + (root == PROCESSES[1])) * 0x1000
            self.store(self.entry_at(root, 1, address), frame | P | RW | US | MARKS)

    def build_domain(self, did: int, root: int) -> None:
        """Everything one to one: the processes' tables, the data, and room for large pages."""
        top, directory, low, data, large = (root + step * 0x1000 for step in range(5))
        self.store(root, directory | 7)
        self.store(directory, low | 7)
        for at, below in ((0, data), (1, large), (2, 0)):
            self.store(low + 8 * at, below | 7 if below else LARGE | 7 | PS)
        assert top == root
        for page in (*range(0x50, 0x70),):
            self.store(data + 8 * page, page << 12 | 7)
        for page in range(512):
            self.store(large + 8 * page, (DATA >> 12) + page << 12 | 7)
        assert did in DOMAINS

    # --- PASID entries ------------------------------------------------------------------------------------------------

    def slot(self, pasid: int) -> int:
        """Where an entry is."""
        return LEAVES[self.directory] + (pasid >> 6) * 0x1000 + (pasid & 63) * PASID_ENTRY.size

    def new_entry(self, random: Random) -> tuple[int, ...]:
        """An entry as software may write it: a domain has one second level, processes have domain 1."""
        kind, did = random.choice((1, 1, 2, 3, 3, 3, 4)), random.choice(tuple(DOMAINS))
        nested = kind in (2, 3)
        flags = {name: random.randint(0, 1) for name in ("SRE", "ERE", "WPE", "NXE")}
        return PASID_ENTRY.encode(
            P=1,
            PGTT=kind,
            AW=2,
            PWSNP=1,
            DID=did if nested else PROCESS_DOMAIN,
            SLPTPTR=DOMAINS[did] if nested else 0,
            FLPTPTR=random.choice(PROCESSES) if kind in (1, 3) else 0,
            **flags,
        )

    def entry(self, pasid: int) -> dict[str, int]:
        """The fields of an entry, as it is in memory."""
        return PASID_ENTRY.decode(self.memory.load_words(self.slot(pasid), 8))

    def users(self, root: int) -> list[tuple[int, int]]:
        """Domain and PASID of every present entry that uses a process's table."""
        found = ((self.entry(pasid), pasid) for pasid in PASIDS)
        return [(at["DID"], pasid) for at, pasid in found if at["P"] and at["PGTT"] in (1, 3) and at["FLPTPTR"] == root]

    # --- invalidation -------------------------------------------------------------------------------------------------

    def submit(self, kind: str, words: tuple[int, ...]) -> None:
        """Send what an edit needs, unless it is what is left out."""
        self.sent[kind] += 1
        if kind != self.omits:
            self.bench.invalidate(words)

    def pages_of_pasids(self, root: int, places: list[int], level: int, *, tables: bool) -> None:
        """A process's table has changed at one level: for each of its users the pages that depend on it."""
        for did, pasid in self.users(root):
            if level > 3:
                self.submit("all of a PASID", piotlb(2, DID=did, PASID=pasid))
                continue
            for address in {address >> SHIFT[level] << SHIFT[level] for address in places}:
                kind = "tables of a PASID" if tables else "pages of a PASID"
                pages = {"DID": did, "PASID": pasid, "ADDR": address, "AM": SHIFT[level] - 12}
                self.send_pages(kind, piotlb, pages, tables=tables)

    def pages_of_domain(self, did: int, address: int, level: int, *, tables: bool) -> None:
        """A domain's table has changed at one level."""
        if level > 3:
            self.submit("all of a domain", iotlb(2, DID=did))
            return
        start = address >> SHIFT[level] << SHIFT[level]
        pages = {"DID": did, "ADDR": start, "AM": SHIFT[level] - 12}
        self.send_pages("tables of a domain" if tables else "pages of a domain", iotlb, pages, tables=tables)

    def send_pages(self, kind: str, make, pages: dict[str, int], *, tables: bool) -> None:
        """Page-selective; leaving out "tables" means to hint wrongly that only leaves have changed."""
        self.sent[kind] += 1
        if kind != self.omits:
            self.bench.invalidate(make(3, IH=int(not tables), **pages))
        elif tables:
            self.bench.invalidate(make(3, IH=1, **pages))

    # --- edits --------------------------------------------------------------------------------------------------------

    def edit_process(self, random: Random) -> None:
        """One entry of a process's table: another page, other rights, absent, present, another table, a large page."""
        root, address, level = random.choice(PROCESSES), self.place(random), random.choice((1, 1, 1, 2, 2, 3, 4))
        at = self.entry_at(root, level, address)
        old = self.memory.load(at)
        new = self.mutate(random, at, level, (P, RW, US, XD))
        reached = [place for place in places() if at in self.chain(root, place)]
        self.memory.store(at, new)
        if old & P and old != new:
            leaf = level == 1 or (bool(old & PS) and bool(new & PS))
            self.pages_of_pasids(root, reached, level, tables=not leaf)

    def place(self, random: Random) -> int:
        """A page of a process, often one of those that are used most."""
        some: list[int] = self.hot if random.random() < 0.6 else places()
        return random.choice(some)

    def chain(self, root: int, address: int) -> list[int]:
        """The entries that a walk to an address reads, as memory is now; rights are not looked at."""
        found, table = [], root
        for level in (4, 3, 2, 1):
            at = table + (address >> SHIFT[level] & 511) * 8
            found.append(at)
            word = self.memory.load(at)
            if not word & P or (level == 2 and word & PS):
                break
            table = word & ADDRESS
        return found

    def edit_domain(self, random: Random) -> None:
        """One entry of a domain's table: rights, and for data also the page."""
        did, level = random.choice(tuple(DOMAINS)), random.choice((1, 1, 1, 1, 2, 3, 4))
        address = random.choice((*(page << 12 for page in range(0x50, 0x70)), *self.data(), *self.data()))
        top, directory, low, tables, data = (DOMAINS[did] + step * 0x1000 for step in range(5))
        leaf_table = tables if address < DATA else data
        at = {4: top, 3: directory, 2: low + (address >> 21) * 8, 1: leaf_table + (address >> 12 & 511) * 8}[level]
        old = self.memory.load(at)
        if old & PS and level == 2 and not self.good[at] & PS:
            return
        new = self.mutate(random, at, level, (1, 2), moves=address >= DATA and level == 1)
        self.memory.store(at, new)
        if old != new and (old & 3 or self.caching_mode):
            self.pages_of_domain(did, address, level, tables=level > 1 and not new & old & PS)

    @staticmethod
    def data() -> list[int]:
        """Guest-physical pages of data."""
        return [DATA + page * 0x1000 for page in range(32)]

    def mutate(self, random: Random, at: int, level: int, rights: tuple[int, ...], *, moves: bool = True) -> int:
        """What an entry becomes: good again, or with another right, page, table or size."""
        word, good = self.memory.load(at), self.good[at]
        if word & ~MARKS != good & ~MARKS and random.random() < 0.7:
            return good
        what = random.random()
        if what < 0.6 or not moves:
            return word ^ random.choice(rights)
        if level == 1:
            return word & ~ADDRESS | SPARE + random.randrange(4) * 0x1000
        if level == 2 and what < 0.8:
            return LARGE | PS | word & 7 | MARKS
        if level == 2:
            return word & ~(ADDRESS | PS) | random.choice(self.lowest_tables())
        return word ^ random.choice(rights)

    def lowest_tables(self) -> list[int]:
        """Every lowest table of the processes: another one may be shared by two entries from now on."""
        return [self.table(root, 1, address) for root in PROCESSES for address in places()]

    def edit_entry(self, random: Random) -> None:
        """A PASID entry: taken away, written where none was, or changed while it is in use."""
        pasid = random.choice(PASIDS)
        if not self.entry(pasid)["P"]:
            self.write_entry(pasid, random)
        elif random.random() < 0.5:
            self.clear_entry(pasid)
            if random.random() < 0.8:
                self.write_entry(pasid, random)
        else:
            self.change_live_entry(pasid, random)

    def clear_entry(self, pasid: int) -> None:
        """Facts 1.8: P, then PASID cache, then IOTLB by PASID or by domain, then the rest."""
        at = self.entry(pasid)
        slot = self.slot(pasid)
        self.memory.store(slot, self.memory.load(slot) & ~1)
        self.submit("PASID cache", pasid_cache(1, DID=at["DID"], PASID=pasid))
        if at["PGTT"] in (2, 3):
            self.submit("all of a domain", iotlb(2, DID=at["DID"]))
        else:
            self.submit("all of a PASID", piotlb(2, DID=at["DID"], PASID=pasid))
        self.memory.store_words(slot, (0,) * 8)

    def write_entry(self, pasid: int, random: Random) -> None:
        """Everything but the first word, then the first word; caching mode is told although nothing was there."""
        words, slot = self.new_entry(random), self.slot(pasid)
        self.memory.store_words(slot + 8, words[1:])
        self.memory.store(slot, words[0])
        if self.caching_mode:
            did = PASID_ENTRY["DID"].get(words)
            self.submit("PASID cache", pasid_cache(1, DID=did, PASID=pasid))
            self.submit("all of a PASID", piotlb(2, DID=did, PASID=pasid))

    def change_live_entry(self, pasid: int, random: Random) -> None:
        """Another right, or another process: PASID cache and IOTLB of the PASID."""
        at, slot = self.entry(pasid), self.slot(pasid)
        word = self.memory.load(slot + 16)
        if at["PGTT"] in (1, 3) and random.random() < 0.4:
            word = word & ~ADDRESS | random.choice(PROCESSES)
        else:
            word ^= random.choice((1, 2, 1 << 4, 1 << 5))
        self.memory.store(slot + 16, word)
        self.submit("PASID cache", pasid_cache(1, DID=at["DID"], PASID=pasid))
        self.submit("all of a PASID", piotlb(2, DID=at["DID"], PASID=pasid))

    def edit_context(self, random: Random) -> None:
        """A context entry: present or not, PASIDs allowed or not, another PASID for requests without; or both devices
        change to the other directory.
        """
        changed = [random.choice(DEVICES)]
        before = {rid: self.memory.load(self.context_at(rid)) for rid in DEVICES}
        at, what = self.context_at(changed[0]), random.random()
        if what < 0.4:
            self.directory ^= 1
            self.point_contexts()
            changed = list(DEVICES)
        elif what < 0.6:
            self.memory.store(at, before[changed[0]] ^ P)
        elif what < 0.8:
            self.memory.store(at, (before[changed[0]] | P) ^ 8)
        else:
            self.memory.store(at, before[changed[0]] | 9)
            self.memory.store(at + 8, random.choice((0, *PASIDS)))
        for rid in changed:
            if before[rid] & P or self.caching_mode:
                self.submit("context device", context_cache(3, SID=rid))
        for did in (0, PROCESS_DOMAIN, *DOMAINS):
            self.submit("PASID cache of a domain", pasid_cache(0, DID=did))
        for did in (PROCESS_DOMAIN, *DOMAINS):
            self.submit("all of a domain", iotlb(2, DID=did))

    def edit_directory(self, random: Random) -> None:
        """A directory entry appears or goes: the PASID cache for each PASID behind it, the IOTLB for each domain."""
        index = random.choice(sorted({pasid >> 6 for pasid in PASIDS}))
        at = DIRECTORIES[self.directory] + index * 8
        old = self.memory.load(at)
        self.memory.store(at, old ^ P)
        if old & P or self.caching_mode:
            for pasid in (pasid for pasid in (0, *PASIDS) if pasid >> 6 == index):
                self.submit("PASID cache", pasid_cache(1, DID=self.entry(pasid)["DID"], PASID=pasid))
            for did in (PROCESS_DOMAIN, *DOMAINS):
                self.submit("all of a domain", iotlb(2, DID=did))

    def edit_root(self, random: Random) -> None:
        """The root entry names the other context table, which leads to the other directory: everything, globally."""
        self.contexts ^= 1
        self.directory ^= 1
        self.point_contexts()
        self.memory.store(ROOT_AT, CONTEXTS[self.contexts] | P)
        self.submit("context global", context_cache(1))
        self.submit("PASID cache global", pasid_cache(3))
        self.submit("IOTLB global", iotlb(1))

    # --- the comparison -----------------------------------------------------------------------------------------------

    def step(self, what: str, number: int) -> None:
        """One edit, then some requests."""
        random = Random(number)
        getattr(self, f"edit_{what}")(random)
        for _ in range(10):
            self.compare(random)

    def compare(self, random: Random) -> None:
        """A request is answered as if there were no caches."""
        address = self.place(random) if random.random() < 0.8 else random.choice(self.data())
        pasid = random.choice((None, *PASIDS, *PASIDS))
        rid = random.choice(DEVICES)
        request = DmaRequest(rid, address, random.choice(list(Access)), pasid, random.random() < 0.3)
        without = self.unit.walk(request, caches=False)
        cached = any(stop.cached for stop in self.unit.walk(request).stops)
        answer = self.unit.translate(request)
        expected = without.fault if without.fault is not None else without.address
        got, want = (one.code if isinstance(one, Fault) else one for one in (answer, expected))
        self.answers["fault" if isinstance(answer, Fault) else "translated"] += 1
        self.answers["from a cache"] += cached
        assert isinstance(answer, Fault) == isinstance(expected, Fault), str(without)
        assert got == want, str(without)
