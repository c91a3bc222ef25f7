"""Which devices a VM may have, whose numbers they carry, and the conflicts that an unenforced policy lets in."""

import pytest

from pasidlab.hardware.accelerator.descriptor import CompletionStatus
from pasidlab.kernel.iommu.uapi import GuestPasidBind
from pasidlab.timeline import Verb
from pasidlab.virt.policies import POLICIES
from tests.worlds import World

PAGE = 4096


class Mixed(World):
    """vm1 under a policy; a function (pf) and a parent (dsa0) from which vm2 has an interface with a bound program."""

    def __init__(self, policy):
        super().__init__()
        self.pf = self.m.plug_accelerator("pf0", shared=2, dedicated=4)
        self.vm1 = self.vm("vm1", policy=policy)
        self.vm2 = self.vm("vm2", "shared")
        self.victim = self.vm2.spawn("victim")
        self.victim.bind(self.vm2.devices[0])
        self.theirs = self.vm2.pasids[1]

    def function(self):
        """Give the function to vm1."""
        return self.m.assign_pf(self.pf, self.vm1)

    def interface(self):
        """Give vm1 an interface of dsa0's shared queue."""
        return self.m.assign_adi(self.dsa, self.vm1, queue="shared")

    def program(self, name, *ways):
        """A program of vm1, bound to (device, queue) each."""
        app = self.vm1.spawn(name)
        for device, queue in ways:
            app.bind(device, queue=queue)
        return app

    def copied(self, app, device, text=b"some bytes"):
        """Whether a copy on a device arrives in the program's own memory."""
        src, dst = app.buffer(text), app.buffer(len(text))
        return app.copy(device, src, dst, len(text)).ok and app.read(dst, len(text)) == text

    def conflicts(self):
        """What rule 14 names; no other rule is broken."""
        found = self.m.check().violations
        assert {one.rule.number for one in found} <= {14}
        return [one.where for one in found]

    def sent(self, device_path, start):
        """The PASIDs that a device's DMA carried since a step."""
        return {
            e.fact("pasid") for e in self.since(start) if e.verb is Verb.EXECUTE and e.fact("device") == device_path
        }


@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_admits_what_its_row_says(policy):
    """A function, and an interface beside it; what is refused is -EPERM and leaves nothing."""
    row, world = POLICIES[policy], Mixed(policy)
    if row.function is None:
        assert world.refused(world.function).name == "EPERM"
    else:
        world.function()
    if row.function is not None and not row.mixes:
        assert world.refused(world.interface).name == "EPERM"
    else:
        world.interface()
    assert world.m.check().ok


def test_refuse_works_in_both_orders():
    """An interface first: then the function is refused."""
    world = Mixed("refuse")
    world.interface()
    assert world.refused(world.function).name == "EPERM"


def test_under_identity_one_number_is_on_both_wires_in_the_cpu_and_in_the_guest():
    """The guest sees the host's number; a function and an interface carry it."""
    world = Mixed("identity")
    pf, adi = world.function(), world.interface()
    app = world.program("app", (pf, "shared"), (adi, "shared"))
    start = world.time.now
    assert world.copied(app, pf)
    assert world.copied(app, adi)
    assert world.sent("pf0", start) == world.sent("dsa0", start) == {app.pasid}
    assert world.vm1.pasids == {app.pasid: app.pasid}
    assert world.vm1.vmm.kvm.entry(app.pasid) == app.pasid
    assert world.conflicts() == []


def test_under_refuse_a_function_alone_carries_the_guests_numbers_also_by_enqcmd():
    """Its table is indexed by them; the CPU does not translate; page requests find their owner."""
    world = Mixed("refuse")
    pf = world.function()
    apps = [world.program(f"app{at}", (pf, "shared")) for at in range(3)]
    start = world.time.now
    assert all(world.copied(app, pf) for app in apps)
    assert world.sent("pf0", start) == {1, 2, 3} == {app.pasid for app in apps}
    assert world.theirs in (1, 2, 3)
    for app in apps:
        src, dst = app.buffer(b"x" * 64), app.buffer(PAGE, populate=False)
        assert app.copy(pf, src, dst, 64, block_on_fault=True).ok
    assert world.conflicts() == []
    for app in apps:
        app.exit()
    assert world.vm1.pasids == {}
    assert world.m.check().ok


def test_unenforced_a_function_gets_the_guests_number_and_an_interface_the_hosts():
    """The talk's picture: one process, two devices, two numbers; bytes move on both."""
    world = Mixed("unenforced")
    pf, adi = world.function(), world.interface()
    app = world.program("app", (pf, "dedicated"), (adi, "shared"))
    start = world.time.now
    assert world.copied(app, pf)
    assert world.copied(app, adi)
    host_pasid = world.vm1.pasids[app.pasid]
    assert world.sent("pf0", start) == {app.pasid}
    assert world.sent("dsa0", start) == {host_pasid} != {app.pasid}


