"""What the unit keeps: stale answers without a command, and exactly what each command forgets."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.amdvi.caches import DTE_CACHE, GCR3_CACHE, HOST, PAGING_CACHE, TLB
from pasidlab.hardware.iommu.amdvi.faults import Reason
from pasidlab.hardware.iommu.amdvi.invalidation import ALL_PAGES, command_address
from pasidlab.hardware.iommu.amdvi.register_file import CONTROL, DEV_TAB
from pasidlab.hardware.layouts.amd_queue import CMD_INV_ALL, CMD_INV_DEVTAB, CMD_INV_IOMMU_PAGES
from pasidlab.hardware.pcie import WHOLE_SPACE, Access
from tests.hardware.iommu.amdvi.by_hand import (
    BEYOND,
    DOMAIN,
    GCR3,
    GPA,
    GUEST,
    IOVA,
    NEIGHBOUR,
    ON,
    PAGE,
    PASID,
    RID,
    TABLE,
    Bench,
)

OTHER = PAGE + 0x10_0000
INSIDE = IOVA & 0xFFF


def pages(pasid=None, start=0, size=WHOLE_SPACE, pde=1, did=DOMAIN):
    """INVALIDATE_IOMMU_PAGES of a range, of the domain or of a PASID."""
    addr, sized = (ALL_PAGES, 1) if size == WHOLE_SPACE else command_address(start, size)
    values = {"domid": did, "PASID": pasid or 0, "GN": int(pasid is not None), "PDE": pde, "S": sized, "addr": addr}
    return CMD_INV_IOMMU_PAGES.encode(OPCODE=3, **values)


def device(rid=RID):
    """INVALIDATE_DEVTAB_ENTRY."""
    return CMD_INV_DEVTAB.encode(OPCODE=2, devid=rid)


@pytest.fixture
def bench():
    """A guest table for one PASID, no host table; the unit has seen a read and a write."""
    bench = Bench(caches=True)
    bench.dte(GV=1)
    bench.gcr3()
    bench.guest()
    bench.ask(Access.ATOMIC)
    return bench


@pytest.fixture
def nested():
    """Both tables, seen."""
    bench = Bench(caches=True)
    bench.nested()
    bench.ask(Access.ATOMIC)
    return bench


def sources(bench, **request):
    """Which cache answered at each stop; empty for what was read from memory."""
    return [stop.cache for stop in bench.unit.walk(bench.request(**request)).stops]


def fresh(bench, **request):
    """What the tables alone say."""
    walk = bench.unit.walk(bench.request(**request), caches=False)
    return walk.fault.meaning if walk.fault is not None else walk.address


def test_what_was_seen_is_not_read_again(bench):
    """The page from the TLB; another page below the kept tables."""
    assert sources(bench) == [DTE_CACHE, TLB]
    assert sources(bench, address=IOVA + 0x1000) == [DTE_CACHE, GCR3_CACHE, PAGING_CACHE, ""]
    assert sources(bench, access=Access.EXECUTE) == [DTE_CACHE, GCR3_CACHE, PAGING_CACHE, ""]


def test_a_changed_page_stays_until_it_is_invalidated(bench):
    """With GN=1 and the PASID; neither another PASID nor another domain helps, nor another page."""
    bench.guest(page=OTHER)
    for command in (pages(PASID + 1), pages(PASID, did=8), pages(PASID, start=IOVA + 0x1000 & ~0xFFF, size=0x1000)):
        bench.command(command)
        assert bench.ask() == PAGE | INSIDE
        assert fresh(bench) == OTHER | INSIDE
    bench.command(pages(PASID, start=IOVA & ~0xFFF, size=0x1000, pde=0))
    assert bench.ask() == OTHER | INSIDE


def test_a_gcr3_entry_that_is_gone_still_serves(bench):
    """It goes with PDE=1 only: a page that was not seen before is found through the kept entry."""
    bench.memory.store(bench.gcr3(V=0), 0)
    bench.guest(IOVA + 0x1000, OTHER)
    assert fresh(bench) == Reason.GCR3_ABSENT.meaning
    assert bench.ask() == PAGE | INSIDE
    bench.command(pages(PASID, pde=0))
    assert bench.ask(address=IOVA + 0x1000) == OTHER | INSIDE
    bench.command(pages(PASID))
    assert bench.ask() == Reason.GCR3_ABSENT.meaning


def test_a_gcr3_entry_is_kept_by_domain_and_pasid(bench):
    """A second device of the same domain uses the lines of the first, whatever its own table says: Linux's reason for
    giving each guest domain a host domain of its own.
    """
    bench.dte(NEIGHBOUR, root=GCR3 + 0x8000, GV=1)
    assert fresh(bench, rid=NEIGHBOUR) == Reason.GCR3_ABSENT.meaning
    assert bench.ask(rid=NEIGHBOUR) == PAGE | INSIDE
    bench.dte(NEIGHBOUR, root=GCR3 + 0x8000, GV=1, DomainID=8)
    bench.command(device(NEIGHBOUR))
    assert bench.ask(rid=NEIGHBOUR) == Reason.GCR3_ABSENT.meaning


def test_a_table_that_moved_is_still_walked(bench):
    """Paging structures go with PDE=1 in their range."""
    at = bench.guest_at(2)
    bench.memory.store(at, 0)
    other = IOVA + 0x1000
    bench.guest_at(1)
    bench.command(pages(PASID, pde=0))
    assert bench.ask() == PAGE | INSIDE
    bench.command(pages(PASID, start=other & ~0xFFF, size=0x1000, pde=1))
    assert bench.ask() == PAGE | INSIDE
    bench.command(pages(PASID, start=IOVA & ~0xFFF, size=0x1000, pde=1))
    assert bench.ask() == Reason.GUEST_ABSENT.meaning


def test_a_device_table_entry_stays_until_its_command(bench):
    """INVALIDATE_DEVTAB_ENTRY of this device; nothing else drops it, not a new table, not IommuEn."""
    bench.dte(IR=0, IW=0)
    for command in (device(NEIGHBOUR), pages(), pages(PASID)):
        bench.command(command)
        assert bench.ask() == PAGE | INSIDE
    bench.unit.mmio_write(DEV_TAB, TABLE | 0x1FF)
    control = bench.unit.mmio_read(CONTROL)
    bench.unit.mmio_write(CONTROL, control & ~1)
    bench.unit.mmio_write(CONTROL, control)
    assert bench.ask() == PAGE | INSIDE
    bench.command(device())
    assert bench.ask() == Reason.DTE_DENIED.meaning
    assert sources(bench) == [DTE_CACHE]


def test_an_entry_that_was_not_valid_is_kept_too(bench):
    """V=0 is an entry like any other: making it valid needs the command."""
    assert bench.ask(rid=NEIGHBOUR, address=0x5000) == 0x5000
    bench.dte(NEIGHBOUR, IR=0, IW=0)
    assert bench.ask(rid=NEIGHBOUR, address=0x5000) == 0x5000
    bench.command(device(NEIGHBOUR))
    assert bench.ask(rid=NEIGHBOUR, address=0x5000) == Reason.DTE_DENIED.meaning


def test_an_entry_that_cannot_be_used_is_not_kept(bench):
    """It is read again for each request."""
    bench.dte(NEIGHBOUR, Mode=7)
    bench.ask(rid=NEIGHBOUR)
    bench.dte(NEIGHBOUR, V=0)
    assert bench.ask(rid=NEIGHBOUR, address=0x5000) == 0x5000


def test_host_pages_and_what_is_made_of_them(nested):
    """GN=0: the pages in the range, and every guest translation of the domain."""
    nested.host(page=OTHER)
    nested.command(pages(PASID))
    assert nested.ask() == PAGE | INSIDE, "the host's page answers on the way"
    nested.command(pages(start=0x5000_0000, size=0x1000, pde=0))
    assert {key[1] for key in nested.unit.caches.tlb.keys()} == {HOST}
    assert nested.ask() == PAGE | INSIDE
    nested.command(pages(start=GPA & ~0xFFF, size=0x1000, pde=0))
    assert nested.ask() == OTHER | INSIDE


def test_gcr3_entries_behind_the_host_table_go_with_it(nested):
    """With GCR3TRPMode: GN=0 and PDE=1; system-physical ones stay."""
    nested.command(pages())
    assert sorted(nested.unit.caches.gcr3.keys()) == [(DOMAIN, PASID)]
    nested.command(pages(PASID))
    nested.host_maps(GCR3, GCR3 + 0x1000)
    nested.control(*ON, "GCR3TRPMode")
    nested.ask()
    nested.command(pages(pde=0))
    assert sorted(nested.unit.caches.gcr3.keys()) == [(DOMAIN, PASID)]
    nested.command(pages())
    assert nested.unit.caches.gcr3.keys() == []


def test_large_pages_go_as_a_whole():
    """A command for one page of 4 KiB drops every piece of the large page around it."""
    bench = Bench(caches=True)
    bench.dte(GV=1)
    bench.gcr3()
    bench.guest(page=PAGE, leaf=2)
    places = [(IOVA & -0x20_0000) + step * 0x1000 for step in (0, 3, 511)]
    for place in places:
        bench.ask(address=place)
    assert len(bench.unit.caches.tlb) == 3
    bench.command(pages(PASID, start=places[1], size=0x1000))
    assert len(bench.unit.caches.tlb) == 0


def test_everything_goes_with_one_command(nested):
    """INVALIDATE_IOMMU_ALL."""
    caches = nested.unit.caches
    assert all((len(caches.dtes), len(caches.gcr3), len(caches.tlb), len(caches.paging)))
    nested.command(CMD_INV_ALL.encode(OPCODE=8))
    assert [len(caches.dtes), len(caches.gcr3), len(caches.tlb), len(caches.paging)] == [0, 0, 0, 0]


def test_a_question_teaches_the_caches_nothing():
    """Nor does a unit that has none."""
    bench = Bench(caches=True)
    bench.nested()
    bench.unit.walk(bench.request())
    assert bench.unit.caches.dtes.keys() == []
    other = Bench()
    other.nested()
    other.ask()
    assert other.unit.caches.dtes.keys() == []


def test_a_line_never_takes_the_place_of_a_dirty_bit():
    """An access that was not granted yet walks again."""
    bench = Bench(caches=True)
    bench.dte(GV=1)
    bench.gcr3()
    bench.guest()
    bench.ask()
    assert bench.memory.load(bench.guest_at(1)) & 0x60 == 0x20
    bench.ask(Access.WRITE)
    assert bench.memory.load(bench.guest_at(1)) & 0x60 == 0x60
    assert sources(bench, access=Access.ATOMIC) == [DTE_CACHE, TLB]


@pytest.mark.parametrize("kind", ["user", "privileged"])
def test_rights_are_kept_for_whom_they_were_granted(bench, kind):
    """A supervisor page that a privileged request has seen is no page for a user request."""
    bench.guest(US=0)
    bench.command(pages(PASID))
    assert bench.ask(privileged=True) == PAGE | INSIDE
    assert bench.ask() == Reason.GUEST_DENIED.meaning


def test_rights_of_the_device_table_entry_are_not_in_the_tlb(bench):
    """Another device of the domain, with IW=0, cannot write where the first one has written."""
    bench.dte(NEIGHBOUR, GV=1, IW=0)
    assert bench.ask(rid=NEIGHBOUR) == PAGE | INSIDE
    assert bench.ask(Access.WRITE, rid=NEIGHBOUR) == Reason.DTE_DENIED.meaning


# --- coherence --------------------------------------------------------------------------------------------------------


def wrong(bench):
    """Which caches hold lines that disagree with the tables."""
    return {line.cache for line in bench.unit.cache_lines(bench.unit.entries(RID), every=False)}


def test_lines_agree_until_tables_change(nested):
    """Each cache is compared with what the tables say now."""
    assert wrong(nested) == set()
    lines = list(nested.unit.cache_lines(nested.unit.entries(RID), every=True))
    assert {line.cache for line in lines} == {DTE_CACHE, GCR3_CACHE, TLB, PAGING_CACHE}
    assert not any(line.orphan or line.guest for line in lines)
    nested.guest(page=OTHER)
    assert wrong(nested) == {TLB}
    nested.memory.store(nested.guest_at(3), 0)
    assert wrong(nested) == {TLB, PAGING_CACHE}
    nested.gcr3(cr3=GUEST + 0x1000)
    assert wrong(nested) == {TLB, PAGING_CACHE, GCR3_CACHE}
    nested.dte(GV=1, Mode=4, IW=0)
    assert wrong(nested) == {TLB, PAGING_CACHE, GCR3_CACHE, DTE_CACHE}
    nested.command(device(), pages(), pages(PASID))
    assert wrong(nested) == set()


def test_lines_of_what_is_gone_are_orphans(nested):
    """A domain without a device, a PASID without an entry."""
    nested.memory.store(nested.gcr3(), 0)
    orphans = {(line.cache, line.orphan) for line in nested.unit.cache_lines(nested.unit.entries(RID), every=False)}
    assert orphans == {(GCR3_CACHE, True), (TLB, True), (PAGING_CACHE, True)}
    nested.dte(DomainID=9)
    lines = list(nested.unit.cache_lines(nested.unit.entries(RID), every=False))
    assert all(line.orphan for line in lines if line.cache != DTE_CACHE)
    assert "domain 7" in " ".join(str(line) for line in lines)


def test_lines_of_a_table_that_a_guest_owns_are_marked_so(nested):
    """GCR3 tables at guest-physical addresses: the guest alone keeps them coherent; the rest is the host's."""
    nested.host_maps(GCR3, GCR3 + 0x1000)
    nested.control(*ON, "GCR3TRPMode")
    nested.command(pages(), pages(PASID))
    nested.ask()
    lines = list(nested.unit.cache_lines(nested.unit.entries(RID), every=True))
    assert {(line.cache, line.guest) for line in lines} == {
        *((DTE_CACHE, False), (TLB, False), (PAGING_CACHE, False)),
        *((GCR3_CACHE, True), (TLB, True), (PAGING_CACHE, True)),
    }


