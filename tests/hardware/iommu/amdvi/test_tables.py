"""From requester ID and PASID to the GCR3 entry: each step that can fail, with the event that it leaves."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord
from pasidlab.hardware.iommu.amdvi.faults import EventCode, Flag, Reason
from pasidlab.hardware.iommu.amdvi.register_file import DEV_TAB
from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.layouts.amd import DTE, GCR3_ENTRY
from pasidlab.hardware.pcie import Access
from tests.hardware.iommu.amdvi.by_hand import (
    BEYOND,
    DOMAIN,
    DTE_AT,
    GCR3,
    GPA,
    GUEST,
    HOST,
    IOVA,
    ON,
    PAGE,
    PASID,
    RID,
    TABLE,
    Bench,
)

GUEST_FLAGS = int(Flag.GN | Flag.US)


@pytest.fixture
def bench():
    """A guest table of four levels for one PASID, no host table."""
    bench = Bench()
    bench.dte(GV=1)
    bench.gcr3()
    bench.guest()
    return bench


def told(bench, code, flags=0, number=0, address=IOVA):
    """Whether the newest event says this, of the bench's device."""
    assert bench.event() == EventRecord(code, 0 if code > 4 and code < 8 else RID, number, int(flags), address)


def test_a_pasid_finds_its_guest_table(bench):
    """Device table entry, GCR3 tables, page tables: the address."""
    assert bench.ask() == PAGE | IOVA & 0xFFF
    names = [stop.name for stop in bench.unit.walk(bench.request()).stops]
    assert names == ["device table entry", "GCR3 entry", "GCR3 entry", *["guest entry"] * 4]


def test_while_the_unit_is_off_everything_passes(bench):
    """IommuEn=0: addresses as they are."""
    bench.control()
    assert bench.ask(address=0x5000) == 0x5000
    assert bench.ask(address=0x5000, pasid=None, access=Access.WRITE) == 0x5000


def test_an_invalid_entry_lets_requests_pass(bench):
    """V=0: whatever the other bits are, with and without PASID; only not beyond physical addresses."""
    bench.memory.store_words(DTE_AT, (0x7C, 0, 0, 1))
    assert bench.ask(address=0x5000) == 0x5000
    assert bench.ask(address=0x5000, pasid=None) == 0x5000
    assert bench.ask(address=1 << 48, pasid=None) == Reason.BEYOND.meaning
    told(bench, EventCode.IO_PAGE_FAULT, 0, 0, 1 << 48)


def test_without_translation_fields_nothing_passes(bench):
    """V=1, TV=0: a page fault with PR=0."""
    bench.dte(TV=0, GV=1)
    assert bench.ask(Access.WRITE) == Reason.NOT_TRANSLATED.meaning
    told(bench, EventCode.IO_PAGE_FAULT, Flag.RW, DOMAIN)


@pytest.mark.parametrize("access", list(Access))
@pytest.mark.parametrize("pasid", [None, PASID])
def test_the_device_table_entry_must_allow_the_access(bench, access, pasid):
    """IR and IW, with and without tables behind it; an atomic access needs both."""
    for read in (0, 1):
        for write in (0, 1):
            bench.dte(GV=1, IR=read, IW=write)
            needed = {"read": read, "write": write, "execute": read, "atomic": read and write}[access]
            answer = bench.ask(access, pasid=pasid, address=IOVA if pasid else 0x5000)
            assert (answer == Reason.DTE_DENIED.meaning) is not bool(needed)


def test_mode_zero_passes_what_has_no_pasid(bench):
    """No host translation: addresses as they are, within the rights of the entry."""
    assert bench.ask(address=0x5000, pasid=None) == 0x5000
    assert bench.ask(address=1 << 50, pasid=None) == Reason.BEYOND.meaning


