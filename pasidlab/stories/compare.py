"""T2, T4, T9, T11 as an experiment: one script on a machine of each kind, step by step, with the price of each step.

A VM gets a whole function. A process in it binds, lets the device copy, a second one binds, the first unmaps a buffer,
the second unbinds, the first exits, the VM ends. Nothing in the script asks which IOMMU it runs on, and the guest's
kernel takes the same steps everywhere. What differs is what the hypervisor traps, and who writes the tables that
silicon reads: where the host owns them it *shadows* each PASID, where the guest owns them the host *binds* the table.

Beside the script things are tried that only one of the two ways can do. A refusal is an answer too, in the words of the
model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from textwrap import fill
from typing import Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.handles import App, AssignedDevice, PhysicalFunction, VirtualMachine
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect
from pasidlab.stories.table_owner import device_words
from pasidlab.timeline import HOST, Verb
from pasidlab.views.compare import Comparison, Did, Played, Tried, prices, tries
from pasidlab.views.compare_words import STEPS, TRIES
from pasidlab.views.price import price
from pasidlab.views.table import Table, table_text

__all__ = ["COMPARE", "Guest", "compare_machines", "play_on", "try_on"]

_TEXT: Final = b"the same bytes on every machine"
_SIZE: Final = len(_TEXT)
_MEMORY: Final = 1 << 20
_QUEUE: Final = "dedicated"
_WIDE: Final = 110


class Guest(NamedTuple):
    """The machine of the script, by the names of what is in it."""

    m: Machine

    @property
    def vm(self) -> VirtualMachine:
        """The VM."""
        return self.m.vm("vm1")

    @property
    def function(self) -> AssignedDevice:
        """The function that it has."""
        return self.vm.device("dsa0")

    def app(self, name: str) -> App:
        """A process in it."""
        return self.vm.app(name)


def _vm(g: Guest) -> None:
    g.m.create_vm("vm1", quota=8, memory=_MEMORY)


def _function(g: Guest) -> None:
    device = g.m.device("dsa0")
    assert isinstance(device, PhysicalFunction)
    g.m.assign_pf(device, g.vm)


def _bind(g: Guest) -> None:
    g.vm.spawn("ann").bind(g.function, queue=_QUEUE)


def _copy(g: Guest) -> None:
    app = g.app("ann")
    src, dst = app.buffer(_TEXT), app.buffer(_SIZE)
    expect(app.copy(g.function, src, dst, _SIZE).ok, "the copy succeeds")
    expect(app.read(dst, _SIZE) == _TEXT, "the bytes arrived")


def _second(g: Guest) -> None:
    g.vm.spawn("ben").bind(g.function, queue=_QUEUE)


def _unmap(g: Guest) -> None:
    app = g.app("ann")
    app.free(app.process.mm.areas.keys()[-1])


def _unbind(g: Guest) -> None:
    g.app("ben").unbind(g.function)


def _exit(g: Guest) -> None:
    g.app("ann").exit()


def _end(g: Guest) -> None:
    g.vm.crash()


_SCRIPT: Final[dict[str, Callable[[Guest], None]]] = {
    "vm": _vm,
    "function": _function,
    "bind": _bind,
    "copy": _copy,
    "second": _second,
    "unmap": _unmap,
    "unbind": _unbind,
    "exit": _exit,
    "end": _end,
}
"""What each step of :data:`~pasidlab.views.compare_words.STEPS` does."""


def compare_machines(kinds: Iterable[str] = tuple(FAMILIES)) -> Comparison:
    """The script on a machine of each kind, and what is tried on others of them.

    >>> [(one.machine.iommu, len(one.did)) for one in compare_machines(("vtd",)).played]
    [('vtd', 9)]
    """
    kinds = tuple(kinds)
    return Comparison(
        tuple(play_on(Machine(iommu=kind)) for kind in kinds),
        tuple((kind, tuple(try_on(kind))) for kind in kinds),
    )


def play_on(m: Machine) -> Played:
    """The script on one machine; afterwards its function is the host's own again, and the VM is gone."""
    m.plug_accelerator("dsa0")
    return Played(m, tuple(_do(Guest(m), name) for name in STEPS))


