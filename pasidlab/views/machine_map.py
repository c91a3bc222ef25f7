"""Projection: machine -> map. Who is there, what is assigned to whom, and which PASID travels on each stretch of the
way.

From left to right as a DMA request travels: processes, the devices that their VM sees, the real work queues, the IOMMU,
memory. The label of an arrow is the number that is on the wire there: the guest's PASID in front of the device, behind
it what its requests carry (the host's, or the guest's own if nobody mediates and the VM has numbers of its own). A VM
always has a box for a process and one for a device, dotted while there is none.

At most about 60 boxes: with more VMs fewer processes of each are drawn one by one, and the queues of a device that
nobody uses share one box.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.accelerator.device import Accelerator
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.idxd import Idxd
from pasidlab.views.directory import present_count
from pasidlab.views.figure import Cluster, Edge, Figure, Node, fold
from pasidlab.views.numbers import counted, ranges
from pasidlab.views.room import Room
from pasidlab.views.tables import device_entries, owner_of_table
from pasidlab.views.unit_words import unit_words
from pasidlab.views.wire import wire_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasidlab.handles import VirtualMachine
    from pasidlab.hardware.function import Function
    from pasidlab.kernel.driver import Driver
    from pasidlab.kernel.process import Process
    from pasidlab.machine import Machine

__all__ = ["binding_pasids", "machine_map"]

_BOX: Final = 13
_WIDE: Final = 19
_WIRE: Final = 11
_GLYPH_ONLY: Final = " "
"""The line below says it in better words than the state's."""
_IOMMU: Final = "iommu"
_BOXES_FOR_PROCESSES: Final = 12