@pytest.mark.parametrize("bit", [2, 6, 63, 106, 180, 181, 187, 192, 255])
def test_a_reserved_bit_in_the_entry(bench, bit):
    """ILLEGAL_DEV_TABLE_ENTRY with RZ=1, of the PASID of the request."""
    at = DTE_AT + bit // 64 * 8
    bench.memory.store(at, bench.memory.load(at) | 1 << bit % 64)
    assert bench.ask(Access.WRITE) == Reason.DTE_RESERVED.meaning
    told(bench, EventCode.ILLEGAL_DEV_TABLE_ENTRY, Flag.RZ | Flag.RW | GUEST_FLAGS, PASID)
    assert bench.ask(pasid=None, address=0x5000) == Reason.DTE_RESERVED.meaning
    told(bench, EventCode.ILLEGAL_DEV_TABLE_ENTRY, Flag.RZ, 0, 0x5000)


def test_roots_beyond_physical_addresses_are_reserved_bits(bench):
    """Host root and GCR3 root, on a unit of 40 bits."""
    small = Bench(address_bits=40)
    small.dte(HostRoot=1 << 40)
    assert small.ask(pasid=None) == Reason.DTE_RESERVED.meaning
    small.dte(GV=1, root=1 << 40)
    assert small.ask() == Reason.DTE_RESERVED.meaning


@pytest.mark.parametrize(
    ("card", "values"),
    [
        ({}, {"Mode": 7}),
        ({"hats": 0}, {"Mode": 5}),
        ({"hats": 1}, {"Mode": 6}),
        ({}, {"GV": 1, "GLX": 3}),
        ({"glx": 0}, {"GV": 1, "GLX": 1}),
        ({}, {"GV": 1, "GPTMode": 2}),
        ({"gats": 0}, {"GV": 1, "GPTMode": 1}),
    ],
)
def test_levels_that_the_unit_lacks(card, values):
    """Mode, GLX, GPTMode: ILLEGAL_DEV_TABLE_ENTRY with RZ=0."""
    bench = Bench(**card)
    bench.dte(**values)
    assert bench.ask(pasid=None) == Reason.DTE_LEVEL.meaning
    told(bench, EventCode.ILLEGAL_DEV_TABLE_ENTRY)


def test_guest_fields_do_not_count_without_guest_translation():
    """GV=0: GLX and GPTMode may say anything."""
    bench = Bench()
    bench.dte(GLX=3, GPTMode=3)
    assert bench.ask(pasid=None, address=0x5000) == 0x5000


def test_a_device_beyond_the_table(bench):
    """The register says how long the table is: ILLEGAL_DEV_TABLE_ENTRY."""
    bench.unit.mmio_write(DEV_TAB, TABLE | 2)
    assert bench.ask() == PAGE | IOVA & 0xFFF
    assert bench.ask(rid=0x180) == Reason.DTE_OUTSIDE.meaning
    assert bench.event().rid == 0x180
    assert bench.event().code == EventCode.ILLEGAL_DEV_TABLE_ENTRY


def test_a_table_that_no_memory_answers_for(bench):
    """DEV_TAB_HARDWARE_ERROR, master abort."""
    bench.unit.mmio_write(DEV_TAB, BEYOND | 0x1FF)
    assert bench.ask(pasid=None) == Reason.DTE_UNREADABLE.meaning
    told(bench, EventCode.DEV_TAB_HARDWARE_ERROR, 1 << 9)


# --- GCR3 tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("pasid", [0, 1, 0x1FF, 0x200, 0x3FFFF, 0x40000, 0xFFFFF])
def test_gcr3_tables_have_one_to_three_levels(levels, pasid):
    """Nine bits of the PASID each; what is left over must be zero."""
    bench = Bench(pasmax=19)
    bench.dte(GV=1, GLX=levels - 1)
    bench.gcr3(pasid, levels)
    bench.guest()
    found = bench.ask(pasid=pasid)
    assert found == (PAGE | IOVA & 0xFFF if pasid < 1 << 9 * levels else Reason.PASID_BEYOND.meaning)


def test_a_pasid_wider_than_the_unit_supports(bench):
    """EFR.PASmax says 16 bits."""
    assert bench.ask(pasid=0x10000) == Reason.PASID_BEYOND.meaning
    told(bench, EventCode.IO_PAGE_FAULT, GUEST_FLAGS, 0x10000)


