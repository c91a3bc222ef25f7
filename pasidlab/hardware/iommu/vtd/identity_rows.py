"""The capability registers in words: what each field of VER, CAP and ECAP says about a unit.

Models nothing: it is the reading aid beside the registers that ``vtd_cap_reg`` and ``vtd_ecap_reg`` describe. Most
fields say yes or no; the others count something, and the table below says what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pasidlab.hardware.bits import Field

__all__ = ["CardRow", "card_row"]


class CardRow(NamedTuple):
    """One row of an identity card: ``says`` is its ``value`` in words, ``meaning`` what the field is about."""

    register: str
    name: str
    value: int | str
    says: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.register:>6} {self.name:<10} {self.says:<24} {self.meaning}"


def card_row(register: str, field: Field, raw: int) -> CardRow:
    """The row of one register field, which holds ``raw``.

    >>> from pasidlab.hardware.layouts.vtd import CAP_REG
    >>> print(card_row("CAP", CAP_REG["SAGAW"], 0b01100))
       CAP SAGAW      4 or 5 levels            second-level depths: bit 1 = 3, bit 2 = 4, bit 3 = 5 levels
    >>> card_row("CAP", CAP_REG["CM"], 0).says
    'no'
    """
    words = _WORDS.get(field.name)
    if words is None:
        words = _flag if field.width == 1 else str
    return CardRow(register, field.name, raw, words(raw), field.meaning)


def _flag(raw: int) -> str:
    return "yes" if raw else "no"


def _depths(raw: int) -> str:
    found = [str(bit + 2) for bit in (1, 2, 3) if raw >> bit & 1]
    return f"{' or '.join(found)} levels" if found else "none"


def _sizes(raw: int) -> str:
    return ", ".join(size for bit, size in enumerate(("2 MiB", "1 GiB")) if raw >> bit & 1) or "none"


def _offset(raw: int) -> str:
    return f"at offset {16 * raw:#x}"


def _version(raw: int) -> str:
    return f"version {raw >> 4}.{raw & 0xF}"


_WORDS: Final[dict[str, Callable[[int], str]]] = {
    "VER": _version,
    "ND": lambda raw: f"{1 << 4 + 2 * raw} domains",
    "SAGAW": _depths,
    "MGAW": lambda raw: f"{raw + 1} bits",
    "FRO": _offset,
    "SLLPS": _sizes,
    "NFR": lambda raw: f"{raw + 1} fault records" if raw else "1 fault record",
    "MAMV": lambda raw: f"up to 2^{raw} pages",
    "IRO": _offset,
    "MHMV": lambda raw: f"up to 2^{raw} entries",
    "PSS": lambda raw: f"{raw + 1} bits",
}
"""How a field that counts something is read aloud."""
