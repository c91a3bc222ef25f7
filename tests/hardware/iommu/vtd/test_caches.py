"""Context cache, PASID cache, IOTLB and paging-structure caches: what they keep, under which tag, and what makes them
forget it. Stale is what software has changed without saying so.
"""

from __future__ import annotations

from itertools import product

import pytest

from pasidlab.hardware.iommu.vtd.caches import CONTEXT_CACHE, IOTLB, PAGING_CACHE, PASID_CACHE
from pasidlab.hardware.iommu.vtd.register_file import GCMD, GCMD_QIE, GCMD_TE, RTADDR
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, FL_ENTRY, PASID_DIR_ENTRY, ROOT_ENTRY, SL_ENTRY
from pasidlab.hardware.pcie import Access
from tests.hardware.iommu.vtd.by_hand import (
    CONTEXT_AT,
    DIRECTORY,
    DIRECTORY_AT,
    FIRST,
    IOVA,
    PAGE,
    PASID,
    RID,
    ROOT_AT,
    Bench,
)
from tests.hardware.iommu.vtd.cached_bench import (
    DID,
    NEIGHBOUR,
    CachedBench,
    context_cache,
    iotlb,
    pasid_cache,
    piotlb,
)

OFFSET = IOVA & 0xFFF
FOUND, MOVED = PAGE | OFFSET, PAGE + 0x1000 | OFFSET
OTHER = PASID + 1


@pytest.fixture
def bench():
    """A first-level mapping of one page that was used once."""
    return warm(CachedBench())


def warm(bench, pgtt=1):
    """Map a page and use it."""
    bench.entry(PGTT=pgtt)
    (bench.second_level if pgtt == 2 else bench.first_level)()
    assert bench.ask() == FOUND
    return bench


# --- what answers -----------------------------------------------------------------------------------------------------


def test_a_question_leaves_nothing_in_the_caches():
    """Only requests that really happen teach the unit something."""
    bench = CachedBench()
    bench.entry(PGTT=1)
    bench.first_level()
    assert bench.unit.walk(bench.request()).address == FOUND
    assert [len(table) for table in (bench.caches.contexts, bench.caches.pasids, bench.caches.iotlb)] == [0, 0, 0]


def test_the_second_request_is_answered_by_the_caches(bench):
    """Context cache, PASID cache, IOTLB: no structure is read from memory."""
    assert bench.sources() == [CONTEXT_CACHE, PASID_CACHE, IOTLB]


def test_a_neighbouring_page_starts_below_the_tables_that_are_kept(bench):
    """One entry is read; the three above it came with the first page."""
    bench.first_level(IOVA + 0x1000, PAGE + 0x1000)
    assert bench.sources(address=IOVA + 0x1000) == [CONTEXT_CACHE, PASID_CACHE, PAGING_CACHE, ""]


def test_a_question_can_leave_the_caches_aside(bench):
    """Then it is the tables that answer."""
    bench.first_level(page=PAGE + 0x1000)
    assert (bench.ask(), bench.uncached()) == (FOUND, MOVED)


def test_a_unit_without_caches_reads_every_time():
    """The identity card says so."""
    bench = warm(CachedBench(caches=False))
    assert set(bench.sources()) == {""}


# --- context cache ----------------------------------------------------------------------------------------------------


def test_a_context_entry_stays_until_its_device_is_named(bench):
    """PASIDs are forbidden in memory, and work on; the context cache's own invalidation changes it."""
    bench.context(PASIDE=0)
    assert (bench.ask(), bench.uncached()) == (FOUND, 0x45)
    bench.invalidate(context_cache(3, SID=NEIGHBOUR))
    assert bench.ask() == FOUND
    bench.invalidate(context_cache(3, SID=RID))
    assert bench.ask() == 0x45


def test_a_domain_selective_invalidation_drops_every_context_entry(bench):
    """A scalable-mode context entry has no domain: any domain will do."""
    bench.context(PASIDE=0)
    bench.invalidate(context_cache(2, DID=DID + 1))
    assert bench.ask() == 0x45


