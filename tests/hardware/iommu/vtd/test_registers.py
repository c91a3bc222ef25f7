"""The register block: what a driver writes and reads, the invalidation queue, virtual commands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.invalidation import QueueError, decode_descriptor
from pasidlab.hardware.iommu.vtd.registers import (
    CAP,
    ECAP,
    FSTS,
    GCMD,
    GCMD_QIE,
    GCMD_SRTP,
    GCMD_TE,
    GSTS,
    ICS,
    IQA,
    IQERR,
    IQH,
    IQT,
    RTADDR,
    VtdRegisters,
)
from pasidlab.hardware.iommu.vtd.virtual_command import VCMD_ALLOC, VCMD_AT_E00, VCMD_AT_E10, VCMD_FREE
from pasidlab.hardware.layouts.vtd import FSTS_REG, IQA_REG, IQERR_REG
from pasidlab.hardware.layouts.vtd_queue import (
    QI_CONTEXT_CACHE,
    QI_IOTLB,
    QI_PAGE_GROUP_RESP,
    QI_PASID_CACHE,
    QI_PIOTLB,
    QI_WAIT,
)
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.timeline import HARDWARE, Timeline

QUEUE, STATUS = 0x8000, 0x4000
IQE = FSTS_REG["IQE"].mask
FORGET = QI_PASID_CACHE.encode(TYPE=7, G=1, DID=1, PASID=5)


class Recorder(VtdRegisters):
    """A unit that remembers what its hooks were told."""

    def __init__(self, **identity):
        timeline = Timeline()
        memory = PhysicalMemory(timeline, "ram", 1 << 20)
        super().__init__(timeline, "unit", HARDWARE, memory, replace(VtdIdentity(), **identity))
        self.told = []

    def _root_table_set(self):
        self.told.append(("root", self.root_pointer))

    def _invalidate(self, descriptor):
        self.told.append((descriptor.name, descriptor.words))

    def _virtual_command(self, command, operand):
        self.told.append((command, operand))
        return (0, 77) if command == VCMD_ALLOC else super()._virtual_command(command, operand)

    def queue(self, *descriptors, width=16, pages=0):
        """Set the queue up, put descriptors in, ring the bell."""
        self.mmio_write(IQA, IQA_REG.encode(QS=pages, DW=int(width == 32), IQA=QUEUE)[0])
        for index, words in enumerate(descriptors):
            self.memory.store_words(QUEUE + index * width, words)
        self.mmio_write(GCMD, GCMD_QIE, 4)
        self.mmio_write(IQT, len(descriptors) * width)


@pytest.fixture
def unit():
    """A unit after reset."""
    return Recorder()


def test_identity_registers_read_as_the_card_says(unit):
    """CAP and ECAP, whole or in halves, and stores do not change them."""
    unit.mmio_write(CAP, 0)
    assert unit.mmio_read(CAP) == unit.identity.cap()
    assert unit.mmio_read(ECAP, 4) | unit.mmio_read(ECAP + 4, 4) << 32 == unit.identity.ecap()


def test_rtaddr_takes_effect_when_srtp_is_written(unit):
    """Until then the old root table serves."""
    unit.mmio_write(RTADDR, 0x5400)
    assert unit.root_pointer == 0
    unit.mmio_write(GCMD, GCMD_SRTP, 4)
    unit.mmio_write(RTADDR, 0x6400)
    assert unit.root_pointer == 0x5400
    assert unit.told == [("root", 0x5400)]


def test_the_status_register_follows_the_command_register(unit):
    """TE and QIE as last written; RTPS stays; GCMD itself reads as zero."""
    unit.mmio_write(GCMD, GCMD_SRTP, 4)
    unit.mmio_write(GCMD, GCMD_QIE, 4)
    unit.mmio_write(GCMD, GCMD_QIE | GCMD_TE, 4)
    assert unit.mmio_read(GSTS, 4) == GCMD_TE | GCMD_QIE | GCMD_SRTP
    assert unit.mmio_read(GCMD, 4) == 0
    unit.mmio_write(GCMD, GCMD_QIE, 4)
    assert (unit.translation_enabled, unit.queue_enabled) == (False, True)
    unit.mmio_write(GSTS, 0, 4)
    assert unit.queue_enabled


def test_registers_travel_in_time(unit):
    """Undo brings every register back, and the digest with it."""
    before, digest = unit.timeline.journal.position, unit.timeline.digest()
    unit.mmio_write(RTADDR, 0x5400)
    unit.queue(FORGET)
    unit.timeline.journal.seek(before)
    assert unit.timeline.digest() == digest
    assert (unit.mmio_read(RTADDR), unit.mmio_read(GSTS, 4)) == (0, 0)


def test_there_is_no_64_byte_register(unit):
    """A posted store is dropped, an enqueue store told to retry."""
    digest = unit.timeline.digest()
    unit.post64(0, bytes(64))
    assert not unit.enqueue64(0, bytes(64))
    assert unit.timeline.digest() == digest


# --- invalidation queue -----------------------------------------------------------------------------------------------


def test_descriptors_are_carried_out_in_order(unit):
    """Up to the tail; the head follows; a wait descriptor says done, with or without an interrupt."""
    wait = QI_WAIT.encode(TYPE=5, SW=1, IF=1, FN=1, STDATA=0x1234, STADDR=STATUS + 4)
    unit.queue(FORGET, QI_IOTLB.encode(TYPE=2, G=1), wait)
    assert [name for name, _ in unit.told] == ["PASID cache", "IOTLB"]
    assert unit.mmio_read(IQH) == unit.mmio_read(IQT) == 48
    assert unit.memory.load(STATUS) == 0x1234 << 32
    assert unit.mmio_read(ICS, 4) == 1
    unit.mmio_write(ICS, 1, 4)
    assert unit.mmio_read(ICS, 4) == 0


def test_the_queue_wraps(unit):
    """Behind the last of 256 descriptors comes the first."""
    unit.queue(*[FORGET] * 255)
    unit.memory.store_words(QUEUE + 255 * 16, FORGET)
    unit.mmio_write(IQT, 16)
    assert len(unit.told) == 257
    assert unit.mmio_read(IQH) == 16


def test_nothing_runs_while_the_queue_is_off(unit):
    """The tail may move before the queue is enabled; disabling brings the head back to the start."""
    unit.mmio_write(IQA, QUEUE)
    unit.memory.store_words(QUEUE, FORGET)
    unit.mmio_write(IQT, 16)
    assert unit.told == []
    unit.mmio_write(GCMD, GCMD_QIE, 4)
    assert len(unit.told) == 1
    unit.mmio_write(GCMD, 0, 4)
    assert unit.mmio_read(IQH) == 0


def test_wide_queues_hold_wide_descriptors(unit):
    """256 bits with IQA.DW: a page group response has four words, others two and two zeros."""
    response = QI_PAGE_GROUP_RESP.encode(TYPE=9, PP=1, PASID=5, PRGI=3, PRIV0=1)
    unit.queue((*FORGET, 0, 0), response, width=32)
    assert [name for name, _ in unit.told] == ["PASID cache", "page group response"]
    assert unit.told[1][1] == response


@pytest.mark.parametrize(
    ("words", "width", "error"),
    [
        ((0, 0), 16, QueueError.INVALID_TYPE),
        ((10, 0), 16, QueueError.INVALID_TYPE),
        ((7 | 3 << 4 | 1 << 9, 0), 16, QueueError.INVALID_TYPE),
        ((7 | 3 << 4 | 1 << 8, 0), 16, QueueError.RESERVED_BITS),
        ((7 | 3 << 4, 1), 16, QueueError.RESERVED_BITS),
        ((7 | 3 << 4, 0, 0, 1), 32, QueueError.RESERVED_BITS),
        ((7 | 2 << 4, 0), 16, QueueError.RESERVED_BITS),
        ((6, 0), 16, QueueError.RESERVED_BITS),
        ((9, 0), 16, QueueError.INVALID_WIDTH),
        ((5 | 1 << 5, 1 << 40), 16, QueueError.UNKNOWN),
    ],
)
def test_a_bad_descriptor_stops_the_queue_where_it_is(unit, words, width, error):
    """IQE is set, IQERR says why, the head stays, and nothing behind it runs until software cleared IQE."""
    unit.queue((*FORGET, 0, 0)[: width // 8], words, (*FORGET, 0, 0)[: width // 8], width=width)
    assert len(unit.told) == 1
    assert unit.mmio_read(FSTS, 4) == IQE
    assert IQERR_REG["IQEI"].get((unit.mmio_read(IQERR),)) == error
    assert unit.mmio_read(IQH) == width
    unit.memory.store_words(QUEUE + width, (*FORGET, 0, 0)[: width // 8])
    unit.mmio_write(IQT, 3 * width)
    assert len(unit.told) == 1
    unit.mmio_write(FSTS, IQE, 4)
    assert len(unit.told) == 3
    assert unit.mmio_read(FSTS, 4) == unit.mmio_read(IQERR) == 0


@pytest.mark.parametrize(
    ("base", "tail", "width", "error"),
    [
        (QUEUE, 0x1000, 16, QueueError.INVALID_TAIL),
        (QUEUE, 0x10, 32, QueueError.TAIL_NOT_ALIGNED),
        (1 << 40, 0x10, 16, QueueError.CANNOT_READ),
    ],
)
def test_a_bad_queue_stops_too(unit, base, tail, width, error):
    """A tail outside the queue or between descriptors, a queue without memory."""
    unit.mmio_write(IQA, IQA_REG.encode(DW=int(width == 32), IQA=base)[0])
    unit.mmio_write(GCMD, GCMD_QIE, 4)
    unit.mmio_write(IQT, tail)
    assert unit.mmio_read(FSTS, 4) == IQE
    assert IQERR_REG["IQEI"].get((unit.mmio_read(IQERR),)) == error


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (QI_CONTEXT_CACHE.encode(TYPE=1, G=3, DID=2, SID=0x6A08), "context cache: a device, DID=0x2 SID=6a:01.0"),
        (QI_PIOTLB.encode(TYPE=6, G=2, DID=2, PASID=5), "PASID IOTLB: all pages of a PASID, DID=0x2 PASID=0x5"),
        (QI_IOTLB.encode(TYPE=2, G=1, DR=1, DW=1), "IOTLB: everything"),
    ],
)
def test_descriptors_can_be_read_by_people(words, text):
    """Kind, scope, and the fields that matter."""
    assert str(decode_descriptor(words)) == text


# --- virtual commands -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interface", [VCMD_AT_E10, VCMD_AT_E00], ids=lambda one: one.name)
def test_a_virtual_command_is_answered_in_the_layout_of_the_card(interface):
    """Allocate gives a PASID, an unknown command its status; capability, command and response at their offsets."""
    unit = Recorder(vcs=True, vcmd=interface)
    assert unit.mmio_read(interface.vccap) == 1
    unit.mmio_write(interface.vcmd, interface.request(VCMD_ALLOC))
    assert unit.mmio_read(interface.vcrsp) == interface.answer(0, 77)
    unit.mmio_write(interface.vcmd, interface.request(VCMD_FREE, 77))
    assert unit.mmio_read(interface.vcrsp) == interface.answer(interface.undefined)
    assert unit.told == [(VCMD_ALLOC, 0), (VCMD_FREE, 77)]


def test_a_unit_without_virtual_commands_has_no_such_registers(unit):
    """ECAP.VCS=0: everything there reads as zero and takes no command."""
    unit.mmio_write(VCMD_AT_E10.vcmd, VCMD_AT_E10.request(VCMD_ALLOC))
    offsets = (VCMD_AT_E10.vccap, VCMD_AT_E10.vcmd, VCMD_AT_E10.vcrsp)
    assert [unit.mmio_read(offset) for offset in offsets] == [0, 0, 0]
    assert unit.told == []
