"""The driver at work: what it switches on, the device table, devices, processes, domains."""

import pytest

from pasidlab.hardware.iommu.amdvi import register_file as reg
from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.layouts.amd import CONTROL_REG, DEVICE_TABLE_REG
from pasidlab.hardware.layouts.pcie import ATS_CAP, PASID_CAP, PRI_CAP
from pasidlab.hardware.pcie import Access, DmaRequest
from pasidlab.kernel.iommu.amdvi import entries

RID = 0x6A08


def control(bench):
    """The control bits that are set."""
    word = bench.mmio.read(reg.BASE + reg.CONTROL)
    return {field.name for field, value in CONTROL_REG.explain((word,)) if value}


# --- the unit ---------------------------------------------------------------------------------------------------------


def test_guest_translation_logs_and_commands_are_switched_on(bench):
    """Everything that SVA needs, and GCR3TRPMode, so that guests' tables can be bound."""
    assert control(bench) == {
        *("IommuEn", "EventLogEn", "CmdBufEn", "Coherent", "GTEn", "GCR3TRPMode"),
        *("PPREn", "PPRLogEn", "PPRIntEn", "PPRAutoRspEn"),
    }


def test_the_unit_forgets_everything_when_it_is_taken_into_use(make_bench):
    """INVALIDATE_IOMMU_ALL is the first command, and does it alone."""
    bench = make_bench()
    assert bench.names[0] == "INVALIDATE_IOMMU_ALL"
    assert bench.unit.seen[1][0].field("devid") == RID


def test_a_unit_that_cannot_forget_all_at_once_is_told_what(make_bench):
    """Without EFR.IA: the first device entry, then all pages of its DomainID with their tables."""
    bench = make_bench(AmdIdentity(ia=False))
    assert bench.names[:2] == ["INVALIDATE_DEVTAB_ENTRY", "INVALIDATE_IOMMU_PAGES"]
    assert "INVALIDATE_IOMMU_ALL" not in bench.names
    entry, pages = bench.unit.seen[0][0], bench.unit.seen[1][0]
    assert entry.field("devid") == 0
    assert pages.words == bench.driver.queue.domain_pages(0)
    assert pages.field("PDE") == 1
    assert pages.pasid is None


def test_a_unit_without_guest_translation_has_no_pasids(make_bench):
    """It is driven all the same: GV=0, GTEn=0, and whoever wants a PASID hears why there is none."""
    bench = make_bench(AmdIdentity(gt=False, giosup=False, gcr3trp=False))
    assert bench.driver.devices[RID].pasid_bits == 0
    assert "GV" not in bench.dte()
    assert "GTEn" not in control(bench)
    assert "EFR.GT" in bench.driver.why_no_pasids
    assert not bench.driver.nesting


def test_without_gcr3trpmode_there_is_no_nesting(make_bench):
    """The control bit stays 0, since the unit does not have it."""
    bench = make_bench(AmdIdentity(gcr3trp=False))
    assert not bench.driver.nesting
    assert "GCR3TRPMode" not in control(bench)


@pytest.mark.parametrize("lacks", [{"ppr": False, "pprautorsp": False}, {"msicapmmio": False}])
def test_without_page_requests_or_their_interrupt_no_device_gets_them(make_bench, lacks):
    """PRI stays off in the device, PPR in its entry and in the control register."""
    bench = make_bench(AmdIdentity(**lacks))
    assert not bench.driver.devices[RID].pri
    assert "PPR" not in bench.dte()
    assert "PPREn" not in control(bench)


def test_a_hypervisor_is_told_the_feature_registers(bench):
    """IOMMU_GET_HW_INFO: EFR and EFR2."""
    assert bench.driver.hardware_info == (AmdIdentity().efr(), AmdIdentity().efr2())


# --- the device table -------------------------------------------------------------------------------------------------


def test_a_device_that_nobody_asked_for_is_blocked(bench):
    """Beside the known device, below it, and beyond the end of the table."""
    assert bench.driver.table.read(RID + 1) == entries.BLOCKED
    for rid in (0, 0x18, RID - 1, RID + 1, 0xFFFF):
        fault = bench.unit.translate(DmaRequest(rid, 0x1000, Access.READ))
        assert not isinstance(fault, int), hex(rid)


