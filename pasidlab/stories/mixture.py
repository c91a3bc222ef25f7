"""T7 and T10 as an experiment: one script, under each policy for the numbers of a VM.

A neighbour has an interface and a process. Then comes a VM with the policy in question, which is to get a whole
function and an interface of the neighbour's device. Four processes of it bind wherever they can. Each lets the
function ask for a page, and submits a copy by ENQCMD to every portal that it has. Buffers have the same addresses in
all processes, and each is full of its owner's letter, so that a byte tells whose memory was reached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.handles import App, AssignedDevice, PhysicalFunction, VirtualMachine
from pasidlab.machine import Machine
from pasidlab.stories.wire import accepted, wire_numbers
from pasidlab.timeline import HOST, Verb
from pasidlab.views.policies import Asked, Given, Mixture, Reached, Side
from pasidlab.views.price import kvm_pages, price
from pasidlab.virt.policies import POLICIES

if TYPE_CHECKING:
    from pasidlab.views.price import Price

__all__ = [
    "MEANINGS",
    "ORDERS",
    "PROCESSES",
    "SIZE",
    "Place",
    "Scene",
    "ask_for_page",
    "bind_all",
    "compare_policies",
    "end_scene",
    "enqueue",
    "enqueue_all",
    "mix",
    "set_scene",
]

PROCESSES: Final = ("ann", "ben", "cat", "dan")
"""The processes of the VM in question."""
SIZE: Final = 64
MEANINGS: Final = 14
"""The number of the invariant about numbers with two meanings."""
ORDERS: Final = tuple(
    (name, first)
    for name, policy in POLICIES.items()
    for first in (("function",) if policy.mixes or policy.function is None else ("function", "interface"))
)
"""Every policy with the kind of device that comes first; where that decides, once with each."""
_VICTIM: Final = "eve"
_MEMORY: Final = 1 << 20


class Place(NamedTuple):
    """Where every process has its letters, room for a copy of them, and for each kind of device room without a page."""

    src: int
    dst: int
    for_function: int
    for_interface: int


class Scene(NamedTuple):
    """The two VMs with their processes, and what was given to the one in question."""

    vm: VirtualMachine
    neighbour: VirtualMachine
    apps: tuple[App, ...]
    victim: App
    given: tuple[Given, ...]
    function: AssignedDevice | None
    interface: AssignedDevice | None
    place: Place

    @property
    def devices(self) -> list[AssignedDevice]:
        """What the VM in question has."""
        return [device for device in (self.function, self.interface) if device is not None]


def compare_policies() -> list[Mixture]:
    """The script under every policy; where the first device decides, once with each. A machine each.

    >>> [one.name for one in compare_policies()][:2]
    ['translated', 'identity']
    """
    return [mix(Machine(), policy, first) for policy, first in ORDERS]


def mix(m: Machine, policy: str, first: str = "function") -> Mixture:
    """The script on one machine under one policy; afterwards both VMs are gone, the two devices stay."""
    scene = set_scene(m, policy, first)
    start = m.timeline.now
    bind_all(scene)
    facts = _facts(m, scene, start)
    function = _side(m, scene, scene.function)
    interface = _side(m, scene, scene.interface)
    said = tuple(one.where for one in m.check().violations if one.rule.number == MEANINGS)
    if scene.function is not None:
        reached = enqueue_all(m, scene)
        function = function and function._replace(reached=reached)
    end_scene(scene)
    return Mixture(policy, first, scene.given, *facts, function, interface, said, len(m.kernel.ioasid.ids))


def _facts(m: Machine, scene: Scene, start: int) -> tuple[tuple[tuple[int, int], ...], int | None, Price, int, int]:
    """Once all are bound: the numbers, the default PASID, what it cost, entries and pages of KVM's tables."""
    kvm, domain = scene.vm.vmm.kvm, scene.vm.vmm.container.domain
    numbers = tuple(scene.vm.pasids.items())
    return numbers, domain.default_pasid, price(m, start), len(kvm.entries()), len(kvm_pages(kvm))


# --- the scene --------------------------------------------------------------------------------------------------------


def set_scene(m: Machine, policy: str, first: str = "function") -> Scene:
    """Devices, VMs and processes; of the VM in question none is bound yet."""
    function, parent = (_device(m, name) for name in ("dsa0", "dsa1"))
    neighbour = m.create_vm("neighbour", quota=4, memory=_MEMORY)
    victim = neighbour.spawn(_VICTIM)
    victim.bind(m.assign_adi(parent, neighbour, queue="shared"))
    vm = m.create_vm("vm", quota=8, policy=policy, memory=_MEMORY)
    give: dict[str, Callable[[], AssignedDevice]] = {
        "function": lambda: m.assign_pf(function, vm),
        "interface": lambda: m.assign_adi(parent, vm, queue="shared"),
    }
    tried = {name: _give(name, give[name]) for name in (first, *(name for name in give if name != first))}
    apps = tuple(vm.spawn(name) for name in PROCESSES)
    places = {_buffers(app) for app in (*apps, victim)}
    (place,) = places
    given = tuple(answer for answer, _ in tried.values())
    return Scene(vm, neighbour, apps, victim, given, tried["function"][1], tried["interface"][1], place)


