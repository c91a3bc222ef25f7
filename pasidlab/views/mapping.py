"""Projection: guest PASID -> KVM's table entry -> host IOASID, for every VM.

The left column is what a guest believes, the middle what the CPU reads for ENQCMD, the right what the host's IOASID
core knows, with the names of everyone who holds a reference. A number that was in use before keeps its place: the
guest's box says that it is free, KVM's entry that it is not valid, the host's that the number is back in the pool.

Where the guests own their tables (SMMUv3, AMD) there are no such pairs: see :mod:`pasidlab.views.whole_tables`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.views.figure import Cluster, Edge, Figure, Node, fold
from pasidlab.views.numbers import quota_words, ranges
from pasidlab.views.room import Room
from pasidlab.views.whole_tables import whole_tables

if TYPE_CHECKING:
    from pasidlab.handles import VirtualMachine
    from pasidlab.machine import Machine

__all__ = ["guest_to_host"]

_PAIRS: Final = 16
"""Pairs drawn one by one, over all VMs; the rest is folded into one box for each VM."""
_GUEST: Final = 18


def guest_to_host(machine: Machine, room: Room | None = None) -> Figure:
    """The guest-to-host mapping of a machine at its present step.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm1 = m.create_vm("vm1", quota=4)
    >>> adi = m.assign_adi(dsa, vm1); app = vm1.spawn("app"); _ = app.bind(adi)
    >>> guest_to_host(m).node("kvm:0:1").lines
    ('1 → 2', 'valid')
    """
    room = room or Room()
    if FAMILIES[machine.iommu].binds_tables:
        return whole_tables(machine, room)
    slots = room.recall("vms", [(machine.numbers[vm.name],) for vm in machine.vms])
    places = max(2, _PAIRS // max(1, len(slots)))
    room.rescale(places)
    made = _Parts(machine)
    for vm in machine.vms:
        slot = machine.numbers[vm.name]
        known = room.recall(f"pairs of {slot}", vm.pasids.items())
        made.add_vm(vm, slot, known, places)
    made.add_hosts()
    if not machine.vms:
        made.nodes.append(Node("empty", ("no VM yet", "create one"), columns=_GUEST))
    return room.fit(
        Figure(
            "guest-to-host",
            "Guest PASIDs and the host PASIDs behind them",
            tuple(made.nodes),
            tuple(made.edges),
            tuple(made.clusters),
            note="Solid: the CPU translates the guest's number for ENQCMD. Dashed: allocated, not translated yet.",
        )
    )


class _Parts:
    """The parts of the figure while it is put together."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.clusters = [
            Cluster("kvm", "KVM's PASID translation tables"),
            Cluster("host", "IOASIDs of the host"),
        ]
        self._hosts: set[int] = set()

    def add_vm(self, vm: VirtualMachine, slot: int, known: list[tuple[int, ...]], places: int) -> None:
        """A VM's frame with its guest PASIDs, and KVM's entries for them."""
        frame, the_set = f"vm:{slot}", vm.vmm.container.set
        quota = None if the_set.retired else the_set.quota
        self.clusters.append(Cluster(frame, f"{vm.name}: {quota_words(the_set.count, quota)} PASIDs"))
        if not known:
            self.nodes.append(Node(f"{frame}:none", ("no PASID yet",), cluster=frame, columns=_GUEST, rows=2))
        guests = sorted({guest for guest, _ in known})
        shown, folded = fold(guests, places)
        for guest in shown:
            self._add_guest(vm, slot, guest)
            self._add_entry(vm, slot, guest)
        for guest, host in known:
            if guest in shown:
                self._add_arrows(vm, slot, guest, host)
        if folded:
            self._add_rest(vm, frame, [guest for guest in guests if guest not in shown])

    def _add_guest(self, vm: VirtualMachine, slot: int, guest: int) -> None:
        key, frame = f"guest:{slot}:{guest}", f"vm:{slot}"
        if guest not in vm.pasids:
            self.nodes.append(Node(key, (f"PASID {guest}", "not allocated"), "pasid", frame, "off", True, "free"))
            return
        owner = next((p.name for p in vm.kernel.processes.values() if p.mm.pasid == guest), "no process")
        self.nodes.append(Node(key, (f"PASID {guest}", owner), "pasid", frame, "live", True, "guest"))

    def _add_entry(self, vm: VirtualMachine, slot: int, guest: int) -> None:
        host = vm.vmm.kvm.entry(guest)
        lines = (f"{guest} → {host}", "valid") if host is not None else (f"{guest} → none", "not valid")
        if not vm.vmm.kvm.vmcs.translates_pasids:
            lines = (f"{guest} → {guest}", "translation is off")
        state = "live" if host is not None else "off"
        word = f"{vm.name}  V={int(host is not None)}"
        self.nodes.append(Node(f"kvm:{slot}:{guest}", lines, "entry", "kvm", state, word=word, columns=22))

    def _add_arrows(self, vm: VirtualMachine, slot: int, guest: int, host: int) -> None:
        """Guest to entry to host where KVM's entry is valid; guest to host while the PASID is only allocated."""
        self._hosts.add(host)
        owned = vm.pasids.get(guest) == host
        valid = vm.vmm.kvm.entry(guest) == host
        tail, entry, head = f"guest:{slot}:{guest}", f"kvm:{slot}:{guest}", f"host:{host}"
        if f"cpu:{slot}:{guest}" not in {edge.key for edge in self.edges}:
            current = vm.vmm.kvm.entry(guest) is not None
            self.edges.append(
                Edge(f"cpu:{slot}:{guest}", tail, entry, state="live", label="ENQCMD", present=current, columns=9)
            )
        key = f"{slot}:{guest}:{host}"
        self.edges.append(Edge(f"is:{key}", entry, head, state="live", present=valid))
        waiting = owned and not valid
        self.edges.append(
            Edge(f"alloc:{key}", tail, head, state="pending", label="allocated", present=waiting, columns=9, loose=True)
        )

    def _add_rest(self, vm: VirtualMachine, frame: str, guests: list[int]) -> None:
        """One box for the pairs that are not drawn."""
        now = {guest: host for guest, host in vm.pasids.items() if guest in guests}
        words = f"{ranges(now, 1)} → {ranges(now.values(), 1)}" if now else "not allocated"
        lines, state = (f"+{len(guests)} more", words), "live" if now else "off"
        self.nodes.append(
            Node(f"{frame}:more", lines, "more", frame, state, word="live" if now else "free", columns=_GUEST, rows=2)
        )

    def add_hosts(self) -> None:
        """The host's side of every pair that is drawn."""
        for host in sorted(self._hosts):
            self.nodes.append(_host(self.machine, host))


def _host(machine: Machine, host: int) -> Node:
    record = machine.kernel.ioasid.ids.get(host)
    if record is None:
        return Node(
            f"host:{host}", (f"IOASID {host}", "in the pool", ""), "ioasid", "host", "off", True, "free", False, 26
        )
    state = {"active": "live", "free-pending": "pending"}.get(str(record.state), "idle")
    holders = ", ".join(record.holders)
    lines = (f"IOASID {host}", f"{record.refs} reference{'s' if record.refs != 1 else ''} held by", holders)
    return Node(
        f"host:{host}", lines, "ioasid", "host", state, word=str(record.state), columns=26, hint=record.owner.name
    )
