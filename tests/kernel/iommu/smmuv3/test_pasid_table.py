"""Tables of context descriptors in memory: where each lies, what exists, and that all of it goes."""

import json
from pathlib import Path

import pytest

from pasidlab.hardware.layouts.smmu import CD, CD_TABLE_DESC
from pasidlab.kernel.iommu.smmuv3.entries import ContextTable
from pasidlab.kernel.iommu.smmuv3.pasid_table import CdTable

DATA = Path(__file__).parents[3] / "data" / "golden_vectors.json"
SPLITS = [one for one in json.loads(DATA.read_text())["vectors"] if one["structure"] == "smmu_ssid_split_64K"]
LIVE = CD.encode(V=1, AA64=1, T0SZ=16, EPD1=1, TTB0=0x5000, ASID=3)


@pytest.fixture
def table(bench):
    """A table for 20 bits."""
    return CdTable(bench.time, "table", bench.pages, 20)


@pytest.mark.parametrize("vector", SPLITS, ids=lambda vector: vector["id"])
def test_the_two_halves_of_a_substream_id(bench, table, vector):
    """arm_smmu_get_cd_ptr: which word of the first level, which descriptor of its leaf."""
    first, within = (int(word, 0) for word in vector["expected"])
    at = table.address(vector["inputs"]["ssid"], build=True)
    word = bench.memory.load(table.base + 8 * first)
    assert (CD_TABLE_DESC["V"].get((word,)), CD_TABLE_DESC["L2Ptr"].get((word,)) + 64 * within) == (1, at)


def test_a_leaf_comes_with_its_first_descriptor(table):
    """A question makes none."""
    assert table.address(2000) is None
    assert table.read(2000) == (0,) * 8
    assert (len(table.frames()), list(table.leaves())) == (2, [])
    table.address(2000, build=True)
    (leaf,) = table.leaves()
    assert (leaf.first, leaf.entries, leaf.address) == (1024, 1024, table.address(1024))
    assert len(table.frames()) == 2 + 16


@pytest.mark.parametrize("bits", [4, 10, 11, 20])
def test_what_is_present_is_read_from_memory(bench, bits):
    """Descriptors that translate; neither invalid nor quiet ones."""
    table = CdTable(bench.time, "table", bench.pages, bits)
    last = (1 << bits) - 1
    for pasid, words in ((1, LIVE), (2, CD.change(LIVE, V=0)), (3, CD.change(LIVE, EPD0=1)), (last, LIVE)):
        table.address(pasid, build=True)
        table.prepare(pasid, words)
        table.commit(pasid, words[0])
    assert table.present() == [1, last]
    assert table.read(last) == LIVE


def test_tables_lie_as_the_unit_wants_them(bench):
    """Leaves at multiples of 64 KiB, and a table at a multiple of its size."""
    bench.pages.alloc()
    for bits, size in ((20, 8 << 10), (10, 64 << 10), (16, 4 << 10)):
        table = CdTable(bench.time, f"table{bits}", bench.pages, bits)
        assert table.base % size == 0
        assert table.shape() == ContextTable(2 if bits > 10 else 0, table.base, bits)
        assert (table.address(3, build=True) or 0) % (64 << 10) == 192


@pytest.mark.parametrize("bits", [6, 10, 20])
def test_nothing_is_left_of_a_table_that_is_destroyed(bench, bits):
    """First level and leaves."""
    used = bench.pages.used
    table = CdTable(bench.time, "table", bench.pages, bits)
    for pasid in (1, (1 << bits) - 1):
        table.address(pasid, build=True)
    table.destroy()
    assert bench.pages.used == used
