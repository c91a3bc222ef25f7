"""Tables written by hand: a small memory, a unit in front of it, and pages to put tables into."""

from __future__ import annotations

from dataclasses import replace

from pasidlab.hardware.bus import PcieBus
from pasidlab.hardware.cpu import LocalApic
from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord
from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.iommu.amdvi.register_file import (
    CMD_BUF,
    CMD_HEAD,
    CMD_TAIL,
    CONTROL,
    DEV_TAB,
    EVT_BUF,
    MSI_ADDR_LO,
    MSI_CAPABILITY,
    MSI_DATA,
    PPR_LOG,
    STATUS,
)
from pasidlab.hardware.iommu.amdvi.unit import AmdUnit
from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.layouts.amd import (
    BUFFER_REG,
    CONTROL_REG,
    DTE,
    GCR3_ENTRY,
    STATUS_REG,
    V1_PTE,
    V2_PTE,
    gcr3_fields,
)
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.hardware.pcie import Access, DmaRequest
from pasidlab.timeline import HARDWARE, Timeline

RID = 0x0108
NEIGHBOUR = RID + 1
"""A second function, with a device table entry of its own."""
PASID = 0x1234
IOVA = 0x7F12_3456_7890
GPA = 0x1234_5678
RAM = 16 << 20
BEYOND = 32 << 20
"""An address that no memory answers for."""

TABLE, COMMANDS, EVENTS, PAGES, STORE = 0x10_0000, 0x8000, 0xA000, 0xC000, 0xE000
GCR3, GUEST, HOST, PAGE = 0x20_0000, 0x30_0000, 0x40_0000, 0x80_0000
"""Where tables start (a page for each level), and where the mapped page is."""
DTE_AT = TABLE + RID * 32
LENGTH = 8
"""2^8 entries in each ring."""
RING = 16 << LENGTH
DOMAIN = 7
ON = ("IommuEn", "EventLogEn", "EventIntEn", "ComWaitIntEn", "CmdBufEn", "PPRLogEn", "PPRIntEn", "PPREn", "GTEn")
VECTOR = 0x33


class NoConfig:
    """Configuration space in which nothing is."""

    def read(self, offset):
        """Zero."""
        return 0

    def write(self, offset, value):
        """Ignored."""


class Endpoint:
    """A function that remembers what the unit tells it."""

    def __init__(self, rid):
        self.path = f"endpoint[{rid:#x}]"
        self.config = NoConfig()
        self.invalidated = []
        self.answers = []

    def invalidate(self, request):
        """Remember an invalidate request."""
        self.invalidated.append(request)

    def page_response(self, response):
        """Remember an answer to a page request."""
        self.answers.append(response)

    def resumed(self, tag, *, retry):
        """This unit holds no requests."""
        raise AssertionError(f"resumed {tag}, retry {retry}")


