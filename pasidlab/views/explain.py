"""A walk in words: where the address leads; or, for a fault, what was looked for, what was found there (which bits),
and what a driver would have to do. The sentences stand in :mod:`pasidlab.views.fault_words`; here are their facts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.iommu.vtd.faults import FaultReason
from pasidlab.hardware.iommu.vtd.rules import VtdRules
from pasidlab.hardware.iommu.vtd.unit import RECOVERABLE
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, FL_ENTRY, PASID_ENTRY, SL_ENTRY
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.iommu.vtd.entries import meaning_of
from pasidlab.views.fault_words import FAULTS
from pasidlab.views.iommu_words import EXPLAIN
from pasidlab.views.numbers import counted
from pasidlab.views.walk_table import stop_bits, usual_rules

if TYPE_CHECKING:
    from collections.abc import Collection

    from pasidlab.hardware.bits import Layout
    from pasidlab.hardware.iommu.contract import Stop, Walk

__all__ = ["Explanation", "bit_names", "explain"]

_POINTERS: Final = ("LCTP", "UCTP", "PASIDDIRPTR", "SMPTBLPTR", "ADDR")


class Explanation(NamedTuple):
    """The outcome as a title, and sentences."""

    title: str
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((f"{self.title}.", *self.sentences))


def explain(walk: Walk, rules: VtdRules | None = None, stale: Collection[int] = ()) -> Explanation:
    """How ``walk`` ended, in words. ``rules`` are those of the unit that walked.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> print(explain(m.translate(dsa.rid, 9, 0x1000, caches=False)).sentences[0])
    The unit looked for the PASID entry of PASID 9, which says how to translate.
    """
    doubt = (EXPLAIN["stale"].format(stops=_list([str(at + 1) for at in sorted(stale)])),) if stale else ()
    if walk.fault is None:
        return Explanation(*_success(walk, doubt))
    reason = FaultReason.of(walk.fault.code)
    facts = _Facts(_facts(walk, rules or usual_rules()))
    said = tuple(part.format_map(facts) for part in FAULTS[reason])
    fate = EXPLAIN["suppressed" if walk.fault.suppressed else "told" if reason in RECOVERABLE else "recorded"]
    title = EXPLAIN["fault"].format(code=f"{reason:#x}", label=reason.label, meaning=walk.fault.meaning)
    return Explanation(title, (*said, *doubt, fate))


def _success(walk: Walk, doubt: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Where it leads, and what that cost."""
    cached = [stop.cache for stop in walk.stops if stop.cached]
    marked = sum(stop.stage == "mark" for stop in walk.stops)
    read = len(walk.stops) - len(cached) - marked
    title = EXPLAIN["address"].format(asked=f"{walk.request.address:#x}", address=f"{walk.address or 0:#x}")
    entry = next((stop for stop in walk.stops if stop.layout is PASID_ENTRY), None)
    how = EXPLAIN["how"].format(kind=meaning_of(entry.words)) if entry is not None else ""
    cost = EXPLAIN["read"].format(count=counted(read, "structure")) if walk.stops else EXPLAIN["off"]
    again = EXPLAIN["again"].format(count=counted(marked, "time")) if marked else ""
    names = _list(list(dict.fromkeys(cached)))
    answered = EXPLAIN["answered"].format(count=counted(len(cached), "answer"), caches=names) if cached else ""
    return title, tuple(part for part in (how, cost, again, answered, *doubt) if part)


class _Facts(dict[str, object]):
    """Facts for a sentence; one that the walk does not have reads as ``?``."""

    def __missing__(self, key: str) -> object:
        return "?"


def _facts(walk: Walk, rules: VtdRules) -> dict[str, object]:
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
    return facts | _of_last(walk, rules) if walk.stops else facts


def _remembered(stop: Stop) -> dict[str, object]:
    """What later stops may be judged by."""
    fields = stop.fields()
    if stop.layout is CONTEXT_ENTRY:
        reach = 1 << fields["PDTS"] + 13
        return {"pdts": fields["PDTS"], "reach": reach, "rid_pasid": fields["RID_PASID"]} | _pointer(stop)
    if stop.layout is PASID_ENTRY:
        pointer = "FLPTPTR" if fields["PGTT"] in (1, 3) else "SLPTPTR"
        known = {"pgtt": fields["PGTT"], "aw": fields["AW"], "flpm": fields["FLPM"], "entry_at": f"{stop.address:#x}"}
        return known | {"pointer": f"{pointer}={fields[pointer]:#x}"}
    if stop.layout is SL_ENTRY:
        return {"second": _name(stop), "missing": _missing(stop.layout, stop.words[0])} | _pointer(stop)
    if stop.layout is FL_ENTRY:
        return {"marked": _name(stop)} | _pointer(stop)
    return _pointer(stop)


def _pointer(stop: Stop) -> dict[str, object]:
    names = [name for name in _POINTERS if name in stop.fields() and stop.fields()[name]]
    return {"pointer": f"{names[0]}={stop.fields()[names[0]]:#x}"} if names else {}


def _of_last(walk: Walk, rules: VtdRules) -> dict[str, object]:
    """The stop at which the fault was found."""
    at = len(walk.stops) - 1
    stop, bits = walk.stops[at], stop_bits(walk, at, rules)
    wrong = bits.value & bits.must_be_zero
    facts: dict[str, object] = {"at": f"{stop.address:#x}", "entry": _name(stop), "bits": bit_names(wrong)}
    facts["word"] = " ".join(f"{word:#x}" for word in stop.words[: max(1, 1 + wrong.bit_length() // 64)])
    if stop.layout is FL_ENTRY:
        facts["missing"] = EXPLAIN["rw"]
    return facts


def _missing(layout: Layout, word: int) -> str:
    """Which permission a second-level entry lacks."""
    return EXPLAIN["w"] if word & 1 else EXPLAIN["r"]


def _name(stop: Stop) -> str:
    level = EXPLAIN["level"].format(level=stop.level) if stop.level else ""
    return EXPLAIN["entry"].format(name=stop.name, level=level, address=f"{stop.address:#x}")


def bit_names(mask: int) -> str:
    """Numbers of bits, with the verb that follows them.

    >>> bit_names(1 << 4), bit_names(0b1110), bit_names(1 << 200 | 1)
    ('Bit 4 is', 'Bits 1 to 3 are', 'Bits 0 and 200 are')
    """
    numbers = [at for at in range(mask.bit_length()) if mask >> at & 1]
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][1] + 1:
            groups[-1][1] = number
        else:
            groups.append([number, number])
    words = [str(low) if low == high else f"{low} to {high}" for low, high in groups]
    if len(numbers) == 2:
        words = [str(number) for number in numbers]
    return (EXPLAIN["bit-is"] if len(numbers) == 1 else EXPLAIN["bits-are"]).format(bits=_list(words))


def _list(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""
