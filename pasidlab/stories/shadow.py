"""T9: the shadow approach. Three VMs on one shared queue at once, each of their PASIDs backed by one of the host.

Where the host owns the PASID table, every guest PASID is shadowed one by one. A shared queue is why the numbers behind
them must be unique in the whole system: its descriptors come from several VMs, its device has one table, and all that a
request tells is its number. What that costs is counted here; what the other approach saves (T11: the guest owns the
table) can be read off the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.layouts.vtd import PASID_ENTRY, PGTT
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect
from pasidlab.stories.wire import accepted
from pasidlab.timeline import Event, Verb
from pasidlab.views.price import price

if TYPE_CHECKING:
    from pasidlab.handles import App, AssignedDevice, PhysicalFunction, VirtualMachine

__all__ = ["SHADOW"]

_NAMES: Final = ("vm1", "vm2", "vm3")
_SIZE: Final = 3 * 4096
_LETTERS: Final = (b"A", b"B", b"C")
"""What each VM's memory is filled with, so that a byte tells whose it is."""


def _tell(m: Machine) -> Iterator[str]:
    yield "One queue for shared interfaces, and three VMs with an interface each: all are clients of that one queue."
    dsa = m.plug_accelerator("dsa0")
    vms = [m.create_vm(name, quota=4) for name in _NAMES]
    adis = [m.assign_adi(dsa, vm, queue="shared") for vm in vms]
    queues = {vm.vmm.mdevs[adi.name].queue.index for vm, adi in zip(vms, adis, strict=True)}
    expect(len(queues) == 1, "one hardware queue")

    yield "A process in each guest binds. The guests know nothing of each other: all three call it PASID 1."
    start = m.timeline.now
    apps = [vm.spawn("app") for vm in vms]
    guests = [app.bind(adi) for app, adi in zip(apps, adis, strict=True)]
    bound = price(m, start)
    hosts = [vm.pasids[guest] for vm, guest in zip(vms, guests, strict=True)]
    expect(guests == [1, 1, 1] and len(set(hosts)) == 3, "and three different host PASIDs stand behind it")
    expect([vm.vmm.kvm.entry(1) for vm in vms] == hosts, "each VM's own table in the CPU leads to its own")

    yield "One table for all: the parent's. The guests' page tables even have one address; what is below differs."
    entries = [m.kernel.iommu.read_entry(dsa.rid, number) for number in hosts]
    expect({PASID_ENTRY["PGTT"].get(entry) for entry in entries} == {PGTT.NESTED}, "three nested entries")
    expect(len({PASID_ENTRY["FLPTPTR"].get(entry) for entry in entries}) == 1, "one guest-physical root: equal guests")
    expect(len({PASID_ENTRY["SLPTPTR"].get(entry) for entry in entries}) == 3, "three second levels: three VMs")

    yield "Each submits a copy, at the same virtual addresses. Three descriptors lie in one queue; one number differs."
    buffers = [_fill(app, letter) for app, letter in zip(apps, _LETTERS, strict=True)]
    expect(len(set(buffers)) == 1, "the addresses are the same in all three")
    start = m.timeline.now
    _submit(apps, adis, buffers[0])
    expect(accepted(m, start) == hosts, "the queue accepted three descriptors with three numbers")
    waiting = dsa.hardware.waiting(min(queues))
    expect([work.pasid for work in waiting] == hosts, "they wait in it, each with its number in its first dword")
    expect(len({work.src for work in waiting}) == 1, "and nothing else tells whose they are")
    expect(_traps(m, start) == 0, "no submission was trapped: the CPU converted the numbers")

    yield "The device works on them, the last one first. Each reads and writes the memory of its own VM."
    while m.pending:
        m.run(m.pending[-1].number)
    for app, letter in zip(apps, _LETTERS, strict=True):
        expect(app.read(buffers[0][1], _SIZE) == letter * _SIZE, "each guest has its own letters")
    expect(_strays(m, start, dict(zip(hosts, vms, strict=True))) == [], "no request left the VM that it was made for")

    yield "In flight: all three submit again, some work is done, and the second VM's process unbinds in the middle."
    for app in apps:
        app.write(buffers[0][1], bytes(_SIZE))
    start = m.timeline.now
    _submit(apps, adis, buffers[0])
    for action in m.pending:
        m.run(action.number)
    before = _begun(dsa)
    expect(before == set(hosts), "each has begun, and none is at its end: a step is a page")
    apps[1].unbind(adis[1])
    expect(_begun(dsa) == before - {hosts[1]}, "its own work is drained, and only that")
    expect(apps[1].read(buffers[0][1], _SIZE) == _LETTERS[1] * _SIZE, "what was drained has arrived")
    expect(_after_the_end(m, start, hosts[1]) == [], "nothing moves under its number when its entry has gone")

    yield "The number is free now. A second process of the third VM gets it, while the others are still at work."
    late = vms[2].spawn("late")
    again = late.bind(adis[2])
    expect(vms[2].pasids[again] == hosts[1], "the lowest free number")
    m.run()
    for at in (0, 2):
        expect(apps[at].read(buffers[0][1], _SIZE) == _LETTERS[at] * _SIZE, "the others' copies are whole")
    expect(_strays(m, start, {hosts[0]: vms[0], hosts[2]: vms[2]}) == [], "and stayed at home")

    yield f"The price of shadowing three PASIDs: {bound}."
    expect(bound.ioasids == 3, "a host PASID for each")
    expect(bound.kvm_words >= 3 and bound.host_words >= 3 * 3, "words in two kinds of tables for each")
    expect(bound.traps >= 3 * 3, "at least the command, the flush that reveals the entry, and the one that follows")
    expect(not bound.exits, "using them costs no exit at all")

    yield "All end. The tables, the numbers and the queue are empty."
    start = m.timeline.now
    for app, adi in ((apps[0], adis[0]), (apps[2], adis[2]), (late, adis[2])):
        app.unbind(adi)
    expect(price(m, start).kvm_words == 3, "one word of KVM's tables for each was cleared")
    expect([vm.vmm.kvm.entries() for vm in vms] == [[], [], []], "no number is translated any more")
    expect(dsa.hardware.waiting(min(queues)) == [], "the queue is empty")
    expect({*hosts}.isdisjoint(m.kernel.ioasid.ids.keys()), "the host PASIDs were reclaimed")