@pytest.mark.parametrize("how", ["GV", "GTEn"])
def test_without_guest_translation_no_pasid_is_known(bench, how):
    """GV=0 in the entry, or GTEn=0 in the control register; requests without PASID go on."""
    if how == "GV":
        bench.dte(GV=0)
    else:
        bench.control(*[name for name in ON if name != "GTEn"])
    assert bench.ask() == Reason.NO_PASIDS.meaning
    told(bench, EventCode.IO_PAGE_FAULT, GUEST_FLAGS, PASID)
    assert bench.ask(pasid=None, address=0x5000) == 0x5000


@pytest.mark.parametrize("level", [1, 2])
def test_a_gcr3_entry_that_is_not_valid(bench, level):
    """IO_PAGE_FAULT with GN=1, PR=0; flags say what the request was."""
    at = bench.gcr3() if level == 1 else GCR3 + (PASID >> 9) * 8
    bench.memory.store(at, bench.memory.load(at) & ~1)
    for access, more in (
        (Access.READ, 0),
        (Access.WRITE, Flag.RW),
        (Access.EXECUTE, Flag.NX),
        (Access.ATOMIC, Flag.RW),
    ):
        assert bench.ask(access) == Reason.GCR3_ABSENT.meaning
        told(bench, EventCode.IO_PAGE_FAULT, GUEST_FLAGS | more, PASID)
    bench.ask(privileged=True)
    assert bench.event().flags == Flag.GN


@pytest.mark.parametrize("bit", [1, 11, 52, 63, 50])
def test_a_reserved_bit_in_a_gcr3_entry(bench, bit):
    """Also address bits beyond physical addresses, where the table is system-physical."""
    at = bench.gcr3()
    bench.memory.store(at, bench.memory.load(at) | 1 << bit)
    assert bench.ask() == Reason.GCR3_RESERVED.meaning
    told(bench, EventCode.IO_PAGE_FAULT, GUEST_FLAGS | Flag.PR | Flag.RZ, PASID)


def test_a_gcr3_table_that_no_memory_answers_for(bench):
    """PAGE_TAB_HARDWARE_ERROR, master abort."""
    bench.dte(GV=1, root=BEYOND)
    assert bench.ask() == Reason.GCR3_UNREADABLE.meaning
    told(bench, EventCode.PAGE_TAB_HARDWARE_ERROR, GUEST_FLAGS | 1 << 9, PASID)


# --- where GCR3 tables lie --------------------------------------------------------------------------------------------


def moved(bench):
    """GCR3 tables at a guest-physical address that the host table maps elsewhere, and nothing at that address."""
    bench.nested(root=GPA & ~0xFFF)
    for level in range(2):
        bench.host((GPA & ~0xFFF) + level * 0x1000, GCR3 + level * 0x1000)
    bench.memory.store(GCR3 + (PASID >> 9) * 8, GCR3_ENTRY.encode(V=1, CR3=(GPA & ~0xFFF) + 0x1000)[0])
    bench.guest(page=GUEST)


def test_without_the_mode_gcr3_tables_are_system_physical():
    """Also when there is a host table: the root is taken as it stands."""
    bench = Bench()
    moved(bench)
    assert bench.ask() == Reason.GCR3_UNREADABLE.meaning
    bench.dte(GV=1, Mode=4, root=GCR3)
    bench.memory.store(GCR3 + (PASID >> 9) * 8, GCR3_ENTRY.encode(V=1, CR3=GCR3 + 0x1000)[0])
    assert bench.ask() == GUEST | IOVA & 0xFFF


def test_with_the_mode_root_and_inner_tables_go_through_the_host_table():
    """GCR3TRPMode: EFR2 bit 3 and control bit 58, and a host table."""
    bench = Bench()
    moved(bench)
    bench.control(*ON, "GCR3TRPMode")
    assert bench.ask() == GUEST | IOVA & 0xFFF
    stops = bench.unit.walk(bench.request()).stops
    assert [stop.name for stop in stops[:7]] == ["device table entry", *["host entry"] * 4, "GCR3 entry", "host entry"]
    assert stops[5].address == GCR3 + (PASID >> 9) * 8
    entry = next(one for one in bench.unit.entries(RID) if one.pasid == PASID)
    assert (entry.kind, entry.tag, entry.first, entry.second) == (EntryKind.NESTED, DOMAIN, GUEST, HOST)
    assert (entry.address, entry.guest_address) == (GCR3 + 0x1000 + (PASID & 511) * 8, (GPA & ~0xFFF) + 0x11A0)


