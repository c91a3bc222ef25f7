"""What an interface answers that its silicon would not, and whether a guest gets at what is not its own (facts 6)."""

import pytest

from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.commands import Command, CommandError
from pasidlab.hardware.config_space import ATS_CAPABILITY, COMMAND, PASID_CAPABILITY, PRI_CAPABILITY
from pasidlab.hardware.layouts.dsa import GENCAP, WQCFG
from pasidlab.hardware.layouts.pcie import PASID_CAP
from tests.worlds import TwoVms, World


@pytest.fixture
def world():
    """A VM with one dedicated interface, whose guest has disabled it."""
    world = World()
    world.vm1 = world.vm("vm1", "dedicated")
    world.driver = world.vm1.kernel.accelerators["adi0"]
    world.mdev = world.vm1.vmm.mdevs["adi0"]
    world.driver._command(Command.DISABLE_DEVICE)
    return world


@pytest.mark.parametrize(
    ("offset", "off"),
    [(COMMAND, 1 << 2), (PASID_CAPABILITY + 4, 1 << 16), (PRI_CAPABILITY + 4, 1), (ATS_CAPABILITY + 4, 1 << 31)],
    ids=["bus master", "PASID", "page requests", "ATS"],
)
def test_a_device_is_not_enabled_with_capabilities_that_do_not_agree(world, offset, off):
    """No bus master, PASID without page requests or the other way round, PASID without ATS: one code for all."""
    config = world.mdev.config
    config.write(offset, config.read(offset) & ~off)
    assert world.driver._command(Command.ENABLE_DEVICE) is CommandError.BUSMASTER_EN
    config.write(offset, config.read(offset) | off)
    assert world.driver._command(Command.ENABLE_DEVICE) is CommandError.SUCCESS


def test_without_pasids_and_page_requests_a_device_can_be_enabled(world):
    """They agree, and nothing needs ATS."""
    config = world.mdev.config
    for offset, off in ((PASID_CAPABILITY + 4, 1 << 16), (PRI_CAPABILITY + 4, 1), (ATS_CAPABILITY + 4, 1 << 31)):
        config.write(offset, config.read(offset) & ~off)
    assert world.driver._command(Command.ENABLE_DEVICE) is CommandError.SUCCESS
    assert world.driver._command(Command.ENABLE_WQ, 0) is CommandError.SUCCESS


def test_an_interface_of_a_parent_without_ats_shows_none():
    """The rule that PASIDs need it does not apply there."""
    world = World(ats=False)
    vm = world.vm("vm1", "shared")
    config = vm.vmm.mdevs["adi0"].config
    assert config.read(ATS_CAPABILITY) == config.read(PRI_CAPABILITY) == 0
    assert vm.vmm.mdevs["adi0"].enabled


def test_the_virtual_capabilities(world):
    """PASIDs of 20 bits with privileged mode, no message storage, no configuration of queues, all commands."""
    config = world.mdev.config
    words = (config.read(PASID_CAPABILITY) | config.read(PASID_CAPABILITY + 4) << 32,)
    known = PASID_CAP.decode(words)
    assert (known["WIDTH"], known["PRIV"]) == (20, 1)
    general = GENCAP.decode((world.mdev.mmio_read(at.GENCAP),))
    assert (general["max_ims_mult"], general["config_en"]) == (0, 0)
    assert world.mdev.mmio_read(at.CMDCAP, 4) == 0x7FFE


@pytest.mark.parametrize("command", [Command.DISABLE_WQ, Command.DRAIN_WQ, Command.ABORT_WQ, Command.RESET_WQ])
def test_commands_for_a_disabled_queue_are_refused(world, command):
    """DEV_NOT_EN, whether it is the device or the queue that is disabled; first a wrong queue is one."""
    assert world.driver._command(command, 1) is CommandError.DEV_NOT_EN
    world.driver._command(Command.ENABLE_DEVICE)
    assert world.driver._command(command, 1) is CommandError.DEV_NOT_EN
    assert world.driver._command(command, 2) is CommandError.INVAL_WQIDX
    world.driver._command(Command.ENABLE_WQ, 0)
    assert world.driver._command(command, 1) is CommandError.SUCCESS


def test_an_enable_that_the_parent_refuses_leaves_nothing_held():
    """The code kept the reference of the look-up (facts 6.6)."""
    world = TwoVms("dedicated")
    driver, parent = world.vm1.kernel.accelerators["adi0"], world.m.accelerators["dsa0"]
    driver.disable(0)
    driver._write_pasid(0, 1)
    parent.set_fields(at.wqcfg_offset(2), WQCFG, wq_size=0)
    assert driver._command(Command.ENABLE_WQ, 0) is CommandError.WQ_SIZE
    assert "vdcm:adi0" not in world.core.ids[world.h1].holders
    assert parent.wq_pasid(2) is None
    assert world.m.check().ok


@pytest.mark.parametrize("command", [Command.DRAIN_PASID, Command.ABORT_PASID])
@pytest.mark.parametrize("queue", ["shared", "dedicated"])
def test_a_guest_cannot_drain_what_is_not_its_own(queue, command):
    """Every number but its own is PASID_INVAL, and the other VM's work stays where it is."""
    world = TwoVms(queue)
    src, dst = world.app2.buffer(b"mine"), world.app2.buffer(4)
    world.app2.submit(world.adi2, src, dst, 4)
    driver = world.vm1.kernel.accelerators["adi0"]
    for number in (0, 2, 3, 4, world.h1, world.h2, 0xFFFFF):
        assert driver._command(command, number) is CommandError.PASID_INVAL
    assert driver._command(command, 1) is CommandError.SUCCESS
    assert world.app2.read(dst, 4) == bytes(4)
    assert len(world.m.pending) == 1
    assert world.m.check().ok