@pytest.mark.parametrize(("mask", "ignored"), list(enumerate([0b000, 0b100, 0b110, 0b111])))
def test_the_function_mask_leaves_bits_of_the_function_number_aside(mask, ignored):
    """0: none; 1: bit 2; 2: bits 2 and 1; 3: the whole function number."""
    bench = warm(CachedBench())
    functions = range(RID, RID + 8)
    for rid in (*functions, RID + 8):
        bench.device(rid)
        assert bench.ask_as(rid) == FOUND
    bench.invalidate(context_cache(3, SID=RID | 5, FM=mask))
    gone = {rid for rid in functions if not (rid ^ (RID | 5)) & ~ignored}
    assert set(bench.caches.contexts.keys()) == {*functions, RID + 8} - gone
    assert len(gone) == 1 << mask


def test_the_root_entry_is_read_whenever_the_context_entry_is(bench):
    """It is in no cache: a device that is new to the unit meets the present one."""
    bench.memory.store_words(ROOT_AT, ROOT_ENTRY.encode())
    assert (bench.ask(), bench.ask_as(NEIGHBOUR)) == (FOUND, 0x39)


def test_requests_without_a_pasid_share_the_lines_of_rid_pasid(bench):
    """The context entry names the PASID; the translation is the one that is known."""
    assert bench.sources(pasid=None) == [CONTEXT_CACHE, PASID_CACHE, IOTLB]
    bench.context(RID_PASID=OTHER)
    assert bench.ask(pasid=None) == FOUND
    bench.invalidate(context_cache(1))
    assert bench.ask(pasid=None) == 0x59


# --- PASID cache ------------------------------------------------------------------------------------------------------


def swapped(bench):
    """Let the entry lead to another page table, in memory only."""
    bench.first_level()
    bench.memory.store_words(FIRST + 0x5000, bench.memory.load_words(FIRST, 512))
    bench.entry(PGTT=1, FLPTPTR=FIRST + 0x5000, SRE=1)


@pytest.mark.parametrize(
    ("descriptor", "drops"),
    [
        (pasid_cache(1, DID=DID, PASID=PASID), {(RID, PASID), (NEIGHBOUR, PASID)}),
        (pasid_cache(1, DID=DID, PASID=OTHER), {(RID, OTHER)}),
        (pasid_cache(1, DID=DID + 1, PASID=PASID), set()),
        (pasid_cache(0, DID=DID), {(RID, PASID), (NEIGHBOUR, PASID), (RID, OTHER)}),
        (pasid_cache(0, DID=DID + 1), {(RID, PASID + 2)}),
        (pasid_cache(3), {(RID, PASID), (NEIGHBOUR, PASID), (RID, OTHER), (RID, PASID + 2)}),
        (context_cache(1), set()),
        (piotlb(2, DID=DID, PASID=PASID), set()),
        (iotlb(1), set()),
    ],
)
def test_pasid_entries_go_by_domain_and_pasid_on_all_devices(descriptor, drops):
    """PASID-selective, domain-selective, global; nothing else touches the PASID cache."""
    bench = warm(CachedBench())
    bench.ask_as(NEIGHBOUR)
    for pasid, did in ((OTHER, DID), (PASID + 2, DID + 1)):
        bench.entry_of(pasid, P=1, PGTT=1, AW=2, FLPTPTR=FIRST, PWSNP=1, DID=did)
        assert bench.ask(pasid=pasid) == FOUND
    before = set(bench.caches.pasids.keys())
    bench.invalidate(descriptor)
    assert before - set(bench.caches.pasids.keys()) == drops


def test_the_rights_of_a_kept_entry_are_those_it_had(bench):
    """SRE=0 in the cache: privileged requests stay forbidden until the unit reads the entry again."""
    bench.entry(PGTT=1, SRE=1)
    assert (bench.ask(privileged=True), bench.uncached(privileged=True)) == (0x5D, FOUND)
    bench.invalidate(pasid_cache(1, DID=DID, PASID=PASID))
    assert bench.ask(privileged=True) == FOUND