def test_a_unit_without_the_feature_ignores_the_control_bit():
    """The bit reads as zero, the tables stay system-physical."""
    bench = Bench(gcr3trp=False)
    moved(bench)
    bench.control(*ON, "GCR3TRPMode")
    assert bench.unit.mmio_read(0x18) >> 58 & 1 == 0
    assert bench.ask() == Reason.GCR3_UNREADABLE.meaning


def test_without_a_host_table_the_mode_changes_nothing(bench):
    """Mode=0: guest-physical and system-physical are the same."""
    bench.control(*ON, "GCR3TRPMode")
    assert bench.ask() == PAGE | IOVA & 0xFFF


def test_the_host_table_says_no_to_a_gcr3_table():
    """Told with GN=0, the domain, and the guest-physical address of the GCR3 entry."""
    bench = Bench()
    bench.nested(root=0x5000_0000)
    bench.control(*ON, "GCR3TRPMode")
    assert bench.ask() == Reason.HOST_ABSENT.meaning
    told(bench, EventCode.IO_PAGE_FAULT, 0, DOMAIN, 0x5000_0000 + (PASID >> 9) * 8)


# --- requests without PASID -------------------------------------------------------------------------------------------


def test_giov_sends_requests_without_pasid_to_the_table_of_pasid_0(bench):
    """GIOV=1: the guest table of PASID 0; faults are told as of PASID 0."""
    bench.dte(GV=1, GIOV=1)
    assert bench.ask(pasid=None) == Reason.GCR3_ABSENT.meaning
    told(bench, EventCode.IO_PAGE_FAULT, GUEST_FLAGS, 0)
    bench.gcr3(0)
    assert bench.ask(pasid=None) == PAGE | IOVA & 0xFFF
    entries = bench.unit.entries(RID)
    assert [(one.pasid, one.layout, one.kind) for one in entries if one.pasid == 0] == [
        (0, GCR3_ENTRY, EntryKind.FIRST)
    ]


def test_giov_needs_the_feature_and_gv(bench):
    """Without EFR.GIOSUP, or with GV=0, the host table alone answers."""
    bench.dte(GIOV=1)
    assert bench.ask(pasid=None, address=0x5000) == 0x5000
    other = Bench(giosup=False)
    other.dte(GV=1, GIOV=1)
    assert other.ask(pasid=None, address=0x5000) == 0x5000


# --- entries ----------------------------------------------------------------------------------------------------------


def test_entries_tell_what_each_request_meets(bench):
    """The device table entry for requests without PASID, a GCR3 entry for each PASID."""
    for pasid in (PASID + 1, PASID + 7):
        bench.gcr3(pasid)
    found = bench.unit.entries(RID)
    assert [(one.pasid, one.kind) for one in found] == [
        (0, EntryKind.PASS_THROUGH),
        *[(pasid, EntryKind.FIRST) for pasid in (PASID, PASID + 1, PASID + 7)],
    ]
    assert found[0].layout is DTE
    bench.nested()
    assert [one.kind for one in bench.unit.entries(RID)] == [EntryKind.SECOND, *[EntryKind.NESTED] * 3]


@pytest.mark.parametrize("values", [{"IR": 0, "IW": 0}, {"TV": 0}, {"Mode": 7}])
def test_what_would_only_fault_is_not_listed(bench, values):
    """A device that is blocked, or whose entry cannot be used, has no entries; V=0 passes everything."""
    bench.dte(GV=1, **values)
    assert bench.unit.entries(RID) == []
    bench.memory.store_words(DTE_AT, (0, 0, 0, 0))
    assert [one.kind for one in bench.unit.entries(RID)] == [EntryKind.PASS_THROUGH]


def test_a_gcr3_table_that_names_itself_is_listed_in_bounded_time():
    """Each table once for each level."""
    bench = Bench()
    bench.dte(GV=1, GLX=2)
    bench.memory.store_words(GCR3, [GCR3_ENTRY.encode(V=1, CR3=GCR3)[0]] * 512)
    assert len(bench.unit.entries(RID)) == 513
