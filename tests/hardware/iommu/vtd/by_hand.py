"""Tables written by hand: a small memory, a unit in front of it, and pages to put tables into."""

from __future__ import annotations

from dataclasses import replace

from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.registers import GCMD, GCMD_SRTP, GCMD_TE, RTADDR
from pasidlab.hardware.iommu.vtd.unit import VtdUnit
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, FL_ENTRY, PASID_DIR_ENTRY, PASID_ENTRY, ROOT_ENTRY, SL_ENTRY
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.hardware.pcie import Access, DmaRequest
from pasidlab.timeline import HARDWARE, Timeline

RID = 0x6A08
PASID = 0x1234
IOVA = 0x7F12_3456_7890
RAM = 4 << 20
BEYOND = 8 << 20
"""An address that no memory answers for."""

ROOT, CONTEXT, DIRECTORY, TABLE = 0x1000, 0x2000, 0x10000, 0x40000
FIRST, SECOND, PAGE = 0x50000, 0x60000, 0x200000
"""Where the page tables start (a page for each level, the top first), and where the mapped page is."""

ROOT_AT = ROOT + (RID >> 8) * 16
CONTEXT_AT = CONTEXT + (RID & 0x7F) * 32
DIRECTORY_AT = DIRECTORY + (PASID >> 6) * 8
ENTRY_AT = TABLE + (PASID & 63) * 64


class Bench:
    """A unit whose tables serve ``RID`` and ``PASID``; every entry can be replaced by field values.

    It keeps nothing of what it read (unless ``caches=True``), so that tables may change behind its back.
    """

    def __init__(self, **identity) -> None:
        self.timeline = Timeline()
        self.memory = PhysicalMemory(self.timeline, "ram", RAM)
        self.unit = VtdUnit(
            self.timeline, "unit", HARDWARE, self.memory, replace(VtdIdentity(caches=False), **identity)
        )
        self.memory.store_words(ROOT_AT, ROOT_ENTRY.encode(LP=1, LCTP=CONTEXT))
        self.context()
        self.memory.store_words(DIRECTORY_AT, PASID_DIR_ENTRY.encode(P=1, SMPTBLPTR=TABLE))
        self.set_root(ROOT | 0x400)
        self.unit.mmio_write(GCMD, GCMD_TE, 4)

    def set_root(self, value: int) -> None:
        """Write RTADDR and let it take effect; translation stays as it is."""
        self.unit.mmio_write(RTADDR, value)
        self.unit.mmio_write(GCMD, GCMD_SRTP | (GCMD_TE if self.unit.translation_enabled else 0), 4)

    def context(self, **values) -> None:
        """Write the context entry."""
        usual = {"P": 1, "PASIDE": 1, "PDTS": 7, "PASIDDIRPTR": DIRECTORY, "RID_PASID": PASID}
        self.memory.store_words(CONTEXT_AT, CONTEXT_ENTRY.encode(**(usual | values)))

    def entry(self, **values) -> None:
        """Write the PASID entry."""
        usual = {"P": 1, "AW": 2, "FLPTPTR": FIRST, "SLPTPTR": SECOND, "PWSNP": 1, "DID": 7}
        self.memory.store_words(ENTRY_AT, PASID_ENTRY.encode(**(usual | values)))

    def first_level(self, address: int = IOVA, page: int = PAGE, levels: int = 4, leaf: int = 1, **values) -> None:
        """Map ``address`` in the first level; ``values`` change the leaf."""
        for level in range(levels, leaf - 1, -1):
            at = FIRST + (levels - level) * 0x1000
            usual = {"P": 1, "RW": 1, "US": 1, "A": 1, "D": int(level == leaf), "PS": int(level == leaf > 1)}
            usual["ADDR"] = page if level == leaf else at + 0x1000
            entry = usual | (values if level == leaf else {})
            self.memory.store(at + (address >> 9 * level & 0xFF8), FL_ENTRY.encode(**entry)[0])

    def first_at(self, level: int, address: int = IOVA, levels: int = 4) -> int:
        """Where the first-level entry of ``level`` is."""
        return FIRST + (levels - level) * 0x1000 + (address >> 9 * level & 0xFF8)

    def second_level(self, address: int = IOVA, page: int = PAGE, levels: int = 4, leaf: int = 1, **values) -> None:
        """Map ``address`` in the second level; ``values`` change the leaf."""
        for level in range(levels, leaf - 1, -1):
            at = self.second_at(level, address, levels)
            old = self.memory.load(at)
            usual = {"R": 1, "W": 1, "PS": int(level == leaf > 1)}
            usual["ADDR"] = page if level == leaf else SL_ENTRY["ADDR"].get((old,)) or self._new_table()
            self.memory.store(at, SL_ENTRY.encode(**(usual | (values if level == leaf else {})))[0])

    _spare = SECOND

    def _new_table(self) -> int:
        self._spare += 0x1000
        return self._spare

    def second_at(self, level: int, address: int = IOVA, levels: int = 4) -> int:
        """Where the second-level entry of ``level`` for ``address`` is."""
        table = SECOND
        for above in range(levels, level, -1):
            word = self.memory.load(table + (address >> 9 * above & 0xFF8))
            table = SL_ENTRY["ADDR"].get((word,))
        return table + (address >> 9 * level & 0xFF8)

    def nested(self, guest_page: int = 0x30_0000, **leaf) -> None:
        """First level in guest memory; each of its tables one page, mapped one to one by the second level."""
        self.entry(PGTT=3)
        self.first_level(page=guest_page, **leaf)
        for table in range(4):
            self.second_level(FIRST + table * 0x1000, FIRST + table * 0x1000)
        self.second_level(guest_page)

    def request(self, access=Access.READ, address=IOVA, pasid: int | None = PASID, privileged=False) -> DmaRequest:
        """A request of the device."""
        return DmaRequest(RID, address, access, pasid, privileged)

    def ask(self, *args, **kwargs):
        """The answer to a request, first asked as a question: both must agree, and the question changes nothing."""
        request = self.request(*args, **kwargs)
        before = self.timeline.digest()
        walk = self.unit.walk(request)
        assert self.timeline.digest() == before
        answer = self.unit.translate(request)
        if isinstance(answer, Fault):
            assert walk.fault == answer
            return answer.code
        assert walk.address == answer
        return answer
