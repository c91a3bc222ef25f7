"""Page tables: host tables of one to six levels, guest tables of four and five, both together, and their marks."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord
from pasidlab.hardware.iommu.amdvi.faults import EventCode, Flag, Reason
from pasidlab.hardware.layouts.amd import V1_PTE, V2_PTE
from pasidlab.hardware.pcie import Access
from tests.hardware.iommu.amdvi.by_hand import BEYOND, DOMAIN, GPA, GUEST, HOST, IOVA, PAGE, PASID, RID, Bench

GUEST_FLAGS = int(Flag.GN | Flag.US)


@pytest.fixture
def bench():
    """A host table of four levels, no guest table."""
    bench = Bench()
    bench.dte(Mode=4)
    bench.host()
    return bench


@pytest.fixture
def guest():
    """A guest table of four levels, no host table."""
    bench = Bench()
    bench.dte(GV=1)
    bench.gcr3()
    bench.guest()
    return bench


@pytest.fixture
def nested():
    """Both."""
    bench = Bench()
    bench.nested()
    return bench


def plain(bench, access=Access.READ, address=GPA):
    """A request without PASID."""
    return bench.ask(access, address=address, pasid=None)


# --- host tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5, 6])
def test_a_host_table_has_one_to_six_levels(levels):
    """Each looks up nine bits; an address beyond them is a page fault."""
    bench = Bench()
    bench.dte(Mode=levels)
    top = (1 << 12 + 9 * levels) - 1 & (1 << 64) - 1
    bench.host(top, levels=levels)
    assert plain(bench, address=top) == PAGE | 0xFFF
    if levels < 6:
        assert plain(bench, address=top + 1) == Reason.HOST_BEYOND.meaning
        assert bench.event() == EventRecord(EventCode.IO_PAGE_FAULT, RID, DOMAIN, 0, top + 1)


@pytest.mark.parametrize("leaf", [1, 2, 3])
def test_next_level_0_is_a_page_of_the_levels_size(bench, leaf):
    """4 KiB, 2 MiB, 1 GiB; lower address bits of the entry do not count."""
    bench.host(1 << 39 | GPA, page=PAGE, leaf=leaf)
    inside = (1 << 3 + 9 * leaf) - 1
    assert plain(bench, address=1 << 39 | GPA) == PAGE & ~inside | GPA & inside


@pytest.mark.parametrize(
    ("level", "page", "size"),
    [
        (1, 0x80_0000, 0x2000),
        (1, 0x80_7000, 0x1_0000),
        (1, 0xF_F000 | 0x4000_0000, 0x20_0000),
        (2, 0x400F_F000, 0x20_0000),
    ],
)
def test_next_level_7_codes_the_size_in_the_address(bench, level, page, size):
    """The lowest zero, from bit 12 on, is half of the size; it must fit the level."""
    address = 1 << 39 | GPA
    bench.host(address, page=page, leaf=level, NextLevel=7)
    found = plain(bench, address=address)
    ok = 1 << 3 + 9 * level <= size < 1 << 12 + 9 * level
    assert found == (page & -size | address & size - 1 if ok else Reason.HOST_LEVEL.meaning)


def test_an_illegal_level_is_told_with_pr_and_nothing_else(bench):
    """NextLevel not below the entry's own: flags=0x0010, and 0x0030 for a write as in real logs."""
    at = bench.host_at(3)
    for below in (3, 4, 5, 6):
        bench.memory.store(at, V1_PTE.encode(PR=1, NextLevel=below, addr=HOST, IR=1, IW=1)[0])
        assert plain(bench, Access.WRITE) == Reason.HOST_LEVEL.meaning
        assert bench.event() == EventRecord(EventCode.IO_PAGE_FAULT, RID, DOMAIN, 0x30, GPA)


