"""The facts for the sentences of VT-d's faults (:mod:`pasidlab.views.fault_words_vtd`), read from a walk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.vtd.faults import FaultReason
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.rules import VtdRules
from pasidlab.hardware.iommu.vtd.unit import RECOVERABLE, VtdUnit
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, FL_ENTRY, PASID_ENTRY, SL_ENTRY
from pasidlab.hardware.pcie import format_rid
from pasidlab.views.fault_book import FaultBook, FaultWords, entry_name, last_facts, pointer_fact
from pasidlab.views.fault_words_vtd import FAULTS
from pasidlab.views.iommu_words import EXPLAIN

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import Stop, Walk

__all__ = ["VTD_BOOK"]

_POINTERS: Final = ("LCTP", "UCTP", "PASIDDIRPTR", "SMPTBLPTR", "ADDR")


def _reason(walk: Walk) -> FaultReason:
    return FaultReason.of(walk.fault.code if walk.fault is not None else 0)


def _words(walk: Walk) -> FaultWords:
    return FAULTS[_reason(walk)]


def _fate(walk: Walk) -> str:
    if walk.fault is not None and walk.fault.suppressed:
        return EXPLAIN["suppressed"]
    return EXPLAIN["told" if _reason(walk) in RECOVERABLE else "recorded"]


def _facts(walk: Walk) -> dict[str, object]:
    rules = walk.unit.rules if isinstance(walk.unit, VtdUnit) else VtdRules(VtdIdentity())
    request, card = walk.request, rules.identity
    facts: dict[str, object] = {
        "rid": format_rid(request.rid),
        "bus": f"{request.rid >> 8:#x}",
        "address": f"{request.address:#x}",
        "half": "UP" if request.rid & 0x80 else "LP",
        "half_bit": 64 if request.rid & 0x80 else 0,
        "mgaw": card.mgaw,
        "haw": card.haw,
        "pasid": request.pasid if request.pasid is not None else EXPLAIN["rid-pasid"],
        "able": ", ".join(EXPLAIN[f"pgtt-{pgtt}"] for pgtt in sorted(rules.translations)),
    }
    for stop in walk.stops:
        facts |= _remembered(stop)
    return facts | _of_last(walk) if walk.stops else facts


def _remembered(stop: Stop) -> dict[str, object]:
    """What later stops may be judged by."""
    fields, pointer = stop.fields(), pointer_fact(stop, _POINTERS)
    if stop.layout is CONTEXT_ENTRY:
        reach = 1 << fields["PDTS"] + 13
        return {"pdts": fields["PDTS"], "reach": reach, "rid_pasid": fields["RID_PASID"]} | pointer
    if stop.layout is PASID_ENTRY:
        named = "FLPTPTR" if fields["PGTT"] in (1, 3) else "SLPTPTR"
        known = {"pgtt": fields["PGTT"], "aw": fields["AW"], "flpm": fields["FLPM"], "entry_at": f"{stop.address:#x}"}
        return known | {"pointer": f"{named}={fields[named]:#x}"}
    if stop.layout is SL_ENTRY:
        missing = EXPLAIN["w"] if stop.words[0] & 1 else EXPLAIN["r"]
        return {"second": entry_name(stop), "missing": missing} | pointer
    if stop.layout is FL_ENTRY:
        return {"marked": entry_name(stop)} | pointer
    return pointer


def _of_last(walk: Walk) -> dict[str, object]:
    """The stop at which the fault was found."""
    missing = {"missing": EXPLAIN["rw"]} if walk.stops[-1].layout is FL_ENTRY else {}
    return last_facts(walk) | missing


VTD_BOOK: Final = FaultBook(_words, _facts, _fate, lambda code: FaultReason.of(code).meaning)
"""What is said of VT-d's faults."""