@pytest.mark.parametrize(("field", "request_", "code"), [("SRE", {"privileged": True}, 0x5D), ("ERE", {}, 0x5C)])
def test_a_right_that_the_entry_lost_counts_although_the_iotlb_granted_it(field, request_, code):
    """SRE and ERE are asked at every use: after the PASID-cache invalidation the IOTLB alone does not help."""
    bench = CachedBench()
    bench.entry(PGTT=1, **{field: 1})
    bench.first_level()
    access = Access.READ if request_ else Access.EXECUTE
    assert bench.ask(access, **request_) == FOUND
    bench.entry(PGTT=1)
    assert bench.ask(access, **request_) == FOUND
    bench.invalidate(pasid_cache(1, DID=DID, PASID=PASID))
    assert bench.ask(access, **request_) == code


def test_a_new_root_needs_both_the_pasid_cache_and_the_iotlb_invalidated(bench):
    """Entry changed: first the old entry answers, then the old translation, then the new table."""
    swapped(bench)
    bench.first_level(page=PAGE + 0x1000)
    bench.memory.store(FIRST + 0x5000 + (IOVA >> 36 & 0xFF8), 0)
    assert (bench.ask(), bench.uncached()) == (FOUND, 0x71)
    bench.invalidate(pasid_cache(1, DID=DID, PASID=PASID))
    assert bench.ask() == FOUND
    bench.invalidate(piotlb(2, DID=DID, PASID=PASID))
    assert bench.ask() == 0x71


def test_the_directory_entrys_fpd_is_kept_with_the_entry(bench):
    """Faults of a kept entry are suppressed as they would have been when it was read."""
    bench.memory.store_words(DIRECTORY_AT, PASID_DIR_ENTRY.change(bench.memory.load_words(DIRECTORY_AT, 1), FPD=1))
    privileged = bench.request(privileged=True)
    assert not bench.unit.walk(privileged).fault.suppressed
    bench.invalidate(pasid_cache(3))
    bench.ask()
    bench.memory.store_words(DIRECTORY_AT, PASID_DIR_ENTRY.change(bench.memory.load_words(DIRECTORY_AT, 1), FPD=0))
    assert bench.unit.walk(privileged).fault.suppressed


def test_a_smaller_directory_counts_as_soon_as_the_context_entry_is_read():
    """PDTS belongs to the context entry: a kept PASID entry beyond it is out of reach."""
    bench, pasid = CachedBench(), 0x3000
    bench.memory.store(DIRECTORY + (pasid >> 6) * 8, bench.memory.load(DIRECTORY_AT))
    bench.entry_of(pasid, P=1, PGTT=1, AW=2, FLPTPTR=FIRST, PWSNP=1, DID=DID)
    bench.first_level()
    assert bench.ask(pasid=pasid) == FOUND
    bench.context(PDTS=0, RID_PASID=0)
    bench.invalidate(context_cache(3, SID=RID))
    assert [bench.ask(pasid=pasid) for _ in range(2)] == [0x46, 0x46]


# --- what is not present ----------------------------------------------------------------------------------------------


def test_hardware_keeps_nothing_that_ends_in_a_fault():
    """CM=0: what becomes present serves the very next request, at every level of the search."""
    bench = CachedBench()
    bench.context(P=0)
    assert bench.ask() == 0x41
    bench.context()
    assert bench.ask() == 0x59
    bench.entry(PGTT=0)
    assert bench.ask() == 0x5B
    bench.entry(PGTT=1)
    assert bench.ask() == 0x71
    bench.first_level()
    assert bench.ask() == FOUND
    bench.first_level(IOVA + 0x1000, RW=0)
    assert bench.ask(Access.WRITE, IOVA + 0x1000) == 0x85
    bench.first_level(IOVA + 0x1000)
    assert bench.ask(Access.WRITE, IOVA + 0x1000) == FOUND


def test_in_caching_mode_an_absent_context_entry_is_kept():
    """Until the device's context entry is invalidated."""
    bench = CachedBench(cm=True)
    bench.entry(PGTT=1)
    bench.first_level()
    bench.context(P=0)
    assert bench.ask() == 0x41
    bench.context()
    assert (bench.ask(), bench.uncached()) == (0x41, FOUND)
    bench.invalidate(context_cache(3, SID=RID))
    assert bench.ask() == FOUND


