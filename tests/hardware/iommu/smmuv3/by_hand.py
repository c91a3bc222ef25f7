"""Tables written by hand: a small memory, a unit in front of it, two devices on a bus, and pages for tables.

The unit keeps what it reads, unless told otherwise; commands are carried out as they are written.
"""

from __future__ import annotations

from dataclasses import replace

from pasidlab.hardware.bus import PcieBus
from pasidlab.hardware.cpu import LocalApic
from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.iommu.smmuv3.register_file import (
    CMDQ_BASE,
    CMDQ_CONS,
    CMDQ_PROD,
    CR0,
    CR2,
    EVTQ_BASE,
    EVTQ_CONS,
    EVTQ_IRQ_CFG0,
    EVTQ_PROD,
    GERROR_IRQ_CFG0,
    IRQ_CTRL,
    PRIQ_BASE,
    PRIQ_IRQ_CFG0,
    STRTAB_BASE,
    STRTAB_BASE_CFG,
)
from pasidlab.hardware.iommu.smmuv3.unit import SmmuUnit
from pasidlab.hardware.layouts.smmu import (
    CD,
    CD_TABLE_DESC,
    S1_ENTRY,
    S2_ENTRY,
    STE,
    STREAM_TABLE_DESC,
    STRTAB_BASE_CFG_REG,
)
from pasidlab.hardware.layouts.smmu_queue import COMMANDS
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.hardware.pcie import Access, DmaRequest
from pasidlab.timeline import HARDWARE, Timeline

RID = 0x6A08
NEIGHBOUR = RID + 1
PASID = 0x1234
IOVA = 0x7F12_3456_7890
RAM = 8 << 20
BEYOND = 16 << 20
"""An address that no memory answers for."""
STREAMS, STREAMS_2 = 0x1000, 0x4000
"""First level of the stream table (256 entries), and the part of the second one that serves ``RID``."""
CONTEXTS, LEAF = 0x1_0000, 0x2_0000
"""First level of the context descriptor table (8 KiB), and a leaf of 64 KiB."""
FIRST, SECOND, PAGE = 0x5_0000, 0x10_0000, 0x40_0000
COMMAND_RING, EVENT_RING, PAGE_RING = 0x8000, 0x9000, 0xA000
ON = 0x1F
VECTORS = {EVTQ_IRQ_CFG0: 0x41, PRIQ_IRQ_CFG0: 0x42, GERROR_IRQ_CFG0: 0x43}
_LAYOUTS = {layout.name.removeprefix("smmu_cmd_"): (code, layout) for code, layout in COMMANDS}


def command(name, **fields):
    """The words of a command."""
    code, layout = _LAYOUTS[name]
    return layout.encode(OP=code, **fields)


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
        self.resumptions = []

    def invalidate(self, request):
        """Remember an invalidate request."""
        self.invalidated.append(request)

    def page_response(self, response):
        """Remember an answer to a page request."""
        self.answers.append(response)

    def resumed(self, tag, *, retry):
        """Remember what became of a request that was held."""
        self.resumptions.append((tag, retry))


