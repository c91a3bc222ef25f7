"""The CPU's page walk: 4 levels over 4 KiB pages, read from memory as bits, in the format of the processor.

Source: the x86-64 paging entry format and that of AArch64 (:mod:`pasidlab.hardware.paging`), which the IOMMU of the
same machine shares. Used for every access that a process makes to its own memory. Not modelled: large pages, updates of
accessed and dirty bits by the CPU, TLBs. On Arm the addresses that are not canonical are those of TTBR1, where no
process has memory.
"""

from __future__ import annotations

from typing import Final

from pasidlab.hardware.memory import Memory
from pasidlab.hardware.paging import X86, PagingFormat

__all__ = ["PageFault", "resolve"]

_CANONICAL: Final = 47


class PageFault(Exception):
    """A virtual address that the page tables do not allow."""

    def __init__(self, address: int, why: str) -> None:
        self.address = address
        super().__init__(f"{address:#x} is {why}")


def resolve(memory: Memory, root: int, virtual: int, *, write: bool = False, form: PagingFormat = X86) -> int:
    """The physical address behind ``virtual`` in the tables at ``root``.

    Raises :class:`PageFault` where the tables do not allow it (or the address is not canonical, on which the device
    agrees: fault 0x80), and :class:`~pasidlab.errors.BusError` where an entry names memory that does not exist.
    """
    if virtual >> _CANONICAL not in (0, (1 << 64 - _CANONICAL) - 1):
        raise PageFault(virtual, "not canonical")
    table = root
    for shift in (39, 30, 21, 12):
        entry = memory.load(table + (virtual >> shift & 511) * 8)
        if not form.is_present(entry):
            raise PageFault(virtual, "not mapped")
        if shift != 12 and form.is_large(entry):
            raise PageFault(virtual, "in a large page, which this model's kernel never makes")
        if write and (shift == 12 or form.tables_forbid) and not form.is_writable(entry):
            raise PageFault(virtual, "read-only")
        table = form.address(entry)
    return table | virtual & 0xFFF
