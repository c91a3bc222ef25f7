"""A second AMD IOMMU, written from facts/hardware.md 4 and the documented choices: naive, slow, independent.

It knows a memory as a plain dict, decodes by hand-written bit positions, and tells each rule as one ``if``. What it has
seen it remembers as facts in one bag, searched from end to end: a device table entry, a GCR3 entry, an entry that names
a table, a page with the accesses that were granted. Invalidation goes through the bag and throws out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["Asked", "Fact", "NaiveAmd"]

HOST = "host"
"""Whose a page or a table is, when the host table alone decides."""
ILLEGAL_DTE, PAGE_FAULT, DTE_ERROR, TABLE_ERROR, INVALID_REQUEST = 1, 2, 3, 4, 8
GN, NX, US, PR, RW, PE, RZ = 0x001, 0x002, 0x004, 0x010, 0x020, 0x040, 0x080
ABORT = 1 << 9
LETTERS = {"read": "r", "write": "w", "execute": "rx", "atomic": "rw"}


class Blocked(Exception):
    """The request ends with this event; ``gpa`` is set when the host table was asked and said no."""

    def __init__(self, code: int, flags: int = 0, gpa: int | None = None) -> None:
        self.code, self.flags, self.gpa = code, flags, gpa
        super().__init__(f"{code} {flags:#x}")


class Asked(NamedTuple):
    """One request."""

    rid: int
    pasid: int | None
    address: int
    access: str
    privileged: bool


class Fact(NamedTuple):
    """``kind`` is dte, gcr3, table or page; ``tag`` says for whom it holds; ``value`` is what was seen."""

    kind: str
    tag: tuple[Any, ...]
    value: tuple[Any, ...]


def bits(value: int, high: int, low: int) -> int:
    """Bits ``high`` down to ``low``."""
    return (value >> low) & ((1 << (high - low + 1)) - 1)


@dataclass
class NaiveAmd:
    """``memory`` holds words by address, up to ``ram``; ``table`` and ``pages`` are the device table's."""

    memory: dict[int, int]
    ram: int
    table: int
    pages: int = 1
    width: int = 48
    host_levels: int = 6
    five_levels: bool = True
    glx: int = 2
    pasid_bits: int = 16
    no_execute: bool = True
    giosup: bool = True
    accessed: bool = True
    dirty: bool = True
    guest_on: bool = True
    guest_tables: bool = False
    facts: list[Fact] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    """How often a fact of each kind answered in place of memory."""
    remembers: bool = True
    real: bool = True
    """Whether the request happens: only then is anything remembered or marked."""

    # --- memory and facts ---------------------------------------------------------------------------------------------

    def word(self, address: int) -> int | None:
        """A word, or nothing where no memory is."""
        return self.memory.get(address, 0) if address <= self.ram - 8 else None

    def mark(self, address: int, what: int) -> None:
        """Set accessed or dirty."""
        if self.real and what:
            self.memory[address] |= what

    def recall(self, kind: str, tag: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """What the bag knows."""
        if self.remembers:
            for fact in self.facts:
                if (fact.kind, fact.tag) == (kind, tag):
                    return fact.value
        return None

    def learn(self, kind: str, tag: tuple[Any, ...], value: tuple[Any, ...]) -> None:
        """Put a fact into the bag, in place of an older one."""
        if self.real and self.remembers:
            self.facts = [fact for fact in self.facts if (fact.kind, fact.tag) != (kind, tag)]
            self.facts.append(Fact(kind, tag, value))

    def learn_page(self, tag: tuple[Any, ...], spa: int, shift: int, granted: frozenset[Any]) -> None:
        """A page; what was granted before stays granted if it is the same page."""
        known = self.recall("page", tag)
        if known is not None and known[:2] == (spa >> 12, shift):
            granted |= known[2]
        self.learn("page", tag, (spa >> 12, shift, granted))

    # --- a request ----------------------------------------------------------------------------------------------------

    def answer(self, asked: Asked, *, real: bool = True, memory_only: bool = False) -> int | tuple[int, int, int, int]:
        """The address, or the event: code, flags, PASID or domain, address."""
        self.real = real
        remembers, self.remembers = self.remembers, self.remembers and not memory_only
        self.did = 0
        try:
            return self.translate(asked)
        except Blocked as blocked:
            return self.event(asked, blocked)
        finally:
            self.remembers = remembers

    def event(self, asked: Asked, blocked: Blocked) -> tuple[int, int, int, int]:
        """What the log says."""
        flags = blocked.flags | (RW if "w" in LETTERS[asked.access] else 0)
        with_domain = blocked.code in (PAGE_FAULT, TABLE_ERROR)
        guest = blocked.flags & GN or (not with_domain and asked.pasid is not None)
        if guest:
            flags |= GN | (NX if asked.access == "execute" else 0) | (0 if asked.privileged else US)
            return blocked.code, flags, asked.pasid or 0, asked.address
        address = blocked.gpa if blocked.gpa is not None else asked.address
        return blocked.code, flags, self.did if with_domain else 0, address

    def translate(self, asked: Asked) -> int:
        """Step by step."""
        dte = self.device_entry(asked.rid)
        if not dte[0] & 1:
            return self.plain(asked.address)
        self.did = bits(dte[1], 15, 0)
        if asked.pasid is None and bits(asked.address, 63, 20) == 0xFEE:
            raise Blocked(INVALID_REQUEST, 5 << 9 if asked.access == "write" else 0)
        if not dte[0] & 2:
            raise Blocked(PAGE_FAULT)
        wants = LETTERS[asked.access]
        if ("r" in wants and not bits(dte[0], 61, 61)) or ("w" in wants and not bits(dte[0], 62, 62)):
            raise Blocked(PAGE_FAULT)
        guest = bits(dte[0], 55, 55) and self.guest_on
        if asked.pasid is None and not (guest and bits(dte[0], 54, 54) and self.giosup):
            if not bits(dte[0], 11, 9):
                return self.plain(asked.address)
            return self.host(dte, asked.address, wants.replace("x", ""))
        return self.guest(dte, asked, asked.pasid or 0)

    def plain(self, address: int) -> int:
        """Not translated at all."""
        if address >= 1 << self.width:
            raise Blocked(PAGE_FAULT)
        return address

    def device_entry(self, rid: int) -> tuple[int, ...]:
        """Four words."""
        known = self.recall("dte", (rid,))
        if known is not None:
            self.used["dte"] += 1
            return known
        if rid * 32 + 32 > self.pages * 4096:
            raise Blocked(ILLEGAL_DTE)
        words = tuple(self.word(self.table + rid * 32 + 8 * index) for index in range(4))
        if None in words:
            raise Blocked(DTE_ERROR, ABORT)
        dte = tuple(word or 0 for word in words)
        if dte[0] & 1:
            self.check_dte(dte)
        self.learn("dte", (rid,), dte)
        return dte

    def check_dte(self, dte: tuple[int, ...]) -> None:
        """Reserved bits first, then levels."""
        first, second, third, fourth = dte
        if bits(first, 6, 2) or first >> 63 or bits(second, 42, 42) or bits(third, 53, 52) or bits(third, 59, 59):
            raise Blocked(ILLEGAL_DTE, RZ)
        if fourth or bits(first, 51, 12) << 12 >> self.width or self.gcr3_root(dte) >> self.width:
            raise Blocked(ILLEGAL_DTE, RZ)
        if bits(first, 11, 9) > self.host_levels:
            raise Blocked(ILLEGAL_DTE)
        if bits(first, 55, 55) and (bits(first, 57, 56) > self.glx or bits(third, 55, 54) > self.five_levels):
            raise Blocked(ILLEGAL_DTE)

    def gcr3_root(self, dte: tuple[int, ...]) -> int:
        """Put together from three parts."""
        return bits(dte[0], 60, 58) << 12 | bits(dte[1], 31, 16) << 15 | bits(dte[1], 63, 43) << 31

    # --- host table ---------------------------------------------------------------------------------------------------

    def host(self, dte: tuple[int, ...], gpa: int, wants: str) -> int:
        """The system-physical address."""
        known = self.recall("page", (self.did, HOST, gpa >> 12))
        if known is not None and set(wants) <= known[2]:
            self.used["page"] += 1
            return int(known[0]) << 12 | gpa & 0xFFF
        try:
            spa, shift = self.host_walk(dte, gpa, wants)
        except Blocked as blocked:
            blocked.gpa = gpa
            raise
        self.learn_page((self.did, HOST, gpa >> 12), spa, shift, frozenset(wants))
        return spa

    def host_walk(self, dte: tuple[int, ...], gpa: int, wants: str) -> tuple[int, int]:
        """The address, and log2 of the page size."""
        if gpa >> 12 + 9 * bits(dte[0], 11, 9):
            raise Blocked(PAGE_FAULT)
        word, level, rights, read = self.host_leaf(dte, gpa, wants)
        shift = self.host_size(word, level)
        if not set(wants) <= rights:
            raise Blocked(PAGE_FAULT, PR | PE)
        spa = bits(word, 51, 12) << 12 >> shift << shift | gpa % (1 << shift)
        if spa >> self.width:
            raise Blocked(PAGE_FAULT)
        for at in read:
            self.mark(at, 0x20 if dte[0] & 0x80 and self.accessed else 0)
        if read and "w" in wants:
            self.mark(read[-1], 0x40 if dte[0] & 0x100 and self.dirty else 0)
        return spa, shift

    def host_leaf(self, dte: tuple[int, ...], gpa: int, wants: str) -> tuple[int, int, set[str], list[int]]:
        """The entry that names the page: its word and level, the rights of all on the way, what was read."""
        level, table, rights = bits(dte[0], 11, 9), bits(dte[0], 51, 12) << 12, {"r", "w"}
        read: list[int] = []
        word = 0
        for above in range(2, level + 1):
            known = self.recall("table", (self.did, HOST, above, gpa >> 3 + 9 * above))
            if known is not None:
                if set(wants) <= known[1]:
                    self.used["table"] += 1
                    level, word, rights = above, known[0], set(known[1])
                break
        while True:
            if not word:
                at = table + bits(gpa, 11 + 9 * level, 3 + 9 * level) * 8
                word = self.host_word(at)
                read.append(at)
                rights &= {letter for letter, bit in (("r", 61), ("w", 62)) if word >> bit & 1}
            following = bits(word, 11, 9)
            if following in (0, 7):
                return word, level, rights, read
            if following >= level:
                raise Blocked(PAGE_FAULT, PR)
            if any(bits(gpa, 3 + 9 * skipped + 8, 3 + 9 * skipped) for skipped in range(following + 1, level)):
                raise Blocked(PAGE_FAULT)
            self.learn("table", (self.did, HOST, level, gpa >> 3 + 9 * level), (word, frozenset(rights)))
            level, table, word = following, bits(word, 51, 12) << 12, 0

    def host_word(self, at: int) -> int:
        """An entry that is there and clean."""
        word = self.word(at)
        if word is None:
            raise Blocked(TABLE_ERROR, ABORT)
        if not word & 1:
            raise Blocked(PAGE_FAULT)
        if bits(word, 58, 52) or bits(word, 51, 12) << 12 >> self.width:
            raise Blocked(PAGE_FAULT, PR | RZ)
        return word

    def host_size(self, word: int, level: int) -> int:
        """Log2 of the page size of a leaf."""
        own = 3 + 9 * level
        if bits(word, 11, 9) == 0:
            return own
        zero = next((bit for bit in range(12, 52) if not word >> bit & 1), 52)
        if not own <= zero + 1 < own + 9:
            raise Blocked(PAGE_FAULT, PR)
        return zero + 1

    # --- guest table --------------------------------------------------------------------------------------------------

    def guest(self, dte: tuple[int, ...], asked: Asked, pasid: int) -> int:
        """By the guest table, then by the host table."""
        wants, who = LETTERS[asked.access], "privileged" if asked.privileged and asked.pasid is not None else "user"
        asked_for = frozenset((who, letter) for letter in wants)
        known = self.recall("page", (self.did, pasid, asked.address >> 12))
        if known is not None and asked_for <= known[2]:
            self.used["page"] += 1
            return int(known[0]) << 12 | asked.address & 0xFFF
        nested = bool(bits(dte[0], 11, 9))
        entry = self.gcr3_entry(dte, pasid, nested)
        gpa, shift = self.guest_walk(dte, asked.address, pasid, entry, (wants, who), nested)
        spa = self.host(dte, gpa, wants.replace("x", "")) if nested else gpa
        self.learn_page((self.did, pasid, asked.address >> 12), spa, shift, asked_for)
        return spa

    def gcr3_entry(self, dte: tuple[int, ...], pasid: int, nested: bool) -> int:
        """The word that names CR3."""
        levels = bits(dte[0], 57, 56) + 1
        if not (bits(dte[0], 55, 55) and self.guest_on) or pasid >= 1 << min(9 * levels, self.pasid_bits):
            raise Blocked(PAGE_FAULT, GN)
        known = self.recall("gcr3", (self.did, pasid))
        if known is not None:
            self.used["gcr3"] += 1
            return int(known[0])
        table = self.gcr3_root(dte)
        word = 0
        for level in reversed(range(levels)):
            at = table + bits(pasid, 9 * level + 8, 9 * level) * 8
            if nested and self.guest_tables:
                at = self.host(dte, at, "r")
            found = self.word(at)
            if found is None:
                raise Blocked(TABLE_ERROR, GN | ABORT)
            if not found & 1:
                raise Blocked(PAGE_FAULT, GN)
            wide = not nested and bits(found, 51, 12) << 12 >> self.width
            if bits(found, 11, 1) or found >> 52 or wide:
                raise Blocked(PAGE_FAULT, GN | PR | RZ)
            word, table = found, bits(found, 51, 12) << 12
        self.learn("gcr3", (self.did, pasid), (word, nested and self.guest_tables))
        return word

    def guest_walk(
        self, dte: tuple[int, ...], address: int, pasid: int, cr3: int, asked: tuple[str, str], nested: bool
    ) -> tuple[int, int]:
        """The guest-physical address, and log2 of the page size."""
        depth = 5 if bits(dte[2], 55, 54) else 4
        sign = bits(address, 63, 9 * depth + 11)
        if sign not in (0, (1 << 53 - 9 * depth) - 1):
            raise Blocked(PAGE_FAULT, GN)
        table, level, rights = bits(cr3, 51, 12) << 12, depth, {"w", "u", "x"}
        for above in range(2, depth + 1):
            known = self.recall("table", (self.did, pasid, above, address >> 3 + 9 * above))
            if known is not None:
                if self.grants(known[1], asked):
                    self.used["table"] += 1
                    table, level, rights = bits(known[0], 51, 12) << 12, above - 1, set(known[1])
                break
        read: list[tuple[int, int]] = []
        while True:
            named = table + bits(address, 11 + 9 * level, 3 + 9 * level) * 8
            at = self.host(dte, named, "r") if nested else named
            word = self.guest_word(at, level, nested)
            read.append((named, at))
            rights &= {letter for letter, bit in (("w", 1), ("u", 2)) if word >> bit & 1} | {"x"}
            rights -= {"x"} if word >> 63 else set()
            if level == 1 or word & 0x80:
                break
            self.learn("table", (self.did, pasid, level, address >> 3 + 9 * level), (word, frozenset(rights)))
            table, level = bits(word, 51, 12) << 12, level - 1
        if not self.grants(rights, asked):
            raise Blocked(PAGE_FAULT, GN | PR | PE)
        for step, (named, at) in enumerate(read, start=1):
            what = 0x60 if "w" in asked[0] and step == len(read) else 0x20
            if (self.word(at) or 0) & what != what:
                if nested:
                    self.host(dte, named, "w")
                self.mark(at, what)
        shift = 3 + 9 * level
        return bits(word, 51, 12) << 12 >> shift << shift | address % (1 << shift), shift

    def guest_word(self, at: int, level: int, nested: bool) -> int:
        """An entry that is there and clean."""
        word = self.word(at)
        if word is None:
            raise Blocked(TABLE_ERROR, GN | ABORT)
        if not word & 1:
            raise Blocked(PAGE_FAULT, GN)
        large = level > 1 and word & 0x80
        bad = not nested and bits(word, 51, 12) << 12 >> self.width
        if bad or (large and (level > 3 or bits(word, 3 + 9 * level - 1, 13))):
            raise Blocked(PAGE_FAULT, GN | PR | RZ)
        return word

    def grants(self, rights: set[str] | frozenset[str], asked: tuple[str, str]) -> bool:
        """Whether entries with these rights allow the access."""
        wants, who = asked
        if "w" in wants and "w" not in rights:
            return False
        if who == "user" and "u" not in rights:
            return False
        return not ("x" in wants and "x" not in rights and self.no_execute)

    # --- invalidation -------------------------------------------------------------------------------------------------

    def forget_device(self, rid: int) -> None:
        """INVALIDATE_DEVTAB_ENTRY."""
        self.facts = [fact for fact in self.facts if (fact.kind, fact.tag) != ("dte", (rid,))]

    def forget_pages(self, did: int, pasid: int | None, start: int, size: int, *, tables: bool) -> None:
        """INVALIDATE_IOMMU_PAGES."""
        self.facts = [fact for fact in self.facts if not self.hit(fact, did, pasid, start, size, tables)]

    def hit(self, fact: Fact, did: int, pasid: int | None, start: int, size: int, tables: bool) -> bool:
        """Whether a fact must go."""
        kind, tag, value = fact
        if kind == "dte" or tag[0] != did:
            return False
        if kind == "gcr3":
            return tables and (tag[1] == pasid if pasid is not None else value[1])
        owner = HOST if pasid is None else pasid
        if tag[1] != owner:
            return pasid is None
        shift = value[1] if kind == "page" else 3 + 9 * tag[2]
        first = tag[2] << 12 >> shift << shift if kind == "page" else tag[3] << shift
        near = first < start + size and start < first + (1 << shift)
        return near and (kind == "page" or tables)
