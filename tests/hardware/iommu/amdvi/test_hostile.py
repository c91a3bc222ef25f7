"""Memory full of garbage, loops and places that nobody answers for: the unit says no, and never breaks."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hardware.iommu.amdvi.register_file import (
    CMD_BUF,
    CMD_HEAD,
    CMD_TAIL,
    CONTROL,
    DEV_TAB,
    EVT_BUF,
    EVT_HEAD,
    EVT_TAIL,
    PPR_HEAD,
    PPR_LOG,
    PPR_TAIL,
    STATUS,
)
from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.pcie import Access, DmaRequest, PageRequest, RequestKind
from tests.hardware.iommu.amdvi.by_hand import RAM, Bench

REGISTERS = (
    *(DEV_TAB, CMD_BUF, EVT_BUF, CONTROL, PPR_LOG, CMD_HEAD, CMD_TAIL, EVT_HEAD, EVT_TAIL, STATUS),
    *(PPR_HEAD, PPR_TAIL, 0x158, 0x15C, 0x160, 0x164, 0x1FF8, 0x3FFC),
)
FRAMES = 64


class Chaos:
    """A unit over random words, driven at random."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.bench = Bench(caches=bool(seed & 1))
        for frame in range(FRAMES):
            self.bench.memory.store_words(frame << 12, [self.word() for _ in range(512)])

    def word(self) -> int:
        """Anything; often a pointer to another frame with the usual bits."""
        kind = self.random.random()
        if kind < 0.2:
            return self.random.getrandbits(64)
        word = self.random.randrange(FRAMES) << 12 | 7 | 3 << 61 | self.random.choice([0, 0x80, 0xE00, 0x200, 0x400])
        return word if kind < 0.9 else self.random.choice([0, 1, (1 << 64) - 1, RAM | 7, word & ~1])

    def request(self) -> DmaRequest:
        """A request of some device, for anything."""
        pick = self.random.choice
        address = pick([self.random.getrandbits(64), self.random.getrandbits(40), self.random.randrange(1 << 20)])
        pasid = pick([None, 0, self.random.randrange(1 << 20), self.random.randrange(512)])
        kind = pick([RequestKind.MEMORY] * 3 + [RequestKind.TRANSLATED])
        return DmaRequest(
            self.random.getrandbits(pick([4, 16])), address, pick(list(Access)), pasid, pick([True, False]), kind
        )

    def step(self) -> None:
        """Something happens."""
        unit, kind = self.bench.unit, self.random.random()
        if kind < 0.1:
            unit.mmio_write(self.random.choice(REGISTERS), self.word(), self.random.choice([4, 8]))
        elif kind < 0.15:
            unit.mmio_write(CONTROL, (1 << 64) - 1)
        elif kind < 0.2:
            unit.mmio_write(DEV_TAB, self.random.randrange(FRAMES) << 12 | 0x1FF)
        elif kind < 0.5:
            request = self.request()
            walk = unit.walk(request)
            answer = unit.translate(request)
            assert answer == (walk.address if walk.fault is None else walk.fault)
            assert isinstance(answer, Fault) or 0 <= answer < 1 << 64
        elif kind < 0.7:
            unit.complete(self.request()._replace(kind=RequestKind.TRANSLATION))
        elif kind < 0.8:
            at = self.request()
            unit.page_request(PageRequest(at.rid, at.pasid, at.address, True, False, group=self.random.randrange(512)))
        elif kind < 0.9:
            rid = self.random.getrandbits(4)
            lines = unit.cache_lines(unit.entries(rid), every=True)
            assert all(str(line) for line in lines)
            unit.find_gcr3(rid, self.random.getrandbits(20))
        else:
            self.bench.memory.store(self.random.randrange(FRAMES << 9) * 8, self.word())


@given(st.integers(0, 1 << 32))
@settings(max_examples=60, deadline=None)
def test_nothing_in_memory_and_no_register_breaks_the_unit(seed):
    """Requests, commands, logs and questions over garbage; a question and a request always agree."""
    chaos = Chaos(seed)
    for _ in range(60):
        chaos.step()
