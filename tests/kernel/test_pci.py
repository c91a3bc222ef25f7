"""Configuration space as a kernel reaches it: capabilities are found by their list, fields are changed one by one."""

import pytest

from pasidlab.hardware.accelerator.registers import DSA
from pasidlab.hardware.bus import ECAM_SIZE, PcieBus
from pasidlab.hardware.config_space import ATS_CAPABILITY, PRI_CAPABILITY, ConfigSpace
from pasidlab.hardware.layouts.pcie import ATS_CAP, PASID_CAP, PRI_CAP
from pasidlab.hardware.mmio import AddressMap
from pasidlab.kernel.pci import PciFunction
from pasidlab.kernel.platform import ECAM_BASE
from pasidlab.timeline import Timeline
from tests.worlds import World

RID = 0x6A08


class Function:
    """An endpoint that is nothing but its configuration space."""

    def __init__(self, timeline, ats):
        self.path = "function"
        self.config = ConfigSpace(timeline, "function.config", DSA, ats=ats)

    def invalidate(self, request):
        """There is no TLB."""

    def page_response(self, response):
        """Nobody asked."""

    def resumed(self, tag, *, retry):
        """Nothing is held."""


def make(ats=True, rid=RID):
    """A bus with one function, and a kernel's view of the function ``rid``."""
    time = Timeline()
    bus, mmio = PcieBus(time, "bus"), AddressMap(time, "mmio")
    bus.endpoints[RID] = Function(time, ats)
    mmio.add(ECAM_BASE, ECAM_SIZE, bus, "ECAM")
    return bus.endpoints[RID].config, PciFunction(mmio, rid)


def test_a_function_is_present_or_not():
    """What reads as all ones is not there, and has no capability."""
    _, function = make()
    assert function.present
    _, nobody = make(rid=RID + 1)
    assert not nobody.present
    assert nobody.find(PASID_CAP) is None
    assert set(nobody.get(PASID_CAP).values()) == {0}


def test_capabilities_are_found_by_their_list():
    """PASID first, then ATS and PRI, each naming the next; the last names none."""
    _, function = make()
    assert [function.find(layout) for layout in (PASID_CAP, ATS_CAP, PRI_CAP)] == [0x100, 0x110, 0x120]
    assert [function.get(layout)["NEXT"] for layout in (PASID_CAP, ATS_CAP, PRI_CAP)] == [0x110, 0x120, 0]


def test_a_function_without_ats_ends_its_list_early():
    """ATS and PRI are not found, and read as zero."""
    _, function = make(ats=False)
    assert function.find(ATS_CAP) is None
    assert function.find(PRI_CAP) is None
    assert set(function.get(PRI_CAP).values()) == {0}
    assert function.get(PASID_CAP)["EN"] == 1


def test_a_change_writes_only_the_registers_that_it_touches():
    """ALLOC lies in another dword than EN: changing one does not write the other."""
    config, function = make()
    function.set(PRI_CAP, EN=1)
    assert config.page_requests == 0, "nothing is allocated yet"
    function.set(PRI_CAP, ALLOC=8)
    assert (function.get(PRI_CAP)["EN"], function.get(PRI_CAP)["ALLOC"], config.page_requests) == (1, 8, 8)


def test_what_is_read_only_stays():
    """The capability says what it can, whatever is written."""
    _, function = make()
    function.set(ATS_CAP, EN=1, QDEP=5, PA=0)
    assert function.get(ATS_CAP) | {"NEXT": 0} == {
        "ID": 0x0F,
        "VER": 1,
        "NEXT": 0,
        "QDEP": 0,
        "PA": 1,
        "GINV": 0,
        "STU": 0,
        "EN": 1,
    }


def test_more_than_the_device_has_is_not_outstanding():
    """ALLOC above MAX counts as MAX."""
    config, function = make()
    function.set(PRI_CAP, EN=1, ALLOC=1000)
    assert config.page_requests == function.get(PRI_CAP)["MAX"] == 32


def test_the_interface_is_stopped_until_it_is_enabled():
    """STOPPED follows EN."""
    _, function = make()
    stopped = [function.get(PRI_CAP)["STOPPED"]]
    for enable in (1, 0):
        function.set(PRI_CAP, EN=enable)
        stopped.append(function.get(PRI_CAP)["STOPPED"])
    assert stopped == [1, 0, 1]


@pytest.mark.parametrize("error", ["RF", "UPRGI"])
def test_errors_are_cleared_by_writing_one_or_by_a_reset(error):
    """Writing zero leaves them; RF stops page requests."""
    config, function = make()
    function.set(PRI_CAP, EN=1, ALLOC=8)
    for clear in ({error: 1}, {"RESET": 1, error: 0}):
        config.flag_page_request(error)
        assert config.page_requests == (0 if error == "RF" else 8)
        function.set(PRI_CAP, EN=1, **{error: 0})
        assert function.get(PRI_CAP)[error] == 1
        function.set(PRI_CAP, **clear)
        assert function.get(PRI_CAP)[error] == 0
        assert config.page_requests == 8


def test_a_function_without_page_requests_flags_nothing():
    """There is no such register."""
    config, _ = make(ats=False)
    before = config.timeline.digest()
    config.flag_page_request("RF")
    config.write(PRI_CAPABILITY + 4, 1)
    config.write(PRI_CAPABILITY + 12, 8)
    config.write(ATS_CAPABILITY + 4, 1 << 31)
    assert (config.ats_enabled, config.page_requests) == (False, 0)
    assert config.timeline.digest() == before


def test_a_guest_reads_a_configuration_space_of_its_own():
    """The hypervisor's copy: what the guest switches off there, the silicon keeps."""
    world = World()
    vm = world.m.create_vm("vm1", memory=1 << 20)
    device = world.m.assign_pf(world.dsa, vm)
    driver = vm.kernel.accelerators[device.name]
    function = PciFunction(vm.kernel.platform.mmio, driver.rid)
    assert function.present
    assert function.get(ATS_CAP)["EN"] == 1, "the guest's driver switched it on in its copy"
    function.set(ATS_CAP, EN=0)
    assert world.dsa.hardware.config.ats_enabled


@pytest.mark.parametrize("ats", [True, False])
def test_a_guest_sees_ats_where_the_device_has_it(ats):
    """An interface or a whole function of a plain device shows none."""
    world = World()
    plain = world.m.plug_accelerator("dsa1", ats=ats)
    vm = world.m.create_vm("vm1", memory=1 << 20)
    device = world.m.assign_pf(plain, vm)
    function = PciFunction(vm.kernel.platform.mmio, vm.kernel.accelerators[device.name].rid)
    assert (function.find(ATS_CAP) is not None) is ats