def test_levels_can_be_skipped(bench):
    """From level 4 to level 1: the address bits between must be zero."""
    table = HOST + 0x9000
    bench.memory.store(bench.host_at(4), V1_PTE.encode(PR=1, NextLevel=1, addr=table, IR=1, IW=1)[0])
    bench.memory.store(table + 5 * 8, V1_PTE.encode(PR=1, addr=PAGE, IR=1, IW=1)[0])
    assert plain(bench, address=0x5678) == PAGE | 0x678
    for bit in (21, 29, 30, 38):
        assert plain(bench, address=0x5678 | 1 << bit) == Reason.HOST_ABSENT.meaning
    assert bench.event().flags == 0


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_rights_of_all_host_entries_together(bench, level):
    """One entry without IR or IW denies; an entry that is not present is told first."""
    at = bench.host_at(level)
    word = bench.memory.load(at)
    bench.memory.store(at, word & ~(1 << 62))
    assert plain(bench) == PAGE | GPA & 0xFFF
    assert plain(bench, Access.WRITE) == Reason.HOST_DENIED.meaning
    assert bench.event().flags == Flag.PR | Flag.PE | Flag.RW == 0x70
    bench.memory.store(at, word & ~(1 << 61))
    assert plain(bench, Access.WRITE) == PAGE | GPA & 0xFFF
    for access in (Access.READ, Access.EXECUTE, Access.ATOMIC):
        assert plain(bench, access) == Reason.HOST_DENIED.meaning
    bench.memory.store(bench.host_at(1), 0)
    assert plain(bench) == Reason.HOST_ABSENT.meaning


@pytest.mark.parametrize("bit", [52, 58, 48, 51])
def test_reserved_bits_of_a_host_entry(bench, bit):
    """Bits 58:52, and address bits beyond physical addresses."""
    at = bench.host_at(2)
    bench.memory.store(at, bench.memory.load(at) | 1 << bit)
    assert plain(bench) == Reason.HOST_RESERVED.meaning
    assert bench.event().flags == Flag.PR | Flag.RZ


@pytest.mark.parametrize("bit", [1, 4, 8, 59, 60, 63])
def test_other_bits_of_a_host_entry_are_ignored(bench, bit):
    """Software's, U, FC."""
    at = bench.host_at(1)
    bench.memory.store(at, bench.memory.load(at) | 1 << bit)
    assert plain(bench) == PAGE | GPA & 0xFFF


def test_a_host_table_that_no_memory_answers_for(bench):
    """PAGE_TAB_HARDWARE_ERROR of the domain."""
    bench.dte(Mode=4, HostRoot=BEYOND)
    assert plain(bench) == Reason.HOST_UNREADABLE.meaning
    assert bench.event() == EventRecord(EventCode.PAGE_TAB_HARDWARE_ERROR, RID, DOMAIN, 1 << 9, GPA)


def test_a_page_beyond_physical_addresses(bench):
    """A page of a high level reaches further than any address."""
    bench.dte(Mode=6)
    bench.memory.store(HOST, V1_PTE.encode(PR=1, IR=1, IW=1)[0])
    assert plain(bench, address=0x5000) == 0x5000
    assert plain(bench, address=1 << 49) == Reason.BEYOND.meaning


@pytest.mark.parametrize(
    ("had", "card", "table", "leaf"),
    [
        (0, {}, 0, 0),
        (1, {}, 0x20, 0x20),
        (2, {}, 0, 0x40),
        (3, {}, 0x20, 0x60),
        (3, {"hdsup": False}, 0x20, 0x20),
        (3, {"hasup": False, "hdsup": False}, 0, 0),
    ],
)
def test_host_marks_follow_had(had, card, table, leaf):
    """Accessed in every entry, dirty in the leaf of a write, on a unit that can; never by a denied access."""
    bench = Bench(**card)
    bench.dte(Mode=4, HAD=had)
    bench.host()
    ats = [bench.host_at(level) for level in (4, 3, 2, 1)]
    plain(bench)
    assert [bench.memory.load(at) & 0x60 for at in ats] == [table] * 3 + [leaf & 0x20]
    plain(bench, Access.WRITE)
    assert [bench.memory.load(at) & 0x60 for at in ats] == [table] * 3 + [leaf]
    for at in ats:
        bench.memory.store(at, bench.memory.load(at) & ~0x60)
    bench.memory.store(ats[-1], bench.memory.load(ats[-1]) & ~(1 << 62))
    plain(bench, Access.WRITE)
    assert [bench.memory.load(at) & 0x60 for at in ats] == [0] * 4


