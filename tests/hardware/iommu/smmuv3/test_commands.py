"""The register block and the command queue: acknowledgements, locks, errors, completion, interrupts."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.iommu.smmuv3.invalidation import Command, CommandError, decode_command
from pasidlab.hardware.iommu.smmuv3.register_file import (
    CMDQ_BASE,
    CMDQ_CONS,
    CMDQ_PROD,
    CR0,
    CR0ACK,
    EVTQ_BASE,
    EVTQ_CONS,
    EVTQ_PROD,
    GERROR,
    GERRORN,
    IDR0,
    IDR1,
    IDR5,
    IRQ_CTRL,
    IRQ_CTRLACK,
    STRTAB_BASE,
    STRTAB_BASE_CFG,
)
from pasidlab.hardware.layouts.smmu_queue import COMMANDS
from tests.hardware.iommu.smmuv3.by_hand import (
    BEYOND,
    COMMAND_RING,
    EVENT_RING,
    NEIGHBOUR,
    ON,
    RID,
    Bench,
    command,
)

SYNC = command("sync")
DONE = 0x5_0000


@pytest.fixture
def bench():
    """A unit that is switched on."""
    return Bench()


def vectors(bench):
    """The interrupts that left the unit."""
    return [event.fact("vector") for event in bench.timeline.events if event.verb == "interrupt"]


# --- registers --------------------------------------------------------------------------------------------------------


def test_identification_registers_only_read(bench):
    """They say what the identity says."""
    card = bench.unit.identity
    for offset, word in ((IDR0, card.idr0()), (IDR1, card.idr1()), (IDR5, card.idr5())):
        bench.unit.mmio_write(offset, 0, 4)
        assert bench.unit.mmio_read(offset, 4) == word
    assert bench.unit.mmio_read(IDR0) == card.idr0() | card.idr1() << 32


def test_control_registers_are_acknowledged_at_once(bench):
    """CR0ACK and IRQ_CTRLACK; bits that the unit lacks stay zero."""
    assert bench.unit.mmio_read(CR0ACK, 4) == ON
    bench.unit.mmio_write(IRQ_CTRL, 0xFF, 4)
    assert bench.unit.mmio_read(IRQ_CTRLACK, 4) == 7
    plain = Bench(ats=False, pri=False)
    assert plain.unit.mmio_read(CR0ACK, 4) == 0b1101
    plain.unit.mmio_write(IRQ_CTRL, 0xFF, 4)
    assert plain.unit.mmio_read(IRQ_CTRLACK, 4) == 0b101


def test_tables_and_queues_are_locked_while_they_are_used(bench):
    """A store to a base is ignored until the enable bit is off."""
    for offset in (STRTAB_BASE, STRTAB_BASE_CFG, CMDQ_BASE, EVTQ_BASE):
        before = bench.unit.mmio_read(offset, 4)
        bench.unit.mmio_write(offset, before ^ 0x40, 4)
        assert bench.unit.mmio_read(offset, 4) == before
    bench.unit.mmio_write(CR0, 0, 4)
    bench.unit.mmio_write(STRTAB_BASE, 0x7040)
    assert bench.unit.mmio_read(STRTAB_BASE) == 0x7040


def test_what_is_no_register_reads_zero_and_ignores_stores(bench):
    """Also the queue indices of event and PRI queue on the first page; 64-byte stores are dropped."""
    before = bench.timeline.digest()
    for offset in (0x18, 0xA8, 0xC8, 0x300, 0x1_0000, 0x1_FFF8, 0x9999_0000):
        bench.unit.mmio_write(offset, (1 << 64) - 1)
        assert bench.unit.mmio_read(offset) == 0
    bench.unit.post64(CMDQ_PROD, bytes(64))
    assert bench.unit.enqueue64(CMDQ_PROD, bytes(64)) is False
    assert bench.timeline.digest() == before


# --- the command queue ------------------------------------------------------------------------------------------------


def test_commands_are_consumed_around_the_ring(bench):
    """CONS follows PROD, with its wrap bit, also after several rounds."""
    for _ in range(3):
        for _ in range(4):
            bench.tell(*[SYNC] * 100)
    assert bench.unit.mmio_read(CMDQ_CONS, 4) == 1200 % 512


def test_nothing_is_taken_while_the_queue_is_off():
    """Switching it on takes what waits."""
    bench = Bench(on=ON & ~8)
    bench.put(SYNC)
    assert bench.unit.mmio_read(CMDQ_CONS, 4) == 0
    bench.unit.mmio_write(CR0, ON, 4)
    assert bench.unit.mmio_read(CMDQ_CONS, 4) == 1


@pytest.mark.parametrize(
    ("words", "identity"),
    [
        ((0xFF, 0), {}),
        ((0x00, 0), {}),
        ((0x20, 0), {}),
        ((0x46 | 1 << 20, 0), {}),
        (command("sync", CS=3), {}),
        (command("pri_resp", RESP=3), {}),
        (command("pri_resp"), {"pri": False}),
        (command("atc_inv"), {"ats": False, "pri": False}),
        (command("resume"), {"stall_model": 1}),
        (command("stall_term"), {"stall_model": 1}),
        (command("tlbi_s2_ipa"), {"s2p": False}),
        (command("tlbi_s12_vmall"), {"s2p": False}),
        (command("tlbi_nh_asid"), {"s1p": False, "ssidsize": 0}),
        (command("cfgi_cd"), {"s1p": False, "ssidsize": 0}),
        (command("tlbi_nh_va", TG=1), {}),
    ],
)
def test_an_illegal_command_stops_the_queue(words, identity):
    """CONS stays at it with the reason, a global error is active and interrupts; then the queue goes on."""
    bench = Bench(**identity)
    bench.put(SYNC, words, SYNC)
    assert bench.unit.mmio_read(CMDQ_CONS, 4) == CommandError.ILL << 24 | 1
    assert bench.unit.mmio_read(GERROR, 4) == 1
    assert vectors(bench) == [0x43]
    bench.memory.store_words(COMMAND_RING + 16, SYNC)
    bench.unit.mmio_write(GERRORN, 1, 4)
    assert bench.unit.mmio_read(CMDQ_CONS, 4) & 0xFFFF == 3
    assert bench.unit.errors() == 0


def test_a_second_error_is_active_again(bench):
    """GERROR toggles, it does not count."""
    bench.put((0xFF, 0))
    bench.unit.mmio_write(GERRORN, 1, 4)
    assert (bench.unit.mmio_read(GERROR, 4), bench.unit.errors()) == (0, 1)
    assert vectors(bench) == [0x43, 0x43]


def test_a_queue_that_cannot_be_read_stops(bench):
    """CERROR_ABT."""
    bench.unit.mmio_write(CR0, ON & ~8, 4)
    bench.unit.mmio_write(CMDQ_BASE, BEYOND | 8)
    bench.unit.mmio_write(CR0, ON, 4)
    bench.put(SYNC)
    assert bench.unit.mmio_read(CMDQ_CONS, 4) == CommandError.ABT << 24


def test_a_device_that_is_not_there_is_noticed_by_the_next_sync(bench):
    """CERROR_ATC_INV at the CMD_SYNC, which is done when software has acknowledged it."""
    bench.put(command("atc_inv", SID=0x1234, SIZE=52), command("cfgi_ste", SID=RID), SYNC, SYNC)
    assert bench.unit.mmio_read(CMDQ_CONS, 4) == CommandError.ATC_INV << 24 | 2
    bench.unit.mmio_write(GERRORN, 1, 4)
    assert bench.unit.mmio_read(CMDQ_CONS, 4) & 0xFFFF == 4


def test_completion_is_told_by_a_store(bench):
    """CS=1: MSIDATA at MSIADDR, in memory or as an interrupt; CS=0 and CS=2 store nothing."""
    bench.tell(command("sync", CS=2, MSIADDR=DONE, MSIDATA=7), command("sync", MSIADDR=DONE, MSIDATA=7))
    assert bench.memory.load32(DONE) == 0
    bench.tell(command("sync", CS=1, MSIADDR=DONE, MSIDATA=7), command("sync", CS=1, MSIADDR=0xFEE0_0000, MSIDATA=0x55))
    assert bench.memory.load32(DONE) == 7
    assert vectors(bench) == [0x55]


def test_completion_that_cannot_be_told_is_a_global_error(bench):
    """MSI_CMDQ_ABT_ERR; the queue goes on."""
    bench.tell(command("sync", CS=1, MSIADDR=BEYOND, MSIDATA=7), SYNC)
    assert bench.unit.errors() == 1 << 4


def test_prefetches_are_taken_and_do_nothing(bench):
    """They are hints."""
    before = len(bench.timeline.events)
    bench.tell(command("prefetch_cfg", SID=RID))
    assert len(bench.timeline.events) == before


def test_every_command_of_the_kernel_is_known():
    """Each layout is decoded as itself, and told with its name and fields."""
    for code, layout in COMMANDS:
        found = decode_command(layout.encode(OP=code))
        assert isinstance(found, Command)
        assert (found.layout, found.opcode) == (layout, code)
        assert str(found) == layout.name.removeprefix("smmu_cmd_").upper()


@pytest.mark.parametrize(
    ("values", "pages"),
    [
        ({"addr": 0x7000}, (0x7000, 0x1000)),
        ({"addr": 0x7000, "TG": 1, "NUM": 2}, (0x7000, 0x3000)),
        ({"addr": 0x7000, "TG": 1, "NUM": 2, "SCALE": 3}, (0x7000, 0x18000)),
        ({"addr": 0x1_7000, "TG": 3, "TTL": 3}, (0x1_0000, 0x1_0000)),
        ({"addr": 0x7000, "TG": 2, "SCALE": 1}, (0x4000, 0x8000)),
    ],
)
def test_a_range_of_pages(values, pages):
    """(NUM + 1) * 2^SCALE pages of the granule; a unit without RIL sees one page."""
    found = decode_command(command("tlbi_nh_va", **values))
    assert isinstance(found, Command)
    assert found.pages(SmmuIdentity()) == pages
    assert found.pages(SmmuIdentity(ril=False)) == (0x1000 * (values["addr"] >> 12), 0x1000)


# --- the event queue --------------------------------------------------------------------------------------------------


def test_a_full_event_queue_loses_records_and_says_so(bench):
    """OVFLG; it goes on as soon as there is room, whether or not that was acknowledged."""
    for _ in range(130):
        bench.unit.translate(bench.request(rid=NEIGHBOUR))
    assert bench.unit.mmio_read(EVTQ_PROD, 4) == 1 << 31 | 128
    assert len(bench.events()) == 128
    assert vectors(bench) == [0x41]
    bench.unit.mmio_write(EVTQ_CONS, 128, 4)
    bench.unit.translate(bench.request(rid=NEIGHBOUR))
    assert bench.unit.mmio_read(EVTQ_PROD, 4) == 1 << 31 | 129
    assert vectors(bench) == [0x41, 0x41]
    fates = [event.fact("fate") for event in bench.timeline.events if event.verb == "fault"]
    assert fates.count("recorded") == 129
    assert fates.count("lost: the event queue does not take it") == 2


def test_an_event_queue_that_cannot_be_written_is_a_global_error(bench):
    """EVTQ_ABT_ERR: nothing is written until it was acknowledged."""
    bench.unit.mmio_write(CR0, ON & ~4, 4)
    bench.unit.mmio_write(EVTQ_BASE, BEYOND | 7)
    bench.unit.mmio_write(CR0, ON, 4)
    bench.unit.translate(bench.request(rid=NEIGHBOUR))
    assert bench.unit.errors() == 1 << 2
    assert bench.events() == []
    bench.unit.mmio_write(CR0, ON & ~4, 4)
    bench.unit.mmio_write(EVTQ_BASE, EVENT_RING | 7)
    bench.unit.mmio_write(CR0, ON, 4)
    bench.unit.translate(bench.request(rid=NEIGHBOUR))
    assert bench.events() == []
    bench.unit.mmio_write(GERRORN, 1 << 2, 4)
    bench.unit.translate(bench.request(rid=NEIGHBOUR))
    assert len(bench.events()) == 1


def test_no_interrupt_leaves_that_is_not_wanted(bench):
    """IRQ_CTRL, and a unit without messages."""
    bench.unit.mmio_write(IRQ_CTRL, 0, 4)
    bench.unit.translate(bench.request(rid=NEIGHBOUR))
    assert vectors(bench) == []
    silent = Bench(msi=False)
    silent.unit.translate(silent.request(rid=NEIGHBOUR))
    assert vectors(silent) == []
