"""What a unit keeps of the tables that it has read: context cache, PASID cache, IOTLB, paging-structure caches.

All of them may be stale: nothing here looks at memory, and nothing leaves before software asks for it. Hardware may
drop a line at any time; this unit never does, which is the hardest case for software, and the same in every run.

======================  ===============================  =========================================================
cache                   tag                              holds
======================  ===============================  =========================================================
context cache           source id                        the context entry
PASID cache             source id, PASID (DID inside)    the PASID entry, and FPD of its directory entry
IOTLB, first or nested  DID, PASID, page                 the page and the accesses that a walk has granted
IOTLB, second level     DID, page                        the same; also used on the way through a nested walk
paging structures       DID (PASID for the first level)  entries that name tables, with the rights of those above
======================  ===============================  =========================================================

An access that no walk has granted yet walks again, so that a line never takes the place of an accessed or dirty bit. In
caching mode (CAP.CM=1) what is not present is kept as well: context entries, PASID entries, second-level pages.

Source: revision 5.10 of the specification, chapter 6 (tables 17, 23, 24), and the notes on Linux and QEMU. A
domain-selective invalidation of the context cache drops everything (a scalable-mode context entry has no domain). A
page-selective invalidation of a domain drops its first-level and nested translations whole. Coarser than the
specification, which is allowed: a PASID entry that is not present goes with any domain (there: domain 0). Also coarser,
as in the notes: the IOTLB is looked up without the source id, so that two devices whose entries for one domain and
PASID name different tables share lines (only a guest can do that to itself). Large pages are kept in pieces of 4 KiB
that are invalidated together. What a page may be used for only because of this one PASID entry (WPE=0, NXE=0) is not
kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from pasidlab.hardware.bits import Field, Layout
from pasidlab.hardware.iommu.vtd.rules import PT_SHIFT
from pasidlab.hardware.layouts.vtd import PGTT
from pasidlab.hardware.pcie import WHOLE_SPACE
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
    from pasidlab.timeline import Timeline

__all__ = [
    "CONTEXT_CACHE",
    "IOTLB",
    "IOTLB_ENTRY",
    "NOTHING",
    "PAGING_CACHE",
    "PASID_CACHE",
    "SECOND_LEVEL",
    "ContextLine",
    "PagingLine",
    "PasidLine",
    "Translation",
    "VtdCaches",
]

CONTEXT_CACHE: Final = "context cache"
PASID_CACHE: Final = "PASID cache"
IOTLB: Final = "IOTLB"
PAGING_CACHE: Final = "paging-structure cache"

K = TypeVar("K", int, tuple[int, int], tuple[int, int, int], tuple[int, int, int, int])
V = TypeVar("V")

SECOND_LEVEL: Final = -1
"""In place of the PASID in the tag of what the second level alone decides."""
NOTHING: Final = -2
"""The same for entries that translate nothing: pass-through, or not present."""

IOTLB_ENTRY: Final = Layout(
    "iotlb_entry",
    24,
    (
        Field("DID", 0, 15, "domain id"),
        Field("PASID", 16, 35, "PASID, for first-level and nested translations"),
        Field("TAGGED", 36, 36, "the PASID is part of the tag"),
        Field("LEVEL", 37, 39, "level of the entry that named the page: 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB"),
        Field("USER", 40, 42, "granted to user requests: read, write, execute"),
        Field("PRIVILEGED", 43, 45, "granted to privileged requests: read, write, execute"),
        Field("PAGE", 76, 127, "the page that is asked for", 12),
        Field("ADDRESS", 140, 191, "the page that it lies on", 12),
    ),
    "this model: a cache inside the unit, which no software sees",
)


class ContextLine(NamedTuple):
    """A context entry, where it lay, and what every request asks of it. ``limit``: PASIDs must be below."""

    words: tuple[int, ...]
    at: int
    rid_pasid: int
    rid_priv: bool
    takes_pasids: bool
    limit: int


class PasidLine(NamedTuple):
    """A PASID entry, where it lay, and what every request asks of it.

    ``fpd`` is that of its directory entry; ``tag`` the PASID, ``SECOND_LEVEL`` or ``NOTHING``; ``allowed`` the accesses
    that SRE and ERE leave, in the form of :class:`Translation`.
    """

    words: tuple[int, ...]
    at: int
    fpd: bool
    did: int
    tag: int
    allowed: int

    @classmethod
    def of(cls, words: tuple[int, ...], pasid: int, at: int = 0, fpd: bool = False) -> PasidLine:
        """The line of the entry ``words`` for ``pasid``.

        >>> PasidLine.of((0x8D, 7 << 0, 1, 0, 0, 0, 0, 0), pasid=5)[3:]
        (7, -1, 27)
        """
        user = 7 if words[2] & 2 else 3
        allowed = user | (user << 3 if words[2] & 1 else 0)
        tag = {PGTT.SECOND: SECOND_LEVEL, PGTT.PASS_THROUGH: NOTHING}.get(words[0] >> 6 & 7, pasid)
        return cls(words, at, fpd, words[1] & 0xFFFF, tag if words[0] & 1 else NOTHING, allowed)


class Translation(NamedTuple):
    """A line of the IOTLB: the host-physical ``page``, or minus the reason why there is none (caching mode).

    ``granted``: bits 0 to 2 read, write, execute for user requests, bits 3 to 5 for privileged ones. ``level`` is that
    of the entry that named the page.
    """

    page: int
    granted: int
    level: int


class PagingLine(NamedTuple):
    """An entry that names a table: its ``word``, where it lay, and the ``rights`` of it and all above.

    ``rights`` looks like the word itself: permissions that every entry grants, and XD if any one has it.
    """

    word: int
    at: int
    rights: int


class VtdCaches(Part):
    """The caches of one unit."""

    def __init__(self, timeline: Timeline, path: str, identity: VtdIdentity) -> None:
        super().__init__(timeline, path)
        self.keeps_absent = identity.cm
        self.contexts = Table[int, ContextLine](timeline, f"{path}.contexts")
        self.pasids = Table[tuple[int, int], PasidLine](timeline, f"{path}.pasids")
        self.iotlb = Table[tuple[int, int, int], Translation](timeline, f"{path}.iotlb")
        self.paging = Table[tuple[int, int, int, int], PagingLine](timeline, f"{path}.paging")

    # --- what walks keep ----------------------------------------------------------------------------------------------

    def keep(self, did: int, tag: int, page: int, found: Translation) -> None:
        """Keep a translation; what was granted for the same page before stays granted."""
        key = did, tag, page
        known = self.iotlb.get(key)
        if known is not None and known.page == found.page and known.level == found.level:
            found = found._replace(granted=known.granted | found.granted)
        self.iotlb[key] = found

    def table_above(self, did: int, tag: int, address: int, depth: int) -> tuple[int, PagingLine] | None:
        """The lowest kept entry on the way to ``address``, and its level."""
        get = self.paging.get
        for level in range(2, depth + 1):
            line = get((did, tag, level, address >> PT_SHIFT[level]))
            if line is not None:
                return level, line
        return None

    def words_of(self, key: tuple[int, int, int]) -> tuple[int, ...]:
        """A line of the IOTLB as the words of :data:`IOTLB_ENTRY`."""
        (did, tag, page), found = key, self.iotlb[key]
        return IOTLB_ENTRY.encode(
            DID=did,
            PASID=max(tag, 0),
            TAGGED=int(tag != SECOND_LEVEL),
            LEVEL=found.level,
            USER=found.granted & 7 if found.page >= 0 else 0,
            PRIVILEGED=found.granted >> 3 if found.page >= 0 else 0,
            PAGE=page << 12,
            ADDRESS=max(found.page, 0),
        )

    # --- what software asks to forget ---------------------------------------------------------------------------------

    def forget_everything(self) -> None:
        """A new root table on a unit that then forgets by itself (CAP.ESRTPS)."""
        self.forget_contexts()
        self.forget_pasids()
        self.forget_translations()

    def forget_contexts(self, sid: int | None = None, function_mask: int = 0) -> None:
        """Context entries: all, or those of a source id, of whose function number the masked bits do not count."""
        ignored = (0, 0b100, 0b110, 0b111)[function_mask]
        _drop(self.contexts, lambda rid: sid is None or not (rid ^ sid) & ~ignored)

    def forget_pasids(self, did: int | None = None, pasid: int | None = None) -> None:
        """PASID entries: all, those of a domain, or one PASID of it."""
        lines = self.pasids

        def meant(key: tuple[int, int]) -> bool:
            line = lines[key]
            return pasid in (None, key[1]) and (did in (None, line.did) or not line.words[0] & 1)

        _drop(lines, meant)

    def forget_translations(self, did: int | None = None) -> None:
        """Every translation, or every one of a domain: first-level, second-level and nested alike."""
        _drop(self.iotlb, lambda key: did in (None, key[0]))
        _drop(self.paging, lambda key: did in (None, key[0]))

    def forget_second_level(self, did: int, start: int, size: int, *, leaf_only: bool) -> None:
        """The second level of a range of a domain, and with it all other translations of that domain."""
        lines, touches = self.iotlb, _reach(start, size)
        _drop(
            lines,
            lambda key: key[0] == did and (key[1] != SECOND_LEVEL or touches(key[2] << 12, lines[key].level)),
        )
        _drop(self.paging, lambda key: key[0] == did and key[1] != SECOND_LEVEL)
        if not leaf_only:
            self._forget_paging(did, SECOND_LEVEL, start, size)

    def forget_pasid_translations(
        self, did: int, pasid: int, start: int = 0, size: int = WHOLE_SPACE, *, leaf_only: bool = False
    ) -> None:
        """The first-level and nested translations of one PASID, in a range."""
        lines, touches = self.iotlb, _reach(start, size)
        _drop(lines, lambda key: key[:2] == (did, pasid) and touches(key[2] << 12, lines[key].level))
        if not leaf_only:
            self._forget_paging(did, pasid, start, size)

    def _forget_paging(self, did: int, tag: int, start: int, size: int) -> None:
        touches = _reach(start, size)
        _drop(self.paging, lambda key: key[:2] == (did, tag) and touches(key[3] << PT_SHIFT[key[2]], key[2]))


def _reach(start: int, size: int) -> Callable[[int, int], bool]:
    """Whether the page of ``level`` around an address has a byte in the range."""

    def touches(address: int, level: int) -> bool:
        first = address >> PT_SHIFT[level] << PT_SHIFT[level]
        return first < start + size and start < first + (1 << PT_SHIFT[level])

    return touches


def _drop(lines: Table[K, V], meant: Callable[[K], bool]) -> None:
    for key in lines.select(meant):
        del lines[key]
