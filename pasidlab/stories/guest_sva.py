"""T4: SVA in a guest, on a machine of each kind: the guest takes the very same steps; what is trapped differs.

Where the host owns the table the hypervisor traps the allocation of a PASID and the flush that reveals an entry. Where
the guest owns it, the command is trapped by which the guest makes its *table* known, once; a process costs no more than
invalidations, which are handed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect
from pasidlab.stories.wire import wire_numbers
from pasidlab.timeline import HOST, Event, Verb
from pasidlab.views.price import price

__all__ = ["GUEST_SVA", "guest_steps"]

_TEXT: Final = b"the guest's virtual addresses"
_SIZE: Final = len(_TEXT)
_NAMED: Final = (Verb.BIND, Verb.ALLOC, Verb.WRITE_ENTRY, Verb.PROGRAM, Verb.ENABLE)
_THE_STEPS: Final = [Verb.BIND, Verb.ALLOC, Verb.WRITE_ENTRY]


def guest_steps(events: list[Event], vm: str) -> list[Verb]:
    """What a guest's kernel does for a bind, as the talk names it: bind, take a PASID, write its entry."""
    return [event.verb for event in events if event.altitude == vm and event.verb in _NAMED]


def _tell(m: Machine) -> Iterator[str]:
    family = FAMILIES[m.iommu]
    terms, guests = family.terms, family.binds_tables
    yield f"{family.title}. A function for a VM. Its guest finds a device and an IOMMU, and prepares its tables."
    dsa, vm = m.plug_accelerator("dsa0"), m.create_vm("vm1", quota=4)
    start = m.timeline.now
    function = m.assign_pf(dsa, vm)
    asked = _ioctls(m, start)
    bound = [one for one in asked if one.startswith("bind the PASID table")]
    expect(bool(bound) is guests, "the whole table is bound now" if guests else "nothing is bound before a process is")

    yield "A process binds. Bind, take a PASID, write its entry, program the device: steps of the guest's own kernel."
    app, start = vm.spawn("app"), m.timeline.now
    pasid = app.bind(function, queue="dedicated")
    events = m.timeline.since(start)
    expect(guest_steps(events, "vm1")[:3] == _THE_STEPS, "in this order, as on the bare machine")

    words = (
        "an invalidation, handed on" if guests else "the allocation of a PASID, and the flush that reveals its entry"
    )
    yield f"What was trapped meanwhile: {words}."
    trapped = [event.subject for event in events if event.verb is Verb.TRAP]
    allocated = [one for one in trapped if "allocate a PASID" in one]
    expect(
        bool(allocated) is not guests, "the number is the guest's own" if guests else "the number comes from the host"
    )
    taken = [event for event in events if event.verb is Verb.ALLOC and event.altitude == HOST]
    expect(len(taken) == (0 if guests else 1), "so many IOASIDs of the host")
    binds = [one for one in _ioctls(m, start) if "bind" in one]
    expect(bool(binds) is not guests, "the host binds nothing" if guests else "the host binds this one PASID")
    cost = price(m, start)
    expect((cost.host_words == 0) is guests, f"the {terms.entry} was written once" if guests else "and writes an entry")

    yield f"The device copies with the guest's PASID {pasid}, at virtual addresses. That traps nothing, on any machine."
    src, dst = app.buffer(_TEXT), app.buffer(_SIZE)
    start = m.timeline.now
    expect(app.copy(function, src, dst, _SIZE).ok, "the copy succeeds")
    expect(app.read(dst, _SIZE) == _TEXT, "the bytes arrived")
    used = price(m, start)
    expect((used.traps, used.exits, used.ioctls) == (0, 0, 0), "no trap, no exit, no call")
    expect(wire_numbers(m, start, dsa) == {pasid}, "the number that the guest has programmed is on the wire")

    yield "The guest unmaps the buffer. Only its own kernel knows that, so an invalidation is trapped and carried out."
    start = m.timeline.now
    app.free(dst)
    expect(price(m, start).traps > 0 and price(m, start).invalidations > 0, "the hypervisor was told, and silicon was")
    expect(m.translate(dsa.rid, pasid, dst).fault is not None, "no cache leads there any more")
    expect(m.translate(dsa.rid, pasid, src).fault is None, "what is still mapped can be reached")

    yield "It unbinds. The entry goes, the caches forget, the number is free: wherever it came from."
    start = m.timeline.now
    app.unbind(function)
    expect(m.translate(dsa.rid, pasid, src).fault is not None, "the number is blocked")
    expect(len(m.kernel.ioasid.ids) == 0, "no IOASID of the host is out")
    freed = [event for event in m.timeline.since(start) if event.verb is Verb.RECLAIM and event.altitude == HOST]
    expect(len(freed) == (0 if guests else 1), "as many as were taken")


def _ioctls(m: Machine, start: int) -> list[str]:
    return [event.subject for event in m.timeline.since(start) if event.verb is Verb.IOCTL]


GUEST_SVA: Final = tuple(
    Story(
        f"guest-sva-{family.name}",
        f"Shared virtual addressing in a guest: {family.title}",
        ("T4",),
        _tell,
        make=partial(Machine, iommu=family.name),
    )
    for family in FAMILIES.values()
)
"""One for each kind of IOMMU."""