def _do(g: Guest, name: str) -> Did:
    time, first = g.m.timeline, g.m.timeline.now
    _SCRIPT[name](g)
    events = time.since(first)
    trapped = tuple(_without_name(event.subject, "vm1") for event in events if event.verb is Verb.TRAP)
    allocated = (event for event in events if event.verb is Verb.ALLOC and event.altitude == HOST)
    numbers = (event.fact("ioasid") for event in allocated if event.actor == "ioasid")
    found = tuple(number for number in numbers if isinstance(number, int))
    return Did(name, first, time.now, price(g.m, first), trapped, found)


def _without_name(subject: str, vm: str) -> str:
    return subject.removeprefix(f"{vm}: ")


# --- what is tried beside the script ----------------------------------------------------------------------------------


def try_on(kind: str) -> Iterator[Tried]:
    """Everything that is tried, each on a machine of its own."""
    for what in TRIES:
        try:
            words = _TRIES[what](Machine(iommu=kind))
        except KernelError as error:
            yield Tried(what, error.name, error.reason)
        else:
            yield Tried(what, "", words)


def _vms(m: Machine) -> tuple[VirtualMachine, VirtualMachine]:
    return m.create_vm("vm1", memory=_MEMORY), m.create_vm("vm2", memory=_MEMORY)


def _interfaces(m: Machine) -> str:
    dsa, vms = m.plug_accelerator("dsa0"), _vms(m)
    adis = [m.assign_adi(dsa, vm) for vm in vms]
    for vm, adi in zip(vms, adis, strict=True):
        vm.spawn("app").bind(adi)
    numbers = [number for vm in vms for number in vm.pasids.values()]
    return f"done: host PASIDs {numbers[0]} and {numbers[1]} tell them apart"


def _enqcmd(m: Machine) -> str:
    dsa, app = m.plug_accelerator("dsa0"), m.spawn("app")
    pasid = app.bind(dsa, queue="shared")
    src, dst = app.buffer(_TEXT), app.buffer(_SIZE)
    app.copy(dsa, src, dst, _SIZE)
    return f"done: the descriptor carries PASID {pasid}, from IA32_PASID"


def _functions(m: Machine) -> str:
    functions, vms = [m.plug_accelerator(name) for name in ("dsa0", "dsa1")], _vms(m)
    devices = [m.assign_pf(function, vm) for function, vm in zip(functions, vms, strict=True)]
    numbers = [vm.spawn("app").bind(device, queue=_QUEUE) for vm, device in zip(vms, devices, strict=True)]
    return f"{numbers[0]} and {numbers[1]}; {len(m.kernel.ioasid.ids)} host PASIDs are out"


def _quota(m: Machine) -> str:
    dsa, vm = m.plug_accelerator("dsa0"), m.create_vm("vm1", quota=1, memory=_MEMORY)
    function = m.assign_pf(dsa, vm)
    numbers = [vm.spawn(name).bind(function, queue=_QUEUE) for name in ("ann", "ben")]
    return f"done: PASIDs {numbers[0]} and {numbers[1]}, {vm.used} of the quota of {vm.quota} used"


def _one(m: Machine) -> str:
    dsa, vm = m.plug_accelerator("dsa0"), m.create_vm("vm1", memory=_MEMORY)
    function = m.assign_pf(dsa, vm)
    number = vm.request_pasid()
    vm.bind_raw(function, number, vm.spawn("app"))
    return f"done: host PASID {number}"


def _table(m: Machine) -> str:
    dsa, vm = m.plug_accelerator("dsa0"), m.create_vm("vm1", memory=_MEMORY)
    m.assign_pf(dsa, vm)
    words = device_words(m, vm, dsa.rid)
    with m.timeline.operation("the hypervisor asks VFIO to bind the guest's table"):
        vm.vmm.container.bind_table("dsa0", words)
    return "done: no PASID of the host, now or later"


