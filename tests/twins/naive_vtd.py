"""A second VT-d walker, written straight from the tables: naive, slow, and independent of the one it is compared with.

It knows a memory as a plain dict and a unit as a list of plain facts, decodes by hand-written bit positions, and tells
each rule in the order of the facts (hardware.md 1.4 and 1.5), one ``if`` a rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MEMORY, TRANSLATION, TRANSLATED, PAGE = range(4)
ALWAYS_REPORTED = {0x30, 0x31, 0x32, 0x33, 0x38, 0x39, 0x3A, 0x40, 0x50, 0x58}


class Blocked(Exception):
    """A request ended with this fault code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(hex(code))


def bits(value: int, high: int, low: int) -> int:
    """Bits ``high`` down to ``low``."""
    return (value >> low) & ((1 << (high - low + 1)) - 1)


@dataclass
class Unit:
    """What the unit can do, as far as a walk depends on it."""

    haw: int
    mgaw: int
    depths: set[int]
    second_2m: bool
    second_1g: bool
    first_1g: bool
    five_levels: bool
    kinds: set[int]
    scalable: bool
    supervisor: bool
    snoop: bool
    device_tlb: bool
    second_flags: bool
    snooped_walks: bool
    extended_accessed: bool
    rid_pasid: bool
    rid_privilege: bool
    abort_mode: bool
    newer: bool


@dataclass
class Request:
    """One request; ``reads``, ``writes``, ``executes`` say what it wants."""

    rid: int
    pasid: int | None
    address: int
    reads: bool
    writes: bool
    executes: bool
    privileged: bool
    kind: int = MEMORY


@dataclass
class Second:
    """The second level that one PASID entry names."""

    at: int
    depth: int
    flags: bool
    snoops: bool


