"""BAR0: capabilities, the queue configuration table, and the command and error registers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.accelerator import AcceleratorRegisters, Command, CommandError, QueueSetup, command_word
from pasidlab.hardware.accelerator.register_map import (
    CMD,
    CMDCAP,
    CMDSTS,
    GENCAP,
    GENSTS,
    MSIX_PERM,
    OFFSETS,
    OPCAP,
    SWERR,
    VERSION,
    WQCAP,
    wqcfg_offset,
)
from pasidlab.hardware.layouts import dsa
from pasidlab.timeline import Timeline, Verb


class Emulated(AcceleratorRegisters):
    """A register file whose commands only say what they were."""

    actor = "vdcm"

    def _command(self, command, operand):
        return CommandError.SUCCESS if command == Command.DRAIN_ALL else CommandError.INVAL_CMD


def emulated(configurable=False):
    setup = [QueueSetup(dedicated=True, size=8)]
    return Emulated(Timeline(), "vm1.dsa0", setup, altitude="host", configurable=configurable)


def test_a_driver_finds_the_queue_table_through_the_offsets_register(bench):
    """Capabilities and offsets tell a driver all that it needs to reach a queue's configuration."""
    device = bench.device
    wqcap = dsa.WQCAP.decode((device.mmio_read(WQCAP),))
    assert (wqcap["num_wqs"], wqcap["total_wq_size"], wqcap["wqcfg_size"]) == (5, 80, 0)
    assert (wqcap["shared_mode"], wqcap["dedicated_mode"]) == (1, 1)
    offsets = dsa.OFFSETS.decode((device.mmio_read(OFFSETS), device.mmio_read(OFFSETS + 8)))
    assert offsets["wqcfg"] * 0x100 + 3 * 32 == wqcfg_offset(3)
    assert offsets["msix_perm"] * 0x100 == MSIX_PERM
    assert device.mmio_read(VERSION, 4) == 0x100
    assert dsa.GENCAP.decode((device.mmio_read(GENCAP),))["config_en"] == 1
    assert device.mmio_read(OPCAP) == 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9
    assert device.mmio_read(CMDCAP, 4) == 0b1_1111_1111_1110


def test_power_on_configures_shared_queues_first(bench):
    """Queue 0 is shared, the others are dedicated, all are disabled and without PASID."""
    assert [bench.device.wq_field(wq, "mode") for wq in range(5)] == [0, 1, 1, 1, 1]
    assert not any(bench.device.wq_enabled(wq) for wq in range(5))
    assert [bench.device.wq_pasid(wq) for wq in range(5)] == [None] * 5


@pytest.mark.parametrize("size", [4, 8])
def test_a_pasid_can_be_programmed_with_either_access_size(bench, size):
    """Four-byte and eight-byte stores do the same, and one event tells the PASID."""
    dword = dsa.WQCFG.encode(mode=1, priority=10, pasid=0x12345, pasid_en=1)[1]
    bench.device.mmio_write(wqcfg_offset(1, 2), dword, size)
    assert bench.device.wq_pasid(1) == 0x12345
    assert bench.device.mmio_read(wqcfg_offset(1, 2), 4) == dword & 0xFFFF_FFFF
    programmed = [event for event in bench.time.events if event.verb is Verb.PROGRAM]
    assert [(event.fact("wq"), event.fact("pasid"), event.before, event.after) for event in programmed] == [
        (1, 0x12345, "off", 0x12345)
    ]


def test_an_enabled_queue_keeps_its_configuration(bench):
    """A write to WQCFG of an enabled queue changes nothing, and an event says why."""
    bench.start(1, pasid=5, pasid_en=1)
    before = bench.device.wqcfg(1)
    bench.configure(1, pasid=6, wq_size=3)
    assert bench.device.wqcfg(1) == before
    assert bench.time.events[-1].verb is Verb.REFUSE
    bench.stop(1)
    bench.configure(1, pasid=6)
    assert bench.device.wq_pasid(1) == 6


def test_software_cannot_write_state_occupancy_or_capabilities(bench):
    """Read-only registers and fields ignore writes."""
    device = bench.device
    before = device.bar0.items()
    for offset in (VERSION, GENCAP, WQCAP, OPCAP, OFFSETS, GENSTS, CMDSTS, CMDCAP, wqcfg_offset(1, 6), 0x1F00):
        device.mmio_write(offset, (1 << 64) - 1)
    assert device.bar0.items() == before


