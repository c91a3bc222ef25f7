"""A register block that remembers what its hooks were told, and can be given descriptors."""

from __future__ import annotations

from dataclasses import replace

from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.registers import GCMD, GCMD_QIE, IQA, IQT, VtdRegisters
from pasidlab.hardware.iommu.vtd.virtual_command import VCMD_ALLOC
from pasidlab.hardware.layouts.vtd import IQA_REG
from pasidlab.hardware.layouts.vtd_queue import QI_PASID_CACHE
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.timeline import HARDWARE, Timeline

QUEUE, STATUS = 0x8000, 0x4000
FORGET = QI_PASID_CACHE.encode(TYPE=7, G=1, DID=1, PASID=5)
SILENT = 0x6A08
"""A device that does not answer: invalidations of its PASID 0xDEAD time out."""
HUSH = QI_PASID_CACHE.encode(TYPE=7, G=1, DID=1, PASID=0xDEAD)
PRATTLE = QI_PASID_CACHE.encode(TYPE=7, G=1, DID=1, PASID=0xBAD)
"""As ``HUSH``, but the device answers wrongly."""


class Recorder(VtdRegisters):
    """A unit that remembers what its hooks were told, in ``told``, and the interrupts, in ``sent``."""

    def __init__(self, **identity):
        timeline = Timeline()
        memory = PhysicalMemory(timeline, "ram", 1 << 20)
        super().__init__(timeline, "unit", HARDWARE, memory, replace(VtdIdentity(), **identity))
        self.told: list[tuple] = []
        self.sent: list[tuple[int, int]] = []

    def _interrupt(self, address, data):
        self.sent.append((address, data))

    def _root_table_set(self):
        self.told.append(("root", self.root_pointer))

    def _translation_switched(self):
        self.told.append(("on" if self.translation_enabled else "off",))

    def _invalidate(self, descriptor):
        self.told.append((descriptor.name, descriptor.words))
        if descriptor.words == HUSH:
            self._time_out(SILENT)
        if descriptor.words == PRATTLE:
            self._bad_completion(SILENT)

    def _context_command(self, granularity, did, sid, function_mask):
        self.told.append(("context", granularity, did, sid, function_mask))
        return 1

    def _virtual_command(self, command, operand):
        self.told.append((command, operand))
        return (0, 77) if command == VCMD_ALLOC else super()._virtual_command(command, operand)

    def queue(self, *descriptors, width=16, pages=0):
        """Set the queue up, put descriptors behind those that are there, ring the bell."""
        self.mmio_write(IQA, IQA_REG.encode(QS=pages, DW=int(width == 32), IQA=QUEUE)[0])
        tail, size = self.mmio_read(IQT), 0x1000 << pages
        for words in descriptors:
            self.memory.store_words(QUEUE + tail, words)
            tail = (tail + width) % size
        self.mmio_write(GCMD, GCMD_QIE, 4)
        self.mmio_write(IQT, tail)
