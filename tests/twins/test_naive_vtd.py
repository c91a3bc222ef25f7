"""The walker and its naive twin agree on random small memories: address, fault code, and every flag that was set."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.iommu.vtd.conformance import Case, load
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.pcie import Access, DmaRequest
from tests.twins.naive_vtd import Blocked, Twin

RAM = 32 * 0x1000
ROOT, CONTEXT, DIRECTORY, TABLE = 0x1000, 0x2000, 0x3000, 0x4000
PAGES = range(5, 32)
"""Frames that hold page tables and are mapped, both: everything may point to everything."""
PASIDS = (0, 1, 2, 3, 65, 0x2000)
TOPS = (0x7FFF_FF, 0xFFFF_8000_00, 0, 0, 0, 1 << 35)
INDEXES = (0, 1, 256, 511)
FAR = (0x40_0000, 0xFEE0_0000, 1 << 47, 1 << 48, 1 << 51)


class Maker:
    """Makes tables that are mostly right; every now and then a bit flips or a pointer leads astray."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.rate = self.random.choice([0.002, 0.02, 0.08])

    def now_and_then(self) -> bool:
        return self.random.random() < self.rate

    def flip(self, word: int) -> int:
        return word ^ 1 << self.random.randrange(64) if self.now_and_then() else word

    def page(self) -> int:
        return self.random.choice(FAR) if self.now_and_then() else self.random.choice(PAGES) << 12

    def entry(self) -> int:
        """An entry that serves as table, page or large page in either level."""
        word = 0x7 | self.random.choice([0x60, 0x60, 0x20, 0x00])
        if self.now_and_then():
            word &= ~self.random.randrange(8)
        if self.now_and_then():
            return self.flip(word | 0x80 | self.random.choice([0, 0x20_0000, 0x4000_0000, 0x1000, 0xFEE0_0000]))
        return self.flip(word | self.page())

    def image(self) -> dict[int, int]:
        """Tables at fixed places, then pages full of entries at the indexes that the requests use."""
        image = {ROOT: self.flip(CONTEXT | 1), ROOT + 8: self.flip(CONTEXT | 1)}
        for device in (0x10, 0x11):
            flags = 1 | 8 * (not self.now_and_then()) | self.random.choice([0, 0xE00])
            image[CONTEXT + device * 32] = self.flip(DIRECTORY | flags)
            image[CONTEXT + device * 32 + 8] = self.flip(self.random.choice(PASIDS))
        for pasid in PASIDS:
            image[DIRECTORY + (pasid >> 6) * 8] = self.flip(TABLE | 1)
            for index, word in enumerate(self.pasid_entry()):
                image[TABLE + (pasid & 63) * 64 + 8 * index] = word
        for table in PAGES:
            for index in INDEXES:
                image[table * 0x1000 + 8 * index] = self.entry()
            for index in PAGES:
                image[table * 0x1000 + 8 * index] = self.flip(index << 12 | 0x63 | self.random.choice([4, 4, 4, 0]))
        return image

    def pasid_entry(self) -> tuple[int, int, int]:
        kind = self.random.choice([1, 2, 3, 3, 3, 3, 4, 0 if self.now_and_then() else 3])
        first = 1 | 2 << 2 | kind << 6 | self.random.choice([0, 0x200]) | self.page()
        second = 0 if self.now_and_then() else 1 << 23
        third = self.random.choice([0x11, 0x11, 0x01, 0x81, 0x00]) | self.page()
        return self.flip(first), self.flip(second), self.flip(third)

    def request(self) -> DmaRequest:
        indexes = [self.random.choice([*INDEXES, 0, 0, 0]) for _ in range(3)]
        address = self.random.choice(TOPS) << 12
        for level, index in enumerate(indexes, 1):
            address |= index << 9 * level + 3
        rid = self.random.choice([0x0010, 0x0090, 0x0011, 0x8000 if self.now_and_then() else 0x0010])
        return DmaRequest(
            rid,
            address | self.random.randrange(0x1000),
            self.random.choice([Access.READ, Access.WRITE]),
            self.random.choice([None, *PASIDS]),
            self.random.random() < 0.2,
        )


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 64))
def test_walker_and_twin_agree(seed):
    """Same answers, same accessed and dirty bits, and the explanation says what the unit then does."""
    maker = Maker(seed)
    image = maker.image()
    case = Case(rtaddr=ROOT | 0x400, image={hex(at): word for at, word in image.items()}, probes=[])
    unit, twin = load(case, VtdIdentity(), RAM), Twin(image, RAM, ROOT)
    for _ in range(20):
        check(unit, twin, maker.request())
    for address, word in image.items():
        assert unit.memory.load(address) == twin.flags.get(address, word)


def check(unit, twin, request):
    """One request: the unit, its explanation and the twin say the same."""
    walk, answer = unit.walk(request), unit.translate(request)
    if isinstance(answer, Fault):
        assert walk.fault == answer
        assert verdict(twin, request) == -answer.code, str(walk)
    else:
        assert walk.address == answer
        assert verdict(twin, request) == answer, str(walk)


def verdict(twin: Twin, request: DmaRequest) -> int:
    """The twin's address, or minus its fault code."""
    rid, address, access, pasid, privileged, _ = request
    try:
        return twin.request(rid, pasid, address, access is Access.WRITE, privileged)
    except Blocked as blocked:
        return -blocked.code
