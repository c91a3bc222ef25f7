"""T11: bind. The guest owns its table, the host binds it as a whole, and does not care how many PASIDs are in it.

Only the set is needed of IOASID: none of its numbers is handed out. Two VMs use the same numbers, the same virtual
addresses, equal tables; what keeps them apart is the second level that the host puts below each.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect
from pasidlab.stories.table_owner import entry_of, in_guest_memory
from pasidlab.timeline import Verb
from pasidlab.views.price import price

if TYPE_CHECKING:
    from pasidlab.handles import VirtualMachine

__all__ = ["WHOLE_TABLE"]

_SIZE: Final = 64
_NAMES: Final = ("ann", "ben", "cat")


def _tell(m: Machine) -> Iterator[str]:
    family = FAMILIES[m.iommu]
    terms = family.terms
    yield f"{family.title}. A VM whose quota is one PASID gets a function: its whole {terms.table} is bound."
    functions = [m.plug_accelerator(name) for name in ("dsa0", "dsa1")]
    start = m.timeline.now
    vm1 = m.create_vm("vm1", quota=1)
    device1 = m.assign_pf(functions[0], vm1)
    calls = {event.subject for event in m.timeline.since(start) if event.verb is Verb.IOCTL}
    bound = {call for call in calls if call.startswith("bind")}
    expect(bound == {"bind the PASID table of dsa0"}, "VFIO is asked for the table, and for no PASID")
    expect(m.kernel.iommu.has_table(functions[0].rid), "from now on the guest's table decides")

    yield f"Three processes bind. Each gets a {terms.entry} in the guest's own memory; the host is asked for no number."
    start = m.timeline.now
    apps = [vm1.spawn(name) for name in _NAMES]
    numbers = [app.bind(device1, queue="dedicated") for app in apps]
    cost = price(m, start)
    expect(numbers == [1, 2, 3], "numbers of the guest's own, and more than its quota")
    expect((cost.ioasids, cost.host_words, cost.delivered) == (0, 0, 0), "no number, no word, nobody told on the host")
    expect(cost.guest_words >= 3, "the guest has written them")
    asked = [event.subject for event in m.timeline.since(start) if event.verb is Verb.IOCTL]
    expect(all("invalidate" in one for one in asked), "what the hypervisor asks for are invalidations")
    entries = [entry_of(m, functions[0].rid, number) for number in numbers]
    expect(all(in_guest_memory(vm1, entry.address) for entry in entries), "three entries, in the memory of the VM")

    yield "Of IOASID only the set is there: it says whose processes these would be. None of its numbers is out."
    the_set = vm1.vmm.container.set
    expect(not the_set.retired and the_set.count == 0 and vm1.pasids == {}, "a set, and nothing in it")
    expect(len(m.kernel.ioasid.ids) == 0, "the whole space of the host's numbers is free")

    yield "A second VM, a second function. Its processes get the same numbers, and use the same virtual addresses."
    vm2 = m.create_vm("vm2", quota=1)
    device2 = m.assign_pf(functions[1], vm2)
    others = [vm2.spawn(name) for name in _NAMES]
    expect([app.bind(device2, queue="dedicated") for app in others] == numbers, "1, 2, 3 once more")
    places = {(app.buffer(_letters(app.altitude, app.name)), app.buffer(_SIZE)) for app in (*apps, *others)}
    expect(len(places) == 1, "one pair of addresses for all six")

    yield "All six copy. A number means what the function's own table says, and no byte goes astray."
    src, dst = places.pop()
    for app, device in [*((app, device1) for app in apps), *((app, device2) for app in others)]:
        expect(app.copy(device, src, dst, _SIZE).ok, "the copy succeeds")
    for app in (*apps, *others):
        expect(app.read(dst, _SIZE) == _letters(app.altitude, app.name), "each has its own letters")
    pages = {m.translate(function.rid, 1, src).address for function in functions}
    expect(len(pages) == 2 and None not in pages, "one number, one address, two pages")

    yield "What a guest writes into its table is its own affair, and its own harm: the second level bounds all of it."
    _expect_bounded(m, vm1, vm2, functions[0].rid)

    yield "The first VM ends: its table is unbound, and no number of it means anything on that function. vm2 works on."
    start = m.timeline.now
    vm1.crash()
    unbound = [event for event in m.timeline.since(start) if event.verb is Verb.IOCTL and "unbind" in event.subject]
    expect(len(unbound) <= 1 and not m.kernel.iommu.has_table(functions[0].rid), "once for all of them")
    blocked = [m.translate(functions[0].rid, number, src).fault is not None for number in numbers]
    expect(blocked == [True] * 3, "all three are blocked")
    expect(others[0].copy(device2, src, dst, _SIZE).ok, "the neighbour has noticed nothing")

    yield "What this way cannot do: tell two VMs apart on one requester ID. So there are no interfaces here."
    vm3 = m.create_vm("vm3")
    try:
        m.assign_adi(functions[0], vm3)
    except KernelError as error:
        expect(error.name == "EOPNOTSUPP" and bool(error.reason), "refused with the reason")
    else:
        expect(False, "an interface is refused")


def _letters(altitude: str, name: str) -> bytes:
    """What a process has in its buffer: its name, as often as it fits."""
    return (f"{name} of {altitude}. ".encode() * _SIZE)[:_SIZE]


def _expect_bounded(m: Machine, hostile: VirtualMachine, victim: VirtualMachine, rid: int) -> None:
    """The guest lets an entry lead wherever it likes: to each page that the other VM has, by its host address."""
    (guest_rid,) = hostile.kernel.iommu.devices.keys()
    table = hostile.kernel.iommu.entry_table(guest_rid)
    at = table.address(3) if table is not None else None
    expect(at is not None, "the guest's own entry")
    memory, entry = hostile.vmm.memory, entry_of(m, rid, 3)
    foreign = sorted(victim.vmm.container.pinned)
    with m.timeline.operation("a hostile guest rewrites an entry of its own"):
        words = memory.load_words(at or 0, len(entry.words))
        root = next(at for at, word in enumerate(words) if entry.first and word & entry.first == entry.first)
        for page in (foreign[0], foreign[-1]):
            memory.store((at or 0) + 8 * root, words[root] & ~entry.first | page)
            walk = m.translate(rid, 3, 0x7F00_0000_0000, caches=False)
            reached = {stop.address & ~0xFFF for stop in walk.stops if stop.stage == "first"}
            expect(reached.isdisjoint(foreign), "no table of the other VM is read")
            expect(walk.address is None or in_guest_memory(hostile, walk.address), "nor a page of it reached")
        memory.store_words(at or 0, words)


WHOLE_TABLE: Final = tuple(
    Story(
        f"whole-table-{family.name}",
        f"The guest's whole table, bound at once: {family.title}",
        ("T11", "T13"),
        _tell,
        make=partial(Machine, iommu=family.name),
    )
    for family in FAMILIES.values()
    if family.binds_tables
)
"""One for each kind of IOMMU whose tables are bound as a whole."""