@pytest.mark.parametrize("descriptor", [pasid_cache(1, DID=0, PASID=PASID), pasid_cache(1, DID=DID, PASID=PASID)])
def test_in_caching_mode_an_absent_pasid_entry_is_kept_and_belongs_to_no_domain(descriptor):
    """It goes with an invalidation of its PASID in any domain (the specification tags it with domain 0)."""
    bench = CachedBench(cm=True)
    bench.first_level()
    assert bench.ask() == 0x59
    bench.entry(PGTT=1)
    assert (bench.ask(), bench.uncached()) == (0x59, FOUND)
    bench.invalidate(pasid_cache(1, DID=DID, PASID=OTHER))
    assert bench.ask() == 0x59
    bench.invalidate(descriptor)
    assert bench.ask() == FOUND


def test_in_caching_mode_an_absent_second_level_page_is_kept():
    """It goes with a page-selective invalidation of its domain."""
    bench = CachedBench(cm=True)
    bench.entry(PGTT=2)
    assert bench.ask() == 0x79
    bench.second_level()
    assert (bench.ask(), bench.uncached()) == (0x79, FOUND)
    bench.invalidate(iotlb(3, DID=DID, ADDR=IOVA + 0x1000))
    assert bench.ask() == 0x79
    bench.invalidate(iotlb(3, DID=DID, ADDR=IOVA))
    assert bench.ask() == FOUND


def test_caching_mode_does_not_concern_the_first_level():
    """An absent first-level entry is read again, whatever CM says."""
    bench = CachedBench(cm=True)
    bench.entry(PGTT=1)
    assert bench.ask() == 0x71
    bench.first_level()
    assert bench.ask() == FOUND


def test_an_absent_line_does_not_lead_to_a_translation_that_is_still_kept():
    """CM=1: P is cleared, the entry's own cache is invalidated, the IOTLB not yet: the page is out of reach."""
    bench = warm(CachedBench(cm=True))
    bench.entry(PGTT=1, P=0)
    bench.invalidate(pasid_cache(1, DID=DID, PASID=PASID))
    assert [bench.ask() for _ in range(3)] == [0x59] * 3
    bench = warm(CachedBench(cm=True))
    bench.context(P=0)
    bench.invalidate(context_cache(3, SID=RID))
    assert [bench.ask() for _ in range(3)] == [0x41] * 3


# --- IOTLB: tags ------------------------------------------------------------------------------------------------------


def test_first_level_translations_are_shared_by_devices_but_not_by_pasids(bench):
    """The tag is domain and PASID: a second device finds the line, a second PASID of the same domain does not."""
    bench.entry_of(OTHER, P=1, PGTT=1, AW=2, FLPTPTR=FIRST, PWSNP=1, DID=DID)
    bench.first_level(page=PAGE + 0x1000)
    assert bench.ask_as(NEIGHBOUR) == FOUND
    assert bench.ask(pasid=OTHER) == MOVED
    assert bench.ask() == FOUND


def test_second_level_translations_are_shared_by_the_pasids_of_a_domain():
    """The tag is the domain alone; another domain has lines of its own."""
    bench = warm(CachedBench(), pgtt=2)
    for pasid, did in ((OTHER, DID), (PASID + 2, DID + 1)):
        bench.entry_of(pasid, P=1, PGTT=2, AW=2, SLPTPTR=0x60000, PWSNP=1, DID=did)
    bench.second_level(page=PAGE + 0x1000)
    assert bench.ask(pasid=OTHER) == FOUND
    assert bench.ask(pasid=PASID + 2) == MOVED


def test_nested_translations_are_tagged_by_the_pasid_and_their_tables_by_the_domain():
    """Two guest processes: own lines for the pages, shared lines for the guest-physical tables."""
    bench = CachedBench()
    bench.nested()
    assert bench.ask() == FOUND
    bench.entry_of(OTHER, P=1, PGTT=3, AW=2, FLPTPTR=FIRST, SLPTPTR=0x60000, PWSNP=1, DID=DID)
    before = len(bench.caches.iotlb)
    assert bench.ask(pasid=OTHER) == FOUND
    assert len(bench.caches.iotlb) == before + 1
    assert {tag for _, tag, _ in bench.caches.iotlb.keys()} == {-1, PASID, OTHER}