def machine_map(machine: Machine, room: Room | None = None) -> Figure:
    """The map of a machine at its present step, with places for everything in ``room``.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm1 = m.create_vm("vm1", quota=4)
    >>> machine_map(m).node("vm:0:memory").lines[0]
    'memory of vm1'
    """
    room = room or Room()
    slots = room.recall("vms", [(machine.numbers[vm.name],) for vm in machine.vms])
    places = max(1, min(4, _BOXES_FOR_PROCESSES // max(1, len(slots))))
    room.rescale(places)
    made = _Map(machine, places)
    made.clusters.append(Cluster("memory", "physical memory"))
    for vm in machine.vms:
        made.add_vm(vm, f"vm:{machine.numbers[vm.name]}")
    if machine.natives:
        made.add_natives(machine.natives)
    made.add_hardware()
    return room.fit(
        Figure(
            "machine-map",
            "Machine",
            tuple(made.nodes),
            tuple(made.edges),
            tuple(made.clusters),
            note="From left to right as a DMA request travels. Arrow labels are the PASID on that stretch.",
        )
    )


class _Map:
    """The parts of the figure while it is put together."""

    def __init__(self, machine: Machine, places: int) -> None:
        self.machine = machine
        self.places = places
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.clusters: list[Cluster] = []

    # --- virtual machines ---------------------------------------------------------------------------------------------

    def add_vm(self, vm: VirtualMachine, frame: str) -> None:
        """A VM: its processes, its devices, the wires between and behind them, its memory."""
        self.clusters.append(Cluster(frame, f"VM {vm.name}"))
        groups = self._add_processes(frame, list(vm.kernel.processes.values()))
        devices = vm.devices
        for at, device in enumerate(devices):
            key, driver = f"{frame}:device:{at}", vm.kernel.drivers[device.name]
            self._add_device(key, frame, vm, device.name)
            for tail, members in groups.items():
                self._bond(f"{tail}>{at}", tail, key, _numbers(driver, members))
            self._wire(key, vm, device.name, driver)
        if not devices:
            key = f"{frame}:device:0"
            self.nodes.append(Node(key, ("no device", "assign one"), "adi", frame, "off", word="none", columns=_BOX))
            for tail in groups:
                self._bond(f"{tail}>0", tail, key, [])
            for name in list(self.machine.accelerators)[:1]:
                self._add_wire(key, f"{name}:wq0", [], present=False)
        self._add_memory(f"{frame}:memory", (f"memory of {vm.name}", f"{vm.vmm.memory.size >> 20} MiB"), vm)

    def _add_processes(self, frame: str, processes: list[Process]) -> dict[str, list[Process]]:
        """The boxes of the processes, and which processes each stands for."""
        shown, folded = fold(processes, self.places)
        groups: dict[str, list[Process]] = {}
        for at, process in enumerate(shown):
            key, pasid = f"{frame}:process:{at}", process.mm.pasid
            words = f"PASID {pasid}" if pasid is not None else "no PASID"
            state = "live" if pasid is not None else "idle"
            word = _GLYPH_ONLY if pasid is not None else ""
            self.nodes.append(Node(key, (process.name, words), "process", frame, state, word=word, columns=_BOX))
            groups[key] = [process]
        if folded:
            key, members = f"{frame}:process:{len(shown)}", processes[len(shown) :]
            pasids = [member.mm.pasid for member in members if member.mm.pasid is not None]
            head = f"+{folded} more" if shown else f"{folded} processes"
            bound = f"PASID {ranges(pasids)}" if pasids else "no PASID"
            state = "live" if pasids else "idle"
            self.nodes.append(
                Node(key, (head, bound), "process", frame, state, word=_GLYPH_ONLY if pasids else "", columns=_BOX)
            )
            groups[key] = members
        if not processes:
            key = f"{frame}:process:0"
            nobody = ("no process", "start one")
            self.nodes.append(Node(key, nobody, "process", frame, "off", word=_GLYPH_ONLY, columns=_BOX))
            groups[key] = []
        return groups

    def _bond(self, key: str, tail: str, head: str, pasids: list[int]) -> None:
        """The arrow from a process to a device that it has open; its place is kept while it has not."""
        label = f"PASID {ranges(pasids)}" if pasids else ""
        self.edges.append(Edge(key, tail, head, state="live", label=label, present=bool(pasids), columns=9))

    def _add_device(self, key: str, frame: str, vm: VirtualMachine, name: str) -> None:
        mdev = vm.vmm.mdevs.get(name)
        driver = vm.kernel.drivers[name]
        busy = any(driver.channel_of(process) is not None for process in vm.kernel.processes.values())
        kind, words = ("adi", f"{mdev.queue.mode} queue") if mdev is not None else ("device", "whole function")
        state, word = ("live", "used" if kind == "device" else "in use") if busy else ("idle", "")
        self.nodes.append(Node(key, (name, words), kind, frame, state, word=word, columns=_BOX))

    def _wire(self, key: str, vm: VirtualMachine, name: str, driver: Driver) -> None:
        """The arrows from an assigned device to the real queues behind it, labelled with the PASIDs on the wire."""
        mdev = vm.vmm.mdevs.get(name)
        if mdev is not None:
            users = [process for process in vm.kernel.processes.values() if driver.channel_of(process) is not None]
            self._add_wire(key, f"{mdev.parent.name}:wq{mdev.queue.index}", _backing(vm, users))
            return
        if not isinstance(driver, Idxd):
            users = [process for process in vm.kernel.processes.values() if driver.channel_of(process) is not None]
            self._add_wire(key, f"{name}:function", self._carried(vm, users, name))
            return
        used = [queue for queue in driver.queues.values() if len(queue.clients)]
        for queue in used:
            users = [process for process in vm.kernel.processes.values() if driver.queue_of(process) is queue]
            self._add_wire(key, f"{name}:wq{queue.index}", self._carried(vm, users, name))
        if not used:
            self._add_wire(key, f"{name}:wq0", [])

    def _carried(self, vm: VirtualMachine, users: list[Process], name: str) -> list[int]:
        """The PASIDs that requests of a whole function carry for processes."""
        apps = [vm.app(user.name) for user in users]
        lines = [line for app in apps for line in wire_lines(self.machine, app) if line.device == name]
        return [line.wire for line in lines if line.wire is not None]

    def _add_wire(self, tail: str, head: str, pasids: list[int], *, present: bool = True) -> None:
        label, state = (f"PASID {ranges(pasids)}", "live") if pasids else ("", "idle")
        self.edges.append(Edge(f"{tail}>{head}", tail, head, state=state, label=label, present=present, columns=_WIRE))

    def _add_memory(self, key: str, lines: tuple[str, str], vm: VirtualMachine | None) -> None:
        if vm is not None:
            bound = sorted({*_on_devices(self.machine, binding_pasids(vm)), *_in_own_tables(self.machine, vm)})
        else:
            bound = [process.mm.pasid for process in self.machine.natives if process.mm.pasid is not None]
        label, state = (f"PASID {ranges(bound)}", "live") if bound else ("", "idle")
        self.nodes.append(Node(key, lines, "memory", "memory", state, columns=16))
        self.edges.append(Edge(f"{_IOMMU}>{key}", _IOMMU, key, state=state, label=label, columns=_WIRE))

    # --- the host and its hardware ------------------------------------------------------------------------------------

    def add_natives(self, natives: list[Process]) -> None:
        """The host's own processes, which use queues without any mediation."""
        self.clusters.append(Cluster("host", "host processes"))
        groups = self._add_processes("host", natives)
        for tail, members in groups.items():
            for name, driver in self.machine.kernel.drivers.items():
                if not isinstance(driver, Idxd):
                    if numbers := _numbers(driver, members):
                        self._add_wire(tail, f"{name}:function", numbers)
                    continue
                for at, queue in driver.queues.items():
                    users = [process for process in members if driver.queue_of(process) is queue]
                    if users:
                        self._add_wire(tail, f"{name}:wq{at}", _numbers(driver, users))
        self._add_memory("host:memory", ("host processes", "their own pages"), None)

    def add_hardware(self) -> None:
        """The accelerators with their queues, other devices as one box, and the IOMMU."""
        for device in self.machine.functions.values():
            frame = f"device:{device.path}"
            self.clusters.append(Cluster(frame, f"{device.path} at {format_rid(device.rid)}"))
            if isinstance(device, Accelerator):
                self._add_queues(frame, device)
            else:
                self._add_function(frame, device)
        total = sum(present_count(self.machine, rid) for rid in self.machine.kernel.iommu.devices.keys())
        words = (counted(total, *_entry_words(self.machine)), "present") if total else ("no device yet", "")
        state, word = ("live", "translating") if total > len(self.machine.functions) else ("idle", "")
        name = unit_words(self.machine.unit)["box"]
        self.nodes.append(Node(_IOMMU, (name, *words), "iommu", state=state, word=word, columns=17))

    def _add_queues(self, frame: str, device: Accelerator) -> None:
        """One box for each queue that somebody uses or could share, or to which a wire leads, and one for the rest."""
        name, idle = device.path, 0
        wired = {edge.head for edge in self.edges}
        for wq in range(device.num_wqs):
            clients = self._clients(name, wq)
            used = clients or device.occupancy(wq) or f"{name}:wq{wq}" in wired
            if used or not device.wq_field(wq, "mode"):
                self._add_queue(frame, device, wq, clients)
            else:
                idle += 1
        if idle:
            words = (f"{idle} dedicated", "nobody uses them" if idle > 1 else "nobody uses it")
            self.nodes.append(Node(f"{name}:rest", words, "queue", frame, "off", columns=_WIDE))

    def _add_function(self, frame: str, device: Function) -> None:
        """A device without work queues: one box."""
        name = device.path
        clients = sum(len(driver.clients) for driver in self._drivers(name))
        working = len(self.machine.agenda.actions(device))
        words = f"{working} waiting" if working else counted(clients, "client") if clients else "no client"
        state, word = ("pending", "working") if working else ("live", "in use") if clients else ("idle", "ready")
        key = f"{name}:function"
        self.nodes.append(Node(key, (type(device).__name__, words), "device", frame, state, word=word, columns=_WIDE))
        self.edges.append(Edge(f"{key}>{_IOMMU}", key, _IOMMU, state=state))

    def _drivers(self, name: str) -> list[Driver]:
        """The host's driver of a device, and that of the guest which has it as a whole."""
        inside = [vm.kernel.drivers[name] for vm in self.machine.vms if name in vm.vmm.functions]
        return [self.machine.kernel.drivers[name], *inside]

    def _clients(self, name: str, wq: int) -> int:
        """How many clients a queue has, in the kernel that drives the device."""
        drivers = [driver for driver in self._drivers(name) if isinstance(driver, Idxd)]
        return sum(len(driver.queues[wq].clients) for driver in drivers if wq in driver.queues)

    def _add_queue(self, frame: str, device: Accelerator, wq: int, clients: int) -> None:
        mode = "dedicated" if device.wq_field(wq, "mode") else "shared"
        enabled, waiting = device.wq_enabled(wq), device.occupancy(wq)
        words = f"{waiting} waiting" if waiting else counted(clients, "client") if clients else "no client"
        if waiting:
            state, word = "pending", "working"
        elif enabled:
            state, word = ("live", "in use") if clients else ("idle", "ready")
        else:
            state, word = "off", "off"
        key = f"{device.path}:wq{wq}"
        self.nodes.append(Node(key, (f"wq{wq} {mode}", words), "queue", frame, state, word=word, columns=_WIDE))
        flow = "idle" if state == "off" else state
        self.edges.append(Edge(f"{key}>{_IOMMU}", key, _IOMMU, state=flow, present=enabled))


def _entry_words(machine: Machine) -> tuple[str, str]:
    """What one entry is called, and several."""
    words = unit_words(machine.unit)
    return words["map-entry"], words["map-entries"]


def _numbers(driver: Driver, processes: Sequence[Process]) -> list[int]:
    """The PASIDs of those processes that have a device open, as their own kernel numbers them."""
    return [p.mm.pasid for p in processes if driver.channel_of(p) is not None and p.mm.pasid is not None]


def _backing(vm: VirtualMachine, users: list[Process]) -> list[int]:
    """The host PASIDs behind the guest PASIDs of processes."""
    pasids = vm.pasids
    return [pasids[user.mm.pasid] for user in users if user.mm.pasid in pasids]


def _on_devices(machine: Machine, pasids: list[int]) -> list[int]:
    """The numbers under which the devices' tables have bound PASIDs of the host."""
    svm = machine.kernel.svm
    found = {(pasid, svm.binding_of(pasid)) for pasid in pasids}
    return sorted({one.number_on(rid) for _, one in found if one is not None for rid in one.devices.keys()})


def _in_own_tables(machine: Machine, vm: VirtualMachine) -> list[int]:
    """The numbers with an entry in a table that is the guest's own."""
    own = [name for name in vm.vmm.functions.keys() if owner_of_table(machine, machine.functions[name].rid) == vm.name]
    return [pasid for name in own for pasid in device_entries(machine, name) if pasid]


def binding_pasids(vm: VirtualMachine) -> list[int]:
    """The host PASIDs of a VM that have a translation, lowest first."""
    svm = vm.machine.kernel.svm
    return [pasid for pasid in vm.vmm.container.set.ids.keys() if svm.binding_of(pasid) is not None]
