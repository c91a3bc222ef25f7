"""The register block: what a driver writes and reads, global and context commands, virtual commands."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.vtd.registers import (
    CAP,
    CCMD,
    ECAP,
    GCMD,
    GCMD_QIE,
    GCMD_SRTP,
    GCMD_TE,
    GSTS,
    RTADDR,
)
from pasidlab.hardware.iommu.vtd.virtual_command import VCMD_ALLOC, VCMD_AT_E00, VCMD_AT_E10, VCMD_FREE
from pasidlab.hardware.layouts.vtd_control import CCMD_REG, GCMD_REG, GSTS_REG
from tests.hardware.iommu.vtd.recorder import FORGET, Recorder


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


def test_one_shot_commands_show_in_the_status_and_nowhere_else(unit):
    """SIRTP stays in GSTS as SRTP does; a write buffer is flushed at once; nothing clears them but a new unit."""
    unit.mmio_write(GCMD, GCMD_REG.encode(SIRTP=1, WBF=1)[0], 4)
    assert unit.mmio_read(GSTS, 4) == GSTS_REG.encode(IRTPS=1)[0]
    unit.mmio_write(GCMD, GCMD_REG.encode(IRE=1, CFI=1)[0], 4)
    assert unit.mmio_read(GSTS, 4) == GSTS_REG.encode(IRTPS=1, IRES=1, CFIS=1)[0]
    unit.mmio_write(GCMD, 0, 4)
    assert unit.mmio_read(GSTS, 4) == GSTS_REG.encode(IRTPS=1)[0]
    assert unit.told == []


@pytest.mark.parametrize(
    ("card", "command"),
    [({"qi": False}, ["QIE"]), ({"ir": False}, ["IRE", "SIRTP", "CFI"]), ({"rwbf": True}, ["WBF"]), ({}, ["WBF"])],
)
def test_commands_that_the_unit_does_not_have_do_nothing(card, command):
    """GSTS stays as it was; the other bits of the same store count."""
    unit = Recorder(**card)
    unit.mmio_write(GCMD, GCMD_TE | GCMD_REG.encode(**dict.fromkeys(command, 1))[0], 4)
    assert unit.mmio_read(GSTS, 4) == GCMD_TE


def test_switching_translation_is_told_once(unit):
    """The hook hears of the rise and of the fall of TE, and not of what stays as it is."""
    for command in (0, GCMD_TE, GCMD_TE, 0, 0):
        unit.mmio_write(GCMD, command, 4)
    assert unit.told == [("on",), ("off",)]


def test_a_context_command_is_carried_out_and_answered(unit):
    """ICC falls, CAIG says what was done; granularity, domain, source and function mask reach the unit."""
    word = CCMD_REG.encode(ICC=1, CIRG=3, DID=7, SID=0x6A08, FM=2)[0]
    unit.mmio_write(CCMD, word)
    assert unit.told == [("context", 3, 7, 0x6A08, 2)]
    assert unit.mmio_read(CCMD) == CCMD_REG.encode(CIRG=3, CAIG=1, DID=7, SID=0x6A08, FM=2)[0]


def test_a_context_command_in_halves_starts_with_the_upper_one(unit):
    """Storing the lower half does nothing; ICC=0 starts nothing."""
    word = CCMD_REG.encode(ICC=1, CIRG=2, DID=7)[0]
    unit.mmio_write(CCMD, word & 0xFFFF_FFFF, 4)
    unit.mmio_write(CCMD + 4, word >> 32 & 0x7FFF_FFFF, 4)
    assert unit.told == []
    unit.mmio_write(CCMD + 4, word >> 32, 4)
    assert unit.told == [("context", 2, 7, 0, 0)]


@pytest.mark.parametrize(
    ("granularity", "card", "queue", "mode"),
    [(0, {}, False, 0), (1, {}, True, 0), (1, {}, False, 1), (1, {"ver": 0x60}, False, 0)],
    ids=["reserved", "queue runs", "scalable mode", "version 6"],
)
def test_a_context_command_that_the_unit_does_not_take_is_an_error(granularity, card, queue, mode):
    """CAIG=0, ICC falls all the same, and nothing is invalidated."""
    unit = Recorder(**card)
    unit.root_pointer = mode << 10
    unit.mmio_write(GCMD, GCMD_QIE if queue else 0, 4)
    unit.mmio_write(CCMD, CCMD_REG.encode(ICC=1, CIRG=granularity)[0])
    assert unit.told == []
    assert CCMD_REG.decode((unit.mmio_read(CCMD),)) | {"CIRG": 0} == dict.fromkeys(CCMD_REG.decode((0,)), 0)


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


@pytest.mark.parametrize("interface", [VCMD_AT_E10, VCMD_AT_E00], ids=lambda one: one.name)
def test_a_virtual_command_carries_every_bit_of_a_pasid(interface):
    """20 bits go out with a free and come back with an allocation, also through stores of 4 bytes."""

    class Generous(Recorder):
        def _virtual_command(self, command, operand):
            self.told.append((command, operand))
            return 0, 0xFFFFF

    unit = Generous(vcs=True, vcmd=interface)
    unit.mmio_write(interface.vcmd, interface.request(VCMD_FREE, 0xFFFFF))
    assert interface.response["PASID"].get((unit.mmio_read(interface.vcrsp),)) == 0xFFFFF
    word = interface.request(VCMD_FREE, 0xABCDE)
    unit.mmio_write(interface.vcmd + 4, word >> 32, 4)
    unit.mmio_write(interface.vcmd, word & 0xFFFF_FFFF, 4)
    assert unit.told == [(VCMD_FREE, 0xFFFFF), (VCMD_FREE, 0xABCDE)]
    no_more = interface.answer(interface.no_pasid)
    assert interface.response.decode((no_more,)) == {
        "IP": 0,
        "SC": {"legacy": 2, "rev33": 16}[interface.name],
        "PASID": 0,
    }
