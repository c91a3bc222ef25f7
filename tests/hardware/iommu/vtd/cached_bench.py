"""A bench whose unit keeps what it reads, with an invalidation queue, two devices on a bus, and all kinds of tables."""

from __future__ import annotations

from dataclasses import replace

from pasidlab.hardware.bus import PcieBus
from pasidlab.hardware.cpu import LocalApic
from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.register_file import GCMD, GCMD_QIE, GCMD_SRTP, GCMD_TE, IQA, IQH, IQT, RTADDR
from pasidlab.hardware.iommu.vtd.unit import VtdUnit
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, IQA_REG, PASID_DIR_ENTRY, PASID_ENTRY, ROOT_ENTRY
from pasidlab.hardware.layouts.vtd_queue import (
    QI_CONTEXT_CACHE,
    QI_DEV_TLB,
    QI_IOTLB,
    QI_PASID_CACHE,
    QI_PASID_DEV_TLB,
    QI_PIOTLB,
)
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.timeline import HARDWARE, Timeline
from tests.hardware.iommu.vtd.by_hand import (
    CONTEXT,
    CONTEXT_AT,
    DIRECTORY,
    DIRECTORY_AT,
    RAM,
    RID,
    ROOT,
    ROOT_AT,
    TABLE,
    Bench,
)

__all__ = [
    "DID",
    "NEIGHBOUR",
    "CachedBench",
    "Endpoint",
    "context_cache",
    "dev_tlb",
    "iotlb",
    "pasid_cache",
    "pasid_dev_tlb",
    "piotlb",
]

QUEUE, QUEUE_SIZE = 0x8000, 0x2000
DID = 7
"""The domain of the entries that the bench writes."""
NEIGHBOUR = RID + 1
"""A second function behind the same PASID directory."""


def context_cache(granularity, **fields):
    """1 global, 2 domain, 3 device."""
    return QI_CONTEXT_CACHE.encode(TYPE=1, G=granularity, **fields)


def iotlb(granularity, ADDR=0, **fields):
    """1 global, 2 domain, 3 pages of a domain: those around the address."""
    return QI_IOTLB.encode(TYPE=2, G=granularity, ADDR=ADDR & ~0xFFF, **fields)


def dev_tlb(**fields):
    """Translations without PASID in a device's TLB."""
    return QI_DEV_TLB.encode(TYPE=3, **fields)


def piotlb(granularity, ADDR=0, **fields):
    """2 all pages of a PASID, 3 some: those around the address."""
    return QI_PIOTLB.encode(TYPE=6, G=granularity, ADDR=ADDR & ~0xFFF, **fields)


def pasid_cache(granularity, **fields):
    """0 domain, 1 one PASID, 3 global."""
    return QI_PASID_CACHE.encode(TYPE=7, G=granularity, **fields)


def pasid_dev_tlb(**fields):
    """Translations of a PASID in a device's TLB."""
    return QI_PASID_DEV_TLB.encode(TYPE=8, **fields)


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
        """Nothing of it is ever held."""


class CachedBench(Bench):
    """A :class:`Bench` that must be told what has changed. Page requests may be made by both devices."""

    def __init__(self, **identity):
        self.timeline = Timeline()
        self.memory = PhysicalMemory(self.timeline, "ram", RAM)
        self.bus, self.apic = PcieBus(self.timeline, "bus"), LocalApic(self.timeline, "apic")
        self.endpoint = self.bus.endpoints[RID] = Endpoint(RID)
        self.neighbour = self.bus.endpoints[NEIGHBOUR] = Endpoint(NEIGHBOUR)
        card = replace(VtdIdentity(), **identity)
        self.unit = VtdUnit(self.timeline, "unit", HARDWARE, self.memory, card, self.bus, self.apic)
        self.memory.store_words(ROOT_AT, ROOT_ENTRY.encode(LP=1, LCTP=CONTEXT))
        self.memory.store_words(DIRECTORY_AT, PASID_DIR_ENTRY.encode(P=1, SMPTBLPTR=TABLE))
        self.context(DTE=1, PRE=1)
        self.device(NEIGHBOUR, DTE=1, PRE=1)
        self.unit.mmio_write(IQA, IQA_REG.encode(IQA=QUEUE, DW=1, QS=1)[0])
        self.unit.mmio_write(GCMD, GCMD_QIE, 4)
        self.set_root(ROOT | 0x400)
        self.unit.mmio_write(GCMD, GCMD_QIE | GCMD_TE, 4)

    @property
    def caches(self):
        """The unit's caches."""
        return self.unit.caches

    def set_root(self, value):
        """Write RTADDR and let it take effect; the queue goes on."""
        running = GCMD_QIE | (GCMD_TE if self.unit.translation_enabled else 0)
        self.unit.mmio_write(RTADDR, value)
        self.unit.mmio_write(GCMD, GCMD_SRTP | running, 4)

    def device(self, rid, **values):
        """Write the context entry of any function on the bench's bus."""
        usual = {"P": 1, "PASIDE": 1, "PDTS": 7, "PASIDDIRPTR": DIRECTORY}
        at = CONTEXT_AT + (rid - RID) * CONTEXT_ENTRY.size
        self.memory.store_words(at, CONTEXT_ENTRY.encode(**(usual | values)))

    def entry_of(self, pasid, **values):
        """Write the entry of a PASID of the same leaf table as ``PASID``."""
        at = TABLE + (pasid & 63) * PASID_ENTRY.size
        self.memory.store_words(at, PASID_ENTRY.encode(**values))

    def invalidate(self, *descriptors):
        """Hand descriptors to the unit; it carries them out at once."""
        tail = self.unit.mmio_read(IQT)
        for words in descriptors:
            self.memory.store_words(QUEUE + tail, (*words, *(0,) * (4 - len(words))))
            tail = (tail + 32) % QUEUE_SIZE
        self.unit.mmio_write(IQT, tail)
        assert self.unit.mmio_read(IQH) == tail, "the queue stopped"

    def uncached(self, *args, **kwargs):
        """What the tables alone say: an address or a fault code."""
        walk = self.unit.walk(self.request(*args, **kwargs), caches=False)
        return walk.fault.code if walk.fault is not None else walk.address

    def ask_as(self, rid, *args, **kwargs):
        """As :meth:`ask`, for another device."""
        request = self.request(*args, **kwargs)._replace(rid=rid)
        before = self.timeline.digest()
        walk = self.unit.walk(request)
        assert self.timeline.digest() == before
        answer = self.unit.translate(request)
        code = answer.code if isinstance(answer, Fault) else answer
        assert code == (walk.fault.code if walk.fault is not None else walk.address)
        return code

    def sources(self, *args, **kwargs):
        """Which cache answered at each stop of a walk; empty for what was read from memory."""
        return [stop.cache for stop in self.unit.walk(self.request(*args, **kwargs)).stops]
