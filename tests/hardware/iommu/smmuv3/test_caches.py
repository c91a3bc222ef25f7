"""What the unit keeps: stale answers until the right command, and what each command takes along."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.iommu.smmuv3.caches import (
    CD_CACHE,
    CD_TABLE_CACHE,
    STE_CACHE,
    STREAM_TABLE_CACHE,
    TLB,
    TLB_ENTRY,
)
from pasidlab.hardware.layouts.smmu import CD, CD_TABLE_DESC, STE, STREAM_TABLE_DESC
from pasidlab.hardware.pcie import Access
from tests.hardware.iommu.smmuv3.by_hand import (
    CONTEXTS,
    FIRST,
    IOVA,
    LEAF,
    NEIGHBOUR,
    PAGE,
    PASID,
    RID,
    SECOND,
    STREAMS,
    STREAMS_2,
    Bench,
    command,
)

VMID, ASID = 7, 5
OFFSET = IOVA & 0xFFF
THERE, OTHER = PAGE | OFFSET, 0x6_0000 | OFFSET
FLUSH = (command("cfgi_all", range=31), command("tlbi_nsnh_all"))


@pytest.fixture
def bench():
    """Stage 1 on a unit that keeps what it reads, after a first request."""
    found = Bench(caches=True)
    found.cd()
    found.first()
    assert found.ask() == THERE
    return found


@pytest.fixture
def nested():
    """The same for both stages."""
    found = Bench(caches=True)
    found.nested()
    assert found.ask() == THERE
    return found


def lines(bench, *rids, every=False):
    """The cached lines that disagree with the tables."""
    present = [entry for rid in rids or (RID,) for entry in bench.unit.entries(rid)]
    return [(line.cache, line.orphan, line.guest) for line in bench.unit.cache_lines(present, every=every)]


# --- stale answers, and what mends them -------------------------------------------------------------------------------


def test_a_second_request_is_answered_by_the_caches(bench):
    """STE, CD and TLB; a question asks them too, and says so."""
    assert bench.sources() == [STE_CACHE, CD_CACHE, TLB]
    assert lines(bench) == []
    assert {name for name, _, _ in lines(bench, every=True)} == {
        *(STE_CACHE, CD_CACHE, TLB, STREAM_TABLE_CACHE, CD_TABLE_CACHE),
    }


def test_a_question_keeps_nothing():
    """Only requests that happen do."""
    bench = Bench(caches=True)
    bench.cd()
    bench.first()
    bench.unit.walk(bench.request())
    assert (len(bench.unit.caches.stes), len(bench.unit.caches.tlb)) == (0, 0)


def test_a_unit_may_keep_nothing():
    """The identity says so."""
    bench = Bench(caches=False)
    bench.cd()
    bench.first()
    bench.ask()
    bench.first(page=OTHER & ~0xFFF)
    assert bench.ask() == OTHER


@pytest.mark.parametrize(
    ("words", "mends"),
    [
        (command("tlbi_nh_va", VMID=VMID, ASID=ASID, addr=IOVA & ~0xFFF, leaf=1), True),
        (command("tlbi_nh_va", VMID=VMID, ASID=ASID, addr=(IOVA & ~0xFFF) - 0x1000, TG=1, NUM=1), True),
        (command("tlbi_nh_vaa", VMID=VMID, addr=IOVA & ~0xFFF), True),
        (command("tlbi_nh_asid", VMID=VMID, ASID=ASID), True),
        (command("tlbi_nh_all", VMID=VMID), True),
        (command("tlbi_s12_vmall", VMID=VMID), True),
        (command("tlbi_nsnh_all"), True),
        (command("tlbi_nh_va", VMID=VMID, ASID=ASID, addr=(IOVA & ~0xFFF) + 0x1000), False),
        (command("tlbi_nh_va", VMID=VMID, ASID=6, addr=IOVA & ~0xFFF), False),
        (command("tlbi_nh_va", VMID=8, ASID=ASID, addr=IOVA & ~0xFFF), False),
        (command("tlbi_nh_asid", VMID=VMID, ASID=6), False),
        (command("tlbi_nh_asid", VMID=8, ASID=ASID), False),
        (command("tlbi_s2_ipa", VMID=VMID, IPA=IOVA & ~0xFFF), False),
        (command("cfgi_all", range=31), False),
        (command("atc_inv", SID=RID, SIZE=52), False),
    ],
)
def test_a_page_that_was_moved_is_found_when_the_tlb_was_told(bench, words, mends):
    """By address, ASID, VMID, or everything; another address, ASID, VMID, stage or cache does not help."""
    bench.first(page=OTHER & ~0xFFF)
    assert (bench.ask(), bench.uncached()) == (THERE, OTHER)
    assert lines(bench) == [(TLB, False, False)]
    bench.tell(words)
    assert bench.ask() == (OTHER if mends else THERE)
    assert bool(lines(bench)) is not mends


@pytest.mark.parametrize(
    ("words", "mends"),
    [
        (command("cfgi_cd", SID=RID, SSID=PASID, leaf=1), True),
        (command("cfgi_cd_all", SID=RID), True),
        (command("cfgi_ste", SID=RID, leaf=1), True),
        (command("cfgi_all", range=31), True),
        (command("cfgi_all", SID=RID & ~7, range=2), True),
        (command("cfgi_all", SID=RID ^ 8, range=2), False),
        (command("cfgi_cd", SID=RID, SSID=PASID + 1), False),
        (command("cfgi_cd", SID=NEIGHBOUR, SSID=PASID), False),
        (command("cfgi_ste", SID=NEIGHBOUR), False),
        (command("tlbi_nsnh_all"), False),
    ],
)
def test_a_context_descriptor_that_changed_is_seen_when_its_cache_was_told(bench, words, mends):
    """By substream, by stream, by a range of streams, or everything; TLBI alone does not help."""
    bench.cd(ASID=6, TTB0=0x30_0000)
    bench.first(base=0x30_0000, page=OTHER & ~0xFFF)
    assert bench.ask() == THERE
    assert (CD_CACHE, False, False) in lines(bench)
    bench.tell(words)
    assert bench.ask() == (OTHER if mends else THERE)


@pytest.mark.parametrize("leaf", [0, 1])
def test_making_an_entry_valid_needs_an_invalidation_too(leaf):
    """What is not valid is kept: stream table entry and context descriptor."""
    bench = Bench(caches=True)
    bench.ste(V=0)
    assert bench.ask() == "C_BAD_STE"
    bench.ste()
    assert bench.ask() == "C_BAD_STE"
    bench.tell(command("cfgi_ste", SID=RID, leaf=leaf))
    bench.cd(V=0)
    bench.first()
    assert bench.ask() == "C_BAD_CD"
    bench.cd()
    assert bench.ask() == "C_BAD_CD"
    assert lines(bench) == [(CD_CACHE, False, False)]
    bench.tell(command("cfgi_cd", SID=RID, SSID=PASID, leaf=leaf))
    assert bench.ask() == THERE
    assert lines(bench) == []


def test_entries_of_first_levels_need_more_than_a_leaf_invalidation():
    """Leaf=1 spares them; Leaf=0 takes them along."""
    bench = Bench(caches=True)
    bench.first()
    assert bench.ask() == "C_BAD_SUBSTREAMID"
    bench.cd()
    bench.tell(command("cfgi_cd", SID=RID, SSID=PASID, leaf=1))
    assert bench.ask() == "C_BAD_SUBSTREAMID"
    assert lines(bench) == [(CD_TABLE_CACHE, False, False)]
    bench.tell(command("cfgi_cd", SID=RID, SSID=PASID ^ 1))
    assert bench.ask() == THERE
    bench.memory.store(STREAMS + (RID >> 8) * 8, STREAM_TABLE_DESC.encode(span=0)[0])
    bench.tell(command("cfgi_ste", SID=RID, leaf=1))
    assert bench.ask() == THERE
    assert (STREAM_TABLE_CACHE, False, False) in lines(bench)
    bench.tell(command("cfgi_ste", SID=RID))
    assert bench.ask() == "C_BAD_STREAMID"


def test_an_invalidation_of_a_stream_takes_its_contexts_along(bench):
    """CFGI_STE, whatever Leaf says; the TLB is not touched."""
    bench.tell(command("cfgi_ste", SID=RID, leaf=1))
    caches = bench.unit.caches
    assert (len(caches.stes), len(caches.cds), len(caches.contexts), len(caches.tlb)) == (0, 0, 0, 1)


def test_switching_off_and_on_forgets_nothing(bench):
    """Software must invalidate; so must it after a new stream table."""
    bench.ste(V=0)
    bench.again(base=0x2000)
    assert bench.ask() == THERE
    bench.tell(*FLUSH)
    assert bench.ask() == "C_BAD_STREAMID"


def test_an_access_that_was_not_granted_walks_again(bench):
    """A page that became writable needs no invalidation; one that is not any more does."""
    bench.first(AP=3)
    bench.tell(*FLUSH)
    assert bench.ask(Access.WRITE) == "F_PERMISSION"
    assert bench.ask() == THERE
    bench.first()
    assert bench.ask(Access.WRITE) == THERE
    bench.first(AP=3)
    assert bench.ask(Access.WRITE) == THERE
    assert lines(bench) == [(TLB, False, False)]


def test_a_fault_is_not_kept(bench):
    """A page that appears is found without an invalidation."""
    bench.first(IOVA + 0x1000, TYPE=0)
    assert bench.ask(address=IOVA + 0x1000) == "F_TRANSLATION"
    bench.first(IOVA + 0x1000)
    assert bench.ask(address=IOVA + 0x1000) == THERE


def test_a_block_is_invalidated_by_any_address_in_it():
    """All of its pieces go together."""
    bench = Bench(caches=True)
    bench.cd()
    bench.first(leaf=2, page=0)
    pieces = [IOVA & -0x20_0000, IOVA, IOVA | 0x1F_F000]
    for address in pieces:
        bench.ask(address=address)
    assert len(bench.unit.caches.tlb) == 3
    bench.tell(command("tlbi_nh_va", VMID=VMID, ASID=ASID, addr=IOVA & -0x20_0000 | 0x5000))
    assert len(bench.unit.caches.tlb) == 0


def test_streams_with_one_asid_share_translations(bench):
    """The TLB does not know the stream: a neighbour whose context has the same ASID needs no walk of its own."""
    bench.ste(NEIGHBOUR)
    assert bench.ask(rid=NEIGHBOUR) == THERE
    assert len(bench.unit.caches.tlb) == 1


def test_a_global_page_is_for_every_asid(bench):
    """nG=0: found under another ASID; TLBI by ASID spares it, by address it goes."""
    bench.first(nG=0)
    bench.tell(*FLUSH)
    bench.cd(PASID + 1, ASID=9)
    assert (bench.ask(), bench.ask(pasid=PASID + 1)) == (THERE, THERE)
    assert len(bench.unit.caches.tlb) == 1
    bench.tell(command("tlbi_nh_asid", VMID=VMID, ASID=ASID))
    assert len(bench.unit.caches.tlb) == 1
    bench.tell(command("tlbi_nh_va", VMID=VMID, ASID=9, addr=IOVA & ~0xFFF))
    assert len(bench.unit.caches.tlb) == 0


def test_a_unit_without_stage_2_has_no_vmids():
    """The VMID of a command is ignored there."""
    bench = Bench(caches=True, s2p=False)
    bench.cd()
    bench.first()
    bench.ask()
    bench.tell(command("tlbi_nh_asid", VMID=0x55, ASID=ASID))
    assert len(bench.unit.caches.tlb) == 0


# --- both stages ------------------------------------------------------------------------------------------------------


def test_stage_2_alone_keeps_lines_of_its_own(nested):
    """Seven intermediate pages; the combined one is found first."""
    tags = [key[1] for key in nested.unit.caches.tlb.keys()]
    assert (tags.count(-1), tags.count(ASID)) == (7, 1)
    assert nested.sources() == [STE_CACHE, CD_CACHE, TLB]


def test_an_invalidation_of_stage_2_by_address_leaves_combined_lines(nested):
    """The hypervisor must follow it with one by VMID."""
    nested.second(PAGE, 0x60_0000)
    nested.tell(command("tlbi_s2_ipa", VMID=VMID, IPA=PAGE))
    assert nested.ask() == THERE
    assert lines(nested) == [(TLB, False, True)]
    nested.tell(command("tlbi_nh_all", VMID=VMID))
    assert nested.ask() == 0x60_0000 | OFFSET


def test_a_stale_line_of_stage_2_is_used_on_the_way(nested):
    """Until TLBI_S2_IPA or S12_VMALL."""
    moved = 0x60_0000
    nested.memory.write(moved, bytes(4096))
    nested.second(FIRST, moved)
    nested.tell(command("tlbi_nh_all", VMID=VMID))
    assert nested.ask() == THERE
    assert (TLB, False, False) in lines(nested)
    nested.tell(command("tlbi_s12_vmall", VMID=VMID))
    assert nested.ask() == "F_TRANSLATION"


def test_what_a_guest_does_not_invalidate_is_its_own_affair(nested):
    """Lines of a nested stream's contexts and translations are marked as the guest's."""
    nested.cd(V=0)
    assert set(lines(nested)) == {(CD_CACHE, True, True), (TLB, True, True)}
    nested.cd()
    nested.first(page=0x60_0000)
    nested.second(0x60_0000)
    assert set(lines(nested)) == {(TLB, False, True)}


# --- what is listed ---------------------------------------------------------------------------------------------------


def test_lines_of_what_is_gone_are_orphans(bench):
    """The entry, the descriptor and the translation of a stream that is not valid any more."""
    bench.ste(V=0)
    gone = {(name, True, False) for name in (STE_CACHE, CD_TABLE_CACHE, CD_CACHE, TLB)}
    assert set(lines(bench)) == gone
    bench.tell(command("cfgi_ste", SID=RID), command("tlbi_nh_asid", VMID=VMID, ASID=ASID))
    assert lines(bench) == []


def test_a_tlb_line_is_decoded_by_its_layout(bench):
    """Tag, size, rights and both addresses."""
    (line,) = [one for one in bench.unit.cache_lines(bench.unit.entries(RID), every=True) if one.cache == TLB]
    at = TLB_ENTRY.decode(line.words)
    assert (at["VMID"], at["ASID"], at["STAGE1"], at["SIZE"]) == (VMID, ASID, 1, 12)
    assert (at["PAGE"], at["ADDRESS"], at["USER"], at["PRIVILEGED"]) == (IOVA & ~0xFFF, PAGE, 7, 3)


def test_entries_of_a_stream_with_stage_1_are_its_context_descriptors():
    """Lowest first; PASID 0 as S1DSS says; what would fault is left out."""
    bench = Bench()
    bench.cd(ASID=PASID)
    for pasid in (1, 0):
        bench.cd(pasid, 0x6_0000, ASID=9)
    bench.cd(2, 0x6_0000, AA64=0)
    found = bench.unit.entries(RID)
    assert [(one.pasid, one.kind, one.tag, one.first) for one in found] == [
        (pasid, EntryKind.FIRST, VMID, FIRST) for pasid in (0, 1, PASID)
    ]
    assert found[2].address == LEAF + (PASID & 0x3FF) * 64
    assert (found[2].layout, found[2].field("ASID"), found[2].guest_address) == (CD, PASID, None)
    bench.ste(S1DSS=0)
    assert [one.pasid for one in bench.unit.entries(RID)] == [1, PASID]
    bench.ste(S1DSS=1)
    bypassed = bench.unit.entries(RID)[0]
    assert (bypassed.pasid, bypassed.kind) == (0, EntryKind.PASS_THROUGH)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (0, []),
        (4, [(0, EntryKind.PASS_THROUGH, 0, None)]),
        (6, [(0, EntryKind.SECOND, SECOND, None)]),
        (7, [(PASID, EntryKind.NESTED, SECOND, LEAF + (PASID & 0x3FF) * 64)]),
    ],
)
def test_entries_of_the_other_configurations(config, expected):
    """None, pass-through, stage 2, both; of a guest's table also where the guest has it."""
    bench = Bench()
    bench.nested()
    bench.stage_2(config)
    found = bench.unit.entries(RID)
    assert [(one.pasid, one.kind, one.second, one.guest_address) for one in found] == expected