def test_the_table_grows_when_a_device_further_up_appears(bench):
    """It moves: the unit hears of it, cached entries are forgotten, old entries stay, the old frames are free."""
    bench.unit.translate(DmaRequest(RID, 0x1000, Access.READ))
    before, used = bench.driver.table.read(RID), bench.pages.used
    old = bench.driver.table.base
    bench.watch()
    bench.plug(0xC008)
    now = bench.mmio.read(reg.BASE + reg.DEV_TAB)
    assert DEVICE_TABLE_REG["Base"].get((now,)) == bench.driver.table.base != old
    assert DEVICE_TABLE_REG["Size"].get((now,)) + 1 == 512
    assert bench.driver.table.read(RID) == before
    assert bench.names[0] == "INVALIDATE_DEVTAB_ENTRY"
    assert bench.pages.used == used + 512 - 256 + 1
    assert not bench.pages.is_used(old)


def test_an_entry_is_never_half_new(bench):
    """Rights go first, the first word comes last: what hardware could read in between is blocked."""
    seen = []
    at = bench.driver.device_entry(RID)
    start = bench.time.journal.position
    bench.driver.table.write(RID, (0x6000_0000_0000_0003, 7, 5, 9))
    for cells, key, _, new in bench.time.journal.changes(start):
        assert cells is bench.memory
        seen.append((key - at, new))
    assert seen == [(0, 3), (8, 7), (16, 5), (24, 9), (0, 0x6000_0000_0000_0003)]


def test_a_question_for_an_entry_changes_nothing(bench):
    """Pictures ask at any moment, also for what is not there."""
    position = bench.time.journal.position
    assert bench.driver.device_entry(0x1234) is None
    assert bench.driver.entry_table(0x1234) is None
    assert bench.driver.entry_table(RID).present() == []
    assert bench.driver.entry_table(RID).address(0x1234) is None
    assert bench.time.journal.position == position


# --- devices ----------------------------------------------------------------------------------------------------------


def test_a_new_device_passes_through_and_has_an_empty_gcr3_table(bench):
    """One entry for both kinds of request: Mode=0, GV=1, two levels for 16 bits of PASID."""
    at = bench.dte()
    assert {name: at[name] for name in ("V", "TV", "GV", "GLX", "IR", "IW", "I", "PPR", "DomainID")} == {
        **dict.fromkeys(("V", "TV", "GV", "GLX", "IR", "IW", "I", "PPR"), 1),
        "DomainID": bench.driver.tags[RID],
    }
    assert "Mode" not in at
    assert bench.unit.translate(DmaRequest(RID, 0x5000, Access.READ)) == 0x5000
    assert len(bench.driver.entry_table(RID).frames()) == 1
    function = bench.driver.function(RID)
    assert [function.get(layout)[name] for layout, name in ((PASID_CAP, "EN"), (ATS_CAP, "EN"), (PRI_CAP, "EN"))] == [
        *(1, 1, 1)
    ]


def test_a_function_without_ats_gets_neither_ats_nor_page_requests(make_bench):
    """I=0 and PPR=0: the unit refuses both."""
    assert not {"I", "PPR"} & set(make_bench(ats=False).dte())


def test_what_does_not_answer_on_the_bus_gets_no_gcr3_table_in_its_entry(bench):
    """It can send no PASID: GV=0."""
    bench.driver.add_device(0x6B08)
    assert "GV" not in bench.dte(0x6B08)


def test_two_devices_have_two_domain_ids(bench):
    """TLB tags are (DomainID, PASID): two GCR3 tables must not share one."""
    bench.plug(0x6B08)
    assert bench.dte(RID)["DomainID"] != bench.dte(0x6B08)["DomainID"]


def test_a_device_is_added_once(bench):
    """The second time is an error."""
    assert bench.refused(bench.driver.add_device, RID).name == "EEXIST"


