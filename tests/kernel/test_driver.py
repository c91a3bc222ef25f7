"""The base of every device driver: how it is found, what it does in which order, and what it undoes."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.kernel.pci import PciFunction
from pasidlab.timeline import Verb
from tests.third_party import CARD, Card, CardDriver
from tests.worlds import World


@pytest.fixture
def world():
    """A machine with a card, and a process."""
    made = World()
    made.nic = made.m.plug("nic0", Card, CardDriver)
    made.driver = made.m.kernel.drivers["nic0"]
    made.app = made.m.spawn("app")
    return made


def test_drivers_are_found_by_vendor_and_device(world):
    """As configuration space says them; the class code does not matter. -ENODEV where no driver is loaded."""
    drivers = world.m.drivers
    assert drivers.find(CARD._replace(class_code=0)) is CardDriver
    with pytest.raises(KernelError, match=r"1234:0002") as error:
        drivers.find(CARD._replace(device=2))
    assert error.value.name == "ENODEV"
    drivers.load(CardDriver)
    assert len(drivers.modules) == 2, "once more is fine"


def test_a_driver_must_say_what_it_drives(world):
    """-EINVAL."""
    nameless = type("Nameless", (CardDriver,), {"identity": None})
    with pytest.raises(KernelError, match="must have an identity") as error:
        world.m.drivers.load(nameless)
    assert error.value.name == "EINVAL"


def test_an_unknown_function_is_not_probed(world):
    """-ENODEV, before anything was made for it."""
    rid = world.nic.rid
    world.m.functions["nic0"].config.words[0] = 0x4321_8765
    before = world.time.digest()
    with pytest.raises(KernelError, match="8765:4321"):
        world.m.kernel.probe("nic9", rid, world.driver.bar0)
    assert world.time.digest() == before


def test_open_binds_then_programs_and_close_stops_then_unbinds(world):
    """No request can be under way with a number that is being given back."""
    world.app.bind(world.nic)
    assert world.driver.read(0, 4) == world.app.pasid
    step = world.time.now
    world.app.unbind(world.nic)
    verbs = [event.verb for event in world.since(step)]
    assert verbs.index(Verb.CLOSE) < verbs.index(Verb.UNBIND)
    assert world.driver.read(0, 4) == 0
    assert len(world.driver.clients) == 0


def test_opening_and_closing_are_told_with_the_channel(world):
    """Who, which device, which part of it."""
    step = world.time.now
    world.app.bind(world.nic)
    event = next(event for event in world.since(step) if event.verb is Verb.OPEN)
    assert (event.subject, event.fact("pid"), event.fact("channel")) == ("nic0 channel0 for app", 1, 0)


def test_an_exit_takes_the_entry_first_and_stops_the_channel_after(world):
    """The order of the kernel; a second exit has nothing left to do."""
    world.app.bind(world.nic)
    process = world.app.process
    step = world.time.now
    world.app.exit()
    verbs = [event.verb for event in world.since(step)]
    assert verbs.index(Verb.CLEAR_ENTRY) < verbs.index(Verb.FREE)
    assert world.driver.read(0, 4) == 0
    world.driver.process_exit(process)
    assert world.m.check().ok, world.m.check()


def test_remove_makes_processes_lose_the_device(world):
    """Its PASID tables are freed and its driver is gone; what is left is a card that nobody drives."""
    world.app.bind(world.nic)
    world.m.kernel.remove("nic0")
    assert world.app.pasid is None
    assert world.m.kernel.drivers.keys() == ["dsa0"]
    assert world.nic.rid not in world.m.kernel.iommu.tables
    assert world.driver.retired
    assert world.refused(world.app.bind, world.nic).name == "ENODEV"


def test_remove_is_refused_while_a_vm_has_the_device(world):
    """-EBUSY, and it still works there."""
    vm = world.m.create_vm("vm1")
    pf = world.m.assign_pf(world.nic, vm)
    with pytest.raises(KernelError) as error:
        world.m.kernel.remove("nic0")
    assert error.value.name == "EBUSY"
    assert vm.spawn("app").bind(pf) == 1


def test_a_reset_is_function_level_through_configuration_space(world):
    """The registers are zero; a guest's copy of configuration space offers no such reset."""
    world.app.bind(world.nic)
    world.driver.pci.reset()
    assert len(world.nic.function.bar0) == 0
    world.app.unbind(world.nic)
    vm = world.m.create_vm("vm1")
    world.m.assign_pf(world.nic, vm)
    with pytest.raises(KernelError, match="no function-level reset") as error:
        vm.kernel.drivers["nic0"].pci.reset()
    assert error.value.name == "ENOTTY"
    absent = PciFunction(world.m.mmio, 0x1234)
    with pytest.raises(KernelError, match="ENOTTY"):
        absent.reset()


def test_a_function_level_reset_of_an_accelerator_drops_its_work(world):
    """What the reset command does: nothing waits, device and queues are disabled."""
    world.app.bind(world.dsa)
    world.app.submit(world.dsa, world.app.buffer(8), world.app.buffer(8), 8)
    PciFunction(world.m.mmio, world.dsa.rid).reset()
    assert world.m.pending == []
    assert not world.dsa.hardware.enabled
    assert not any(world.dsa.hardware.wq_enabled(wq) for wq in range(6))
