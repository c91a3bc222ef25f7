"""The invalidation queue: order, width, size, what stops it and how it goes on, what the unit lacks."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.invalidation import Descriptor, QueueError, decode_descriptor
from pasidlab.hardware.iommu.vtd.registers import (
    FSTS,
    GCMD,
    GCMD_QIE,
    ICS,
    IECTL,
    IQA,
    IQERR,
    IQH,
    IQT,
)
from pasidlab.hardware.layouts.vtd import FSTS_REG, IQA_REG, IQERR_REG
from pasidlab.hardware.layouts.vtd_queue import (
    QI_CONTEXT_CACHE,
    QI_DEV_TLB,
    QI_IOTLB,
    QI_PAGE_GROUP_RESP,
    QI_PASID_DEV_TLB,
    QI_PIOTLB,
    QI_WAIT,
)
from tests.hardware.iommu.vtd.recorder import FORGET, HUSH, PRATTLE, QUEUE, SILENT, STATUS, Recorder

IQE, ICE, ITE = (FSTS_REG[name].mask for name in ("IQE", "ICE", "ITE"))


@pytest.fixture
def unit():
    """A unit after reset."""
    return Recorder()


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
        ((9, 0), 16, QueueError.INVALID_TYPE),
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


@pytest.mark.parametrize("pages", [0, 3, 7])
@pytest.mark.parametrize("width", [16, 32])
def test_a_queue_of_any_size_wraps_at_its_end(unit, pages, width):
    """2^QS pages of 4 KiB, whatever the width; head and tail go round together; full is one less than all."""
    size = 0x1000 << pages
    for start in (0, size - 2 * width):
        unit.mmio_write(GCMD, 0, 4)
        unit.mmio_write(IQT, start)
        unit.registers[IQH] = start
        unit.told.clear()
        unit.queue(*[(*FORGET, 0, 0)[: width // 8]] * 5, width=width, pages=pages)
        assert len(unit.told) == 5
        assert unit.mmio_read(IQH) == unit.mmio_read(IQT)
    assert unit.mmio_read(FSTS, 4) == 0


def test_a_wide_queue_needs_scalable_mode_or_abort_mode():
    """IQA.DW on a unit that has neither stops the queue: invalid width (specification 11.4.9.9)."""
    for card, error in (({"smts": False}, QueueError.INVALID_WIDTH), ({"smts": False, "adms": True}, None), ({}, None)):
        unit = Recorder(**card)
        unit.queue((*FORGET, 0, 0), width=32)
        assert len(unit.told) == (error is None)
        assert IQERR_REG["IQEI"].get((unit.mmio_read(IQERR),)) == (error or 0)


def test_the_error_numbers_are_those_of_the_specification():
    """IQEI 0 to 7."""
    names = ["UNKNOWN", "INVALID_TAIL", "CANNOT_READ", "INVALID_TYPE", "RESERVED_BITS", "INVALID_WIDTH"]
    assert [error.name for error in QueueError] == [*names, "TAIL_NOT_ALIGNED", "INVALID_MODE"]
    assert [error.value for error in QueueError] == list(range(8))


@pytest.mark.parametrize(
    ("words", "card", "error"),
    [
        (QI_WAIT.encode(TYPE=5, PD=1), {"pds": False}, QueueError.RESERVED_BITS),
        (QI_DEV_TLB.encode(TYPE=3, SID=5), {"dt": False}, QueueError.INVALID_TYPE),
        (QI_PASID_DEV_TLB.encode(TYPE=8, SID=5), {"dt": False}, QueueError.INVALID_TYPE),
        (QI_DEV_TLB.encode(TYPE=3, SID=5, PFSID_LO=1), {"dit": False}, QueueError.RESERVED_BITS),
        (QI_PASID_DEV_TLB.encode(TYPE=8, SID=5, PFSID_HI=1), {"dit": False}, QueueError.RESERVED_BITS),
        (QI_IOTLB.encode(TYPE=2, G=3, AM=1), {"psi": False}, QueueError.RESERVED_BITS),
    ],
)
def test_what_the_unit_lacks_cannot_be_asked_for(words, card, error):
    """Page-request drain, device TLBs, throttling, page-selective invalidation; with the capability all are taken."""
    assert decode_descriptor(words, VtdIdentity(**card)) == error
    assert isinstance(decode_descriptor(words, VtdIdentity()), Descriptor)


def test_a_device_that_keeps_silent_stops_the_queue_behind_the_next_wait(unit):
    """The wait is not completed; ITE and ITESID say who; clearing ITE lets the queue go on behind the wait."""
    wait = QI_WAIT.encode(TYPE=5, SW=1, STDATA=1, STADDR=STATUS)
    unit.queue(HUSH, FORGET, wait, FORGET)
    assert [words for _, words in unit.told] == [HUSH, FORGET]
    assert unit.mmio_read(FSTS, 4) == ITE
    assert IQERR_REG.decode((unit.mmio_read(IQERR),)) == {"IQEI": 0, "ITESID": SILENT, "ICESID": 0}
    assert (unit.memory.load(STATUS), unit.mmio_read(IQH)) == (0, 48)
    unit.mmio_write(FSTS, ITE, 4)
    assert len(unit.told) == 3
    assert (unit.mmio_read(FSTS, 4), unit.mmio_read(IQERR), unit.mmio_read(IQH)) == (0, 0, 64)
    unit.queue(wait)
    assert unit.memory.load(STATUS) == 1


def test_a_silent_device_is_noticed_without_a_wait_too(unit):
    """When the queue has run empty; what comes later waits until ITE is cleared."""
    unit.queue(HUSH)
    assert unit.mmio_read(FSTS, 4) == ITE
    unit.queue(FORGET)
    assert len(unit.told) == 1
    unit.mmio_write(FSTS, ITE, 4)
    assert len(unit.told) == 2


def test_a_wrong_completion_does_not_stop_the_queue(unit):
    """ICE and ICESID say who; waits are completed."""
    unit.queue(PRATTLE, FORGET, QI_WAIT.encode(TYPE=5, SW=1, STDATA=1, STADDR=STATUS))
    assert len(unit.told) == 2
    assert unit.memory.load(STATUS) == 1
    assert unit.mmio_read(FSTS, 4) == ICE
    assert IQERR_REG["ICESID"].get((unit.mmio_read(IQERR),)) == SILENT
    unit.mmio_write(FSTS, ICE, 4)
    assert (unit.mmio_read(FSTS, 4), unit.mmio_read(IQERR)) == (0, 0)


def test_each_status_bit_keeps_its_own_explanation(unit):
    """IQE, ICE and ITE together; clearing one leaves what explains the others."""
    unit.queue(PRATTLE, HUSH)
    unit.mmio_write(FSTS, ITE, 4)
    unit.queue((0xF, 0))
    assert unit.mmio_read(FSTS, 4) == ICE | IQE
    record = {"IQEI": QueueError.INVALID_TYPE, "ITESID": 0, "ICESID": SILENT}
    assert IQERR_REG.decode((unit.mmio_read(IQERR),)) == record
    unit.memory.store_words(QUEUE + unit.mmio_read(IQH), FORGET)
    unit.mmio_write(FSTS, IQE, 4)
    assert IQERR_REG.decode((unit.mmio_read(IQERR),)) == record | {"IQEI": 0}


def test_a_bell_rung_by_a_descriptor_runs_each_one_once():
    """A device's answer may make the driver submit more while a descriptor is being carried out."""

    class Chain(Recorder):
        def _invalidate(self, descriptor):
            super()._invalidate(descriptor)
            if len(self.told) <= 3:
                self.queue(QI_IOTLB.encode(TYPE=2, G=2, DID=len(self.told)))

        def _interrupt(self, address, data):
            super()._interrupt(address, data)
            self.queue(QI_WAIT.encode(TYPE=5, SW=1, STADDR=STATUS, STDATA=7))

    unit = Chain()
    unit.mmio_write(IECTL, 0, 4)
    unit.queue(FORGET, QI_WAIT.encode(TYPE=5, IF=1))
    assert [name for name, _ in unit.told] == ["PASID cache", "IOTLB", "IOTLB", "IOTLB"]
    assert [QI_IOTLB["DID"].get(words) for _, words in unit.told[1:]] == [1, 2, 3]
    assert (len(unit.sent), unit.memory.load(STATUS)) == (1, 7)
    assert unit.mmio_read(IQH) == unit.mmio_read(IQT) == 6 * 16
    assert unit.mmio_read(FSTS, 4) == 0


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