def test_a_device_that_goes_leaves_nothing(bench):
    """Blocked, nothing cached, frames and DomainID back, ATS off; what was bound is unbound."""
    used = bench.pages.used
    bench.plug(0x6B08)
    pasid, mm = bench.bind(rid=0x6B08)
    bench.unit.translate(DmaRequest(0x6B08, 0x1000, Access.READ, pasid))
    did = bench.driver.tags[0x6B08]
    bench.svm.unbind_mm(0x6B08, pasid)
    bench.driver.remove_device(0x6B08)
    mm.drop()
    assert bench.driver.table.read(0x6B08) == entries.BLOCKED
    assert 0x6B08 not in bench.unit.caches.dtes
    assert did not in bench.driver.ids
    assert bench.pages.used == used
    assert not bench.bus.endpoints[0x6B08].config.ats_enabled
    assert bench.driver.device_entry(0x6B08) is None
    assert not isinstance(bench.unit.translate(DmaRequest(0x6B08, 0x1000, Access.READ)), int)


def test_a_device_goes_with_what_is_still_in_its_table(bench):
    """A driver that forgot to unbind: the entry is torn down before the table is freed."""
    pasid, _ = bench.bind()
    bench.watch()
    bench.driver.remove_device(RID)
    assert bench.names[0] == "INVALIDATE_IOMMU_PAGES"
    assert bench.unit.seen[0][0].pasid == pasid


def test_an_attached_device_cannot_go(bench):
    """Its VM must let go first."""
    domain = bench.vm()
    bench.driver.attach_domain(domain, RID)
    assert bench.refused(bench.driver.remove_device, RID).name == "EBUSY"


def test_an_unknown_device_has_no_entry(bench):
    """-ENODEV, from every call that needs one."""
    assert bench.refused(bench.driver.read_entry, 0x1234, 1).name == "ENODEV"
    assert bench.refused(bench.driver.table_of, 0x1234).name == "ENODEV"


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_bound_process_is_reached_with_its_pasid(bench):
    """The GCR3 entry names the process's own page table."""
    pasid, mm = bench.bind()
    at = mm.mmap(4096)
    assert bench.unit.translate(DmaRequest(RID, at, Access.WRITE, pasid)) == mm.physical(at)
    assert bench.driver.read_entry(RID, pasid) == (mm.root | 1,)
    (entry,) = [entry for entry in bench.unit.entries(RID) if entry.pasid]
    assert (entry.pasid, entry.kind, entry.first) == (pasid, EntryKind.FIRST, mm.root)


def test_a_new_entry_is_followed_by_an_invalidation_as_in_linux(bench):
    """amd_iommu_set_gcr3 flushes the PASID: the unit, then the device, which may hold what a predecessor left."""
    bench.watch()
    pasid, _ = bench.bind()
    told = [(command.name, command.pasid) for (command,) in bench.unit.seen]
    assert told == [("INVALIDATE_IOMMU_PAGES", pasid), ("INVALIDATE_IOTLB_PAGES", pasid)]


def test_the_same_pasid_on_two_devices_is_two_entries(bench):
    """Bound on one it means nothing on the other, in the tables and in the caches."""
    bench.plug(0x6B08)
    pasid, mm = bench.bind()
    at = mm.mmap(4096)
    bench.unit.translate(DmaRequest(RID, at, Access.READ, pasid))
    assert not isinstance(bench.unit.translate(DmaRequest(0x6B08, at, Access.READ, pasid)), int)


def test_pages_that_go_are_forgotten_by_the_unit_before_the_devices(bench):
    """All devices' DomainIDs first, then a wait, then their TLBs: else one could ask for what is just forgotten."""
    bench.plug(0x6B08)
    bench.plug(0x6C08, ats=False)
    pasid, mm = bench.bind()
    for rid in (0x6B08, 0x6C08):
        bench.svm.bind_mm(rid, pasid, mm)
    bench.watch()
    bench.driver.flush_process(pasid, [RID, 0x6B08, 0x6C08], (0x7F00_0000_2000, 2))
    assert bench.names == ["INVALIDATE_IOMMU_PAGES"] * 3 + ["INVALIDATE_IOTLB_PAGES"] * 2
    ranges = {command.range() for (command,) in bench.unit.seen}
    assert ranges == {(0x7F00_0000_2000, 0x2000)}
    assert {command.field("domid") for (command,) in bench.unit.seen[:3]} == {
        bench.driver.tags[rid] for rid in (RID, 0x6B08, 0x6C08)
    }


