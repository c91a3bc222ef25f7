"""From the PASID entry to the page: each fault reason at its level, page sizes, accessed and dirty bits."""

from __future__ import annotations

import pytest

from pasidlab.hardware.layouts.vtd import FL_ENTRY, SL_ENTRY
from pasidlab.hardware.pcie import Access
from tests.hardware.iommu.vtd.by_hand import BEYOND, FIRST, IOVA, PAGE, SECOND, Bench

A, D, EA = FL_ENTRY["A"].mask, FL_ENTRY["D"].mask, FL_ENTRY["EA"].mask


def first(**entry):
    """A first-level bench; keywords of the unit's identity start with ``unit_``."""
    identity = {name.removeprefix("unit_"): entry.pop(name) for name in list(entry) if name.startswith("unit_")}
    bench = Bench(**identity)
    bench.entry(PGTT=1, **entry)
    bench.first_level()
    return bench


def second(**entry):
    """The same with a second level."""
    identity = {name.removeprefix("unit_"): entry.pop(name) for name in list(entry) if name.startswith("unit_")}
    bench = Bench(**identity)
    bench.entry(PGTT=2, **entry)
    bench.second_level()
    return bench


def nested(**entry):
    """The same with both."""
    bench = Bench()
    bench.nested()
    bench.entry(PGTT=3, **entry)
    return bench


# --- first level ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [0x8000_0000_0000, 0xFFFF_7FFF_FFFF_F000, 0x1_0000_0000_0000, 1 << 63])
def test_first_level_addresses_must_be_canonical(address):
    """Bits 63:47 must be equal."""
    assert first().ask(address=address) == 0x80


def test_the_upper_half_of_the_address_space_translates():
    """A canonical address with all upper bits set is as good as any."""
    bench = first()
    bench.first_level(0xFFFF_8000_0000_1000)
    assert bench.ask(address=0xFFFF_8000_0000_1004) == PAGE | 4


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_absent_first_level_entries_fault_at_every_level(level):
    """P=0 is 0x71, whatever else is set."""
    bench = first()
    bench.memory.store(bench.first_at(level), ~1 & (1 << 64) - 1)
    assert bench.ask() == 0x71


@pytest.mark.parametrize(("level", "code"), [(4, 0x70), (2, 0x70), (1, BEYOND)])
def test_unreadable_tables_fault_where_they_are_read(level, code):
    """A pointer beyond memory: 0x70 at the next level; in a leaf it is an address."""
    bench = first()
    bench.memory.store_words(bench.first_at(level), FL_ENTRY.encode(P=1, RW=1, US=1, A=1, ADDR=BEYOND))
    assert bench.ask(address=IOVA & ~0xFFF) == code


def test_an_unreadable_top_table_is_told_apart():
    """FLPTPTR beyond memory is 0x73."""
    assert first(FLPTPTR=BEYOND).ask() == 0x73


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize(("missing", "access", "code"), [("RW", Access.WRITE, 0x85), ("US", Access.READ, 0x81)])
def test_every_level_must_grant_the_access(level, missing, access, code):
    """One entry without the permission blocks the request."""
    bench = first()
    at = bench.first_at(level)
    bench.memory.store(at, bench.memory.load(at) & ~FL_ENTRY[missing].mask)
    assert bench.ask(access) == code


def test_a_read_only_page_can_be_read():
    """And not written, and atomics write."""
    bench = first()
    bench.first_level(RW=0)
    assert [bench.ask(access) for access in (Access.READ, Access.WRITE, Access.ATOMIC)] == [PAGE | 0x890, 0x85, 0x85]


def test_privileged_requests_need_sre_and_obey_wpe():
    """SRE=0 refuses; WPE=0 lets a supervisor write to read-only pages, WPE=1 does not; U/S=0 pages are theirs."""
    assert first().ask(privileged=True) == 0x5D
    for wpe, answer in ((0, PAGE | 0x890), (1, 0x85)):
        bench = first(SRE=1, WPE=wpe)
        bench.first_level(RW=0, US=0)
        assert bench.ask(privileged=True) == PAGE | 0x890
        assert bench.ask(Access.WRITE, privileged=True) == answer


def test_execution_needs_ere_and_no_xd():
    """0x5c without ERE; XD counts when NXE is set."""
    assert first().ask(Access.EXECUTE) == 0x5C
    for nxe, answer in ((0, PAGE | 0x890), (1, 0x82)):
        bench = first(ERE=1, NXE=nxe)
        bench.first_level(XD=1)
        assert bench.ask(Access.EXECUTE) == answer
        assert bench.ask(Access.READ) == PAGE | 0x890


