"""The catalogue of words, second volume: the IOMMU's structures, walks, tables and memory.

Templates for :meth:`str.format`. The first volume is :mod:`pasidlab.views.words`, faults are the third
(:mod:`pasidlab.views.fault_words_vtd`).
"""

from __future__ import annotations

from typing import Final

__all__ = ["BITS", "CACHES", "ENTRY", "EXPLAIN", "MEMORY", "STRUCTURES", "WALK", "WHOLE"]

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
    "asks": "{pasid} {access}",
    "pasid": "PASID {pasid}",
    "no-pasid": "no PASID",
    "unknown": "?",
    "virtual": "virtual",
    "address": "address",
    "page": "page",
    "fault": "fault {code}",
    "at": "at {address}",
    "from": "{cache}",
    "paging-cache": "paging cache",
    "stream-cache": "stream cache",
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
    "second": "{name}, level {level}, of {owner}: guest-physical {span}",
    "span": "{low} to {high}",
    "first": "{name}, level {level}, of PASID {pasid} ({owner}): virtual {span}",
    "guest-at": ", in the guest at {guest}",
    "domain": "domain {did} (PASID {pasid})",
    "nobody": "nobody",
    "word": "the word at {address}, memory of {owner}",
    "host-memory": "the machine's memory",
    "guest-memory": "the memory of {vm}",
    "owned-second": "{owner}, guest-physical {address}",
    "owned-first": "{owner}, PASID {pasid}, virtual {address}",
    "next": "next to be written",
    "done": "carried out",
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

STRUCTURES: Final = {
    "root entry": "root entry of bus {bus}",
    "context entry": "context entry of {rid}",
    "PASID directory entry": "directory entry of {rid} for PASIDs {low} to {high}",
    "PASID entry": "PASID entry {pasid} of {rid}",
    "stream table descriptor": "stream table descriptor for {rid} to {last}",
    "stream table entry": "stream table entry of {rid}",
    "context descriptor table entry": "CD table entry of {rid} for PASIDs {low} to {high}",
    "context descriptor": "context descriptor {pasid} of {rid}",
    "device table entry": "device table entry of {rid}",
    "GCR3 entry": "GCR3 entry {pasid} of {rid}",
    "GCR3 entry, upper": "GCR3 entry of {rid}, level {level}, for PASIDs {low} to {high}",
}
"""Entries of the tables that lead from a request to a page table, by their name in a survey."""

WHOLE: Final = {
    "title": "Guests' own tables, and what binds them",
    "note": "One line for a whole table: the host is asked for no single PASID, and no IOASID stands for them.",
    "host": "entries of the host",
    "memory": "memory of {vm}",
    "no-vm": "no VM yet",
    "create": "create one",
    "no-device": "no whole device",
    "assign": "assign a PF",
    "no-table": "no table yet",
    "in-guest": "in the guest at {address}",
    "guests": "the guest's",
    "nobody": "nobody",
    "no-entry": "no entry",
    "more": "+{count} more",
    "unusable": "hardware cannot use it",
    "bound": "table bound",
    "not-bound": "no table bound",
    "without": "no PASID: {kind}",
}
"""Whole tables of guests."""

ENTRY: Final = {
    "at": "{size} bytes at {address}",
    "in-guest": " in the memory of {vm}",
    "no-table": "The IOMMU's driver does not know {device} yet",
    "nowhere": "No table reaches so far yet: the entry would be all zero.",
    "owned": ", {vm}'s own",
    "bound": "table of {vm}, bound whole",
    "host-table": "table of the host",
    "broken": "hardware cannot use it",
}
"""A PASID entry."""

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
