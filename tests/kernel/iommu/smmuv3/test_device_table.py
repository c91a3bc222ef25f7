"""The stream table in memory: buses that come with their first device, and streams that nobody knows."""

import pytest

from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.layouts.smmu import STREAM_TABLE_DESC
from pasidlab.kernel.iommu.smmuv3 import entries
from pasidlab.kernel.iommu.smmuv3.capabilities import Capabilities
from pasidlab.kernel.iommu.smmuv3.device_table import StreamTable


def build(bench, **fields):
    """A stream table for a unit."""
    card = SmmuIdentity(**fields)
    return StreamTable(Capabilities.read(card.idr0(), card.idr1(), card.idr3(), card.idr5()), bench.pages)


def test_a_bus_gets_its_entries_once(bench):
    """256 of them, all of which abort."""
    table = build(bench)
    assert table.address(0x6A08) is None
    assert table.read(0x6A08) == (0,) * 8
    assert [table.build(rid) for rid in (0x6A08, 0x6A10, 0x6B08)] == [True, False, True]
    word = bench.memory.load(table.base + 8 * 0x6A)
    assert STREAM_TABLE_DESC["span"].get((word,)) == 9
    assert {table.read(rid) for rid in range(0x6A00, 0x6B00)} == {entries.abort()}


def test_a_linear_table_is_there_at_once(bench):
    """65,536 entries."""
    table = build(bench, st_level=0)
    assert not table.build(0x6A08)
    assert table.address(0x6A08) == table.base + 0x6A08 * 64
    assert table.read(0xFFFF) == entries.abort()


@pytest.mark.parametrize("st_level", [0, 1])
def test_a_table_lies_at_a_multiple_of_its_size(bench, st_level):
    """As the registers want it."""
    bench.pages.alloc()
    table = build(bench, st_level=st_level)
    assert table.base % (2048 if st_level else 4 << 20) == 0
    base, config = table.registers()
    assert base & ~(1 << 62) == table.base
    assert config == (16 | 8 << 6 | 1 << 16 if st_level else 16)
