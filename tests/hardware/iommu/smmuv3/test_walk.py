"""Stage 1, stage 2 and both: every step of a walk, every event with what its record says."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.smmuv3.faults import FaultClass, SmmuEvent
from pasidlab.hardware.layouts.smmu import S1_ENTRY
from pasidlab.hardware.layouts.smmu_queue import EVENT, EVENT_FETCH
from pasidlab.hardware.pcie import Access, RequestKind
from tests.hardware.iommu.smmuv3.by_hand import (
    BEYOND,
    CONTEXTS,
    FIRST,
    IOVA,
    LEAF,
    PAGE,
    PASID,
    RID,
    SECOND,
    Bench,
)

THERE = PAGE | IOVA & 0xFFF
CD_AT = LEAF + (PASID & 0x3FF) * 64
READ, WRITE, EXECUTE, ATOMIC = Access
WHO = {"SID": RID, "SSV": 1, "SSID": PASID}


@pytest.fixture
def bench():
    """Stage 1, with a page."""
    found = Bench()
    found.cd()
    found.first()
    return found


@pytest.fixture
def second():
    """Stage 2, with the page at its own address."""
    found = Bench()
    found.stage_2()
    found.second()
    return found


@pytest.fixture
def nested():
    """Both stages."""
    found = Bench()
    found.nested()
    return found


def record(bench):
    """The one record that waits, decoded."""
    (words,) = bench.take_events()
    layout = EVENT_FETCH if words[0] & 0xFF in (0x03, 0x09, 0x0B) else EVENT
    assert layout.reserved(words) == 0
    return {name: value for name, value in layout.decode(words).items() if value}


# --- stage 1 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("leaf", "shift"), [(3, 12), (2, 21), (1, 30)])
def test_pages_and_blocks_are_found(leaf, shift):
    """4 KiB, 2 MiB and 1 GiB; the address bits below a block's size come from the request."""
    bench = Bench()
    bench.cd()
    bench.first(page=0x4000_0000, leaf=leaf)
    assert bench.ask() == 0x4000_0000 | IOVA & (1 << shift) - 1


def test_a_block_at_level_0_is_not_valid():
    """Nor is an entry of type 1 at level 3."""
    bench = Bench()
    bench.cd()
    for leaf, kind in ((0, 1), (3, 1), (2, 0), (2, 2)):
        bench.first(leaf=leaf, TYPE=kind)
        assert bench.ask() == "F_TRANSLATION"


@pytest.mark.parametrize(("size", "top"), [(16, 0), (24, 0), (25, 1), (33, 1), (34, 2), (39, 2)])
def test_the_input_size_says_where_the_walk_begins(size, top):
    """T0SZ: addresses above it fault, the walk begins at the level that is left."""
    address = IOVA & (1 << 64 - size) - 1
    bench = Bench()
    bench.cd(T0SZ=size)
    bench.first(address, top=top)
    assert bench.ask(address=address) == PAGE | address & 0xFFF
    assert bench.ask(address=address | 1 << 64 - size) == "F_TRANSLATION"


@pytest.mark.parametrize(("code", "shift", "top"), [(2, 14, 0), (1, 16, 1)])
def test_granules_of_16_and_64_kib_are_walked(code, shift, top):
    """48 bits in four or three levels."""
    bench = Bench()
    bench.cd(TG0=code)
    table, step = FIRST, shift - 3
    for level in range(top, 4):
        at = table + 8 * (IOVA >> shift + (3 - level) * step & (1 << step) - 1)
        table += 0x1_0000
        to = {"TYPE": 3, "addr": table} if level < 3 else {"TYPE": 3, "AP": 1, "AF": 1, "nG": 1, "addr": PAGE}
        bench.memory.store(at, S1_ENTRY.encode(**to)[0])
    assert bench.ask() == PAGE | IOVA & (1 << shift) - 1


def test_52_bit_addresses_of_64_kib_pages_are_put_together():
    """Bits 51:48 lie in 15:12 of an entry, on a unit with 52 bits and with IPS=6 only."""
    for oas, ips, expected in ((52, 6, 5 << 48 | PAGE), (52, 5, PAGE), (48, 6, PAGE)):
        bench = Bench(oas=oas)
        bench.cd(TG0=1, T0SZ=39, IPS=ips)
        address = 0x12_3456
        at = FIRST + 8 * (address >> 16)
        bench.memory.store(at, S1_ENTRY.encode(TYPE=3, AP=1, AF=1, nG=1, addr=PAGE)[0] | 5 << 12)
        assert bench.ask(address=address) == expected | address & 0xFFFF


