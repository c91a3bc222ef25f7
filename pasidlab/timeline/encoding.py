"""Stable bytes for every value that a cell may hold, and the hash of a cell.

Python's own ``hash`` differs between runs for text; a saved run must replay to the same digest on any machine, so
values are written out by type. A type that is not listed is refused: that is how a list or dict which escaped the
journal shows.
"""

from __future__ import annotations

from enum import Enum
from hashlib import blake2b

__all__ = ["cell_hash", "encode"]


def encode(value: object) -> bytes:
    """The bytes that stand for ``value``; equal values have equal bytes.

    >>> encode((1, "a", None))
    b'(i1,s1:a,n,)'
    """
    if value is None:
        return b"n"
    if isinstance(value, Enum):
        return b"e" + f"{type(value).__name__}.{value.name}".encode()
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, int):
        return b"i%d" % value
    if isinstance(value, str):
        text = value.encode()
        return b"s%d:%b" % (len(text), text)
    if isinstance(value, bytes):
        return b"b%d:%b" % (len(value), value)
    if isinstance(value, tuple):
        return b"(" + b"".join(encode(item) + b"," for item in value) + b")"
    if isinstance(value, frozenset):
        return b"{" + b"".join(sorted(encode(item) + b"," for item in value)) + b"}"
    path = getattr(value, "path", None)
    if isinstance(path, str):
        text = path.encode()
        return b"@%d:%b" % (len(text), text)
    raise TypeError(f"a journaled value must be immutable or have a path, not {type(value).__name__}: {value!r}")


def cell_hash(path: str, key: object, value: object) -> int:
    """128 bits for the cell ``key`` of the container at ``path`` holding ``value``."""
    data = b"%b\0%b\0%b" % (path.encode(), encode(key), encode(value))
    return int.from_bytes(blake2b(data, digest_size=16).digest(), "little")