def _fill(app: App, letter: bytes) -> tuple[int, int]:
    """Two buffers, the first one full of a letter."""
    return app.buffer(letter * _SIZE), app.buffer(_SIZE)


def _submit(apps: list[App], adis: list[AssignedDevice], buffers: tuple[int, int]) -> None:
    for app, adi in zip(apps, adis, strict=True):
        app.submit(adi, *buffers, _SIZE)


def _traps(m: Machine, start: int) -> int:
    return sum(event.verb is Verb.TRAP for event in m.timeline.since(start))


def _begun(dsa: PhysicalFunction) -> set[int]:
    """The PASIDs of the descriptors in flight: some of their bytes have been copied, but not all."""
    return {work.pasid for _, work, done in dsa.hardware.in_flight() if 0 < done < work.size}


def _strays(m: Machine, start: int, owners: dict[int, VirtualMachine]) -> list[str]:
    """Requests since a step that reached a page which is not of the VM that their work was done for."""
    return [
        str(event)
        for event in m.timeline.since(start)
        if event.verb is Verb.DMA
        and (number := _for_whom(m, event)) in owners
        and _page(event) not in owners[number].vmm.container.pinned
    ]


def _page(event: Event) -> int:
    hpa = event.fact("hpa")
    return hpa & ~0xFFF if isinstance(hpa, int) else -1


def _for_whom(m: Machine, event: Event) -> int:
    """The PASID of the descriptor that led to a request: translated requests carry none themselves."""
    while event.verb is not Verb.EXECUTE and event.cause is not None:
        event = m.timeline.events[event.cause]
    number = event.fact("pasid")
    return number if isinstance(number, int) else -1


def _after_the_end(m: Machine, start: int, pasid: int) -> list[str]:
    """Requests for a PASID that came when its entry had been cleared."""
    events = m.timeline.since(start)
    gone = [event.number for event in events if event.verb is Verb.CLEAR_ENTRY and event.actor == "iommu"]
    return [
        str(event)
        for event in events
        if event.verb is Verb.DMA and gone and event.number > gone[0] and _for_whom(m, event) == pasid
    ]


SHADOW: Final = Story("shadow", "Three VMs on one queue: every PASID has a shadow", ("T9", "T13"), _tell)
