"""The driver's tables, its two-phase teardown as memory shows it, domains, and what caching mode changes."""

import pytest

from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, PASID_DIR_ENTRY, PASID_ENTRY, ROOT_ENTRY
from pasidlab.hardware.pcie import Access, DmaRequest
from pasidlab.kernel.iommu.vtd import entries
from pasidlab.kernel.iommu.vtd.capabilities import Capabilities
from tests.kernel.iommu.vtd.conftest import RID
from tests.kernel.iommu.vtd.test_entries import GOLDEN, words_of

SNOOPING = Capabilities.read(VtdIdentity().cap(), VtdIdentity().ecap())
PASS = entries.pass_through(SNOOPING, supervisor=False)
"""An entry to write where its contents do not matter."""
TRACES = ["vtd_teardown_trace-03", "vtd_teardown_trace-06", "vtd_teardown_trace-07"]


def stops(bench, pasid, address=0x1000):
    """The structures that the unit reads for a request."""
    return bench.unit.walk(DmaRequest(RID, address, Access.READ, pasid)).stops


# --- tables ---------------------------------------------------------------------------------------------------------


def test_the_unit_finds_the_tables_that_the_driver_built(bench):
    """Root, context (scalable mode, whole 20-bit directory), directory, entry."""
    bench.driver.set_entry(RID, 0x12345, PASS, "test")
    root, context, directory, entry = stops(bench, 0x12345)
    assert root.layout is ROOT_ENTRY
    assert root.fields()["LP"] == 1
    assert (context.layout, context.fields()["PASIDE"], context.fields()["PDTS"]) == (CONTEXT_ENTRY, 1, 7)
    assert directory.layout is PASID_DIR_ENTRY
    assert directory.address == context.fields()["PASIDDIRPTR"] + (0x12345 >> 6) * 8
    assert entry.address == directory.fields()["SMPTBLPTR"] + (0x12345 & 63) * 64
    assert entry.words == PASS


@pytest.mark.parametrize("pasid", [0, 1, 63, 64, 0xFFFFF])
def test_leaf_tables_come_when_a_pasid_in_their_range_is_first_used(bench, pasid):
    """64 entries of 64 bytes in each 4 KiB leaf."""
    used = bench.pages.used
    if pasid:
        bench.driver.set_entry(RID, pasid, PASS, "test")
    assert bench.pages.used == used + (pasid > 63)
    assert bench.driver.tables[RID].present() == sorted({0, pasid})


def test_a_device_with_a_high_function_number_uses_the_upper_context_table(bench):
    """Devfn 0x80 and up live in the other half of the bus."""
    bench.driver.add_device(0x6AF8)
    walk = bench.unit.walk(DmaRequest(0x6AF8, 0x1000, Access.READ))
    assert walk.stops[0].fields()["UP"] == 1
    assert walk.address == 0x1000


def test_a_known_device_passes_through_without_pasid_and_an_unknown_one_is_blocked(bench):
    """RID_PASID 0 is pass-through; without context entry there is a fault."""
    assert bench.unit.translate(DmaRequest(RID, 0x5000, Access.WRITE)) == 0x5000
    assert bench.unit.walk(DmaRequest(0x6A10, 0x5000, Access.WRITE)).fault.code == 0x41
    assert bench.unit.walk(DmaRequest(0x1000, 0x5000, Access.WRITE)).fault.code == 0x39


def test_a_removed_device_leaves_no_table_and_no_page_but_its_bus(bench):
    """The context entry is cleared and every page of its PASID table freed."""
    used = bench.pages.used
    bench.driver.add_device(0x6A10)
    bench.driver.set_entry(0x6A10, 5000, PASS, "test")
    bench.driver.clear_entry(0x6A10, 5000)
    bench.driver.remove_device(0x6A10)
    assert bench.pages.used == used
    assert bench.unit.walk(DmaRequest(0x6A10, 0, Access.READ)).fault.code == 0x41


def test_the_same_device_twice_is_eexist_and_an_unknown_one_enodev(bench):
    """Requester IDs are unique."""
    assert bench.refused(bench.driver.add_device, RID).name == "EEXIST"
    assert bench.refused(bench.driver.set_entry, 0x1234, 1, PASS, "x").name == "ENODEV"


