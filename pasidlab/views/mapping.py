"""Projection: guest PASID -> KVM's table entry -> host IOASID, for every VM.

The left column is what a guest believes, the middle what the CPU reads for ENQCMD, the right what the host's IOASID
core knows, with the names of everyone who holds a reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.views.figure import Cluster, Edge, Figure, Node
from pasidlab.views.room import Room

if TYPE_CHECKING:
    from pasidlab.handles import VirtualMachine
    from pasidlab.machine import Machine

__all__ = ["guest_to_host"]

_SHOWN: Final = 16
"""Pairs drawn one by one; the rest is folded into one box."""


def guest_to_host(machine: Machine, room: Room | None = None) -> Figure:
    """The guest-to-host mapping of a machine at its present step.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm1 = m.create_vm("vm1", quota=4)
    >>> adi = m.assign_adi(dsa, vm1); app = vm1.spawn("app"); _ = app.bind(adi)
    >>> guest_to_host(m).node("kvm:0:1").lines
    ('1 → 2', 'V=1')
    """
    room = Room.of(machine).grown(room or Room())
    vms = {machine.numbers[vm.name]: vm for vm in machine.vms}
    pairs = sorted(room.mappings)
    shown = pairs if len(pairs) <= _SHOWN else pairs[: _SHOWN - 1]
    nodes, edges = [], []
    clusters = [Cluster("kvm", "KVM's PASID translation tables (the CPU reads them)"), Cluster("host", "host IOASIDs")]
    for slot in range(room.vms):
        vm = vms.get(slot)
        the_set = vm.vmm.container.set if vm else None
        label = f"{vm.name}: {the_set.count} of {the_set.quota} PASIDs" if vm and the_set else f"VM {slot + 1}"
        clusters.append(Cluster(f"vm:{slot}", label, present=vm is not None))
        own = [pair for pair in shown if pair[0] == slot]
        idle = vm is not None and not any(guest in vm.pasids for _, guest, _ in own)
        nodes.append(
            Node(f"vm:{slot}:none", ("no PASID yet",) if vm else ("",), cluster=f"vm:{slot}", present=idle, columns=15)
        )
    for slot, guest, host in shown:
        vm = vms.get(slot)
        if vm is not None and vm.pasids.get(guest) != host:
            vm = None
        key = f"{slot}:{guest}:{host}"
        nodes += [_guest(key, slot, guest, vm)]
        edges += [_link(key, slot, guest, host, vm)]
    for slot, guest in sorted({(slot, guest) for slot, guest, _ in shown}):
        nodes.append(_entry(slot, guest, vms.get(slot)))
    hosts = sorted({host for _, _, host in shown})
    for host in hosts:
        nodes.append(_host(machine, host))
    for slot, guest, host in shown:
        edges += _translation(slot, guest, host, vms.get(slot))
    if len(pairs) > len(shown):
        nodes.append(Node("more", (f"+{len(pairs) - len(shown)} more", "mappings"), "more"))
    if not vms:
        nodes.append(Node("empty", ("no VM yet", "create one"), columns=15))
    else:
        nodes.append(Node("empty", ("", ""), present=False, columns=15))
    return Figure(
        "guest-to-host",
        "Guest PASIDs and the host PASIDs behind them",
        tuple(nodes),
        tuple(edges),
        tuple(clusters),
        note="Dashed: allocated, not translated yet. Solid: the CPU translates the guest's number for ENQCMD.",
    )


def _guest(key: str, slot: int, guest: int, vm: VirtualMachine | None) -> Node:
    owner = ""
    if vm is not None:
        owner = next(
            (process.name for process in vm.kernel.processes.values() if process.mm.pasid == guest), "no process"
        )
    state = "live" if vm is not None else "idle"
    return Node(
        f"guest:{key}",
        (f"PASID {guest}", owner),
        "pasid",
        f"vm:{slot}",
        state,
        word="guest",
        present=vm is not None,
        columns=15,
    )


def _entry(slot: int, guest: int, vm: VirtualMachine | None) -> Node:
    host = vm.vmm.kvm.entry(guest) if vm is not None else None
    lines = (f"{guest} → {host}", "V=1") if host is not None else (f"{guest} → none", "V=0")
    word = vm.name if vm is not None else ""
    return Node(
        f"kvm:{slot}:{guest}",
        lines,
        "cpu",
        "kvm",
        "live" if host is not None else "off",
        present=host is not None,
        word=word,
        columns=15,
    )


def _host(machine: Machine, host: int) -> Node:
    record = machine.kernel.ioasid.ids.get(host)
    if record is None:
        return Node(f"host:{host}", (f"IOASID {host}", "", ""), "ioasid", "host", present=False, columns=24)
    state = {"active": "live", "free-pending": "pending"}.get(str(record.state), "idle")
    holders = ", ".join(record.holders)
    lines = (f"IOASID {host}", f"{record.refs} reference{'s' if record.refs != 1 else ''}", holders)
    return Node(
        f"host:{host}", lines, "ioasid", "host", state, word=str(record.state), columns=24, hint=f"held by {holders}"
    )


def _link(key: str, slot: int, guest: int, host: int, vm: VirtualMachine | None) -> Edge:
    """Allocated: the hypervisor knows which host PASID stands behind, but nothing translates."""
    waiting = vm is not None and vm.vmm.kvm.entry(guest) is None
    return Edge(
        f"alloc:{key}",
        f"guest:{key}",
        f"host:{host}",
        state="pending",
        label="allocated",
        columns=9,
        present=waiting,
        loose=True,
    )


def _translation(slot: int, guest: int, host: int, vm: VirtualMachine | None) -> list[Edge]:
    valid = vm is not None and vm.vmm.kvm.entry(guest) == host
    key = f"{slot}:{guest}:{host}"
    entry = f"kvm:{slot}:{guest}"
    return [
        Edge(f"cpu:{key}", f"guest:{key}", entry, state="live", label="ENQCMD", columns=8, present=valid),
        Edge(f"is:{key}", entry, f"host:{host}", state="live", present=valid),
    ]
