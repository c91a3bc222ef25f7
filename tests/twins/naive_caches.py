"""A second unit with caches, written from the documented tags: one bag of remembered facts, searched from end to end.

A fact is what some walk has seen: a context entry, a PASID entry, an entry that names a table, a page with the accesses
that were granted. Nothing is indexed, nothing is clever; invalidation goes through the bag and throws out. The unit is
the usual one: 48 bits, 4 levels, 4 KiB, 2 MiB and 1 GiB pages, revision 3.x, walks that snoop.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["SECOND", "Asked", "Fact", "NaiveUnit"]

SECOND = "second level"
"""Whose a page or a table is, when the second level alone decides."""
LETTERS = {"read": "r", "write": "w", "execute": "rx", "atomic": "rw"}
PAGE, LARGE = 1 << 12, 1 << 21
SIZE = {1: 12, 2: 21, 3: 30, 4: 39}
ADDRESS = 0x000F_FFFF_FFFF_F000


class Stop(Exception):
    """The request ends with this fault code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(hex(code))


class Asked(NamedTuple):
    """One request."""

    rid: int
    pasid: int | None
    address: int
    access: str
    privileged: bool


class Fact(NamedTuple):
    """``kind`` is context, entry, table or page; ``tag`` says for whom it holds; ``value`` is what was seen."""

    kind: str
    tag: tuple
    value: tuple


def bit(word: int, number: int) -> bool:
    """One bit."""
    return bool(word >> number & 1)


