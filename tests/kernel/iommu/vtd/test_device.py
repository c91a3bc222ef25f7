"""What the driver learns of a device, switches on at its side, and tells it when translations go."""

from dataclasses import replace

import pytest

from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.layouts.pcie import ATS_CAP, PASID_CAP, PRI_CAP
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, PASID_ENTRY
from pasidlab.hardware.layouts.vtd_queue import QI_DEV_TLB, QI_PASID_DEV_TLB, QI_PIOTLB
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.pcie import InvalidateRequest
from pasidlab.kernel.iommu.device import PRQ_DEPTH, DeviceInfo, enable_pasid
from pasidlab.kernel.pci import PciFunction

RID = 0x6A08
PASID = 5
NOBODY = 0x6A18
WHOLE = 1 << 64


def function(bench, rid=RID):
    """Its configuration space, as the kernel reaches it."""
    return PciFunction(bench.mmio, rid)


def context(bench, rid=RID):
    """Fields of its context entry."""
    words = bench.unit.find_pasid_entry(rid, None)
    assert words.reason is None
    return CONTEXT_ENTRY.decode(bench.unit.context_words(rid))


# --- what is switched on ----------------------------------------------------------------------------------------------


def test_a_device_with_ats_and_pri_may_use_them(make_bench):
    """Context entry: DTE, PRE, PASIDE. Device: ATS, page requests with an allocation, PASIDs."""
    bench = make_bench(ats=True)
    assert bench.driver.devices[RID] == DeviceInfo(RID, pci=True, pasid_bits=20, ats=True, pri=True, queue_depth=0)
    assert {name: context(bench)[name] for name in ("DTE", "PRE", "PASIDE")} == {"DTE": 1, "PRE": 1, "PASIDE": 1}
    ats, pri = function(bench).get(ATS_CAP), function(bench).get(PRI_CAP)
    assert (ats["EN"], ats["STU"], pri["EN"], pri["ALLOC"], pri["RESET"]) == (1, 0, 1, PRQ_DEPTH, 0)
    assert function(bench).get(PASID_CAP)["EN"] == 1


def test_a_device_without_ats_must_not_send_translated_requests(bench):
    """DTE=0: an address that it claims to have been given is refused (0x44)."""
    assert bench.driver.devices[RID][2:5] == (20, False, False)
    assert (context(bench)["DTE"], context(bench)["PRE"]) == (0, 0)


def test_a_function_that_is_not_there_is_no_pci_device(bench):
    """It gets tables all the same: nothing that it is asked for can fail."""
    bench.driver.add_device(NOBODY)
    assert bench.driver.devices[NOBODY] == DeviceInfo(NOBODY, pci=False, pasid_bits=0)


@pytest.mark.parametrize(
    ("lacks", "expected"),
    [
        ({"dt": False}, (False, False)),
        ({"prs": False, "pds": False}, (True, False)),
        ({"prs": False}, (True, False)),
    ],
)
def test_what_the_unit_cannot_serve_stays_off(make_bench, lacks, expected):
    """ECAP.DT, ECAP.PRS: the device has both, and gets what the unit has."""
    bench = make_bench(replace(VtdIdentity(), **lacks), ats=True)
    device = bench.driver.devices[RID]
    assert (device.ats, device.pri) == expected
    ats, pri = function(bench).get(ATS_CAP), function(bench).get(PRI_CAP)
    assert (bool(ats["EN"]), bool(pri["EN"])) == expected
    assert (bool(context(bench)["DTE"]), bool(context(bench)["PRE"])) == expected


def test_no_more_page_requests_are_allocated_than_the_device_can_have(make_bench):
    """The smaller of what the driver wants and the capability's maximum."""
    bench = make_bench(ats=True)
    assert bench.function.config.page_requests == min(PRQ_DEPTH, function(bench).get(PRI_CAP)["MAX"])


def test_a_device_that_answers_without_pasid_gets_no_page_requests(make_bench):
    """PRI.PASID_REQ=0: answers could not be told apart."""
    bench = make_bench(ats=True)
    other = 0x6A10
    bench.bus.endpoints[other] = type(bench.function)(bench.time, True, other)
    words = bench.bus.endpoints[other].config.words
    words[0x124] = words[0x124] & ~(1 << 31)
    bench.driver.add_device(other)
    assert (bench.driver.devices[other].ats, bench.driver.devices[other].pri) == (True, False)


def test_everything_is_off_again_when_the_device_goes(make_bench):
    """Page requests, then ATS; its TLB is emptied before."""
    bench = make_bench(ats=True)
    bench.function.told.clear()
    bench.driver.remove_device(RID)
    assert (function(bench).get(ATS_CAP)["EN"], function(bench).get(PRI_CAP)["EN"]) == (0, 0)
    assert RID not in bench.driver.devices
    assert bench.function.told
    assert {told for told in bench.function.told if isinstance(told, InvalidateRequest)} == {
        InvalidateRequest(RID, None, 0, WHOLE)
    }


