"""The register block: what software can change, the command buffer, both logs, interrupts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord
from pasidlab.hardware.iommu.amdvi.faults import EventCode
from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.iommu.amdvi.invalidation import Command, command_address, command_range, decode_command
from pasidlab.hardware.iommu.amdvi.register_file import (
    CMD_BUF,
    CMD_HEAD,
    CMD_TAIL,
    CONTROL,
    DEV_TAB,
    EVT_BUF,
    EVT_HEAD,
    EVT_TAIL,
    EXT_FEATURES,
    EXT_FEATURES2,
    MSI_ADDR_HI,
    MSI_CAPABILITY,
    PPR_HEAD,
    PPR_LOG,
    PPR_TAIL,
    STATUS,
)
from pasidlab.hardware.iommu.amdvi.registers import AmdRegisters
from pasidlab.hardware.layouts.amd import BUFFER_REG, CONTROL_REG
from pasidlab.hardware.layouts.amd_queue import (
    CMD_COMPLETE_PPR,
    CMD_COMPLETION_WAIT,
    CMD_INV_ALL,
    CMD_INV_DEVTAB,
    CMD_INV_IOMMU_PAGES,
    CMD_INV_IOTLB_PAGES,
    CMD_INV_IRT,
    CMD_PREFETCH,
    COMMANDS,
)
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.hardware.pcie import InvalidateRequest
from pasidlab.timeline import HOST, Timeline, Verb
from tests.hardware.iommu.amdvi import by_hand
from tests.hardware.iommu.amdvi.by_hand import BEYOND, EVENTS, LENGTH, NEIGHBOUR, ON, RID, RING, STORE, VECTOR, Bench

NOTHING = CMD_INV_DEVTAB.encode(OPCODE=2)
DONE = CMD_COMPLETION_WAIT.encode(OPCODE=1, S=1, STORE_ADDR=STORE, STORE_DATA=0xC0FFEE)
BAD = (9 << 60, 0)


@pytest.fixture
def bench():
    """A unit that runs; its device has no tables yet."""
    return Bench()


def interrupts(bench):
    """How many messages left the unit."""
    return sum(event.verb is Verb.INTERRUPT for event in bench.timeline.events)


def without(*names):
    """The control bits of the bench, but for these."""
    return [name for name in ON if name not in names]


# --- register file ----------------------------------------------------------------------------------------------------


def test_features_are_told_and_cannot_be_changed(bench):
    """EFR and EFR2, by 8 and by 4 bytes."""
    card = bench.unit.identity
    bench.unit.mmio_write(EXT_FEATURES, 0)
    assert bench.unit.mmio_read(EXT_FEATURES) == card.efr()
    assert bench.unit.mmio_read(EXT_FEATURES + 4, 4) == card.efr() >> 32
    assert bench.unit.mmio_read(EXT_FEATURES2) == card.efr2()


@pytest.mark.parametrize(
    ("register", "kept"),
    [
        (DEV_TAB, 0x000F_FFFF_FFFF_F1FF),
        (CMD_BUF, 0x0F0F_FFFF_FFFF_F000),
        (EVT_BUF, 0x0F0F_FFFF_FFFF_F000),
        (PPR_LOG, 0x0F0F_FFFF_FFFF_F000),
        (CMD_HEAD, 0x7_FFF0),
        (EVT_TAIL, 0x7_FFF0),
        (PPR_HEAD, 0x7_FFF0),
        (0x20, 0),
        (0x3FF8, 0),
    ],
)
def test_only_known_bits_can_be_written(bench, register, kept):
    """In whole and in halves; what is not a register reads as zero."""
    bench.control()
    bench.unit.mmio_write(register, (1 << 64) - 1)
    assert bench.unit.mmio_read(register) == kept
    bench.unit.mmio_write(register, 0, 4)
    bench.unit.mmio_write(register + 4, 0xFFFF_FFFF, 4)
    assert bench.unit.mmio_read(register) == kept >> 32 << 32
    assert bench.unit.mmio_read(register + 4, 4) == kept >> 32


def test_an_access_between_two_registers_is_two(bench):
    """8 bytes at an offset that is a multiple of 4 only."""
    bench.unit.mmio_write(MSI_CAPABILITY + 4, 0x1234_5678_9ABC_DEF0)
    assert bench.unit.mmio_read(MSI_CAPABILITY + 4) == 0x1234_5678_9ABC_DEF0
    assert bench.unit.mmio_read(MSI_ADDR_HI, 4) == 0x1234_5678


@pytest.mark.parametrize(
    ("feature", "names"),
    [("ppr", ["PPREn", "PPRLogEn", "PPRIntEn", "PPRAutoRspEn"]), ("gt", ["GTEn", "GCR3TRPMode"]), ("ga", ["GAEn"])],
)
def test_what_the_unit_lacks_cannot_be_switched_on(feature, names):
    """Control bits without their feature read as zero; so do the registers of the page request log."""
    lacking = {"ppr": {"ppr": False, "pprautorsp": False}, "gt": {"gt": False, "giosup": False, "gcr3trp": False}}
    bench = Bench(**lacking.get(feature, {feature: False}))
    bench.unit.mmio_write(CONTROL, (1 << 64) - 1)
    at = CONTROL_REG.decode((bench.unit.mmio_read(CONTROL),))
    assert [at[name] for name in names] == [0] * len(names)
    if feature == "ppr":
        assert bench.unit.mmio_read(PPR_LOG) == 0


def test_no_64_byte_stores(bench):
    """Dropped, and retried for ever."""
    before = bench.timeline.digest()
    bench.unit.post64(0, bytes(64))
    assert not bench.unit.enqueue64(0, bytes(64))
    assert bench.timeline.digest() == before


def test_writing_a_base_empties_its_ring(bench):
    """Heads and tails return to zero."""
    bench.control()
    for base, head, tail in (
        (CMD_BUF, CMD_HEAD, CMD_TAIL),
        (EVT_BUF, EVT_HEAD, EVT_TAIL),
        (PPR_LOG, PPR_HEAD, PPR_TAIL),
    ):
        bench.unit.mmio_write(head, 0x20)
        bench.unit.mmio_write(tail, 0x40)
        bench.unit.mmio_write(base, bench.unit.mmio_read(base))
        assert (bench.unit.mmio_read(head), bench.unit.mmio_read(tail)) == (0, 0)


# --- command buffer ---------------------------------------------------------------------------------------------------


def test_commands_are_carried_out_in_order(bench):
    """Up to the tail; a completion wait says done."""
    bench.command(NOTHING, CMD_INV_DEVTAB.encode(OPCODE=2, devid=RID), DONE)
    told = [event.subject for event in bench.timeline.events if event.verb is Verb.INVALIDATE]
    assert told == ["INVALIDATE_DEVTAB_ENTRY", "INVALIDATE_DEVTAB_ENTRY: devid=01:01.0"]
    assert bench.memory.load(STORE) == 0xC0FFEE
    assert not bench.waiting


def test_the_buffer_wraps(bench):
    """Behind the last entry comes the first."""
    bench.command(*[NOTHING] * 255)
    bench.command(NOTHING, NOTHING, DONE)
    assert bench.memory.load(STORE) == 0xC0FFEE
    assert bench.unit.mmio_read(CMD_HEAD) == 32


@pytest.mark.parametrize("off", ["IommuEn", "CmdBufEn"])
def test_nothing_runs_while_the_buffer_is_off(bench, off):
    """It needs CmdBufEn and IommuEn; then it goes on by itself."""
    bench.control(*without(off))
    assert bench.status("CmdBufRun") == (0,)
    bench.command(DONE)
    assert bench.memory.load(STORE) == 0
    bench.control(*ON)
    assert bench.status("CmdBufRun") == (1,)
    assert bench.memory.load(STORE) == 0xC0FFEE


@pytest.mark.parametrize(
    "words",
    [
        BAD,
        (0, 0),
        (2 << 60 | 1 << 16, 0),
        (8 << 60, 1),
        (3 << 60 | 1 << 20, 0),
        (4 << 60, 1 << 1),
        (7 << 60 | 1 << 16, 0),
    ],
)
def test_an_illegal_command_stops_the_buffer(bench, words):
    """Unknown, or a reserved bit: an event with its address, the head stays; it goes on after CmdBufEn was cleared."""
    bench.command(NOTHING, words, DONE)
    assert bench.status("CmdBufRun") == (0,)
    assert bench.unit.mmio_read(CMD_HEAD) == 16
    assert bench.event() == EventRecord(EventCode.ILLEGAL_COMMAND_ERROR, address=by_hand.COMMANDS + 16)
    bench.memory.store_words(by_hand.COMMANDS + 16, NOTHING)
    bench.unit.mmio_write(CMD_TAIL, 48)
    bench.unit.mmio_write(CONTROL, bench.unit.mmio_read(CONTROL))
    assert bench.memory.load(STORE) == 0
    bench.control(*without("CmdBufEn"))
    bench.control(*ON)
    assert bench.memory.load(STORE) == 0xC0FFEE


@pytest.mark.parametrize(
    ("words", "card"),
    [
        (CMD_INV_ALL.encode(OPCODE=8), {"ia": False}),
        (CMD_COMPLETE_PPR.encode(OPCODE=7), {"ppr": False, "pprautorsp": False}),
        (CMD_PREFETCH.encode(OPCODE=6), {"pref": False}),
        (CMD_INV_IOMMU_PAGES.encode(OPCODE=3, GN=1), {"gt": False, "giosup": False, "gcr3trp": False}),
    ],
)
def test_what_the_unit_lacks_cannot_be_commanded(words, card):
    """Illegal without the feature, legal with it."""
    assert decode_command(words, AmdIdentity(**card)) is None
    assert isinstance(decode_command(words), Command)


def test_a_buffer_that_no_memory_answers_for(bench):
    """COMMAND_HARDWARE_ERROR with the address."""
    bench.unit.mmio_write(CMD_BUF, BUFFER_REG.encode(Base=BEYOND, Length=LENGTH)[0])
    bench.unit.mmio_write(CMD_TAIL, 16)
    assert bench.event() == EventRecord(EventCode.COMMAND_HARDWARE_ERROR, flags=1 << 9, address=BEYOND)
    assert bench.status("CmdBufRun") == (0,)


def test_a_completion_that_cannot_be_stored(bench):
    """The same error, and the head stays on it."""
    bench.command(CMD_COMPLETION_WAIT.encode(OPCODE=1, S=1, STORE_ADDR=BEYOND))
    assert bench.event() == EventRecord(EventCode.COMMAND_HARDWARE_ERROR, flags=1 << 9, address=by_hand.COMMANDS)
    assert bench.unit.mmio_read(CMD_HEAD) == 0


def test_hints_are_taken_and_forgotten(bench):
    """Prefetch and interrupt tables: nothing of this unit changes."""
    bench.command(CMD_PREFETCH.encode(OPCODE=6, devid=RID), CMD_INV_IRT.encode(OPCODE=5, devid=RID), DONE)
    assert bench.memory.load(STORE) == 0xC0FFEE


def test_a_bell_rung_by_a_command_runs_each_one_once(bench):
    """An interrupt handler may submit more while a command is being carried out."""

    class Handler:
        path = "handler"

        def interrupt(self):
            seen.append(bench.memory.load(STORE))
            bench.unit.mmio_write(STATUS, 4)
            if len(seen) < 3:
                bench.command(CMD_COMPLETION_WAIT.encode(OPCODE=1, I=1, S=1, STORE_ADDR=STORE, STORE_DATA=len(seen)))

    seen: list[int] = []
    bench.apic.handlers[VECTOR] = Handler()
    bench.command(CMD_COMPLETION_WAIT.encode(OPCODE=1, I=1), DONE)
    assert seen == [0, 1, 2]
    assert not bench.waiting
    assert bench.memory.load(STORE) == 2


# --- device TLBs ------------------------------------------------------------------------------------------------------


def test_a_device_is_told_to_forget(bench):
    """A range without PASID, a page of a PASID, everything."""
    addr, sized = command_address(0x1234_0000, 0x1_0000)
    values = {"devid": RID, "queueid": RID, "qdep": 32}
    bench.command(
        CMD_INV_IOTLB_PAGES.encode(OPCODE=4, S=sized, addr=addr, **values),
        CMD_INV_IOTLB_PAGES.encode(OPCODE=4, GN=1, PASID_HI=0x12, PASID_LO=0x34, addr=0x5000, **values),
    )
    assert bench.endpoint.invalidated == [
        InvalidateRequest(RID, None, 0x1234_0000, 0x1_0000),
        InvalidateRequest(RID, 0x1234, 0x5000, 0x1000),
    ]
    assert bench.events() == []


def test_a_device_that_is_not_there_times_out(bench):
    """IOTLB_INV_TIMEOUT with the address of the command; the buffer goes on."""
    bench.command(NOTHING, CMD_INV_IOTLB_PAGES.encode(OPCODE=4, devid=NEIGHBOUR), DONE)
    assert bench.event() == EventRecord(EventCode.IOTLB_INV_TIMEOUT, NEIGHBOUR, address=by_hand.COMMANDS + 16)
    assert bench.memory.load(STORE) == 0xC0FFEE


# --- event log --------------------------------------------------------------------------------------------------------


def fault(bench, step=0):
    """A request that leaves an event: the device table entry of the neighbour denies all."""
    bench.dte(NEIGHBOUR, IR=0, IW=0)
    bench.ask(rid=NEIGHBOUR, address=step << 12, pasid=None)


def test_events_are_logged_in_order_around_the_ring(bench):
    """The unit moves the tail, software the head."""
    for step in range(600):
        fault(bench, step)
        assert [record.address >> 12 for record in bench.events()] == [step]
        bench.unit.mmio_write(EVT_HEAD, bench.unit.mmio_read(EVT_TAIL))
    assert bench.unit.mmio_read(EVT_TAIL) == 600 * 16 % RING
    assert bench.memory.load(EVENTS) != 0


def test_a_full_log_loses_events_until_software_resumes(bench):
    """One entry stays free; EventOverflow stops the log; it is cleared, then EventLogEn is written."""
    for step in range(257):
        fault(bench, step)
    assert len(bench.events()) == 255
    assert bench.status("EventOverflow", "EventLogRun") == (1, 0)
    bench.unit.mmio_write(EVT_HEAD, bench.unit.mmio_read(EVT_TAIL))
    fault(bench)
    assert bench.events() == []
    bench.unit.mmio_write(CONTROL, bench.unit.mmio_read(CONTROL))
    assert bench.status("EventLogRun") == (0,)
    bench.unit.mmio_write(STATUS, 1)
    fault(bench)
    assert bench.events() == []
    bench.unit.mmio_write(CONTROL, bench.unit.mmio_read(CONTROL))
    fault(bench, 7)
    assert [record.address for record in bench.events()] == [0x7000]
    told = [event.fact("fate") for event in bench.timeline.events if event.verb is Verb.FAULT]
    assert told.count("lost: the event log is full or stopped") == 4


@pytest.mark.parametrize("off", ["IommuEn", "EventLogEn"])
def test_a_log_that_is_off_records_nothing(bench, off):
    """The unit may be on without a log."""
    bench.control(*without(off))
    assert bench.status("EventLogRun") == (0,)
    fault(bench)
    assert bench.events() == []


def test_a_log_that_no_memory_answers_for(bench):
    """Entries are lost, nothing else happens."""
    bench.unit.mmio_write(EVT_BUF, BUFFER_REG.encode(Base=BEYOND, Length=LENGTH)[0])
    fault(bench)
    assert bench.unit.mmio_read(EVT_TAIL) == 0
    bench.unit.mmio_write(EVT_TAIL, 0x20)
    assert bench.events() == []


# --- interrupts -------------------------------------------------------------------------------------------------------


def test_the_first_event_interrupts(bench):
    """Status and message; the next one is silent until software has cleared the bit."""
    fault(bench)
    assert bench.status("EventLogInt") == (1,)
    assert interrupts(bench) == 1
    fault(bench)
    assert interrupts(bench) == 1
    bench.unit.mmio_write(STATUS, 2)
    assert bench.status("EventLogInt") == (0,)
    fault(bench)
    assert interrupts(bench) == 2
    assert [event.fact("vector") for event in bench.timeline.events if event.verb is Verb.INTERRUPT] == [VECTOR] * 2


def test_an_interrupt_waits_for_its_enable_bit(bench):
    """EventIntEn set while EventLogInt is: the message leaves then."""
    bench.control(*without("EventIntEn"))
    fault(bench)
    assert interrupts(bench) == 0
    bench.control(*ON)
    assert interrupts(bench) == 1


def test_no_message_while_msi_is_off(bench):
    """MsiEn."""
    bench.unit.mmio_write(MSI_CAPABILITY, 0, 4)
    fault(bench)
    assert interrupts(bench) == 0


def test_a_completion_wait_interrupts(bench):
    """I=1 and ComWaitIntEn; the store comes first."""
    bench.command(CMD_COMPLETION_WAIT.encode(OPCODE=1, I=1))
    assert bench.status("ComWaitInt") == (1,)
    assert interrupts(bench) == 1
    bench.control(*without("ComWaitIntEn"))
    bench.unit.mmio_write(STATUS, 4)
    bench.command(CMD_COMPLETION_WAIT.encode(OPCODE=1, I=1))
    assert bench.status("ComWaitInt") == (1,)
    assert interrupts(bench) == 1


def test_overflow_interrupts_too(bench):
    """With EventIntEn."""
    for _ in range(255):
        fault(bench)
    before = interrupts(bench)
    fault(bench)
    assert interrupts(bench) == before + 1


# --- hooks ------------------------------------------------------------------------------------------------------------


def test_hooks_tell_an_emulated_unit_what_happened():
    """Device table, translation, commands: what a hypervisor hangs its work on."""

    class Emulated(AmdRegisters):
        def _device_table_set(self):
            told.append("table")

        def _translation_switched(self):
            told.append("switched")

        def _command(self, command):
            told.append(command.name)

    told: list[str] = []
    timeline = Timeline()
    memory = PhysicalMemory(timeline, "ram", by_hand.RAM)
    unit = Emulated(timeline, "unit", HOST, memory, AmdIdentity.guest())
    unit.mmio_write(DEV_TAB, by_hand.TABLE)
    unit.mmio_write(DEV_TAB + 4, 0, 4)
    unit.mmio_write(CMD_BUF, BUFFER_REG.encode(Base=by_hand.COMMANDS, Length=LENGTH)[0])
    unit.mmio_write(CONTROL, CONTROL_REG.encode(CmdBufEn=1)[0])
    unit.mmio_write(CONTROL, CONTROL_REG.encode(CmdBufEn=1, IommuEn=1)[0])
    unit.mmio_write(CONTROL, CONTROL_REG.encode(CmdBufEn=1, IommuEn=1, GTEn=1)[0])
    memory.store_words(by_hand.COMMANDS, NOTHING)
    unit.mmio_write(CMD_TAIL, 16)
    assert told == ["table", "table", "switched", "switched", "INVALIDATE_DEVTAB_ENTRY"]


# --- encodings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", [1, 2, 3, 16, 512, 1 << 20])
@pytest.mark.parametrize("first", [0, 1, 5, 0x12340, 0x7F00_0000_0])
def test_a_range_is_covered_by_its_encoding(first, pages):
    """As small as a power of two can be."""
    start, size = first << 12, pages << 12
    addr, sized = command_address(start, size)
    begin, covered = command_range(addr, bool(sized))
    assert begin <= start
    assert start + size <= begin + covered
    assert begin % covered == 0
    half = covered // 2
    assert half < 0x1000 or start < begin + half < start + size


def test_commands_can_be_read_by_people():
    """Name, device, domain, PASID, range."""
    rows = {
        CMD_INV_DEVTAB.encode(OPCODE=2, devid=RID): "INVALIDATE_DEVTAB_ENTRY: devid=01:01.0",
        CMD_INV_IOMMU_PAGES.encode(OPCODE=3, domid=5, GN=1, PASID=7, PDE=1): (
            "INVALIDATE_IOMMU_PAGES: domid=0x5 PDE=0x1 GN=0x1 PASID=0x7 1 pages at 0x0"
        ),
        CMD_INV_ALL.encode(OPCODE=8): "INVALIDATE_IOMMU_ALL",
    }
    for words, text in rows.items():
        assert str(decode_command(words)) == text
    assert [code for code, _, _ in COMMANDS] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_card_of_a_guest_can_be_made_of_any_host():
    """The features of the host, without host translation."""
    host = replace(AmdIdentity(), pasmax=8, ppr=False, pprautorsp=False)
    guest = AmdIdentity.guest(host)
    assert (guest.pasmax, guest.ppr, guest.gt, guest.host_levels, guest.gcr3trp) == (8, False, True, 0, False)