def test_the_upper_half_has_its_own_table(bench):
    """TTB1 serves addresses whose upper bits are all one."""
    high = 0xFFFF_8000_1234_5678
    bench.cd(EPD1=0, T1SZ=16, TG1=2, TTB1=0x6_0000)
    bench.first(high, base=0x6_0000, page=0x7_0000)
    assert bench.ask(address=high) == 0x7_0678
    assert bench.ask() == THERE
    for address in (high & ~(1 << 60), IOVA | 1 << 60, 1 << 48):
        assert bench.ask(address=address) == "F_TRANSLATION"


def test_the_top_byte_can_be_ignored(bench):
    """TBI: bit 55 chooses the half."""
    bench.cd(TBI0=1)
    assert bench.ask(address=IOVA | 0xAB << 56) == THERE
    assert bench.ask(address=IOVA | 1 << 55) == "F_TRANSLATION"
    assert bench.ask(address=IOVA | 1 << 54) == "F_TRANSLATION"


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ({"AP": 0}, {(READ, True), (WRITE, True), (ATOMIC, True), (EXECUTE, True), (EXECUTE, False)}),
        ({"AP": 1}, {(one, False) for one in Access} | {(READ, True), (WRITE, True), (ATOMIC, True)}),
        ({"AP": 2}, {(READ, True), (EXECUTE, True), (EXECUTE, False)}),
        ({"AP": 3}, {(READ, False), (EXECUTE, False), (READ, True), (EXECUTE, True)}),
        ({"AP": 3, "UXN": 1}, {(READ, False), (READ, True), (EXECUTE, True)}),
        ({"AP": 3, "PXN": 1}, {(READ, False), (EXECUTE, False), (READ, True)}),
    ],
)
def test_permissions_of_stage_1(bench, values, allowed):
    """AP, UXN and PXN; what everybody may write nobody privileged executes."""
    bench.first(**values)
    found = {
        (access, mode) for access in Access for mode in (False, True) if bench.ask(access, privileged=mode) == THERE
    }
    assert found == allowed


@pytest.mark.parametrize(
    ("bit", "denied"), [(62, (WRITE, False)), (61, (READ, False)), (60, (EXECUTE, False)), (59, (EXECUTE, True))]
)
def test_tables_take_rights_away_from_what_is_below(bench, bit, denied):
    """APTable, UXNTable, PXNTable in any entry above."""
    bench.first(AP=3 if bit == 59 else 1)
    assert bench.ask(denied[0], privileged=denied[1]) == THERE
    at = FIRST + (IOVA >> 36 & 0xFF8)
    bench.memory.store(at, bench.memory.load(at) | 1 << bit)
    assert bench.ask(denied[0], privileged=denied[1]) == "F_PERMISSION"


def test_the_access_flag_is_needed_unless_that_is_switched_off(bench):
    """AF=0 is F_ACCESS, before permissions are looked at; AFFD lets it be."""
    bench.first(AF=0, AP=0)
    assert bench.ask() == "F_ACCESS"
    bench.first(AF=0)
    bench.cd(AFFD=1)
    assert bench.ask() == THERE


@pytest.mark.parametrize("leaf", [3, 2])
def test_an_address_that_is_too_wide_is_told(bench, leaf):
    """Of a page and of a table alike, by IPS."""
    bench.cd(IPS=0)
    bench.first(page=1 << 33, leaf=leaf)
    assert bench.ask() == "F_ADDR_SIZE"
    bench.first()
    bench.memory.store(FIRST + (IOVA >> 36 & 0xFF8), S1_ENTRY.encode(TYPE=3, addr=1 << 33)[0])
    assert bench.ask() == "F_ADDR_SIZE"


def test_a_table_that_cannot_be_read_is_told_with_its_address(bench):
    """F_WALK_EABT, class TT, stage 1."""
    bench.cd(TTB0=BEYOND)
    assert bench.ask(WRITE) == "F_WALK_EABT"
    at = BEYOND + (IOVA >> 36 & 0xFF8)
    assert record(bench) == {"ID": 0x0B, **WHO, "CLASS": 1, "addr": IOVA, "FetchAddr": at}


@pytest.mark.parametrize(
    ("access", "privileged", "told"),
    [
        (READ, False, {"RnW": 1}),
        (WRITE, True, {"PnU": 1}),
        (EXECUTE, False, {"RnW": 1, "InD": 1}),
        (ATOMIC, False, {}),
    ],
)
def test_a_translation_fault_tells_the_access(bench, access, privileged, told):
    """Stage 1 faults concern the input address."""
    bench.first(TYPE=0)
    assert bench.ask(access, privileged=privileged) == "F_TRANSLATION"
    assert record(bench) == {"ID": 0x10, **WHO, "CLASS": 2, "addr": IOVA, **told}


