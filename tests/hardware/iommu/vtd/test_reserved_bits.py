"""Every bit of every table entry, one by one: refused with the right code if it is reserved, harmless if it is not.

The ranges are those of the facts (hardware.md 1.2, 1.3), written down a second time; host width 46 bits.
"""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.vtd.identity import Revision
from pasidlab.hardware.layouts.vtd import PASID_DIR_ENTRY
from tests.hardware.iommu.vtd.by_hand import (
    CONTEXT_AT,
    DIRECTORY_AT,
    ENTRY_AT,
    PAGE,
    RID,
    ROOT,
    ROOT_AT,
    Bench,
)

HAW = 46
PS = {7}
"""Makes another kind of entry of it: not tried where both kinds exist."""


def bits(*ranges):
    """The numbers in ranges given as (high, low)."""
    return {bit for high, low in ranges for bit in range(low, high + 1)}


def usual(**card):
    """A unit with a first-level page, and a host of 46 bits."""
    bench = Bench(haw=HAW, **card)
    bench.entry(PGTT=1)
    bench.first_level()
    return bench


def refused(bench, at, size, code, spare=frozenset()):
    """The bits of the entry at ``at`` that cannot be flipped without getting ``code``; ``spare`` ones are not tried."""
    good, found = bench.ask(), set()
    for bit in sorted(set(range(size)) - spare):
        where, mask = at + bit // 64 * 8, 1 << bit % 64
        word = bench.memory.load(where)
        bench.memory.store(where, word ^ mask)
        if bench.ask() == code:
            found.add(bit)
        bench.memory.store(where, word)
    assert bench.ask() == good
    return found


def test_reserved_bits_of_the_root_pointer_are_refused():
    """Bits 9:0 and those above the host width."""
    bench, found = usual(), set()
    for bit in range(64):
        bench.unit.root_pointer = (ROOT | 0x400) ^ 1 << bit
        if bit not in (10, 11) and bench.ask() == 0x30:
            found.add(bit)
    assert found == bits((9, 0), (63, HAW))


def test_reserved_bits_of_root_entries_are_refused():
    """Bits 11:1 and above the host width, in the half of the device; 128 bits tried."""
    assert RID & 0x80 == 0
    assert refused(usual(), ROOT_AT, 128, 0x3A) == bits((11, 1), (63, HAW))


def test_reserved_bits_of_context_entries_are_refused():
    """Bits 8:5, 255:85 and above the host width; 256 bits tried."""
    assert refused(usual(), CONTEXT_AT, 256, 0x42) == bits((8, 5), (63, HAW), (255, 85))


def test_reserved_bits_of_directory_entries_are_refused():
    """Bits 11:2 and above the host width."""
    assert refused(usual(), DIRECTORY_AT, 64, 0x52) == bits((11, 2), (63, HAW))


NEWER = bits((5, 5), (127, 89), (129, 129))
"""SLEE, CD to PAT, ERE: gone in revision 4.1."""


@pytest.mark.parametrize("revision", list(Revision))
def test_reserved_bits_of_pasid_entries_are_refused(revision):
    """11:10, 86:80, 139:136, 511:192, the pointer's above the host width, what 4.1 took away; all 512 tried."""
    expected = bits((11, 10), (86, 80), (139, 136), (511, 192), (191, 128 + HAW))
    found = refused(usual(revision=revision), ENTRY_AT, 512, 0x5A)
    assert found == expected | (NEWER if revision is Revision.V4_1 else set())


@pytest.mark.parametrize(
    ("level", "leaf", "expected"),
    [
        (1, 1, bits((51, HAW))),
        (2, 2, bits((51, HAW), (20, 13))),
        (3, 3, bits((51, HAW), (29, 13))),
        (2, 1, bits((51, HAW))),
        (3, 1, bits((51, HAW))),
        (4, 1, bits((51, HAW), (7, 7))),
    ],
)
def test_reserved_bits_of_first_level_entries_are_refused(level, leaf, expected):
    """Address bits above the host width, low address bits of large pages, PS at the top; all 64 at each level."""
    bench = usual()
    bench.first_level(page=PAGE if leaf == 1 else 1 << 30, leaf=leaf)
    assert refused(bench, bench.first_at(level), 64, 0x72, PS if level < 4 else set()) == expected


@pytest.mark.parametrize(
    ("level", "leaf", "expected"),
    [
        (1, 1, bits((51, HAW))),
        (2, 2, bits((51, HAW), (20, 12))),
        (3, 3, bits((51, HAW), (29, 12))),
        (2, 1, bits((51, HAW), (11, 11), (62, 62))),
        (3, 1, bits((51, HAW), (11, 11), (62, 62))),
        (4, 1, bits((51, HAW), (11, 11), (62, 62), (7, 7))),
    ],
)
def test_reserved_bits_of_second_level_entries_are_refused(level, leaf, expected):
    """As in the first level, and SNP and TM in entries that name a table."""
    bench = Bench(haw=HAW)
    bench.entry(PGTT=2)
    bench.second_level(page=PAGE if leaf == 1 else 1 << 30, leaf=leaf)
    assert refused(bench, bench.second_at(level), 64, 0x7A, PS if level < 4 else set()) == expected


def test_absent_entries_may_hold_anything():
    """With P=0 the code is "not present" whatever the other bits say; only FPD still counts."""
    for at, size, code in ((CONTEXT_AT, 4, 0x41), (DIRECTORY_AT, 1, 0x51), (ENTRY_AT, 8, 0x59)):
        bench = usual()
        words = [(1 << 64) - 1] * size
        for fpd in (0, 1):
            words[0] = (1 << 64) - 4 | fpd << 1
            bench.memory.store_words(at, words)
            fault = bench.unit.translate(bench.request())
            assert (fault.code, fault.suppressed) == (code, bool(fpd))


def test_what_cannot_be_read_is_reported_though_an_entry_before_it_asks_for_silence():
    """0x50 and 0x58 are not qualified (specification, table 30; QEMU); 0x51 and 0x59 are."""
    far = 8 << 20
    bench = usual()
    bench.context(FPD=1, PASIDDIRPTR=far)
    assert not bench.unit.translate(bench.request()).suppressed
    bench.context(FPD=1)
    bench.memory.store_words(DIRECTORY_AT, PASID_DIR_ENTRY.encode(P=1, FPD=1, SMPTBLPTR=far))
    fault = bench.unit.translate(bench.request())
    assert (fault.code, fault.suppressed) == (0x58, False)
    bench.memory.store_words(DIRECTORY_AT, (0,))
    fault = bench.unit.translate(bench.request())
    assert (fault.code, fault.suppressed) == (0x51, True)
