"""Address translation services and page requests at the unit, and which page faults are not logged."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord
from pasidlab.hardware.iommu.amdvi.faults import EventCode, Flag, Reason
from pasidlab.hardware.iommu.amdvi.invalidation import ALL_PAGES
from pasidlab.hardware.iommu.amdvi.page_queue import decode_page_request, encode_page_request
from pasidlab.hardware.iommu.amdvi.register_file import CONTROL, PPR_HEAD, PPR_TAIL, STATUS
from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.layouts.amd import CONTROL_REG
from pasidlab.hardware.layouts.amd_queue import (
    CMD_COMPLETE_PPR,
    CMD_INV_DEVTAB,
    CMD_INV_IOMMU_PAGES,
    CMD_INV_IOTLB_PAGES,
)
from pasidlab.hardware.pcie import Access, PageGroupResponse, PageRequest, RequestKind, ResponseCode
from pasidlab.timeline import Verb
from tests.hardware.iommu.amdvi.by_hand import BEYOND, DOMAIN, DTE_AT, IOVA, ON, PAGE, PASID, RID, Bench

AUTO = "PPRAutoRspEn"


@pytest.fixture
def bench():
    """A guest table for one PASID."""
    bench = Bench()
    bench.dte(GV=1)
    bench.gcr3()
    bench.guest()
    return bench


def complete(bench, access=Access.READ, **changes):
    """A translation request of the device."""
    return bench.unit.complete(bench.request(access)._replace(kind=RequestKind.TRANSLATION, **changes))


def go(bench, address=PAGE, access=Access.READ):
    """A translated request, which has no PASID."""
    return bench.unit.translate(bench.request(access, address, None)._replace(kind=RequestKind.TRANSLATED))


# --- ATS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaf", "granted"),
    [({}, (True, True)), ({"RW": 0}, (True, False)), ({"US": 0}, (False, False)), ({"P": 0}, (False, False))],
)
def test_a_translation_has_the_rights_that_there_are(bench, leaf, granted):
    """What is missing is no fault: the device may ask for the page; nothing is logged."""
    bench.guest(**leaf)
    found = complete(bench)
    assert (found.read, found.write) == granted
    assert found.address == (PAGE if granted[0] else IOVA & ~0xFFF)
    assert bench.events() == []


def test_a_translation_of_a_page_that_may_only_be_written():
    """The host table knows such pages."""
    bench = Bench()
    bench.dte(Mode=4)
    bench.host(IR=0)
    found = complete(bench, address=0x1234_5678, pasid=None)
    assert (found.address, found.read, found.write) == (PAGE, False, True)


def test_a_translation_that_may_write_marks_the_page_dirty(bench):
    """Whatever the device will do with it."""
    complete(bench)
    assert bench.memory.load(bench.guest_at(1)) & 0x60 == 0x60


def test_execution_is_asked_for_alone(bench):
    """Read and execute, as far as the table allows."""
    found = complete(bench, Access.EXECUTE)
    assert (found.read, found.write, found.execute) == (True, False, True)
    bench.guest(NX=1)
    assert complete(bench, Access.EXECUTE).execute is False


@pytest.mark.parametrize("rest", [{"V": 1}, {"V": 0}])
def test_a_device_without_ats(bench, rest):
    """I=0, or V=0: translation requests and translated requests are invalid."""
    bench.dte(GV=1, I=0 if rest["V"] else 1, **rest)
    found = complete(bench, Access.WRITE)
    assert isinstance(found, Fault)
    flags = 7 << 9 | Flag.TR | Flag.GN | Flag.US | Flag.RW
    assert bench.event() == EventRecord(EventCode.INVALID_DEVICE_REQUEST, RID, PASID, int(flags), IOVA)
    assert found.reason == Reason.NO_ATS.name
    answer = go(bench)
    assert isinstance(answer, Fault)
    assert bench.event() == EventRecord(EventCode.INVALID_DEVICE_REQUEST, RID, 0, 1 << 9, PAGE)


def test_what_cannot_be_mended_blocks_a_translation_request(bench):
    """A reserved bit, memory that does not answer: an event with TR=1."""
    bench.memory.store(bench.guest_at(2), 0x2087)
    assert isinstance(complete(bench), Fault)
    assert bench.event().flags == Flag.TR | Flag.GN | Flag.US | Flag.PR | Flag.RZ
    bench.gcr3(cr3=BEYOND)
    assert isinstance(complete(bench), Fault)
    assert bench.event().code == EventCode.PAGE_TAB_HARDWARE_ERROR


def test_translated_requests_pass(bench):
    """V and I are all that is asked."""
    bench.dte(IR=0, IW=0)
    assert go(bench, access=Access.WRITE) == PAGE
    assert isinstance(go(bench, 1 << 50), Fault)


def test_while_the_unit_is_off_nobody_asks(bench):
    """Told, not logged."""
    bench.control()
    assert isinstance(complete(bench), Fault)
    assert isinstance(go(bench), Fault)
    fates = [event.fact("fate") for event in bench.timeline.events if event.verb is Verb.FAULT]
    assert fates == ["not recorded: the unit is switched off"] * 2


@pytest.mark.parametrize(
    ("access", "type_"), [(Access.READ, 0), (Access.ATOMIC, 0), (Access.EXECUTE, 0), (Access.WRITE, 5)]
)
def test_the_interrupt_range_is_no_memory(bench, access, type_):
    """Without PASID: invalid requests; with a PASID it is an address like any other."""
    bench.dte()
    bench.ask(access, address=0xFEE0_1000, pasid=None)
    event = bench.event()
    assert (event.code, event.type) == (EventCode.INVALID_DEVICE_REQUEST, type_)
    bench.dte(GV=1)
    bench.guest(0xFEE0_1000)
    assert bench.ask(access, address=0xFEE0_1000) == PAGE


def test_the_unit_must_forget_before_the_device():
    """The other order lets the device ask again and be answered from the unit's own stale line (facts 4)."""
    answers = []
    device = CMD_INV_IOTLB_PAGES.encode(OPCODE=4, devid=RID, GN=1, PASID_HI=PASID >> 8, PASID_LO=PASID & 0xFF)
    unit = CMD_INV_IOMMU_PAGES.encode(OPCODE=3, domid=DOMAIN, GN=1, PASID=PASID, PDE=1, S=1, addr=ALL_PAGES)
    for order in ((device, unit), (unit, device)):
        bench = Bench(caches=True)
        bench.dte(GV=1)
        bench.gcr3()
        bench.guest()
        assert complete(bench).address == PAGE
        bench.guest(page=PAGE + 0x1000)
        bench.command(order[0])
        answers.append(complete(bench).address)
        bench.command(order[1])
        assert len(bench.endpoint.invalidated) == 1
    assert answers == [PAGE, PAGE + 0x1000]


