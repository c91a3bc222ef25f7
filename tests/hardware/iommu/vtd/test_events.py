"""The unit's own interrupts: when a message leaves, when it waits, and when it is taken back."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.iommu.vtd.registers import FECTL, FSTS, ICS, IECTL, IQH, PECTL, PRS
from pasidlab.hardware.layouts.vtd import FSTS_REG
from pasidlab.hardware.layouts.vtd_queue import QI_WAIT
from pasidlab.hardware.pcie import Access, DmaRequest, PageRequest
from tests.hardware.iommu.vtd.recorder import FORGET, HUSH, PRATTLE, QUEUE, Recorder

IM, IP = 1 << 31, 1 << 30
MESSAGE = (0x1_FEE0_1000, 0x4021)
FAULT = Fault(0x59, "SPT.2", "", DmaRequest(0x6A08, 0x5000, Access.READ, pasid=5))
PAGE = PageRequest(0x6A08, 5, 0x7000, read=True, write=False)
TOLD = QI_WAIT.encode(TYPE=5, IF=1)


class Source:
    """One event of a unit: its control register, how its condition arises, and how software serves it."""

    def __init__(self, control, happen, serve):
        self.control, self.happen, self.serve = control, happen, serve


def serve_faults(unit):
    """As a driver does: repair the descriptor at the head, clear every record and the status bits."""
    unit.memory.store_words(QUEUE + unit.mmio_read(IQH), FORGET)
    for index in range(unit.identity.nfr):
        unit.mmio_write(16 * (unit.identity.fro + index) + 12, 1 << 31, 4)
    unit.mmio_write(FSTS, 0xFF, 4)


SOURCES = {
    "fault": Source(FECTL, lambda unit: unit.faults.record(FAULT), serve_faults),
    "wait": Source(IECTL, lambda unit: unit.queue(TOLD), lambda unit: unit.mmio_write(ICS, 1, 4)),
    "page request": Source(PECTL, lambda unit: unit.page_request(PAGE), lambda unit: unit.mmio_write(PRS, 3, 4)),
    "queue error": Source(FECTL, lambda unit: unit.queue((0xF, 0)), serve_faults),
    "silent device": Source(FECTL, lambda unit: unit.queue(HUSH), serve_faults),
    "wrong completion": Source(FECTL, lambda unit: unit.queue(PRATTLE), serve_faults),
}
source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


@pytest.fixture
def unit():
    """A unit whose three events are programmed, and masked as after reset."""
    unit = Recorder()
    for control in (FECTL, IECTL, PECTL):
        unit.mmio_write(control + 4, MESSAGE[1], 4)
        unit.mmio_write(control + 8, MESSAGE[0])
    unit.mmio_write(0xD0, 0x6000)  # the page request queue
    return unit


@source
def test_an_unmasked_event_sends_its_message(unit, source):
    """Address (64 bits) and data as programmed, once; nothing stays pending."""
    unit.mmio_write(source.control, 0, 4)
    source.happen(unit)
    assert unit.sent == [MESSAGE]
    assert unit.mmio_read(source.control, 4) == 0


@source
def test_a_masked_event_waits_until_it_is_unmasked(unit, source):
    """IP says so; the message leaves with the store that clears IM, and only then."""
    source.happen(unit)
    assert unit.sent == []
    assert unit.mmio_read(source.control, 4) == IM | IP
    unit.mmio_write(source.control, IM, 4)
    assert unit.sent == []
    unit.mmio_write(source.control, 0, 4)
    assert unit.sent == [MESSAGE]
    assert unit.mmio_read(source.control, 4) == 0
    unit.mmio_write(source.control, 0, 4)
    assert unit.sent == [MESSAGE]


@source
def test_serving_the_cause_takes_a_waiting_message_back(unit, source):
    """Software that polled and cleared the status is not interrupted later."""
    source.happen(unit)
    source.serve(unit)
    assert unit.mmio_read(source.control, 4) == IM
    unit.mmio_write(source.control, 0, 4)
    assert unit.sent == []


@source
def test_a_served_event_can_happen_again(unit, source):
    """One message each time."""
    unit.mmio_write(source.control, 0, 4)
    for times in (1, 2):
        source.happen(unit)
        source.serve(unit)
        assert unit.sent == [MESSAGE] * times


@pytest.mark.parametrize("name", ["fault", "page request"])
def test_more_of_the_same_is_no_new_event(unit, name):
    """Until software has served the first one."""
    found = SOURCES[name]
    unit.mmio_write(found.control, 0, 4)
    for _ in range(3):
        found.happen(unit)
    assert unit.sent == [MESSAGE]


def test_a_second_kind_of_fault_event_waits_for_the_first_to_be_served(unit):
    """A queue error beside a pending fault record sends nothing; clearing only one of the two neither."""
    unit.mmio_write(FECTL, 0, 4)
    unit.faults.record(FAULT)
    unit.queue((0xF, 0))
    assert unit.sent == [MESSAGE]
    unit.memory.store_words(QUEUE, FORGET)
    unit.mmio_write(FSTS, FSTS_REG["IQE"].mask, 4)
    assert unit.sent == [MESSAGE]
    assert FSTS_REG["PPF"].get((unit.mmio_read(FSTS, 4),))


def test_one_cause_of_two_keeps_the_message_waiting(unit):
    """PPR and PRO: clearing the first leaves IP, clearing both takes it back."""
    unit.mmio_write(0xC0, 0x20)  # head just behind the tail: full
    unit.page_request(PAGE)
    unit.mmio_write(0xC0, 0)
    assert unit.mmio_read(PRS, 4) == 2
    assert unit.mmio_read(PECTL, 4) == IM | IP
    unit.mmio_write(PRS, 2, 4)
    unit.page_request(PAGE)
    unit.mmio_write(0xC0, 0x40)
    unit.page_request(PAGE)
    assert unit.mmio_read(PRS, 4) == 3
    unit.mmio_write(PRS, 1, 4)
    assert unit.mmio_read(PECTL, 4) == IM | IP
    unit.mmio_write(PRS, 2, 4)
    assert unit.mmio_read(PECTL, 4) == IM


def test_the_pending_bit_cannot_be_stored(unit):
    """Neither set nor cleared by software."""
    for control in (FECTL, IECTL, PECTL):
        unit.mmio_write(control, IP, 4)
        assert unit.mmio_read(control, 4) == 0
    assert unit.sent == []


def test_a_wait_without_interrupt_flag_is_silent(unit):
    """SW alone writes the status and leaves ICS alone."""
    unit.mmio_write(IECTL, 0, 4)
    unit.queue(QI_WAIT.encode(TYPE=5, SW=1, STADDR=0x4000, STDATA=7))
    assert (unit.sent, unit.mmio_read(ICS, 4), unit.memory.load(0x4000)) == ([], 0, 7)


def test_messages_travel_in_time(unit):
    """Undo brings back what was pending."""
    unit.faults.record(FAULT)
    before, digest = unit.timeline.journal.position, unit.timeline.digest()
    unit.mmio_write(FECTL, 0, 4)
    unit.timeline.journal.seek(before)
    assert unit.timeline.digest() == digest
    assert unit.mmio_read(FECTL, 4) == IM | IP
