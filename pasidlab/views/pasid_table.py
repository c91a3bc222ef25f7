"""Projection: one device's PASID table -> figure. Directory, directory entries, PASID entries, and what each entry
points to.

Everything is read from the bits in memory that the IOMMU reads. An entry that was seen before and is not present now
keeps its place, drawn as off: its 64 bytes are still there, with P=0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.iommu.vtd.driver import PASID_RID2PASID
from pasidlab.kernel.iommu.vtd.entries import meaning_of
from pasidlab.kernel.iommu.vtd.pasid_table import PGTT
from pasidlab.views.figure import Cluster, Edge, Figure, Node
from pasidlab.views.room import Room
from pasidlab.views.table import Column, Line, Table

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.vtd.pasid_table import PasidTable
    from pasidlab.machine import Machine

__all__ = ["entry_table", "pasid_table"]

_SHOWN: Final = 14
"""Entries drawn one by one; the rest is folded into one box."""


def pasid_table(machine: Machine, device: str, room: Room | None = None) -> Figure:
    """The PASID table of the accelerator called ``device``.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> pasid_table(m, "dsa0").node("entry:0").lines[0]
    'PASID 0'
    """
    room = Room.of(machine).grown(room or Room())
    rid = machine.accelerators[device].rid
    table = machine.kernel.iommu.tables[rid]
    known = sorted(pasid for name, pasid in room.entries if name == device)
    shown = known if len(known) <= _SHOWN else known[: _SHOWN - 1]
    leaves = sorted({pasid >> 6 for pasid in shown})
    nodes = [_directory(table, rid), *(_leaf(table, index) for index in leaves)]
    edges = [
        Edge(f"directory>{index}", "directory", f"leaf:{index}", present=table.address(index << 6) is not None)
        for index in leaves
    ]
    clusters = [Cluster("targets", "what the entry points to")]
    for pasid in shown:
        words = table.read(pasid)
        nodes.append(_entry(machine, rid, pasid, words))
        present = bool(words[0] & 1)
        edges.append(Edge(f"leaf>{pasid}", f"leaf:{pasid >> 6}", f"entry:{pasid}", state="live" if present else "idle"))
        nodes += _targets(machine, pasid, words)
        edges += _arrows(pasid, words)
    if len(known) > len(shown):
        rest = len(known) - len(shown)
        nodes.append(Node("more", (f"+{rest} more", "PASIDs"), "more"))
        edges.append(Edge("leaf>more", f"leaf:{leaves[-1]}", "more"))
    return Figure(
        "pasid-table",
        f"PASID table of {device} ({format_rid(rid)})",
        tuple(nodes),
        tuple(edges),
        tuple(clusters),
        note="Read from the words in memory: directory entry (PASID bits 19:6), table entry (bits 5:0), its pointers.",
    )


def _directory(table: PasidTable, rid: int) -> Node:
    return Node(
        "directory",
        ("PASID directory", f"at {table.directory:#x}"),
        "directory",
        state="live",
        word=format_rid(rid),
        columns=17,
    )


def _leaf(table: PasidTable, index: int) -> Node:
    at = table.address(index << 6)
    where = f"at {at:#x}" if at is not None else "not present"
    return Node(
        f"leaf:{index}",
        (f"PASIDs {index << 6}-{(index << 6) + 63}", where),
        "table",
        present=at is not None,
        columns=17,
    )


def _entry(machine: Machine, rid: int, pasid: int, words: tuple[int, ...]) -> Node:
    if not words[0] & 1:
        return Node(
            f"entry:{pasid}", (f"PASID {pasid}", "P=0", ""), "entry", state="off", word="not present", columns=21
        )
    did = PASID_ENTRY["DID"].get(words)
    kind = f"{meaning_of(words)}, DID {did}"
    hint = " ".join(f"{name}={value:#x}" for name, value in PASID_ENTRY.decode(words).items() if value)
    return Node(
        f"entry:{pasid}",
        (f"PASID {pasid}", kind, _owner(machine, rid, pasid)),
        "entry",
        state="live",
        word="P=1",
        columns=21,
        hint=hint,
    )


def _owner(machine: Machine, rid: int, pasid: int) -> str:
    """Whose number it is."""
    if pasid == PASID_RID2PASID:
        return "requests without PASID"
    for vmm in machine.vmms.values():
        if vmm.container.domain.default_pasid == pasid:
            return f"default of {vmm.name}"
    record = machine.kernel.ioasid.ids.get(pasid)
    if record is None:
        return "nobody"
    return f"{record.owner.name} PASID {record.spid}" if record.spid is not None else record.owner.name


def _targets(machine: Machine, pasid: int, words: tuple[int, ...]) -> list[Node]:
    kind = PASID_ENTRY["PGTT"].get(words) if words[0] & 1 else 0
    first, second = kind in (PGTT.FIRST, PGTT.NESTED), kind in (PGTT.SECOND, PGTT.NESTED)
    space = "guest-physical" if kind == PGTT.NESTED else "host-physical"
    root, below = PASID_ENTRY["FLPTPTR"].get(words), PASID_ENTRY["SLPTPTR"].get(words)
    owner = _domain_name(machine, below) if second else ""
    upper = (f"first level {root:#x}", space) if first else ("", "")
    lower = (f"second level {below:#x}", f"memory of {owner}") if second else ("", "")
    return [
        Node(f"first:{pasid}", upper, "paging", "targets", "live", present=first, columns=23, word="process"),
        Node(f"second:{pasid}", lower, "paging", "targets", "live", present=second, columns=23, word="VM"),
    ]


def _domain_name(machine: Machine, root: int) -> str:
    return next((domain.name for domain in machine.kernel.iommu.domains.values() if domain.table.root == root), "?")


def _arrows(pasid: int, words: tuple[int, ...]) -> list[Edge]:
    kind = PASID_ENTRY["PGTT"].get(words) if words[0] & 1 else 0
    nested = kind == PGTT.NESTED
    entry, first, second = f"entry:{pasid}", f"first:{pasid}", f"second:{pasid}"
    return [
        Edge(
            f"{entry}>first",
            entry,
            first,
            state="live",
            label="FLPTPTR",
            columns=9,
            present=nested or kind == PGTT.FIRST,
        ),
        Edge(
            f"{entry}>second",
            entry,
            second,
            state="live",
            label="SLPTPTR",
            columns=9,
            present=nested or kind == PGTT.SECOND,
        ),
    ]


def entry_table(machine: Machine, device: str, pasid: int) -> Table:
    """One PASID entry, field by field: name, bits, value, meaning."""
    words = machine.kernel.iommu.tables[machine.accelerators[device].rid].read(pasid)
    columns = (
        Column("field", "field"),
        Column("bits", "bits", mono=True),
        Column("value", "value", mono=True),
        Column("meaning", "meaning"),
    )
    rows = tuple(
        Line(
            found.field.name,
            (found.field.name, f"{found.field.msb}:{found.field.lsb}", f"{found.value:#x}", found.field.meaning),
            "live" if found.value else "idle",
        )
        for found in PASID_ENTRY.explain(words)
    )
    return Table("pasid-entry", f"PASID entry {pasid} of {device}", columns, rows)
