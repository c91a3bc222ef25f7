"""What a unit's identity card means for its tables: granules, address widths, and which entries are ILLEGAL.

Models the validity functions of the specification (IHI 0070): 5.2.2 for a stream table entry, 5.4.2 for a context
descriptor, with the behaviour of SMMUv3.1 and later where 3.0 leaves a choice. The facts have the full lists as
UNVERIFIED; these were read in the specification. Bits that belong to no field are ignored (RES0), and so are the
settings of a stage that the entry does not use.

A pointer's bits below the size of what it points to are taken as zero (one of the behaviours that the specification
allows). UNVERIFIED: a stage-2 root must lie within S2PS, and a stage-1 root within IPS, as far as the *physical* or
intermediate address is concerned; a stage-1 root of a unit without stage 2 is bounded by IPS alone.

Left out: AArch32 tables (AA64=0 is ILLEGAL), 52-bit tables of 4 and 16 KiB (DS), small translation tables (STT: T0SZ
and S2T0SZ are at most 39), hardware update of flags (HA and HD are not looked at), streams of EL2 (STRW is ignored, as
on every unit without HYP), stalls of stage 2 (S2S).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pasidlab.hardware.iommu.smmuv3.identity import ADDRESS_WIDTHS, SmmuIdentity

__all__ = ["LEAF_LEVEL", "SPLITS", "SmmuRules", "Stage", "Step", "is_doorbell"]

LEAF_LEVEL: Final = 3
"""The last level of a page table; walks begin at level 0 to 3."""
SPLITS: Final = (6, 8, 10)
"""The values of STRTAB_BASE_CFG.SPLIT; others behave as 6."""
_4K, _16K, _64K = 12, 14, 16
_GRANULE_0: Final = {0: _4K, 1: _64K, 2: _16K}
"""log2 of the table size by the codes of TG0 and S2TG."""
_GRANULE_1: Final = {1: _16K, 2: _4K, 3: _64K}
"""The same by the codes of TG1."""
_BLOCK_LEVELS: Final = {_4K: (1, 2), _16K: (2,), _64K: (2,)}
_CONTEXT_POINTER: Final = 0xF_FFFF_FFFF_FFC0
_TABLE_POINTER: Final = 0xF_FFFF_FFFF_FFF0
"""The bits of S1ContextPtr in its word; of TTB0, TTB1 and S2TTB in theirs."""
_SPLIT_STAGE: Final = 2
_SMALLEST, _WIDEST = 39, 16
"""T0SZ and S2T0SZ: 64 minus the number of input bits."""
_CONCATENATED: Final = 4
"""log2 of how many tables may lie side by side at the first level of stage 2."""
_DOORBELL: Final = 0xFEE


def is_doorbell(address: int) -> bool:
    """Whether a message to this address is an interrupt. This model's machines have one place for that, 0xFEExxxxx.

    >>> is_doorbell(0xFEE0_0000), is_doorbell(0x1_FEE0_0000)
    (True, False)
    """
    return address >> 20 == _DOORBELL


Step = tuple[int, int, int, tuple[int, ...], int, int]
"""One level of a walk: its number; the shift that leaves the entry's byte offset in a table, and the bits of that
offset; the types (bits 1:0) of valid entries; the bits of an entry that are an address; the bits of an address within a
page or block of this level.
"""


def _steps(granule: int, top: int) -> tuple[Step, ...]:
    """The levels from ``top`` on. The table of the first one may be smaller or larger than the others."""
    names, found = _ADDRESS & -(1 << granule), []
    for level in range(top, LEAF_LEVEL + 1):
        shift = granule + (LEAF_LEVEL - level) * (granule - 3)
        within = -8 if level == top else (1 << granule) - 8
        types = (_TABLE, _BLOCK) if level in _BLOCK_LEVELS[granule] else (_TABLE,)
        found.append((level, shift - 3, within, types, names, (1 << shift) - 1))
    return tuple(found)


_ADDRESS: Final = 0xFFFF_FFFF_F000
_BLOCK, _TABLE = 1, 3
"""The types of an entry: it names a block; it names a table, or at the last level a page."""
_STEPS: Final = {(granule, top): _steps(granule, top) for granule in _BLOCK_LEVELS for top in range(LEAF_LEVEL + 1)}


class Stage(NamedTuple):
    """One page table: where it begins, for which addresses, in which steps.

    ``bits`` of input are translated from ``level`` on, in tables of ``1 << granule`` bytes; what it puts out must be
    below ``limit``. ``blocks`` are the levels at which an entry may name a block.
    """

    root: int
    bits: int
    granule: int
    level: int
    limit: int
    blocks: tuple[int, ...]
    wide: bool = False

    def shift(self, level: int) -> int:
        """The lowest address bit that the index of ``level`` uses.

        >>> [Stage(0, 48, 12, 0, 1 << 48, (1, 2)).shift(level) for level in range(4)]
        [39, 30, 21, 12]
        """
        return self.granule + (LEAF_LEVEL - level) * (self.granule - 3)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The levels of a walk."""
        return _STEPS[self.granule, self.level]

    def output(self, word: int) -> int:
        """The address in an entry: bits 47:12, from the granule on; with 64 KiB and 52 bits also 15:12, as 51:48."""
        address = word & _ADDRESS & -(1 << self.granule)
        return address | (word & 0xF000) << 36 if self.wide else address