def _device(m: Machine, name: str) -> PhysicalFunction:
    return PhysicalFunction(m, name) if name in m.accelerators else m.plug_accelerator(name)


def _give(name: str, act: Callable[[], AssignedDevice]) -> tuple[Given, AssignedDevice | None]:
    """What came of it; a refusal is an answer too."""
    try:
        return Given(name), act()
    except KernelError as error:
        return Given(name, error.name, error.reason), None


def _buffers(app: App) -> Place:
    fresh = app.buffer(SIZE, populate=False), app.buffer(SIZE, populate=False)
    return Place(app.buffer(_letter(app)), app.buffer(SIZE), *fresh)


def _letter(app: App) -> bytes:
    return app.name[0].encode() * SIZE


def bind_all(scene: Scene, queue: str = "dedicated") -> None:
    """Every process binds to each device that there is, in a queue of this kind on the function."""
    for app in scene.apps:
        for device in scene.devices:
            if device == scene.function:
                app.bind(device, queue=queue)
            else:
                app.bind(device)


def end_scene(scene: Scene) -> None:
    """All processes end, then both VMs."""
    for app in (*scene.apps, scene.victim):
        app.exit()
    for vm in (scene.vm, scene.neighbour):
        vm.crash()


# --- what is tried ----------------------------------------------------------------------------------------------------


def _side(m: Machine, scene: Scene, device: AssignedDevice | None) -> Side | None:
    """What is true of a device, and who gets a page through it. By ENQCMD only an interface is tried here."""
    if device is None:
        return None
    own = {m.kernel.svm.number_on(device.rid, host_pasid) for host_pasid in scene.vm.pasids.values()}
    entries = tuple(entry.pasid for entry in m.unit.entries(device.rid) if entry.pasid in own)
    start = m.timeline.now
    asked = tuple(ask_for_page(m, scene, app, device) for app in scene.apps)
    wire = sorted(wire_numbers(m, start, device.parent))
    reached = tuple(enqueue(m, scene, app, device) for app in scene.apps) if device.mediated else ()
    return Side(entries, tuple(wire), asked, reached)


def ask_for_page(m: Machine, scene: Scene, app: App, device: AssignedDevice) -> Asked:
    """A process copies to where it has no page yet, and lets the device ask for it."""
    fresh = scene.place.for_interface if device.mediated else scene.place.for_function
    others = [other for other in (*scene.apps, scene.victim) if other is not app]
    without = [other for other in others if not _present(other, fresh)]
    start = m.timeline.now
    app.copy(device, scene.place.src, fresh, SIZE, block_on_fault=True)
    asked = dict.fromkeys(
        event.altitude for event in m.timeline.since(start) if event.verb is Verb.PAGE_FAULT and event.altitude != HOST
    )
    brought = _present(app, fresh) and app.read(fresh, SIZE) == _letter(app)
    astray = tuple(other.name for other in without if _present(other, fresh))
    return Asked(app.name, tuple(asked), brought, astray)


def _present(app: App, address: int) -> bool:
    """Whether a process has a page there by now."""
    return app.process.mm.table.find(address) is not None


def enqueue_all(m: Machine, scene: Scene) -> tuple[Reached, ...]:
    """Every process takes a shared queue of the function instead of a dedicated one, and submits by ENQCMD."""
    assert scene.function is not None
    for app in scene.apps:
        app.unbind(scene.function)
    for app in scene.apps:
        app.bind(scene.function, queue="shared")
    return tuple(enqueue(m, scene, app, scene.function) for app in scene.apps)


def enqueue(m: Machine, scene: Scene, app: App, device: AssignedDevice) -> Reached:
    """A process copies its letters by ENQCMD. In whose memory has something arrived?"""
    everybody = (*scene.apps, scene.victim)
    for other in everybody:
        other.write(scene.place.dst, bytes(SIZE))
    start = m.timeline.now
    try:
        app.copy(device, scene.place.src, scene.place.dst, SIZE)
    except KernelError:
        return Reached(app.name, None, ())
    (carried,) = accepted(m, start)
    whose = tuple(other.name for other in everybody if other.read(scene.place.dst, SIZE) != bytes(SIZE))
    return Reached(app.name, carried if isinstance(carried, int) else None, whose)
