"""What a unit's identity card means for the tables: reserved-bit masks and limits, worked out once.

Models the reserved-bit columns of the AMD tables. Follows facts/hardware.md section 4 and QEMU's masks for a device
table entry (``AMDVI_DTE_*_QUAD_RESERVED``, without the bits that newer fields use). UNVERIFIED, all of it taken:

* device table entry: what the layout does not name is reserved, but for bit 179 (part of the interrupt table's
  address);
* GCR3 entry: bits 11:1 and 63:52 are reserved;
* host entry: bits 58:52 are reserved, the bits that the layout does not name are ignored otherwise (bits 4:1, 8:7, 63);
* guest entry: the processor's rules: PSE above the third level, bits 20:13 or 29:13 of a large page; bits 62:52 and
  11:8 are ignored, and so is NX on a unit without EFR.NX;
* in all paging entries: address bits at or above the width of a physical address (in the guest's entries only when no
  host table stands behind them: otherwise an address that is too wide is one that the host table does not translate).
"""

from __future__ import annotations

from typing import Final

from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.layouts.amd import DTE

__all__ = ["ADDRESS", "CODED_SIZE", "HOST_SHIFT", "LEAF", "AmdRules", "is_interrupt_address", "leaf_shift"]

ADDRESS: Final = 0x000F_FFFF_FFFF_F000
"""The address bits of every table entry."""
LEAF: Final = 0
"""NextLevel of a page that has the size of its level."""
CODED_SIZE: Final = 7
"""NextLevel of a page whose size is coded in its address."""
HOST_SHIFT: Final = (3, 12, 21, 30, 39, 48, 57, 66)
"""By level (1 is the lowest): the lowest address bit that the level's index uses. Guest tables have the same."""

_ALL: Final = (1 << 64) - 1
_ENCRYPTION_BIT: Final = 1 << 51
"""Of the interrupt table's address: it stands in entries of machines that encrypt memory."""
_INTERRUPT_RANGE: Final = 0xFEE
_HOST_RESERVED: Final = 0x7F << 52
_GCR3_RESERVED: Final = 0xFFF << 52 | 0xFFE


def is_interrupt_address(address: int) -> bool:
    """Whether an address lies in 0xFEE00000 to 0xFEEFFFFF.

    >>> is_interrupt_address(0xFEE01000), is_interrupt_address(0x1_FEE0_1000)
    (True, False)
    """
    return address >> 20 == _INTERRUPT_RANGE


def leaf_shift(word: int, level: int) -> int | None:
    """How many address bits a host leaf of ``level`` leaves untranslated: log2 of its page size.

    ``None`` when the coded size does not fit the level (UNVERIFIED: it must be at least the level's own size and less
    than that of the level above).

    >>> leaf_shift(0x8000_0001, 2), leaf_shift(0x8001_7001 | 7 << 9, 1), leaf_shift(0x8000_0001 | 7 << 9, 2)
    (21, 16, None)
    """
    if word >> 9 & 7 == LEAF:
        return HOST_SHIFT[level]
    ones = word & ADDRESS | 0xFFF
    shift = (ones + 1 & -(ones + 1)).bit_length()
    return shift if HOST_SHIFT[level] <= shift < HOST_SHIFT[level + 1] else None


class AmdRules:
    """Masks and limits of one identity card; immutable after construction.

    >>> rules = AmdRules(AmdIdentity())
    >>> [hex(mask) for mask in rules.dte], hex(rules.host)
    (['0x800000000000007c', '0x40000000000', '0x830000000000000', '0xffffffffffffffff'], '0x7ff000000000000')
    """

    __slots__ = ("dte", "gcr3", "guest_leaf", "host", "identity", "limit", "pasid_limit", "wide")

    def __init__(self, identity: AmdIdentity) -> None:
        self.identity = identity
        self.limit = 1 << identity.address_bits
        self.pasid_limit = 1 << identity.pasid_bits
        self.wide = ADDRESS & ~(self.limit - 1)
        """Address bits that no physical address has."""
        known = DTE.split(DTE.reserved_mask)
        self.dte = (known[0], known[1], known[2] & ~_ENCRYPTION_BIT, known[3])
        self.gcr3 = _GCR3_RESERVED | self.wide
        self.host = _HOST_RESERVED | self.wide
        self.guest_leaf = (0, 0, _page_bits(21), _page_bits(30), _ALL, _ALL)
        """By level: reserved bits of a leaf, without :attr:`wide` (all ones: no leaf at this level)."""

    def is_encodable(self, words: tuple[int, ...]) -> bool:
        """Whether Mode, GLX and GPTMode of a device table entry ask for what this unit has."""
        card, first = self.identity, words[0]
        if first >> 9 & 7 > card.host_levels:
            return False
        if not (first >> 55 & 1 and card.gt):
            return True
        return first >> 56 & 3 <= card.glx and words[2] >> 54 & 3 <= int(card.gats > 0)


def _page_bits(shift: int) -> int:
    """Address bits below a large page; bit 12 is left out, it is PAT there."""
    return (1 << shift) - (1 << 13)
