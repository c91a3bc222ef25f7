"""Address translation services at the unit: translation requests, translated requests, invalidation of device TLBs."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.iommu.vtd.register_file import FSTS, IQH, IQT
from pasidlab.hardware.iommu.vtd.unit import RECOVERABLE
from pasidlab.hardware.layouts.vtd import FL_ENTRY, FSTS_REG
from pasidlab.hardware.layouts.vtd_queue import FRCD, QI_WAIT
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.pcie import Access, InvalidateRequest, RequestKind
from pasidlab.timeline import Verb
from tests.hardware.iommu.vtd.by_hand import BEYOND, IOVA, PAGE, PASID, RID
from tests.hardware.iommu.vtd.cached_bench import (
    DID,
    QUEUE,
    CachedBench,
    context_cache,
    dev_tlb,
    iotlb,
    pasid_cache,
    pasid_dev_tlb,
    piotlb,
)

EVERYTHING = 0x7FFF_FFFF_FFFF_F000
NOBODY = 0x6AF8


@pytest.fixture
def bench():
    """One first-level page."""
    bench = CachedBench()
    bench.entry(PGTT=1)
    bench.first_level()
    return bench


def ask(bench, access=Access.READ, **changes):
    """A translation request of the device."""
    request = bench.request(access)._replace(kind=RequestKind.TRANSLATION, **changes)
    return bench.unit.complete(request)


def go(bench, address=PAGE, access=Access.READ, pasid=None):
    """A translated request, which has no PASID: the address, or the code of the fault."""
    request = bench.request(access, address, pasid)._replace(kind=RequestKind.TRANSLATED)
    before = bench.timeline.digest()
    walk = bench.unit.walk(request)
    assert bench.timeline.digest() == before
    answer = bench.unit.translate(request)
    assert answer == (walk.fault or walk.address)
    return answer.code if isinstance(answer, Fault) else answer


def recorded(bench):
    """The reasons in the fault records."""
    return [FRCD["FR"].get(words) for words in bench.unit.faults.records()]


# --- translation requests ---------------------------------------------------------------------------------------------


def made(**identity):
    """One first-level page that was never used, behind a unit of some identity."""
    bench = CachedBench(**identity)
    bench.entry(PGTT=1)
    bench.first_level(D=0, A=0)
    return bench


@pytest.mark.parametrize(
    ("nwfs", "access", "rights"),
    [
        (False, Access.READ, (True, True, False)),
        (False, Access.WRITE, (True, True, False)),
        (False, Access.ATOMIC, (True, True, False)),
        (True, Access.READ, (True, False, False)),
        (True, Access.WRITE, (False, True, False)),
        (True, Access.ATOMIC, (True, True, False)),
    ],
)
def test_the_answer_is_the_page_and_the_rights_that_there_are(nwfs, access, rights):
    """4 KiB. A unit with ECAP.NWFS gives only what was asked for; without it every right that the page has."""
    answer = ask(made(nwfs=nwfs), access)
    assert (answer.address, answer.size) == (PAGE, PAGE_SIZE)
    assert (answer.read, answer.write, answer.execute) == rights


def test_a_part_of_a_large_page_is_answered_as_4_kib():
    """The device learns nothing of the size."""
    bench = CachedBench()
    bench.entry(PGTT=1)
    bench.first_level(leaf=2)
    answer = ask(bench)
    assert (answer.address, answer.size) == (PAGE | IOVA & 0x1F_F000, PAGE_SIZE)


def test_a_write_to_a_read_only_page_is_answered_with_the_right_that_there_is(bench):
    """Success with the effective permission (specification, table 30), and nothing is recorded."""
    bench.first_level(RW=0)
    answer = ask(bench, Access.WRITE)
    assert (answer.address, answer.read, answer.write) == (PAGE, True, False)
    assert recorded(bench) == []


def test_execution_is_answered_when_entry_and_page_allow_it(bench):
    """ERE=1 and XD=0; otherwise without any right."""
    assert not ask(bench, Access.EXECUTE).execute
    bench.entry(PGTT=1, ERE=1, NXE=1)
    bench.caches.forget_everything()
    assert ask(bench, Access.EXECUTE).execute
    bench.first_level(XD=1)
    bench.caches.forget_everything()
    assert not ask(bench, Access.EXECUTE).execute
    assert recorded(bench) == []


@pytest.mark.parametrize(("nwfs", "marks"), [(True, [(1, 0), (1, 1)]), (False, [(1, 1), (1, 1)])])
def test_a_translation_request_marks_what_it_grants(nwfs, marks):
    """A page that the device may write without asking again is dirty from now on."""
    bench = made(nwfs=nwfs)
    leaf, seen = bench.first_at(1), []
    for access in (Access.READ, Access.WRITE):
        ask(bench, access)
        word = (bench.memory.load(leaf),)
        seen.append((FL_ENTRY["A"].get(word), FL_ENTRY["D"].get(word)))
    assert seen == marks


def break_directory(bench):
    bench.context(DTE=1, PASIDDIRPTR=0x3000)


def break_entry(bench):
    bench.entry(P=0)


def break_page(bench):
    bench.first_level(P=0)


def break_user(bench):
    bench.first_level(US=0)


@pytest.mark.parametrize(
    ("spoil", "code"), [(break_directory, 0x51), (break_entry, 0x59), (break_page, 0x71), (break_user, 0x81)]
)
def test_what_may_be_mended_is_answered_without_rights_and_not_recorded(bench, spoil, code):
    """The device may ask for the page; only an untranslated request would be a fault."""
    spoil(bench)
    answer = ask(bench)
    assert (answer.read, answer.write, answer.execute) == (False, False, False)
    assert recorded(bench) == []
    assert bench.ask() == code
    assert recorded(bench) == [code]


def test_a_missing_second_level_page_is_recoverable():
    """0x79."""
    bench = CachedBench()
    bench.entry(PGTT=2)
    assert not ask(bench).read
    assert recorded(bench) == []


def test_the_rest_is_a_fault_and_recorded_with_its_address_type(bench):
    """The interrupt range, a PASID entry of no known kind, no context entry: AT=1 in the record."""
    codes = []
    bench.first_level(page=0xFEE0_0000)
    codes.append(ask(bench).code)
    bench.entry(PGTT=0)
    bench.caches.forget_pasids()
    codes.append(ask(bench).code)
    bench.context(P=0)
    bench.caches.forget_contexts()
    codes.append(ask(bench).code)
    assert codes == [0x87, 0x5B, 0x41] == recorded(bench)
    assert {FRCD["AT"].get(words) for words in bench.unit.faults.records()} == {1}


def test_translation_requests_need_dte(bench):
    """0x44, which no page request can mend."""
    bench.context()
    assert ask(bench).code == 0x44


def test_the_recoverable_codes_are_those_that_table_30_answers_with_success():
    """Every table and page fault that software can mend; never a malformed root, context, directory or PASID entry."""
    assert {int(reason) for reason in RECOVERABLE} == {
        *(0x51, 0x59, 0x5C, 0x5D),
        *range(0x70, 0x78),
        *(0x79, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x90, 0x91),
    }


def test_a_translation_request_is_served_from_the_iotlb(bench):
    """Why the IOTLB is invalidated before the device's TLB: who asks in between is told the old page."""
    ask(bench)
    bench.first_level(page=PAGE + 0x1000)
    assert ask(bench).address == PAGE
    bench.caches.forget_translations()
    assert ask(bench).address == PAGE + 0x1000


