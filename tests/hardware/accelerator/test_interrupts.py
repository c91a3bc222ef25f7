"""Completion interrupts: by which handle, for which PASID, held back and sent later."""

import pytest

from pasidlab.hardware.accelerator import Accelerator, Completion, Descriptor, Flag, Opcode
from pasidlab.hardware.accelerator.interrupts import ims_offset
from pasidlab.hardware.accelerator.register_map import (
    GENCAP,
    IMS,
    IMS_ENTRIES,
    MSIX_PERM,
    MSIX_TABLE,
    OFFSETS,
    portal_offset,
)
from pasidlab.hardware.cpu import INTERRUPT_BASE, LocalApic
from pasidlab.hardware.fabric import Fabric
from pasidlab.hardware.layouts import dsa
from pasidlab.timeline import Verb
from tests.hardware.accelerator.conftest import DEDICATED, RID, SHARED, Bench

RECORD, PASID = 0x3000, 5
NOOP = Descriptor(Opcode.NOOP, completion_addr=RECORD, flags=Flag.CRAV | Flag.RCR | Flag.RCI, pasid=PASID)


class Counter:
    """A kernel's handler that counts."""

    path = "handler"

    def __init__(self):
        self.came = 0

    def interrupt(self):
        self.came += 1


class Wired(Bench):
    """A bench with a CPU behind the root complex."""

    def __init__(self):
        super().__init__()
        apic, self.handler = LocalApic(self.time, "apic"), Counter()
        apic.handlers[0x41] = self.handler
        self.fabric = Fabric(self.time, self.memory, self.unit, apic)
        self.device = Accelerator(self.time, "dsa1", RID, self.fabric, self.agenda)


@pytest.fixture
def lab():
    """Its shared queue runs, with memory for two PASIDs."""
    lab = Wired()
    lab.map(PASID, RECORD >> 12, 9)
    lab.map(6, RECORD >> 12, 10)
    lab.start(SHARED, pasid_en=1)
    return lab


def permit(lab, vector, **fields):
    """An MSI-X permission entry."""
    lab.device.mmio_write(MSIX_PERM + 8 * vector, dsa.MSIX_PERM.encode(**fields)[0], 4)


def message(lab, vector, mask=0):
    """An MSI-X message to vector 0x41."""
    words = dsa.MSIX_ENTRY.encode(address=INTERRUPT_BASE, data=0x41, mask=mask)
    for index, word in enumerate(words):
        lab.device.interrupts.mmio_write(16 * vector + 8 * index, word)


def store(lab, entry, **fields):
    """An entry of message storage to vector 0x41."""
    words = dsa.IMS_ENTRY.encode(address=INTERRUPT_BASE, data=0x41, **fields)
    for index, word in enumerate(words):
        lab.device.interrupts.mmio_write(ims_offset(entry) - MSIX_TABLE + 8 * index, word)


def finish(lab, work=NOOP, *, ims=False, frame=9):
    """Submit through one of the two portals, carry out, and read the status."""
    assert lab.device.portals.enqueue64(portal_offset(SHARED, limited=True, ims=ims), work.to_bytes())
    lab.agenda.run_all()
    return Completion.from_bytes(lab.memory.read(frame << 12 | RECORD & 0xFFF, 32)).status


def test_a_vector_interrupts_the_cpu_when_its_permission_names_the_pasid(lab):
    """The record is written first, then the message is sent; one event tells it."""
    permit(lab, 2, pasid_en=1, pasid=PASID)
    message(lab, 2)
    assert finish(lab, NOOP._replace(int_handle=2)) == 0x01
    assert lab.handler.came == 1
    assert lab.verbs()[-2:] == [Verb.COMPLETE, Verb.INTERRUPT]


def test_without_rci_nobody_is_interrupted(lab):
    """Nor is the handle looked at."""
    assert finish(lab, NOOP._replace(flags=Flag.CRAV | Flag.RCR, int_handle=99)) == 0x01
    assert lab.handler.came == 0


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"pasid_en": 1, "pasid": PASID}, 0x01),
        ({"pasid_en": 1, "pasid": PASID + 1}, 0x19),
        ({"pasid_en": 0, "pasid": PASID}, 0x19),
        ({"ignore": 1, "pasid_en": 1, "pasid": PASID + 1}, 0x01),
        ({"ignore": 1}, 0x01),
    ],
)
@pytest.mark.parametrize("ims", [False, True])
def test_who_may_raise_an_interrupt(lab, ims, fields, status):
    """The PASID of the entry, or anybody where the check is off; others get INT_HANDLE_INVAL, and nobody is told."""
    if ims:
        store(lab, 1, **fields)
    else:
        permit(lab, 1, **fields)
        message(lab, 1)
    assert finish(lab, NOOP._replace(int_handle=1), ims=ims) == status
    assert lab.handler.came == (status == 0x01)


def test_the_portal_says_which_table_a_handle_names(lab):
    """The upper pages mean message storage; a submitter cannot say otherwise in its descriptor."""
    store(lab, 1, pasid_en=1, pasid=PASID)
    forged = NOOP._replace(int_handle=1, int_table=1)
    assert finish(lab, forged) == 0x19
    assert finish(lab, NOOP._replace(int_handle=1), ims=True) == 0x01