def test_pasids_can_be_switched_on_later_and_only_where_there_are_any(bench):
    """-EINVAL for a function without the capability."""
    function(bench).set(PASID_CAP, EN=0)
    enable_pasid(function(bench))
    assert function(bench).get(PASID_CAP)["EN"] == 1
    assert bench.refused(enable_pasid, function(bench, NOBODY)).name == "EINVAL"


# --- what a device is told --------------------------------------------------------------------------------------------


def test_a_flush_of_requests_without_pasid_uses_the_descriptor_without_pasid(make_bench):
    """PASID 0 stands for them; every other PASID is named."""
    bench = make_bench(ats=True)
    (without,), (with_pasid,) = bench.driver.device_flush(RID), bench.driver.device_flush(RID, PASID)
    assert QI_DEV_TLB["TYPE"].get(without) == 3
    assert (QI_PASID_DEV_TLB["TYPE"].get(with_pasid), QI_PASID_DEV_TLB["PASID"].get(with_pasid)) == (8, PASID)
    bench.function.told.clear()
    bench.driver.queue.submit(without, with_pasid)
    assert bench.function.told == [InvalidateRequest(RID, None, 0, WHOLE), InvalidateRequest(RID, PASID, 0, WHOLE)]


def test_device_tlb_descriptors_name_the_physical_function(make_bench):
    """ECAP.DIT=1: PFSID is the function's own requester ID, since it is a physical one; without DIT it is reserved."""
    for dit in (True, False):
        bench = make_bench(replace(VtdIdentity(), dit=dit), ats=True)
        for layout, words in (
            (QI_DEV_TLB, bench.driver.device_flush(RID)[0]),
            (QI_PASID_DEV_TLB, bench.driver.device_flush(RID, PASID)[0]),
        ):
            pfsid = layout["PFSID_HI"].get(words) << 4 | layout["PFSID_LO"].get(words)
            assert pfsid == (RID if dit else 0)


@pytest.mark.parametrize("ats", [True, False])
def test_nothing_is_sent_where_there_is_no_tlb_or_the_hypervisor_sends_it(make_bench, ats):
    """A device without ATS, an unknown device, and every device in caching mode."""
    bench = make_bench(ats=ats)
    assert bool(bench.driver.device_flush(RID, PASID)) is ats
    assert bench.driver.device_flush(0x1234, PASID) == []
    assert make_bench(VtdIdentity.guest(), ats=ats).driver.device_flush(RID, PASID) == []


def flushed(bench, start, count, rids=(RID,)):
    """The pages that a flush of some pages names: to the unit, and to the device."""
    bench.unit.seen.clear()
    bench.function.told.clear()
    bench.driver.flush_pages(1, PASID, rids, (start, count))
    unit = []
    for words, *_ in bench.unit.seen:
        if QI_PIOTLB["TYPE"].get(words) == 6:
            size = PAGE_SIZE << QI_PIOTLB["AM"].get(words)
            whole = QI_PIOTLB["G"].get(words) == 2
            unit.append((0, WHOLE) if whole else (QI_PIOTLB["ADDR"].get(words) & -size, size))
    return unit, [(told.start, told.size) for told in bench.function.told]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 9, 31, 33])
@pytest.mark.parametrize("first", [0, 1, 6, 7, 31])
def test_a_range_is_covered_by_aligned_powers_of_two(make_bench, first, count):
    """Every page of the range is named at least once, by at most two descriptors; unit and device alike."""
    bench = make_bench(ats=True)
    start = 0x7F00_0000_0000 + first * PAGE_SIZE
    unit, device = flushed(bench, start, count)
    assert unit == device
    assert 1 <= len(unit) <= 2
    for at, size in unit:
        assert at % size == 0
    covered = {page for at, size in unit for page in range(at, at + size, PAGE_SIZE)}
    wanted = set(range(start, start + count * PAGE_SIZE, PAGE_SIZE))
    assert wanted <= covered
    assert len(covered) <= 4 * count


def test_a_range_beyond_the_units_largest_mask_flushes_the_whole_pasid(make_bench):
    """CAP.MAMV."""
    bench = make_bench(replace(VtdIdentity(), mamv=4), ats=True)
    unit, device = flushed(bench, 0x7F00_0000_0000, 17)
    assert set(unit) == {(0, WHOLE)}
    assert device == [(0x7F00_0000_0000, 32 * PAGE_SIZE)]


def test_only_devices_that_have_a_tlb_are_told(make_bench):
    """Others share the IOTLB invalidation."""
    bench = make_bench(ats=True)
    bench.plug(0x6A10)
    unit, device = flushed(bench, 0x7F00_0000_0000, 1, rids=(RID, 0x6A10))
    assert (len(unit), len(device)) == (1, 1)
    assert bench.bus.endpoints[0x6A10].told == []


def test_an_entry_of_a_device_without_tlb_is_torn_down_without_a_word_to_it(bench):
    """Three descriptors would be one too many."""
    words = PASID_ENTRY.encode(P=1, PGTT=1, AW=2, FLPTPTR=0x5000, DID=1)
    bench.driver.set_entry(RID, PASID, words, "test")
    bench.watch(PASID)
    bench.driver.clear_entry(RID, PASID)
    assert [words[0] & 0xF for words, _ in bench.unit.seen] == [7, 6]
    assert bench.function.told == []
