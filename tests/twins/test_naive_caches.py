"""The unit's caches and a bag of facts agree: same answers, same faults, same marks in memory, and the same remembered.

Random tables that change behind the unit's back, requests of several devices and PASIDs, and every invalidation
descriptor through the real queue, in any order, needed or not.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.iommu.vtd.caches import SECOND_LEVEL
from pasidlab.hardware.layouts.vtd import ROOT_ENTRY
from pasidlab.hardware.pcie import Access, DmaRequest
from tests.hardware.iommu.vtd.by_hand import CONTEXT, DIRECTORY, RAM, RID, ROOT, ROOT_AT, TABLE
from tests.hardware.iommu.vtd.cached_bench import CachedBench, context_cache, iotlb, pasid_cache, piotlb
from tests.twins.naive_caches import SECOND, Asked, NaiveUnit

TABLES = range(0x50, 0x58)
"""Frames that hold page tables, first- and second-level alike: everything may point to everything."""
DEVICES = (RID, RID + 1, RID + 4)
PASIDS = (0, 1, 2, 65)
DOMAINS = (1, 7, 8)
LOW, HIGH = (0, 1), (0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57)
ALL_PAGES = 1 << 64


T = TypeVar("T")


class World:
    """The unit and its twin over the same words."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.bench = CachedBench(cm=bool(seed & 1), esrtps=False)
        self.unit = self.bench.unit
        self.twin = NaiveUnit({}, RAM, ROOT, caching_mode=bool(seed & 1))
        self.seen: Counter[str] = Counter()
        self.recent: list[Asked] = []
        for at in range(0, 16, 8):
            self.put(ROOT_AT + at, ROOT_ENTRY.encode(LP=1, LCTP=CONTEXT)[at // 8])
        for rid in DEVICES:
            self.new_context(rid)
        for pasid in PASIDS:
            self.put(DIRECTORY + (pasid >> 6) * 8, TABLE + (pasid >> 6) * 0x1000 | 1)
            self.new_entry(pasid)
        for frame in TABLES:
            for index in (*LOW, *HIGH):
                self.new_word(frame, index)
        self.bench.invalidate(context_cache(1), pasid_cache(3), iotlb(1))

    # --- software -----------------------------------------------------------------------------------------------------

    def put(self, address: int, word: int) -> None:
        """Software stores a word."""
        self.unit.memory.store(address, word)
        self.twin.memory[address] = word

    def pick(self, *choices: T) -> T:
        """One of them."""
        return self.random.choice(choices)

    def new_context(self, rid: int) -> None:
        """A context entry: usually right."""
        flags = self.pick(*[0xD] * 12, 0x5, 0xC) | self.pick(7, 7, 7, 0) << 9
        at = CONTEXT + (rid & 0x7F) * 32
        self.put(at, DIRECTORY | flags)
        self.put(at + 8, self.pick(*PASIDS))

    def new_entry(self, pasid: int) -> None:
        """A PASID entry of some kind, in some domain, with some root."""
        at = TABLE + (pasid >> 6) * 0x1000 + (pasid & 63) * 64
        kind = self.pick(1, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 4, 0)
        present = self.pick(*[1] * 12, 0)
        words = (
            self.pick(*TABLES) << 12 | present | 2 << 2 | kind << 6 | self.pick(0, 0x200),
            self.pick(*DOMAINS) | 1 << 23,
            self.pick(*TABLES) << 12 | self.pick(0, 1, 1) | self.pick(0, 2) | self.pick(0, 0x10) | self.pick(0, 0x20),
        )
        for index, word in enumerate(words):
            self.put(at + 8 * index, word)

    def new_word(self, frame: int, index: int) -> None:
        """An entry: at low indexes it names a table (or a large page), at high ones the page of that number."""
        rights = self.pick(*[7] * 24, 3, 5, 6, 0) | self.pick(0, 0, 0, 0x60, 0x120)
        word = rights | self.pick(*[0] * 19, 1 << 63)
        if index in HIGH:
            word |= self.pick(*[index << 12] * 15, 0xFEE0_0000)
        elif self.random.random() < 0.1:
            word |= 0x80 | self.pick(0x20_0000, 0x4000_0000)
        else:
            word |= self.pick(*TABLES) << 12
        self.put(frame * 0x1000 + 8 * index, word)

    def change(self) -> None:
        """Software changes something, and says nothing."""
        what = self.random.random()
        if what < 0.12:
            self.new_context(self.pick(*DEVICES))
        elif what < 0.3:
            self.new_entry(self.pick(*PASIDS))
        else:
            self.new_word(self.pick(*TABLES), self.pick(*LOW, *HIGH))
        self.seen["change"] += 1

    # --- the unit -----------------------------------------------------------------------------------------------------

    def address(self) -> int:
        """One that the tables know something of."""
        address = self.pick(*LOW, *HIGH, *HIGH) << 12
        for level in (2, 3, 4):
            address |= self.pick(0, 0, 0, 1) << 9 * level + 3
        return address | self.pick(0, 0x123)

    def something(self) -> Asked:
        """A new request, or one that was translated before, perhaps with another access."""
        access = self.pick("read", "read", "write", "execute", "atomic")
        if self.recent and self.random.random() < 0.6:
            return self.pick(*self.recent)._replace(access=access)
        privileged = self.random.random() < 0.3
        return Asked(self.pick(*DEVICES), self.pick(None, *PASIDS), self.address(), access, privileged)

    def request(self) -> None:
        """One request: the tables alone, a question, the answer; the twin must say the same three times."""
        asked = self.something()
        rid, pasid, address, access, privileged = asked
        request = DmaRequest(rid, address, Access(access), pasid, privileged)
        walks = [self.unit.walk(request, caches=caches) for caches in (False, True)]
        tables, question = (-walk.fault.code if walk.fault is not None else walk.address for walk in walks)
        assert tables == self.twin.ask(asked, real=False, forgetful=True), str(walks[0])
        assert question == self.twin.ask(asked, real=False), str(walks[1])
        answer = self.unit.translate(request)
        outcome = -answer.code if isinstance(answer, Fault) else answer
        assert outcome == self.twin.ask(asked), str(walks[1])
        assert outcome == question or question != tables, "a real walk may replace what is stale on its way"
        self.seen["translated" if outcome >= 0 else "fault"] += 1
        if outcome >= 0:
            self.recent = [*self.recent[-4:], asked]
        self.seen["stale"] += outcome != tables

    def whose(self) -> tuple[int, int]:
        """A domain and a PASID, often those of something that is remembered."""
        known = [fact.tag[:2] for fact in self.twin.facts if fact.kind in ("page", "table") and fact.tag[1] != SECOND]
        if known and self.random.random() < 0.6:
            return self.pick(*known)
        return self.pick(*DOMAINS), self.pick(*PASIDS)

    def forget(self) -> None:
        """Any invalidation descriptor, with any contents."""
        twin = self.twin
        domain, pasid = self.whose()
        start, order, hint = self.something().address & ~0xFFF, self.pick(0, 0, 1, 3, 9, 18), self.pick(0, 1)
        size = 0x1000 << order
        pages = {"ADDR": start, "AM": order, "IH": hint}
        what = self.random.randrange(12)
        if what == 0:
            rid, mask = self.pick(*DEVICES), self.pick(0, 1, 2, 3)
            words, gone = context_cache(3, SID=rid, FM=mask, DID=domain), twin.forget_contexts(rid, mask)
        elif what == 1:
            words, gone = context_cache(self.pick(1, 2), DID=domain), twin.forget_contexts(None, 0)
        elif what == 2:
            words, gone = pasid_cache(1, DID=domain, PASID=pasid), twin.forget_entries(domain, pasid)
        elif what == 3:
            words, gone = pasid_cache(0, DID=domain), twin.forget_entries(domain, None)
        elif what == 4:
            words, gone = pasid_cache(3), twin.forget_entries(None, None)
        elif what < 7:
            words = piotlb(2, DID=domain, PASID=pasid)
            gone = twin.forget_pasid(domain, pasid, 0, ALL_PAGES, leaves=False)
        elif what < 9:
            words = piotlb(3, DID=domain, PASID=pasid, **pages)
            gone = twin.forget_pasid(domain, pasid, start & -size, size, leaves=bool(hint))
        elif what == 9:
            words, gone = iotlb(2, DID=domain), twin.forget_domain(domain)
        elif what == 10:
            words = iotlb(3, DID=domain, **pages)
            gone = twin.forget_pages_of_domain(domain, start & -size, size, leaves=bool(hint))
        else:
            words, gone = iotlb(1), twin.forget_domain(None)
        self.bench.invalidate(words)
        self.seen[f"forget {what}"] += 1
        self.seen[f"dropped {what}"] += gone > 0

    def compare(self) -> None:
        """What both remember, and what both have marked."""
        assert remembered(self.unit.caches) == {(fact.kind, fact.tag, fact.value) for fact in self.twin.facts}
        for address, word in self.twin.memory.items():
            assert self.unit.memory.load(address) == word, hex(address)

    def play(self, steps: int) -> Counter[str]:
        """A random course; returns what was met."""
        for _ in range(steps):
            self.pick(self.change, self.forget, *[self.request] * 5)()
        self.compare()
        return self.seen + self.twin.used


def remembered(caches) -> set:
    """The unit's lines in the twin's words."""
    facts: set = {("context", (rid,), line.words) for rid, line in caches.contexts.items()}
    facts |= {("entry", key, line.words) for key, line in caches.pasids.items()}
    for (did, tag, page), found in caches.iotlb.items():
        second = tag == SECOND_LEVEL
        letters = [letter for number, letter in enumerate("rwx") if found.granted >> number & 1]
        modes = [("U", 0), ("P", 3)]
        granted = (
            letters
            if second
            else [m + x for m, at in modes for n, x in enumerate("rwx") if found.granted >> at + n & 1]
        )
        facts.add(("page", (did, SECOND if second else tag, page), (found.page, found.level, frozenset(granted))))
    for (did, tag, level, prefix), line in caches.paging.items():
        facts.add(("table", (did, SECOND if tag == SECOND_LEVEL else tag, level, prefix), table(line, tag)))
    return facts


def table(line, tag) -> tuple:
    """The word and the rights of a paging-structure line."""
    if tag == SECOND_LEVEL:
        return line.word, frozenset(letter for number, letter in enumerate("rw") if line.rights >> number & 1)
    names = [name for name, number in (("write", 1), ("user", 2)) if line.rights >> number & 1]
    return line.word, frozenset(names if line.rights >> 63 else [*names, "execute"])


def play_all(worlds: int, steps: int) -> Counter[str]:
    """The worlds of the first seeds, one after the other."""
    return sum((World(seed).play(steps) for seed in range(worlds)), Counter())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 64))
def test_the_caches_and_a_bag_of_facts_agree(seed):
    """Whatever is asked, changed and forgotten."""
    World(seed).play(80)


def test_every_kind_of_fact_is_used_dropped_and_stale(record_property):
    """The courses above mean something: fixed seeds count what occurs."""
    seen = play_all(30, 150)
    record_property("seen", dict(sorted(seen.items())))
    kinds = ("context", "entry", "first-level page", "first-level table", "second-level page", "second-level table")
    rare = {what: seen[what] for what in (*kinds, *(f"dropped {what}" for what in range(12))) if seen[what] < 8}
    assert rare == {}
    assert min(seen["translated"], seen["fault"]) > 500
    assert seen["stale"] > 100


@pytest.mark.parametrize(
    "wrong", ["forget_contexts", "forget_entries", "forget_domain", "forget_pages_of_domain", "forget_pasid"]
)
def test_a_twin_that_does_not_forget_is_found_out(wrong, monkeypatch):
    """The comparison can fail, for each kind of invalidation."""
    monkeypatch.setattr(NaiveUnit, wrong, lambda self, *args, **kwargs: 0)
    with pytest.raises(AssertionError):
        play_all(30, 150)
