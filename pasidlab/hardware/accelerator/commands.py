"""What can be written to the command register, and what the command status register can answer.

Source: Linux ``drivers/dma/idxd/registers.h`` (enum idxd_cmd, enum idxd_cmdsts_err) and ``device.c`` (operands). The
two interrupt handle commands are for mediated devices, whose handles are entries of their parent's interrupt message
storage; silicon does not list them in its CMDCAP register, as there a handle is the number of an MSI-X vector.
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import Final

from pasidlab.hardware.layouts.dsa import CMD

__all__ = ["INTERRUPT_HANDLES", "Command", "CommandError", "command_word", "queue_bitmap", "queues_of"]


@unique
class Command(IntEnum):
    """Commands. The operand is nothing, a queue number, a queue bitmap, a PASID, an interrupt vector or a handle."""

    ENABLE_DEVICE = 1
    DISABLE_DEVICE = 2
    DRAIN_ALL = 3
    ABORT_ALL = 4
    RESET_DEVICE = 5
    ENABLE_WQ = 6
    DISABLE_WQ = 7
    DRAIN_WQ = 8
    ABORT_WQ = 9
    RESET_WQ = 10
    DRAIN_PASID = 11
    ABORT_PASID = 12
    REQUEST_INT_HANDLE = 13
    RELEASE_INT_HANDLE = 14


INTERRUPT_HANDLES: Final = (Command.REQUEST_INT_HANDLE, Command.RELEASE_INT_HANDLE)
"""Commands that only a mediated device has."""


@unique
class CommandError(IntEnum):
    """Error codes of the command status register."""

    SUCCESS = 0x00
    INVAL_CMD = 0x01
    INVAL_WQIDX = 0x02
    HW_ERR = 0x03
    DEV_ENABLED = 0x10
    CONFIG = 0x11
    BUSMASTER_EN = 0x12
    PASID_INVAL = 0x13
    WQ_SIZE_ERANGE = 0x14
    GRP_CONFIG = 0x15
    GRP_CONFIG2 = 0x16
    GRP_CONFIG3 = 0x17
    GRP_CONFIG4 = 0x18
    DEV_NOTEN = 0x20
    WQ_ENABLED = 0x21
    WQ_SIZE = 0x22
    WQ_PRIOR = 0x23
    WQ_MODE = 0x24
    BOF_EN = 0x25
    PASID_EN = 0x26
    MAX_BATCH_SIZE = 0x27
    MAX_XFER_SIZE = 0x28
    DIS_DEV_EN = 0x31
    DEV_NOT_EN = 0x32
    INVAL_INT_IDX = 0x41
    NO_HANDLE = 0x42


def command_word(command: Command, operand: int = 0) -> int:
    """The value that a driver writes to the command register.

    >>> hex(command_word(Command.DRAIN_PASID, 0x1234))
    '0xb01234'
    """
    return CMD.encode(cmd=command, operand=operand)[0]


def queue_bitmap(wq: int) -> int:
    """The operand that names one queue in disable, drain, abort and reset: one bit of 16, and which sixteen.

    >>> hex(queue_bitmap(3)), hex(queue_bitmap(17))
    ('0x8', '0x10002')
    """
    return 1 << wq % 16 | wq // 16 << 16


def queues_of(operand: int) -> list[int]:
    """The queues that a bitmap operand names (the inverse of :func:`queue_bitmap`, for any number of bits).

    >>> queues_of(0x10003)
    [16, 17]
    """
    return [16 * (operand >> 16) + bit for bit in range(16) if operand >> bit & 1]
