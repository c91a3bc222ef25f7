"""The base of every function on the bus: registers, its way to memory, pages that it asks for, its reset."""

import pytest

from pasidlab.hardware.config_space import ATS_CAPABILITY, PCIE_CAPABILITY, PRI_CAPABILITY, PciIdentity
from pasidlab.hardware.dma import PageMissing
from pasidlab.hardware.fabric import Fabric
from pasidlab.hardware.function import Function, Slot
from pasidlab.hardware.iommu.contract import DmaAborted, Fault
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.hardware.pcie import (
    Access,
    DmaRequest,
    InvalidateRequest,
    PageGroupResponse,
    RequestKind,
    ResponseCode,
    TranslationCompletion,
)
from pasidlab.timeline import Agenda, Timeline

RID = 0x6A08


class Scribe(Function):
    """Notes what is done to it."""

    identity = PciIdentity(0x1234, 0x5678, 0x0B4000)

    def __init__(self, slot):
        super().__init__(slot)
        self.heard = []

    def write_register(self, offset, value):
        super().write_register(offset, value)
        self.heard.append((offset, value))

    def run_enabled(self, what):
        self.heard.append(what)

    def page_answered(self, group, code):
        self.heard.append((group, code))


class Unit:
    """A remapping unit that has one page for PASID 5, and takes page requests."""

    def __init__(self):
        self.asked = []
        self.seen = []

    def translate(self, request):
        self.seen.append(request)
        known = request.pasid == 5 or request.kind is RequestKind.TRANSLATED
        return request.address & 0xFFF | 0x3000 if known else Fault(0x59, "SPT.2", "absent", request)

    def complete(self, request):
        self.seen.append(request)
        if request.pasid != 5:
            return Fault(0x59, "SPT.2", "absent", request)
        there = request.address < 0x10000
        return TranslationCompletion(0x3000, 0x1000, there, there)

    def page_request(self, request):
        self.asked.append(request)


@pytest.fixture
def unit():
    """The remapping unit."""
    return Unit()


@pytest.fixture
def device(unit):
    """A function on the bus."""
    time = Timeline()
    fabric = Fabric(time, PhysicalMemory(time, "memory", 1 << 20), unit)
    return Scribe(Slot(time, Agenda(time), fabric, "scribe0", RID))


def switch_on(device, page_requests=2):
    """What a driver does: page requests, then ATS."""
    device.config.write(PRI_CAPABILITY + 12, page_requests)
    device.config.write(PRI_CAPABILITY + 4, 1)
    device.config.write(ATS_CAPABILITY + 4, 1 << 31)


def missing(pasid=5, address=0x123456):
    """A page that is not there."""
    return PageMissing(DmaRequest(RID, address, Access.WRITE, pasid))


def test_configuration_space_says_who_it_is(device):
    """Vendor and device in the first word, the class above the revision."""
    assert device.config.read(0) == 0x5678_1234
    assert device.config.read(8) == 0x0B40_0000


def test_a_store_of_64_bits_arrives_as_two_of_32_and_is_kept(device):
    """The low half first; a load reads what was stored."""
    device.mmio_write(0x10, 0x1_0000_0002)
    assert device.heard == [(0x10, 2), (0x14, 1)]
    assert device.mmio_read(0x10) == 0x1_0000_0002


def test_a_function_that_overrides_nothing_is_a_memory_of_registers(device):
    """No second BAR, nothing to carry out, no answer to a page."""
    plain = type("Plain", (Function,), {"identity": Scribe.identity})
    one = plain(Slot(device.timeline, device.agenda, device.fabric, "plain0", RID + 1))
    one.mmio_write(8, 7, 4)
    one.run_enabled("anything")
    one.page_answered(0, 0)
    assert (one.mmio_read(8), one.second_bar()) == (7, None)
    assert repr(one) == "<Plain plain0 at 6a:01.1>"


def test_each_request_carries_its_requester_id_and_the_pasid_of_the_port(device, unit):
    """Without ATS every access goes to the IOMMU as it is."""
    device.port(5).write(0x40, b"bytes")
    assert device.port(5).read(0x40, 5) == b"bytes"
    assert {(one.rid, one.pasid, one.kind) for one in unit.seen} == {(RID, 5, RequestKind.MEMORY)}


@pytest.mark.parametrize("pasid", [0, 1, 4, 6, (1 << 20) - 1, None])
def test_another_pasid_is_stopped_by_the_iommu(device, pasid):
    """A function can name any PASID, and gets what the tables give to it: here nothing."""
    with pytest.raises(DmaAborted):
        device.port(pasid).read(0x40, 5)
    switch_on(device)
    with pytest.raises(DmaAborted):
        device.port(pasid).write(0x40, b"bytes")
    assert len(device.tlb.lines) == 0