def test_a_domain_id_that_is_used_again_without_invalidation_finds_what_was_left(bench):
    """Why a number that comes back must be flushed: the entry is new, the translation is not."""
    bench.entry(PGTT=1, DID=DID + 1)
    bench.first_level(page=PAGE + 0x1000)
    bench.invalidate(pasid_cache(3))
    assert bench.ask() == MOVED
    bench.entry(PGTT=1, DID=DID)
    bench.invalidate(pasid_cache(3))
    assert (bench.ask(), bench.uncached()) == (FOUND, MOVED)


# --- IOTLB: rights ----------------------------------------------------------------------------------------------------


def test_a_line_that_was_read_does_not_spare_the_dirty_bit():
    """The first write walks, and marks the page dirty; the second one need not."""
    bench = CachedBench()
    bench.entry(PGTT=1)
    bench.first_level(D=0)
    leaf = bench.first_at(1)
    assert bench.ask() == FOUND
    assert not FL_ENTRY["D"].get((bench.memory.load(leaf),))
    assert bench.ask(Access.WRITE) == FOUND
    assert FL_ENTRY["D"].get((bench.memory.load(leaf),))
    bench.first_level(D=0)
    assert bench.ask(Access.WRITE) == FOUND
    assert not FL_ENTRY["D"].get((bench.memory.load(leaf),)), "the IOTLB answered"


def test_the_same_holds_for_the_second_level_with_accessed_and_dirty_bits():
    """SSADE=1: a write after a read walks once more."""
    bench = CachedBench()
    bench.entry(PGTT=2, SSADE=1)
    bench.second_level()
    leaf = bench.second_at(1)
    marks = []
    for access in (Access.READ, Access.WRITE, Access.ATOMIC):
        assert bench.ask(access) == FOUND
        word = (bench.memory.load(leaf),)
        marks.append((SL_ENTRY["A"].get(word), SL_ENTRY["D"].get(word)))
    assert marks == [(1, 0), (1, 1), (1, 1)]


RIGHTS = [dict(zip(("RW", "US", "XD"), bits, strict=True)) for bits in product((0, 1), repeat=3)]
ENTRIES = [dict(zip(("WPE", "SRE", "NXE", "ERE"), bits, strict=True)) for bits in product((0, 1), repeat=4)]
REQUESTS = list(product(Access, (False, True)))


@pytest.mark.parametrize(
    ("pgtt", "entry"),
    [(1, entry) for entry in ENTRIES]
    + [(3, entry) for entry in ENTRIES if entry["SRE"] == entry["ERE"] == entry["NXE"]],
    ids=str,
)
def test_the_iotlb_grants_what_a_walk_grants_and_nothing_else(pgtt, entry):
    """Every access after every other one, for all rights of page and entry: the answer is that of the tables."""
    bench = CachedBench()
    for rights in RIGHTS:
        if pgtt == 3:
            bench.nested(**rights)
        else:
            bench.first_level(**rights)
        bench.entry(PGTT=pgtt, **entry)
        for before, after in product(REQUESTS, repeat=2):
            bench.caches.forget_everything()
            bench.ask(before[0], privileged=before[1])
            expected = bench.uncached(after[0], privileged=after[1])
            assert bench.ask(after[0], privileged=after[1]) == expected, (rights, before, after)


@pytest.mark.parametrize(("reads", "writes"), [(1, 0), (0, 1), (1, 1)])
def test_second_level_rights_are_kept_one_by_one(reads, writes):
    """Read, write and atomic access of a page that grants some of it, in every order."""
    bench = CachedBench()
    bench.entry(PGTT=2, ERE=1, SRE=1)
    for before, after in product(REQUESTS, repeat=2):
        bench.second_level(R=reads, W=writes)
        bench.caches.forget_everything()
        bench.ask(before[0], privileged=before[1])
        assert bench.ask(after[0], privileged=after[1]) == bench.uncached(after[0], privileged=after[1])