@dataclass
class Twin:
    """One memory, one root pointer; ``memory`` holds 64-bit words by address, up to ``ram``.

    ``flags`` holds the words in which accessed or dirty was set. ``quiet`` says whether an entry on the way of the
    last request asked not to be reported.
    """

    memory: dict[int, int]
    ram: int
    root: int
    unit: Unit
    flags: dict[int, int] = field(default_factory=dict)
    quiet: bool = False

    def read(self, address: int, code: int) -> int:
        """A word, or the fault that an unreadable one means."""
        if address + 8 > self.ram:
            raise Blocked(code)
        return self.flags.get(address, self.memory.get(address, 0))

    def ask(self, request: Request) -> tuple[int, bool]:
        """The address, or minus the fault code; and whether that fault is not to be reported."""
        self.quiet = False
        try:
            return self.translate(request), False
        except Blocked as blocked:
            return -blocked.code, self.quiet and blocked.code not in ALWAYS_REPORTED

    def translate(self, request: Request) -> int:
        """The address or ``Blocked``; marks accessed and dirty in ``flags``."""
        entry, privileged = self.pasid_entry(request)
        word0, word1, word2 = entry[0], entry[1], entry[2]
        address = request.address
        if request.kind == TRANSLATED:
            return self.outside_interrupts(self.on_host(address))
        if request.executes and bits(word2, 1, 1) == 0:
            raise Blocked(0x5C)
        if privileged and bits(word2, 0, 0) == 0:
            raise Blocked(0x5D)
        kind = bits(word0, 8, 6)
        snoops = bits(word1, 23, 23) == 1 and self.unit.snooped_walks
        flags = bits(word0, 9, 9) == 1 and self.unit.second_flags
        second = Second(word0 & ~0xFFF, bits(word0, 4, 2) + 2, flags, snoops)
        if kind == 1:
            result = self.first(word2, snoops, request, privileged, None)
        elif kind == 2:
            result = self.second(second, address, request.reads, request.writes)
        elif kind == 3:
            guest = self.first(word2, snoops, request, privileged, second)
            result = self.second(second, guest, request.reads, request.writes)
        else:
            result = self.on_host(address)
        return self.outside_interrupts(result)

    def on_host(self, address: int) -> int:
        """A host address must have no more bits than the host has."""
        if address >= 1 << self.unit.haw:
            raise Blocked(0x83)
        return address

    def outside_interrupts(self, address: int) -> int:
        """Nothing ends where interrupts are delivered."""
        if 0xFEE0_0000 <= address <= 0xFEEF_FFFF:
            raise Blocked(0x87)
        return address

    # --- lookup -------------------------------------------------------------------------------------------------------

    def root_pointer(self, request: Request) -> None:
        """The table mode, and what else the register must not hold."""
        mode, unit = bits(self.root, 11, 10), self.unit
        if mode == 0 and request.pasid is not None:
            raise Blocked(0x31)
        if mode == 0 and request.kind == PAGE:
            raise Blocked(0x32)
        if mode == 3 and unit.abort_mode:
            raise Blocked(0x33)
        if mode != 1 or not unit.scalable or bits(self.root, 9, 0) or bits(self.root, 63, unit.haw):
            raise Blocked(0x30)

    def pasid_entry(self, request: Request) -> tuple[list[int], bool]:
        """The eight words of a valid entry, and whether the request counts as privileged."""
        self.root_pointer(request)
        rid, pasid, unit = request.rid, request.pasid, self.unit
        at = (self.root & ~0xFFF) + 16 * bits(rid, 15, 8)
        self.read(at + 8, 0x38)
        half = self.read(at + 8 * bits(rid, 7, 7), 0x38)
        self.check(half, 0x39, 0x3A, (11, 1))
        at = (half & ~0xFFF) + 32 * bits(rid, 6, 0)
        context = [self.read(at + 8 * index, 0x40) for index in range(4)]
        self.quiet = self.quiet or bits(context[0], 1, 1) == 1
        self.check(context[0], 0x41, 0x42, (8, 5))
        if bits(context[1], 63, 21) or context[2] or context[3]:
            raise Blocked(0x42)
        limit = 2 ** (bits(context[0], 11, 9) + 13)
        if unit.newer and unit.rid_pasid and bits(context[1], 19, 0) >= limit:
            raise Blocked(0x43)
        if request.kind in (TRANSLATION, TRANSLATED) and not bits(context[0], 2, 2):
            raise Blocked(0x44)
        if request.kind == TRANSLATED and request.pasid is not None:
            raise Blocked(0x44)
        if pasid is not None and not bits(context[0], 3, 3):
            raise Blocked(0x45)
        if request.kind == PAGE and not bits(context[0], 4, 4):
            raise Blocked(0x47)
        number = pasid
        if number is None:
            number = bits(context[1], 19, 0) if unit.rid_pasid else 0
        if number >= limit:
            raise Blocked(0x48 if pasid is None else 0x46)
        directory = self.read((context[0] & ~0xFFF) + 8 * bits(number, 19, 6), 0x50)
        self.quiet = self.quiet or bits(directory, 1, 1) == 1
        self.check(directory, 0x51, 0x52, (11, 2))
        at = (directory & ~0xFFF) + 64 * bits(number, 5, 0)
        entry = [self.read(at + 8 * index, 0x58) for index in range(8)]
        self.quiet = self.quiet or bits(entry[0], 1, 1) == 1
        self.check_entry(entry)
        given = unit.rid_privilege and bits(context[1], 20, 20) == 1
        return entry, request.privileged if pasid is not None else given

    def check(self, word: int, absent: int, reserved: int, zero: tuple[int, int]) -> None:
        """Present; the named bits and all at or above the host width zero."""
        if not word & 1:
            raise Blocked(absent)
        if bits(word, *zero) or bits(word, 63, self.unit.haw):
            raise Blocked(reserved)

    def check_entry(self, entry: list[int]) -> None:
        """The PASID entry: present, reserved bits zero, a translation that exists."""
        if not entry[0] & 1:
            raise Blocked(0x59)
        unit, kind = self.unit, bits(entry[0], 8, 6)
        if bits(entry[0], 11, 10) or bits(entry[1], 22, 16) or bits(entry[2], 11, 8) or any(entry[3:]):
            raise Blocked(0x5A)
        if unit.newer and (bits(entry[0], 5, 5) or bits(entry[1], 63, 25) or bits(entry[2], 1, 1)):
            raise Blocked(0x5A)
        if (bits(entry[2], 0, 0) and not unit.supervisor) or (bits(entry[1], 24, 24) and not unit.snoop):
            raise Blocked(0x5A)
        if kind in (2, 3) and bits(entry[0], 63, unit.haw):
            raise Blocked(0x5A)
        if (kind == 1 and bits(entry[2], 63, unit.haw)) or (kind == 3 and bits(entry[2], 63, unit.mgaw)):
            raise Blocked(0x5A)
        if kind not in unit.kinds or (kind in (2, 3) and bits(entry[0], 4, 2) + 2 not in unit.depths):
            raise Blocked(0x5B)
        if kind in (1, 3) and bits(entry[2], 3, 2) not in ((0, 1) if unit.five_levels else (0,)):
            raise Blocked(0x5B)

    # --- pages --------------------------------------------------------------------------------------------------------

    def second(self, table: Second, address: int, reads: bool, writes: bool) -> int:
        """The second level: 3, 4 or 5 levels of 9 bits above 12."""
        at, unit = table.at, self.unit
        if address >= 1 << 12 + 9 * table.depth or address >= 1 << unit.mgaw:
            raise Blocked(0x84)
        for level in range(table.depth, 0, -1):
            shift = 12 + 9 * (level - 1)
            where = at + 8 * bits(address, shift + 8, shift)
            word = self.read(where, 0x7B if level == table.depth else 0x78)
            if bits(word, 1, 0) == 0:
                raise Blocked(0x79)
            if writes and not bits(word, 1, 1):
                raise Blocked(0x85)
            if reads and not bits(word, 0, 0):
                raise Blocked(0x86)
            leaf = level == 1 or bits(word, 7, 7) == 1
            if self.second_reserved(word, level, leaf):
                raise Blocked(0x7A)
            if table.flags:
                self.mark(where, word, 1 << 8 | (1 << 9 if leaf and writes else 0), table.snoops, 0x7C)
            at = bits(word, 51, 12) << 12
            if leaf:
                return (bits(word, 51, shift) << shift) + bits(address, shift - 1, 0)
        raise AssertionError

    def second_reserved(self, word: int, level: int, leaf: bool) -> bool:
        """Whether a bit is set that must not be."""
        unit, shift = self.unit, 12 + 9 * (level - 1)
        if unit.haw < 52 and bits(word, 51, unit.haw):
            return True
        if not leaf:
            return bits(word, 11, 11) == 1 or bits(word, 62, 62) == 1
        if level > 3 or (level == 3 and not unit.second_1g) or (level == 2 and not unit.second_2m):
            return True
        if (bits(word, 11, 11) and not unit.snoop) or (bits(word, 62, 62) and not unit.device_tlb):
            return True
        return level > 1 and bits(word, shift - 1, 12) != 0

    def first(self, word2: int, snoops: bool, request: Request, privileged: bool, second: Second | None) -> int:
        """The first level: 4 or 5 levels; guest-physical when there is a second."""
        depth, address = 5 if bits(word2, 3, 2) else 4, request.address
        width = 12 + 9 * depth
        if bits(address, 63, width - 1) not in (0, (1 << (65 - width)) - 1):
            raise Blocked(0x80)
        protects, extended = bits(word2, 4, 4) == 1, bits(word2, 7, 7) == 1 and self.unit.extended_accessed
        obeys_xd = bits(word2, 5, 5) == 1 or self.unit.newer
        at = word2 & ~0xFFF
        for level in range(depth, 0, -1):
            shift = 12 + 9 * (level - 1)
            guest = at + 8 * bits(address, shift + 8, shift)
            where = guest if second is None else self.for_first(second, guest, level == depth)
            word = self.read(where, 0x73 if level == depth else 0x70)
            if not bits(word, 0, 0):
                raise Blocked(0x71)
            if not privileged and not bits(word, 2, 2):
                raise Blocked(0x81)
            if request.writes and not bits(word, 1, 1) and (protects or not privileged):
                raise Blocked(0x85)
            if request.executes and obeys_xd and bits(word, 63, 63):
                raise Blocked(0x82)
            leaf = level == 1 or bits(word, 7, 7) == 1
            if self.first_reserved(word, level, leaf, second is not None):
                raise Blocked(0x72)
            wanted = 1 << 5 | (1 << 10 if extended else 0) | (1 << 6 if leaf and request.writes else 0)
            self.mark_first(second, guest, where, word, wanted, snoops)
            at = bits(word, 51, 12) << 12
            if leaf:
                return (bits(word, 51, shift) << shift) + bits(address, shift - 1, 0)
        raise AssertionError

    def first_reserved(self, word: int, level: int, leaf: bool, nested: bool) -> bool:
        """Whether a bit is set that must not be; a guest address that is too wide has its own code."""
        unit, shift = self.unit, 12 + 9 * (level - 1)
        if not nested and unit.haw < 52 and bits(word, 51, unit.haw):
            return True
        if not leaf or level == 1:
            return False
        if level > 3 or (level == 3 and not unit.first_1g):
            return True
        return bits(word, shift - 1, 13) != 0

    def for_first(self, second: Second, guest: int, top: bool) -> int:
        """Where a first-level entry is; second-level faults in the words of the first level."""
        try:
            return self.second(second, guest, True, False)
        except Blocked as blocked:
            code = blocked.code
        if code in (0x79, 0x86):
            raise Blocked(0x75 if top else 0x76)
        if code in (0x78, 0x7B):
            raise Blocked(0x73 if top else 0x70)
        raise Blocked(0x74 if code == 0x84 else code)

    def mark_first(self, second: Second | None, guest: int, where: int, word: int, wanted: int, snoops: bool) -> None:
        """Set flags in a first-level entry, which the second level must allow."""
        if word & wanted == wanted:
            return
        if not snoops:
            raise Blocked(0x90)
        if second is not None:
            try:
                self.second(second, guest, False, True)
            except Blocked as blocked:
                raise Blocked(0x77 if blocked.code == 0x85 else blocked.code) from None
        self.mark(where, word, wanted, True, 0x90)

    def mark(self, where: int, word: int, wanted: int, snoops: bool, code: int) -> None:
        """Set flags in an entry."""
        if word & wanted == wanted:
            return
        if not snoops:
            raise Blocked(code)
        self.flags[where] = self.flags.get(where, self.memory.get(where, 0)) | wanted