@pytest.mark.parametrize(
    ("level", "bits"),
    [(1, 1 << 51), (2, 1 << 48), (4, 1 << 7), (3, 1 << 7 | 1 << 13), (2, 1 << 7 | 1 << 20)],
)
def test_reserved_bits_of_first_level_entries_are_refused(level, bits):
    """Address bits above the host width, PS at the top, low address bits of large pages."""
    bench = first()
    at = bench.first_at(level)
    bench.memory.store(at, (bench.memory.load(at) & ~0x1FF000) | bits)
    assert bench.ask() == 0x72


@pytest.mark.parametrize("bits", [1 << 8, 1 << 9, 1 << 11, 0x7FF << 52, 1 << 63])
def test_ignored_bits_of_first_level_entries_are_ignored(bits):
    """Global, software-available, protection keys, XD of a read."""
    bench = first()
    bench.memory.store(bench.first_at(1), bench.memory.load(bench.first_at(1)) | bits)
    assert bench.ask() == PAGE | 0x890


@pytest.mark.parametrize(("leaf", "page"), [(2, 0x20_0000), (3, 1 << 30)])
def test_large_first_level_pages_keep_more_of_the_address(leaf, page):
    """2 MiB and 1 GiB; bit 12 of a large page is a PAT bit, not an address bit."""
    bench = first()
    bench.first_level(page=page, leaf=leaf)
    at = bench.first_at(leaf)
    bench.memory.store(at, bench.memory.load(at) | 1 << 12)
    assert bench.ask() == page + IOVA % (1 << 12 + 9 * (leaf - 1))


def test_gigabyte_pages_need_the_capability():
    """CAP.FL1GP=0 makes PS reserved at level 3."""
    bench = first(unit_fl1gp=False)
    bench.first_level(page=1 << 30, leaf=3)
    assert bench.ask() == 0x72


def test_five_levels_translate_57_bits():
    """FLPM=1 on a unit with CAP.FL5LP."""
    address = 0x00AB_7F12_3456_7890
    bench = first(unit_fl5lp=True, FLPM=1)
    bench.first_level(address, levels=5)
    assert bench.ask(address=address) == PAGE | 0x890
    assert bench.ask(address=1 << 56) == 0x80


def test_the_interrupt_range_is_never_a_result():
    """0xFEExxxxx, first level, second level and pass-through (the latter UNVERIFIED)."""
    bench = first()
    bench.first_level(page=0xFEE0_0000)
    assert bench.ask() == 0x87
    bench = second()
    bench.second_level(page=0xFEEF_F000)
    assert bench.ask() == 0x87
    bench = Bench()
    bench.entry(PGTT=4)
    assert bench.ask(address=0xFEE0_1000) == 0x87


def test_pass_through_leaves_addresses_alone():
    """Up to the host address width."""
    bench = Bench()
    bench.entry(PGTT=4)
    assert bench.ask(address=IOVA) == IOVA
    assert bench.ask(address=1 << 48) == 0x83


# --- accessed and dirty -----------------------------------------------------------------------------------------------


def test_real_requests_set_accessed_everywhere_and_dirty_in_the_leaf():
    """A read sets A at each level; a write adds D in the leaf only. Questions set nothing (``ask`` checks that)."""
    bench = first()
    for level in (4, 3, 2, 1):
        at = bench.first_at(level)
        bench.memory.store(at, bench.memory.load(at) & ~(A | D))
    assert bench.ask() == PAGE | 0x890
    flags = [bench.memory.load(bench.first_at(level)) & (A | D | EA) for level in (4, 3, 2, 1)]
    assert flags == [A, A, A, A]
    assert bench.ask(Access.WRITE) == PAGE | 0x890
    assert bench.memory.load(bench.first_at(1)) & (A | D) == A | D
    assert not bench.memory.load(bench.first_at(2)) & D


def test_the_extended_accessed_bit_needs_eafe():
    """EAFE=1 sets EA beside A at every level; without ECAP.EAFS it does not."""
    for eafs in (True, False):
        bench = first(EAFE=1, unit_eafs=eafs)
        assert bench.ask() == PAGE | 0x890
        assert [bool(bench.memory.load(bench.first_at(level)) & EA) for level in (4, 3, 2, 1)] == [eafs] * 4


