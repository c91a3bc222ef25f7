"""T5: a PASID that names no process: the default PASID of a VM's interfaces (facts 6.1, 6.4).

An assignable interface has the requester ID of its parent, so that its memory cannot be told by that. When the VM's
domain is attached to the parent in the *auxiliary* manner, the IOMMU driver allocates a PASID for the domain itself.
Work that the guest's own kernel gives to the interface, on behalf of no process, runs under it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pasidlab.handles import VirtualMachine
from pasidlab.hardware.layouts.vtd import PASID_ENTRY, PGTT
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect
from pasidlab.stories.wire import wire_numbers
from pasidlab.timeline import Event, Verb

__all__ = ["DEFAULT_PASID"]

_TEXT: Final = b"the guest's kernel itself"
_SIZE: Final = len(_TEXT)
_COPY: Final = 0x800
"""Where in its page the guest's kernel wants the copy."""


def _tell(m: Machine) -> Iterator[str]:
    yield "An interface is given to a VM. No process is bound, and yet a PASID is allocated: for the VM's own memory."
    dsa = m.plug_accelerator("dsa0")
    vm1 = m.create_vm("vm1", quota=4)
    adi1 = m.assign_adi(dsa, vm1, queue="dedicated")
    default = _default(vm1)
    attached = next(event for event in m.timeline.events if event.verb is Verb.ATTACH and event.fact("pasid"))
    expect(attached.after == f"default PASID {default}", "it came with the auxiliary attach")
    owner = m.kernel.ioasid.ids[default].owner
    expect(owner is m.kernel.host_set and vm1.pasids == {}, "it is the host's, and the guest does not know it")

    yield "Its entry on the parent says second-level only: what comes is guest-physical, and there is no other table."
    entry = m.kernel.iommu.read_entry(dsa.rid, default)
    expect(PASID_ENTRY["PGTT"].get(entry) == PGTT.SECOND, "second-level")
    expect(PASID_ENTRY["DID"].get(entry) == vm1.vmm.container.domain.did, "with the domain of the VM")
    expect(not PASID_ENTRY["FLPTPTR"].get(entry), "and without the page table of a process")

    yield "The guest's kernel copies, with PASIDs off in its queue. What it writes there is trapped and converted."
    page1, start = vm1.page(_TEXT), m.timeline.now
    expect(vm1.copy(adi1, page1, page1 + _COPY, _SIZE).ok, "the copy succeeds")
    traps = [event.actor for event in m.timeline.since(start) if event.verb is Verb.TRAP]
    expect(set(traps) == {"vdcm"}, "the register writes and the commands of the interface are trapped, and no others")
    expect(wire_numbers(m, start, dsa) == {default}, "what the device asks for carries the default PASID")

    yield "In the guest's register there is no PASID. In the real one there is, and marked as privileged."
    working = _first(m, start, Verb.EXECUTE)
    m.timeline.go(working.number)
    mdev, wq = vm1.vmm.mdevs[adi1.name], vm1.vmm.mdevs[adi1.name].queue.index
    registers = mdev.wq_pasid(0), dsa.hardware.wq_pasid(wq), dsa.hardware.wq_field(wq, "priv")
    holders = m.kernel.ioasid.ids[default].holders
    m.timeline.go(m.timeline.last)
    expect(registers == (None, default, 1), "so it was while the device worked")
    expect(holders == ("aux-domain:vm1",), "a default PASID needs no further reference")
    expect(dsa.hardware.wq_pasid(wq) is None, "afterwards the queue is disabled and carries none")

    yield "The same bytes from both sides: at the guest-physical address in the VM, elsewhere in the machine."
    place = m.translate(dsa.rid, default, page1 + _COPY).address or 0
    expect(vm1.read(page1 + _COPY, _SIZE) == _TEXT, "the guest finds them where it wanted them")
    expect(place != page1 + _COPY and m.memory.read(place, _SIZE) == _TEXT, "the host where the second level leads")

    yield "PASIDs on, and number 0: the same. Linux never gives 0 to a process, so it can mean 'nobody'."
    again, start = vm1.page(_TEXT[::-1]), m.timeline.now
    expect(vm1.copy(adi1, again, page1 + _COPY, _SIZE, pasid=0).ok, "the copy succeeds")
    written = [(event.actor, event.after) for event in m.timeline.since(start) if event.verb is Verb.PROGRAM]
    expect(written[:2] == [("vdcm", 0), ("accelerator", default)], "0 in the guest's register, and not in the real one")
    expect(vm1.read(page1 + _COPY, _SIZE) == _TEXT[::-1], "and the bytes arrive as before")

    yield "A second VM has a default PASID of its own. One guest-physical address, two numbers, two pages."
    vm2 = m.create_vm("vm2", quota=4)
    adi2 = m.assign_adi(dsa, vm2, queue="dedicated")
    page2 = vm2.page(b"second" + _TEXT)
    pages = [m.translate(dsa.rid, _default(vm), page1).address or 0 for vm in (vm1, vm2)]
    expect(page1 == page2 and pages[0] != pages[1], "each number leads into its own VM")
    expect([m.memory.read(page, 6) for page in pages] == [_TEXT[:6], b"second"], "to what that VM has written there")
    expect(vm2.copy(adi2, page2, page2 + _COPY, 6).ok, "the second VM's queue works beside the first one")
    found = [vm.read(page1 + _COPY, 6) for vm in (vm1, vm2)]
    expect(found == [_TEXT[::-1][:6], b"second"], "and writes into its own VM only")

    yield "It reaches no further: not beyond the VM's memory, and on a device without the attachment not at all."
    elsewhere = m.plug_accelerator("dsa1")
    beyond = m.translate(dsa.rid, default, vm1.vmm.memory.size).fault
    absent = m.translate(elsewhere.rid, default, page1).fault
    expect(beyond is not None and beyond.code == 0x79, "the second level ends where the guest's memory ends")
    expect(absent is not None and absent.code == 0x59, "the table of another device has no such entry")

    yield "The first VM ends: its interface is closed, then the entry goes, then the number. The other notices nothing."
    start = m.timeline.now
    vm1.crash()
    _expect_in_order(m, start, default)
    gone = m.translate(dsa.rid, default, page1).fault
    expect(gone is not None and gone.code == 0x59, "the number is blocked: its entry is not present")
    expect(vm2.copy(adi2, page2, page2 + _COPY, 6).ok, "vm2 works as before")

    yield "The next VM gets the number, and now it means that VM's memory. Nothing of the old one is remembered."
    vm3 = m.create_vm("vm3", quota=4)
    adi3, page3 = m.assign_adi(dsa, vm3, queue="dedicated"), vm3.page(b"a new life")
    expect(_default(vm3) == default, "the lowest free number is taken again")
    expect(
        vm3.copy(adi3, page3, page3 + _COPY, 10).ok and vm3.read(page3 + _COPY, 10) == b"a new life", "its own bytes"
    )
    page = m.translate(dsa.rid, default, page3).address or 0
    expect(page & ~0xFFF in vm3.vmm.container.pinned, "the number leads into the new VM")


def _default(vm: VirtualMachine) -> int:
    """The default PASID of a VM's interfaces."""
    pasid = vm.vmm.container.domain.default_pasid
    expect(pasid is not None, "an interface is attached")
    return pasid or 0


def _first(m: Machine, start: int, verb: Verb) -> Event:
    return next(event for event in m.timeline.since(start) if event.verb is verb)


def _expect_in_order(m: Machine, start: int, pasid: int) -> None:
    """Closed, cleared, detached, freed."""
    wanted = iter((Verb.CLOSE, Verb.CLEAR_ENTRY, Verb.DETACH, Verb.FREE, Verb.RECLAIM))
    step: Verb | None = next(wanted)
    for event in m.timeline.since(start):
        about = (event.fact("pasid"), event.fact("ioasid"))
        if event.verb is step and (step is Verb.CLOSE or pasid in about):
            step = next(wanted, None)
    expect(step is None, f"interface, entry, domain and number go in this order; {step} did not come")


DEFAULT_PASID: Final = Story("default-pasid", "A PASID without a process: the memory of a VM", ("T5",), _tell)