def test_a_flush_forgets_what_it_names_and_no_more(bench):
    """A page beside the range stays in the TLB."""
    pasid, mm = bench.bind()
    at = mm.mmap(3 * 4096)
    for page in range(3):
        bench.unit.translate(DmaRequest(RID, at + page * 4096, Access.READ, pasid))
    bench.driver.flush_process(pasid, [RID], (at, 1))
    left = {page << 12 for _, tag, page in bench.unit.caches.tlb.keys() if tag == pasid}
    assert left == {at + 4096, at + 8192}


# --- domains ----------------------------------------------------------------------------------------------------------


def test_a_domain_bounds_a_device_and_its_pasids_are_refused(bench):
    """Requests without PASID reach the VM's memory; those with one are faults until the guest's table is bound."""
    domain = bench.vm()
    bench.driver.attach_domain(domain, RID)
    at = bench.dte()
    assert (at["Mode"], at["HostRoot"], at["DomainID"]) == (4, domain.table.root, domain.did)
    assert "GV" not in at
    assert bench.unit.translate(DmaRequest(RID, 0x1234, Access.READ)) == domain.table.find(0x1000) | 0x234
    assert not isinstance(bench.unit.translate(DmaRequest(RID, 0x2000, Access.READ)), int)
    assert not isinstance(bench.unit.translate(DmaRequest(RID, 0x1000, Access.READ, 1)), int)


def test_a_detached_device_passes_through_and_nothing_of_the_domain_is_kept(bench):
    """Entry, TLB and device TLB forget; the DomainID can be used again."""
    domain = bench.vm()
    bench.driver.attach_domain(domain, RID)
    bench.unit.translate(DmaRequest(RID, 0x1000, Access.READ))
    bench.function.told.clear()
    bench.driver.detach_domain(domain, RID)
    bench.driver.domain_free(domain)
    assert not bench.unit.caches.tlb.keys()
    assert [request.pasid for request in bench.function.told] == [None]
    assert bench.unit.translate(DmaRequest(RID, 0x1000, Access.READ)) == 0x1000
    assert bench.driver.domain_alloc("next").did == domain.did


def test_a_change_of_a_device_entry_is_told_from_the_unit_outwards(bench):
    """Entry, then the old DomainID, then the device; each batch is waited for."""
    bench.watch(lambda: bench.driver.table.read(RID))
    domain = bench.vm()
    bench.driver.attach_domain(domain, RID)
    assert bench.names == ["INVALIDATE_DEVTAB_ENTRY", "INVALIDATE_IOMMU_PAGES", "INVALIDATE_IOTLB_PAGES"]
    assert bench.unit.seen[1][0].field("domid") == bench.driver.tags[RID]
    assert {words for _, words in bench.unit.seen} == {bench.driver.table.read(RID)}


def test_no_interface_of_a_device_can_be_assigned(bench):
    """The reason names the entry and where to read it."""
    error = bench.refused(bench.driver.attach_aux, bench.vm(), RID, bench.host_set)
    assert error.name == "EOPNOTSUPP"
    assert "device table entry" in error.reason
    assert "docs/iommus.md" in error.reason
    assert not bench.driver.takes_interfaces


def test_one_pasid_of_a_guest_cannot_be_bound_by_itself(bench):
    """The shadow approach is not there: a guest owns its whole table."""
    for call in (bench.svm.bind_guest, bench.svm.unbind_default):
        arguments = (RID, bench.vm(), None, bench.host_set)[: 4 if call == bench.svm.bind_guest else 2]
        error = bench.refused(call, *arguments)
        assert error.name == "EOPNOTSUPP"
        assert "GCR3 table" in error.reason


def test_domain_ids_can_run_out(bench, entry):
    """-ENOSPC, for a device, a domain and a guest's table; none of them is there afterwards."""
    domain = bench.vm()
    bench.driver.attach_domain(domain, RID)
    while bench.driver.ids.take_lowest(0, 0xFFFF) is not None:
        pass
    assert bench.refused(bench.driver.add_device, 0x6B08).name == "ENOSPC"
    assert bench.refused(bench.driver.domain_alloc, "vm2").name == "ENOSPC"
    assert bench.refused(bench.driver.bind_table, domain, RID, entry()).name == "ENOSPC"
    assert 0x6B08 not in bench.driver.devices
    assert not bench.driver.has_table(RID)
