"""What a unit keeps of the tables that it has read: DTE cache, GCR3 cache, TLB, paging-structure caches.

All of them may be stale: nothing here looks at memory, and nothing leaves before software asks for it, not even when
translation is switched off (UNVERIFIED; Linux flushes everything after it has switched it on). Hardware may drop a line
at any time; this unit never does, which is the hardest case for software, and the same in every run.

======================  =======================================  ====================================================
cache                   tag                                      holds
======================  =======================================  ====================================================
DTE cache               requester id                             the device table entry (also one with V=0)
GCR3 cache              DomainID, PASID                          the lowest GCR3 entry
TLB, guest              DomainID, PASID, page                    the page and the accesses that a walk has granted
TLB, host               DomainID, page                           the same; also used on the way through a nested walk
paging structures       DomainID (PASID for the guest's), range  entries that name tables, with the rights above them
======================  =======================================  ====================================================

That the tag of a translation is (DomainID, PASID), without the requester id, is Linux's own reason for mapping the
domain ids of a guest one to one (nested.c): two devices of one domain whose GCR3 tables differ share lines.

An access that no walk has granted yet walks again, so that a line never takes the place of an accessed or dirty bit.
Only what is present and legal is kept. Large pages are kept in pieces of 4 KiB that are invalidated together.

What INVALIDATE_IOMMU_PAGES forgets (UNVERIFIED in its corners): with GN=1 the pages of one PASID in the range, with
PDE=1 also its paging structures and its GCR3 entry; with GN=0 the host pages in the range, and, because they are made
of such pages, all guest translations of the domain; with PDE=1 also paging structures, and GCR3 entries that were found
through the host table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from pasidlab.hardware.bits import Field, Layout
from pasidlab.hardware.iommu.amdvi.rules import HOST_SHIFT
from pasidlab.hardware.layouts.amd import gcr3_root
from pasidlab.hardware.pcie import WHOLE_SPACE
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = [
    "DTE_CACHE",
    "GCR3_CACHE",
    "HOST",
    "PAGING_CACHE",
    "TLB",
    "TLB_ENTRY",
    "AmdCaches",
    "DteLine",
    "Gcr3Line",
    "PagingLine",
    "Translation",
]

DTE_CACHE: Final = "DTE cache"
GCR3_CACHE: Final = "GCR3 cache"
TLB: Final = "TLB"
PAGING_CACHE: Final = "paging-structure cache"

K = TypeVar("K", int, tuple[int, int], tuple[int, int, int], tuple[int, int, int, int])
V = TypeVar("V")

HOST: Final = -1
"""In place of the PASID in the tag of what the host table alone decides."""

TLB_ENTRY: Final = Layout(
    "amd_tlb_entry",
    24,
    (
        Field("DomainID", 0, 15, "domain id"),
        Field("PASID", 16, 35, "PASID, for guest translations"),
        Field("GN", 36, 36, "a guest translation: the PASID is part of the tag"),
        Field("SIZE", 37, 43, "log2 of the size of the page"),
        Field("USER", 44, 46, "granted to user requests: read, write, execute"),
        Field("PRIVILEGED", 47, 49, "granted to privileged requests: read, write, execute"),
        Field("PAGE", 76, 127, "the page that is asked for", 12),
        Field("ADDRESS", 140, 191, "the page that it lies on", 12),
    ),
    "this model: a cache inside the unit, which no software sees",
)


class DteLine(NamedTuple):
    """A device table entry, where it lay, and what every request asks of it.

    ``allowed``: 1 read, 2 write; ``levels`` those of the guest table; ``told``: a page fault of this device was logged
    since the entry was read (SE then suppresses the others).
    """

    words: tuple[int, ...]
    at: int
    valid: bool
    translated: bool
    did: int
    mode: int
    root: int
    guest: bool
    giov: bool
    glx: int
    gcr3: int
    levels: int
    allowed: int
    had: int
    ats: bool
    told: bool = False

    @classmethod
    def of(cls, words: tuple[int, ...], at: int = 0) -> DteLine:
        """The line of the entry ``words``.

        >>> line = DteLine.of((0x7980_0000_0000_0003, 0xFEDC_B801_530E_1234, 0, 0))
        >>> line.did, line.guest, line.glx + 1, hex(line.gcr3), line.allowed
        (4660, True, 2, '0xfedcba9876000', 3)
        """
        first, second, third, _ = words
        return cls(
            words,
            at,
            valid=bool(first & 1),
            translated=bool(first & 2),
            did=second & 0xFFFF,
            mode=first >> 9 & 7,
            root=first & 0x000F_FFFF_FFFF_F000,
            guest=bool(first >> 55 & 1),
            giov=bool(first >> 54 & 1),
            glx=first >> 56 & 3,
            gcr3=gcr3_root(words),
            levels=5 if third >> 54 & 3 else 4,
            allowed=first >> 61 & 3,
            had=first >> 7 & 3,
            ats=bool(second >> 32 & 1),
        )


class Gcr3Line(NamedTuple):
    """The GCR3 entry of a PASID: its ``word``, where it lay, and by which guest-physical address it was found when the
    table was reached through the host table (``None``: the table is system-physical).
    """

    word: int
    at: int
    guest_at: int | None = None


class Translation(NamedTuple):
    """A line of the TLB: the system-physical ``page``; ``granted``: bits 0 to 2 read, write, execute for user requests,
    bits 3 to 5 for privileged ones; ``shift``: log2 of the size of the page that the entry named.
    """

    page: int
    granted: int
    shift: int


class PagingLine(NamedTuple):
    """An entry that names a table: its ``word``, where it lay, and the ``rights`` of it and all above: permissions that
    every entry grants, and NX if any one has it.
    """

    word: int
    at: int
    rights: int


class AmdCaches(Part):
    """The caches of one unit."""

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.dtes = Table[int, DteLine](timeline, f"{path}.dtes")
        self.gcr3 = Table[tuple[int, int], Gcr3Line](timeline, f"{path}.gcr3")
        self.tlb = Table[tuple[int, int, int], Translation](timeline, f"{path}.tlb")
        self.paging = Table[tuple[int, int, int, int], PagingLine](timeline, f"{path}.paging")

    # --- what walks keep ----------------------------------------------------------------------------------------------

    def keep(self, did: int, tag: int, page: int, found: Translation) -> None:
        """Keep a translation; what was granted for the same page before stays granted."""
        key = did, tag, page
        known = self.tlb.get(key)
        if known is not None and known.page == found.page and known.shift == found.shift:
            found = found._replace(granted=known.granted | found.granted)
        self.tlb[key] = found

    def table_above(self, did: int, tag: int, address: int, depth: int) -> tuple[int, PagingLine] | None:
        """The lowest kept entry on the way to ``address``, and its level."""
        get = self.paging.get
        for level in range(2, depth + 1):
            line = get((did, tag, level, address >> HOST_SHIFT[level]))
            if line is not None:
                return level, line
        return None

    def words_of(self, key: tuple[int, int, int]) -> tuple[int, ...]:
        """A line of the TLB as the words of :data:`TLB_ENTRY`."""
        (did, tag, page), found = key, self.tlb[key]
        return TLB_ENTRY.encode(
            DomainID=did,
            PASID=max(tag, 0),
            GN=int(tag != HOST),
            SIZE=found.shift,
            USER=found.granted & 7,
            PRIVILEGED=found.granted >> 3,
            PAGE=page << 12,
            ADDRESS=found.page,
        )

    # --- what software asks to forget ---------------------------------------------------------------------------------

    def forget_everything(self) -> None:
        """INVALIDATE_IOMMU_ALL."""
        _drop(self.dtes, lambda key: True)
        _drop(self.gcr3, lambda key: True)
        _drop(self.tlb, lambda key: True)
        _drop(self.paging, lambda key: True)

    def forget_device(self, rid: int) -> None:
        """INVALIDATE_DEVTAB_ENTRY: the entry of one device, nothing else."""
        _drop(self.dtes, lambda key: key == rid)

    def forget_host_pages(self, did: int, start: int, size: int, *, tables: bool) -> None:
        """INVALIDATE_IOMMU_PAGES with GN=0; ``tables`` is PDE."""
        lines, touches = self.tlb, _reach(start, size)
        _drop(lines, lambda key: key[0] == did and (key[1] != HOST or touches(key[2] << 12, lines[key].shift)))
        _drop(self.paging, lambda key: key[0] == did and key[1] != HOST)
        if tables:
            self._forget_paging(did, HOST, start, size)
            found = self.gcr3
            _drop(found, lambda key: key[0] == did and found[key].guest_at is not None)

    def forget_guest_pages(
        self, did: int, pasid: int, start: int = 0, size: int = WHOLE_SPACE, *, tables: bool = True
    ) -> None:
        """INVALIDATE_IOMMU_PAGES with GN=1; ``tables`` is PDE."""
        lines, touches = self.tlb, _reach(start, size)
        _drop(lines, lambda key: key[:2] == (did, pasid) and touches(key[2] << 12, lines[key].shift))
        if tables:
            self._forget_paging(did, pasid, start, size)
            _drop(self.gcr3, lambda key: key == (did, pasid))

    def _forget_paging(self, did: int, tag: int, start: int, size: int) -> None:
        touches = _reach(start, size)
        _drop(
            self.paging,
            lambda key: key[:2] == (did, tag) and touches(key[3] << HOST_SHIFT[key[2]], HOST_SHIFT[key[2]]),
        )


def _reach(start: int, size: int) -> Callable[[int, int], bool]:
    """Whether the page of ``1 << shift`` bytes around an address has a byte in the range."""

    def touches(address: int, shift: int) -> bool:
        first = address >> shift << shift
        return first < start + size and start < first + (1 << shift)

    return touches


def _drop(lines: Table[K, V], meant: Callable[[K], bool]) -> None:
    for key in lines.select(meant):
        del lines[key]