def test_a_walk_that_does_not_snoop_cannot_set_flags():
    """0x90 when A is missing, nothing when all flags are there; a unit without SMPWCS never snoops."""
    for bench in (first(PWSNP=0), first(unit_smpwcs=False)):
        assert bench.ask() == PAGE | 0x890
        bench.first_level(A=0)
        assert bench.ask() == 0x90
        bench.first_level(A=1, D=0)
        assert bench.ask(Access.WRITE) == 0x90


def test_second_level_flags_are_set_only_when_asked_for():
    """SSADE=1 on a unit with SSADS; without snooping 0x7c."""
    bench = second()
    bench.ask(Access.WRITE)
    assert bench.memory.load(bench.second_at(1)) & 0x300 == 0
    bench.entry(PGTT=2, SSADE=1)
    bench.ask(Access.WRITE)
    assert [bench.memory.load(bench.second_at(level)) & 0x300 for level in (4, 1)] == [0x100, 0x300]
    assert second(SSADE=1, PWSNP=0).ask() == 0x7C


# --- second level -----------------------------------------------------------------------------------------------------


def test_the_second_level_translates_without_a_sign():
    """All 48 bits count; beyond them the address is too wide."""
    bench = second()
    assert bench.ask() == PAGE | 0x890
    bench.second_level(0xFFFF_FFFF_F000)
    assert bench.ask(address=0xFFFF_FFFF_F123) == PAGE | 0x123
    assert bench.ask(address=1 << 48) == 0x84


def test_the_smaller_of_mgaw_and_table_width_limits_the_address():
    """39 bits by three levels, or fewer by CAP.MGAW."""
    bench = second(unit_sagaw=0b00010, AW=1)
    bench.second_level(0x12_3456_7000, levels=3)
    assert bench.ask(address=0x12_3456_7890) == PAGE | 0x890
    assert bench.ask(address=1 << 39) == 0x84
    assert second(unit_mgaw=40).ask(address=1 << 40) == 0x84


@pytest.mark.parametrize(
    ("values", "access", "code"),
    [
        ({"R": 0, "W": 0}, Access.READ, 0x79),
        ({"R": 0, "W": 0}, Access.WRITE, 0x79),
        ({"W": 0}, Access.WRITE, 0x85),
        ({"R": 0}, Access.READ, 0x86),
        ({"R": 0}, Access.WRITE, PAGE | 0x890),
        ({"R": 0}, Access.ATOMIC, 0x86),
        ({"W": 0}, Access.ATOMIC, 0x85),
        ({"ADDR": 1 << 48}, Access.READ, 0x7A),
        ({"SNP": 1}, Access.READ, PAGE | 0x890),
        ({"TM": 1}, Access.READ, PAGE | 0x890),
    ],
)
def test_second_level_leaves_decide(values, access, code):
    """Absent, no write, no read, reserved."""
    bench = second()
    bench.second_level(**values)
    assert bench.ask(access) == code


@pytest.mark.parametrize(("name", "flag"), [("SNP", "sc"), ("TM", "dt")])
def test_leaf_bits_that_need_a_capability_are_reserved_without_it(name, flag):
    """SNP needs ECAP.SC, TM needs ECAP.DT; in a table entry both are reserved always."""
    bench = second(**{f"unit_{flag}": False})
    bench.second_level(**{name: 1})
    assert bench.ask() == 0x7A
    bench = second()
    at = bench.second_at(3)
    bench.memory.store(at, bench.memory.load(at) | SL_ENTRY[name].mask)
    assert bench.ask() == 0x7A


def test_unreadable_second_level_tables_fault_where_they_are_read():
    """The top one is 0x7b, a lower one 0x78."""
    assert second(SLPTPTR=BEYOND).ask() == 0x7B
    bench = second()
    bench.memory.store_words(bench.second_at(3), SL_ENTRY.encode(R=1, W=1, ADDR=BEYOND))
    assert bench.ask() == 0x78


