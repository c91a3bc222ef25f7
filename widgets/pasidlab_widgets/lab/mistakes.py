"""Mistakes to make: each is a real call on the machine that the modelled kernel, CPU or IOMMU must refuse.

A mistake first looks for its stage (an unbound process, a PASID of another VM, ...). Without one it cannot be made
now, and says what it needs. Nothing is prepared behind anybody's back: the only call is the wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.handles import Outcome, PhysicalFunction
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.hardware.pcie import PASID_LIMIT
from pasidlab.views.tables import device_entries
from pasidlab_widgets.lab.choices import apps, bound, device_of, openable
from pasidlab_widgets.lab.explain import copy_stopped, fault_since, refused, refused_before
from pasidlab_widgets.lab.message import Message, say
from pasidlab_widgets.lab.mistake_words import MISTAKES, NEVER, NO_ENQUEUE, OWN_TABLES, MistakeWords

if TYPE_CHECKING:
    from pasidlab.handles import App, AssignedDevice
    from pasidlab.machine import Machine

__all__ = ["HOSTILE_NAME", "STAGES", "Stage", "attempt", "description", "never", "offered", "stage_of", "words_of"]

HOSTILE_NAME: Final = '"><script>alert("vm1")</script>'
_UNMAPPED: Final = 0xDEAD_0000
_UNKNOWN: Final = 999


class Stage(NamedTuple):
    """A mistake that can be made now: the facts for its description, and the call."""

    facts: dict[str, object]
    call: Callable[[], object]


def stage_of(machine: Machine, mistake: str) -> Stage | None:
    """The stage of a mistake, or ``None`` while there is none.

    >>> from pasidlab import Machine
    >>> stage_of(Machine(), "foreign") is None, stage_of(Machine(), "name-empty") is None
    (True, False)
    """
    return None if never(machine, mistake) else STAGES[mistake](machine)


def offered(machine: Machine) -> list[tuple[str, str]]:
    """The menu: name and key of each mistake. What nobody can make on this machine comes last.

    >>> from pasidlab import Machine
    >>> [offered(Machine(iommu=iommu))[0][1] for iommu in ("vtd", "smmuv3", "amdvi")]
    ['quota-vm', 'quota-system', 'quota-system']
    """
    keys = sorted(MISTAKES, key=lambda mistake: never(machine, mistake) != "")
    return [(words_of(machine, mistake).title, mistake) for mistake in keys]


def words_of(machine: Machine, mistake: str) -> MistakeWords:
    """What is true of a mistake on this machine, in its words. What will be tried still lacks the facts of a stage.

    >>> from pasidlab import Machine
    >>> words_of(Machine(iommu="amdvi"), "dma").lesson
    'The walk looks for the GCR3 entry of this PASID, and there is no valid one.'
    """
    family = FAMILIES[machine.iommu]
    special = (OWN_TABLES if family.binds_tables else {}) | ({} if family.architecture.enqueues else NO_ENQUEUE)
    title, tried, needs, lesson = special.get(mistake, MISTAKES[mistake])
    terms = {"table": family.terms.table, "entry": family.terms.entry, "store": family.architecture.store}
    return MistakeWords(title, tried, never(machine, mistake) or needs, lesson.format(**terms))


def never(machine: Machine, mistake: str) -> str:
    """Why nobody can make this mistake on this machine, whatever is set up; empty if somebody can.

    >>> from pasidlab import Machine
    >>> never(Machine(), "foreign"), never(Machine(iommu="smmuv3"), "foreign").partition(",")[0]
    ('', 'No guest here has a PASID of the host that another VM could bind')
    """
    own = NEVER.get(mistake, "") if FAMILIES[machine.iommu].binds_tables else ""
    return own.format(reason=machine.kernel.iommu.why_whole_tables)


def description(machine: Machine, mistake: str) -> str:
    """What the call will be; if it cannot be made now, what it needs."""
    words, stage = words_of(machine, mistake), stage_of(machine, mistake)
    return words.tried.format(**stage.facts) if stage else words.needs


def attempt(machine: Machine, mistake: str) -> Message:
    """Make a mistake and say what came of it."""
    stage = stage_of(machine, mistake)
    words = words_of(machine, mistake)
    if stage is None:
        return Message("info", words.needs)
    start = machine.timeline.now
    try:
        answer = stage.call()
    except KernelError as error:
        return refused(error, words.lesson, refused_before(machine, start, error))
    if isinstance(answer, Outcome):
        blocked = copy_stopped(machine, start, answer, words.lesson)
    else:
        blocked = fault_since(machine, start, words.lesson)
    return blocked or say("not-refused", "broken", answer=repr(answer))


# --- stages -----------------------------------------------------------------------------------------------------------


def _unbound(machine: Machine) -> Iterator[tuple[App, str]]:
    """Processes without a PASID, each with a device that it could open."""
    for app in apps(machine):
        if app.pasid is None:
            for _, name in openable(machine, f"{app.altitude}/{app.name}"):
                yield app, name


def _bound(machine: Machine) -> Iterator[tuple[App, str]]:
    """Processes with a device that they have open."""
    for app in apps(machine):
        for _, name in openable(machine, f"{app.altitude}/{app.name}"):
            if bound(app, name):
                yield app, name


def _actors(machine: Machine) -> Iterator[tuple[AssignedDevice, App]]:
    """A device and a process of each VM that has both."""
    for vm in machine.vms:
        if vm.devices and vm.apps:
            yield vm.devices[0], vm.apps[0]


def _quota_vm(machine: Machine) -> Stage | None:
    for app, name in _unbound(machine):
        vm = machine.vm(app.altitude) if app.altitude in machine.vmms else None
        if vm is not None and vm.quota is not None and vm.used >= vm.quota:
            return Stage({}, partial(app.bind, device_of(machine, app, name)))
    return None


def _quota_system(machine: Machine) -> Stage | None:
    if machine.quota_policy == "rlimit":
        return None
    return Stage({}, partial(machine.create_vm, "greedy", quota=PASID_LIMIT))


def _unknown(machine: Machine) -> Stage | None:
    pasid = _unused(machine)
    for device, app in _actors(machine):
        return Stage({"pasid": pasid}, partial(machine.vm(app.altitude).bind_raw, device, pasid, app))
    return None


def _unknown_free(machine: Machine) -> Stage | None:
    pasid = _unused(machine)
    for vm in machine.vms:
        return Stage({"pasid": pasid}, partial(vm.free_pasid, pasid))
    return None


def _unused(machine: Machine) -> int:
    """A number that nobody has been given."""
    out = set(machine.kernel.ioasid.ids.keys())
    return next(number for number in range(_UNKNOWN, PASID_LIMIT) if number not in out)


def _foreign(machine: Machine) -> Stage | None:
    for device, app in _actors(machine):
        for other in machine.vms:
            if other.name != app.altitude and other.pasids:
                pasid = next(iter(other.pasids.values()))
                facts: dict[str, object] = {"vm": app.altitude, "other": other.name, "pasid": pasid}
                return Stage(facts, partial(machine.vm(app.altitude).bind_raw, device, pasid, app))
    return None


def _double_bind(machine: Machine) -> Stage | None:
    for app, name in _bound(machine):
        return Stage({"process": app.name, "device": name}, partial(app.bind, device_of(machine, app, name)))
    return None


def _unbind(machine: Machine) -> Stage | None:
    for app, name in _unbound(machine):
        return Stage({"process": app.name, "device": name}, partial(app.unbind, device_of(machine, app, name)))
    return None


def _dma(machine: Machine) -> Stage | None:
    for name in machine.functions.keys():
        pasid = _unbound_pasid(machine, name)
        entry = FAMILIES[machine.iommu].terms.entry
        facts: dict[str, object] = {"device": name, "pasid": pasid, "entry": entry}
        return Stage(facts, partial(machine.dma, PhysicalFunction(machine, name), pasid, 0x1000))
    return None


def _unbound_pasid(machine: Machine, device: str) -> int:
    """The first number from 1 on under which a device has no entry."""
    free = 1
    for pasid in device_entries(machine, device):
        if pasid > free:
            break
        free = pasid + 1
    return free


def _enqcmd(machine: Machine) -> Stage | None:
    dedicated = not FAMILIES[machine.iommu].architecture.enqueues
    for app, name in _unbound(machine):
        driver = app.kernel.accelerators.get(name)
        if driver is not None and any(queue.dedicated is dedicated for queue in driver.queues.values()):
            facts: dict[str, object] = {"process": app.name, "device": name}
            return Stage(facts, partial(app.copy, device_of(machine, app, name), 0x1000, 0x2000, 8))
    return None


def _page(machine: Machine) -> Stage | None:
    for app, name in _bound(machine):
        if name in app.kernel.accelerators:
            facts: dict[str, object] = {"process": app.name, "address": f"{_UNMAPPED:#x}"}
            return Stage(facts, partial(_copy_nowhere, machine, app, name))
    return None


def _copy_nowhere(machine: Machine, app: App, device: str) -> Outcome:
    return app.copy(device_of(machine, app, device), app.buffer(b"lost"), _UNMAPPED, 4)


def _name_taken(machine: Machine) -> Stage | None:
    for vm in machine.vms:
        return Stage({"vm": vm.name}, partial(machine.create_vm, vm.name))
    return None


STAGES: Final[dict[str, Callable[[Machine], Stage | None]]] = {
    "quota-vm": _quota_vm,
    "quota-system": _quota_system,
    "unknown": _unknown,
    "unknown-free": _unknown_free,
    "foreign": _foreign,
    "double-bind": _double_bind,
    "unbind": _unbind,
    "dma": _dma,
    "enqcmd": _enqcmd,
    "page": _page,
    "name-empty": lambda machine: Stage({}, partial(machine.create_vm, "")),
    "name-taken": _name_taken,
    "name-hostile": lambda machine: Stage({"name": HOSTILE_NAME}, partial(machine.create_vm, HOSTILE_NAME)),
}
"""How to find the stage of each mistake; the keys are those of the catalogue of words, in the same order."""