def test_what_a_batch_raises_is_in_the_batchs_table(lab):
    """A descriptor in memory can write what it likes into the bit."""
    store(lab, 1, pasid_en=1, pasid=PASID)
    lab.map(PASID, 4, 11)
    child = NOOP._replace(flags=Flag.RCI, int_handle=1, int_table=1)
    lab.memory.write(11 << 12, child.to_bytes() * 2)
    batch = NOOP._replace(opcode=Opcode.BATCH, src=0x4000, size=2, flags=Flag.CRAV | Flag.RCR)
    assert finish(lab, batch) == 0x05
    assert lab.handler.came == 0
    assert finish(lab, batch, ims=True) == 0x01
    assert lab.handler.came == 2


@pytest.mark.parametrize(("ims", "handle"), [(False, 6), (False, 0xFFFF), (True, IMS_ENTRIES), (True, 0xFFFF)])
def test_a_handle_without_an_entry_is_invalid(lab, ims, handle):
    """One vector for each queue and one more; 256 entries."""
    assert finish(lab, NOOP._replace(int_handle=handle), ims=ims) == 0x19


def test_a_dedicated_queue_is_checked_by_its_own_pasid(lab):
    """Not by what the descriptor says."""
    lab.start(DEDICATED, pasid=6, pasid_en=1)
    permit(lab, 1, pasid_en=1, pasid=PASID)
    message(lab, 1)
    lab.post(NOOP._replace(int_handle=1))
    lab.agenda.run_all()
    assert lab.handler.came == 0
    permit(lab, 1, pasid_en=1, pasid=6)
    lab.post(NOOP._replace(int_handle=1))
    lab.agenda.run_all()
    assert lab.handler.came == 1


def test_a_failed_operation_keeps_its_code_and_interrupts_all_the_same(lab):
    """Whoever sleeps until the end has to be woken."""
    permit(lab, 1, pasid_en=1, pasid=PASID)
    message(lab, 1)
    assert finish(lab, NOOP._replace(opcode=0x77, int_handle=1)) == 0x10
    assert lab.handler.came == 1


@pytest.mark.parametrize("ims", [False, True])
def test_a_masked_message_is_sent_when_it_is_unmasked(lab, ims):
    """Once, however often it was due."""
    entry = {"pasid_en": 1, "pasid": PASID}
    if ims:
        store(lab, 3, mask=1, **entry)
    else:
        permit(lab, 3, **entry)
        message(lab, 3, mask=1)
    for _ in range(2):
        assert finish(lab, NOOP._replace(int_handle=3), ims=ims) == 0x01
    assert lab.handler.came == 0
    again = (lambda: store(lab, 3, **entry)) if ims else (lambda: message(lab, 3))
    again()
    assert lab.handler.came == 1
    again()
    assert lab.handler.came == 1


def test_what_was_held_back_dies_with_the_entrys_address(lab):
    """Who gets the entry next is not interrupted by what was somebody else's."""
    store(lab, 3, mask=1, pasid_en=1, pasid=PASID)
    finish(lab, NOOP._replace(int_handle=3), ims=True)
    lab.device.interrupts.mmio_write(ims_offset(3) - MSIX_TABLE, 0)
    store(lab, 3, pasid_en=1, pasid=6)
    assert lab.handler.came == 0
    assert lab.device.interrupts.used() == [3]


def test_the_pages_of_messages_are_not_reached_through_bar0(lab):
    """A guest with the whole function is given BAR0: the tables lie behind it, on pages of the host."""
    before = lab.device.bar0.items()
    for offset in (MSIX_TABLE, MSIX_TABLE + 12, ims_offset(0), ims_offset(7) + 8):
        lab.device.mmio_write(offset, 0xFFFF_FFFF_FFFF_FFFF)
    assert lab.device.bar0.items() == before


def test_stores_that_are_not_aligned_or_beyond_the_tables_write_nothing(lab):
    """Nor do 64-byte stores; the pending bit is the device's own."""
    pages, before = lab.device.interrupts, lab.device.bar0.items()
    for offset, size in ((1, 4), (4, 8), (16 * 6, 8), (0x1000, 8), (0, 2), (0x3000, 8)):
        pages.mmio_write(offset, (1 << 64) - 1, size)
    pages.post64(0, bytes(64))
    assert not pages.enqueue64(0, bytes(64))
    assert lab.device.bar0.items() == before
    pages.mmio_write(IMS - MSIX_TABLE + 8, (1 << 64) - 1)
    assert lab.device.field(IMS, dsa.IMS_ENTRY, "pending") == 0
    assert pages.mmio_read(IMS - MSIX_TABLE + 12, 4) == 0xFFFF_F00D


def test_the_device_says_that_it_has_message_storage(lab):
    """One unit of 256 entries, and where it lies; the commands for handles are not silicon's."""
    assert dsa.GENCAP.decode((lab.device.mmio_read(GENCAP),))["max_ims_mult"] == 1
    offsets = dsa.OFFSETS.decode((lab.device.mmio_read(OFFSETS), lab.device.mmio_read(OFFSETS + 8)))
    assert offsets["ims"] * 0x100 == IMS
    assert lab.command(13, 1) == 0x01


def test_a_permission_is_told_when_it_changes(lab):
    """By one event with the PASID, and not when the same is written again."""
    for _ in range(2):
        permit(lab, 1, pasid_en=1, pasid=77)
    told = [event for event in lab.time.events if event.verb is Verb.PROGRAM and event.fact("vector") == 1]
    assert [(event.before, event.after) for event in told] == [("off", 77)]
