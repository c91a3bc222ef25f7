"""Bit layouts as data: name, bits, meaning, source. Encoding, decoding and reserved-bit checks are derived from them.

A :class:`Layout` describes one in-memory structure or register as a sequence of little-endian 64-bit words (one 32-bit
word when it is 4 bytes long). Bit numbers are global: bit 64 is bit 0 of the second word. A field with ``shift`` holds
the address shifted right by that amount; it is given and returned as the full address.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Field", "FieldValue", "Layout"]

_WORD = (1 << 64) - 1


class Field:
    """One named group of bits, ``msb`` down to ``lsb``.

    >>> field = Field("PGTT", 6, 8, "translation type")
    >>> field.get((0x45,)), field.put(2)
    (1, 128)
    """

    __slots__ = ("_index", "_last", "_mask", "_offset", "lsb", "meaning", "msb", "name", "shift")

    def __init__(self, name: str, lsb: int, msb: int, meaning: str, shift: int = 0) -> None:
        if not 0 <= lsb <= msb:
            raise ValueError(f"{name}: lsb must be between 0 and msb, not {lsb} with msb {msb}")
        self.name, self.lsb, self.msb, self.meaning, self.shift = name, lsb, msb, meaning, shift
        self._index, self._offset = divmod(lsb, 64)
        self._last = msb // 64
        self._mask = (1 << self.width) - 1

    @property
    def width(self) -> int:
        """How many bits."""
        return self.msb - self.lsb + 1

    @property
    def mask(self) -> int:
        """The field's bits, in place, as a mask over the whole structure."""
        return self._mask << self.lsb

    def get(self, words: Sequence[int]) -> int:
        """The field's value out of the structure's words."""
        first = self._index
        value = words[first] >> self._offset
        for index in range(first + 1, self._last + 1) if self._last != first else ():
            value |= words[index] << 64 * (index - first) - self._offset
        return (value & self._mask) << self.shift

    def put(self, value: int) -> int:
        """``value`` moved to its place in the structure (one big integer); a value that does not fit is an error."""
        raw = value >> self.shift
        if value < 0 or raw > self._mask or raw << self.shift != value:
            unit = f" and a multiple of {1 << self.shift:#x}" if self.shift else ""
            raise ValueError(f"{self.name} must be at most {self._mask << self.shift:#x}{unit}, not {value:#x}")
        return raw << self.lsb

    def __repr__(self) -> str:
        bits = f"{self.msb}:{self.lsb}" if self.msb != self.lsb else str(self.lsb)
        return f"<Field {self.name} {bits}>"


class FieldValue(NamedTuple):
    """A field and the value it has in some words."""

    field: Field
    value: int


class Layout:
    """A structure that hardware reads: ``size`` bytes, its fields, and where this is written down.

    >>> fields = (Field("P", 0, 0, "present"), Field("PTR", 12, 63, "next table", 12))
    >>> entry = Layout("demo_entry", 8, fields, "an example")
    >>> entry.encode(P=1, PTR=0x5000), entry.decode((0x5001,))
    ((20481,), {'P': 1, 'PTR': 20480})
    >>> hex(entry.reserved((0x5801,)))
    '0x800'
    """

    def __init__(self, name: str, size: int, fields: Sequence[Field], source: str, note: str = "") -> None:
        self.name = name
        self.size = size
        self.fields = tuple(fields)
        self.source = source
        self.note = note
        self.word_bits = 32 if size == 4 else 64
        self.word_count = max(1, size // 8)
        self._by_name = {field.name: field for field in self.fields}
        known = 0
        for field in self.fields:
            if field.mask & known or field.msb >= size * 8:
                raise ValueError(f"{name}.{field.name} overlaps another field or lies outside {size} bytes")
            known |= field.mask
        self.reserved_mask = ((1 << size * 8) - 1) & ~known

    def __getitem__(self, name: str) -> Field:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def encode(self, **values: int) -> tuple[int, ...]:
        """The words of a structure with these field values; fields not named are zero."""
        whole = 0
        for name, value in values.items():
            field = self._by_name.get(name)
            if field is None:
                raise ValueError(f"{self.name} has no field {name!r}; it has {', '.join(self._by_name)}")
            whole |= field.put(value)
        return self.split(whole)

    def change(self, words: Sequence[int], **values: int) -> tuple[int, ...]:
        """``words`` with these fields replaced and every other bit kept."""
        whole = self.join(words)
        for name, value in values.items():
            field = self._by_name[name]
            whole = (whole & ~field.mask) | field.put(value)
        return self.split(whole)

    def decode(self, words: Sequence[int]) -> dict[str, int]:
        """Field values by name."""
        return {field.name: field.get(words) for field in self.fields}

    def explain(self, words: Sequence[int]) -> list[FieldValue]:
        """Every field with its value, lowest bits first."""
        return [FieldValue(field, field.get(words)) for field in sorted(self.fields, key=lambda field: field.lsb)]

    def reserved(self, words: Sequence[int]) -> int:
        """The bits that are set and belong to no field, in place."""
        return self.join(words) & self.reserved_mask

    def join(self, words: Sequence[int]) -> int:
        """The words as one integer; the number of words must be the layout's."""
        if len(words) != self.word_count:
            raise ValueError(f"{self.name} must have {self.word_count} words, not {len(words)}")
        whole = 0
        for index, word in enumerate(words):
            if not 0 <= word <= (_WORD if self.word_bits == 64 else 0xFFFF_FFFF):
                raise ValueError(f"a word of {self.name} must have {self.word_bits} bits, not {word:#x}")
            whole |= word << (index * self.word_bits)
        return whole

    def split(self, whole: int) -> tuple[int, ...]:
        """One integer as the structure's words."""
        if self.word_bits == 32:
            return (whole & 0xFFFF_FFFF,)
        return tuple(whole >> (64 * index) & _WORD for index in range(self.word_count))

    def to_bytes(self, words: Sequence[int]) -> bytes:
        """The words as they lie in memory (little-endian)."""
        return self.join(words).to_bytes(self.size, "little")

    def from_bytes(self, data: bytes) -> tuple[int, ...]:
        """The words of a structure that lies in memory as ``data``; the length must be the layout's size."""
        if len(data) != self.size:
            raise ValueError(f"{self.name} must have {self.size} bytes, not {len(data)}")
        return self.split(int.from_bytes(data, "little"))

    def __repr__(self) -> str:
        return f"<Layout {self.name}, {self.size} bytes>"
