"""The emulated portal: what the device model converts for each descriptor, and what it answers (facts 6.3, 6.6)."""

import pytest

from pasidlab.hardware.cpu import IA32_PASID
from pasidlab.timeline import Verb
from tests.worlds import TwoVms, references


class Slow(TwoVms):
    """Two VMs; the portal of the first one is emulated."""

    def __init__(self, queue="shared"):
        super().__init__(queue)
        self.mdev = self.vm1.vmm.mdevs["adi0"]
        self.mdev.emulate_portal(True)
        self.platform = self.vm1.kernel.platform
        driver = self.vm1.kernel.accelerators["adi0"]
        self.portal = driver.portal(driver.queues[0])

    def enqcmd(self, pasid):
        self.platform.cpu.write_msr(IA32_PASID, 1 << 31 | pasid)
        return self.platform.cpu.enqcmd(self.platform.mmio, self.portal, bytes(64))


@pytest.mark.parametrize("queue", ["shared", "dedicated"])
def test_the_bytes_move_as_they_do_through_the_window(queue):
    """For either kind of queue; only the way is another one."""
    world = Slow(queue)
    src, dst = world.app1.buffer(b"slowly"), world.app1.buffer(6)
    assert world.app1.copy(world.adi1, src, dst, 6).ok
    assert world.app1.read(dst, 6) == b"slowly"
    assert world.m.check().ok


def test_each_descriptor_is_converted_once_with_a_reference_for_the_submission():
    """Exit, look-up, ENQCMDS on the host, put: no translation by the CPU, nothing stays held."""
    world = Slow()
    begin = world.time.now
    assert world.enqcmd(1)
    verbs = [event.verb for event in world.since(begin) if event.verb is not Verb.WRITE_MSR]
    assert verbs == [Verb.ENQCMD, Verb.TRAP, Verb.GET, Verb.TRANSLATE, Verb.ENQCMD, Verb.ACCEPT, Verb.PUT]
    assert references(world.since(begin), world.h1) == [("get", "vdcm:adi0", 4), ("put", "vdcm:adi0", 3)]
    accepted = next(event for event in world.since(begin) if event.verb is Verb.ACCEPT)
    assert accepted.fact("pasid") == world.h1
    assert world.m.check().ok


@pytest.mark.parametrize("pasid", [0, 2, 3, 0xFFFFF])
def test_an_unknown_pasid_is_a_retry(pasid):
    """What the CPU's translation would tell the guest as well: no exit 72, nothing submitted, nothing held."""
    world = Slow()
    begin = world.time.now
    assert world.enqcmd(pasid) is False
    assert world.platform.cpu.zf
    assert not any(event.verb in (Verb.EXIT_VMX, Verb.ACCEPT) for event in world.since(begin))
    assert world.m.check().ok


def test_a_full_queue_is_a_retry_and_holds_nothing():
    """The parent's answer goes back to the guest."""
    world = Slow()
    taken = 0
    while world.enqcmd(1):
        taken += 1
    assert taken == 16
    assert world.core.ids[world.h1].holders.count("vdcm:adi0") == 0
    assert world.m.check().ok


def test_a_dying_pasid_cannot_be_submitted_for():
    """No new reference between free and reclaim."""
    world = Slow()
    world.vm1.free_pasid(1)
    assert world.enqcmd(1) is False
    world.m.run()
    assert world.h1 not in world.core.ids


def test_what_was_submitted_is_drained_before_the_number_goes():
    """As through the window: it waits in the parent's queue."""
    world = Slow()
    src, dst = world.app1.buffer(b"late"), world.app1.buffer(4)
    world.app1.submit(world.adi1, src, dst, 4)
    world.app1.unbind(world.adi1)
    assert world.app1.read(dst, 4) == b"late"
    assert world.m.pending == []


def test_enqcmds_of_the_guests_kernel_keeps_its_privilege():
    """PASID and privilege are the payload's; the number alone is converted."""
    world = Slow()
    command = (1 << 31 | 1).to_bytes(64, "little")
    assert world.platform.cpu.enqcmds(world.platform.mmio, world.portal, command)
    work = world.m.accelerators["dsa0"].waiting(0)[0]
    assert (work.pasid, work.priv) == (world.h1, 1)


def test_a_posted_store_to_a_shared_queue_and_an_enqueue_to_a_dedicated_one_do_nothing():
    """The portal is emulated with the queue's kind."""
    for queue in ("shared", "dedicated"):
        world = Slow(queue)
        if queue == "shared":
            world.platform.cpu.movdir64b(world.platform.mmio, world.portal, bytes(64))
        else:
            assert world.enqcmd(1) is False
        assert world.m.pending == []
        assert world.m.check().ok


def test_loads_and_short_stores_do_nothing():
    """Portals take 64 bytes at once."""
    world = Slow()
    world.platform.mmio.write(world.portal, 0xFFFF)
    assert world.platform.mmio.read(world.portal) == 0
    assert world.m.pending == []


def test_giving_the_window_back_restores_the_fast_path():
    """As it was, and doing either twice changes nothing."""
    world = TwoVms()
    mdev, before = world.vm1.vmm.mdevs["adi0"], world.time.digest()
    mdev.emulate_portal(False)
    assert world.time.digest() == before
    mdev.emulate_portal(True)
    during = world.time.digest()
    mdev.emulate_portal(True)
    assert world.time.digest() == during != before
    mdev.emulate_portal(False)
    assert world.time.digest() == before
    begin = world.time.now
    src, dst = world.app1.buffer(b"x"), world.app1.buffer(1)
    assert world.app1.copy(world.adi1, src, dst, 1).ok
    assert not any(event.verb is Verb.TRAP for event in world.since(begin))


def test_the_hypervisor_decides_about_a_descriptor():
    """Refused it is a retry; with another number it runs for that one, if the VM has it."""
    world = Slow()
    src, dst = world.app1.buffer(b"x"), world.app1.buffer(1)
    with world.m.hypervisor(*["refuse"] * 64):
        assert world.refused(world.app1.submit, world.adi1, src, dst, 1).name == "EAGAIN"
    with world.m.hypervisor(*["alter 9"] * 64):
        assert world.refused(world.app1.submit, world.adi1, src, dst, 1).name == "EAGAIN"
    assert world.app1.copy(world.adi1, src, dst, 1).ok