@dataclass
class NaiveUnit:
    """``memory`` holds words by address, up to ``ram``; ``facts`` is the bag; ``caching_mode`` keeps what is absent."""

    memory: dict[int, int]
    ram: int
    root: int
    caching_mode: bool = False
    facts: list[Fact] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    """How often a fact of each kind answered in place of memory."""
    real: bool = True
    """Whether the request happens: only then is anything remembered or marked."""
    forgetful: bool = False
    """Whether facts are left aside: what the tables alone say."""

    # --- the bag ------------------------------------------------------------------------------------------------------

    def recall(self, kind: str, tag: tuple) -> tuple | None:
        """What is known."""
        if self.forgetful:
            return None
        for fact in self.facts:
            if fact.kind == kind and fact.tag == tag:
                return fact.value
        return None

    def remember(self, kind: str, tag: tuple, value: tuple) -> None:
        """One fact for each tag: a new one takes the place of the old one."""
        if self.real and not self.forgetful:
            self.facts = [fact for fact in self.facts if (fact.kind, fact.tag) != (kind, tag)]
            self.facts.append(Fact(kind, tag, value))

    def grant(self, tag: tuple, frame: int, level: int, granted: frozenset[str]) -> None:
        """A page was reached. What was granted before for this very page stays granted."""
        known = self.recall("page", tag)
        if known is not None and known[:2] == (frame, level):
            granted |= known[2]
        self.remember("page", tag, (frame, level, granted))

    # --- requests -----------------------------------------------------------------------------------------------------

    def ask(self, asked: Asked, *, real: bool = True, forgetful: bool = False) -> int:
        """The address, or minus the fault code."""
        self.real, self.forgetful = real, forgetful
        try:
            return self.translate(asked)
        except Stop as stop:
            return -stop.code

    def load(self, address: int) -> int:
        """A word of memory."""
        return self.memory.get(address, 0)

    def mark(self, address: int, wanted: int) -> None:
        """Set accessed or dirty, if the request happens."""
        if self.real:
            self.memory[address] = self.load(address) | wanted

    def translate(self, asked: Asked) -> int:
        """Context entry, PASID entry, rights of the entry, pages."""
        context = self.context(asked)
        number = context[1] & 0xFFFFF if asked.pasid is None else asked.pasid
        if number >= 1 << (context[0] >> 9 & 7) + 13:
            raise Stop(0x48 if asked.pasid is None else 0x46)
        entry = self.entry(asked.rid, number, context)
        privileged = asked.privileged and asked.pasid is not None
        letters = frozenset(LETTERS[asked.access])
        if "x" in letters and not bit(entry[2], 1):
            raise Stop(0x5C)
        if privileged and not bit(entry[2], 0):
            raise Stop(0x5D)
        kind = entry[0] >> 6 & 7
        if kind == 4:
            result = asked.address
        elif kind == 2:
            result = self.second(entry, asked.address, letters)
        else:
            result = self.first(entry, number, asked.address, letters, privileged)
        if result >> 20 == 0xFEE:
            raise Stop(0x87)
        return result

    def context(self, asked: Asked) -> tuple[int, ...]:
        """The context entry of the device."""
        words = self.recall("context", (asked.rid,))
        if words is not None:
            self.used["context"] += 1
        else:
            half = self.load(self.root + (asked.rid >> 8) * 16 + (asked.rid >> 7 & 1) * 8)
            if not bit(half, 0):
                raise Stop(0x39)
            at = (half & ~0xFFF) + (asked.rid & 0x7F) * 32
            words = tuple(self.load(at + 8 * index) for index in range(4))
            if bit(words[0], 0) or self.caching_mode:
                self.remember("context", (asked.rid,), words)
        if not bit(words[0], 0):
            raise Stop(0x41)
        if asked.pasid is not None and not bit(words[0], 3):
            raise Stop(0x45)
        return words

    def entry(self, rid: int, number: int, context: tuple[int, ...]) -> tuple[int, ...]:
        """The PASID entry."""
        words = self.recall("entry", (rid, number))
        if words is not None:
            self.used["entry"] += 1
        else:
            directory = self.load((context[0] & ~0xFFF) + (number >> 6) * 8)
            if not bit(directory, 0):
                raise Stop(0x51)
            at = (directory & ~0xFFF) + (number & 63) * 64
            words = tuple(self.load(at + 8 * index) for index in range(8))
            if (bit(words[0], 0) and 1 <= words[0] >> 6 & 7 <= 4) or (not bit(words[0], 0) and self.caching_mode):
                self.remember("entry", (rid, number), words)
        if not bit(words[0], 0):
            raise Stop(0x59)
        if not 1 <= words[0] >> 6 & 7 <= 4:
            raise Stop(0x5B)
        return words

    def reserved(self, word: int, level: int, *, second: bool) -> bool:
        """A leaf at the top, or a large page with low address bits."""
        if not bit(word, 7) or level == 1:
            return False
        return level == 4 or bool(word & ADDRESS & (1 << SIZE[level]) - (PAGE if second else 2 * PAGE))

    # --- second level -------------------------------------------------------------------------------------------------

    def second(self, entry: tuple[int, ...], address: int, letters: frozenset[str]) -> int:
        """Through the domain's own table."""
        domain, marks = entry[1] & 0xFFFF, bit(entry[0], 9)
        tag = (domain, SECOND, address >> 12)
        known = self.recall("page", tag)
        if known is not None and letters <= known[2]:
            self.used["second-level page"] += 1
            if known[0] < 0:
                raise Stop(-known[0])
            return int(known[0]) | address & 0xFFF
        level, table, rights = 4, entry[0] & ~0xFFF, frozenset("rw")
        lowest = self.lowest_table(domain, SECOND, address)
        if lowest is not None and letters & {"r", "w"} <= lowest[2]:
            self.used["second-level table"] += 1
            level, table, rights = lowest[0] - 1, lowest[1] & ADDRESS, lowest[2]
        while True:
            at = table + (address >> SIZE[level] & 511) * 8
            word = self.load(at)
            here = frozenset(letter for number, letter in enumerate("rw") if bit(word, number))
            if not here:
                if self.caching_mode:
                    self.grant(tag, -0x79, 1, letters & {"r", "w"})
                raise Stop(0x79)
            if not letters & {"r", "w"} <= here:
                raise Stop(0x85 if "w" in letters - here else 0x86)
            if self.reserved(word, level, second=True):
                raise Stop(0x7A)
            leaf = level == 1 or bit(word, 7)
            if marks:
                self.mark(at, 1 << 8 | (1 << 9 if leaf and "w" in letters else 0))
            if leaf:
                inside = (1 << SIZE[level]) - 1
                result = word & ADDRESS & ~inside | address & inside
                if result >> 20 != 0xFEE:
                    self.grant(tag, result & ~0xFFF, level, letters)
                return result
            rights &= here
            self.remember("table", (domain, SECOND, level, address >> SIZE[level]), (word, rights))
            table, level = word & ADDRESS, level - 1

    def lowest_table(self, domain: int, whose: object, address: int) -> tuple | None:
        """The lowest entry on the way that is remembered: its level, its word, the rights down to it."""
        for level in (2, 3, 4):
            known = self.recall("table", (domain, whose, level, address >> SIZE[level]))
            if known is not None:
                return level, *known
        return None

    # --- first level --------------------------------------------------------------------------------------------------

    def first(
        self, entry: tuple[int, ...], number: int, address: int, letters: frozenset[str], privileged: bool
    ) -> int:
        """Through the process's table, and if there is a domain below through that."""
        domain, nested = entry[1] & 0xFFFF, entry[0] >> 6 & 7 == 3
        tag = (domain, number, address >> 12)
        asked = frozenset(("P" if privileged else "U") + letter for letter in letters)
        known = self.recall("page", tag)
        if known is not None and asked <= known[2]:
            self.used["first-level page"] += 1
            return int(known[0]) | address & 0xFFF
        result, level, tables_grant = self.first_walk(entry, number, address, letters, privileged)
        if nested:
            result = self.second(entry, result, letters & {"r", "w"})
        if tables_grant and result >> 20 != 0xFEE:
            self.grant(tag, result & ~0xFFF, level, asked)
        return result

    def first_walk(
        self, entry: tuple, number: int, address: int, letters: frozenset[str], privileged: bool
    ) -> tuple[int, int, bool]:
        """Where the first level leads, at which level it ended, and whether its tables alone grant the access."""
        domain, nested = entry[1] & 0xFFFF, entry[0] >> 6 & 7 == 3
        needs_write = "w" in letters and (not privileged or bit(entry[2], 4))
        no_execute = "x" in letters and bit(entry[2], 5)
        level, table, rights = 4, entry[2] & ~0xFFF, frozenset({"write", "user", "execute"})
        lowest = self.lowest_table(domain, number, address)
        if lowest is not None:
            wanted = {"write"} if needs_write else set()
            wanted |= set() if privileged else {"user"}
            wanted |= {"execute"} if no_execute else set()
            if wanted <= lowest[2]:
                self.used["first-level table"] += 1
                level, table, rights = lowest[0] - 1, lowest[1] & ADDRESS, lowest[2]
        while True:
            guest = table + (address >> SIZE[level] & 511) * 8
            at = self.table_access(entry, guest, level == 4) if nested else guest
            if at >= self.ram:
                raise Stop(0x73 if level == 4 else 0x70)
            word = self.load(at)
            self.first_rights(word, needs_write, no_execute, privileged)
            if self.reserved(word, level, second=False):
                raise Stop(0x72)
            leaf = level == 1 or bit(word, 7)
            wanted_marks = 1 << 5 | (1 << 6 if leaf and "w" in letters else 0)
            if word & wanted_marks != wanted_marks:
                if nested:
                    self.may_mark(entry, guest)
                self.mark(at, wanted_marks)
            here = {name for name, number in (("write", 1), ("user", 2)) if bit(word, number)}
            rights &= frozenset(here | (set() if bit(word, 63) else {"execute"}))
            if leaf:
                inside = (1 << SIZE[level]) - 1
                by_tables = ("w" not in letters or "write" in rights) and ("x" not in letters or "execute" in rights)
                return word & ADDRESS & ~inside | address & inside, level, by_tables
            self.remember("table", (domain, number, level, address >> SIZE[level]), (word, rights))
            table, level = word & ADDRESS, level - 1

    def first_rights(self, word: int, needs_write: bool, no_execute: bool, privileged: bool) -> None:
        """Whether one first-level entry lets the request pass."""
        if not bit(word, 0):
            raise Stop(0x71)
        if not privileged and not bit(word, 2):
            raise Stop(0x81)
        if needs_write and not bit(word, 1):
            raise Stop(0x85)
        if no_execute and bit(word, 63):
            raise Stop(0x82)

    def table_access(self, entry: tuple[int, ...], guest: int, top: bool) -> int:
        """Where a first-level table lies: the second level must let it be read."""
        try:
            return self.second(entry, guest, frozenset("r"))
        except Stop as stop:
            if stop.code in (0x79, 0x86):
                raise Stop(0x75 if top else 0x76) from None
            raise

    def may_mark(self, entry: tuple[int, ...], guest: int) -> None:
        """Setting accessed or dirty is a write to the table."""
        try:
            self.second(entry, guest, frozenset("w"))
        except Stop as stop:
            raise Stop(0x77 if stop.code == 0x85 else stop.code) from None

    # --- what software asks to forget ---------------------------------------------------------------------------------

    def throw_out(self, unwanted) -> int:
        """Go through the bag; returns how many facts went."""
        before = len(self.facts)
        self.facts = [fact for fact in self.facts if not unwanted(fact)]
        return before - len(self.facts)

    def forget_contexts(self, sid: int | None, masked_bits: int) -> int:
        """Of one source id, whose lowest function bits may be left aside from the top: 2, then 1, then 0."""
        spare = sum(1 << 2 - at for at in range(masked_bits))
        return self.throw_out(
            lambda fact: fact.kind == "context" and (sid is None or fact.tag[0] | spare == sid | spare)
        )

    def forget_entries(self, domain: int | None, pasid: int | None) -> int:
        """All, a domain's, or one PASID of a domain; an absent one has no domain."""

        def unwanted(fact):
            if fact.kind != "entry" or pasid not in (None, fact.tag[1]):
                return False
            return domain in (None, fact.value[1] & 0xFFFF) or not bit(fact.value[0], 0)

        return self.throw_out(unwanted)

    def forget_domain(self, domain: int | None) -> int:
        """Pages and tables of a domain, or of all."""
        return self.throw_out(lambda fact: fact.kind in ("page", "table") and domain in (None, fact.tag[0]))

    def forget_pages_of_domain(self, domain: int, start: int, size: int, leaves: bool) -> int:
        """Second-level pages of a range (and tables on the way to it), and everything that rests on the domain."""

        def unwanted(fact):
            if fact.kind not in ("page", "table") or fact.tag[0] != domain:
                return False
            if fact.tag[1] != SECOND:
                return True
            return not (fact.kind == "table" and leaves) and overlaps(fact, start, size)

        return self.throw_out(unwanted)

    def forget_pasid(self, domain: int, pasid: int, start: int, size: int, leaves: bool) -> int:
        """First-level and nested pages of a range of one PASID, and the first-level tables on the way to it."""
        return self.throw_out(
            lambda fact: (
                fact.kind in ("page", "table")
                and fact.tag[:2] == (domain, pasid)
                and not (fact.kind == "table" and leaves)
                and overlaps(fact, start, size)
            )
        )


def overlaps(fact: Fact, start: int, size: int) -> bool:
    """Whether what a fact is about has a byte in a range. A large page counts as a whole."""
    if fact.kind == "table":
        first, length = fact.tag[3] << SIZE[fact.tag[2]], 1 << SIZE[fact.tag[2]]
    else:
        length = 1 << SIZE[fact.value[1]]
        first = fact.tag[2] * PAGE // length * length
    return bool(first < start + size and start < first + length)