@pytest.mark.parametrize(("leaf", "page"), [(2, 0x20_0000), (3, 1 << 30)])
def test_large_second_level_pages_need_the_capability(leaf, page):
    """CAP.SLLPS says which sizes exist; low address bits are reserved, bit 12 too."""
    bench = Bench()
    bench.entry(PGTT=2)
    bench.second_level(page=page, leaf=leaf)
    assert bench.ask() == page + IOVA % (1 << 12 + 9 * (leaf - 1))
    at = bench.second_at(leaf)
    bench.memory.store(at, bench.memory.load(at) | 1 << 12)
    assert bench.ask() == 0x7A
    bench = Bench(sllps=0)
    bench.entry(PGTT=2)
    bench.second_level(page=page, leaf=leaf)
    assert bench.ask() == 0x7A


def test_five_second_level_levels_translate_57_bits():
    """AW=3 where SAGAW and MGAW allow it."""
    address = 0x00AB_7F12_3456_7890
    bench = Bench(sagaw=0b01000, mgaw=57)
    bench.entry(PGTT=2, AW=3)
    bench.second_level(address, levels=5)
    assert bench.ask(address=address) == PAGE | 0x890


# --- nested -----------------------------------------------------------------------------------------------------------


def test_a_nested_walk_reads_24_entries():
    """Four tables of the first level and the page, each through four levels; and the four first-level entries."""
    bench = nested()
    walk = bench.unit.walk(bench.request())
    assert walk.address == PAGE | 0x890
    stages = [stop.stage for stop in walk.stops]
    assert stages == ["lookup"] * 4 + (["second"] * 4 + ["first"]) * 4 + ["second"] * 4
    assert bench.ask(Access.WRITE) == PAGE | 0x890


@pytest.mark.parametrize(
    ("values", "top", "lower"),
    [
        ({"R": 0, "W": 0}, 0x75, 0x76),
        ({"R": 0}, 0x75, 0x76),
        ({"ADDR": BEYOND}, 0x73, 0x70),
        ({"ADDR": 1 << 48}, 0x7A, 0x7A),
    ],
)
def test_the_second_level_must_let_first_level_tables_be_read(values, top, lower):
    """The top table and the lower ones have their own codes."""
    for table, code in enumerate((top, lower, lower, lower)):
        bench = nested()
        at = FIRST + table * 0x1000
        bench.second_level(at, at, **values)
        assert bench.ask() == code


def test_unreadable_second_level_tables_show_as_read_errors_of_the_first_level():
    """SLPTPTR without memory: the top first-level entry cannot be read."""
    assert nested(SLPTPTR=BEYOND).ask() == 0x73


def test_first_level_tables_beyond_the_guest_width_have_their_own_code():
    """0x74 for a table; the page's own address is 0x84."""
    bench = nested()
    bench.memory.store_words(bench.first_at(4), FL_ENTRY.encode(P=1, RW=1, US=1, A=1, ADDR=1 << 48))
    assert bench.ask() == 0x74
    bench = nested()
    bench.first_level(page=1 << 48)
    assert bench.ask() == 0x84


@pytest.mark.parametrize(
    ("values", "access", "code"),
    [
        ({"R": 0, "W": 0}, Access.READ, 0x79),
        ({"W": 0}, Access.WRITE, 0x85),
        ({"R": 0}, Access.READ, 0x86),
        ({"ADDR": 0xFEE0_0000}, Access.READ, 0x87),
    ],
)
def test_faults_of_the_page_itself_keep_their_second_level_codes(values, access, code):
    """Guest mappings cannot widen what the host allows."""
    bench = nested()
    bench.second_level(0x30_0000, **({"ADDR": PAGE} | values))
    assert bench.ask(access) == code


def test_flags_in_a_guest_table_need_write_permission_of_the_host():
    """0x77 when A must be set in a table that the second level makes read-only, and only then."""
    bench = nested()
    bench.second_level(FIRST + 0x3000, FIRST + 0x3000, W=0)
    assert bench.ask() == PAGE | 0x890
    bench.first_level(page=0x30_0000, A=0)
    assert bench.ask() == 0x77
    bench.first_level(page=0x30_0000, A=1, D=0)
    assert bench.ask() == PAGE | 0x890
    assert bench.ask(Access.WRITE) == 0x77


def test_guest_tables_are_where_the_host_put_them():
    """A guest-physical table address says nothing about the host page: the flags go where the second level points."""
    bench = nested()
    bench.second_level(FIRST, 0x70000 + SECOND)
    moved = SECOND + 0x70000 + (bench.first_at(4) & 0xFFF)
    bench.memory.store(moved, bench.memory.load(bench.first_at(4)) & ~A)
    assert bench.ask() == PAGE | 0x890
    assert bench.memory.load(moved) & A