def test_a_pasid_on_the_bus_has_twenty_bits(device, unit):
    """What a register holds above them stays in the device."""
    device.port(5 | 3 << 20).read(0x40, 5)
    assert [one.pasid for one in unit.seen] == [5]


def test_with_ats_it_keeps_translations_until_it_is_told_to_forget_them(device, unit):
    """One question, many accesses; an invalidate request empties the TLB."""
    switch_on(device)
    device.port(5).read(0x40, 5)
    device.port(5).read(0x50, 5)
    assert [one.kind for one in unit.seen].count(RequestKind.TRANSLATION) == 1
    device.invalidate(InvalidateRequest(RID, 5, 0, 1 << 64))
    assert len(device.tlb.lines) == 0


def test_past_its_tlb_it_sends_untranslated_requests(device, unit):
    """Whoever writes a device decides; the IOMMU serves both."""
    switch_on(device)
    device.port(5, tlb=False).read(0x40, 5)
    assert [one.kind for one in unit.seen] == [RequestKind.MEMORY]


def test_a_page_that_is_not_there_can_be_asked_for(device, unit):
    """The request names the page and the access; the answer reaches page_answered, once."""
    switch_on(device)
    with pytest.raises(PageMissing) as stop:
        device.port(5).write(0x123456, b"x")
    assert device.ask(stop.value) == 0
    assert [(one.address, one.read, one.write, one.group) for one in unit.asked] == [(0x123000, False, True, 0)]
    answer = PageGroupResponse(RID, 5, 0, ResponseCode.SUCCESS)
    device.page_response(answer)
    assert device.heard == [(0, ResponseCode.SUCCESS)]
    device.page_response(answer)
    assert device.heard == [(0, ResponseCode.SUCCESS)]
    assert device.config.read(PRI_CAPABILITY + 4) >> 17 & 1, "the second one is unexpected"


def test_no_more_pages_are_asked_for_than_the_kernel_allows(device, unit):
    """None: nothing was sent; an answer makes room."""
    assert device.ask(missing()) is None, "the interface is off"
    switch_on(device, page_requests=2)
    assert [device.ask(missing(address=at << 12)) for at in (32, 33, 34)] == [0, 1, None]
    device.page_response(PageGroupResponse(RID, 5, 0, ResponseCode.INVALID))
    assert device.ask(missing(address=35 << 12)) == 0
    assert len(unit.asked) == 3


def test_a_response_failure_stops_the_interface(device):
    """RF is set; there is nothing to ask any more."""
    switch_on(device)
    device.ask(missing())
    device.page_response(PageGroupResponse(RID, 5, 0, ResponseCode.FAILURE))
    assert device.config.page_requests_failed
    assert device.ask(missing()) is None


def test_an_answer_for_another_pasid_is_unexpected(device):
    """The group is still outstanding; the error is flagged."""
    switch_on(device)
    device.ask(missing())
    device.page_response(PageGroupResponse(RID, 6, 0, ResponseCode.SUCCESS))
    assert device.asked.keys() == [0]
    assert device.heard == []


def test_work_is_carried_out_later_or_dropped_by_name(device):
    """It stands on the list of enabled actions, and only this device's work is dropped."""
    for what in ("one", "two", "two", "three"):
        device.later(what, f"does {what}")
    assert device.agenda.actions()[0].label == "scribe0 does one"
    device.drop("two")
    device.agenda.run_all()
    assert device.heard == ["one", "three"]


def test_a_function_level_reset_leaves_nothing_but_the_switches(device):
    """Through the PCI Express capability: work, TLB, questions and registers are gone; ATS stays on."""
    switch_on(device)
    fresh = device.timeline.digest()
    device.port(5).read(0x40, 5)
    device.ask(missing())
    device.put(0x20, 1)
    device.later("work", "works")
    device.config.write(PCIE_CAPABILITY + 8, 1 << 15)
    assert device.timeline.digest() == fresh
    assert device.config.read(PCIE_CAPABILITY + 8) == 0, "an order, not a state"
    assert device.config.ats_enabled


def test_other_bits_of_device_control_reset_nothing(device):
    """Only bit 15 is modelled."""
    device.put(0x20, 1)
    device.config.write(PCIE_CAPABILITY + 8, 0x7FFF)
    assert device.get(0x20) == 1
