"""Invalidation of translations: which descriptor drops which lines, to the page, for every kind of translation."""

from __future__ import annotations

import pytest

from tests.hardware.iommu.vtd.by_hand import FIRST, IOVA, PAGE, PASID
from tests.hardware.iommu.vtd.cached_bench import DID, CachedBench, context_cache, iotlb, pasid_cache, piotlb

OFFSET = IOVA & 0xFFF
FOUND = PAGE | OFFSET
OTHER = PASID + 1
PAGES = [IOVA + (page << 12) for page in range(-4, 12)]


def full(pgtt):
    """Sixteen pages that were all used."""
    bench = CachedBench()
    bench.entry(PGTT=pgtt)
    for address in PAGES:
        (bench.first_level if pgtt == 1 else bench.second_level)(address, PAGE + (address - IOVA) % (1 << 20))
        assert bench.ask(address=address) >= PAGE
    return bench


def kept(bench, tag):
    """Which of the pages the IOTLB still holds, as numbers relative to IOVA."""
    pages = {page for did, owner, page in bench.caches.iotlb.keys() if owner == tag and did == DID}
    return {number - 4 for number, address in enumerate(PAGES) if address >> 12 in pages}


def expected(order, at):
    """The pages that an aligned block of 2^order pages around a page covers."""
    block = IOVA + (at << 12) >> 12 + order
    return {number - 4 for number, address in enumerate(PAGES) if address >> 12 + order == block}


@pytest.mark.parametrize("order", range(7))
@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize(("pgtt", "tag"), [(1, PASID), (2, -1)])
def test_an_address_mask_names_an_aligned_block_of_pages(order, at, pgtt, tag):
    """2^AM pages; the low address bits do not count. Whole bytes on both sides stay."""
    bench = full(pgtt)
    address = {"DID": DID, "ADDR": IOVA + (at << 12), "AM": order}
    bench.invalidate(piotlb(3, PASID=PASID, **address) if pgtt == 1 else iotlb(3, **address))
    everything = set(range(-4, 12))
    assert kept(bench, tag) == everything - expected(order, at)


@pytest.mark.parametrize(
    ("descriptor", "first", "second"),
    [
        (piotlb(2, DID=DID, PASID=PASID), False, True),
        (piotlb(2, DID=DID, PASID=OTHER), True, True),
        (piotlb(2, DID=DID + 1, PASID=PASID), True, True),
        (piotlb(3, DID=DID, PASID=PASID, ADDR=IOVA, AM=18), False, True),
        (iotlb(1), False, False),
        (iotlb(2, DID=DID), False, False),
        (iotlb(2, DID=DID + 1), True, True),
        (iotlb(3, DID=DID, ADDR=IOVA, AM=18), False, False),
        (iotlb(3, DID=DID, ADDR=IOVA ^ 1 << 40), False, True),
        (iotlb(3, DID=DID + 1, ADDR=IOVA), True, True),
        (pasid_cache(3), True, True),
        (context_cache(1), True, True),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_which_translations_go_with_which_descriptor(descriptor, first, second, nested):
    """By PASID: first-level and nested. By domain: everything. Pages of a domain: its second level in that range, and
    everything of its first level, since what lies below may have moved.
    """
    bench = CachedBench()
    bench.second_level()
    bench.entry_of(OTHER, P=1, PGTT=2, AW=2, SLPTPTR=0x60000, PWSNP=1, DID=DID)
    if nested:
        bench.nested()
    else:
        bench.entry(PGTT=1)
        bench.first_level()
    assert (bench.ask(), bench.ask(pasid=OTHER)) == (FOUND, FOUND)
    bench.invalidate(descriptor)
    lines = bench.caches.iotlb
    assert ((DID, PASID, IOVA >> 12) in lines, (DID, -1, IOVA >> 12) in lines) == (first, second)
    if not first:
        assert not bench.caches.paging.select(lambda key: key[1] == PASID and key[3] == IOVA >> 21 and key[2] == 2)


@pytest.mark.parametrize("hint", [0, 1])
def test_pages_of_a_domain_take_their_paging_structures_along_unless_told_otherwise(hint):
    """IH=1: only leaves have changed, the second level's tables stay. The first level's go either way."""
    bench = CachedBench()
    bench.nested()
    assert bench.ask() == FOUND
    page = 0x30_0000
    bench.invalidate(iotlb(3, DID=DID, ADDR=page, IH=hint))
    lines = bench.caches.paging
    first, second = (DID, PASID, 2, IOVA >> 21), (DID, -1, 2, page >> 21)
    assert (first in lines, second in lines, (DID, -1, 2, FIRST >> 21) in lines) == (False, bool(hint), True)


@pytest.mark.parametrize(("pgtt", "tag"), [(1, PASID), (2, -1)])
@pytest.mark.parametrize("order", [0, 9])
def test_a_large_page_is_forgotten_as_a_whole(pgtt, tag, order):
    """Kept in pieces of 4 KiB, of which software knows nothing: naming any part of it drops all pieces."""
    bench = CachedBench()
    bench.entry(PGTT=pgtt)
    (bench.first_level if pgtt == 1 else bench.second_level)(leaf=2)
    start = IOVA & -(1 << 21)
    for offset in (0, 0x5000, 0x1F_F000):
        assert bench.ask(address=start + offset) == PAGE + offset
    assert len([key for key in bench.caches.iotlb.keys() if key[1] == tag]) == 3
    pages = {"DID": DID, "ADDR": start + 0x7000, "AM": order}
    bench.invalidate(piotlb(3, PASID=PASID, **pages) if pgtt == 1 else iotlb(3, **pages))
    assert not len(bench.caches.iotlb)


def test_the_page_below_a_large_one_is_not_part_of_it():
    """Its neighbour keeps its line."""
    bench = CachedBench()
    bench.entry(PGTT=1)
    start = IOVA & -(1 << 21)
    bench.first_level(start, leaf=2)
    bench.memory.store(bench.first_at(2, start - 0x1000), bench.memory.load(bench.first_at(2, start)))
    assert bench.ask(address=start) == PAGE
    assert bench.ask(address=start - 0x1000) == PAGE + 0x1F_F000
    bench.invalidate(piotlb(3, DID=DID, PASID=PASID, ADDR=start, AM=9))
    assert [page << 12 for _, _, page in bench.caches.iotlb.keys()] == [start - 0x1000]


def test_removing_a_table_of_the_guest_is_seen_through_the_required_invalidation():
    """The second level loses a table of the first level: a page-selective invalidation of the domain is enough."""
    for level in (4, 3, 2, 1):
        bench = CachedBench()
        bench.nested()
        assert bench.ask() == FOUND
        table = bench.first_at(level) & ~0xFFF
        bench.memory.store(bench.second_at(1, table), 0)
        bench.invalidate(iotlb(3, DID=DID, ADDR=table, IH=1))
        assert bench.ask() == bench.uncached() == (0x75 if level == 4 else 0x76), level
