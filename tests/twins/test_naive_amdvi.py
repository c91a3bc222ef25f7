"""The AMD unit and its naive twin agree: addresses, logged events, marks in memory, and what both remember.

Random units, tables that change behind the unit's back, requests of several devices and PASIDs, and invalidations by
commands through the real buffer, needed or not. Everything may point to everything.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hardware.iommu.amdvi.caches import HOST as HOST_TAG
from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord
from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.iommu.amdvi.invalidation import ALL_PAGES
from pasidlab.hardware.iommu.amdvi.register_file import CMD_HEAD, CMD_TAIL, DEV_TAB, EVT_HEAD, EVT_TAIL
from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.layouts.amd import DTE, gcr3_fields
from pasidlab.hardware.layouts.amd_queue import CMD_INV_ALL, CMD_INV_DEVTAB, CMD_INV_IOMMU_PAGES
from pasidlab.hardware.pcie import Access, DmaRequest
from tests.hardware.iommu.amdvi.by_hand import ON, RAM, Bench
from tests.twins.naive_amdvi import HOST, Asked, NaiveAmd

DEVICES = (0x10, 0x11, 0x12)
DOMAINS = (1, 7)
PASIDS = (0, 1, 2, 0x203)
TABLE = 0x10_0000
GCR3_FRAMES = range(0x200, 0x203)
GUEST_FRAMES = range(0x300, 0x306)
HOST_TOPS, HOST_LEAVES = range(0x400, 0x404), range(0x410, 0x413)
LOW, HIGH = (0, 1), (2, 3, 256, 511)
"""Indexes at which a guest entry names a table, and at which it names a page."""


T = TypeVar("T")


class FarBench(Bench):
    """Rings where no entry leads by one wrong bit: the twin does not know their words."""

    rings = (0xE0_5000, 0xE0_7000, 0xE0_9000)


class World:
    """The unit and its twin over the same words."""

    def __init__(self, seed: int, *, caches: bool) -> None:
        self.random = Random(seed)
        self.rate = self.pick(0.0, 0.01, 0.05)
        self.card = self.identity(caches)
        self.bench = FarBench(**{name: getattr(self.card, name) for name in AmdIdentity.__dataclass_fields__})
        self.unit = self.bench.unit
        trp = self.pick(True, False)
        names = [*ON, *(["GCR3TRPMode"] if trp else [])]
        if self.now_and_then():
            names.remove("GTEn")
        self.bench.control(*names)
        self.unit.mmio_write(DEV_TAB, TABLE)
        card = self.card
        self.twin = NaiveAmd(
            *({}, RAM, TABLE, 1, card.address_bits, card.host_levels, card.gats > 0, card.glx, card.pasmax + 1),
            *(card.nx, card.giosup, card.hasup, card.hdsup),
            guest_on="GTEn" in names,
            guest_tables=trp and card.gcr3trp,
            remembers=caches,
        )
        self.seen: Counter[str] = Counter()
        self.recent: list[Asked] = []
        self.everything()

    def identity(self, caches: bool) -> AmdIdentity:
        """The usual unit, or one that lacks this and that."""
        usual = AmdIdentity(caches=caches)
        if self.pick(True, False):
            return usual
        had = self.pick(True, True, False)
        return replace(
            usual,
            nx=self.pick(True, False),
            hats=self.pick(0, 1, 2),
            gats=self.pick(0, 1),
            glx=self.pick(1, 2, 2, 0),
            pasmax=self.pick(15, 15, 8),
            giosup=self.pick(True, True, False),
            gcr3trp=self.pick(True, True, False),
            hasup=had,
            hdsup=had and self.pick(True, False),
            address_bits=self.pick(48, 36, 52),
        )

    # --- software -----------------------------------------------------------------------------------------------------

    def pick(self, *choices: T) -> T:
        """One of them."""
        return self.random.choice(choices)

    def now_and_then(self) -> bool:
        """Seldom."""
        return self.random.random() < self.rate

    def flip(self, word: int) -> int:
        """A word that is wrong now and then."""
        return word ^ 1 << self.random.randrange(64) if self.now_and_then() else word

    def put(self, address: int, word: int) -> None:
        """Software stores a word."""
        self.unit.memory.store(address, word)
        self.twin.memory[address] = word

    def everything(self) -> None:
        """All tables anew."""
        for rid in DEVICES:
            self.device(rid)
        for frame in GCR3_FRAMES:
            for pasid in PASIDS:
                self.gcr3(frame, pasid & 511)
                self.gcr3(frame, pasid >> 9)
        for frame in GUEST_FRAMES:
            for index in (*LOW, *HIGH):
                self.guest(frame, index)
        for frame in (*HOST_TOPS, *HOST_LEAVES):
            for index in range(32) if frame in HOST_LEAVES else LOW:
                self.host(frame, index)
        for frame in HOST_LEAVES:
            for known in (*GCR3_FRAMES, *GUEST_FRAMES):
                self.host(frame, known & 511)

    def device(self, rid: int) -> None:
        """A device table entry: usually right."""
        card = self.card
        mode = self.pick(0, 2, 3, 3, 4, card.host_levels) if not self.now_and_then() else self.random.randrange(8)
        glx = min(self.pick(1, 1, 0, 2), card.glx) if not self.now_and_then() else self.random.randrange(4)
        root = GCR3_FRAMES[min(glx, 2)] if not self.now_and_then() else self.pick(*GCR3_FRAMES)
        words = DTE.encode(
            V=self.pick(*[1] * 25, 0),
            TV=self.pick(*[1] * 25, 0),
            Mode=mode,
            HostRoot=HOST_TOPS[min(max(mode - 2, 0), 3)] << 12 if not self.now_and_then() else 0x30_0000,
            HAD=self.pick(0, 3, 1, 2),
            GV=self.pick(*[1] * 7, 0),
            GIOV=self.pick(0, 1),
            GLX=glx,
            IR=self.pick(*[1] * 19, 0),
            IW=self.pick(*[1] * 19, 0),
            DomainID=self.pick(*DOMAINS),
            GPTMode=self.pick(0, 0, card.gats) if not self.now_and_then() else self.random.randrange(4),
            **gcr3_fields(root << 12),
        )
        for index, word in enumerate(words):
            self.put(TABLE + rid * 32 + 8 * index, self.flip(word))

    def gcr3(self, frame: int, index: int) -> None:
        """An entry that names a GCR3 table or a guest table; of three frames each is a level, the first the lowest."""
        known = [frame - 1] if frame > GCR3_FRAMES[0] and index < len(GCR3_FRAMES) else list(GUEST_FRAMES)
        target = self.pick(*known) if not self.now_and_then() else self.pick(*GCR3_FRAMES)
        self.put(frame << 12 | index * 8, self.flip(target << 12 | self.pick(*[1] * 19, 0)))

    def guest(self, frame: int, index: int) -> None:
        """A guest entry: at low indexes it names a table (or a large page), at high ones a page."""
        word = self.pick(*[7] * 24, 3, 5, 6, 1) | self.pick(0, 0, 0x60, 0x20) | self.pick(*[0] * 19, 1 << 63)
        if index in LOW and self.random.random() < 0.05:
            word |= 0x80 | self.pick(0x20_0000, 0x4000_0000, 0x1000)
        elif index in LOW:
            word |= self.pick(*GUEST_FRAMES) << 12
        else:
            word |= self.pick(*range(16, 32), *GUEST_FRAMES) << 12
        self.put(frame << 12 | index * 8, self.flip(word))

    def host(self, frame: int, index: int) -> None:
        """A host entry: in leaf tables it names a page, in the others the table below, or one further down."""
        word = 1 | self.pick(*[3] * 40, 1, 2, 0) << 61 | self.pick(0, 0, 0x60, 0x20)
        if frame in HOST_LEAVES:
            coded = self.random.random() < 0.1
            tables = index >= 0x100 or (index < len(GCR3_FRAMES) and self.pick(True, False))
            usual = index | (0x200 if tables else 0x10)
            target = self.pick(0x15, 0x17, 0x1D, 0xFF, 0x1FF) if coded else usual
            word |= target << 12 | (7 << 9 if coded else 0)
        elif self.random.random() < 0.04:
            word |= self.pick(0x20_0000, 0x4000_0000, 0xF_F000 | 7 << 9, 0x3FFF_F000 | 7 << 9)
        else:
            level = frame - HOST_TOPS[0] + 2
            below = self.pick(*[level - 1] * 8, 1) if not self.now_and_then() else self.random.randrange(1, 8)
            target = self.pick(*HOST_LEAVES) if below == 1 else HOST_TOPS[min(below - 2, 3)]
            word |= target << 12 | below << 9
        self.put(frame << 12 | index * 8, self.flip(word))

    def change(self) -> None:
        """Software writes one entry anew."""
        kind = self.pick("device", "gcr3", "guest", "guest", "host", "host")
        if kind == "device":
            self.device(self.pick(*DEVICES))
        elif kind == "gcr3":
            self.gcr3(self.pick(*GCR3_FRAMES), self.pick(0, 1, 2, 3))
        elif kind == "guest":
            self.guest(self.pick(*GUEST_FRAMES), self.pick(*LOW, *HIGH))
        elif self.pick(True, False):
            self.host(self.pick(*HOST_TOPS), self.pick(*LOW))
        else:
            self.host(self.pick(*HOST_LEAVES), self.pick(*range(32), *(one & 511 for one in GUEST_FRAMES)))

    # --- requests -----------------------------------------------------------------------------------------------------

    def asked(self) -> Asked:
        """A request, often one that was made before, or its like."""
        if self.recent and self.random.random() < 0.5:
            old = self.pick(*self.recent[-8:])
            return old._replace(access=self.pick("read", "write", old.access), rid=self.pick(old.rid, *DEVICES))
        pasid = self.pick(None, *PASIDS, 0x8000 if self.now_and_then() else 1)
        if self.random.random() < 0.01:
            return Asked(self.pick(0x10, 0xFF), pasid, self.pick(0xFEE0_1000, 1 << 50, 1 << 63), "read", False)
        address = sum(self.pick(*LOW) << 12 + 9 * level for level in (1, 2, 3)) | self.pick(*LOW, *HIGH) << 12
        address |= self.pick(*[0] * 20, 1 << 47, 0xFFFF << 48, 1 << 48) | self.random.randrange(0x1000)
        if pasid is None and self.pick(True, True, False):
            address = self.pick(*range(32), *GUEST_FRAMES) << 12
        access = self.pick("read", "read", "write", "write", "execute", "atomic")
        return Asked(self.pick(*DEVICES), pasid, address, access, self.pick(True, False, False))

    def ask(self) -> None:
        """Ask both: first as a question, then really."""
        asked = self.asked()
        self.recent.append(asked)
        request = DmaRequest(asked.rid, asked.address, Access(asked.access), asked.pasid, asked.privileged)
        for caches in (True, False):
            walk = self.unit.walk(request, caches=caches)
            wanted = self.twin.answer(asked, real=False, memory_only=not caches)
            assert (walk.address if walk.fault is None else walk.fault.code) == (
                wanted if isinstance(wanted, int) else wanted[0]
            ), f"{walk}"
        before = self.unit.mmio_read(EVT_TAIL)
        answer, wanted = self.unit.translate(request), self.twin.answer(asked)
        if isinstance(answer, Fault) and answer.suppressed:
            assert self.unit.mmio_read(EVT_TAIL) == before
        elif isinstance(answer, Fault):
            record = EventRecord.of(self.unit.memory.load_words(self.bench.rings[1] + before, 2))
            assert (record.code, record.flags, record.number, record.address) == wanted, f"{walk}"
            assert record.rid == asked.rid
            self.unit.mmio_write(EVT_HEAD, self.unit.mmio_read(EVT_TAIL))
            self.seen[answer.meaning] += 1
        else:
            assert answer == wanted
            self.seen["address"] += 1
        self.compare()

    def compare(self) -> None:
        """The same words in memory, the same facts."""
        for address, word in self.twin.memory.items():
            assert self.unit.memory.load(address) == word, hex(address)
        assert remembered(self) == {(fact.kind, fact.tag): fact.value for fact in self.twin.facts}

    # --- invalidations ------------------------------------------------------------------------------------------------

    def invalidate(self) -> None:
        """A command, and the same for the twin."""
        kind = self.pick("device", "pages", "pages", "pages", "all")
        if kind == "device":
            rid = self.pick(*DEVICES)
            self.send(CMD_INV_DEVTAB.encode(OPCODE=2, devid=rid))
            self.twin.forget_device(rid)
        elif kind == "all" and self.random.random() < 0.2:
            self.send(CMD_INV_ALL.encode(OPCODE=8))
            self.twin.facts.clear()
        elif kind == "pages":
            self.pages()
        self.compare()

    def pages(self) -> None:
        """One page, some, or all, of a domain or of a PASID."""
        did, pasid, pde = self.pick(*DOMAINS), self.pick(None, *PASIDS), self.pick(0, 1)
        start = self.recent[-1].address & -0x1000 if self.recent else 0
        start, size, addr, sized = self.pick(
            (start, 0x1000, start, 0),
            (start & -0x1_0000, 0x1_0000, start & -0x1_0000 | 0x7000, 1),
            (start & -0x20_0000, 0x20_0000, start & -0x20_0000 | 0xF_F000, 1),
            (0, 1 << 64, ALL_PAGES, 1),
        )
        fields = {"PASID": pasid or 0, "GN": int(pasid is not None), "PDE": pde, "S": sized, "addr": addr}
        self.send(CMD_INV_IOMMU_PAGES.encode(OPCODE=3, domid=did, **fields))
        self.twin.forget_pages(did, pasid, start, size, tables=bool(pde))

    def send(self, words) -> None:
        """Through the buffer."""
        self.bench.command(words)
        assert self.unit.mmio_read(CMD_HEAD) == self.unit.mmio_read(CMD_TAIL)


def remembered(world: World) -> dict[tuple[str, tuple[Any, ...]], tuple[Any, ...]]:
    """The unit's lines in the twin's words."""
    caches = world.unit.caches
    found: dict[tuple[str, tuple[Any, ...]], tuple[Any, ...]] = {}
    for rid, dte in caches.dtes.items():
        found["dte", (rid,)] = dte.words
    for (did, pasid), entry in caches.gcr3.items():
        found["gcr3", (did, pasid)] = entry.word, entry.guest_at is not None
    for (did, tag, page), line in caches.tlb.items():
        owner = HOST if tag == HOST_TAG else tag
        user = {("user", letter) for bit, letter in enumerate("rwx") if line.granted >> bit & 1}
        rest = {("privileged", letter) for bit, letter in enumerate("rwx") if line.granted >> bit + 3 & 1}
        granted = frozenset(letter for _, letter in user) if owner == HOST else frozenset(user | rest)
        found["page", (did, owner, page)] = line.page >> 12, line.shift, granted
    for (did, tag, level, prefix), kept in caches.paging.items():
        owner = HOST if tag == HOST_TAG else tag
        guest = {letter for letter, bit in (("w", 1), ("u", 2)) if kept.rights >> bit & 1}
        guest |= set() if kept.rights >> 63 else {"x"}
        host = {letter for letter, bit in (("r", 0), ("w", 1)) if kept.rights >> bit & 1}
        found["table", (did, owner, level, prefix)] = kept.word, frozenset(host if owner == HOST else guest)
    return found


def play(seed: int, steps: int, *, caches: bool) -> World:
    """Requests, changes and invalidations in any order."""
    world = World(seed, caches=caches)
    for _ in range(steps):
        if world.random.random() < 0.7:
            world.ask()
        elif world.random.random() < 0.5:
            world.change()
        elif caches:
            world.invalidate()
    return world


@given(st.integers(0, 1 << 32))
@settings(max_examples=60, deadline=None)
def test_without_caches_both_say_the_same(seed):
    """Addresses, events and marks, on random units and tables."""
    play(seed, 40, caches=False)


@given(st.integers(0, 1 << 32))
@settings(max_examples=60, deadline=None)
def test_with_caches_both_remember_the_same(seed):
    """Stale or not: the same answers, and the same lines after each step."""
    play(seed, 60, caches=True)


@pytest.mark.parametrize("caches", [False, True])
def test_the_worlds_reach_every_kind_of_outcome(caches):
    """Random tables are no good if they always fail in the same way."""
    seen: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for seed in range(40):
        world = play(seed, 60, caches=caches)
        seen += world.seen
        used += world.twin.used
    assert seen["address"] > sum(seen.values()) / 10
    assert len(seen) >= 18, seen
    assert set(used) == ({"dte", "gcr3", "page", "table"} if caches else set())