# --- suppressed events ------------------------------------------------------------------------------------------------


def test_sa_suppresses_all_page_faults(bench):
    """Page faults only: an illegal entry is told all the same."""
    bench.dte(SA=1)
    for _ in range(2):
        answer = bench.unit.translate(bench.request())
        assert answer.suppressed
    assert bench.events() == []
    bench.memory.store(DTE_AT, bench.memory.load(DTE_AT) | 4)
    bench.ask()
    assert bench.event().code == EventCode.ILLEGAL_DEV_TABLE_ENTRY


def test_se_suppresses_all_but_the_first(bench):
    """Until the entry is read again: a unit that keeps nothing suppresses nothing."""
    bench.dte(SE=1)
    for _ in range(3):
        bench.ask()
    assert len(bench.events()) == 3
    kept = Bench(caches=True)
    kept.dte(SE=1)
    for _ in range(3):
        kept.unit.translate(kept.request())
    assert len(kept.events()) == 1
    kept.command(CMD_INV_DEVTAB.encode(OPCODE=2, devid=RID))
    kept.unit.translate(kept.request())
    assert len(kept.events()) == 2


# --- page requests ----------------------------------------------------------------------------------------------------


def page(pasid: int | None = PASID, **changes):
    """A page request of the device."""
    return PageRequest(RID, pasid, IOVA, True, True, group=5)._replace(**changes)


