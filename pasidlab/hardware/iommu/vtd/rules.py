"""What a unit's identity card means for the tables: reserved-bit masks and limits, worked out once.

Models the reserved-bit columns of the VT-d tables. A mask says which bits must be zero in an entry that the unit
uses; it depends on the host address width, on the page sizes and on the revision. Follows the notes on scalable-mode
structures, the reserved masks of QEMU's intel_iommu_internal.h (bits 11 and 62 of second-level entries) and Linux
6.1.

Two fields of a PASID entry are reserved when the unit lacks what they switch on: SRE without ECAP.SRS (Linux commit
7fc961cf7ffc, made after a real unit had answered 0x5a) and PGSNP without ECAP.SC (Linux, April 2022, quoting the
specification). SNP in second-level leaves needs ECAP.SC, TM needs ECAP.DT.

UNVERIFIED choices: every other field without its capability is ignored (SSADE without SSADS, EAFE without EAFS,
RID_PRIV without RPRIVS, DTE, PASIDE, PRE) or accepted (memory types without MTS). Revision 5.10 of the specification
reserves them, but Linux sets RID_PRIV and AW on units that lack their capabilities, and those work. The first level of
a nested walk has no reserved address bits, because an address beyond MGAW has its own codes (0x74 for tables, 0x84 for
the page).
"""

from __future__ import annotations

from typing import Final

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.vtd.identity import Revision, VtdIdentity
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, PASID_DIR_ENTRY, PASID_ENTRY, ROOT_ENTRY, RTADDR_REG

__all__ = ["ADDRESS", "INTERRUPT_RANGE", "PT_SHIFT", "VtdRules", "is_interrupt_address"]

ADDRESS: Final = 0x000F_FFFF_FFFF_F000
"""The address bits of a paging entry."""
INTERRUPT_RANGE: Final = 0xFEE
"""Bits 31:20 of the addresses at which interrupts are delivered; nothing may be mapped there."""
PT_SHIFT: Final = (0, 12, 21, 30, 39, 48)
"""By level (1 is the lowest): the lowest address bit that the level's index uses."""

_ALL: Final = (1 << 64) - 1
_PS: Final = 1 << 7
_GONE_IN_4_1: Final = ("SLEE", "ERE", "CD", "EMTE", "EMT", "PWT", "PCD", "PAT")
_SWITCHED_ON_BY: Final = (("SRE", "srs"), ("PGSNP", "sc"))
"""Fields of a PASID entry, and the capability without which they are reserved."""


def is_interrupt_address(address: int) -> bool:
    """Whether an address lies in 0xFEE00000 to 0xFEEFFFFF.

    >>> is_interrupt_address(0xFEE00000), is_interrupt_address(0xFED00000), is_interrupt_address(0x1_FEE0_0000)
    (True, False, False)
    """
    return address >> 20 == INTERRUPT_RANGE


def _mask_words(layout: Layout, mask: int) -> tuple[int, ...]:
    return layout.split(mask)


class VtdRules:
    """Masks and limits of one identity card; immutable after construction.

    >>> rules = VtdRules(VtdIdentity())
    >>> [hex(mask) for mask in rules.first_leaf[1:4]], rules.depths
    (['0xf000000000000', '0xf0000001fe000', '0xf00003fffe000'], {2: 4})
    """

    __slots__ = (
        "context",
        "depths",
        "directory",
        "entry",
        "first_leaf",
        "first_table",
        "haw_limit",
        "identity",
        "mgaw_limit",
        "nested_leaf",
        "nested_table",
        "root",
        "root_pointer",
        "second_leaf",
        "second_table",
        "translations",
    )

    def __init__(self, identity: VtdIdentity) -> None:
        self.identity = identity
        self.haw_limit = 1 << identity.haw
        self.mgaw_limit = 1 << identity.mgaw
        wide = _ALL & ~(self.haw_limit - 1)
        self._table_masks(wide)
        self._first_level_masks(wide & ADDRESS)
        self._second_level_masks(wide & ADDRESS)
        self.translations = self._translations()
        self.depths = {aw: aw + 2 for aw in (1, 2, 3) if identity.sagaw >> aw & 1}
        """Second-level depth by the AW codes that the unit has."""

    def _table_masks(self, wide: int) -> None:
        self.root_pointer = RTADDR_REG.reserved_mask | wide
        low, high = _mask_words(ROOT_ENTRY, ROOT_ENTRY.reserved_mask)
        self.root = (low | wide, high | wide)
        context = _mask_words(CONTEXT_ENTRY, CONTEXT_ENTRY.reserved_mask)
        self.context = (context[0] | wide, *context[1:])
        self.directory = PASID_DIR_ENTRY.reserved_mask | wide
        entry = PASID_ENTRY.reserved_mask
        if self.identity.revision is Revision.V4_1:
            for name in _GONE_IN_4_1:
                entry |= PASID_ENTRY[name].mask
        for name, capability in _SWITCHED_ON_BY:
            if not getattr(self.identity, capability):
                entry |= PASID_ENTRY[name].mask
        self.entry = _mask_words(PASID_ENTRY, entry)

    def _first_level_masks(self, wide: int) -> None:
        """By level: reserved bits of an entry that names a table, and of a leaf (all ones: no leaf at this level)."""
        gigabyte = _page_bits(30) if self.identity.fl1gp else _ALL
        self.first_table = (0, 0, wide, wide, wide | _PS, wide | _PS)
        self.first_leaf = (0, wide, wide | _page_bits(21), wide | gigabyte, _ALL, _ALL)
        self.nested_table = (0, 0, 0, 0, _PS, _PS)
        self.nested_leaf = (0, 0, _page_bits(21), gigabyte, _ALL, _ALL)

    def _second_level_masks(self, wide: int) -> None:
        """The same for second-level entries; bits 11 and 62 exist in a leaf only, and with ECAP.SC and ECAP.DT only."""
        snoop, transient = 1 << 11, 1 << 62
        table = wide | snoop | transient
        leaf = wide | (0 if self.identity.sc else snoop) | (0 if self.identity.dt else transient)
        large = (_page_bits(21), _page_bits(30))
        sizes = [leaf | low | 1 << 12 if self.identity.sllps >> bit & 1 else _ALL for bit, low in enumerate(large)]
        self.second_table = (0, 0, table, table, table | _PS, table | _PS)
        self.second_leaf = (0, leaf, *sizes, _ALL, _ALL)

    def _translations(self) -> frozenset[int]:
        """The PGTT values that the unit can carry out."""
        card = self.identity
        able = {1: card.fsts, 2: card.ssts, 3: card.nest and card.fsts and card.ssts, 4: card.pt}
        return frozenset(pgtt for pgtt, has in able.items() if has)


def _page_bits(shift: int) -> int:
    """Address bits below a large page; bit 12 is left out, for the first level it is PAT there."""
    return (1 << shift) - (1 << 13)
