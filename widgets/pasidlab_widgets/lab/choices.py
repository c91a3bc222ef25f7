"""What can be chosen now: the options of every menu, read from the machine. Pure functions, no widgets.

An option is a label for people and a key for the code. A process is known by ``"vm1/app"``, on the host by
``"host/app"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.timeline import HOST
from pasidlab_widgets.lab.hypervisor_words import OWN_QUOTA
from pasidlab_widgets.lab.words import EMPTY, QUOTA

if TYPE_CHECKING:
    from pasidlab.handles import App, AssignedDevice, PhysicalFunction
    from pasidlab.machine import Machine

__all__ = [
    "accelerators",
    "allowance",
    "app_of",
    "apps",
    "bound",
    "device_of",
    "devices",
    "free_name",
    "ioasids",
    "modes",
    "openable",
    "places",
    "processes",
    "queues",
    "traps",
    "vms",
    "work",
]

Option = tuple[str, str]
_MOST_WORK = 16
"""Pieces of waiting work in a menu."""
_MOST = 100
"""IOASIDs in a menu; any other is chosen by clicking it, or in Python."""


def devices(machine: Machine) -> list[Option]:
    """The devices, and to whom they are assigned as a whole.

    >>> from pasidlab import Machine
    >>> m = Machine(); _ = m.plug_accelerator("dsa0"); devices(m)
    [('dsa0', 'dsa0')]
    """
    found = []
    for name in machine.functions.keys():
        owner = next((vm.name for vm in machine.vms if name in vm.vmm.functions), None)
        found.append((f"{name} (with {owner})" if owner else name, name))
    return found


def accelerators(machine: Machine) -> list[Option]:
    """The devices that have work queues."""
    return [option for option in devices(machine) if option[1] in machine.accelerators]


def queues(machine: Machine, device: str) -> list[Option]:
    """The work queues of an accelerator, by number.

    >>> from pasidlab import Machine
    >>> m = Machine(); _ = m.plug_accelerator("dsa0"); queues(m, "dsa0")[1:3]
    [('wq1 shared', '1'), ('wq2 dedicated', '2')]
    """
    hardware = machine.accelerators.get(device)
    if hardware is None:
        return []
    modes = ("shared", "dedicated")
    return [(f"wq{wq} {modes[hardware.wq_field(wq, 'mode')]}", str(wq)) for wq in range(hardware.num_wqs)]


def modes(machine: Machine) -> list[Option]:
    """The kinds of queues of which an interface can be cut: a shared one needs an enqueue instruction.

    >>> from pasidlab import Machine
    >>> modes(Machine()), modes(Machine(iommu="smmuv3"))
    ([('shared', 'shared'), ('dedicated', 'dedicated')], [('dedicated', 'dedicated')])
    """
    enqueues = FAMILIES[machine.iommu].architecture.enqueues
    return [(mode, mode) for mode in ("shared", "dedicated") if enqueues or mode != "shared"]


def work(machine: Machine) -> list[Option]:
    """What could happen next, oldest first; of very much the beginning."""
    return [(f"{action.number}: {action.label}", str(action.number)) for action in machine.pending[:_MOST_WORK]]


def traps(machine: Machine) -> list[Option]:
    """The traps that wait, oldest first."""
    return [(f"{one.number}: {one.trap}", str(one.number)) for one in machine.traps]


def vms(machine: Machine) -> list[Option]:
    """The running VMs."""
    return [(vm.name, vm.name) for vm in machine.vms]


def allowance(machine: Machine, name: str) -> str:
    """What the VM of this name may have by the policy of the machine; without a VM, what a quota is there.

    Where guests own their tables of PASIDs, that no quota counts them.

    >>> from pasidlab import Machine
    >>> m = Machine(); vm = m.create_vm("vm1", quota=4); allowance(m, "vm1")
    'vm1 uses 0 of 4 PASIDs set aside for it.'
    """
    if FAMILIES[machine.iommu].binds_tables:
        return OWN_QUOTA
    if not name:
        return QUOTA[machine.quota_policy][0]
    vm = machine.vm(name)
    words = QUOTA[machine.quota_policy if vm.quota is not None else "root"][1]
    group = vm.group.path if machine.quota_policy == "cgroup" else ""
    return words.format(vm=name, used=vm.used, quota=vm.quota, group=group)


def places(machine: Machine) -> list[Option]:
    """Where a process can run."""
    return [*vms(machine), ("host", HOST)]


def apps(machine: Machine) -> list[App]:
    """Every process that a person started: guests' first, then the host's."""
    inside = [app for vm in machine.vms for app in vm.apps]
    return [*inside, *(machine.app(process.name) for process in machine.natives)]


def processes(machine: Machine) -> list[Option]:
    """Every process. Its PASID is not in the label: a menu of 64 would travel again at each bind."""
    return [(f"{app.altitude}: {app.name}", f"{app.altitude}/{app.name}") for app in apps(machine)]


def app_of(machine: Machine, key: str) -> App:
    """The process with this key."""
    where, name = key.split("/", 1)
    return machine.app(name) if where == HOST else machine.vm(where).app(name)


def openable(machine: Machine, key: str) -> list[Option]:
    """The devices that a process can open: those of its VM, or those that the host drives."""
    if not key:
        return []
    where = key.split("/", 1)[0]
    if where != HOST:
        return [(device.name, device.name) for device in machine.vm(where).devices]
    given = {name for vm in machine.vms for name in vm.vmm.functions}
    return [(name, name) for name in machine.functions.keys() if name not in given]


def device_of(machine: Machine, app: App, name: str) -> AssignedDevice | PhysicalFunction:
    """The handle of a device as a process would name it."""
    return machine.device(name) if app.altitude == HOST else machine.vm(app.altitude).device(name)


def bound(app: App, device: str) -> bool:
    """Whether a process has a device open."""
    driver = app.kernel.drivers.get(device)
    return driver is not None and driver.channel_of(app.process) is not None


def ioasids(machine: Machine, chosen: int | None = None) -> list[Option]:
    """The IOASIDs that are out, the lowest ones if there are very many, and the chosen one even if it is not out.

    >>> from pasidlab import Machine
    >>> ioasids(Machine(), 7)
    [('7 (not allocated)', '7')]
    """
    ids = machine.kernel.ioasid.ids
    numbers = set(ids.keys()[:_MOST]) | ({chosen} if chosen is not None else set())
    owners = {number: record.owner.name for number, record in ids.items() if number in numbers}
    return [(f"{number} ({owners.get(number, EMPTY['not-out'])})", str(number)) for number in sorted(numbers)]


def free_name(stem: str, taken: list[str], first: int = 1) -> str:
    """The first unused name: ``vm1``, ``vm2``, ...

    >>> free_name("vm", ["vm1", "vm3"])
    'vm2'
    """
    return next(f"{stem}{at}" for at in range(first, first + len(taken) + 1) if f"{stem}{at}" not in taken)
