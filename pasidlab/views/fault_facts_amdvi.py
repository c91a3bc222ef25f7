"""The facts for the sentences of AMD's faults (:mod:`pasidlab.views.fault_words_amdvi`), read from a walk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.amdvi.faults import EventCode, Reason
from pasidlab.hardware.iommu.amdvi.unit import AmdUnit
from pasidlab.hardware.layouts.amd import DTE, gcr3_root
from pasidlab.hardware.pcie import format_rid
from pasidlab.views.fault_book import FaultBook, FaultWords, last_facts, pointer_fact
from pasidlab.views.fault_words_amdvi import ERRANDS, FATES, FAULTS
from pasidlab.views.iommu_words import EXPLAIN
from pasidlab.views.numbers import counted
from pasidlab.views.walk_path import WalkPath

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import Stop, Walk

__all__ = ["AMD_BOOK"]

_POINTERS: Final = ("CR3", "addr", "HostRoot")


def _reason(walk: Walk) -> Reason:
    return Reason[walk.fault.reason if walk.fault is not None else ""]


def _words(walk: Walk) -> FaultWords:
    return FAULTS[_reason(walk)]


def _fate(walk: Walk) -> str:
    if walk.fault is not None and walk.fault.suppressed:
        return FATES["silent"]
    return EXPLAIN["told" if _reason(walk).recoverable else "recorded"]


def _facts(walk: Walk) -> dict[str, object]:
    request = walk.request
    facts: dict[str, object] = {
        "rid": format_rid(request.rid),
        "address": f"{request.address:#x}",
        "access": ("privileged " if request.privileged else "") + str(request.access),
        "pasid": request.pasid if request.pasid is not None else EXPLAIN["rid-pasid"],
        "errand": ERRANDS[_errand(walk)],
        "bits_wide": f"{walk.unit.identity.address_bits} bits" if isinstance(walk.unit, AmdUnit) else "?",
    }
    for stop in walk.stops:
        facts |= _remembered(stop)
    return facts | last_facts(walk) if walk.stops else facts


def _remembered(stop: Stop) -> dict[str, object]:
    """What later stops may be judged by."""
    if stop.layout is not DTE:
        return pointer_fact(stop, _POINTERS)
    fields, root = stop.fields(), gcr3_root(stop.words)
    known: dict[str, object] = {"mode": fields["Mode"], "glx": fields["GLX"], "gptmode": fields["GPTMode"]}
    known["levels"] = counted(fields["GLX"] + 1, "level")
    return known | (pointer_fact(stop, _POINTERS) or {"pointer": f"GCR3={root:#x}"})


def _errand(walk: Walk) -> str:
    """What the host table was asked for, by the row of the walk."""
    if walk.stops and walk.stops[-1].stage == "mark":
        return "mark"
    end = WalkPath(walk).end
    row = end.split(":")[1] if ":" in end else "0"
    return "gcr3" if row.startswith("gcr3") else "page" if row == "0" else "table"


def _meaning(code: int) -> str:
    return next((event.meaning for event in EventCode if event == code), "")


AMD_BOOK: Final = FaultBook(_words, _facts, _fate, _meaning)
"""What is said of AMD's faults."""