class Bench:
    """A unit whose tables serve ``RID`` and ``PASID``; every entry can be replaced by field values.

    Two-level stream table, context descriptors in 64 KiB leaves, stage 1 from ``FIRST`` on, stage 2 from ``SECOND`` on.
    """

    CONTEXTS, LEAF = CONTEXTS, LEAF

    def __init__(self, on=ON, **identity):
        self.timeline = Timeline()
        self.memory = PhysicalMemory(self.timeline, "ram", RAM)
        self.bus, self.apic = PcieBus(self.timeline, "bus"), LocalApic(self.timeline, "apic")
        self.endpoint = self.bus.endpoints[RID] = Endpoint(RID)
        self.neighbour = self.bus.endpoints[NEIGHBOUR] = Endpoint(NEIGHBOUR)
        card = replace(SmmuIdentity(caches=False), **identity)
        self.unit = SmmuUnit(self.timeline, "unit", HARDWARE, self.memory, card, self.bus, self.apic)
        self.spare = SECOND + 0x1_0000
        self.stream_table()
        self.memory.store(STREAMS + (RID >> 8) * 8, STREAM_TABLE_DESC.encode(span=9, L2Ptr=STREAMS_2)[0])
        self.ste()
        write = self.unit.mmio_write
        write(CMDQ_BASE, COMMAND_RING | 8)
        write(EVTQ_BASE, EVENT_RING | 7)
        write(PRIQ_BASE, PAGE_RING | 8)
        for config, vector in VECTORS.items():
            write(config, 0xFEE0_0000)
            write(config + 8, vector, 4)
        write(IRQ_CTRL, 7, 4)
        write(CR2, 1 << 1, 4)
        write(CR0, on, 4)

    def stream_table(self, base=STREAMS, FMT=1, SPLIT=8, LOG2SIZE=16):
        """Set the stream table registers (while the unit is off)."""
        self.unit.mmio_write(STRTAB_BASE, base)
        config = STRTAB_BASE_CFG_REG.encode(FMT=FMT, SPLIT=SPLIT, LOG2SIZE=LOG2SIZE)[0]
        self.unit.mmio_write(STRTAB_BASE_CFG, config, 4)

    def again(self, **table):
        """Switch off, set the stream table anew, switch on."""
        self.unit.mmio_write(CR0, ON & ~1, 4)
        self.stream_table(**table)
        self.unit.mmio_write(CR0, ON, 4)

    # --- tables -------------------------------------------------------------------------------------------------------

    def ste(self, rid=RID, **values):
        """Write a stream table entry; stage 1 with substreams unless told otherwise."""
        usual = {"V": 1, "Config": 5, "S1Fmt": 2, "S1ContextPtr": CONTEXTS, "S1CDMax": 20, "S1DSS": 2, "EATS": 1}
        usual |= {"S2VMID": 7}
        self.memory.store_words(STREAMS_2 + (rid & 0xFF) * 64, STE.encode(**(usual | values)))

    def stage_2(self, config=6, **values):
        """Write a stream table entry with stage 2: 48 bits from level 0 on."""
        usual = {"Config": config, "S2T0SZ": 16, "S2SL0": 2, "S2PS": 5, "S2AA64": 1, "S2R": 1, "S2TTB": SECOND}
        self.ste(**(usual | values))

    def cd(self, pasid=PASID, leaf=LEAF, **values):
        """Write a context descriptor in a leaf of 64 KiB, and the entry above it."""
        self.memory.store(CONTEXTS + (pasid >> 10) * 8, CD_TABLE_DESC.encode(V=1, L2Ptr=leaf)[0])
        self.memory.store_words(leaf + (pasid & 0x3FF) * 64, self.cd_words(**values))

    @staticmethod
    def cd_words(**values):
        """A context descriptor as the kernel's SVA writes it: 48 bits in the lower half, 4 KiB, ASID 5."""
        usual = {"V": 1, "AA64": 1, "T0SZ": 16, "EPD1": 1, "IPS": 5, "R": 1, "A": 1, "ASET": 1, "ASID": 5}
        return CD.encode(**(usual | {"TTB0": FIRST} | values))

    def first(self, address=IOVA, page=PAGE, leaf=3, top=0, base=FIRST, **values):
        """Map ``address`` in stage 1, tables of 4 KiB; ``values`` change the leaf. Returns where the leaf is."""
        for level in range(top, leaf + 1):
            at = base + (level - top) * 0x1000 + (address >> 9 * (4 - level) & 0xFF8)
            if level < leaf:
                self.memory.store(at, S1_ENTRY.encode(TYPE=3, addr=base + (level - top + 1) * 0x1000)[0])
            else:
                usual = {"TYPE": 3 if level == 3 else 1, "AP": 1, "AF": 1, "nG": 1, "addr": page}
                self.memory.store(at, S1_ENTRY.encode(**(usual | values))[0])
        return at

    def second(self, address=PAGE, page=None, leaf=3, **values):
        """Map an intermediate address in stage 2 (to itself unless ``page`` is given). Returns where the leaf is."""
        table = SECOND
        for level in range(leaf + 1):
            at = table + (address >> 9 * (4 - level) & 0xFF8)
            if level < leaf:
                table = self._below(at)
            else:
                usual = {"TYPE": 3 if level == 3 else 1, "S2AP": 3, "AF": 1, "MemAttr": 15}
                usual["addr"] = (address if page is None else page) & -0x1000
                self.memory.store(at, S2_ENTRY.encode(**(usual | values))[0])
        return at

    def _below(self, at):
        word = self.memory.load(at)
        if not word & 1:
            word = S2_ENTRY.encode(TYPE=3, addr=self.spare)[0]
            self.memory.store(at, word)
            self.spare += 0x1000
        return S2_ENTRY["addr"].get((word,))

    def nested(self, **values):
        """Both stages; context descriptors and stage-1 tables lie at their own intermediate addresses."""
        self.stage_2(7, **values)
        self.cd()
        self.first()
        for table in (CONTEXTS, LEAF + (PASID & 0x3FF) * 64, *(FIRST + level * 0x1000 for level in range(4)), PAGE):
            self.second(table & -0x1000)

    # --- questions ----------------------------------------------------------------------------------------------------

    def request(self, access=Access.READ, address=IOVA, pasid: int | None = PASID, privileged=False, rid=RID):
        """A request of the device."""
        return DmaRequest(rid, address, access, pasid, privileged)

    def ask(self, *args, **kwargs):
        """The answer to a request, first asked as a question: both must agree, and the question changes nothing.

        An address, or the name of the event.
        """
        request = self.request(*args, **kwargs)
        before = self.timeline.digest()
        walk = self.unit.walk(request)
        assert self.timeline.digest() == before
        answer = self.unit.translate(request)
        if isinstance(answer, Fault):
            assert walk.fault is not None
            assert walk.fault == answer._replace(stall=None, suppressed=walk.fault.suppressed)
            return answer.name
        assert walk.address == answer
        return answer

    def uncached(self, *args, **kwargs):
        """What the tables alone say: an address, or the name of the event."""
        walk = self.unit.walk(self.request(*args, **kwargs), caches=False)
        return walk.fault.name if walk.fault is not None else walk.address

    def sources(self, *args, **kwargs):
        """Which cache answered at each stop of a walk; empty for what was read from memory."""
        return [stop.cache for stop in self.unit.walk(self.request(*args, **kwargs)).stops]

    # --- queues -------------------------------------------------------------------------------------------------------

    def tell(self, *commands):
        """Hand commands to the unit; it carries them out at once."""
        self.put(*commands)
        assert self.unit.mmio_read(CMDQ_CONS, 4) == self.unit.mmio_read(CMDQ_PROD, 4), "the queue stopped"

    def put(self, *commands):
        """Write commands into the queue and ring the bell."""
        index = self.unit.mmio_read(CMDQ_PROD, 4)
        for words in commands:
            self.memory.store_words(COMMAND_RING + (index & 0xFF) * 16, words)
            index = (index + 1) & 0x1FF
        self.unit.mmio_write(CMDQ_PROD, index, 4)

    def events(self):
        """The event records that wait."""
        return self.unit.event_queue.records()

    def take_events(self):
        """Read all events, as a driver does; returns them."""
        found = self.events()
        self.unit.mmio_write(EVTQ_CONS, self.unit.mmio_read(EVTQ_PROD, 4), 4)
        return found
