"""What the panes of the IOMMU say: a part of the catalogue (:mod:`pasidlab_widgets.lab.words`)."""

from __future__ import annotations

from typing import Final

__all__ = ["MEMORY", "PROBE", "STEPS"]

STEPS: Final = {
    "start": "To the request",
    "back-over": "Back by one row",
    "back": "Back by one stop",
    "play": "Play the walk",
    "pause": "Stop playing",
    "forward": "To the next stop",
    "forward-over": "To the next row",
    "end": "To the outcome",
    "oldest": "Nothing has been read yet.",
    "newest": "The walk is over.",
    "slider": "Stop of the walk",
    "stop": "stop {now} of {count}",
    "over": "outcome after {count} stops",
}

PROBE: Final = {
    "none": "none",
    "default": "default of {vm}",
    "pass-through": "pass-through",
    "nobody": "nobody",
    "mapped": "mapped",
    "not-there": "not touched yet",
    "unmapped": "not mapped",
    "no-number": "{what} must be a number such as 5 or 0x1000, not {text!r}",
    "a-pasid": "a PASID",
    "an-address": "an address",
    "tables": "tables only",
    "caches": "caches as they are",
    "ask": "Ask the IOMMU",
    "ask-more": "A probe is a question: no fault is recorded, no cache and no accessed bit changes.",
    "start": "The request arrives at the IOMMU",
    "start-more": "It carries a requester ID, perhaps a PASID, an address, and what it wants to do there.",
    "not-in-memory": "A translation in a TLB has no place in memory.",
    "stale-here": "Stale: memory says something else by now.",
    "differ": "Stale: the caches answer {cached}, the tables {fresh}.",
    "address": "address {address}",
    "fault": "fault {code} {name}",
}

MEMORY: Final = {
    "an-address": "an address",
    "host": "host-physical",
    "guest": "guest-physical of {vm}",
}