def test_accesses_that_are_not_aligned_read_zero_and_write_nothing(bench):
    """Nor do other widths: a guest may try, and nothing breaks."""
    before = bench.device.bar0.items()
    for offset, size in ((1, 4), (4, 8), (wqcfg_offset(1) + 2, 4), (0, 2), (0, 1), (0, 16)):
        bench.device.mmio_write(offset, (1 << 64) - 1, size)
        assert bench.device.mmio_read(offset, size) == 0
    assert bench.device.bar0.items() == before


@given(st.lists(st.tuples(st.integers(0, 0x2100), st.integers(0, (1 << 64) - 1), st.sampled_from([1, 2, 4, 8]))))
def test_no_sequence_of_stores_breaks_the_registers(stores):
    """Whatever a guest stores to a mediated copy: the mode stays, the state is never software's, nothing raises."""
    device = emulated()
    for offset, value, size in stores:
        device.mmio_write(offset, value, size)
        device.mmio_read(offset, size)
    assert device.wq_field(0, "mode") == 1
    assert device.wq_field(0, "wq_size") == 8
    assert not device.wq_enabled(0)
    assert not device.enabled


def test_a_mediated_device_lets_only_the_pasid_be_written():
    """With config_en clear a store to dword 2 keeps mode and priority and takes PASID, enable and privilege."""
    device = emulated()
    device.mmio_write(wqcfg_offset(0, 2), dsa.WQCFG.encode(pasid=7, pasid_en=1, priv=1)[1], 4)
    assert (device.wq_pasid(0), device.wq_field(0, "priv")) == (7, 1)
    assert (device.wq_field(0, "mode"), device.wq_field(0, "priority")) == (1, 10)
    assert dsa.WQCAP.decode((device.mmio_read(WQCAP),))["shared_mode"] == 0
    event = device.timeline.events[-1]
    assert (event.altitude, event.actor) == ("host", "vdcm")


def test_msix_permissions_keep_pasids(bench):
    """An entry takes the PASID of an interrupt; its reserved bits stay zero."""
    bench.device.mmio_write(MSIX_PERM + 8, 0xFFFF_FFFF, 4)
    assert dsa.MSIX_PERM.decode((bench.device.mmio_read(MSIX_PERM + 8, 4),)) == {
        "ignore": 1,
        "pasid_en": 1,
        "pasid": 0xFFFFF,
    }
    assert dsa.MSIX_PERM.reserved((bench.device.mmio_read(MSIX_PERM + 8, 4),)) == 0


def test_a_command_leaves_its_error_code_and_a_tree_of_events():
    """The hook's answer stands in the status register; command and answer are cause and effect."""
    device = emulated()
    device.mmio_write(CMD, command_word(Command.DRAIN_ALL), 8)
    assert device.mmio_read(CMDSTS, 4) == 0
    device.mmio_write(CMD, 31 << 20, 4)
    assert device.mmio_read(CMDSTS, 4) == CommandError.INVAL_CMD
    command, answer = device.timeline.events[-2:]
    assert (command.verb, answer.verb, answer.cause) == (Verb.COMMAND, Verb.ANSWER, command.number)
    assert answer.after == "INVAL_CMD"


def test_an_error_record_holds_the_first_error_until_it_is_acknowledged(bench):
    """A second error sets overflow; writing ones to valid and overflow makes room again."""
    bench.device.record_error(error=0x1A, wq_idx=3)
    bench.device.record_error(error=0x10, wq_idx=4)
    record = dsa.SWERR.decode(tuple(bench.device.mmio_read(SWERR + 8 * index) for index in range(4)))
    assert (record["valid"], record["overflow"], record["error"], record["wq_idx"]) == (1, 1, 0x1A, 3)
    bench.device.mmio_write(SWERR, 3, 4)
    bench.device.record_error(error=0x10)
    record = dsa.SWERR.decode(tuple(bench.device.mmio_read(SWERR + 8 * index) for index in range(4)))
    assert (record["valid"], record["overflow"], record["error"], record["wq_idx"]) == (1, 0, 0x10, 0)


def test_bar0_has_no_portal(bench):
    """A 64-byte store there is dropped, an enqueue is told to retry."""
    bench.device.post64(0, bytes(64))
    assert not bench.device.enqueue64(0, bytes(64))
    assert not bench.time.events


@pytest.mark.parametrize("count", [0, 129])
def test_the_number_of_queues_is_bounded(count):
    """The error names the bounds."""
    with pytest.raises(ValueError, match=f"between 1 and 128 queues, not {count}"):
        Emulated(Timeline(), "dsa0", [QueueSetup()] * count)
