"""Projection: a guest's whole table of PASIDs -> the host's entry of the device -> the second level, for every VM.

What :mod:`pasidlab.views.mapping` shows where the guest owns its table (SMMUv3, AMD). On the left are the PASIDs and
the table as they lie in the guest's memory, in the middle the one entry of the host that binds the table as a whole, on
the right the second level that bounds it. There is one line for the whole table, labelled with the field of the entry
that points to it (without a head, since it points against the reading), and none for a single PASID: the host is asked
for none of these, and no IOASID stands for them.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.iommu.contract import PASID_RID2PASID
from pasidlab.views.figure import Cluster, Edge, Figure, Node, fold
from pasidlab.views.iommu_words import WHOLE
from pasidlab.views.numbers import counted
from pasidlab.views.tables import device_entries, domain_at, guests_table, present_in
from pasidlab.views.unit_words import kind_of, unit_words

if TYPE_CHECKING:
    from pasidlab.handles import VirtualMachine
    from pasidlab.hardware.iommu.contract import TableEntry
    from pasidlab.machine import Machine
    from pasidlab.views.room import Room
    from pasidlab.views.tables import DeviceTable

__all__ = ["whole_tables"]

_PASIDS: Final = 16
"""PASIDs drawn one by one, over all VMs; the rest is folded into one box for each device."""
_MOST: Final = 64
_PASID, _TABLE, _ENTRY, _SECOND = 16, 24, 32, 20


def whole_tables(machine: Machine, room: Room) -> Figure:
    """The tables of all guests at the present step, and what binds them.

    >>> from pasidlab import Machine
    >>> from pasidlab.views.room import Room
    >>> m = Machine(iommu="smmuv3"); dsa = m.plug_accelerator("dsa0"); vm1 = m.create_vm("vm1")
    >>> pf = m.assign_pf(dsa, vm1); app = vm1.spawn("app"); _ = app.bind(pf)
    >>> figure = whole_tables(m, Room())
    >>> [edge.label for edge in figure.edges if edge.present and edge.label]
    ['S2TTB', 'S1ContextPtr']
    """
    made = _Parts(machine, room)
    for vm in machine.vms:
        made.add_vm(vm)
    if not machine.vms:
        made.nodes.append(Node("empty", (WHOLE["no-vm"], WHOLE["create"]), columns=_PASID))
    parts = tuple(made.nodes), tuple(made.edges), tuple(made.clusters)
    return room.fit(Figure("guest-to-host", WHOLE["title"], *parts, note=WHOLE["note"]))


class _Parts:
    """The parts of the figure while it is put together."""

    def __init__(self, machine: Machine, room: Room) -> None:
        self.machine, self.room = machine, room
        self.words = unit_words(machine.unit)
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.clusters = [Cluster("host", WHOLE["host"]), Cluster("seconds", self.words["target-second"])]
        devices = sum(len(vmm.functions) for vmm in machine.vmms.values())
        self._places = max(2, _PASIDS // max(1, devices))
        room.rescale(self._places)
        self._seconds: set[str] = set()

    def add_vm(self, vm: VirtualMachine) -> None:
        """A VM's frame: for each function that it has as a whole, its table."""
        slot = self.machine.numbers[vm.name]
        frame = f"vm:{slot}"
        self.clusters.append(Cluster(frame, WHOLE["memory"].format(vm=vm.name)))
        names = list(vm.vmm.functions.keys())
        if not names:
            nothing = (WHOLE["no-device"], WHOLE["assign"])
            self.nodes.append(Node(f"{frame}:none", nothing, "device", frame, "off", word=" ", columns=_PASID))
        for name in names:
            self._add_device(vm, slot, name)

    def _add_device(self, vm: VirtualMachine, slot: int, name: str) -> None:
        found, rid = guests_table(self.machine, name, vm.name), self.machine.functions[name].rid
        used = device_entries(self.machine, name)
        bound = self.machine.kernel.iommu.has_table(rid)
        table, entry = f"table:{slot}:{name}", f"entry:{name}"
        pasids = list(islice((one for one in present_in(found) if one), _MOST)) if found is not None else []
        self._add_pasids(vm, slot, name, pasids)
        self.nodes.append(self._table(table, f"vm:{slot}", name, found, len(pasids)))
        self._add_entry(entry, name, used, bound)
        label = self.words["table-pointer"]
        bond = Edge(f"{table}>{entry}", table, entry, "link", "live", label=label, present=bound, columns=11)
        self.edges.append(bond)

    def _table(self, key: str, frame: str, name: str, found: DeviceTable | None, count: int) -> Node:
        """The guest's table of one device."""
        if found is None:
            lines = (f"{self.words['top']} of {name}", WHOLE["no-table"], "")
            return Node(key, lines, "table", frame, "off", word=" ", columns=_TABLE)
        lines = (f"{self.words['top']} of {name}", WHOLE["in-guest"].format(address=f"{found.top:#x}"),
                 counted(count, "PASID"))  # fmt: skip
        return Node(key, lines, "table", frame, "live", word=WHOLE["guests"], columns=_TABLE)

    def _add_pasids(self, vm: VirtualMachine, slot: int, name: str, pasids: list[int]) -> None:
        """The PASIDs that have an entry there, and those that had one."""
        known = [one for (one,) in self.room.recall(f"{slot} {name}", [(pasid,) for pasid in pasids])]
        shown, folded = fold(known, self._places)
        for pasid in shown:
            key, present = f"pasid:{slot}:{name}:{pasid}", pasid in pasids
            owner = next((p.name for p in vm.kernel.processes.values() if p.mm.pasid == pasid), WHOLE["nobody"])
            state, word = ("live", self.words["present"]) if present else ("off", self.words["absent"])
            lines = (f"PASID {pasid}", owner if present else WHOLE["no-entry"])
            self.nodes.append(Node(key, lines, "pasid", f"vm:{slot}", state, word=word, columns=_PASID))
            self.edges.append(Edge(f"{key}>table", key, f"table:{slot}:{name}", "link", state, present=present))
        if folded:
            key = f"pasid:{slot}:{name}:more"
            lines = (WHOLE["more"].format(count=folded), "")
            self.nodes.append(Node(key, lines, "more", f"vm:{slot}", columns=_PASID))
            self.edges.append(Edge(f"{key}>table", key, f"table:{slot}:{name}", "link"))

    def _add_entry(self, key: str, name: str, used: dict[int, TableEntry], bound: bool) -> None:
        """The host's entry of the device, and the second level that it names."""
        rid, first = self.machine.functions[name].rid, used.get(PASID_RID2PASID)
        title = self.words["device"]
        if first is None:
            lines = (title, f"{name} {format_rid(rid)}", WHOLE["unusable"])
            self.nodes.append(Node(key, lines, "entry", "host", "fault", columns=_ENTRY))
            return
        kind = f"{kind_of(self.machine.unit, first.kind, 'box')}, {self.words['short-tag']} {first.tag}"
        word = WHOLE["bound"] if bound else WHOLE["not-bound"]
        lines = (title, f"{name} {format_rid(rid)} at {first.address:#x}", WHOLE["without"].format(kind=kind))
        state = "live" if bound else "idle"
        self.nodes.append(Node(key, lines, "entry", "host", state, word=word, columns=_ENTRY))
        root = first.second or next((entry.second for entry in used.values() if entry.second), 0)
        if root:
            self._add_second(key, root)

    def _add_second(self, entry: str, root: int) -> None:
        domain = domain_at(self.machine, root)
        owner = domain.name if domain is not None else WHOLE["nobody"]
        slot = self.machine.numbers.get(owner)
        key = f"second:{slot if slot is not None else owner}"
        if key not in self._seconds:
            self._seconds.add(key)
            lines = (f"{self.words['target-second']} {root:#x}", WHOLE["memory"].format(vm=owner))
            self.nodes.append(Node(key, lines, "paging", "seconds", "live", word="VM", columns=_SECOND))
        label = self.words["second-pointer"]
        self.edges.append(Edge(f"{entry}>{key}", entry, key, state="live", label=label, columns=9))