def kept_of_a_guest(nested):
    """Lines by whether they belong to the host table, with what is said, whether orphan, whether the guest's own."""
    nested.host_maps(GCR3, GCR3 + 0x1000)
    nested.control(*ON, "GCR3TRPMode")
    nested.command(pages(), pages(PASID))
    nested.ask()

    def found():
        lines = [line for line in nested.unit.cache_lines(nested.unit.entries(RID), every=True) if line.did >= 0]
        return {("host table" in str(line), bool(line.said), line.orphan, line.guest) for line in lines}

    return found


@pytest.mark.parametrize("entry", [{"GIOV": 1}, {"GIOV": 1, "IR": 0, "IW": 0}])
def test_lines_of_the_host_table_belong_to_the_device_table_entry(nested, entry):
    """A guest without a valid GCR3 entry has no entries, but its VM's table is in force; the rest is its own affair."""
    found = kept_of_a_guest(nested)
    nested.dte(GV=1, Mode=4, **entry)
    nested.memory.store(nested.gcr3(), 0)
    assert nested.unit.entries(RID) == []
    assert found() == {(True, False, False, False), (False, True, True, True)}


@pytest.mark.parametrize("entry", [{"V": 0}, {"TV": 0}, {"Mode": 0}, {"Mode": 7}, {"DomainID": 9}])
def test_lines_of_a_host_table_that_no_entry_names_are_orphans(nested, entry):
    """Not valid, not translated, no host table, an impossible one, another domain."""
    found = kept_of_a_guest(nested)
    nested.dte(**({"GV": 1, "GIOV": 1, "Mode": 4} | entry))
    nested.memory.store(nested.gcr3(), 0)
    assert (True, True, True, False) in found()
    assert (True, False, False, False) not in found()


def test_other_pages_of_the_host_table_are_found_through_the_device_table_entry_too(nested):
    """A change of the VM's table is seen while the guest has no valid GCR3 entry."""
    found = kept_of_a_guest(nested)
    nested.dte(GV=1, Mode=4, GIOV=1)
    nested.memory.store(nested.gcr3(), 0)
    nested.host(GPA, OTHER)
    assert (True, True, False, False) in found()


def test_a_device_table_that_no_memory_answers_for_names_nothing(nested):
    """Its lines are orphans; switched off, the unit uses none of its tables."""
    found = kept_of_a_guest(nested)
    nested.unit.mmio_write(DEV_TAB, BEYOND | 0x1FF)
    assert (True, True, True, False) in found()
    nested.unit.mmio_write(DEV_TAB, TABLE | 0x1FF)
    nested.control()
    assert (True, True, True, False) in found()
