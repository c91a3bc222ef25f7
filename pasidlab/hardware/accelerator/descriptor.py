"""Work descriptors and completion records: 64 bytes in, 32 bytes out.

Source: Linux ``include/uapi/linux/idxd.h``. A descriptor travels through a portal and waits in a queue as its 64
bytes; :class:`Descriptor` is what the engine reads from them, and what a driver builds them with.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag, unique
from typing import NamedTuple

from pasidlab.hardware.layouts.dsa import COMPLETION, HW_DESC

__all__ = ["Completion", "CompletionStatus", "Descriptor", "Flag", "Opcode", "opcode_name"]


@unique
class Opcode(IntEnum):
    """Operations that descriptors can ask for; the device's OPCAP register lists those that it has."""

    NOOP = 0x00
    BATCH = 0x01
    DRAIN = 0x02
    MEMMOVE = 0x03
    MEMFILL = 0x04
    COMPARE = 0x05
    COMPVAL = 0x06
    CR_DELTA = 0x07
    AP_DELTA = 0x08
    DUALCAST = 0x09
    CRCGEN = 0x10
    COPY_CRC = 0x11
    DIF_CHECK = 0x12
    DIF_INS = 0x13
    DIF_STRP = 0x14
    DIF_UPDT = 0x15
    CFLUSH = 0x20


class Flag(IntFlag):
    """Descriptor flags (those that the model knows; others are carried and ignored)."""

    FENCE = 0x01
    BOF = 0x02
    CRAV = 0x04
    RCR = 0x08
    RCI = 0x10
    CRSTS = 0x20


@unique
class CompletionStatus(IntEnum):
    """Status of a completion record; the codes from 0x10 on also serve as error codes of the SWERR register.

    A record lies in memory, where anything may be: a value that is no status has its number for a name.

    >>> CompletionStatus(1).name, CompletionStatus(0x27).name
    ('SUCCESS', 'status 0x27')
    """

    NONE = 0x00
    SUCCESS = 0x01
    SUCCESS_PRED = 0x02
    PAGE_FAULT_NOBOF = 0x03
    PAGE_FAULT_IR = 0x04
    BATCH_FAIL = 0x05
    BATCH_PAGE_FAULT = 0x06
    DR_OFFSET_NOINC = 0x07
    DR_OFFSET_ERANGE = 0x08
    DIF_ERR = 0x09
    BAD_OPCODE = 0x10
    INVALID_FLAGS = 0x11
    NOZERO_RESERVE = 0x12
    XFER_ERANGE = 0x13
    DESC_CNT_ERANGE = 0x14
    DR_ERANGE = 0x15
    OVERLAP_BUFFERS = 0x16
    DCAST_ERR = 0x17
    DESCLIST_ALIGN = 0x18
    INT_HANDLE_INVAL = 0x19
    CRA_XLAT = 0x1A
    CRA_ALIGN = 0x1B
    ADDR_ALIGN = 0x1C
    PRIV_BAD = 0x1D
    TRAFFIC_CLASS_CONF = 0x1E
    PFAULT_RDBA = 0x1F
    HW_ERR1 = 0x20
    HW_ERR_DRB = 0x21
    TRANSLATION_FAIL = 0x22

    @classmethod
    def _missing_(cls, value: object) -> CompletionStatus | None:
        if not isinstance(value, int) or not 0 <= value < 1 << COMPLETION["status"].width:
            return None
        strange = int.__new__(cls, value)
        strange._name_, strange._value_ = f"status {value:#x}", value
        return strange


class Descriptor(NamedTuple):
    """One unit of work.

    >>> wanted = Flag.CRAV | Flag.RCR
    >>> copy = Descriptor(Opcode.MEMMOVE, src=0x2000, dst=0x3000, size=64, completion_addr=0x1000, flags=wanted)
    >>> Descriptor.from_bytes(copy.to_bytes()) == copy, len(copy.to_bytes())
    (True, 64)
    """

    opcode: int
    src: int = 0
    dst: int = 0
    size: int = 0
    completion_addr: int = 0
    flags: int = 0
    pasid: int = 0
    priv: int = 0
    int_handle: int = 0
    int_table: int = 0
    op_specific: int = 0
    rsvd: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> Descriptor:
        """Read 64 bytes."""
        return cls(**HW_DESC.decode(HW_DESC.from_bytes(data)))

    def to_bytes(self) -> bytes:
        """The 64 bytes."""
        return HW_DESC.to_bytes(HW_DESC.encode(**self._asdict()))


class Completion(NamedTuple):
    """How a descriptor ended.

    >>> record = Completion(CompletionStatus.PAGE_FAULT_NOBOF, bytes_completed=4096, fault_addr=0x5000, write=1)
    >>> record.to_bytes()[:8].hex()
    '8300000000100000'
    """

    status: int
    result: int = 0
    bytes_completed: int = 0
    fault_addr: int = 0
    write: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> Completion:
        """Read 32 bytes (what a driver polls for: a status other than 0)."""
        fields = COMPLETION.decode(COMPLETION.from_bytes(data))
        return cls(**{name: fields[name] for name in cls._fields})

    def to_bytes(self) -> bytes:
        """The 32 bytes."""
        return COMPLETION.to_bytes(COMPLETION.encode(**self._asdict()))


def opcode_name(opcode: int) -> str:
    """The operation's name, or its number for people.

    >>> opcode_name(3), opcode_name(0x77)
    ('MEMMOVE', 'opcode 0x77')
    """
    return Opcode(opcode).name if opcode in Opcode._value2member_map_ else f"opcode {opcode:#x}"