# --- guest tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", [1, 2, 3])
@pytest.mark.parametrize("levels", [4, 5])
def test_a_guest_table_has_four_or_five_levels(levels, leaf):
    """Pages of 4 KiB, 2 MiB, 1 GiB; addresses are sign-extended."""
    bench = Bench()
    bench.dte(GV=1, GPTMode=levels - 4)
    bench.gcr3()
    negative = IOVA | (1 << 64) - (1 << 9 * levels + 11)
    for address in (IOVA, negative):
        bench.guest(address, page=0x4000_0000, levels=levels, leaf=leaf)
        inside = (1 << 3 + 9 * leaf) - 1
        assert bench.ask(address=address) == 0x4000_0000 | address & inside
    for wrong in (1 << 9 * levels + 11, negative & ~(1 << 63), IOVA | 1 << 63):
        assert bench.ask(address=wrong) == Reason.GUEST_NOT_CANONICAL.meaning
        assert bench.event() == EventRecord(EventCode.IO_PAGE_FAULT, RID, PASID, GUEST_FLAGS, wrong)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_rights_of_all_guest_entries_together(guest, level):
    """RW for writes, US for user requests, NX against execution; each in any entry."""
    at = guest.guest_at(level)
    word = guest.memory.load(at)
    guest.memory.store(at, word & ~2)
    assert guest.ask(Access.WRITE) == Reason.GUEST_DENIED.meaning
    assert guest.event().flags == GUEST_FLAGS | Flag.PR | Flag.PE | Flag.RW
    assert guest.ask(Access.WRITE, privileged=True) == Reason.GUEST_DENIED.meaning
    guest.memory.store(at, word & ~4)
    assert guest.ask() == Reason.GUEST_DENIED.meaning
    assert guest.ask(privileged=True) == PAGE | IOVA & 0xFFF
    guest.memory.store(at, word | 1 << 63)
    assert guest.ask() == PAGE | IOVA & 0xFFF
    assert guest.ask(Access.EXECUTE) == Reason.GUEST_DENIED.meaning
    assert guest.event().flags == GUEST_FLAGS | Flag.PR | Flag.PE | Flag.NX
    guest.memory.store(guest.guest_at(1), 0)
    assert guest.ask(Access.EXECUTE) == Reason.GUEST_ABSENT.meaning


def test_a_unit_without_nx_ignores_it():
    """EFR.NX=0."""
    bench = Bench(nx=False)
    bench.dte(GV=1)
    bench.gcr3()
    bench.guest(NX=1)
    assert bench.ask(Access.EXECUTE) == PAGE | IOVA & 0xFFF


@pytest.mark.parametrize(("level", "bits"), [(4, 0x80), (2, 0x80 | 1 << 13), (3, 0x80 | 1 << 29), (1, 1 << 50)])
def test_reserved_bits_of_a_guest_entry(guest, level, bits):
    """A large page where none can be, low address bits of a large page, an address beyond physical ones."""
    at = guest.guest_at(level)
    guest.memory.store(at, 7 | bits)
    assert guest.ask() == Reason.GUEST_RESERVED.meaning
    assert guest.event().flags == GUEST_FLAGS | Flag.PR | Flag.RZ


def test_a_guest_table_that_no_memory_answers_for(guest):
    """PAGE_TAB_HARDWARE_ERROR with the PASID."""
    guest.gcr3(cr3=BEYOND)
    assert guest.ask() == Reason.GUEST_UNREADABLE.meaning
    assert guest.event() == EventRecord(EventCode.PAGE_TAB_HARDWARE_ERROR, RID, PASID, GUEST_FLAGS | 1 << 9, IOVA)


