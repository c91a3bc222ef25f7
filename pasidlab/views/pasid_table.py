"""Projection: one device's PASID table -> figure. Directory, leaf tables, PASID entries, and what each entry points to.

Everything is read from the bits in memory that the IOMMU reads. An entry that was seen before and is not present now
keeps its place, drawn as off: its 64 bytes are still there, with P=0. The second-level table of a VM is one box to
which all its entries point: one set of page tables, used by its default PASID and under every nested entry.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.vtd.survey import must_be_zero
from pasidlab.hardware.layouts.vtd import PASID_ENTRY, PGTT
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.iommu.vtd.driver import PASID_RID2PASID
from pasidlab.kernel.iommu.vtd.entries import meaning_of
from pasidlab.views.bits import Bits
from pasidlab.views.directory import present_count, present_entries, slot_of, table_of
from pasidlab.views.fields import field_table
from pasidlab.views.figure import Cluster, Edge, Figure, Node
from pasidlab.views.iommu_words import ENTRY
from pasidlab.views.room import Room

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.vtd.pasid_table import PasidTable
    from pasidlab.machine import Machine
    from pasidlab.views.table import Table

__all__ = ["entry_bits", "entry_table", "pasid_table"]

_SHOWN: Final = 14
"""Entries drawn one by one; the rest is folded into one box."""
_ENTRY: Final = 22
_TARGET: Final = 24
_TABLE: Final = 16
_LEAF: Final = 22
_WIDE: Final = 44


def pasid_table(machine: Machine, device: str, room: Room | None = None, slot: int | None = None) -> Figure:
    """The PASID table of the device called ``device``: its first entries, or those of one
    ``slot`` of its directory.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> pasid_table(m, "dsa0").node("entry:0").lines[0]
    'PASID 0'
    """
    room = room or Room()
    rid, table = machine.functions[device].rid, table_of(machine, device)
    if table is None:
        nothing = Node("none", (ENTRY["no-table"].format(device=device),), columns=_WIDE)
        return room.fit(Figure("pasid-table", ENTRY["no-table"].format(device=device), (nothing,)))
    first = islice(present_entries(machine.memory, table.directory, slot), 4 * _SHOWN)
    known = [pasid for (pasid,) in room.recall(f"entries {slot}", [(pasid,) for pasid in first])]
    total = present_count(machine, rid) + sum(not table.read(pasid)[0] & 1 for pasid in known)
    shown = known if total <= _SHOWN else known[: _SHOWN - 1]
    made = _Parts(machine, rid, table)
    for pasid in shown:
        made.add_entry(pasid)
    made.add_directory(sorted({slot_of(pasid) for pasid in (shown if total > _SHOWN else known)}), total - len(shown))
    return room.fit(
        Figure(
            "pasid-table",
            f"PASID table of {device} ({format_rid(rid)})",
            tuple(made.nodes),
            tuple(made.edges),
            (Cluster("entries", "entries of 64 bytes"), Cluster("targets", "page tables")),
            note="Read from memory: the directory (PASID bits 19:6), a table (bits 5:0), its entries, their pointers.",
        )
    )


class _Parts:
    """The parts of the figure while it is put together."""

    def __init__(self, machine: Machine, rid: int, table: PasidTable) -> None:
        self.machine = machine
        self.rid = rid
        self.table = table
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self._targets: set[str] = set()

    def add_directory(self, leaves: list[int], folded: int) -> None:
        """The directory, the leaf tables, and the box for entries that are not drawn."""
        words = ("PASID directory", f"at {self.table.directory:#x}")
        self.nodes.append(Node("directory", words, "directory", columns=_TABLE))
        for index in leaves:
            at = self.table.address(index << 6)
            where = f"at {at:#x}" if at is not None else "not present"
            self.nodes.append(
                Node(
                    f"leaf:{index}",
                    (f"slot {index}", f"PASIDs {index << 6}-{(index << 6) + 63}", where),
                    "table",
                    columns=_LEAF,
                )
            )
            self.edges.append(Edge(f"directory>{index}", "directory", f"leaf:{index}", present=at is not None))
        if folded:
            self.nodes.append(Node("more", (f"+{folded} more", "entries"), "more", "entries", columns=_ENTRY))
            if leaves:
                self.edges.append(Edge("leaf>more", f"leaf:{leaves[0]}", "more"))

    def add_entry(self, pasid: int) -> None:
        """One entry with its arrows."""
        words = self.table.read(pasid)
        present = bool(words[0] & 1)
        self.nodes.append(self._present(pasid, words) if present else self._absent(pasid, words))
        state = "live" if present else "off"
        self.edges.append(Edge(f"leaf>{pasid}", f"leaf:{pasid >> 6}", f"entry:{pasid}", state=state))
        if present:
            self._point(pasid, words)

    def _present(self, pasid: int, words: tuple[int, ...]) -> Node:
        kind = f"{meaning_of(words)}, DID {PASID_ENTRY['DID'].get(words)}"
        hint = " ".join(f"{name}={value:#x}" for name, value in PASID_ENTRY.decode(words).items() if value)
        lines = (f"PASID {pasid}", kind, self._owner(pasid))
        return Node(f"entry:{pasid}", lines, "entry", "entries", "live", word="P=1", columns=_ENTRY, hint=hint)

    def _absent(self, pasid: int, words: tuple[int, ...]) -> Node:
        lines = (f"PASID {pasid}", "DMA is blocked", "in silence: FPD=1" if PASID_ENTRY["FPD"].get(words) else "")
        return Node(f"entry:{pasid}", lines, "entry", "entries", "off", word="P=0", columns=_ENTRY)

    def _owner(self, pasid: int) -> str:
        """Whose number it is."""
        if pasid == PASID_RID2PASID:
            return "requests without one"
        for vmm in self.machine.vmms.values():
            if vmm.container.domain.default_pasid == pasid:
                return f"default of {vmm.name}"
        record = self.machine.kernel.ioasid.ids.get(pasid)
        if record is None:
            return "nobody"
        if record.spid is not None:
            return f"guest PASID {record.spid} of {record.owner.name}"
        return next((p.name for p in self.machine.natives if p.mm.pasid == pasid), record.owner.name)

    def _point(self, pasid: int, words: tuple[int, ...]) -> None:
        """The arrows to the page tables that an entry uses."""
        kind = PASID_ENTRY["PGTT"].get(words)
        if kind in (PGTT.FIRST, PGTT.NESTED):
            root = PASID_ENTRY["FLPTPTR"].get(words)
            space = "guest-physical" if kind == PGTT.NESTED else "host-physical"
            self._target(f"first:{pasid}", (f"first level {root:#x}", space), "process")
            self._arrow(pasid, f"first:{pasid}", "FLPTPTR")
        if kind in (PGTT.SECOND, PGTT.NESTED):
            root = PASID_ENTRY["SLPTPTR"].get(words)
            owner, key = self._domain(root)
            self._target(key, (f"second level {root:#x}", f"memory of {owner}"), "VM")
            self._arrow(pasid, key, "SLPTPTR")

    def _target(self, key: str, lines: tuple[str, str], word: str) -> None:
        if key not in self._targets:
            self._targets.add(key)
            self.nodes.append(Node(key, lines, "paging", "targets", "live", word=word, columns=_TARGET))

    def _arrow(self, pasid: int, head: str, label: str) -> None:
        key = f"entry:{pasid}"
        self.edges.append(Edge(f"{key}>{head}", key, head, state="live", label=label, columns=9))

    def _domain(self, root: int) -> tuple[str, str]:
        """The VM whose second-level table starts at ``root``: its name, and the key of its box."""
        for domain in self.machine.kernel.iommu.domains.values():
            if domain.table.root == root:
                slot = self.machine.numbers.get(domain.name)
                return domain.name, f"second:{slot if slot is not None else domain.name}"
        return "nobody", f"second:{root:#x}"


def entry_bits(machine: Machine, device: str, pasid: int) -> Bits:
    """One PASID entry, bit by bit.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); entry_bits(m, "dsa0", 0)
    <Bits pasid-entry: vtd_pasid_entry, 64 bytes>
    """
    table = table_of(machine, device)
    words = table.read(pasid) if table is not None else (0,) * PASID_ENTRY.word_count
    at = table.address(pasid) if table is not None else None
    where = ENTRY["at"].format(address=f"{at:#x}") if at is not None else ENTRY["nowhere"]
    title = ENTRY["title"].format(pasid=pasid, device=device)
    return Bits("pasid-entry", title, PASID_ENTRY, words, where, must_be_zero(PASID_ENTRY, words, machine.unit.rules))


def entry_table(machine: Machine, device: str, pasid: int) -> Table:
    """One PASID entry, field by field: name, bits, value, meaning.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> entry_table(m, "dsa0", 0).rows[0].cells[:3]
    ('P', '0', '0x1')
    """
    return field_table(entry_bits(machine, device, pasid))
