"""Mediated devices: where a guest's PASID becomes the host's, and how long it is held (facts 6.3 to 6.6)."""

import pytest

from pasidlab.hardware.accelerator.commands import Command, CommandError
from pasidlab.hardware.layouts.dsa import WQCFG
from pasidlab.timeline import Verb
from tests.worlds import TwoVms, World


def hardware_queue(world, wq=2):
    """WQCFG of the parent's queue, as the device holds it."""
    return WQCFG.decode(world.m.accelerators["dsa0"].wqcfg(wq))


@pytest.fixture
def world():
    """Two VMs with dedicated interfaces; that of vm1 is hardware queue 2."""
    world = TwoVms("dedicated")
    world.driver = world.vm1.kernel.accelerators[world.adi1.name]
    world.mdev = world.vm1.vmm.mdevs[world.adi1.name]
    return world


def reprogram(world, pasid):
    """The guest stops its queue, programs another PASID (``None``: none) and starts it again."""
    world.driver.disable(0)
    world.driver._write_pasid(0, pasid)
    return world.driver._command(Command.ENABLE_WQ, 0)


# --- conversion ---------------------------------------------------------------------------------------------------


def test_programming_converts_the_guests_number_and_takes_a_reference(world):
    """The guest reads its own number back; hardware has the host's."""
    assert world.mdev.wq_pasid(0) == 1
    assert hardware_queue(world)["pasid"] == world.h1
    assert "vdcm:adi0" in world.core.ids[world.h1].holders
    told = next(event for event in world.time.events if event.verb is Verb.TRANSLATE and event.actor == "vdcm")
    assert (told.fact("guest_pasid"), told.fact("host_pasid")) == (1, world.h1)


@pytest.mark.parametrize("pasid", [2, 3, 4, 777, 0xFFFFF], ids=str)
def test_a_number_that_the_vm_does_not_have_is_refused(world, pasid):
    """PASID_EN, whatever the number means to the host: the look-up is by SPID in the caller's own set."""
    assert reprogram(world, pasid) is CommandError.PASID_EN
    assert hardware_queue(world)["wq_state"] == 0
    assert world.mdev.programmed is None
    assert world.m.check().ok


@pytest.mark.parametrize("pasid", [None, 0])
def test_no_pasid_means_the_vms_default_pasid(world, pasid):
    """Guest-physical addresses, privileged, no reference (facts 6.4)."""
    assert reprogram(world, pasid) is CommandError.SUCCESS
    words = hardware_queue(world)
    assert words["pasid"] == world.vm1.vmm.container.domain.default_pasid
    assert (words["pasid_en"], words["priv"]) == (1, 1)
    assert world.mdev.programmed is None
    assert world.m.check().ok


def test_a_dying_pasid_cannot_be_programmed(world):
    """No new reference between free and reclaim, not even through the SPID (bug 15)."""
    world.driver.disable(0)
    world.vm1.free_pasid(1)
    world.driver._write_pasid(0, 1)
    assert world.driver._command(Command.ENABLE_WQ, 0) is CommandError.PASID_EN
    world.m.run()
    assert world.h1 not in world.core.ids


def test_a_shared_queue_programs_nothing():
    """The PASID comes with each ENQCMD; the hardware queue is the host's and stays as it is."""
    world = TwoVms("shared")
    assert world.vm1.vmm.mdevs["adi0"].programmed is None
    assert hardware_queue(world, 0)["pasid"] == 0
    assert "vdcm:adi0" not in world.core.ids[world.h1].holders


def test_the_configuration_of_an_enabled_queue_is_read_only(world):
    """A guest cannot change the number under way."""
    world.driver._write_pasid(0, 5)
    assert world.mdev.wq_pasid(0) == 1
    assert hardware_queue(world)["pasid"] == world.h1