def test_guest_marks_are_the_processors(guest):
    """Accessed in every entry, dirty in the leaf of a write; not by an access that the table denies."""
    ats = [guest.guest_at(level) for level in (4, 3, 2, 1)]
    leaf = guest.memory.load(ats[-1])
    guest.memory.store(ats[-1], leaf & ~2)
    guest.ask(Access.WRITE)
    assert [guest.memory.load(at) & 0x60 for at in ats] == [0] * 4
    guest.memory.store(ats[-1], leaf)
    guest.ask()
    assert [guest.memory.load(at) & 0x60 for at in ats] == [0x20] * 4
    guest.ask(Access.WRITE)
    assert [guest.memory.load(at) & 0x60 for at in ats] == [0x20] * 3 + [0x60]


# --- both together ----------------------------------------------------------------------------------------------------


def test_every_guest_physical_address_goes_through_the_host_table(nested):
    """CR3, each pointer, and the page: 4 + 4 * (1 + 4) reads behind the GCR3 entry, and marks where they are due."""
    assert nested.ask(Access.WRITE) == PAGE | IOVA & 0xFFF
    stops = nested.unit.walk(nested.request()).stops
    assert [stop.stage for stop in stops[3:]] == [*[*["second"] * 4, "first"] * 4, *["second"] * 4]
    assert [stop.level for stop in stops if stop.stage == "first"] == [4, 3, 2, 1]


def test_a_host_fault_on_the_way_is_told_to_the_host(nested):
    """GN=0, the domain, and the guest-physical address: of the page, or of a table."""
    nested.memory.store(nested.host_at(1), 0)
    assert nested.ask(Access.WRITE) == Reason.HOST_ABSENT.meaning
    gpa = GPA & ~0xFFF | IOVA & 0xFFF
    assert nested.event() == EventRecord(EventCode.IO_PAGE_FAULT, RID, DOMAIN, int(Flag.RW), gpa)
    nested.memory.store(nested.host_at(1, GUEST + 0x2000), 0)
    assert nested.ask() == Reason.HOST_ABSENT.meaning
    assert nested.event().address == nested.guest_at(2)


def test_both_tables_must_allow_the_access(nested):
    """The guest's denial names the PASID, the host's the domain."""
    at = nested.host_at(1)
    nested.memory.store(at, nested.memory.load(at) & ~(1 << 62))
    assert nested.ask() == PAGE | IOVA & 0xFFF
    assert nested.ask(Access.WRITE) == Reason.HOST_DENIED.meaning
    assert nested.event().pasid is None
    at = nested.guest_at(1)
    nested.memory.store(at, nested.memory.load(at) & ~2)
    assert nested.ask(Access.WRITE) == Reason.GUEST_DENIED.meaning
    assert nested.event().pasid == PASID


def test_guest_marks_need_the_hosts_permission_to_write(nested):
    """A guest table on a read-only page of the host cannot be marked: told as the host's fault, and nothing is set."""
    at = nested.host_at(1, GUEST + 0x3000)
    nested.memory.store(at, nested.memory.load(at) & ~(1 << 62))
    assert nested.ask() == Reason.HOST_DENIED.meaning
    assert nested.event().address == nested.guest_at(1)
    marked = nested.memory.load(nested.guest_at(1))
    nested.memory.store(nested.guest_at(1), marked | 0x20)
    assert nested.ask() == PAGE | IOVA & 0xFFF
    assert nested.unit.walk(nested.request(Access.WRITE)).fault.meaning == Reason.HOST_DENIED.meaning


def test_wide_addresses_of_a_guest_are_the_host_tables_affair(nested):
    """An address that no memory has is one that the host table does not translate, no reserved bit."""
    nested.memory.store(nested.guest_at(1), V2_PTE.encode(P=1, RW=1, US=1, addr=1 << 50)[0])
    assert nested.ask() == Reason.HOST_BEYOND.meaning
    nested.gcr3(cr3=1 << 50)
    assert nested.ask() == Reason.HOST_BEYOND.meaning
    assert nested.event().address == 1 << 50 | (IOVA >> 39 & 511) * 8