class Bench:
    """A unit whose tables serve ``RID``; every entry can be replaced by field values.

    It keeps nothing of what it read (unless ``caches=True``), so that tables may change behind its back.
    """

    rings = (COMMANDS, EVENTS, PAGES)
    """Where command buffer, event log and page request log are."""

    def __init__(self, **identity) -> None:
        self.timeline = Timeline()
        self.memory = PhysicalMemory(self.timeline, "ram", RAM)
        self.bus, self.apic = PcieBus(self.timeline, "bus"), LocalApic(self.timeline, "apic")
        self.endpoint = self.bus.endpoints[RID] = Endpoint(RID)
        card = replace(AmdIdentity(caches=False), **identity)
        self.unit = AmdUnit(self.timeline, "unit", HARDWARE, self.memory, card, self.bus, self.apic)
        self.unit.mmio_write(DEV_TAB, TABLE | 0x1FF)
        for register, base in zip((CMD_BUF, EVT_BUF, PPR_LOG), self.rings, strict=True):
            self.unit.mmio_write(register, BUFFER_REG.encode(Base=base, Length=LENGTH)[0])
        self.unit.mmio_write(MSI_CAPABILITY, 1 << 16, 4)
        self.unit.mmio_write(MSI_ADDR_LO, 0xFEE0_0000, 4)
        self.unit.mmio_write(MSI_DATA, VECTOR, 4)
        self.control(*ON)

    def control(self, *names) -> None:
        """Write CONTROL: these bits, no others."""
        self.unit.mmio_write(CONTROL, CONTROL_REG.encode(**dict.fromkeys(names, 1))[0])

    def status(self, *names):
        """These fields of STATUS; without names those that are set."""
        at = STATUS_REG.decode((self.unit.mmio_read(STATUS),))
        return tuple(at[name] for name in names) if names else {name for name, value in at.items() if value}

    # --- tables -------------------------------------------------------------------------------------------------------

    def dte(self, rid=RID, root=GCR3, **values) -> None:
        """Write a device table entry: valid, both accesses, GCR3 tables of two levels at ``root``."""
        usual = {"V": 1, "TV": 1, "IR": 1, "IW": 1, "DomainID": DOMAIN, "HostRoot": HOST, "GLX": 1, "I": 1, "PPR": 1}
        self.memory.store_words(TABLE + rid * 32, DTE.encode(**(usual | gcr3_fields(root) | values)))

    def gcr3(self, pasid: int = PASID, levels: int = 2, cr3: int = GUEST, root: int = GCR3, **leaf: int) -> int:
        """Write the GCR3 entries for a PASID; returns where the lowest is."""
        table = root
        for level in range(levels - 1, -1, -1):
            at = table + (pasid >> 9 * level & 511) * 8
            table += 0x1000
            values = {"V": 1, "CR3": table} if level else {"V": 1, "CR3": cr3} | leaf
            self.memory.store(at, GCR3_ENTRY.encode(**values)[0])
        return at

    def guest(self, address=IOVA, page=PAGE, levels=4, leaf=1, root=GUEST, **values) -> None:
        """Map ``address`` in the guest table; ``values`` change the leaf."""
        for level in range(levels, leaf - 1, -1):
            at = root + (levels - level) * 0x1000
            usual = {"P": 1, "RW": 1, "US": 1, "PSE": int(level == leaf > 1)}
            usual["addr"] = page if level == leaf else at + 0x1000
            entry = usual | (values if level == leaf else {})
            self.memory.store(self.guest_at(level, address, levels, root), V2_PTE.encode(**entry)[0])

    def guest_at(self, level: int, address: int = IOVA, levels: int = 4, root: int = GUEST) -> int:
        """Where the guest entry of ``level`` is."""
        return root + (levels - level) * 0x1000 + (address >> 9 * level & 0xFF8)

    _spare = HOST

    def host(self, address=GPA, page=PAGE, levels=4, leaf=1, **values) -> None:
        """Map ``address`` in the host table; ``values`` change the leaf."""
        for level in range(levels, leaf - 1, -1):
            at = self.host_at(level, address, levels)
            old = self.memory.load(at)
            usual = {"PR": 1, "IR": 1, "IW": 1, "NextLevel": level - 1 if level > leaf else 0}
            usual["addr"] = page if level == leaf else V1_PTE["addr"].get((old,)) or self._new_table()
            self.memory.store(at, V1_PTE.encode(**(usual | (values if level == leaf else {})))[0])

    def _new_table(self) -> int:
        self._spare += 0x1000
        return self._spare

    def host_at(self, level: int, address: int = GPA, levels: int = 4) -> int:
        """Where the host entry of ``level`` for ``address`` is."""
        table = HOST
        for above in range(levels, level, -1):
            table = V1_PTE["addr"].get((self.memory.load(table + (address >> 9 * above & 0xFF8)),))
        return table + (address >> 9 * level & 0xFF8)

    def host_maps(self, *pages) -> None:
        """Map pages one to one in the host table."""
        for page in pages:
            self.host(page, page & ~0xFFF)

    def nested(self, **dte) -> None:
        """A guest table at guest-physical addresses, mapped one to one; the page lies behind ``GPA``."""
        self.dte(GV=1, Mode=4, **dte)
        self.gcr3()
        self.guest(page=GPA & ~0xFFF)
        self.host_maps(*(GUEST + level * 0x1000 for level in range(4)))
        self.host(GPA)

    # --- requests -----------------------------------------------------------------------------------------------------

    def request(self, access=Access.READ, address=IOVA, pasid: int | None = PASID, rid=RID, **more) -> DmaRequest:
        """A request of the device."""
        return DmaRequest(rid, address, access, pasid, **more)

    def ask(self, *args, **kwargs):
        """The answer to a request, first asked as a question: both must agree, and the question changes nothing.

        A fault is told as the sentence that explains it.
        """
        request = self.request(*args, **kwargs)
        before = self.timeline.digest()
        walk = self.unit.walk(request)
        assert self.timeline.digest() == before
        answer = self.unit.translate(request)
        if isinstance(answer, Fault):
            assert walk.fault == answer
            return answer.meaning
        assert walk.address == answer
        return answer

    def events(self) -> list[EventRecord]:
        """What stands in the event log."""
        return [EventRecord.of(words) for words in self.unit.event_log.entries()]

    def event(self) -> EventRecord:
        """The newest entry of the event log."""
        return self.events()[-1]

    # --- commands -----------------------------------------------------------------------------------------------------

    def command(self, *commands) -> None:
        """Hand commands to the unit; it carries them out at once."""
        tail = self.unit.mmio_read(CMD_TAIL)
        for words in commands:
            self.memory.store_words(self.rings[0] + tail, words)
            tail = (tail + 16) % RING
        self.unit.mmio_write(CMD_TAIL, tail)

    @property
    def waiting(self) -> bool:
        """Whether commands are left in the buffer."""
        return self.unit.mmio_read(CMD_HEAD) != self.unit.mmio_read(CMD_TAIL)