def test_a_context_can_keep_its_faults_to_itself(bench):
    """CD.R=0: translation faults are not recorded, others are."""
    bench.cd(R=0)
    bench.first(TYPE=0)
    assert bench.ask() == "F_TRANSLATION"
    assert bench.unit.translate(bench.request()).suppressed
    assert bench.events() == []
    bench.cd(R=0, TTB0=BEYOND)
    assert bench.ask() == "F_WALK_EABT"
    assert len(bench.events()) == 1


# --- stage 2 ----------------------------------------------------------------------------------------------------------


def test_stage_2_translates_requests_without_substream(second):
    """Config 6: the address is an intermediate one."""
    assert second.ask(address=PAGE + 0x123, pasid=None) == PAGE + 0x123
    assert second.ask(address=1 << 47, pasid=None) == "F_TRANSLATION"


@pytest.mark.parametrize(("size", "start", "top"), [(16, 2, 0), (24, 1, 1), (25, 1, 1), (34, 0, 2), (30, 0, 2)])
def test_stage_2_begins_where_it_is_told(size, start, top):
    """S2SL0 and S2T0SZ; up to 16 tables side by side at the first level. Beyond 48 bits the unit is too narrow."""
    bench, address = Bench(), (1 << 64 - size) - 0x1000
    bench.stage_2(S2T0SZ=size, S2SL0=start)
    table = SECOND
    for level in range(top, 4):
        shift = 12 + 9 * (3 - level)
        number = address >> shift if level == top else address >> shift & 511
        last = {"TYPE": 3, "addr": SECOND + 0x2_0000 + level * 0x1000}
        word = S1_ENTRY.encode(**last) if level < 3 else (PAGE | 0x4C3 | 15 << 2,)
        bench.memory.store(table + 8 * number, word[0])
        table = last["addr"]
    assert bench.ask(address=address, pasid=None) == PAGE
    beyond = "F_TRANSLATION" if size > 16 else "F_ADDR_SIZE"
    assert bench.ask(address=1 << 64 - size, pasid=None) == beyond


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ({"S2AP": 0}, {EXECUTE}),
        ({"S2AP": 1}, {READ, EXECUTE}),
        ({"S2AP": 2}, {WRITE, EXECUTE}),
        ({"S2AP": 3}, set(Access)),
        ({"S2AP": 3, "XN": 2}, {READ, WRITE, ATOMIC}),
        ({"S2AP": 3, "XN": 1}, set(Access)),
    ],
)
def test_permissions_of_stage_2(second, values, allowed):
    """S2AP has a bit for reading and one for writing; bit 54 forbids execution."""
    second.second(**values)
    assert {access for access in Access if second.ask(access, PAGE, None) == PAGE} == allowed


@pytest.mark.parametrize(
    ("values", "entry", "event"),
    [
        ({"TYPE": 0}, {}, "F_TRANSLATION"),
        ({"AF": 0}, {}, "F_ACCESS"),
        ({"S2AP": 2}, {}, "F_PERMISSION"),
        ({"addr": 1 << 33}, {"S2PS": 0, "S2T0SZ": 16}, "F_ADDR_SIZE"),
    ],
)
def test_faults_of_stage_2_are_told_with_the_intermediate_address(second, values, entry, event):
    """S2, class IN and IPA; S2R=0 keeps them to itself."""
    second.stage_2(**entry)
    second.second(**values)
    assert second.ask(READ, PAGE + 0x10, None) == event
    code = SmmuEvent[event]
    told = {"ID": int(code), "SID": RID, "S2": 1, "CLASS": 2, "RnW": 1, "addr": PAGE + 0x10, "IPA": PAGE}
    assert record(second) == told
    second.stage_2(**entry, S2R=0)
    assert second.ask(READ, PAGE + 0x10, None) == event
    assert second.events() == []


def test_a_stage_2_table_that_cannot_be_read(second):
    """F_WALK_EABT, stage 2, class IN."""
    second.stage_2(S2TTB=BEYOND)
    assert second.ask(READ, PAGE, None) == "F_WALK_EABT"
    told = {"ID": 0x0B, "SID": RID, "S2": 1, "CLASS": 2, "RnW": 1, "addr": PAGE, "FetchAddr": BEYOND}
    assert record(second) == told


def test_an_address_too_wide_for_the_unit_faults_in_stage_1_that_is_bypassed(second):
    """F_ADDR_SIZE without S2."""
    assert second.ask(READ, 1 << 50, None) == "F_ADDR_SIZE"
    assert record(second) == {"ID": 0x11, "SID": RID, "CLASS": 2, "RnW": 1, "addr": 1 << 50}


# --- both -------------------------------------------------------------------------------------------------------------