# --- references ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "operand"),
    [(Command.DISABLE_WQ, 1), (Command.RESET_WQ, 1), (Command.DISABLE_DEVICE, 0), (Command.RESET_DEVICE, 0)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_whatever_stops_the_queue_drops_the_reference(world, command, operand):
    """After hardware let go of the PASID; the code did so for DISABLE_WQ only (facts 6.6)."""
    begin = world.time.now
    assert world.driver._command(command, operand) is CommandError.SUCCESS
    words = hardware_queue(world)
    assert (words["wq_state"], words["pasid_en"], words["pasid"]) == (0, 0, 0)
    assert world.core.ids[world.h1].holders == ("vfio", "iommu", "kvm:vm1")
    order = [event.verb for event in world.since(begin) if event.verb in (Verb.DISABLE, Verb.PROGRAM, Verb.PUT)]
    assert order.index(Verb.DISABLE) < order.index(Verb.PUT)
    assert world.m.check().ok


@pytest.mark.parametrize("command", [Command.DRAIN_WQ, Command.ABORT_WQ, Command.DRAIN_ALL, Command.ABORT_ALL])
def test_draining_and_aborting_keep_the_queue_and_the_reference(world, command):
    """A drain carries out what waits, an abort drops it; the queue goes on."""
    src, dst = world.app1.buffer(b"work"), world.app1.buffer(4)
    world.app1.submit(world.adi1, src, dst, 4)
    assert world.driver._command(command, 1) is CommandError.SUCCESS
    assert world.m.pending == []
    assert world.app1.read(dst, 4) == (b"work" if "DRAIN" in command.name else bytes(4))
    assert hardware_queue(world)["wq_state"] == 1
    assert "vdcm:adi0" in world.core.ids[world.h1].holders


def test_free_stops_the_queue_from_queued_work(world):
    """The handler is atomic; the work clears hardware and lets go."""
    world.vm1.free_pasid(1)
    assert hardware_queue(world)["pasid"] == world.h1
    number = next(action.number for action in world.m.pending if "VDCM" in action.label)
    world.m.run(number)
    assert hardware_queue(world)["pasid_en"] == 0
    assert world.core.ids[world.h1].holders == ("iommu",)


def test_closing_the_device_drops_everything(world):
    """Chain, queue, reference, and queued work: nothing of it outlives the VM."""
    world.vm1.free_pasid(1)
    world.vm1.crash()
    assert world.m.pending == []
    assert hardware_queue(world)["wq_state"] == 0
    assert world.h1 not in world.core.ids
    world.vm("vm3", "dedicated")


# --- draining -----------------------------------------------------------------------------------------------------


def test_a_guests_drain_reaches_hardware_with_the_host_pasid():
    """The code handed the guest's number to hardware; a number of nobody's is PASID_INVAL."""
    world = TwoVms("shared")
    driver, begin = world.vm1.kernel.accelerators["adi0"], world.time.now
    assert driver._command(Command.DRAIN_PASID, 1) is CommandError.SUCCESS
    drained = [
        event.fact("pasid") for event in world.since(begin) if event.verb is Verb.DRAIN and event.altitude == "hardware"
    ]
    assert drained == [world.h1]
    assert driver._command(Command.DRAIN_PASID, world.h2) is CommandError.PASID_INVAL


def test_a_drain_waits_for_this_vms_work_only():
    """On a shared queue the others run on."""
    world = TwoVms("shared")
    for app, adi in ((world.app1, world.adi1), (world.app2, world.adi2)):
        app.dst = app.buffer(4)
        app.submit(adi, app.buffer(b"work"), app.dst, 4)
    world.vm1.kernel.accelerators["adi0"].drain(0)
    assert (world.app1.read(world.app1.dst, 4), world.app2.read(world.app2.dst, 4)) == (b"work", bytes(4))


@pytest.mark.parametrize("how", ["unbind by the host", "free"])
def test_no_work_waits_for_a_pasid_once_its_users_were_told(how):
    """UNBIND and FREE have the shared queue drained, before the number can be somebody else's."""
    world = TwoVms("shared")
    world.app1.submit(world.adi1, world.app1.buffer(b"x"), world.app1.buffer(1), 1)
    if how == "free":
        world.vm1.free_pasid(1)
        drain = next(action for action in world.m.pending if "drain" in action.label)
        assert world.h1 in world.core.ids
        world.m.run(drain.number)
        assert world.core.ids[world.h1].holders == ("iommu",)
    else:
        world.vm1.vmm.container.unbind_pgtbl("adi0", world.h1)
    assert not any("executes" in action.label for action in world.m.pending)


# --- assignment ---------------------------------------------------------------------------------------------------


def test_an_interface_after_the_first_pasid_is_ebusy_and_leaves_nothing():
    """A late subscriber would miss events; the claimed queue is given back."""
    world = TwoVms()
    before = world.time.digest()
    assert world.refused(world.m.assign_adi, world.dsa, world.vm1).name == "EBUSY"
    assert world.time.digest() == before
    world.app1.unbind(world.adi1)
    world.m.assign_adi(world.dsa, world.vm1)


def test_the_isolation_of_an_interface_is_the_default_pasid():
    """One default PASID a VM, from the host's set; it leads to guest-physical memory."""
    world = World()
    vm = world.vm("vm1", "shared", "dedicated")
    default = vm.vmm.container.domain.default_pasid
    assert world.core.ids[default].owner is world.m.kernel.host_set
    walk = world.m.translate(world.dsa.rid, pasid=default, address=0x3008)
    base = next(at for at, area in vm.vmm.process.mm.areas.items() if area.pages == vm.vmm.memory.size >> 12)
    assert walk.address == vm.vmm.process.mm.physical(base + 0x3008)
    beyond = world.m.translate(world.dsa.rid, pasid=default, address=vm.vmm.memory.size)
    assert beyond.fault is not None
