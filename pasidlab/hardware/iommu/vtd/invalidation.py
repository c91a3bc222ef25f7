"""Invalidation descriptors as the unit understands them: from words in the queue to a typed descriptor, or to an error.

Models the decoder behind the invalidation queue (IQH, IQT, IQA). Follows Linux 6.1 ``dmar.c``, intel/qemu-dcp and the
specification's section 6.5.2 (revision 5.10). An unknown type or a reserved bit stops the queue; so does what the unit
lacks: device-TLB descriptors without ECAP.DT, PFSID without ECAP.DIT, page-request drain without ECAP.PDS, pages of a
domain without CAP.PSI. The error numbers (IQEI) are those of section 11.4.9.9.

The specification wants 256-bit descriptors in scalable mode; the facts (and this unit) take 128-bit ones too, except
those that need the room.
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import NamedTuple

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.layouts.vtd_queue import (
    DESCRIPTORS,
    QI_CONTEXT_CACHE,
    QI_DEV_TLB,
    QI_IOTLB,
    QI_PAGE_GROUP_RESP,
    QI_PASID_CACHE,
    QI_PASID_DEV_TLB,
    QI_PIOTLB,
    QI_WAIT,
)
from pasidlab.hardware.pcie import format_rid

__all__ = ["Descriptor", "QueueError", "decode_descriptor"]

_BY_TYPE = {code: (layout, name) for code, layout, name in DESCRIPTORS}
_SOME_PAGES = 3
_RID_FIELDS = frozenset({"SID", "RID"})
_HIDDEN = frozenset({"TYPE", "TYPE_HI", "G", "MIP", "PFSID_LO", "PFSID_HI", "DW", "DR", "IH"})


@unique
class QueueError(IntEnum):
    """Why the invalidation queue stopped: the value of IQERR.IQEI."""

    UNKNOWN = 0
    """No information; older units say nothing else."""
    INVALID_TAIL = 1
    CANNOT_READ = 2
    INVALID_TYPE = 3
    RESERVED_BITS = 4
    INVALID_WIDTH = 5
    """IQA.DW asks for descriptors that the unit does not take in this mode."""
    TAIL_NOT_ALIGNED = 6
    INVALID_MODE = 7
    """RTADDR.TTM is invalid; not raised here."""


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


_NOTHING_LACKING = VtdIdentity()


def decode_descriptor(words: tuple[int, ...], identity: VtdIdentity = _NOTHING_LACKING) -> Descriptor | QueueError:
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
        return QueueError.INVALID_TYPE
    if layout in {QI_DEV_TLB, QI_PASID_DEV_TLB} and not identity.dt:
        return QueueError.INVALID_TYPE
    own = words[: layout.word_count]
    descriptor = Descriptor(code, name, layout, own)
    if layout.reserved(own) or any(words[layout.word_count :]) or not _fits(descriptor, identity):
        return QueueError.RESERVED_BITS
    return descriptor


def _fits(descriptor: Descriptor, identity: VtdIdentity) -> bool:
    """Whether granularity and optional fields are such that this unit knows them."""
    layout, fields = descriptor.layout, descriptor.fields()
    if layout.name in _WITH_SCOPE and (layout.name, fields["G"]) not in _SCOPES:
        return False
    if layout in (QI_IOTLB, QI_PIOTLB) and fields["G"] == _SOME_PAGES:
        return fields["AM"] <= identity.mamv and (identity.psi or layout is QI_PIOTLB)
    if layout is QI_WAIT:
        return identity.pds or not fields["PD"]
    return identity.dit or not (fields.get("PFSID_LO") or fields.get("PFSID_HI"))