@pytest.mark.parametrize("pasid", [None, 0, 1, 0x1_2345 & 0xFFFF, 0xFFFFF])
@pytest.mark.parametrize("privileged", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_a_page_request_survives_its_entry(pasid, privileged, last):
    """PASID in two parts, flags, tag with the last mark; the address of the page."""
    request = PageRequest(RID, pasid, 0x7FFF_FFFF_F000, True, False, True, privileged and pasid is not None, 511, last)
    assert decode_page_request(encode_page_request(request)) == request


def test_page_requests_wait_in_the_log(bench):
    """In order, with an interrupt; software takes them away."""
    bench.unit.page_request(page(last=False))
    bench.unit.page_request(page(write=False))
    found = bench.unit.page_queue.requests()
    assert [(one.pasid, one.group, one.last, one.write) for one in found] == [
        (PASID, 5, False, True),
        (PASID, 5, True, False),
    ]
    assert found[0].address == IOVA & ~0xFFF
    assert bench.status("PPRInt", "PPRLogRun") == (1, 1)
    assert sum(event.verb is Verb.INTERRUPT for event in bench.timeline.events) == 1
    bench.unit.mmio_write(PPR_HEAD, bench.unit.mmio_read(PPR_TAIL))
    assert bench.unit.page_queue.requests() == []


@pytest.mark.parametrize("code", list(ResponseCode))
def test_software_answers_by_a_command(bench, code):
    """COMPLETE_PPR_REQUEST becomes a message to the device."""
    values = {"devid": RID, "tag": 5, "status": int(code)}
    bench.command(CMD_COMPLETE_PPR.encode(OPCODE=7, GN=1, PASID=PASID, **values))
    bench.command(CMD_COMPLETE_PPR.encode(OPCODE=7, **values))
    assert bench.endpoint.answers == [
        PageGroupResponse(RID, PASID, 5, code),
        PageGroupResponse(RID, None, 5, code),
    ]


@pytest.mark.parametrize("values", [{"PPR": 0}, {"GV": 0}, {"V": 0}, {"TV": 0}])
def test_a_device_that_may_not_ask(bench, values):
    """INVALID_PPR_REQUEST with PASID, tag and what was asked; the device hears "invalid"."""
    bench.dte(**({"GV": 1} | values))
    bench.unit.page_request(page())
    event = bench.event()
    assert (event.name, event.pasid, event.tag, event.address) == ("INVALID_PPR_REQUEST", PASID, 0x205, IOVA & ~0xFFF)
    assert bench.endpoint.answers == [PageGroupResponse(RID, PASID, 5, ResponseCode.INVALID)]
    assert bench.unit.page_queue.requests() == []


def test_an_illegal_entry_stops_page_requests_too(bench):
    """Its own event."""
    bench.dte(Mode=7)
    bench.unit.page_request(page())
    assert bench.event().code == EventCode.ILLEGAL_DEV_TABLE_ENTRY
    assert bench.endpoint.answers == [PageGroupResponse(RID, PASID, 5, ResponseCode.INVALID)]


@pytest.mark.parametrize("off", ["PPREn", "IommuEn"])
def test_while_page_requests_are_off_they_are_refused(bench, off):
    """Nothing is logged; requests before the last of a group get no answer, stop markers never."""
    bench.control(*[name for name in ON if name != off])
    bench.unit.page_request(page(last=False))
    bench.unit.page_request(page(read=False, write=False))
    assert bench.endpoint.answers == []
    bench.unit.page_request(page())
    assert bench.endpoint.answers == [PageGroupResponse(RID, PASID, 5, ResponseCode.INVALID)]
    assert bench.events() == []


@pytest.mark.parametrize(("names", "code"), [((), ResponseCode.INVALID), ((AUTO,), ResponseCode.SUCCESS)])
def test_a_full_log_loses_requests(bench, names, code):
    """PPROverflow; with automatic responses the device may try again. Clearing and enabling resumes."""
    bench.control(*ON, *names)
    for group in range(255):
        bench.unit.page_request(page(group=group))
    bench.unit.page_request(page(group=300))
    assert bench.status("PPROverflow", "PPRLogRun") == (1, 0)
    assert bench.endpoint.answers == [PageGroupResponse(RID, PASID, 300, code)]
    bench.unit.mmio_write(PPR_HEAD, bench.unit.mmio_read(PPR_TAIL))
    bench.unit.mmio_write(STATUS, 0x60)
    bench.unit.mmio_write(CONTROL, CONTROL_REG.encode(**dict.fromkeys((*ON, *names), 1))[0])
    bench.unit.page_request(page(group=7))
    assert [one.group for one in bench.unit.page_queue.requests()] == [7]


def test_a_page_request_makes_the_unit_forget_the_page():
    """Software will change it; what was kept of it may be wrong by then."""
    bench = Bench(caches=True)
    bench.dte(GV=1)
    bench.gcr3()
    bench.guest()
    bench.ask()
    bench.guest(page=PAGE + 0x1000)
    assert bench.ask() == PAGE | IOVA & 0xFFF
    bench.unit.page_request(page())
    assert bench.ask() == PAGE + 0x1000 | IOVA & 0xFFF
    bench.dte(Mode=4)
    bench.command(CMD_INV_DEVTAB.encode(OPCODE=2, devid=RID))
    bench.host()
    bench.ask(address=0x1234_5678, pasid=None)
    bench.unit.page_request(page(None, address=0x1234_5000))
    assert [key for key in bench.unit.caches.tlb.keys() if key[:2] == (DOMAIN, -1)] == []
