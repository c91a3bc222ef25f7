"""Why an AMD IOMMU blocks a request: the event codes of its log, the flags beside them, and the reasons behind them.

Models the event types of the log (codes of Linux 6.1 ``amd_iommu_types.h``, facts/hardware.md 4.2) and their flags. The
flags word stands in bits 59:48 of an entry; that GN, NX, US, I, PR, RW, PE, RZ, TR are its bits 0 to 8 is how AMD's own
driver reads it (realdata/amd_event), the type of hardware errors (bits 10:9) and of invalid requests (bits 11:9) are
those of specification 48882. One code stands for many reasons: the table of :class:`Reason` says which flags tell them
apart.

UNVERIFIED, taken from the meaning of the flags in the specification (from memory), where the facts are silent:

* which event a missing GCR3 entry raises: IO_PAGE_FAULT with GN=1 and PR=0 (the facts assume the same);
* a PASID that cannot be looked up (GV=0, beyond the GCR3 levels or PASmax): the same;
* TV=0, and an access that IR or IW of the device table entry forbid: IO_PAGE_FAULT with PR=0, which is what logs of
  blocked devices show (flags=0x0000 and 0x0020);
* a device beyond the table, and values of Mode, GLX or GPTMode that the unit lacks: ILLEGAL_DEV_TABLE_ENTRY with RZ=0;
* an illegal level: IO_PAGE_FAULT with PR=1, PE=0, RZ=0 (in real logs: flags=0x0030);
* a translation request of a device with I=0: INVALID_DEVICE_REQUEST type 7;
* memory that no one answers for: type 1, master abort.

Left out: RMP events (SEV-SNP), which the decoder of log lines knows by name only.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag, unique
from typing import Final

__all__ = ["TYPE_SHIFT", "EventCode", "Flag", "Reason"]

TYPE_SHIFT: Final = 9
"""Where the type of an error stands in the flags word."""


@unique
class EventCode(IntEnum):
    """The type of an event in the log, with its meaning.

    >>> EventCode(2).name, EventCode(2).meaning
    ('IO_PAGE_FAULT', 'the tables do not let the request pass')
    """

    meaning: str

    def __new__(cls, code: int, meaning: str) -> EventCode:
        """A row of the table below."""
        event = int.__new__(cls, code)
        event._value_ = code
        event.meaning = meaning
        return event

    ILLEGAL_DEV_TABLE_ENTRY = 0x1, "the device table entry cannot be used"
    IO_PAGE_FAULT = 0x2, "the tables do not let the request pass"
    DEV_TAB_HARDWARE_ERROR = 0x3, "the device table cannot be read"
    PAGE_TAB_HARDWARE_ERROR = 0x4, "a page table or GCR3 table cannot be read or written"
    ILLEGAL_COMMAND_ERROR = 0x5, "a command is unknown or has a reserved bit set"
    COMMAND_HARDWARE_ERROR = 0x6, "the command buffer cannot be read, or a completion cannot be stored"
    IOTLB_INV_TIMEOUT = 0x7, "a device did not answer an invalidation"
    INVALID_DEVICE_REQUEST = 0x8, "the device may not send such a request"
    INVALID_PPR_REQUEST = 0x9, "the device may not ask for pages"
    RMP_PAGE_FAULT = 0xD, "the reverse map does not let the request pass (SEV-SNP)"
    RMP_HW_ERROR = 0xE, "the reverse map cannot be read (SEV-SNP)"


class Flag(IntFlag):
    """The flags of an event, from bit 48 of the entry on."""

    GN = 1
    """The address is a guest's and a PASID stands beside it; else the number is a domain id."""
    NX = 2
    """An execute request."""
    US = 4
    """A user request (of those with PASID)."""
    INTERRUPT = 8
    """I: an interrupt, not a memory request."""
    PR = 0x10
    """The page is present: it was denied for another reason."""
    RW = 0x20
    """A write."""
    PE = 0x40
    """The page does not give this permission."""
    RZ = 0x80
    """A reserved bit is set; else (with PR) an illegal level."""
    TR = 0x100
    """A translation request (ATS)."""


_MASTER_ABORT: Final = 1 << TYPE_SHIFT
_GUEST: Final = int(Flag.GN)
_DENIED: Final = int(Flag.PR | Flag.PE)
_RESERVED: Final = int(Flag.PR | Flag.RZ)


