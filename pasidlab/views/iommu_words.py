"""The catalogue of words, second volume: the IOMMU's structures, walks, tables and memory.

Templates for :meth:`str.format`. The first volume is :mod:`pasidlab.views.words`, faults are the third
(:mod:`pasidlab.views.fault_words`).
"""

from __future__ import annotations

from typing import Final

__all__ = ["BITS", "CACHES", "DIRECTORY", "ENTRY", "EXPLAIN", "MEMORY", "WALK"]

BITS: Final = {
    "reserved": "must be zero",
    "ignored": "not looked at by hardware",
    "unnamed": "no name",
    "wrong": "set, but must be zero",
    "bit": "bit",
    "bits": "bits",
    "key-pointer": "address",
    "key-number": "number",
    "key-flag": "flag",
    "key-ignored": "not looked at",
    "key-reserved": "must be zero",
    "key-wrong": "set, but must be zero",
    "key-changed": "changed by this step",
    "layout": "{size} bytes, {layout}",
    "all-zero": "all zero",
}
"""Structures, bit by bit."""

WALK: Final = {
    "title": "The way of {request}",
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
    "second": "L{level}",
    "asks": "{pasid} {access}",
    "pasid": "PASID {pasid}",
    "no-pasid": "no PASID",
    "unknown": "?",
    "virtual": "virtual",
    "guest-physical": "guest-physical",
    "host-physical": "host-physical",
    "address": "address",
    "page": "page",
    "fault": "fault {code}",
    "at": "at {address}",
    "from": "{cache}",
    "paging-cache": "paging cache",
    "number": "stop {number}",
    "stop": "stop {number}: {stop}",
    "here": "fault",
    "now": "now",
    "mark": "mark?",
    "read": "read",
    "cached": "cached",
    "stale": "stale",
    "request": "asks",
    "not-read": "not read",
    "not-reached": "not reached",
    "stage-lookup": "lookup",
    "stage-first": "first level",
    "stage-second": "second level",
    "stage-mark": "may it be marked?",
    "memory": "memory",
    "cache": "{cache}",
    "cache-stale": "{cache}, stale",
    "level": " level {level}",
    "stop-title": "Stop {number} of {count}: {name}{level}",
    "stop-note": "at {address}, from {where}; {source}",
}
"""The walk of a request through the tables."""

EXPLAIN: Final = {
    "address": "{asked} leads to host-physical {address}",
    "fault": "Fault {code} {label}: {meaning}",
    "how": "The translation is {kind}.",
    "read": "The unit read {count} from memory.",
    "again": "It asked the second level {count} more whether accessed may be set in a first-level entry.",
    "off": "The unit does not translate (GSTS.TES=0): addresses go through as they are.",
    "answered": "Caches gave {count} ({caches}).",
    "stale": "Stale: what the cache says at stop {stops} is not what memory says now.",
    "recorded": "A real DMA would be recorded, and the host would log it.",
    "told": "A real DMA would be recorded and logged; a device that asks first (ATS) is only told that there is none.",
    "suppressed": "FPD is set on the way: a real DMA would be blocked without a record.",
    "rid-pasid": "for requests without one",
    "entry": "the {name}{level} at {address}",
    "level": " of level {level}",
    "rw": "RW (bit 1)",
    "r": "R (bit 0)",
    "w": "W (bit 1)",
    "bit-is": "Bit {bits} is",
    "bits-are": "Bits {bits} are",
    "pgtt-1": "first-level",
    "pgtt-2": "second-level",
    "pgtt-3": "nested",
    "pgtt-4": "pass-through",
}
"""What came of a walk."""

MEMORY: Final = {
    "at": "{size} bytes at {address}; {source}",
    "root": "root entry of bus {bus}",
    "context": "context entry of {rid}",
    "directory": "directory entry of {rid} for PASIDs {low} to {high}",
    "entry": "PASID entry {pasid} of {rid}",
    "second": "second-level entry, level {level}, of {owner}: guest-physical {span}",
    "span": "{low} to {high}",
    "first": "first-level entry, level {level}, of PASID {pasid} ({owner}): virtual {span}",
    "guest-at": ", in the guest at {guest}",
    "domain": "domain {did} (PASID {pasid})",
    "nobody": "nobody",
    "word": "the word at {address}, memory of {owner}",
    "host-memory": "the machine's memory",
    "guest-memory": "the memory of {vm}",
    "owned-second": "{owner}, guest-physical {address}",
    "owned-first": "{owner}, PASID {pasid}, virtual {address}",
    "descriptor": "invalidation queue, descriptor {number} ({when}): {what}",
    "no-descriptor": "invalidation queue, descriptor {number}: never written",
    "bad-descriptor": "invalidation queue, descriptor {number}: not one ({error})",
    "type": "descriptor type",
    "tail": "next to be written",
    "done": "carried out",
    "page-request": "page request queue, record {number}",
    "kvm-directory": "KVM's PASID directory of {vm}: guest PASIDs {low} to {high}",
    "kvm-entry": "KVM's PASID entry of {vm}: guest PASID {pasid}",
    "frame": "Frame {address}: {count} of 512 words are not zero",
    "frame-of": ", memory of {vm}",
    "zero": "{count}, all zero",
    "folded": "{count} more, not zero: click to see them",
    "data": "data",
    "part": "{name} (+{offset} bytes)",
}
"""What lies where in memory."""

ENTRY: Final = {
    "title": "PASID entry {pasid} of {device}: 512 bits, field by field",
    "at": "64 bytes at {address}",
    "no-table": "The IOMMU's driver does not know {device} yet",
    "nowhere": "No table reaches so far yet: the entry would be all zero.",
}
"""A PASID entry."""

DIRECTORY: Final = {
    "title": "PASID table of {device} ({rid}): {present} present in {leaves}",
    "note": "A bar is as high as its share of present entries. Dotted: no table yet. Click to look inside.",
    "blocks": "The directory: 2^14 slots, one for 64 PASIDs each; 64 slots in a cell",
    "slots": "Slots {low} to {high} of the directory",
    "entries": "The PASID table of slot {slot}: PASIDs {low} to {high}",
    "no-table": "Slot {slot} has no PASID table: PASIDs {low} to {high} were never used",
    "block": "slots {low} to {high}, PASIDs {first} to {last}: {leaves}, {present} present",
    "slot": "slot {slot}, PASIDs {first} to {last}: {what}",
    "leaf": "table at {address}, {present} of 64 present",
    "no-leaf": "no table",
    "entry": "PASID {pasid}: {what}, DID {did}",
    "absent": "PASID {pasid}: not present",
    "silent": "PASID {pasid}: not present, faults are not recorded (FPD)",
    "leaves": "table",
    "present": "entry",
    "key-some": "present",
    "key-none": "not present",
    "key-no-leaf": "no table",
    "key-kinds": "F first-level, S second-level, N nested, P pass-through",
    "chosen": "shown below",
}
"""The 2^14 slots of a PASID directory, and what is in them."""

CACHES: Final = {
    "title": "What the caches hold: {count}, {stale}",
    "stale-none": "none is stale",
    "stale-one": "1 is stale",
    "stale-many": "{count} are stale",
    "empty": "The IOMMU has kept nothing yet: let a device work.",
    "agrees": "agree",
    "stale": "stale",
    "orphan": "stale, nobody's",
    "more": "+{count} that agree",
}
"""The caches of the IOMMU and of the devices."""
