"""Projection: machine -> map. Who is there, what is assigned to whom, and which PASID travels on each stretch of the
way.

From left to right as a DMA request travels: processes, the devices that their VM sees, the real work queues, the IOMMU,
memory. The label of an arrow is the number that is on the wire there: the guest's PASID in front of the device, the
host's behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.pcie import format_rid
from pasidlab.views.figure import Cluster, Edge, Figure, Node, fold
from pasidlab.views.room import Room

if TYPE_CHECKING:
    from pasidlab.handles import VirtualMachine
    from pasidlab.kernel.idxd import Idxd, WorkQueue
    from pasidlab.kernel.process import Process
    from pasidlab.machine import Machine

__all__ = ["machine_map"]

_PROCESS_ROOM: Final = 4
_NARROW: Final = 15
_IOMMU: Final = "iommu"


def machine_map(machine: Machine, room: Room | None = None) -> Figure:
    """The map of a machine at its present step, with places for everything in ``room``.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm1 = m.create_vm("vm1", quota=4)
    >>> machine_map(m).node("vm:0:memory").lines[0]
    'memory of vm1'
    """
    room = Room.of(machine).grown(room or Room())
    made = _Map(machine, room)
    for slot in range(room.vms):
        made.add_vm(slot)
    made.add_host()
    made.add_hardware()
    return Figure(
        "machine-map",
        "Machine",
        tuple(made.nodes),
        tuple(made.edges),
        tuple(made.clusters),
        note="From left to right as a DMA request travels. Arrow labels are the PASID on that stretch.",
    )


class _Map:
    """The parts of the figure while it is put together."""

    def __init__(self, machine: Machine, room: Room) -> None:
        self.machine = machine
        self.room = room
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.clusters: list[Cluster] = []
        self._by_slot = {machine.numbers[vm.name]: vm for vm in machine.vms}

    # --- virtual machines ---------------------------------------------------------------------------------------------

    def add_vm(self, slot: int) -> None:
        vm = self._by_slot.get(slot)
        name = vm.name if vm else f"VM {slot + 1}"
        frame = f"vm:{slot}"
        self.clusters.append(Cluster(frame, f"VM {name}" if vm else name, present=vm is not None))
        processes = vm.kernel.processes.values() if vm else []
        self._add_processes(
            frame, processes, vm.kernel.accelerators.values() if vm else [], min(self.room.processes, _PROCESS_ROOM)
        )
        devices = vm.devices if vm else []
        for at in range(self.room.devices):
            self._add_device(frame, at, vm, devices[at].name if at < len(devices) else None)
        if not devices and not processes:
            self.nodes.append(
                Node(f"{frame}:idle", ("guest is running", "no device yet"), present=vm is not None, columns=_NARROW)
            )
        else:
            self.nodes.append(Node(f"{frame}:idle", ("", ""), present=False, columns=_NARROW))
        self._add_memory(f"{frame}:memory", vm)

    def _add_processes(self, frame: str, processes: list[Process], drivers: list[Idxd], places: int) -> None:
        shown, folded = fold(processes, places)
        for at in range(places):
            key = f"{frame}:process:{at}"
            process = shown[at] if at < len(shown) else None
            if process is not None:
                pasid = process.mm.pasid
                words = f"PASID {pasid}" if pasid is not None else "no PASID"
                state = "live" if pasid is not None else "idle"
                self.nodes.append(Node(key, (process.name, words), "process", frame, state, columns=_NARROW))
            elif folded and at == len(shown):
                self.nodes.append(Node(key, (f"+{folded} more", "processes"), "more", frame, columns=_NARROW))
            else:
                self.nodes.append(Node(key, ("", ""), "process", frame, present=False, columns=_NARROW))
            for device in range(self.room.devices):
                self._bond(frame, at, device, process, drivers)

    def _bond(self, frame: str, at: int, device: int, process: Process | None, drivers: list[Idxd]) -> None:
        """The arrow from a process to a device that it has open."""
        driver = drivers[device] if device < len(drivers) else None
        bound = process is not None and driver is not None and driver.queue_of(process) is not None
        label = f"PASID {process.mm.pasid}" if bound and process is not None else ""
        tail, head = f"{frame}:process:{at}", f"{frame}:device:{device}"
        if frame != "host":
            self.edges.append(
                Edge(
                    f"{tail}>{device}",
                    tail,
                    head,
                    state="live" if bound else "idle",
                    label=label,
                    present=bound,
                    columns=9,
                )
            )

    def _add_device(self, frame: str, at: int, vm: VirtualMachine | None, name: str | None) -> None:
        key = f"{frame}:device:{at}"
        if vm is None or name is None:
            self.nodes.append(Node(key, ("", ""), "adi", frame, present=False, columns=_NARROW))
        else:
            mdev = vm.vmm.mdevs.get(name)
            busy = any(len(queue.clients) for queue in vm.kernel.accelerators[name].queues.values())
            words = f"{mdev.queue.mode} queue" if mdev is not None else "whole function"
            kind, word = ("adi", "in use") if mdev is not None else ("device", "in use")
            state = "live" if busy else "idle"
            self.nodes.append(Node(key, (name, words), kind, frame, state, word=word if busy else "", columns=_NARROW))
        for parent in self.machine.accelerators.values():
            for wq in range(parent.num_wqs):
                self._wire(key, parent.path, wq, vm, name)

    def _wire(self, key: str, parent: str, wq: int, vm: VirtualMachine | None, name: str | None) -> None:
        """The arrow from an assigned device to the real queue behind it, labelled with the host PASIDs on it."""
        mdev = vm.vmm.mdevs.get(name) if vm is not None and name is not None else None
        function = vm is not None and name == parent and parent in vm.vmm.functions
        there = (mdev is not None and mdev.parent.name == parent and mdev.queue.index == wq) or (function and wq == 0)
        label = ""
        if there and vm is not None and name is not None:
            label = self._host_label(vm, name)
        state = "live" if label else "idle"
        self.edges.append(
            Edge(
                f"{key}>{parent}:{wq}",
                key,
                f"{parent}:wq{wq}",
                state=state,
                label=label,
                present=there,
                columns=10,
                loose=wq > 0,
            )
        )

    def _host_label(self, vm: VirtualMachine, name: str) -> str:
        """The host PASIDs of the processes that have a device open."""
        driver = vm.kernel.accelerators[name]
        open_by = [process for process in vm.kernel.processes.values() if driver.queue_of(process) is not None]
        numbers = [vm.pasids[process.mm.pasid] for process in open_by if process.mm.pasid in vm.pasids]
        if not numbers:
            return ""
        return f"PASID {_some(numbers)}"

    def _add_memory(self, key: str, vm: VirtualMachine | None) -> None:
        bound = binding_pasids(vm) if vm is not None else []
        lines = (f"memory of {vm.name}", f"{vm.vmm.memory.size >> 20} MiB") if vm else ("", "")
        state = "live" if bound else "idle"
        self.nodes.append(Node(key, lines, "memory", "memory", state, present=vm is not None, columns=_NARROW))
        label = f"PASID {_some(bound)}" if bound else ""
        self.edges.append(
            Edge(f"{_IOMMU}>{key}", _IOMMU, key, state=state, label=label, present=vm is not None, columns=10)
        )

    # --- the host and its hardware ------------------------------------------------------------------------------------

    def add_host(self) -> None:
        if self.room.natives:
            self.clusters.append(Cluster("host", "host processes", present=bool(self.machine.natives)))
            self._add_processes("host", self.machine.natives, [], self.room.natives)
        for at in range(self.room.natives):
            process = self.machine.natives[at] if at < len(self.machine.natives) else None
            for device in self.machine.accelerators.values():
                driver = self.machine.kernel.accelerators[device.path]
                for wq in range(device.num_wqs):
                    self._native_wire(at, process, driver, device.path, wq)

    def _native_wire(self, at: int, process: Process | None, driver: Idxd, device: str, wq: int) -> None:
        queue: WorkQueue | None = driver.queue_of(process) if process is not None else None
        there = queue is not None and queue.index == wq
        label = f"PASID {process.mm.pasid}" if there and process is not None else ""
        tail = f"host:process:{at}"
        self.edges.append(
            Edge(
                f"{tail}>{device}:{wq}",
                tail,
                f"{device}:wq{wq}",
                state="live" if there else "idle",
                label=label,
                present=there,
                columns=10,
                loose=wq > 0,
            )
        )

    def add_hardware(self) -> None:
        self.clusters.append(Cluster("memory", "physical memory"))
        for device in self.machine.accelerators.values():
            frame = f"device:{device.path}"
            self.clusters.append(Cluster(frame, f"{device.path} at {format_rid(device.rid)}"))
            for wq in range(device.num_wqs):
                self._add_queue(frame, device.path, wq)
        present = len(self.machine.accelerators) > 0
        total = sum(len(table.present()) for table in self.machine.kernel.iommu.tables.values())
        words = (f"{total} PASID entries", "present") if present else ("no device yet", "")
        self.nodes.append(
            Node(
                _IOMMU,
                ("VT-d", *words),
                "iommu",
                state="live" if total > 1 else "idle",
                word="translating" if total > 1 else "",
                columns=_NARROW,
            )
        )
        if self.room.natives:
            bound = [process.mm.pasid for process in self.machine.natives if process.mm.pasid is not None]
            self.nodes.append(
                Node(
                    "host:memory",
                    ("host processes", "their own pages"),
                    "memory",
                    "memory",
                    "live" if bound else "idle",
                    present=bool(self.machine.natives),
                    columns=_NARROW,
                )
            )
            label = f"PASID {_some(bound)}" if bound else ""
            self.edges.append(
                Edge(
                    f"{_IOMMU}>host", _IOMMU, "host:memory", state="live" if bound else "idle", label=label, columns=10
                )
            )

    def _add_queue(self, frame: str, name: str, wq: int) -> None:
        device = self.machine.accelerators[name]
        driver = self.machine.kernel.accelerators[name]
        mode = "dedicated" if device.wq_field(wq, "mode") else "shared"
        enabled, waiting = device.wq_enabled(wq), device.occupancy(wq)
        clients = len(driver.queues[wq].clients) if wq in driver.queues else 0
        words = (
            f"{waiting} waiting"
            if waiting
            else f"{clients} client{'s' if clients != 1 else ''}"
            if clients
            else "no client"
        )
        state = "pending" if waiting else "live" if enabled and clients else "idle" if enabled else "off"
        word = "working" if waiting else "in use" if state == "live" else "ready" if enabled else "off"
        key = f"{name}:wq{wq}"
        self.nodes.append(Node(key, (f"wq{wq} {mode}", words), "queue", frame, state, word=word, columns=_NARROW))
        self.edges.append(
            Edge(f"{key}>{_IOMMU}", key, _IOMMU, state=state if state != "off" else "idle", present=enabled)
        )


def binding_pasids(vm: VirtualMachine) -> list[int]:
    """The host PASIDs of a VM that have a translation, lowest first."""
    svm = vm.machine.kernel.svm
    return [pasid for pasid in vm.vmm.container.set.ids.keys() if svm.binding_of(pasid) is not None]


def _some(numbers: list[int]) -> str:
    """The first two numbers."""
    return ", ".join(map(str, numbers[:2])) + ("…" if len(numbers) > 2 else "")
