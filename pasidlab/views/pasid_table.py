"""Projection: one device's table of PASIDs -> figure: the table, its parts, the entries, and what each entry points to.

Everything is read from the bits in memory that the IOMMU reads. An entry that was seen before and is not present now
keeps its place, drawn as off. The second-level table of a VM is one box. Where each entry names it (VT-d) all its
entries point to it: one set of page tables, used by its default PASID and under every nested entry. Where the device's
own entry names it (SMMUv3, AMD) that entry is drawn, too: it holds the table of PASIDs on one side and the second level
on the other, and says whose table it is.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.iommu.contract import PASID_RID2PASID
from pasidlab.views.bits import Bits
from pasidlab.views.fields import field_table
from pasidlab.views.figure import Cluster, Edge, Figure, Node
from pasidlab.views.iommu_words import ENTRY
from pasidlab.views.room import Room
from pasidlab.views.tables import device_entries, domain_at, present_in, table_of
from pasidlab.views.unit_words import kind_of, unit_words

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import TableEntry
    from pasidlab.kernel.iommu.contract import Leaf
    from pasidlab.machine import Machine
    from pasidlab.views.table import Table
    from pasidlab.views.tables import DeviceTable

__all__ = ["entry_bits", "entry_table", "pasid_table"]

_SHOWN: Final = 14
"""Entries drawn one by one; the rest is folded into one box."""
_ENTRY: Final = 22
_TARGET: Final = 24
_TABLE: Final = 16
_LEAF: Final = 22
_WIDE: Final = 44
_DEVICE: Final = 26


def pasid_table(machine: Machine, device: str, room: Room | None = None, slot: int | None = None) -> Figure:
    """The table of PASIDs of the device called ``device``: its first entries, or those of one ``slot`` of 64.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); pasid_table(m, "dsa0").node("entry:0").lines[0]
    'PASID 0'
    """
    room = room or Room()
    found, words = table_of(machine, device), unit_words(machine.unit)
    if found is None:
        nothing = Node("none", (ENTRY["no-table"].format(device=device),), columns=_WIDE)
        return room.fit(Figure("pasid-table", ENTRY["no-table"].format(device=device), (nothing,)))
    within = (0, None) if slot is None else (slot << 6, (slot << 6) + 63)
    first = islice(present_in(found, *within), 4 * _SHOWN)
    known = [pasid for (pasid,) in room.recall(f"entries {slot} {found.vm}", [(pasid,) for pasid in first])]
    made = _Parts(machine, device, found)
    present = sum(len(found.table.present_in(leaf)) for leaf in found.table.leaves())
    total = present + sum(not made.is_present(pasid) for pasid in known)
    shown = known if total <= _SHOWN else known[: _SHOWN - 1]
    made.add_device()
    for pasid in shown:
        made.add_entry(pasid)
    made.add_top(shown if total > _SHOWN else known, total - len(shown))
    title = f"{words['structure-title']} of {device} ({format_rid(machine.functions[device].rid)})"
    return room.fit(
        Figure(
            "pasid-table",
            title + (ENTRY["owned"].format(vm=found.vm) if found.vm else ""),
            tuple(made.nodes),
            tuple(made.edges),
            (Cluster("entries", words["clusters"]), Cluster("targets", "page tables")),
            note=words["parts"],
        )
    )


class _Parts:
    """The parts of the figure while it is put together."""

    def __init__(self, machine: Machine, device: str, found: DeviceTable) -> None:
        self.machine = machine
        self.rid = machine.functions[device].rid
        self.found, self.table = found, found.table
        self.used = device_entries(machine, device)
        self.words = unit_words(machine.unit)
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self._leaves = list(found.table.leaves())
        self._targets: set[str] = set()

    def is_present(self, pasid: int) -> bool:
        """Whether an entry is in use."""
        return self.found.unit.reading.present(self.table.read(pasid))

    def add_device(self) -> None:
        """The entry of the device, where that is what names the second level."""
        device = self._device()
        if device is None:
            return
        kind = f"{kind_of(self.machine.unit, device.kind, 'box')}, {self.words['short-tag']} {device.tag}"
        owner = ENTRY["bound"].format(vm=self.found.vm) if self.found.vm else ENTRY["host-table"]
        lines = (self.words["device"], f"at {device.address:#x}", kind, owner)
        hint = " ".join(f"{name}={value:#x}" for name, value in device.layout.decode(device.words).items() if value)
        self.nodes.append(Node("device", lines, "table", columns=_DEVICE, rows=4, state="live", word=" ", hint=hint))
        label = self.words["table-pointer"]
        self.edges.append(Edge("device>directory", "device", "directory", label=label, columns=12))
        if device.second:
            key = self._second(device.second)
            self.edges.append(Edge(f"device>{key}", "device", key, label=self.words["second-pointer"], columns=9))

    def _device(self) -> TableEntry | None:
        """The entry of requests without PASID, where it is the device's own and not one of the table."""
        first = self.used.get(PASID_RID2PASID)
        others = [entry for entry in self.used.values() if entry.pasid != PASID_RID2PASID]
        if first is None or first.layout is self.machine.unit.reading.entry_layout:
            return None
        return first._replace(kind=others[0].kind, second=others[0].second) if others else first

    def add_top(self, pasids: list[int], folded: int) -> None:
        """What the table begins with, its parts, and the box for entries that are not drawn."""
        where = "in the guest at" if self.found.vm else "at"
        wide, top = (_DEVICE, _DEVICE) if FAMILIES[self.machine.iommu].binds_tables else (_LEAF, _TABLE)
        lines: tuple[str, ...] = (self.words["top"], f"{where} {self.found.top:#x}")
        self.nodes.append(Node("directory", lines, "directory", columns=top))
        drawn = sorted({self._leaf(pasid) for pasid in pasids})
        for index, first, last, leaf in drawn:
            at = f"{where} {leaf.address:#x}" if leaf is not None else "not present"
            said = self.words["leaf"].format(index=index)
            lines = (said, f"PASIDs {first}-{last}", at)
            self.nodes.append(Node(f"leaf:{index}", lines, "table", columns=wide))
            self.edges.append(Edge(f"directory>{index}", "directory", f"leaf:{index}", present=leaf is not None))
        if folded:
            self.nodes.append(Node("more", (f"+{folded} more", "entries"), "more", "entries", columns=_ENTRY))
            if drawn:
                self.edges.append(Edge("leaf>more", f"leaf:{drawn[0][0]}", "more"))

    def _leaf(self, pasid: int) -> tuple[int, int, int, Leaf | None]:
        """The part in which an entry lies: its number, its first and last PASID, and where it is if it is there."""
        leaf = next((one for one in self._leaves if one.first <= pasid < one.first + one.entries), None)
        size = self._leaves[0].entries if self._leaves else 64
        first = pasid // size * size
        return first // size, first, first + size - 1, leaf

    def add_entry(self, pasid: int) -> None:
        """One entry with its arrows."""
        words, present = self.table.read(pasid), self.is_present(pasid)
        entry = self.used.get(pasid) if present else None
        self.nodes.append(self._present(pasid, entry) if present else self._absent(pasid, words))
        state = "live" if present else "off"
        self.edges.append(Edge(f"leaf>{pasid}", f"leaf:{self._leaf(pasid)[0]}", f"entry:{pasid}", state=state))
        if entry is not None:
            self._point(pasid, entry)

    def _present(self, pasid: int, entry: TableEntry | None) -> Node:
        kind, hint = ENTRY["broken"], ""
        if entry is not None:
            kind = f"{kind_of(self.machine.unit, entry.kind, 'box')}, {self.words['short-tag']} {entry.tag}"
            hint = " ".join(f"{name}={value:#x}" for name, value in entry.layout.decode(entry.words).items() if value)
        lines = (f"PASID {pasid}", kind, self._owner(pasid))
        state, word = ("live", self.words["present"]) if entry is not None else ("fault", self.words["present"])
        return Node(f"entry:{pasid}", lines, "entry", "entries", state, word=word, columns=_ENTRY, hint=hint)

    def _absent(self, pasid: int, words: tuple[int, ...]) -> Node:
        silent = self.words["silent"] if self.found.unit.reading.silent(words) else ""
        lines, word = (f"PASID {pasid}", "DMA is blocked", silent), self.words["absent"]
        return Node(f"entry:{pasid}", lines, "entry", "entries", "off", word=word, columns=_ENTRY)

    def _owner(self, pasid: int) -> str:
        """Whose number it is."""
        if pasid == PASID_RID2PASID:
            return "requests without one"
        if self.found.vm:
            inside = self.machine.vm(self.found.vm).kernel.processes.values()
            return next((f"{p.name} of {self.found.vm}" for p in inside if p.mm.pasid == pasid), "nobody")
        for vmm in self.machine.vmms.values():
            if vmm.container.domain.default_pasid == pasid:
                return f"default of {vmm.name}"
        record = self.machine.kernel.ioasid.ids.get(pasid)
        if record is None:
            return "nobody"
        if record.spid is not None:
            return f"guest PASID {record.spid} of {record.owner.name}"
        return next((p.name for p in self.machine.natives if p.mm.pasid == pasid), record.owner.name)

    def _point(self, pasid: int, entry: TableEntry) -> None:
        """The arrows to the page tables that an entry uses."""
        if entry.first:
            space = "guest-physical" if entry.second else "host-physical"
            lines = (f"{self.words['target-first']} {entry.first:#x}", space)
            self._target(f"first:{pasid}", lines, "process")
            self._arrow(pasid, f"first:{pasid}", self.words["first-pointer"])
        if entry.second and not any(node.key == "device" for node in self.nodes):
            self._arrow(pasid, self._second(entry.second), self.words["second-pointer"])

    def _second(self, root: int) -> str:
        """The box of a second level; its key."""
        owner, key = self._domain(root)
        self._target(key, (f"{self.words['target-second']} {root:#x}", f"memory of {owner}"), "VM")
        return key

    def _target(self, key: str, lines: tuple[str, str], word: str) -> None:
        if key not in self._targets:
            self._targets.add(key)
            self.nodes.append(Node(key, lines, "paging", "targets", "live", word=word, columns=_TARGET))

    def _arrow(self, pasid: int, head: str, label: str) -> None:
        key = f"entry:{pasid}"
        self.edges.append(Edge(f"{key}>{head}", key, head, state="live", label=label, columns=9))

    def _domain(self, root: int) -> tuple[str, str]:
        """The VM whose second-level table starts at ``root``: its name, and the key of its box."""
        domain = domain_at(self.machine, root)
        if domain is None:
            return "nobody", f"second:{root:#x}"
        slot = self.machine.numbers.get(domain.name)
        return domain.name, f"second:{slot if slot is not None else domain.name}"