@pytest.mark.parametrize(("fmt", "most"), [(0, 4), (0, 8), (1, 8), (2, 12)])
def test_entries_are_found_in_every_kind_of_table(fmt, most):
    """Linear tables, and leaves of both sizes."""
    bench = Bench()
    bench.ste(S1Fmt=fmt, S1CDMax=most, S1ContextPtr=0x30_0000, S1DSS=0)
    split = {0: 0, 1: 6, 2: 10}[fmt]
    numbers = [1, 5, (1 << most) - 1]
    for number in numbers:
        table = 0x30_0000
        if split:
            table = 0x20_0000 + (number >> split) * 0x1_0000
            bench.memory.store(0x30_0000 + (number >> split) * 8, CD_TABLE_DESC.encode(V=1, L2Ptr=table)[0])
        at = table + 64 * (number & (1 << split) - 1 if split else number)
        bench.memory.store_words(at, bench.cd_words())
    assert [one.pasid for one in bench.unit.entries(RID)] == numbers


def test_a_stream_that_is_not_there_has_no_entries():
    """Not valid, or beyond the table."""
    bench = Bench()
    bench.cd()
    assert bench.unit.entries(NEIGHBOUR) == []
    bench.memory.store_words(STREAMS_2 + (RID & 0xFF) * 64, STE.encode(V=1, Config=5, S1ContextPtr=CONTEXTS))
    assert [one.pasid for one in bench.unit.entries(RID)] == []
