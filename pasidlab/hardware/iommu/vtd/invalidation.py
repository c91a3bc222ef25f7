"""Invalidation descriptors as the unit understands them: from words in the queue to a typed descriptor, or to an error.

Models the decoder behind the invalidation queue (IQH, IQT, IQA). Follows Linux 6.1 ``dmar.c`` and intel/qemu-dcp. An
unknown type or a reserved bit stops the queue. UNVERIFIED: the numbers of the errors (IQEI).
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import NamedTuple

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.layouts.vtd_queue import (
    DESCRIPTORS,
    QI_CONTEXT_CACHE,
    QI_IOTLB,
    QI_PAGE_GROUP_RESP,
    QI_PASID_CACHE,
    QI_PIOTLB,
)
from pasidlab.hardware.pcie import format_rid

__all__ = ["Descriptor", "QueueError", "decode_descriptor"]

_BY_TYPE = {code: (layout, name) for code, layout, name in DESCRIPTORS}
_RID_FIELDS = frozenset({"SID", "RID"})
_HIDDEN = frozenset({"TYPE", "TYPE_HI", "G", "MIP", "PFSID_LO", "PFSID_HI", "DW", "DR", "IH"})


@unique
class QueueError(IntEnum):
    """Why the invalidation queue stopped: the value of IQERR.IQEI (UNVERIFIED)."""

    UNKNOWN = 0
    INVALID_TAIL = 1
    CANNOT_READ = 2
    INVALID_TYPE = 3
    RESERVED_BITS = 4
    INVALID_WIDTH = 5
    TAIL_NOT_ALIGNED = 6


class Descriptor(NamedTuple):
    """One descriptor from the queue.

    >>> words = QI_PASID_CACHE.encode(TYPE=7, G=1, DID=5, PASID=4660)
    >>> descriptor = decode_descriptor(words)
    >>> str(descriptor), descriptor.field("PASID"), descriptor.layout is QI_PASID_CACHE
    ('PASID cache: one PASID, DID=0x5 PASID=0x1234', 4660, True)
    """

    type: int
    name: str
    layout: Layout
    words: tuple[int, ...]

    def field(self, name: str) -> int:
        """The value of one field."""
        return self.layout[name].get(self.words)

    def fields(self) -> dict[str, int]:
        """All field values by name."""
        return self.layout.decode(self.words)

    def __str__(self) -> str:
        scope = _SCOPES.get((self.layout.name, self.fields().get("G", 0)))
        values = [
            f"{field.name}={format_rid(value) if field.name in _RID_FIELDS else hex(value)}"
            for field, value in self.layout.explain(self.words)
            if value and field.name not in _HIDDEN
        ]
        return f"{self.name}: {', '.join(filter(None, (scope, ' '.join(values))))}".removesuffix(": ")


_SCOPES = {
    (QI_CONTEXT_CACHE.name, 1): "everything",
    (QI_CONTEXT_CACHE.name, 2): "a domain",
    (QI_CONTEXT_CACHE.name, 3): "a device",
    (QI_IOTLB.name, 1): "everything",
    (QI_IOTLB.name, 2): "a domain",
    (QI_IOTLB.name, 3): "pages of a domain",
    (QI_PIOTLB.name, 2): "all pages of a PASID",
    (QI_PIOTLB.name, 3): "some pages of a PASID",
    (QI_PASID_CACHE.name, 0): "all PASIDs of a domain",
    (QI_PASID_CACHE.name, 1): "one PASID",
    (QI_PASID_CACHE.name, 3): "everything",
}
"""What the granularity field of a descriptor means; a value that is not listed is reserved."""

_WITH_SCOPE = frozenset(name for name, _ in _SCOPES)


def decode_descriptor(words: tuple[int, ...]) -> Descriptor | QueueError:
    """The descriptor in ``words`` (two in a 128-bit queue, four in a 256-bit one), or why there is none.

    >>> decode_descriptor((0xF, 0))
    <QueueError.INVALID_TYPE: 3>
    """
    code = words[0] & 0xF | (words[0] >> 9 & 7) << 4
    known = _BY_TYPE.get(code)
    if known is None:
        return QueueError.INVALID_TYPE
    layout, name = known
    if layout is QI_PAGE_GROUP_RESP and len(words) == 2:
        return QueueError.INVALID_WIDTH
    own = words[: layout.word_count]
    if layout.reserved(own) or any(words[layout.word_count :]):
        return QueueError.RESERVED_BITS
    descriptor = Descriptor(code, name, layout, own)
    if layout.name in _WITH_SCOPE and (layout.name, descriptor.field("G")) not in _SCOPES:
        return QueueError.RESERVED_BITS
    return descriptor