def test_each_answer_is_an_event(bench):
    """Who asked for what, and what came back."""
    ask(bench)
    bench.first_level(P=0)
    bench.caches.forget_translations()
    ask(bench)
    told = [event for event in bench.timeline.events if event.verb is Verb.ATS]
    assert [event.fact("address") for event in told] == [IOVA, IOVA]
    assert f"{PAGE:#x}" in str(told[0].after)
    assert "no page" in str(told[1].after)


# --- translated requests ----------------------------------------------------------------------------------------------


def test_a_translated_request_goes_where_it_says(bench):
    """The unit looks at context and PASID entry, not at any page table."""
    bench.first_level(P=0)
    assert go(bench, 0x1234_5000, Access.WRITE) == 0x1234_5000


def test_translated_requests_need_dte(bench):
    """A device that may not translate by itself must not pretend it had."""
    bench.context()
    assert go(bench) == 0x44


def test_translated_requests_have_no_pasid(bench):
    """One that has is refused (UNVERIFIED: by which code)."""
    assert go(bench, pasid=PASID) == 0x44


def test_translated_requests_need_the_entries_that_they_do_not_walk(bench):
    """An absent PASID entry blocks them (specification, table 30), as soon as the unit does not keep the old one."""
    assert go(bench) == PAGE
    bench.entry(P=0)
    assert go(bench) == PAGE
    bench.caches.forget_pasids()
    assert go(bench) == 0x59
    assert recorded(bench) == [0x59]