def entry_bits(machine: Machine, device: str, pasid: int) -> Bits:
    """One entry of a table of PASIDs, bit by bit.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); entry_bits(m, "dsa0", 0)
    <Bits pasid-entry: vtd_pasid_entry, 64 bytes>
    """
    found = table_of(machine, device)
    layout = machine.unit.reading.entry_layout
    words, at, where = (0,) * layout.word_count, None, ENTRY["nowhere"]
    if found is not None:
        words, at = found.table.read(pasid), found.table.address(pasid)
    if at is not None:
        owned = ENTRY["in-guest"].format(vm=found.vm) if found is not None and found.vm else ""
        where = ENTRY["at"].format(size=layout.size, address=f"{at:#x}") + owned
    title = unit_words(machine.unit)["entry-title"].format(pasid=pasid, device=device)
    zero = machine.unit.reading.must_be_zero(layout, words, level=1, nested=bool(found is not None and found.vm))
    return Bits("pasid-entry", title, layout, words, where, zero)


def entry_table(machine: Machine, device: str, pasid: int) -> Table:
    """One PASID entry, field by field: name, bits, value, meaning.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> entry_table(m, "dsa0", 0).rows[0].cells[:3]
    ('P', '0', '0x1')
    """
    return field_table(entry_bits(machine, device, pasid))