# --- writing and tearing down ---------------------------------------------------------------------------------------


def test_the_word_with_p_is_written_last(bench):
    """Hardware that reads in between sees a not-present entry or a complete one."""
    words = entries.first_level(0x12345000, SNOOPING)
    bench.driver.set_entry(RID, 1, words, "test")
    address = bench.driver.tables[RID].address(1)
    bench.driver.clear_entry(RID, 1)
    start = bench.time.journal.position
    bench.driver.set_entry(RID, 1, words, "test")
    order = [key for _, key, _, _ in bench.time.journal.changes(start) if address <= key < address + 64]
    assert order[-1] == address
    assert len(order) == 3


@pytest.mark.parametrize("name", TRACES)
def test_teardown_is_the_kernels_descriptor_by_descriptor(bench, name):
    """What intel_pasid_tear_down_entry of Linux 6.1 sent, and the entry at each moment: P clear, everything else kept.

    Device-TLB invalidations (type 8) are left out: the devices here have none.
    """
    vector = GOLDEN[name]
    inputs, trace = vector["inputs"], [step for step in vector["trace"] if step["op"] == "qi" and step["type"] != 8]
    first, second = (int(trace[0][f"entry_qw{at}"], 0) for at in range(2))
    pointer = 0x5000 if inputs["PGTT"] in (1, 3) else 0
    words = (first | 1, second, pointer, 0, 0, 0, 0, 0)
    pasid = inputs["PASID"]
    bench.driver.set_entry(RID, pasid, words, "test")
    bench.watch(pasid)
    bench.driver.clear_entry(RID, pasid, fault_disable=bool(inputs.get("fault_ignore")))
    assert bench.unit.seen == [
        (tuple(int(word, 0) for word in step["qw"]), (first, second, pointer, 0, 0, 0, 0, 0)) for step in trace
    ]
    assert bench.entry(pasid) == words_of(name)


def test_an_entry_is_blocked_from_the_first_phase_on(bench):
    """While invalidations run, DMA is refused as not present (0x59)."""
    bench.driver.set_entry(RID, 1, PASS, "test")
    bench.watch(1)
    bench.unit.looks[:] = [lambda: bench.unit.walk(DmaRequest(RID, 0, Access.READ, 1)).fault.code]
    bench.driver.clear_entry(RID, 1)
    assert [code for _, code in bench.unit.seen] == [0x59, 0x59]


def test_with_faults_disabled_late_dma_is_blocked_in_silence(bench):
    """FPD survives the teardown: no record is written (facts 2.4)."""
    bench.driver.set_entry(RID, 1, PASS, "test")
    bench.driver.clear_entry(RID, 1, fault_disable=True)
    fault = bench.unit.translate(DmaRequest(RID, 0, Access.READ, 1))
    assert isinstance(fault, Fault)
    assert (fault.code, fault.suppressed) == (0x59, True)
    assert bench.unit.faults.records() == []
    bench.driver.set_entry(RID, 1, PASS, "test")
    assert PASID_ENTRY["FPD"].get(bench.entry(1)) == 0


def test_without_caching_mode_a_new_entry_needs_no_invalidation(bench):
    """From not present to present: silicon does not cache what is not there."""
    bench.watch(1)
    bench.driver.set_entry(RID, 1, PASS, "test")
    assert bench.unit.seen == []


def test_in_caching_mode_a_new_entry_is_announced_as_the_kernel_does(make_bench):
    """Vector 15: PASID cache and PASID IOTLB, with the entry complete already."""
    bench = make_bench(VtdIdentity(cm=True))
    bench.watch(7)
    words = entries.first_level(0x12345000, SNOOPING)
    bench.driver.set_entry(RID, 7, words, "test")
    expected = [step["qw"] for step in GOLDEN["vtd_pasid_entry-15"]["trace"] if step["op"] == "qi"]
    assert [descriptor for descriptor, _ in bench.unit.seen] == [tuple(int(word, 0) for word in qw) for qw in expected]
    assert {entry for _, entry in bench.unit.seen} == {words}