@pytest.mark.parametrize(("address", "code"), [(1 << 48, 0x83), (0xFEE0_0000, 0x87), (0xFEEF_FFFF, 0x87)])
def test_translated_requests_stay_within_the_host_and_out_of_the_interrupt_range(bench, address, code):
    """An address that no completion has given."""
    assert go(bench, address) == code


def test_translated_requests_set_no_bit_and_fill_no_tlb(bench):
    """They leave nothing but context and PASID entry behind."""
    bench.first_level(A=0, D=0)
    before = bench.memory.load(bench.first_at(1))
    go(bench, access=Access.WRITE)
    assert bench.memory.load(bench.first_at(1)) == before
    assert not len(bench.caches.iotlb)


# --- invalidation of device TLBs --------------------------------------------------------------------------------------


def sized(start, order):
    """The address of a block of 2^order pages: zero above low ones."""
    return start & -(PAGE_SIZE << order) | (1 << order - 1) - 1 << 12 if order else start


@pytest.mark.parametrize("order", range(8))
@pytest.mark.parametrize("start", [0, 0x7F12_3456_7000, 0x7F12_3450_0000])
def test_the_low_ones_of_the_address_say_how_many_pages_are_meant(bench, order, start):
    """S=1: the lowest zero bit of the page number divides size and start (ATS); S=0: one page."""
    bench.invalidate(pasid_dev_tlb(SID=RID, PASID=PASID, S=int(order > 0), ADDR=sized(start, order)))
    size = PAGE_SIZE << order
    assert bench.endpoint.invalidated == [InvalidateRequest(RID, PASID, start & -size, size)]


@pytest.mark.parametrize(
    ("descriptor", "pasid", "every"),
    [
        (dev_tlb(SID=RID, S=1, ADDR=EVERYTHING), None, False),
        (pasid_dev_tlb(SID=RID, PASID=PASID, S=1, ADDR=EVERYTHING), PASID, False),
        (pasid_dev_tlb(SID=RID, G=1, S=1, ADDR=EVERYTHING), 0, True),
    ],
)
def test_the_whole_address_space_is_one_range(bench, descriptor, pasid, every):
    """Ones in bits 62:12: 2^64 bytes. Without PASID, with one, or for all PASIDs."""
    bench.invalidate(descriptor)
    assert bench.endpoint.invalidated == [InvalidateRequest(RID, pasid, 0, 1 << 64, every)]
    assert bench.neighbour.invalidated == []


def test_the_units_own_caches_do_not_forget_with_a_device(bench):
    """Each cache has its own descriptor."""
    bench.ask()
    bench.first_level(page=PAGE + 0x1000)
    bench.invalidate(pasid_dev_tlb(SID=RID, PASID=PASID, S=1, ADDR=EVERYTHING))
    assert bench.ask() == PAGE | IOVA & 0xFFF


def test_a_device_that_is_not_there_times_out_and_stops_the_queue(bench):
    """ITE; the wait descriptor behind it is not completed."""
    wait = QI_WAIT.encode(TYPE=5, SW=1, STADDR=0x3000, STDATA=1)
    tail = bench.unit.mmio_read(IQT)
    for words in (dev_tlb(SID=NOBODY, S=1, ADDR=EVERYTHING), wait):
        bench.memory.store_words(QUEUE + tail, (*words, 0, 0))
        tail += 32
    bench.unit.mmio_write(IQT, tail)
    assert FSTS_REG["ITE"].get((bench.unit.mmio_read(FSTS, 4),))
    assert bench.memory.load32(0x3000) == 0
    bench.unit.mmio_write(FSTS, FSTS_REG["ITE"].mask, 4)
    assert bench.unit.mmio_read(IQH) == tail


def test_a_domain_has_no_device_tlb(bench):
    """No other descriptor reaches the devices."""
    bench.invalidate(context_cache(1), pasid_cache(3), iotlb(1), iotlb(2, DID=DID), piotlb(2, DID=DID, PASID=PASID))
    assert bench.endpoint.invalidated == bench.neighbour.invalidated == []


def test_nothing_answers_beyond_memory(bench):
    """A translation of a table that cannot be read gives no right (0x70 is recoverable), and records nothing."""
    at = bench.first_at(2)
    bench.memory.store(at, FL_ENTRY.change((bench.memory.load(at),), ADDR=BEYOND)[0])
    assert not ask(bench).read
    assert bench.ask() == 0x70
