"""What an SMMU keeps of the tables that it has read: configuration caches, and the TLB.

All of them may be stale: nothing here looks at memory, and nothing leaves before software asks for it. Hardware may
drop a line at any time; this unit never does, which is the hardest case for software, and the same in every run.

=======================  =======================  ==================================================================
cache                    tag                      holds
=======================  =======================  ==================================================================
STE cache                StreamID                 the stream table entry
CD cache                 StreamID, SubstreamID    the context descriptor
L1 descriptors           StreamID (SubstreamID)   entries of the first level of stream and CD tables
TLB, stage 1 or both     VMID, ASID, page         the page and the rights that both stages gave; a global page
                                                  (nG=0) is found under any ASID
TLB, stage 2             VMID, page               the same; also used on the way through a nested walk
=======================  =======================  ==================================================================

Configuration caches keep what is not valid too, as the specification allows (3.21): software must send CFGI when it
makes an entry valid, not only when it changes one. A TLB line exists for translations that succeeded; an access that
it does not grant walks again (hardware may as well fault from the line). It is looked up without the StreamID: two
streams whose contexts have one ASID and VMID share lines, as they do in the specification, even if one of them has
walks disabled (EPD: a hit is allowed, 5.4.1).

Source: specification (IHI 0070) 3.17, 3.21, 4.3 and 4.4. A stage-2 invalidation by address leaves lines of both stages
alone (4.4.3.1: software follows it with one by VMID or ASID). Large pages are kept in pieces of 4 KiB that are
invalidated together. Tables between root and page are not kept. UNVERIFIED choice, allowed: SMMUEN=0 and a new stream
table empty nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from pasidlab.hardware.bits import Field, Layout
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.smmuv3.rules import SmmuRules, Stage
    from pasidlab.timeline import Timeline

__all__ = [
    "CD_CACHE",
    "CD_TABLE_CACHE",
    "GLOBAL",
    "SECOND_STAGE",
    "STE_CACHE",
    "STREAM_TABLE_CACHE",
    "TLB",
    "TLB_ENTRY",
    "CdLine",
    "Descriptor",
    "SmmuCaches",
    "SteLine",
    "Translation",
]

_CONTEXT_POINTER: Final = 0xF_FFFF_FFFF_FFC0
"""The bits of S1ContextPtr in its word."""
STE_CACHE: Final = "STE cache"
CD_CACHE: Final = "CD cache"
STREAM_TABLE_CACHE: Final = "stream table cache"
CD_TABLE_CACHE: Final = "CD table cache"
TLB: Final = "TLB"

K = TypeVar("K", int, tuple[int, int], tuple[int, int, int])
V = TypeVar("V")

SECOND_STAGE: Final = -1
"""In place of the ASID in the tag of what stage 2 alone decides."""
GLOBAL: Final = -2
"""The same for pages that every ASID of the VMID shares."""

TLB_ENTRY: Final = Layout(
    "smmu_tlb_entry",
    24,
    (
        Field("VMID", 0, 15, "virtual machine"),
        Field("ASID", 16, 31, "address space, for translations of stage 1 or of both stages"),
        Field("STAGE1", 32, 32, "stage 1 has a part in it"),
        Field("GLOBAL", 33, 33, "for every ASID"),
        Field("SIZE", 34, 39, "log2 of the page or block that was translated (the smaller one of two stages)"),
        Field("USER", 40, 42, "granted to unprivileged accesses: read, write, execute"),
        Field("PRIVILEGED", 43, 45, "granted to privileged accesses: read, write, execute"),
        Field("DEVICE", 46, 46, "stage 2 says that it is no memory; with S2PTW no table may lie there"),
        Field("PAGE", 76, 127, "the page that is asked for", 12),
        Field("ADDRESS", 140, 191, "the page that it lies on", 12),
    ),
    "this model: a cache inside the unit, which no software sees",
)


class Descriptor(NamedTuple):
    """An entry of a first-level table: its word, and where it lay."""

    word: int
    at: int


class SteLine(NamedTuple):
    """A stream table entry, where it lay, and what every transaction asks of it. ``bad``: ILLEGAL or not valid.

    ``cdmax`` is 0 where no SubstreamID is taken; ``split`` the low bits of a SubstreamID that choose within a leaf, 0
    for a linear table; ``second`` the stage-2 table if there is one.
    """

    words: tuple[int, ...]
    at: int
    bad: bool
    config: int
    cdmax: int
    split: int
    dss: int
    context: int
    eats: int
    stalls_disabled: bool
    vmid: int
    second: Stage | None
    records: bool
    protects_walks: bool

    @property
    def stage1(self) -> bool:
        """Whether stage 1 translates."""
        return self.config & 5 == 5

    @classmethod
    def of(cls, words: tuple[int, ...], at: int, rules: SmmuRules) -> SteLine:
        """The line of the entry ``words``."""
        first, second, third = words[:3]
        config, card, bad = first >> 1 & 7, rules.identity, rules.bad_ste(words)
        cdmax = first >> 59 if card.ssidsize and config & 5 == 5 else 0
        return cls(
            words=words,
            at=at,
            bad=bad,
            config=config if config & 4 else 0,
            cdmax=cdmax,
            split=(0, 6, 10, 0)[first >> 4 & 3] if cdmax else 0,
            dss=second & 3,
            context=first & _CONTEXT_POINTER,
            eats=(0, 1, 2, 0)[second >> 28 & 3] if card.ats and config & 4 and config & 3 else 0,
            stalls_disabled=bool(second >> 27 & 1),
            vmid=third & 0xFFFF if card.s2p else 0,
            second=rules.second(words) if config & 6 == 6 and not bad else None,
            records=bool(third >> 58 & 1),
            protects_walks=bool(third >> 54 & 1),
        )


class CdLine(NamedTuple):
    """A context descriptor, where it lay, and what every translation asks of it. ``bad``: ILLEGAL or not valid.

    ``address`` is the intermediate physical address that it was read at, when stage 2 is on. ``lower`` and ``upper``
    are the tables of the two halves; ``None``: walks are disabled (EPD).
    """

    words: tuple[int, ...]
    at: int
    address: int
    bad: bool
    asid: int
    lower: Stage | None
    upper: Stage | None
    ignores_top: tuple[bool, bool]
    ignores_access_flag: bool
    stalls: bool
    records: bool

    @classmethod
    def of(cls, words: tuple[int, ...], at: int, address: int, ste: SteLine, rules: SmmuRules) -> CdLine:
        """The line of the descriptor ``words`` of the stream ``ste``."""
        low, bad = words[0], rules.bad_cd(words, ste.stalls_disabled)
        return cls(
            words=words,
            at=at,
            address=address,
            bad=bad,
            asid=low >> 48,
            lower=None if bad or low >> 14 & 1 else rules.first(words, 0),
            upper=None if bad or low >> 30 & 1 else rules.first(words, 1),
            ignores_top=(bool(low >> 38 & 1), bool(low >> 39 & 1)),
            ignores_access_flag=bool(low >> 35 & 1),
            stalls=bool(low >> 44 & 1),
            records=bool(low >> 45 & 1),
        )


class Translation(NamedTuple):
    """A line of the TLB: the physical ``page`` of 4 KiB, the rights, the size of what was translated.

    ``granted``: bits 0 to 2 read, write, execute for unprivileged accesses, bits 3 to 5 for privileged ones. ``size``
    is log2 of the page or block; ``first`` the same of stage 1 alone, by which invalidations go. ``device``: stage 2
    says that it is no memory.
    """

    page: int
    granted: int
    size: int
    first: int
    device: bool = False


class SmmuCaches(Part):
    """The caches of one unit."""

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.streams = Table[int, Descriptor](timeline, f"{path}.streams")
        self.stes = Table[int, SteLine](timeline, f"{path}.stes")
        self.contexts = Table[tuple[int, int], Descriptor](timeline, f"{path}.contexts")
        self.cds = Table[tuple[int, int], CdLine](timeline, f"{path}.cds")
        self.tlb = Table[tuple[int, int, int], Translation](timeline, f"{path}.tlb")

    def find(self, vmid: int, asid: int, page: int) -> tuple[int, Translation] | None:
        """A line of stage 1 or of both stages, and the ASID of its tag."""
        for tag in (asid, GLOBAL):
            found = self.tlb.get((vmid, tag, page))
            if found is not None:
                return tag, found
        return None

    def words_of(self, key: tuple[int, int, int]) -> tuple[int, ...]:
        """A line of the TLB as the words of :data:`TLB_ENTRY`."""
        (vmid, tag, page), found = key, self.tlb[key]
        return TLB_ENTRY.encode(
            VMID=vmid,
            ASID=max(tag, 0),
            STAGE1=int(tag != SECOND_STAGE),
            GLOBAL=int(tag == GLOBAL),
            SIZE=found.size,
            USER=found.granted & 7,
            PRIVILEGED=found.granted >> 3,
            DEVICE=int(found.device),
            PAGE=page << 12,
            ADDRESS=found.page,
        )

    # --- what software asks to forget: configuration ------------------------------------------------------------------

    def forget_streams(self, sid: int, count: int, *, split: int, tables: bool = True) -> None:
        """``count`` streams from ``sid`` on, with every context of theirs; with ``tables`` the descriptors above."""
        _drop(self.stes, lambda key: sid <= key < sid + count)
        if tables:
            _drop(self.streams, lambda key: sid >> split <= key <= sid + count - 1 >> split)
        _drop(self.cds, lambda key: sid <= key[0] < sid + count)
        _drop(self.contexts, lambda key: sid <= key[0] < sid + count)

    def forget_context(self, sid: int, ssid: int, *, tables: bool) -> None:
        """One context descriptor; with ``tables`` the entry above it, whatever the size of its leaf."""
        if (sid, ssid) in self.cds:
            del self.cds[sid, ssid]
        if tables:
            _drop(self.contexts, lambda key: key[0] == sid and key[1] in (ssid >> 6, ssid >> 10))

    def forget_contexts(self, sid: int) -> None:
        """Every context of a stream."""
        _drop(self.cds, lambda key: key[0] == sid)
        _drop(self.contexts, lambda key: key[0] == sid)

    # --- what software asks to forget: translations -------------------------------------------------------------------

    def forget_everything(self) -> None:
        """Every translation."""
        _drop(self.tlb, lambda key: True)

    def forget_machine(self, vmid: int, *, stage2: bool) -> None:
        """Translations of a VMID; without ``stage2`` those that stage 1 has a part in."""
        _drop(self.tlb, lambda key: key[0] == vmid and (stage2 or key[1] != SECOND_STAGE))

    def forget_space(self, vmid: int, asid: int) -> None:
        """Translations of one ASID; global pages are not among them."""
        _drop(self.tlb, lambda key: key[:2] == (vmid, asid))

    def forget_pages(self, vmid: int, asid: int | None, start: int, size: int) -> None:
        """Stage 1 of some pages: of one ASID (and global ones), or with ``None`` of every ASID."""
        lines, end = self.tlb, start + size

        def meant(key: tuple[int, int, int]) -> bool:
            of_space = key[1] != SECOND_STAGE if asid is None else key[1] in (asid, GLOBAL)
            return key[0] == vmid and of_space and _touches(key[2] << 12, lines[key].first, start, end)

        _drop(lines, meant)

    def forget_intermediate(self, vmid: int, start: int, size: int) -> None:
        """Stage 2 of some pages."""
        lines, end = self.tlb, start + size
        _drop(
            lines,
            lambda key: key[:2] == (vmid, SECOND_STAGE) and _touches(key[2] << 12, lines[key].size, start, end),
        )


def _touches(address: int, size: int, start: int, end: int) -> bool:
    """Whether the block of ``1 << size`` bytes around an address has a byte in the range."""
    first = address >> size << size
    return first < end and start < first + (1 << size)


def _drop(lines: Table[K, V], meant: Callable[[K], bool]) -> None:
    for key in lines.select(meant):
        del lines[key]