def test_a_unit_without_scalable_mode_is_enodev(make_bench):
    """There are no PASIDs in legacy mode."""
    bench = make_bench()
    error = bench.refused(make_bench, VtdIdentity(smts=False))
    assert error.name == "ENODEV"


def test_the_queue_goes_round_its_ring(bench):
    """More descriptors than the ring has slots: every one is carried out, in order."""
    bench.watch(1)
    for pasid in range(1, 301):
        bench.driver.queue.submit(bench.driver.queue.pasid_cache(5, pasid))
    assert [words[0] >> 32 for words, _ in bench.unit.seen] == list(range(1, 301))


def test_a_stopped_queue_is_eio(bench):
    """An invalid descriptor stops the unit; the driver says so instead of waiting for ever."""
    assert bench.refused(bench.driver.queue.submit, (0xF, 0)).name == "EIO"


# --- domains --------------------------------------------------------------------------------------------------------


def test_an_attached_domain_bounds_requests_without_pasid(bench):
    """After attach a guest-physical address leads where the domain maps it; after detach the device passes through."""
    _, domain = bench.vm()
    domain.map(0x3000, 0x700000)
    bench.driver.attach_domain(domain, RID)
    assert bench.unit.translate(DmaRequest(RID, 0x3456, Access.READ)) == 0x700456
    assert isinstance(bench.unit.translate(DmaRequest(RID, 0x4000, Access.READ)), Fault)
    assert bench.refused(bench.driver.domain_free, domain).name == "EBUSY"
    bench.driver.detach_domain(domain, RID)
    assert bench.unit.translate(DmaRequest(RID, 0x3456, Access.READ)) == 0x3456
    bench.driver.domain_free(domain)


def test_an_auxiliary_domain_has_one_default_pasid_for_all_its_devices(bench):
    """Allocated from the host's set at the first attach, given back at the last detach (facts 4.6)."""
    _, domain = bench.vm()
    domain.map(0x3000, 0x700000)
    bench.driver.add_device(0x6A10)
    pasid = bench.driver.attach_aux(domain, RID, bench.host_set)
    assert bench.driver.attach_aux(domain, RID, bench.host_set) == pasid
    assert bench.driver.attach_aux(domain, 0x6A10, bench.host_set) == pasid
    assert bench.core.ids[pasid].owner is bench.host_set
    for rid in (RID, 0x6A10):
        assert bench.unit.translate(DmaRequest(rid, 0x3000, Access.WRITE, pasid)) == 0x700000
    bench.driver.detach_aux(domain, RID, bench.host_set)
    assert bench.unit.translate(DmaRequest(RID, 0x3000, Access.WRITE, pasid)) == 0x700000
    bench.driver.detach_aux(domain, RID, bench.host_set)
    assert isinstance(bench.unit.translate(DmaRequest(RID, 0x3000, Access.WRITE, pasid)), Fault)
    assert pasid in bench.core.ids
    bench.driver.detach_aux(domain, 0x6A10, bench.host_set)
    assert pasid not in bench.core.ids
    assert bench.refused(bench.driver.detach_aux, domain, RID, bench.host_set).name == "EINVAL"


def test_without_a_pasid_for_it_an_auxiliary_attach_is_enodev(bench):
    """The host's set is used up."""
    _, domain = bench.vm()
    small = bench.core.sets.alloc("small", None, 1)
    bench.core.alloc(small, 1, 100, "x")
    before = bench.time.digest()
    assert bench.refused(bench.driver.attach_aux, domain, RID, small).name == "ENODEV"
    assert bench.time.digest() == before


def test_domains_have_different_ids_and_get_them_back(bench):
    """A domain id tags the unit's caches; 0 and the fixed first-level id are never used."""
    first, second = bench.driver.domain_alloc("a"), bench.driver.domain_alloc("b")
    assert {first.did, second.did} & {0, entries.FLPT_DEFAULT_DID} == set()
    assert first.did != second.did
    used = bench.pages.used
    bench.driver.domain_free(first)
    assert bench.pages.used == used - 1
    assert bench.driver.domain_alloc("c").did == first.did
