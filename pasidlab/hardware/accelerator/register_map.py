"""Where the accelerator's registers and portals lie in its two BARs.

Source: Linux ``drivers/dma/idxd/registers.h`` and ``idxd.h`` (portal offsets). The tables that BAR0 0x60 points to may
lie anywhere; the places chosen here leave room for 128 queues.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BAR0_SIZE",
    "CMD",
    "CMDCAP",
    "CMDSTS",
    "GENCAP",
    "GENSTS",
    "IMS",
    "IMS_ENTRIES",
    "INTERRUPT_STRIDE",
    "MAX_QUEUES",
    "MESSAGES_SIZE",
    "MSIX_PBA",
    "MSIX_PERM",
    "MSIX_PERM_STRIDE",
    "MSIX_TABLE",
    "OFFSETS",
    "OPCAP",
    "PORTAL_IMS",
    "PORTAL_LIMITED",
    "PORTAL_PAGE",
    "PORTAL_STRIDE",
    "PORTAL_UNLIMITED",
    "SWERR",
    "TABLE_UNIT",
    "VERSION",
    "VERSION_1",
    "WQCAP",
    "WQCFG",
    "WQCFG_STRIDE",
    "portal_offset",
    "wqcfg_offset",
]

VERSION: Final = 0x00
VERSION_1: Final = 0x100
"""What the version register of this device says."""
GENCAP: Final = 0x10
WQCAP: Final = 0x20
OPCAP: Final = 0x40
OFFSETS: Final = 0x60
GENSTS: Final = 0x90
CMD: Final = 0xA0
CMDSTS: Final = 0xA8
CMDCAP: Final = 0xB0
SWERR: Final = 0xC0

TABLE_UNIT: Final = 0x100
"""The offsets register counts in this unit."""
MSIX_PERM: Final = 0x800
MSIX_PERM_STRIDE: Final = 8
WQCFG: Final = 0x1000
WQCFG_STRIDE: Final = 32
MAX_QUEUES: Final = 128
BAR0_SIZE: Final = 0x2000
MSIX_TABLE: Final = 0x2000
"""From here on lie the tables of interrupt messages, on pages of their own. Whoever can write them can interrupt the
host, so no guest is given them."""
MSIX_PBA: Final = 0x3000
IMS: Final = 0x4000
IMS_ENTRIES: Final = 256
"""Interrupt message storage comes in units of 256 entries (GENCAP.max_ims_mult); the device has one unit."""
INTERRUPT_STRIDE: Final = 16
"""Bytes of an entry of either table."""
MESSAGES_SIZE: Final = 0x3000
"""Bytes of these pages."""

PORTAL_PAGE: Final = 0x1000
PORTAL_STRIDE: Final = 4 * PORTAL_PAGE
"""Four pages a queue: unlimited and limited, then both again."""
PORTAL_UNLIMITED: Final = 0 * PORTAL_PAGE
PORTAL_LIMITED: Final = 1 * PORTAL_PAGE
PORTAL_IMS: Final = 2 * PORTAL_PAGE
"""What comes through the upper two pages means entries of interrupt message storage by its interrupt handles."""


def wqcfg_offset(wq: int, dword: int = 0) -> int:
    """BAR0 offset of one dword of a queue's configuration.

    >>> hex(wqcfg_offset(2, 2))
    '0x1048'
    """
    return WQCFG + wq * WQCFG_STRIDE + 4 * dword


def portal_offset(wq: int, limited: bool = False, *, ims: bool = False) -> int:
    """BAR2 offset of a queue's portal page; ``ims``: of the one for interrupts from interrupt message storage.

    >>> hex(portal_offset(3)), hex(portal_offset(3, limited=True)), hex(portal_offset(3, limited=True, ims=True))
    ('0xc000', '0xd000', '0xf000')
    """
    return wq * PORTAL_STRIDE + (PORTAL_LIMITED if limited else PORTAL_UNLIMITED) + (PORTAL_IMS if ims else 0)