def test_a_page_in_the_interrupt_range_is_refused_every_time():
    """0x87: the walk that found it leaves nothing that the next request could use."""
    for pgtt in (1, 2, 3):
        bench = CachedBench()
        if pgtt == 3:
            bench.nested(guest_page=0x30_0000)
            bench.second_level(0x30_0000, 0xFEE0_0000)
        else:
            bench.entry(PGTT=pgtt)
            (bench.first_level if pgtt == 1 else bench.second_level)(page=0xFEE0_0000)
        assert [bench.ask() for _ in range(3)] == [0x87] * 3, pgtt


def test_a_page_that_lost_a_right_serves_the_old_ones_until_it_is_invalidated(bench):
    """Read-only in memory, written through the cache: this is what MMU notifiers are for."""
    assert bench.ask(Access.WRITE) == FOUND
    bench.first_level(RW=0)
    assert (bench.ask(Access.WRITE), bench.uncached(Access.WRITE)) == (FOUND, 0x85)
    bench.invalidate(piotlb(3, DID=DID, PASID=PASID, ADDR=IOVA, IH=1))
    assert bench.ask(Access.WRITE) == 0x85


# --- paging-structure caches ------------------------------------------------------------------------------------------


def with_table(bench):
    """Put another lowest table with other pages into memory, beside the one in use; returns the entry that names it."""
    spare = FIRST + 0x8000
    for offset in range(0, 0x1000, 8):
        word = bench.memory.load(FIRST + 0x3000 + offset)
        bench.memory.store(spare + offset, word + 0x10000 if word else 0)
    at = bench.first_at(2)
    bench.memory.store(at, FL_ENTRY.change((bench.memory.load(at),), ADDR=spare)[0])
    return at


def test_an_entry_that_names_a_table_is_kept_beside_the_pages(bench):
    """The old lowest table serves a page that was never asked for before; IH=1 does not help, IH=0 does."""
    second, there = IOVA + 0x1000, PAGE + 0x3000 | OFFSET
    bench.first_level(second, PAGE + 0x3000)
    with_table(bench)
    assert (bench.ask(address=second), bench.uncached(address=second)) == (there, there + 0x10000)
    bench.invalidate(piotlb(3, DID=DID, PASID=PASID, ADDR=second, IH=1))
    assert bench.ask(address=second) == there
    bench.invalidate(piotlb(3, DID=DID, PASID=PASID, ADDR=second, IH=0))
    assert bench.ask(address=second) == there + 0x10000


@pytest.mark.parametrize("hint", [0, 1])
def test_the_hint_of_a_whole_pasid_is_ignored(bench, hint):
    """IH means something for some pages only: all of the PASID forgets its paging structures whatever it says."""
    assert len(bench.caches.paging) == 3
    bench.invalidate(piotlb(2, DID=DID, PASID=PASID, IH=hint))
    assert bench.caches.paging.keys() == []


def test_an_invalidation_elsewhere_leaves_the_paging_structures_of_a_page_alone(bench):
    """Another address, another PASID, another domain."""
    lines = len(bench.caches.paging)
    assert lines == 3
    elsewhere = {"ADDR": IOVA ^ 1 << 47, "IH": 0}
    bench.invalidate(piotlb(3, DID=DID, PASID=PASID, **elsewhere))
    bench.invalidate(piotlb(2, DID=DID, PASID=OTHER), piotlb(2, DID=DID + 1, PASID=PASID), iotlb(2, DID=DID + 1))
    assert len(bench.caches.paging) == lines
    bench.invalidate(piotlb(3, DID=DID, PASID=PASID, ADDR=IOVA ^ 1 << 21))
    left = [level for _, _, level, _ in bench.caches.paging.keys()]
    assert left == [2], "the entries above are on the way to that address, too"


def test_the_rights_of_a_kept_entry_are_those_of_all_above_it():
    """Read-only near the top: writing through a kept lower entry is refused with the code of a whole walk."""
    bench = CachedBench()
    bench.entry(PGTT=1)
    bench.first_level()
    bench.first_level(IOVA + 0x1000)
    at = bench.first_at(4)
    bench.memory.store(at, FL_ENTRY.change((bench.memory.load(at),), RW=0)[0])
    assert bench.ask() == FOUND
    assert bench.ask(Access.WRITE, IOVA + 0x1000) == bench.uncached(Access.WRITE, IOVA + 0x1000) == 0x85