def test_a_nested_walk_takes_every_table_through_stage_2(nested):
    """L1 CD entry, CD, four stage-1 tables and the page: seven times four reads of stage 2."""
    stops = nested.unit.walk(nested.request()).stops
    assert nested.ask() == THERE
    assert [stop.stage for stop in stops].count("second") == 7 * 4
    assert [stop.level for stop in stops if stop.stage == "first"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("table", "klass", "place"),
    [
        (CONTEXTS, FaultClass.CD, CONTEXTS + (PASID >> 10) * 8),
        (CD_AT & -0x1000, FaultClass.CD, CD_AT),
        *((FIRST + level * 0x1000, FaultClass.TT, None) for level in range(4)),
        (PAGE, FaultClass.IN, PAGE),
    ],
)
@pytest.mark.parametrize(
    ("values", "event"), [({"TYPE": 0}, "F_TRANSLATION"), ({"AF": 0}, "F_ACCESS"), ({"S2AP": 2}, "F_PERMISSION")]
)
def test_the_class_says_which_access_stage_2_refused(nested, table, klass, place, values, event):
    """CD, TT or IN, with the intermediate address."""
    nested.second(table, **values)
    assert nested.ask() == event
    found = record(nested)
    assert (found["S2"], found.get("CLASS", 0), found["addr"]) == (1, klass, IOVA)
    assert found["IPA"] == (place if place is not None else table) & -0x1000
    assert found.get("TTRnW", 0) == int(event == "F_PERMISSION" and klass is FaultClass.TT)


@pytest.mark.parametrize("table", [CONTEXTS, CD_AT & -0x1000, *(FIRST + level * 0x1000 for level in range(4)), PAGE])
def test_guest_tables_may_lie_anywhere(nested, table):
    """What is read is where stage 2 says, not where the guest says."""
    moved = 0x60_0000
    nested.memory.write(moved, nested.memory.read(table, 4096))
    nested.memory.write(table, bytes(4096))
    nested.second(table, moved)
    assert nested.ask() == (moved | IOVA & 0xFFF if table == PAGE else THERE)


def test_tables_must_be_memory_if_stage_2_protects_them(nested):
    """S2PTW: a walk through Device memory is F_PERMISSION, class TT; without it nothing happens."""
    nested.second(FIRST, MemAttr=1)
    assert nested.ask() == THERE
    nested.stage_2(7, S2PTW=1)
    assert nested.ask() == "F_PERMISSION"
    assert record(nested)["CLASS"] == FaultClass.TT


def test_rights_of_both_stages_are_needed(nested):
    """A write that stage 1 denies is a fault of stage 1, whatever stage 2 says."""
    nested.second(PAGE, S2AP=1)
    assert nested.ask(WRITE) == "F_PERMISSION"
    assert record(nested)["S2"] == 1
    nested.first(AP=3)
    assert nested.ask(WRITE) == "F_PERMISSION"
    assert "S2" not in record(nested)


def test_a_bypassed_stage_1_leaves_stage_2(nested):
    """S1DSS=1: a request without SubstreamID is translated by stage 2 alone."""
    nested.stage_2(7, S1DSS=1)
    assert nested.ask(READ, PAGE + 8, None) == PAGE + 8
    assert nested.ask() == THERE


def test_a_stage_2_table_on_the_way_that_cannot_be_read(nested):
    """F_WALK_EABT keeps the class of the access that it was for."""
    nested.stage_2(7, S2TTB=BEYOND)
    assert nested.ask() == "F_WALK_EABT"
    found = record(nested)
    assert (found["S2"], found.get("CLASS", 0)) == (1, FaultClass.CD)


# --- what is no memory request ----------------------------------------------------------------------------------------


def test_a_page_request_is_no_transaction(bench):
    """Asked to translate one, the unit says F_UUT."""
    request = bench.request()._replace(kind=RequestKind.PAGE)
    assert bench.unit.translate(request).name == "F_UUT"
    assert record(bench)["ID"] == 1


def test_every_event_that_can_happen_is_reached_somewhere():
    """The rest is named in the table of events as never raised here."""
    never = {"F_TLB_CONFLICT", "F_CFG_CONFLICT", "E_PAGE_REQUEST", "F_VMS_FETCH"}
    here = {
        *("F_UUT", "C_BAD_STREAMID", "F_STE_FETCH", "C_BAD_STE", "F_BAD_ATS_TREQ", "F_STREAM_DISABLED"),
        *("F_TRANSL_FORBIDDEN", "C_BAD_SUBSTREAMID", "F_CD_FETCH", "C_BAD_CD", "F_WALK_EABT"),
        *("F_TRANSLATION", "F_ADDR_SIZE", "F_ACCESS", "F_PERMISSION"),
    }
    assert {event.name for event in SmmuEvent} == never | here
