"""A vCPU that is kept out of the guest, and a guest's store to a page that its hypervisor has unmapped."""

import pytest

from pasidlab.errors import BusError
from pasidlab.hardware.cpu import IA32_PASID, VmEntryBlocked
from tests.hardware.test_cpu import PORTAL, World

VALID = 1 << 31


@pytest.fixture
def guest():
    """A vCPU whose guest PASID 5 is the host's 0x65."""
    world = World()
    world.enter_guest()
    world.map(5, 0x65)
    return world


@pytest.mark.parametrize(
    "act",
    [
        lambda world: world.cpu.enqcmd(world.mmio, PORTAL, bytes(64)),
        lambda world: world.cpu.enqcmds(world.mmio, PORTAL, bytes(64)),
        lambda world: world.cpu.movdir64b(world.mmio, PORTAL, bytes(64)),
        lambda world: world.cpu.write_msr(IA32_PASID, VALID | 5),
        lambda world: world.cpu.read_msr(IA32_PASID),
    ],
)
def test_no_instruction_is_executed_while_vm_entry_is_blocked(guest, act):
    """Trying one is an error of whoever tries: nothing has changed, nothing was sent, nothing is told."""
    guest.cpu.write_msr(IA32_PASID, VALID | 5)
    guest.cpu.vmcs.entry_blocked = True
    before, told = guest.time.digest(), guest.time.now
    with pytest.raises(VmEntryBlocked, match="cpu0 must be let into the guest before"):
        act(guest)
    assert (guest.time.digest(), guest.time.now) == (before, told)
    assert not guest.target.enqueued
    guest.cpu.vmcs.entry_blocked = False
    act(guest)


def test_the_host_is_never_kept_out():
    """A processor that runs no guest has nothing to look at."""
    world = World()
    world.cpu.enqcmds(world.mmio, PORTAL, bytes(64))
    assert len(world.target.enqueued) == 1


@pytest.mark.parametrize("guest_pasid", [5, 6])
def test_a_store_to_an_unmapped_page_leaves_the_guest_untranslated(guest, guest_pasid):
    """The hypervisor's emulation sees the guest's number, also one without translation; there is no exit 72."""
    guest.mmio.regions[PORTAL] = guest.mmio.regions[PORTAL]._replace(intercepted=True)
    guest.cpu.write_msr(IA32_PASID, VALID | guest_pasid)
    guest.cpu.enqcmd(guest.mmio, PORTAL, bytes(64))
    assert int.from_bytes(guest.target.enqueued[0][1][:4], "little") == guest_pasid
    assert guest.hypervisor.exits == []


def test_only_the_unmapped_region_is_intercepted(guest):
    """Addresses beside it, and those where nobody answers, are not."""
    guest.mmio.add(PORTAL + 0x1000, 0x1000, guest.target, "other portal")
    guest.mmio.regions[PORTAL] = guest.mmio.regions[PORTAL]._replace(intercepted=True)
    pages = (PORTAL, PORTAL + 0xFFF, PORTAL + 0x1000, PORTAL - 1)
    assert [guest.mmio.intercepts(address) for address in pages] == [True, True, False, False]
    with pytest.raises(BusError):
        guest.mmio.region(PORTAL - 1)
