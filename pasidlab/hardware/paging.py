"""The formats of page-table entries that software builds: how an entry says "present", "a table", "may be written".

A process's page table has the format of its processor, and the IOMMU of the same machine reads it as its first level:
that is the whole point of Shared Virtual Addressing. The second level has a format of the IOMMU's own.

================  ==============================================  ===================================================
format            used by                                         source (``hardware/layouts``)
================  ==============================================  ===================================================
``X86``           Intel and AMD processors, VT-d first level,     ``vtd.FL_ENTRY``, ``amd.V2_PTE``
                  AMD guest tables
``VTD_SECOND``    VT-d second level                               ``vtd.SL_ENTRY``
``ARM_STAGE_1``   Arm processors, SMMUv3 stage 1                  ``smmu.LPAE_STAGE_1``, golden vectors arm_lpae_s1
``ARM_STAGE_2``   SMMUv3 stage 2                                  ``smmu.LPAE_STAGE_2``, golden vector arm_lpae_s2
``AMD_HOST``      AMD host tables (v1)                            ``amd.V1_PTE``, golden vector amd_v1_pte
================  ==============================================  ===================================================

Here are the few bits that a builder and the processor's walk need, so that neither depends on an IOMMU. All formats
have 512 entries of 8 bytes in a table, 4 KiB pages and 4 levels here. Left out: what hardware checks beyond that (the
walkers in :mod:`pasidlab.hardware.iommu`), hierarchical permissions of Arm, large pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["AMD_HOST", "ARM_STAGE_1", "ARM_STAGE_2", "FORMATS", "VTD_SECOND", "X86", "PagingFormat"]

_ADDRESS: Final = 0x000F_FFFF_FFFF_F000


@dataclass(frozen=True, slots=True)
class PagingFormat:
    """One format as masks. An entry is present if it has any bit of ``present``. An entry above the lowest level names
    a lower table if its ``kind`` bits are not those of ``large``. Writing needs ``word & write == granted``.

    ``tables_forbid``: an entry that names a table forbids writing below it if it does not grant it.

    ``table``, ``page`` and ``read_only`` are the bits that software writes into an entry for a lower table, for a page
    that may be written, and for one that may not. ``level_shift``: where an entry carries the level of the table that
    it names (AMD), 0 if it does not.

    >>> hex(ARM_STAGE_1.page), hex(ARM_STAGE_2.page), hex(AMD_HOST.page), hex(AMD_HOST.to_table(4) & 0xFFF)
    ('0xf47', '0x7ff', '0x7000000000000001', '0x601')
    """

    name: str
    present: int
    kind: int
    large: int
    table: int
    page: int
    read_only: int
    write: int
    granted: int
    tables_forbid: bool = True
    level_shift: int = 0

    def to_table(self, level: int) -> int:
        """The bits of an entry of ``level`` that names a table of the level below."""
        return self.table | (level - 1 << self.level_shift if self.level_shift else 0)

    def is_present(self, word: int) -> bool:
        """Whether an entry is in use."""
        return bool(word & self.present)

    def is_large(self, word: int) -> bool:
        """Whether an entry above the lowest level is a page, and not the name of a table."""
        return word & self.kind == self.large

    def is_writable(self, word: int) -> bool:
        """Whether an entry lets pass what writes."""
        return word & self.write == self.granted

    @staticmethod
    def address(word: int) -> int:
        """Where an entry leads to."""
        return word & _ADDRESS


X86: Final = PagingFormat("x86", 1, 1 << 7, 1 << 7, table=7, page=7, read_only=5, write=2, granted=2)
VTD_SECOND: Final = PagingFormat("second-level", 3, 1 << 7, 1 << 7, table=3, page=3, read_only=1, write=2, granted=2)
ARM_STAGE_1: Final = PagingFormat(
    "stage-1", 1, 3, 1, table=3, page=0xF47, read_only=0xFC7, write=1 << 7, granted=0, tables_forbid=False
)
"""Unprivileged, inner shareable, accessed, not global; memory attribute 1. AP bit 7 forbids writing."""
ARM_STAGE_2: Final = PagingFormat(
    "stage-2", 1, 3, 1, table=3, page=0x7FF, read_only=0x77F, write=1 << 7, granted=1 << 7, tables_forbid=False
)
"""Normal write-back memory, inner shareable, accessed. S2AP bit 7 allows writing."""
_READ: Final = 1 << 61
_WRITE: Final = 1 << 62
_COHERENT: Final = 1 << 60
AMD_HOST: Final = PagingFormat(
    "host",
    1,
    7 << 9,
    7 << 9,
    table=_READ | _WRITE | 1,
    page=_READ | _WRITE | _COHERENT | 1,
    read_only=_READ | _COHERENT | 1,
    write=_WRITE,
    granted=_WRITE,
    level_shift=9,
)

FORMATS: Final = (X86, VTD_SECOND, ARM_STAGE_1, ARM_STAGE_2, AMD_HOST)
"""All of them."""