@unique
class Reason(IntEnum):
    """One reason: the ``code`` of its event, the ``flags`` that belong to it (GN: a PASID is told, and the address as
    the device sent it), its ``meaning`` in words.

    ``recoverable`` reasons do not block a translation request (ATS): it is answered without the right.

    >>> reason = Reason.GCR3_ABSENT
    >>> reason.code.name, hex(reason.flags), reason.meaning, reason.recoverable
    ('IO_PAGE_FAULT', '0x1', 'the GCR3 entry of the PASID is not valid', True)
    """

    code: EventCode
    flags: int
    meaning: str

    def __new__(cls, number: int, code: EventCode, flags: int, meaning: str) -> Reason:
        """A row of the table below; the number has no meaning of its own."""
        reason = int.__new__(cls, number)
        reason._value_ = number
        reason.code, reason.flags, reason.meaning = code, flags, meaning
        return reason

    @classmethod
    def of(cls, number: int) -> Reason:
        """The reason with this number; a number that is in no table is a ``KeyError``."""
        return _BY_NUMBER[number]

    @property
    def recoverable(self) -> bool:
        """Whether software may mend the tables and the device may try again."""
        return self.code is EventCode.IO_PAGE_FAULT and not self.flags & Flag.RZ

    DTE_UNREADABLE = 1, EventCode.DEV_TAB_HARDWARE_ERROR, _MASTER_ABORT, "the device table entry cannot be read"
    DTE_OUTSIDE = 2, EventCode.ILLEGAL_DEV_TABLE_ENTRY, 0, "the device table does not reach to this device"
    DTE_RESERVED = (
        *(3, EventCode.ILLEGAL_DEV_TABLE_ENTRY, int(Flag.RZ)),
        "the device table entry has a reserved bit set",
    )
    DTE_LEVEL = (
        *(4, EventCode.ILLEGAL_DEV_TABLE_ENTRY, 0),
        "the device table entry asks for levels (Mode, GLX, GPTMode) that the unit does not have",
    )
    NOT_TRANSLATED = 5, EventCode.IO_PAGE_FAULT, 0, "the translation fields of the device table entry are not valid"
    DTE_DENIED = 6, EventCode.IO_PAGE_FAULT, 0, "the device table entry does not allow this access (IR, IW)"
    BEYOND = 7, EventCode.IO_PAGE_FAULT, 0, "the address has more bits than a physical address"

    NO_PASIDS = 10, EventCode.IO_PAGE_FAULT, _GUEST, "the device has no guest translation (GV=0, or GTEn=0)"
    PASID_BEYOND = 11, EventCode.IO_PAGE_FAULT, _GUEST, "the PASID lies beyond the GCR3 table, or beyond PASmax"
    GCR3_ABSENT = 12, EventCode.IO_PAGE_FAULT, _GUEST, "the GCR3 entry of the PASID is not valid"
    GCR3_RESERVED = 13, EventCode.IO_PAGE_FAULT, _GUEST | _RESERVED, "a GCR3 entry has a reserved bit set"
    GCR3_UNREADABLE = (
        *(14, EventCode.PAGE_TAB_HARDWARE_ERROR, _GUEST | _MASTER_ABORT),
        "a GCR3 table cannot be read",
    )

    GUEST_NOT_CANONICAL = 20, EventCode.IO_PAGE_FAULT, _GUEST, "the address is not canonical for the guest table"
    GUEST_ABSENT = 21, EventCode.IO_PAGE_FAULT, _GUEST, "a guest entry is not present"
    GUEST_DENIED = 22, EventCode.IO_PAGE_FAULT, _GUEST | _DENIED, "the guest table does not allow this access"
    GUEST_RESERVED = 23, EventCode.IO_PAGE_FAULT, _GUEST | _RESERVED, "a guest entry has a reserved bit set"
    GUEST_UNREADABLE = (
        *(24, EventCode.PAGE_TAB_HARDWARE_ERROR, _GUEST | _MASTER_ABORT),
        "a guest table cannot be read or written",
    )

    HOST_BEYOND = 30, EventCode.IO_PAGE_FAULT, 0, "the address lies beyond what the host table translates"
    HOST_ABSENT = 31, EventCode.IO_PAGE_FAULT, 0, "a host entry is not present"
    HOST_DENIED = 32, EventCode.IO_PAGE_FAULT, _DENIED, "the host table does not allow this access"
    HOST_LEVEL = 33, EventCode.IO_PAGE_FAULT, int(Flag.PR), "a host entry names an illegal level or page size"
    HOST_RESERVED = 34, EventCode.IO_PAGE_FAULT, _RESERVED, "a host entry has a reserved bit set"
    HOST_UNREADABLE = (
        *(35, EventCode.PAGE_TAB_HARDWARE_ERROR, _MASTER_ABORT),
        "a host table cannot be read or written",
    )

    INTERRUPT_READ = (
        *(40, EventCode.INVALID_DEVICE_REQUEST, 0),
        "a read, or an atomic access, in the interrupt range 0xFEExxxxx",
    )
    NOT_ALLOWED_TRANSLATED = (
        *(41, EventCode.INVALID_DEVICE_REQUEST, 1 << TYPE_SHIFT),
        "the device may not send translated requests (I=0, or V=0)",
    )
    INTERRUPT_WRITE = (
        *(42, EventCode.INVALID_DEVICE_REQUEST, 5 << TYPE_SHIFT),
        "a memory write in the interrupt range 0xFEExxxxx",
    )
    NO_ATS = (
        *(43, EventCode.INVALID_DEVICE_REQUEST, 7 << TYPE_SHIFT),
        "the device may not ask for translations (I=0, or V=0)",
    )
    SWITCHED_OFF = (
        *(44, EventCode.INVALID_DEVICE_REQUEST, 7 << TYPE_SHIFT),
        "the unit translates nothing (IommuEn=0): nobody may ask for translations, or use them",
    )
    NO_PAGE_REQUESTS = 50, EventCode.INVALID_PPR_REQUEST, 0, "the device may not ask for pages (PPR=0, or GV=0)"


_BY_NUMBER: Final = {int(reason): reason for reason in Reason}
