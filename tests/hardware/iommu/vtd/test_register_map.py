"""Every register of the facts: where it lies, what software can change of it, what it holds after reset, its halves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.iommu.vtd.fault_log import FaultLog
from pasidlab.hardware.iommu.vtd.register_file import register_rows
from pasidlab.hardware.iommu.vtd.virtual_command import VCMD_AT_E00, VCMD_AT_E10
from tests.hardware.iommu.vtd.recorder import Recorder

WORD, HALF, IM = (1 << 64) - 1, (1 << 32) - 1, 1 << 31
ADDRESS, DATA = HALF & ~3, 0xFFFF

PLAIN = {
    "RTADDR": (0x20, 8, WORD, 0),
    "FECTL": (0x38, 4, IM, IM),
    "FEDATA": (0x3C, 4, DATA, 0),
    "FEADDR": (0x40, 4, ADDRESS, 0),
    "FEUADDR": (0x44, 4, HALF, 0),
    "IQA": (0x90, 8, WORD & ~0x7F8, 0),
    "IECTL": (0xA0, 4, IM, IM),
    "IEDATA": (0xA4, 4, DATA, 0),
    "IEADDR": (0xA8, 4, ADDRESS, 0),
    "IEUADDR": (0xAC, 4, HALF, 0),
    "PQH": (0xC0, 8, 0x7FFE0, 0),
    "PQT": (0xC8, 8, 0x7FFE0, 0),
    "PQA": (0xD0, 8, WORD & ~0xFF8, 0),
    "PECTL": (0xE0, 4, IM, IM),
    "PEDATA": (0xE4, 4, DATA, 0),
    "PEADDR": (0xE8, 4, ADDRESS, 0),
    "PEUADDR": (0xEC, 4, HALF, 0),
    "IQT": (0x88, 8, 0x7FFF0, 0),
}
"""Offset, bytes, the bits that keep what is stored, the value after reset; while all is off nothing else happens."""
ONLY_READ = {
    "GCMD": (0x18, 4),
    "GSTS": (0x1C, 4),
    "FSTS": (0x34, 4),
    "IQH": (0x80, 8),
    "ICS": (0x9C, 4),
    "IQER": (0xB0, 8),
    "PRS": (0xDC, 4),
}
"""Registers that are zero after reset and cannot be stored to (their status bits are cleared by ones)."""
VIRTUAL = {"legacy": (VCMD_AT_E10, (0xE00, 0xE10, 0xE20, None)), "rev33": (VCMD_AT_E00, (0xE30, 0xE00, 0xE10, 0xE08))}


@pytest.fixture
def unit():
    """A unit after reset."""
    return Recorder()


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_register_keeps_what_can_be_stored(unit, name):
    """All ones, then all zeros: the writable bits follow, the others stay as after reset; nothing happens by it."""
    offset, size, writable, reset = PLAIN[name]
    neighbours = {other: unit.mmio_read(other, 4) for other in range(0, 0x100, 4)}
    assert unit.mmio_read(offset, size) == reset
    unit.mmio_write(offset, (1 << 8 * size) - 1, size)
    assert unit.mmio_read(offset, size) == writable | reset
    unit.mmio_write(offset, 0, size)
    assert unit.mmio_read(offset, size) == reset & ~writable
    unit.mmio_write(offset, reset, size)
    assert {other: unit.mmio_read(other, 4) for other in neighbours} == neighbours
    assert (unit.told, unit.sent) == ([], [])


@pytest.mark.parametrize("name", ONLY_READ)
def test_a_status_register_cannot_be_stored_to(unit, name):
    """It stays zero, whatever is stored."""
    offset, size = ONLY_READ[name]
    unit.mmio_write(offset, 0 if name == "GCMD" else (1 << 8 * size) - 1, size)
    assert unit.mmio_read(offset, size) == 0


def test_there_are_no_other_registers_below_the_fault_records(unit):
    """The rows are those of the facts: what is named here, VER, CAP, ECAP and CCMD."""
    known = {offset & ~7 for offset, *_ in (*PLAIN.values(), *ONLY_READ.values())} | {0x28}
    assert set(register_rows(unit.identity)) == known
    for offset in set(range(0x28, 0x400, 8)) - known:
        unit.mmio_write(offset, WORD)
        assert unit.mmio_read(offset) == 0


@pytest.mark.parametrize("name", VIRTUAL)
def test_the_virtual_command_registers_lie_where_the_layout_says(name):
    """VCCAP, VCMD, VCRSP; operand B in the newer layout only, which keeps what is stored."""
    vcmd, offsets = VIRTUAL[name]
    unit = Recorder(vcs=True, vcmd=vcmd)
    assert (vcmd.vccap, vcmd.vcmd, vcmd.vcrsp, vcmd.operand_b) == offsets
    assert unit.mmio_read(vcmd.vccap) == 1
    unit.mmio_write(vcmd.vccap, 0)
    unit.mmio_write(vcmd.vcrsp, WORD)
    unit.mmio_write(0xE08, 0x1234)
    assert (unit.mmio_read(vcmd.vccap), unit.mmio_read(vcmd.vcrsp)) == (1, 0)
    assert unit.mmio_read(0xE08) == (0x1234 if vcmd.operand_b else 0)


@pytest.mark.parametrize(
    ("missing", "registers"),
    [("prs", ("PQH", "PQT", "PQA", "PECTL", "PEDATA", "PEADDR", "PEUADDR")), ("qi", ("IQT", "IQA", "IECTL", "IEDATA"))],
)
def test_a_unit_lacks_the_registers_of_what_it_cannot_do(missing, registers):
    """Without page requests (ECAP.PRS) or invalidation queue (ECAP.QI): zero, and it stays so."""
    unit = Recorder(**{missing: False})
    for name in registers:
        offset, size, *_ = PLAIN[name]
        unit.mmio_write(offset, (1 << 8 * size) - 1, size)
        assert unit.mmio_read(offset, size) == 0


@given(st.lists(st.tuples(st.sampled_from(sorted(PLAIN)), st.integers(0, WORD), st.integers(0, 2)), max_size=12))
def test_halves_and_wholes_are_the_same_registers(stores):
    """Stores of 4 and 8 bytes, also across two registers, leave what a plain array of bytes would, mask by mask."""
    unit, plain = Recorder(), {}
    for offset, size, _, reset in PLAIN.values():
        for half in range(0, size, 4):
            plain[offset + half] = reset >> 8 * half & HALF
    writable = {
        offset + half: mask >> 8 * half & HALF
        for offset, size, mask, _ in PLAIN.values()
        for half in (0, 4)[: size // 4]
    }
    for name, value, how in stores:
        offset = PLAIN[name][0] + (4 if how == 2 else 0)
        size = 4 if how == 1 else 8
        unit.mmio_write(offset, value & (HALF if size == 4 else WORD), size)
        for half in range(0, size, 4):
            at, mask = offset + half, writable.get(offset + half, 0)
            if at in plain:
                plain[at] = plain[at] & ~mask | value >> 8 * half & mask
    for at, expected in plain.items():
        assert unit.mmio_read(at, 4) == expected, hex(at)
        assert unit.mmio_read(at) == expected | unit.mmio_read(at + 4, 4) << 32


def test_fault_records_lie_where_the_card_says():
    """NFR records of 16 bytes from 16*FRO on, of which software can change nothing by storing to a free one."""
    unit = Recorder(fro=0x70, nfr=3)
    assert sorted(FaultLog.rows(unit.identity)) == [0x700 + 8 * half for half in range(6)]
    for offset in range(0x700, 0x730, 8):
        unit.mmio_write(offset, WORD)
        assert unit.mmio_read(offset) == 0