class SmmuRules:
    """Limits of one identity card; immutable after construction.

    >>> rules = SmmuRules(SmmuIdentity())
    >>> rules.granules, rules.limits[5] == rules.oas_limit == 1 << 48
    ({0: 12, 1: 16, 2: 14}, True)
    """

    __slots__ = ("granules", "granules_1", "identity", "limits", "oas_limit")

    def __init__(self, identity: SmmuIdentity) -> None:
        self.identity = identity
        has = {_4K: identity.gran4k, _16K: identity.gran16k, _64K: identity.gran64k}
        self.granules = {code: shift for code, shift in _GRANULE_0.items() if has[shift]}
        self.granules_1 = {code: shift for code, shift in _GRANULE_1.items() if has[shift]}
        self.oas_limit = 1 << identity.oas
        widths = (*ADDRESS_WIDTHS, ADDRESS_WIDTHS[-1])
        self.limits = tuple(1 << min(width, identity.oas) for width in widths)
        """By the code of IPS and S2PS: the effective limit of addresses."""

    # --- stream table entries -----------------------------------------------------------------------------------------

    def bad_ste(self, words: tuple[int, ...]) -> bool:
        """Whether a stream table entry is ILLEGAL (C_BAD_STE)."""
        config = words[0] >> 1 & 7
        if not words[0] & 1:
            return True
        if not config & 4:
            return False
        card = self.identity
        if (config & 1 and not card.s1p) or (config & 2 and not card.s2p):
            return True
        if card.ats and config & 3 and words[1] >> 28 & 3 == _SPLIT_STAGE and config != 7:
            return True
        return bool((config & 1 and self._bad_stage1(words)) or (config & 2 and self._bad_stage2(words)))

    def _bad_stage1(self, words: tuple[int, ...]) -> bool:
        card, cdmax = self.identity, words[0] >> 59
        if words[1] >> 27 & 1 and card.stall_model:
            return True
        if card.ssidsize and cdmax > card.ssidsize:
            return True
        if card.ssidsize and cdmax and not card.cd2l and words[0] >> 4 & 3 in (1, 2):
            return True
        return words[0] & _CONTEXT_POINTER >= self.oas_limit

    def _bad_stage2(self, words: tuple[int, ...]) -> bool:
        aarch64, big_endian = words[2] >> 51 & 1, words[2] >> 52 & 1
        if not aarch64 or big_endian:
            return True
        if self.second(words) is None:
            return True
        return not self.identity.vmid16 and words[2] & 0xFFFF > 0xFF

    def second(self, words: tuple[int, ...]) -> Stage | None:
        """The stage-2 table that an entry names, or ``None`` if its fields contradict each other."""
        third, base = words[2], words[3] & _TABLE_POINTER
        granule, size, limit = self.granules.get(third >> 46 & 3), third >> 32 & 0x3F, self.limits[third >> 48 & 7]
        if granule is None or not max(_WIDEST, 64 - self.identity.oas) <= size <= _SMALLEST or base >= limit:
            return None
        start = third >> 38 & 3
        level = (2 if granule == _4K else 3) - start
        if start == 3:
            return None
        bits = 64 - size
        step = granule - 3
        above = granule + (LEAF_LEVEL - level) * step  # address bits below this level's index
        if not above < bits <= above + step + _CONCATENATED or (level == 0 and bits > above + step):
            return None
        root = base & -(8 << bits - above)
        return Stage(root, bits, granule, level, limit, _BLOCK_LEVELS[granule], self._wide(granule, limit))

    # --- context descriptors ------------------------------------------------------------------------------------------

    def bad_cd(self, words: tuple[int, ...], stalls_disabled: bool) -> bool:
        """Whether a context descriptor is ILLEGAL (C_BAD_CD); ``stalls_disabled`` is S1STALLD of its stream."""
        low, card = words[0], self.identity
        stall = low >> 44 & 1
        if not low >> 31 & 1 or not low >> 41 & 1:
            return True
        if stall and (stalls_disabled or card.stall_model == 1):
            return True
        if not stall and card.stall_model == 2:
            return True
        lower, upper = not low >> 14 & 1, not low >> 30 & 1
        if (lower or upper) and low >> 15 & 1:
            return True
        if not card.asid16 and low >> 48 > 0xFF:
            return True
        return bool((lower and self.first(words, 0) is None) or (upper and self.first(words, 1) is None))

    def first(self, words: tuple[int, ...], half: int) -> Stage | None:
        """The stage-1 table of the lower (0) or upper (1) half, or ``None`` if its fields are out of range."""
        low, base = words[0], words[1 + half] & _TABLE_POINTER
        granule = self.granules_1.get(low >> 22 & 3) if half else self.granules.get(low >> 6 & 3)
        size, limit = low >> 16 * half & 0x3F, self.limits[low >> 32 & 7]
        if granule is None or not _WIDEST <= size <= _SMALLEST or base >= limit:
            return None
        bits, step = 64 - size, granule - 3
        level = LEAF_LEVEL - (bits - granule - 1) // step
        above = granule + (LEAF_LEVEL - level) * step
        root = base & -(8 << bits - above)
        return Stage(root, bits, granule, level, limit, _BLOCK_LEVELS[granule], self._wide(granule, limit))

    @staticmethod
    def _wide(granule: int, limit: int) -> bool:
        return granule == _64K and limit == 1 << ADDRESS_WIDTHS[-1]
