"""A second SMMUv3 walker, written straight from the tables: naive, slow, and independent of the one it is checked by.

It knows a memory as a way to read words and a unit as a list of plain facts, decodes by hand-written bit positions, and
tells each rule in the order of the facts (hardware.md 3) and of the specification's procedure, one ``if`` a rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SIZES = {0: 32, 1: 36, 2: 40, 3: 42, 4: 44, 5: 48, 6: 52, 7: 52}
CD_FETCH, TABLE, INPUT = 0, 1, 2
READ, WRITE, EXECUTE = 1, 2, 4


class Blocked(Exception):
    """A transaction ended with this event; 0 stands for none."""

    def __init__(self, event: int, stage: int = 0, klass: int = 0, where: int = 0) -> None:
        self.told = event, stage, klass, where
        super().__init__(hex(event))


def bits(value: int, high: int, low: int) -> int:
    """Bits ``high`` down to ``low``."""
    return (value >> low) & ((1 << (high - low + 1)) - 1)


@dataclass
class Unit:
    """What the unit can do, as far as a walk depends on it."""

    stage1: bool
    stage2: bool
    ssid_bits: int
    two_level_cds: bool
    stall_model: int
    ats: bool
    asid16: bool
    vmid16: bool
    granules: set[int]
    oas: int


@dataclass
class Request:
    """One transaction; ``need`` are the rights that it wants."""

    sid: int
    ssid: int | None
    address: int
    need: int
    privileged: bool


@dataclass
class Table:
    """One page table: root, input bits, granule, where it begins, what it may put out."""

    root: int
    width: int
    granule: int
    level: int
    limit: int


class Twin:
    """One memory, one stream table (``base``, ``log2``, ``split``; split 0: linear)."""

    def __init__(self, memory: Callable[[int], int], ram: int, unit: Unit, base: int, log2: int, split: int) -> None:
        self.memory, self.ram, self.unit = memory, ram, unit
        self.base, self.log2, self.split = base, log2, split

    def load(self, at: int) -> int | None:
        """A word, or nothing where no memory is."""
        return self.memory(at) if 0 <= at <= self.ram - 8 else None

    def answer(self, request: Request) -> tuple[str, int] | tuple[int, int, int, int]:
        """The address, or event, stage, class and the address that is told with it."""
        try:
            return "address", self.resolve(request)
        except Blocked as blocked:
            return blocked.told

    # --- the way to the tables ----------------------------------------------------------------------------------------

    def resolve(self, request: Request) -> int:
        """The whole procedure."""
        ste = self.stream(request.sid)
        if self.illegal_ste(ste):
            raise Blocked(0x04)
        config = bits(ste[0], 3, 1)
        if config < 4:
            raise Blocked(0)
        stage1, stage2 = bool(config & 1), bool(config & 2)
        number = self.substream(request, ste, stage1)
        if number is None:
            if request.address >= 1 << self.unit.oas:
                raise Blocked(0x11, 1, INPUT)
            if not stage2:
                return request.address
            return self.stage2(ste, request.address, request.need, INPUT)[0]
        cd = self.context(ste, number, stage2)
        if self.illegal_cd(ste, cd):
            raise Blocked(0x0A)
        found = self.stage1(ste, cd, request, stage2)
        return self.stage2(ste, found, request.need, INPUT)[0] if stage2 else found

    def stream(self, sid: int) -> list[int]:
        """The eight words of the stream table entry."""
        if sid >= 1 << self.log2:
            raise Blocked(0x02)
        if self.split == 0:
            return self.fetch(self.base // (64 << self.log2) * (64 << self.log2) + 64 * sid, 8, 0x03)
        size = max(64, 8 << (self.log2 - self.split))
        (word,) = self.fetch(self.base // size * size + 8 * (sid >> self.split), 1, 0x03)
        span, low = bits(word, 4, 0), sid % (1 << self.split)
        if span == 0 or span > self.split + 1 or low >= 1 << (span - 1):
            raise Blocked(0x02)
        array = bits(word, 51, 6) * 64
        return self.fetch(array // (64 << (span - 1)) * (64 << (span - 1)) + 64 * low, 8, 0x03)

    def fetch(self, at: int, count: int, event: int, stage: int = 0, klass: int = 0) -> list[int]:
        """Words of a structure, or the event with the address of the structure."""
        words = [self.load(at + 8 * index) for index in range(count)]
        if None in words:
            raise Blocked(event, stage, klass, at)
        return [word for word in words if word is not None]

    def substream(self, request: Request, ste: list[int], stage1: bool) -> int | None:
        """Which context descriptor; none: stage 1 is bypassed."""
        most, dss = bits(ste[0], 63, 59), bits(ste[1], 1, 0)
        if self.unit.ssid_bits == 0:
            most = 0
        if request.ssid is not None:
            if not stage1 or most == 0 or request.ssid >= 1 << most:
                raise Blocked(0x08)
            if request.ssid == 0 and dss == 2:
                raise Blocked(0x06)
            return request.ssid
        if not stage1:
            return None
        if most == 0 or dss == 2:
            return 0
        if dss == 1:
            return None
        raise Blocked(0x06)

    def context(self, ste: list[int], number: int, stage2: bool) -> list[int]:
        """The eight words of the context descriptor."""
        most, fmt, base = bits(ste[0], 63, 59), bits(ste[0], 5, 4), bits(ste[0], 51, 6) * 64
        if self.unit.ssid_bits == 0:
            most = 0
        if most == 0 or fmt in (0, 3):
            size = 64 << most
            return self.fetch(self.through(ste, base // size * size + 64 * number, CD_FETCH, stage2), 8, 0x09)
        split = 6 if fmt == 1 else 10
        size = max(64, 8 << max(0, most - split))
        at = self.through(ste, base // size * size + 8 * (number >> split), CD_FETCH, stage2)
        (word,) = self.fetch(at, 1, 0x09)
        leaf = bits(word, 51, 12) * 4096 // (64 << split) * (64 << split)
        if not word & 1 or leaf >= 1 << self.unit.oas:
            raise Blocked(0x08)
        return self.fetch(self.through(ste, leaf + 64 * (number % (1 << split)), CD_FETCH, stage2), 8, 0x09)

    def through(self, ste: list[int], at: int, klass: int, stage2: bool) -> int:
        """An intermediate address of a structure."""
        if not stage2:
            return at
        found, device = self.stage2(ste, at, READ, klass)
        if device and bits(ste[2], 54, 54):
            raise Blocked(0x13, 2, klass, at)
        return found

    # --- ILLEGAL ------------------------------------------------------------------------------------------------------

    def illegal_ste(self, ste: list[int]) -> bool:
        """Specification 5.2.2."""
        config, unit = bits(ste[0], 3, 1), self.unit
        if not ste[0] & 1:
            return True
        if config < 4:
            return False
        if config & 1 and not unit.stage1:
            return True
        if config & 2 and not unit.stage2:
            return True
        if unit.ats and config != 4 and bits(ste[1], 29, 28) == 2 and config != 7:
            return True
        if config & 1 and self.illegal_stage1(ste):
            return True
        return bool(config & 2) and self.illegal_stage2(ste)

    def illegal_stage1(self, ste: list[int]) -> bool:
        """What concerns stage 1 alone."""
        unit = self.unit
        if bits(ste[1], 27, 27) and unit.stall_model != 0:
            return True
        if unit.ssid_bits and bits(ste[0], 63, 59) > unit.ssid_bits:
            return True
        if unit.ssid_bits and bits(ste[0], 63, 59) and not unit.two_level_cds and bits(ste[0], 5, 4) in (1, 2):
            return True
        return bits(ste[0], 51, 6) * 64 >= 1 << unit.oas

    def illegal_stage2(self, ste: list[int]) -> bool:
        """What concerns stage 2 alone."""
        if not bits(ste[2], 51, 51) or bits(ste[2], 52, 52):
            return True
        if self.second(ste) is None:
            return True
        return not self.unit.vmid16 and bits(ste[2], 15, 0) > 255

    def second(self, ste: list[int]) -> Table | None:
        """The stage-2 table."""
        granule = {0: 12, 1: 16, 2: 14}.get(bits(ste[2], 47, 46))
        size, start = bits(ste[2], 37, 32), bits(ste[2], 39, 38)
        limit = 1 << min(SIZES[bits(ste[2], 50, 48)], self.unit.oas)
        root = bits(ste[3], 51, 4) * 16
        if granule is None or granule not in self.unit.granules or start == 3:
            return None
        if not 16 <= size <= 39 or 64 - size > self.unit.oas or root >= limit:
            return None
        level = {12: {0: 2, 1: 1, 2: 0}, 14: {0: 3, 1: 2, 2: 1}, 16: {0: 3, 1: 2, 2: 1}}[granule][start]
        resolved = granule + (4 - level) * (granule - 3)
        width, top = 64 - size, resolved - (granule - 3)
        if width <= top or width > resolved + (4 if level else 0):
            return None
        bytes_ = 8 << (width - top)
        return Table(root // bytes_ * bytes_, width, granule, level, limit)

    def illegal_cd(self, ste: list[int], cd: list[int]) -> bool:
        """Specification 5.4.2."""
        stall = bits(cd[0], 44, 44)
        if not bits(cd[0], 31, 31) or not bits(cd[0], 41, 41):
            return True
        if stall and (bits(ste[1], 27, 27) or self.unit.stall_model == 1):
            return True
        if not stall and self.unit.stall_model == 2:
            return True
        off0, off1 = bits(cd[0], 14, 14), bits(cd[0], 30, 30)
        if not (off0 and off1) and bits(cd[0], 15, 15):
            return True
        if not self.unit.asid16 and bits(cd[0], 63, 56):
            return True
        if not off0 and self.half(cd, 0) is None:
            return True
        return not off1 and self.half(cd, 1) is None

    def half(self, cd: list[int], upper: int) -> Table | None:
        """The table of one half."""
        limit = 1 << min(SIZES[bits(cd[0], 34, 32)], self.unit.oas)
        if upper:
            granule = {1: 14, 2: 12, 3: 16}.get(bits(cd[0], 23, 22))
            size, root = bits(cd[0], 21, 16), bits(cd[2], 51, 4) * 16
        else:
            granule = {0: 12, 1: 16, 2: 14}.get(bits(cd[0], 7, 6))
            size, root = bits(cd[0], 5, 0), bits(cd[1], 51, 4) * 16
        if granule is None or granule not in self.unit.granules or not 16 <= size <= 39 or root >= limit:
            return None
        width, level = 64 - size, 3
        while granule + (4 - level) * (granule - 3) < width:
            level -= 1
        bytes_ = 8 << (width - granule - (3 - level) * (granule - 3))
        return Table(root // bytes_ * bytes_, width, granule, level, limit)

    # --- page tables --------------------------------------------------------------------------------------------------

    def stage1(self, ste: list[int], cd: list[int], request: Request, stage2: bool) -> int:
        """The output address of stage 1."""
        address = request.address
        upper = bits(address, 55, 55)
        if bits(cd[0], 38 + upper, 38 + upper):
            address = address % (1 << 56) + (0xFF << 56 if upper else 0)
        off = bits(cd[0], 30, 30) if upper else bits(cd[0], 14, 14)
        table = None if off else self.half(cd, upper)
        if table is None or address >> table.width != (2 ** (64 - table.width) - 1 if upper else 0):
            raise Blocked(0x10, 1, INPUT)
        at, only, none, uxn, pxn = table.root, *[False] * 4
        for level in range(table.level, 4):
            low = table.granule + (3 - level) * (table.granule - 3)
            high = table.width - 1 if level == table.level else low + table.granule - 4
            place = self.through(ste, at + 8 * bits(address, high, low), TABLE, stage2)
            (word,) = self.fetch(place, 1, 0x0B, 1, TABLE)
            leaf = self.kind(word, level, table.granule)
            if leaf is None:
                raise Blocked(0x10, 1, INPUT)
            out = self.output(word, table)
            if out >= table.limit:
                raise Blocked(0x11, 1, INPUT)
            if leaf:
                break
            at = out
            only, none = only or bool(bits(word, 62, 62)), none or bool(bits(word, 61, 61))
            uxn, pxn = uxn or bool(bits(word, 60, 60)), pxn or bool(bits(word, 59, 59))
        if not bits(word, 10, 10) and not bits(cd[0], 35, 35):
            raise Blocked(0x12, 1, INPUT)
        only, user = only or bool(bits(word, 7, 7)), bool(bits(word, 6, 6)) and not none
        never = (bits(word, 53, 53) or pxn) if request.privileged else (bits(word, 54, 54) or uxn)
        if request.need & ~self.rights(request.privileged, only, user, bool(never)):
            raise Blocked(0x13, 1, INPUT)
        return out >> low << low | address % (1 << low)

    @staticmethod
    def rights(privileged: bool, only: bool, user: bool, never: bool) -> int:
        """What a page of stage 1 allows: it can only be read, users reach it, it is never executed."""
        granted = (READ + (0 if only else WRITE)) if privileged or user else 0
        if privileged and user and not only:
            return granted
        return granted + (0 if never else EXECUTE)

    def stage2(self, ste: list[int], address: int, need: int, klass: int) -> tuple[int, bool]:
        """The output address of stage 2, and whether it is no memory."""
        table = self.second(ste)
        assert table is not None
        if address >= 1 << table.width:
            raise Blocked(0x10, 2, klass, address)
        at = table.root
        for level in range(table.level, 4):
            low = table.granule + (3 - level) * (table.granule - 3)
            high = table.width - 1 if level == table.level else low + table.granule - 4
            place = at + 8 * bits(address, high, low)
            (word,) = self.fetch(place, 1, 0x0B, 2, klass)
            leaf = self.kind(word, level, table.granule)
            if leaf is None:
                raise Blocked(0x10, 2, klass, address)
            out = self.output(word, table)
            if out >= table.limit:
                raise Blocked(0x11, 2, klass, address)
            if leaf:
                break
            at = out
        if not bits(word, 10, 10):
            raise Blocked(0x12, 2, klass, address)
        granted = bits(word, 7, 6) + (0 if bits(word, 54, 54) else EXECUTE)
        if need & ~granted:
            raise Blocked(0x13, 2, klass, address)
        return out >> low << low | address % (1 << low), bits(word, 5, 4) == 0

    @staticmethod
    def kind(word: int, level: int, granule: int) -> bool | None:
        """Leaf, table, or nothing."""
        if bits(word, 0, 0) == 0:
            return None
        if bits(word, 1, 0) == 3:
            return level == 3
        if level in ({1, 2} if granule == 12 else {2}):
            return True
        return None

    @staticmethod
    def output(word: int, table: Table) -> int:
        """The address in an entry."""
        address = bits(word, 47, table.granule) << table.granule
        if table.granule == 16 and table.limit == 1 << 52:
            address += bits(word, 15, 12) << 48
        return address