def third(world, *ways):
    """The program of vm1 whose guest PASID is the number that the host has given to vm2."""
    apps = [world.program(f"app{at}", *ways) for at in range(world.theirs)]
    assert apps[-1].pasid == world.theirs
    return apps[-1]


def test_unenforced_a_page_request_is_attributed_to_whoever_has_that_number_on_the_host():
    """vm2's guest is asked and brings a page of its own; vm1's process never gets its page, whoever is asked."""
    world = Mixed("unenforced")
    pf, _ = world.function(), world.interface()
    app = third(world, (pf, "dedicated"))
    assert any(f"IOASID {world.theirs} of vm2" in words for words in world.conflicts())
    src, dst = app.buffer(b"x" * 64), app.buffer(PAGE, populate=False)
    while (trap := world.victim.buffer(PAGE, populate=False)) < dst:
        pass
    assert trap == dst
    frames, start = world.vm2.kernel.pages.used, world.time.now
    outcome = app.copy(pf, src, dst, 64, block_on_fault=True)
    assert outcome.status is CompletionStatus.PAGE_FAULT_IR
    assert outcome.fault_address == dst
    assert world.vm2.kernel.pages.used > frames
    told = [event for event in world.since(start) if event.verb is Verb.PAGE_FAULT and event.altitude == "vm2"]
    assert told
    assert told[0].fact("address") == dst
    assert world.copied(world.victim, world.vm2.devices[0])
    world.vm1.crash()
    assert world.m.check().ok


def test_unenforced_enqcmd_reaches_another_process_of_the_guest():
    """g is translated to h; on the function's own table h is the guest PASID of somebody else, who is written to."""
    world = Mixed("unenforced")
    pf, _ = world.function(), world.interface()
    apps = [world.program(f"app{at}", (pf, "shared")) for at in range(6)]
    by_number = {app.pasid: app for app in apps}
    g = next(g for g, h in sorted(world.vm1.pasids.items()) if h in by_number and h != g)
    app, other = by_number[g], by_number[world.vm1.pasids[g]]
    assert any(f"arrives as {other.pasid}, which is another process's" in words for words in world.conflicts())
    mine, dst = app.buffer(b"from the one who asked"), app.buffer(22)
    theirs, place = other.buffer(b"a secret of the other!"), other.buffer(22)
    assert (mine, dst) == (theirs, place)
    app.submit(pf, mine, dst, 22)
    world.m.run()
    assert other.read(place, 22) == b"a secret of the other!"
    assert app.read(dst, 22) == bytes(22)


def test_unenforced_two_entries_of_one_domain_may_share_their_tag_in_the_iotlb():
    """Guest PASID 4 on the function and host PASID 4 on the parent: one tag, two page tables."""
    world = Mixed("unenforced")
    pf, adi = world.function(), world.interface()
    apps = [world.program(f"app{at}", (pf, "dedicated"), (adi, "shared")) for at in range(4)]
    assert [app.pasid for app in apps] == [1, 2, 3, 4]
    assert 4 in world.vm1.pasids.values()
    assert any("share their tag in the IOTLB" in words for words in world.conflicts())


def test_a_bind_on_a_function_with_guest_numbers_must_name_one():
    """Without the guest's number there is no place for the entry: -EINVAL, and nothing is left."""
    world = Mixed("refuse")
    pf, host_pasid = world.function(), world.vm1.request_pasid()
    root = world.vm1.spawn("app").process.mm.root
    assert world.refused(world.vm1.vmm.container.bind_pgtbl, pf.name, GuestPasidBind(host_pasid, root)).name == "EINVAL"
    assert world.core.ids[host_pasid].holders == ("vfio",)


def test_a_number_that_is_bound_on_the_function_is_not_bound_again_for_another_host_pasid():
    """The entry in the function's table is in use: -EBUSY."""
    world = Mixed("refuse")
    pf = world.function()
    app = world.program("app", (pf, "shared"))
    bind = GuestPasidBind(world.vm1.request_pasid(), app.process.mm.root, app.pasid)
    assert world.refused(world.vm1.vmm.container.bind_pgtbl, pf.name, bind).name == "EBUSY"
    assert world.copied(app, pf)


def test_a_raw_bind_of_somebody_elses_process_is_refused():
    """A page table of another VM would be an address of this one: -EINVAL."""
    world = Mixed("identity")
    pf = world.function()
    number = world.vm1.request_pasid()
    assert world.refused(world.vm1.bind_raw, pf, number, world.victim).name == "EINVAL"
