"""What the explanation of a fault is made of: sentences for each reason, and the facts that are put into them.

Each vendor has two files: ``fault_words*.py`` with the sentences, ``fault_facts*.py`` with what is read from a walk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pasidlab.views.iommu_words import EXPLAIN
from pasidlab.views.walk_table import stop_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pasidlab.hardware.iommu.contract import Stop, Walk

__all__ = ["Facts", "FaultBook", "FaultWords", "bit_names", "entry_name", "last_facts", "listed", "pointer_fact"]


class FaultWords(NamedTuple):
    """What was looked for, what was found, what a driver would have to do."""

    looked: str
    found: str
    driver: str


class FaultBook(NamedTuple):
    """What one family says of its faults: the ``words`` of a blocked walk, the ``facts`` for them, and the ``fate``:
    what becomes of a real request; ``meaning`` is that of a code alone.
    """

    words: Callable[[Walk], FaultWords]
    facts: Callable[[Walk], Mapping[str, object]]
    fate: Callable[[Walk], str]
    meaning: Callable[[int], str]


class Facts(dict[str, object]):
    """Facts for a sentence; one that the walk does not have reads as ``?``."""

    def __missing__(self, key: str) -> object:
        return "?"


def entry_name(stop: Stop) -> str:
    """A structure, its level, and where it is."""
    level = EXPLAIN["level"].format(level=stop.level) if stop.level is not None else ""
    return EXPLAIN["entry"].format(name=stop.name, level=level, address=f"{stop.address:#x}")


def pointer_fact(stop: Stop, names: tuple[str, ...]) -> dict[str, object]:
    """The first of these fields that holds an address."""
    fields = stop.fields()
    found = [name for name in names if fields.get(name)]
    return {"pointer": f"{found[0]}={fields[found[0]]:#x}"} if found else {}


def last_facts(walk: Walk) -> dict[str, object]:
    """The stop at which the fault was found: where, what, which words, which bits are set that must be zero."""
    at = len(walk.stops) - 1
    stop, bits = walk.stops[at], stop_bits(walk, at)
    wrong = bits.value & bits.must_be_zero
    facts: dict[str, object] = {"at": f"{stop.address:#x}", "entry": entry_name(stop), "bits": bit_names(wrong)}
    facts["word"] = " ".join(f"{word:#x}" for word in stop.words[: max(1, 1 + wrong.bit_length() // 64)])
    return facts


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
    return (EXPLAIN["bit-is"] if len(numbers) == 1 else EXPLAIN["bits-are"]).format(bits=listed(words))


def listed(words: list[str]) -> str:
    """Words with commas and a last "and".

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""
