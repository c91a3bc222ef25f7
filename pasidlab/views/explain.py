"""A walk in words: where the address leads; or, for a fault, what was looked for, what was found there (which bits),
and what a driver would have to do. What is said of faults stands in the books of :mod:`pasidlab.views.faults`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pasidlab.views.fault_book import Facts, bit_names, listed
from pasidlab.views.faults import BOOKS
from pasidlab.views.iommu_words import EXPLAIN
from pasidlab.views.numbers import counted
from pasidlab.views.unit_words import family_of, unit_words
from pasidlab.views.walk_path import shape_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from pasidlab.hardware.iommu.contract import Fault, Walk

__all__ = ["Explanation", "bit_names", "explain"]


class Explanation(NamedTuple):
    """The outcome as a title, and sentences."""

    title: str
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((f"{self.title}.", *self.sentences))


def explain(walk: Walk, stale: Collection[int] = ()) -> Explanation:
    """How ``walk`` ended, in words.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> print(explain(m.translate(dsa.rid, 9, 0x1000, caches=False)).sentences[0])
    The unit looked for the PASID entry of PASID 9, which says how to translate.
    """
    doubt = (EXPLAIN["stale"].format(stops=listed([str(at + 1) for at in sorted(stale)])),) if stale else ()
    if walk.fault is None:
        return Explanation(*_success(walk, doubt))
    return _blocked(walk, walk.fault, doubt)


def _blocked(walk: Walk, fault: Fault, doubt: tuple[str, ...]) -> Explanation:
    """The fault as the book of its family tells it."""
    book = BOOKS[family_of(walk.unit)]
    facts = Facts(book.facts(walk))
    said = tuple(part.format_map(facts) for part in book.words(walk))
    title = EXPLAIN["fault"].format(code=f"{fault.code:#x}", label=fault.name, meaning=fault.meaning)
    return Explanation(title, (*said, *doubt, book.fate(walk)))


def _success(walk: Walk, doubt: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Where it leads, and what that cost."""
    words, shape = unit_words(walk.unit), shape_of(walk)
    cached = [stop.cache for stop in walk.stops if stop.cached]
    marked = sum(stop.stage == "mark" for stop in walk.stops)
    read = len(walk.stops) - len(cached) - marked
    title = EXPLAIN["address"].format(asked=f"{walk.request.address:#x}", address=f"{walk.address or 0:#x}")
    kind = "both" if shape.first and shape.second else "first" if shape.first else "second" if shape.second else "none"
    how = EXPLAIN["how"].format(kind=words[f"kind-{kind}"]) if shape.known else ""
    cost = EXPLAIN["read"].format(count=counted(read, "structure")) if walk.stops else words["off"]
    again = words["again"].format(count=counted(marked, "time")) if marked else ""
    names = listed(list(dict.fromkeys(cached)))
    answered = EXPLAIN["answered"].format(count=counted(len(cached), "answer"), caches=names) if cached else ""
    return title, tuple(part for part in (how, cost, again, answered, *doubt) if part)