@pytest.mark.parametrize("level", [2, 3, 4])
@pytest.mark.parametrize("bit", ["RW", "US", "XD"])
def test_any_right_that_is_missing_on_any_level_is_missed_below(level, bit):
    """All accesses to a neighbour of a page that is kept agree with the tables."""
    bench = CachedBench()
    bench.entry(PGTT=1, SRE=1, ERE=1, NXE=1, WPE=1)
    for page in (0, 0x1000):
        bench.first_level(IOVA + page)
    at = bench.first_at(level)
    bench.memory.store(at, FL_ENTRY.change((bench.memory.load(at),), **{bit: int(bit == "XD")})[0])
    for before, after in product(REQUESTS, repeat=2):
        bench.caches.forget_everything()
        bench.ask(before[0], privileged=before[1])
        expected = bench.uncached(after[0], IOVA + 0x1000, privileged=after[1])
        assert bench.ask(after[0], IOVA + 0x1000, privileged=after[1]) == expected


def test_second_level_paging_structures_are_tagged_by_the_domain():
    """Another PASID of the domain starts below them; so does a nested walk."""
    bench = warm(CachedBench(), pgtt=2)
    bench.second_level(IOVA + 0x1000, PAGE + 0x1000)
    bench.entry_of(OTHER, P=1, PGTT=2, AW=2, SLPTPTR=0x60000, PWSNP=1, DID=DID)
    walk = bench.unit.walk(bench.request(address=IOVA + 0x1000, pasid=OTHER))
    assert [stop.cache for stop in walk.stops] == [CONTEXT_CACHE, "", "", PAGING_CACHE, ""]


# --- the root table, and switching off --------------------------------------------------------------------------------


@pytest.mark.parametrize("esrtps", [True, False])
def test_a_new_root_table_empties_the_caches_only_with_esrtps(esrtps):
    """Without it software has to: until then the old structures answer."""
    bench = warm(CachedBench(esrtps=esrtps))
    bench.unit.mmio_write(RTADDR, 0x3400)
    assert bench.ask() == FOUND, "RTADDR alone means nothing"
    bench.set_root(0x3400)
    assert bench.ask() == (0x39 if esrtps else FOUND)
    bench.invalidate(context_cache(1), pasid_cache(3), iotlb(1))
    assert bench.ask() == 0x39


def test_switching_translation_off_empties_the_caches(bench):
    """A unit in scalable mode starts afresh when it is switched on again."""
    bench.first_level(page=PAGE + 0x1000)
    bench.unit.mmio_write(GCMD, GCMD_QIE, 4)
    assert bench.ask() == IOVA
    bench.unit.mmio_write(GCMD, GCMD_QIE | GCMD_TE, 4)
    assert bench.ask() == MOVED


def test_everything_forgotten_is_read_again(bench):
    """The three global invalidations leave no line of any kind."""
    bench.invalidate(context_cache(1), pasid_cache(3), iotlb(1))
    caches = bench.caches
    assert [len(table) for table in (caches.contexts, caches.pasids, caches.iotlb, caches.paging)] == [0] * 4
    assert set(bench.sources()) == {""}


def test_caches_travel_in_time():
    """Undo brings back what was forgotten, redo forgets it again."""
    bench = warm(CachedBench())
    journal = bench.timeline.journal
    position = journal.position
    bench.invalidate(iotlb(1))
    after = journal.position
    journal.seek(position)
    assert bench.sources()[-1] == IOTLB
    journal.seek(after)
    assert IOTLB not in bench.sources()


def test_hand_written_tables_without_caches_are_the_same_tables():
    """The bench of the other tests and this one write the same words."""
    plain, cached = Bench(), CachedBench()
    for bench in (plain, cached):
        bench.context()
        bench.entry(PGTT=1)
        bench.first_level()
    size = CONTEXT_ENTRY.word_count
    assert plain.memory.load_words(CONTEXT_AT, size) == cached.memory.load_words(CONTEXT_AT, size)
    assert plain.ask() == cached.ask() == FOUND
