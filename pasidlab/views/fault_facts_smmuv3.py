"""The facts for the sentences of SMMUv3 events (:mod:`pasidlab.views.fault_words_smmuv3`), read from a walk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.smmuv3.faults import SmmuEvent
from pasidlab.hardware.iommu.smmuv3.unit import SmmuUnit
from pasidlab.hardware.layouts.smmu import CD, CD_TABLE_DESC, S1_ENTRY, S2_ENTRY, STE, STREAM_TABLE_DESC
from pasidlab.hardware.pcie import format_rid
from pasidlab.views.fault_book import Facts, FaultBook, FaultWords, last_facts, pointer_fact
from pasidlab.views.fault_words_smmuv3 import CASES, FATES, FAULTS
from pasidlab.views.iommu_words import EXPLAIN
from pasidlab.views.walk_path import WalkPath

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import Stop, Walk

__all__ = ["SMMU_BOOK"]

_POINTERS: Final = ("L2Ptr", "addr", "S1ContextPtr", "TTB0", "S2TTB")
_STAGED: Final = frozenset(name.partition(" ")[0] for name in FAULTS if name.endswith(" S2"))


def _name(walk: Walk) -> str:
    name = walk.fault.name if walk.fault is not None else ""
    return f"{name} S2" if name in _STAGED and _in_second(walk) else name


def _in_second(walk: Walk) -> bool:
    """Whether stage 2 was at fault."""
    path = WalkPath(walk)
    if path.end.startswith("asked:"):
        return bool(path.shape.second) and bool(walk.stops) and (path.shape.nested and walk.stops[-1].layout is not CD)
    return path.end.startswith("second:")


def _words(walk: Walk) -> FaultWords:
    return FAULTS[_name(walk)]


def _fate(walk: Walk) -> str:
    fault, cd = walk.fault, _last(walk, CD)
    if fault is None or not fault.code:
        return FATES["none"]
    by_walk = SmmuEvent.of(fault.code).by_walk
    if by_walk and cd is not None and cd.fields()["S"] and not _name(walk).endswith("S2"):
        return FATES["stall"]
    if fault.suppressed:
        return FATES["silent"]
    return EXPLAIN["told" if by_walk else "recorded"]


def _last(walk: Walk, layout: object) -> Stop | None:
    return next((stop for stop in reversed(walk.stops) if stop.layout is layout), None)


def _facts(walk: Walk) -> dict[str, object]:
    request, bits = walk.request, walk.unit.stream_table.bits if isinstance(walk.unit, SmmuUnit) else 0
    facts: dict[str, object] = {
        "rid": format_rid(request.rid),
        "sid": f"{request.rid:#x}",
        "bits": bits,
        "address": f"{request.address:#x}",
        "access": ("privileged " if request.privileged else "") + str(request.access),
        "pasid": request.pasid if request.pasid is not None else EXPLAIN["rid-pasid"],
        "errand": CASES[f"errand-{_errand(walk)}"],
    }
    for stop in walk.stops:
        facts |= _remembered(stop)
    if walk.stops:
        facts |= last_facts(walk)
    return facts | {name: CASES[case].format_map(Facts(facts)) for name, case in _cases(walk).items()}


def _remembered(stop: Stop) -> dict[str, object]:
    """What later stops may be judged by."""
    fields, known = stop.fields(), pointer_fact(stop, _POINTERS)
    if stop.layout is STE:
        names = {"config": "Config", "fmt": "S1Fmt", "cdmax": "S1CDMax", "stalld": "S1STALLD", "dss": "S1DSS"}
        known |= {"ste_at": f"{stop.address:#x}"} | {name: fields[field] for name, field in names.items()}
    elif stop.layout is CD:
        names = {"aa64": "AA64", "t0sz": "T0SZ", "tg0": "TG0", "stall": "S"}
        known |= {name: fields[field] for name, field in names.items()}
    elif stop.layout is STREAM_TABLE_DESC:
        known |= {"span": fields["span"]}
    return known


def _errand(walk: Walk) -> str:
    """What stage 2 was asked for, by the row of the walk."""
    path = WalkPath(walk)
    row = path.end.split(":")[1] if ":" in path.end else "0"
    return row if row in ("l1cd", "cd") else "page" if row == "0" else "table"


def _cases(walk: Walk) -> dict[str, str]:
    """Which of the cases of an event it is."""
    last = walk.stops[-1] if walk.stops else None
    entry = last is not None and last.layout in (S1_ENTRY, S2_ENTRY)
    invalid = entry and WalkPath(walk).end == WalkPath(walk).boxes[-1]
    ste, cd = _last(walk, STE), _last(walk, CD)
    return {
        "abort": "abort-ste" if ste is not None else "abort-off",
        "beyond": "beyond-span" if last is not None and last.layout is STREAM_TABLE_DESC else "beyond-table",
        "bad_ste": "ste-illegal" if ste is not None and ste.fields()["V"] else "ste-absent",
        "dss_meaning": f"dss-{ste.fields()['S1DSS'] if ste is not None else 0}",
        "no_context": _no_context(walk, ste),
        "bad_cd": "cd-illegal" if cd is not None and cd.fields()["V"] else "cd-absent",
        "untranslated": "invalid" if invalid else "out-of-reach",
        "too_wide": "wide-entry" if entry else "wide-input",
    }


def _no_context(walk: Walk, ste: Stop | None) -> str:
    if _last(walk, CD_TABLE_DESC) is not None:
        return "no-leaf"
    if ste is None or ste.fields()["Config"] & 5 != 5:
        return "no-stage-1"
    return "too-large" if ste.fields()["S1CDMax"] else "no-substreams"


SMMU_BOOK: Final = FaultBook(_words, _facts, _fate, lambda code: SmmuEvent.of(code).meaning if code else FATES["none"])
"""What is said of SMMUv3 events."""
