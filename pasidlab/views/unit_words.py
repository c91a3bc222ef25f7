"""The words of each family of IOMMUs for what all of them have: boxes of a walk, structures, kinds of translation.

What a family does not say itself it says like VT-d, or in words that are common to all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.iommu.families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pasidlab.hardware.iommu.family import Terms
    from pasidlab.hardware.iommu.reading import Reading

__all__ = ["Read", "family_of", "kind_of", "terms_of", "unit_words"]

_VTD: Final = {
    "note": "Above the lookup of the PASID entry, below what comes of it.",
    "note-first": "Above the lookup of the PASID entry, below the first level, the page table of the process.",
    "note-second": "Above the lookup of the PASID entry, below the second level, the memory of the VM.",
    "note-nested": "A row for each first-level level: the second level (L4 to L1) finds its table. The last row finds"
    " the page.",
    "root": "root entry",
    "context": "context entry",
    "directory": "directory entry",
    "entry": "PASID entry",
    "first": "first L{level}",
    "first-alone": "L{level}",
    "second": "L{level}",
    "number": "PASID {pasid}",
    "guest-physical": "guest-physical",
    "host-physical": "host-physical",
    "stage-lookup": "lookup",
    "stage-first": "first level",
    "stage-second": "second level",
    "stage-mark": "may it be marked?",
    "again": "It asked the second level {count} more whether accessed may be set in a first-level entry.",
    "off": "The unit does not translate (GSTS.TES=0): addresses go through as they are.",
    "kind-first": "first-level",
    "kind-second": "second-level",
    "kind-both": "nested",
    "kind-none": "pass-through",
    "box-first": "first-level",
    "box-second": "second-level",
    "box-both": "nested",
    "box-none": "pass-through",
    "present": "P=1",
    "absent": "P=0",
    "silent": "in silence: FPD=1",
    "short-tag": "DID",
    "box": "VT-d",
    "structure-title": "PASID table",
    "leaf": "slot {index}",
    "device": "context entry",
    "table-pointer": "PASIDDIRPTR",
    "first-pointer": "FLPTPTR",
    "second-pointer": "SLPTPTR",
    "map-entry": "PASID entry",
    "map-entries": "PASID entries",
    "top": "PASID directory",
    "parts": "Read from memory: the directory (PASID bits 19:6), a table (bits 5:0), its entries, their pointers.",
    "entry-title": "PASID entry {pasid} of {device}: 512 bits, field by field",
    "target-first": "first level",
    "target-second": "second level",
    "clusters": "entries of 64 bytes",
    "dir-title": "PASID table of {device} ({rid}): {present} present in {leaves}",
    "dir-owned": ", {vm}'s own",
    "dir-note": "A bar is as high as its share of present entries. Dotted: no table yet. Click to look inside.",
    "dir-blocks": "The directory: 2^14 slots, one for 64 PASIDs each; 64 slots in a cell",
    "dir-slots": "Slots {low} to {high} of the directory",
    "dir-entries": "The PASID table of slot {slot}: PASIDs {low} to {high}",
    "dir-no-table": "Slot {slot} has no PASID table: PASIDs {low} to {high} were never used",
    "dir-block": "slots {low} to {high}, PASIDs {first} to {last}: {leaves}, {present} present",
    "dir-slot": "slot {slot}, PASIDs {first} to {last}: {what}",
    "dir-leaf": "table at {address}, {present} of 64 present",
    "dir-no-leaf": "no table",
    "dir-entry": "PASID {pasid}: {what}, {tag}",
    "dir-broken": "PASID {pasid}: present, but hardware cannot use it",
    "dir-absent": "PASID {pasid}: not present",
    "dir-silent": "PASID {pasid}: not present, faults are not recorded (FPD)",
    "dir-slot-table": "table",
    "dir-slot-tables": "tables",
    "dir-one": "entry",
    "dir-many": "entries",
    "dir-key-some": "present",
    "dir-key-none": "not present",
    "dir-key-no-leaf": "no table",
    "dir-key-kinds": "F first-level, S second-level, N nested, P pass-through",
}
_SMMU: Final = {
    "note": "Above the lookup: stream table, context descriptor. Below what comes of it.",
    "note-first": "Above the lookup of the context descriptor, below stage 1, the page table of the process.",
    "note-second": "Above the lookup of the stream table entry, below stage 2, the memory of the VM.",
    "note-nested": "A row for each read at an intermediate address, context descriptors too: stage 2 finds it. The last"
    " row finds the page.",
    "l1std": "L1 descriptor",
    "ste": "STE",
    "l1cd": "L1CD",
    "cd": "CD",
    "first": "stage 1 L{level}",
    "number": "PASID {pasid}",
    "guest-physical": "intermediate (IPA)",
    "stage-first": "stage 1",
    "stage-second": "stage 2",
    "off": "The unit does not translate (CR0.SMMUEN=0): addresses go through as they are.",
    "kind-first": "by stage 1 alone",
    "kind-second": "by stage 2 alone",
    "kind-both": "nested: stage 1 over stage 2",
    "kind-none": "bypassed",
    "box-first": "stage 1",
    "box-second": "stage 2",
    "box-none": "bypassed",
    "present": "V=1",
    "absent": "V=0",
    "short-tag": "VMID",
    "box": "SMMUv3",
    "structure-title": "Context descriptors",
    "leaf": "part {index}",
    "device": "stream table entry",
    "table-pointer": "S1ContextPtr",
    "first-pointer": "TTB0",
    "second-pointer": "S2TTB",
    "map-entry": "table entry",
    "map-entries": "table entries",
    "top": "CD table",
    "parts": "Read from memory: the table of context descriptors, its leaves, the descriptors, their pointers.",
    "entry-title": "Context descriptor {pasid} of {device}, field by field",
    "target-first": "stage 1",
    "target-second": "stage 2",
    "clusters": "context descriptors of 64 bytes",
    "dir-title": "Context descriptors of {device} ({rid}): {present} in {leaves}",
    "dir-one": "valid descriptor",
    "dir-many": "valid descriptors",
    "dir-key-kinds": "F stage 1, N nested",
    "dir-blocks": "All 2^20 PASIDs: 4096 in a cell",
    "dir-slots": "PASIDs {first} to {last}: 64 in a cell",
    "dir-entries": "PASIDs {low} to {high}: one in a cell",
    "dir-no-table": "No table reaches PASIDs {low} to {high}",
    "dir-block": "PASIDs {first} to {last}: {leaves}, {present} present",
    "dir-slot": "PASIDs {first} to {last}: {what}",
    "dir-leaf": "entries from {address} on, {present} of 64 present",
    "dir-slot-table": "run of 64 entries",
    "dir-slot-tables": "runs of 64 entries",
}
_AMD: Final = {
    "note": "Above the lookup: device table entry, GCR3 table. Below what comes of it.",
    "note-first": "Above the lookup of the GCR3 entry, below the guest page table, that of the process.",
    "note-second": "Above the lookup of the device table entry, below the host page table, the memory of the VM.",
    "note-nested": "A row for each read at a guest-physical address: the host page table finds it. The last row finds"
    " the page.",
    "dte": "DTE",
    "gcr3-3": "GCR3 L3",
    "gcr3-2": "GCR3 L2",
    "gcr3-1": "GCR3 L1",
    "first": "guest L{level}",
    "host-physical": "system-physical",
    "stage-first": "guest table",
    "stage-second": "host table",
    "again": "It asked the host page table {count} more whether accessed may be set in a guest entry.",
    "off": "The unit does not translate (IommuEn=0): addresses go through as they are.",
    "kind-first": "by the guest page table alone",
    "kind-second": "by the host page table alone",
    "kind-both": "nested: guest page table over host page table",
    "kind-none": "pass-through",
    "box-first": "guest table",
    "box-second": "host table",
    "present": "V=1",
    "absent": "V=0",
    "short-tag": "DomainID",
    "box": "AMD IOMMU",
    "structure-title": "GCR3 table",
    "leaf": "table {index}",
    "device": "device table entry",
    "table-pointer": "GCR3 root",
    "first-pointer": "CR3",
    "second-pointer": "HostRoot",
    "map-entry": "table entry",
    "map-entries": "table entries",
    "top": "GCR3 table",
    "parts": "Read from memory: the levels of the GCR3 table, its entries, the guest page tables that they name.",
    "entry-title": "GCR3 entry {pasid} of {device}, field by field",
    "target-first": "guest table",
    "target-second": "host table",
    "clusters": "entries of 8 bytes",
    "dir-title": "GCR3 table of {device} ({rid}): {present} in {leaves}",
    "dir-one": "valid entry",
    "dir-many": "valid entries",
    "dir-key-kinds": "F guest table, N nested",
    "dir-blocks": "All 2^20 PASIDs: 4096 in a cell",
    "dir-slots": "PASIDs {first} to {last}: 64 in a cell",
    "dir-entries": "PASIDs {low} to {high}: one in a cell",
    "dir-no-table": "No table reaches PASIDs {low} to {high}",
    "dir-block": "PASIDs {first} to {last}: {leaves}, {present} present",
    "dir-slot": "PASIDs {first} to {last}: {what}",
    "dir-leaf": "entries from {address} on, {present} of 64 present",
    "dir-slot-table": "run of 64 entries",
    "dir-slot-tables": "runs of 64 entries",
}
_WORDS: Final = {"vtd": _VTD, "smmuv3": _VTD | _SMMU, "amdvi": _VTD | _AMD}
_KINDS: Final = {
    EntryKind.FIRST: "first",
    EntryKind.SECOND: "second",
    EntryKind.NESTED: "both",
    EntryKind.PASS_THROUGH: "none",
}


class Read(Protocol):
    """Whatever has tables that people read: a unit, of silicon or emulated."""

    @property
    def reading(self) -> Reading:
        """How people read its tables."""


def family_of(unit: Read | None) -> str:
    """The name of the unit's family; VT-d's where nobody says which unit it was."""
    return "vtd" if unit is None else unit.reading.family


def unit_words(unit: Read | None) -> Mapping[str, str]:
    """The words of a unit's family.

    >>> unit_words(None)["entry"]
    'PASID entry'
    """
    return _WORDS[family_of(unit)]


def terms_of(unit: Read) -> Terms:
    """The terms of a unit's family.

    >>> from pasidlab import Machine
    >>> terms_of(Machine().unit).table
    'PASID table'
    """
    return FAMILIES[unit.reading.family].terms


def kind_of(unit: Read, kind: EntryKind, form: str = "kind") -> str:
    """What an entry makes of requests, in words; with ``form`` "box" in as few as a small box has room for.

    >>> from pasidlab import Machine
    >>> kind_of(Machine().unit, EntryKind.NESTED)
    'nested'
    """
    return unit_words(unit)[f"{form}-{_KINDS[kind]}"]
