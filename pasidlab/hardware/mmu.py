"""The CPU's page walk: 4-level x86 paging over 4 KiB pages, read from memory as bits.

Source: the x86-64 paging entry format, which VT-d's first level shares (``layouts/vtd.py``, FL_ENTRY). Used for every
access that a process makes to its own memory. Not modelled: large pages, accessed/dirty updates by the CPU, TLBs.
"""

from __future__ import annotations

from typing import Final

from pasidlab.hardware.memory import Memory

__all__ = ["PageFault", "resolve"]

_CANONICAL: Final = 47
_P: Final = 1
_RW: Final = 2
_PS: Final = 1 << 7
_ADDR: Final = 0x000F_FFFF_FFFF_F000


class PageFault(Exception):
    """A virtual address that the page tables do not allow."""

    def __init__(self, address: int, why: str) -> None:
        self.address = address
        super().__init__(f"{address:#x} is {why}")


def resolve(memory: Memory, root: int, virtual: int, *, write: bool = False) -> int:
    """The physical address behind ``virtual`` in the tables at ``root``.

    Raises :class:`PageFault` where the tables do not allow it (or the address is not canonical, on which the device
    agrees: fault 0x80), and :class:`~pasidlab.errors.BusError` where an entry names memory that does not exist.
    """
    if virtual >> _CANONICAL not in (0, (1 << 64 - _CANONICAL) - 1):
        raise PageFault(virtual, "not canonical")
    table = root
    for shift in (39, 30, 21, 12):
        entry = memory.load(table + (virtual >> shift & 511) * 8)
        if not entry & _P:
            raise PageFault(virtual, "not mapped")
        if entry & _PS and shift != 12:
            raise PageFault(virtual, "in a large page, which this model's kernel never makes")
        if write and not entry & _RW:
            raise PageFault(virtual, "read-only")
        table = entry & _ADDR
    return table | virtual & 0xFFF