def _policy(m: Machine) -> str:
    m.create_vm("vm1", policy="translated", memory=_MEMORY)
    return "done: the guest sees numbers of its own, and each is converted"


def _neighbour(m: Machine) -> str:
    dsa, vms = m.plug_accelerator("dsa0"), _vms(m)
    for vm in vms:
        m.assign_pf(dsa, vm)
    return "done"


_TRIES: Final[dict[str, Callable[[Machine], str]]] = {
    "interfaces": _interfaces,
    "enqcmd": _enqcmd,
    "functions": _functions,
    "quota": _quota,
    "one": _one,
    "table": _table,
    "policy": _policy,
    "neighbour": _neighbour,
}
"""What is done for each of :data:`~pasidlab.views.compare_words.TRIES`; what it returns is the answer."""


# --- the story --------------------------------------------------------------------------------------------------------


def _tell(m: Machine) -> Iterator[str]:
    """``m`` is the first machine; the others are made here, one of each further kind."""
    machines = [m, *(Machine(iommu=kind) for kind in FAMILIES if kind != m.iommu)]
    yield (
        f"A machine of each kind ({', '.join(one.iommu for one in machines)}), with one accelerator each.\n"
        f"The ladders below, and the number of steps at the end, are those of {m.iommu}. The same is done\n"
        f"on the others beside it; {_theirs(machines[1:])} show ladders of theirs, `pasidlab compare` all prices."
    )
    for one in machines:
        one.plug_accelerator("dsa0")
    did: dict[str, list[Did]] = {one.iommu: [] for one in machines}
    for name, (title, words) in STEPS.items():
        yield f"{title[0].upper()}{title[1:]}. {words}"
        for one in machines:
            did[one.iommu].append(_do(Guest(one), name))
            expect(one.check().ok, f"every invariant holds on {one.iommu}")
    played = tuple(Played(one, tuple(did[one.iommu])) for one in machines)
    for each in played:
        _expect_as_owned(each)
    found = Comparison(played, tuple((one.iommu, tuple(try_on(one.iommu))) for one in machines))
    yield table_text(prices(found, "bind"))
    yield table_text(prices(found))
    yield from _answers(tries(found))


def _theirs(machines: Iterable[Machine]) -> str:
    """The commands that show ladders of these."""
    return " and ".join(f"`pasidlab run guest-sva-{one.iommu}`" for one in machines)


def _answers(table: Table) -> Iterator[str]:
    """What was tried, a chapter each: a paragraph for the answer of each machine."""
    for row in table.rows:
        told = zip(table.columns[1:], row.cells[1:], strict=True)
        yield "\n".join((f"Tried: {row.cells[0]}.", *(_answer(column.key, words) for column, words in told)))


def _answer(kind: str, words: str) -> str:
    return fill(words, _WIDE, initial_indent=f"  {kind:<8}", subsequent_indent=" " * 10, break_on_hyphens=False)


def _expect_as_owned(one: Played) -> None:
    """Where the guest owns the table a bind costs the host nothing; where the host does, each bind costs the same."""
    costs = {did.name: did.price for did in one.did}
    first, again = costs["bind"], costs["second"]
    expect(first.guest_words > 0, f"{one.machine.iommu}: the guest's kernel writes its own table everywhere")
    expect(again.traps <= first.traps, f"{one.machine.iommu}: a second process costs no more traps than the first")
    if one.family.binds_tables:
        free = one.total.ioasids, first.host_words, first.delivered
        expect(free == (0, 0, 0), f"{one.machine.iommu}: no number, no word and no notification of the host's")
    else:
        expect(one.total.ioasids == 2, f"{one.machine.iommu}: a number of the host's for each process")
        expect(first.host_words > 0, f"{one.machine.iommu}: the host writes an entry, too")


COMPARE: Final = Story(
    "compare", "The same guest on every IOMMU: what shadow costs, what bind cannot do", ("T2", "T4", "T9", "T11"), _tell
)
