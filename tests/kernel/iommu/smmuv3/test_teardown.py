"""Taking a context descriptor away: the order of commands, what the tables hold meanwhile, and steps left out."""

import pytest

from pasidlab.hardware.layouts.smmu import CD
from pasidlab.hardware.layouts.smmu_queue import CMD_ATC_INV, CMD_CFGI_CD, CMD_TLBI_NH_ASID
from pasidlab.hardware.pcie import PageGroupResponse, PageRequest, ResponseCode
from pasidlab.kernel.iommu.smmuv3 import entries
from pasidlab.kernel.iommu.smmuv3.teardown import STEPS
from pasidlab.timeline import Verb

RID = 0x6A08
PASID = 5
ORDER = ["CFGI_CD", "TLBI_NH_ASID", "ATC_INV"]


@pytest.fixture
def bound(make_bench):
    """A device with ATS, and a process on it that it has used."""
    bench = make_bench(ats=True)
    bench.space, bench.page = bench.mm()
    bench.driver.write_process(RID, PASID, bench.space)
    assert bench.read(bench.page, PASID) == bench.space.physical(bench.page)
    bench.live = bench.entry(PASID)
    bench.watch(lambda: bench.entry(PASID))
    return bench


def names(bench):
    """The commands that were seen, oldest first."""
    return [name for name, *_ in bench.unit.seen]


def test_the_descriptor_is_invalid_before_anything_is_forgotten(bound):
    """One store of zero; then from the unit outwards; the rest of the words goes last."""
    bound.driver.clear_entry(RID, PASID)
    assert names(bound)[:3] == ORDER
    assert {look for *_, look in bound.unit.seen[:3]} == {(0, *bound.live[1:])}
    assert bound.entry(PASID) == (0,) * 8


def test_the_commands_name_what_is_gone(bound):
    """Stream and SubstreamID, the ASID of the process, the device and its PASID."""
    bound.driver.clear_entry(RID, PASID)
    context, translations, device = (words for _, words, _ in bound.unit.seen[:3])
    assert context == CMD_CFGI_CD.encode(OP=0x05, SID=RID, SSID=PASID, leaf=1)
    assert translations == CMD_TLBI_NH_ASID.encode(OP=0x11, ASID=entries.asid_of(bound.live))
    assert device == CMD_ATC_INV.encode(OP=0x40, SID=RID, SSV=1, SSID=PASID, SIZE=52)


def test_afterwards_nothing_translates_and_nothing_is_kept(bound):
    """C_BAD_CD, and no line in any cache."""
    bound.driver.clear_entry(RID, PASID)
    assert bound.unit.caches.tlb.keys() == []
    assert bound.read(bound.page, PASID).name == "C_BAD_CD"
    assert list(bound.unit.cache_lines(bound.unit.entries(RID), every=False)) == []


def test_what_is_not_there_is_not_torn_down(bound):
    """No command, no event."""
    begin = bound.time.now
    bound.driver.clear_entry(RID, PASID + 1)
    assert bound.time.now == begin


def test_the_descriptor_of_an_exiting_process_is_quiet(bound):
    """Valid, with walks off: late DMA faults, and no record is made of it; no entry is left."""
    bound.driver.clear_entry(RID, PASID, fault_disable=True)
    words = bound.entry(PASID)
    assert (CD["V"].get(words), CD["EPD0"].get(words), CD["ASID"].get(words), CD["TTB0"].get(words)) == (1, 1, 0, 0)
    late = bound.read(bound.page, PASID)
    assert (late.name, late.suppressed) == ("F_TRANSLATION", True)
    assert [entry.pasid for entry in bound.unit.entries(RID)] == [0]
    assert bound.driver.tables[RID].present() == []


def test_a_quiet_descriptor_gives_way_to_the_next_process(bound):
    """It is made invalid first, as any that the unit may have."""
    bound.driver.clear_entry(RID, PASID, fault_disable=True)
    bound.watch(lambda: bound.entry(PASID))
    other, page = bound.mm("p2")
    bound.driver.write_process(RID, PASID, other)
    assert [CD["V"].get(look) for *_, look in bound.unit.seen] == [0, 0, 1]
    assert bound.read(page, PASID) == other.physical(page)


def test_page_requests_are_drained_last(bound):
    """The queue is read, and who has asked gets an answer: invalid, since nobody is bound any more."""
    bound.unit.page_request(PageRequest(RID, PASID, 0x7000, True, False, group=3))
    bound.driver.clear_entry(RID, PASID)
    assert PageGroupResponse(RID, PASID, 3, ResponseCode.INVALID) in bound.function.told
    assert bound.unit.page_queue.requests() == []


@pytest.mark.parametrize(
    ("step", "command"), [("pasid-cache", "CFGI_CD"), ("iotlb", "TLBI_NH_ASID"), ("device-tlb", "ATC_INV")]
)
def test_a_step_that_is_left_out_is_not_done_and_told(bound, step, command):
    """The others still are."""
    bound.driver.teardown.left_out = frozenset({step})
    bound.driver.clear_entry(RID, PASID)
    assert set(names(bound)) == set(ORDER) - {command}
    told = [event.subject for event in bound.time.events if event.verb is Verb.LEAVE_OUT]
    assert told == [STEPS[step]]


def test_without_the_drain_requests_wait_on(bound):
    """Whoever gets the PASID next would be asked."""
    bound.unit.page_request(PageRequest(RID, PASID, 0x7000, True, False, group=3))
    bound.driver.teardown.left_out = frozenset({"drain"})
    bound.driver.clear_entry(RID, PASID)
    assert len(bound.unit.page_queue.requests()) == 1


def test_without_cfgi_the_unit_goes_on_with_the_old_descriptor(bound):
    """The TLB is empty, but the unit still knows where the process's page table was."""
    bound.driver.teardown.left_out = frozenset({"pasid-cache"})
    bound.driver.clear_entry(RID, PASID)
    assert bound.read(bound.page, PASID) == bound.space.physical(bound.page)


def test_without_tlbi_the_next_process_with_the_asid_reaches_the_old_pages(bound):
    """The descriptor is the new one, and the page that of the old process: both begin at one address."""
    bound.driver.teardown.left_out = frozenset({"iotlb"})
    bound.driver.clear_entry(RID, PASID)
    other, page = bound.mm("p2")
    bound.driver.write_process(RID, PASID + 1, other)
    assert entries.asid_of(bound.entry(PASID + 1)) == entries.asid_of(bound.live)
    assert page == bound.page
    assert bound.read(page, PASID + 1) == bound.space.physical(page) != other.physical(page)
