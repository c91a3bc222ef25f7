"""Why an SMMU blocks a transaction: the events that it records, as a table.

Models the event numbers of chapter 7.3 of the specification (IHI 0070), which Linux 6.1 ``arm-smmu-v3.h`` and QEMU's
``hw/arm/smmuv3-internal.h`` have too. :class:`Blocked` is what a look-up or a walk ends in: the event, and what its
record says beside the transaction itself (stage, class, intermediate address, the address that could not be read).

Four numbers are known and never raised here: F_TLB_CONFLICT and F_CFG_CONFLICT (caches that hold two lines for one
tag; these do not), E_PAGE_REQUEST (a hint that hardware may give before a page request) and F_VMS_FETCH (the structure
for memory partitioning is left out).
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import Final, NamedTuple

__all__ = ["Blocked", "FaultClass", "SmmuEvent"]


class SmmuEvent(IntEnum):
    """One event: its number is the value, ``meaning`` says it in words.

    >>> event = SmmuEvent.of(0x10)
    >>> event.name, event.by_walk, event.meaning
    ('F_TRANSLATION', True, 'no valid translation for the address')
    """

    meaning: str

    def __new__(cls, code: int, meaning: str) -> SmmuEvent:
        """A row of the table below."""
        event = int.__new__(cls, code)
        event._value_ = code
        event.meaning = meaning
        return event

    @classmethod
    def of(cls, code: int) -> SmmuEvent:
        """The event with this number; a number that is in no table is a ``KeyError``."""
        return _BY_CODE[code]

    @property
    def by_walk(self) -> bool:
        """Whether a translation itself failed, and not the way to it: CD.R, CD.S and STE.S2R decide about these."""
        return SmmuEvent.F_TRANSLATION <= self <= SmmuEvent.F_PERMISSION

    F_UUT = 0x01, "the transaction is of a kind that the unit does not support"
    C_BAD_STREAMID = 0x02, "the stream table has no entry for this StreamID"
    F_STE_FETCH = 0x03, "the stream table entry cannot be read"
    C_BAD_STE = 0x04, "the stream table entry is not valid, or contradicts itself or the unit"
    F_BAD_ATS_TREQ = 0x05, "the stream may not send translation requests (ATS)"
    F_STREAM_DISABLED = 0x06, "S1DSS forbids transactions without SubstreamID, or with SubstreamID 0"
    F_TRANSL_FORBIDDEN = 0x07, "the stream may not send translated requests (ATS)"
    C_BAD_SUBSTREAMID = 0x08, "there is no context descriptor for this SubstreamID, or none at all"
    F_CD_FETCH = 0x09, "the context descriptor cannot be read"
    C_BAD_CD = 0x0A, "the context descriptor is not valid, or contradicts itself or the unit"
    F_WALK_EABT = 0x0B, "a page-table entry cannot be read"

    F_TRANSLATION = 0x10, "no valid translation for the address"
    F_ADDR_SIZE = 0x11, "an address is wider than the stage may put out"
    F_ACCESS = 0x12, "the access flag of the page is not set"
    F_PERMISSION = 0x13, "the page does not allow this access"

    F_TLB_CONFLICT = 0x20, "two TLB entries match the address"
    F_CFG_CONFLICT = 0x21, "two cached configurations match the stream"
    E_PAGE_REQUEST = 0x24, "hint: a page request is to be expected"
    F_VMS_FETCH = 0x25, "the structure for memory partitioning cannot be read"


_BY_CODE = {int(event): event for event in SmmuEvent}


@unique
class FaultClass(IntEnum):
    """Which access of the unit a translation fault concerns (CLASS in the record)."""

    CD = 0
    """Reading a context descriptor, which lies in intermediate physical memory."""
    TT = 1
    """Reading a stage-1 table, which lies there too."""
    IN = 2
    """The address of the transaction itself, or what stage 1 made of it."""


class Blocked(NamedTuple):
    """Why a transaction does not pass.

    ``event`` is ``None`` where the specification wants no record at all (Config 0, GBPA.ABORT). ``klass``, ``s2`` and
    ``ipa`` stand in the record of a translation fault, ``fetch`` in that of a fetch that failed. ``silent``: an entry
    or register asked not to record it. ``stall``: the context descriptor asks for the transaction to be held.
    """

    event: SmmuEvent | None
    klass: FaultClass = FaultClass.CD
    s2: bool = False
    ipa: int = 0
    fetch: int = 0
    silent: bool = False
    stall: bool = False

    @property
    def name(self) -> str:
        """What people call it."""
        return self.event.name if self.event is not None else "ABORT"

    @property
    def meaning(self) -> str:
        """Why, in words, with the access that it concerns."""
        if self.event is None:
            return _ABORT
        return self.event.meaning + (_WHERE[self.s2, self.klass] if self.event.by_walk else "")


_ABORT: Final = "the stream, or the switched-off unit, is told to block everything without a record"
_WHERE: Final = {
    (False, FaultClass.CD): "",
    (False, FaultClass.TT): "",
    (False, FaultClass.IN): " (stage 1)",
    (True, FaultClass.CD): " (stage 2, reading the context descriptor)",
    (True, FaultClass.TT): " (stage 2, reading a stage-1 table)",
    (True, FaultClass.IN): " (stage 2)",
}
