"""A second VT-d walker, written straight from the tables: naive, slow, and independent of the one it is compared with.

It knows a memory as a plain dict, one fixed unit (48 bits everywhere, 4 levels, large pages of both sizes, no
capability missing, revision 3.x), decodes by hand-written bit positions, and collects the whole chain of entries before
it judges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

HAW = 48


class Blocked(Exception):
    """A request ended with this fault code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(hex(code))


def bits(value: int, high: int, low: int) -> int:
    """Bits ``high`` down to ``low``."""
    return (value >> low) & ((1 << (high - low + 1)) - 1)


@dataclass
class Twin:
    """One memory, one root pointer; ``memory`` holds 64-bit words by address, up to ``ram``."""

    memory: dict[int, int]
    ram: int
    root: int
    flags: dict[int, int] = field(default_factory=dict)

    def read(self, address: int, code: int) -> int:
        """A word, or the fault that an unreadable one means."""
        if address + 8 > self.ram:
            raise Blocked(code)
        return self.flags.get(address, self.memory.get(address, 0))

    def request(self, rid: int, pasid: int | None, address: int, write: bool, privileged: bool) -> int:
        """The address or ``Blocked``; marks accessed and dirty in ``flags``."""
        entry = self.pasid_entry(rid, pasid)
        word0, word1, word2 = entry[0], entry[1], entry[2]
        if pasid is None:
            privileged = False
        if privileged and bits(word2, 0, 0) == 0:
            raise Blocked(0x5D)
        kind = bits(word0, 8, 6)
        second = (word0 & ~0xFFF, bits(word0, 9, 9) == 1, bits(word1, 23, 23) == 1)
        if kind == 1:
            result = self.first(word1, word2, address, write, privileged, None)
        elif kind == 2:
            result = self.second(second, address, not write, write)
        elif kind == 3:
            guest = self.first(word1, word2, address, write, privileged, second)
            result = self.second(second, guest, not write, write)
        else:
            if address >= 1 << HAW:
                raise Blocked(0x83)
            result = address
        if 0xFEE0_0000 <= result <= 0xFEEF_FFFF:
            raise Blocked(0x87)
        return result

    def pasid_entry(self, rid: int, pasid: int | None) -> list[int]:
        """The eight words of a valid entry."""
        at = self.root + 16 * bits(rid, 15, 8)
        half = self.read(at + 8 * bits(rid, 7, 7), 0x38)
        self.check(half, 0x39, 0x3A, (11, 1))
        at = (half & ~0xFFF) + 32 * bits(rid, 6, 0)
        context = [self.read(at + 8 * index, 0x40) for index in range(4)]
        self.check(context[0], 0x41, 0x42, (8, 5))
        if bits(context[1], 63, 21) or context[2] or context[3]:
            raise Blocked(0x42)
        if pasid is not None and not bits(context[0], 3, 3):
            raise Blocked(0x45)
        number = bits(context[1], 19, 0) if pasid is None else pasid
        if number >= 2 ** (bits(context[0], 11, 9) + 13):
            raise Blocked(0x48 if pasid is None else 0x46)
        directory = self.read((context[0] & ~0xFFF) + 8 * bits(number, 19, 6), 0x50)
        self.check(directory, 0x51, 0x52, (11, 2))
        at = (directory & ~0xFFF) + 64 * bits(number, 5, 0)
        entry = [self.read(at + 8 * index, 0x58) for index in range(8)]
        self.check_entry(entry)
        return entry

    def check(self, word: int, absent: int, reserved: int, zero: tuple[int, int]) -> None:
        """Present; the named bits and all at or above the host width zero."""
        if not word & 1:
            raise Blocked(absent)
        if bits(word, *zero) or bits(word, 63, HAW):
            raise Blocked(reserved)

    def check_entry(self, entry: list[int]) -> None:
        """The PASID entry: present, reserved bits zero, a translation that exists."""
        if not entry[0] & 1:
            raise Blocked(0x59)
        if bits(entry[0], 11, 10) or bits(entry[1], 22, 16) or bits(entry[2], 11, 8) or any(entry[3:]):
            raise Blocked(0x5A)
        kind = bits(entry[0], 8, 6)
        if (kind in (2, 3) and bits(entry[0], 63, HAW)) or (kind in (1, 3) and bits(entry[2], 63, HAW)):
            raise Blocked(0x5A)
        if kind not in (1, 2, 3, 4) or (kind in (2, 3) and bits(entry[0], 4, 2) != 2):
            raise Blocked(0x5B)
        if kind in (1, 3) and bits(entry[2], 3, 2) != 0:
            raise Blocked(0x5B)

    def second(self, table: tuple[int, bool, bool], address: int, reads: bool, writes: bool) -> int:
        """The second level: 4 levels, 48 bits."""
        at, marks, snoops = table
        if address >= 1 << 48:
            raise Blocked(0x84)
        for level in (4, 3, 2, 1):
            shift = 12 + 9 * (level - 1)
            where = at + 8 * bits(address, shift + 8, shift)
            word = self.read(where, 0x7B if level == 4 else 0x78)
            if bits(word, 1, 0) == 0:
                raise Blocked(0x79)
            if writes and not bits(word, 1, 1):
                raise Blocked(0x85)
            if reads and not bits(word, 0, 0):
                raise Blocked(0x86)
            leaf = level == 1 or bits(word, 7, 7) == 1
            if bits(word, 51, HAW) or (leaf and level == 4):
                raise Blocked(0x7A)
            if (leaf and bits(word, shift - 1, 0) >> 12) or (not leaf and (bits(word, 11, 11) or bits(word, 62, 62))):
                raise Blocked(0x7A)
            if marks:
                self.mark(where, word, 1 << 8 | (1 << 9 if leaf and writes else 0), snoops, 0x7C)
            at = bits(word, 51, 12) << 12
            if leaf:
                return at + bits(address, shift - 1, 0)
        raise AssertionError

    def first(
        self,
        word1: int,
        word2: int,
        address: int,
        write: bool,
        privileged: bool,
        second: tuple[int, bool, bool] | None,
    ) -> int:
        """The first level: 4 levels; guest-physical when there is a second."""
        if bits(address, 63, 47) not in (0, 0x1FFFF):
            raise Blocked(0x80)
        snoops, protects = bits(word1, 23, 23) == 1, bits(word2, 4, 4) == 1
        at = word2 & ~0xFFF
        for level in (4, 3, 2, 1):
            shift = 12 + 9 * (level - 1)
            guest = at + 8 * bits(address, shift + 8, shift)
            where = guest if second is None else self.for_first(second, guest, level == 4)
            word = self.read(where, 0x73 if level == 4 else 0x70)
            if not bits(word, 0, 0):
                raise Blocked(0x71)
            if not privileged and not bits(word, 2, 2):
                raise Blocked(0x81)
            if write and not bits(word, 1, 1) and (protects or not privileged):
                raise Blocked(0x85)
            leaf = level == 1 or bits(word, 7, 7) == 1
            if (leaf and level == 4) or (second is None and bits(word, 51, HAW)):
                raise Blocked(0x72)
            if leaf and level > 1 and bits(word, shift - 1, 13):
                raise Blocked(0x72)
            wanted = 1 << 5 | (1 << 10 if bits(word2, 7, 7) else 0) | (1 << 6 if leaf and write else 0)
            self.mark_first(second, guest, where, word, wanted, snoops)
            at = bits(word, 51, 12) << 12
            if leaf:
                return (bits(word, 51, shift) << shift) + bits(address, shift - 1, 0)
        raise AssertionError

    def for_first(self, second: tuple[int, bool, bool], guest: int, top: bool) -> int:
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

    def mark_first(
        self,
        second: tuple[int, bool, bool] | None,
        guest: int,
        where: int,
        word: int,
        wanted: int,
        snoops: bool,
    ) -> None:
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
        self.flags[where] = word | wanted
