"""The device's own TLB: what it keeps, what it may do with it, and the only thing that empties it."""

import pytest

from pasidlab.hardware.accelerator.register_map import wqcfg_offset
from pasidlab.hardware.device_tlb import NO_PASID, DeviceLine, DeviceTlb
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.layouts.dsa import WQCFG
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.pcie import Access, InvalidateRequest, TranslationCompletion
from pasidlab.timeline import Timeline, Verb
from tests.worlds import World

RID, PASID, OTHER = 0x6A08, 5, 6
AT, PAGE = 0x7F00_0000_2345, 0x9000
WHOLE = 1 << 64


@pytest.fixture
def tlb():
    """An empty one."""
    return DeviceTlb(Timeline(), "tlb")


def answer(page=PAGE, read=True, write=False, privileged=False):
    """What an IOMMU says."""
    return TranslationCompletion(page, PAGE_SIZE, read, write, privileged=privileged)


# --- lines ------------------------------------------------------------------------------------------------------------


def test_a_line_answers_for_its_page_and_rights(tlb):
    """The offset in the page is kept; another page, another access or another mode is no hit."""
    assert tlb.keep(PASID, AT, answer()) == PAGE | 0x345
    assert tlb.find(PASID, AT + 8, Access.READ, False) == PAGE | 0x34D
    assert tlb.find(PASID, AT, Access.WRITE, False) is None
    assert tlb.find(PASID, AT, Access.ATOMIC, False) is None
    assert tlb.find(PASID, AT + PAGE_SIZE, Access.READ, False) is None
    assert tlb.find(PASID, AT, Access.READ, True) is None


@pytest.mark.parametrize("other", [OTHER, None])
def test_lines_are_tagged_by_the_pasid(tlb, other):
    """Requests without PASID have lines of their own."""
    tlb.keep(PASID, AT, answer())
    assert tlb.find(other, AT, Access.READ, False) is None
    tlb.keep(other, AT, answer(page=PAGE + 0x1000))
    assert tlb.find(PASID, AT, Access.READ, False) == PAGE | 0x345
    assert tlb.find(other, AT, Access.READ, False) == PAGE + 0x1000 | 0x345


@pytest.mark.parametrize(
    ("read", "write", "granted"),
    [
        (True, False, {Access.READ}),
        (False, True, {Access.WRITE}),
        (True, True, {Access.READ, Access.WRITE, Access.ATOMIC}),
        (False, False, set()),
    ],
)
def test_a_line_grants_what_was_granted(read, write, granted):
    """Atomic access needs both rights; a right to read is none to write."""
    line = DeviceLine(PAGE, read, write)
    assert {access for access in (Access.READ, Access.WRITE, Access.ATOMIC) if line.grants(access)} == granted


def test_rights_for_the_same_page_add_up(tlb):
    """A later answer for another access leaves the first right in place."""
    tlb.keep(PASID, AT, answer())
    tlb.keep(PASID, AT, answer(read=False, write=True))
    assert tlb.find(PASID, AT, Access.ATOMIC, False) is not None


def test_rights_for_another_page_do_not(tlb):
    """The page has moved: what was granted for the old one is gone."""
    tlb.keep(PASID, AT, answer())
    tlb.keep(PASID, AT, answer(page=PAGE + 0x1000, read=False, write=True))
    assert tlb.find(PASID, AT, Access.READ, False) is None
    assert tlb.find(PASID, AT, Access.WRITE, False) == PAGE + 0x1000 | 0x345


def test_an_answer_without_rights_is_not_kept(tlb):
    """There is no such page now; there may be one at the next question."""
    assert tlb.keep(PASID, AT, answer(read=False)) is None
    assert not len(tlb.lines)


# --- invalidate requests ----------------------------------------------------------------------------------------------

PAGES = range(8)


@pytest.mark.parametrize(("start", "count"), [(0, 1), (2, 2), (4, 4), (0, 8), (7, 1)])
def test_a_range_is_forgotten_to_the_page(tlb, start, count):
    """First and last page go, their neighbours stay."""
    for page in PAGES:
        tlb.keep(PASID, page * PAGE_SIZE, answer())
    tlb.forget(InvalidateRequest(RID, PASID, start * PAGE_SIZE, count * PAGE_SIZE))
    assert [page for _, page, _ in tlb.lines.keys()] == [page for page in PAGES if not start <= page < start + count]


@pytest.mark.parametrize(
    ("request_", "left"),
    [
        (InvalidateRequest(RID, PASID, 0, WHOLE), {OTHER, NO_PASID}),
        (InvalidateRequest(RID, None, 0, WHOLE), {PASID, OTHER}),
        (InvalidateRequest(RID, 0, 0, WHOLE, all_pasids=True), {NO_PASID}),
        (InvalidateRequest(RID, 7, 0, WHOLE), {PASID, OTHER, NO_PASID}),
    ],
)
def test_whose_lines_an_invalidate_request_names(tlb, request_, left):
    """One PASID, those without, or every PASID; in both modes."""
    for pasid in (PASID, OTHER, None):
        for privileged in (False, True):
            tlb.keep(pasid, AT, answer(privileged=privileged))
    tlb.forget(request_)
    assert {tag for tag, _, _ in tlb.lines.keys()} == left
    assert len(tlb.lines) == 2 * len(left)


def test_the_highest_page_is_part_of_the_whole_address_space(tlb):
    """2^64 bytes from 0 on."""
    tlb.keep(PASID, WHOLE - 1, answer())
    tlb.forget(InvalidateRequest(RID, PASID, 0, WHOLE))
    assert not len(tlb.lines)


# --- the device that has it -------------------------------------------------------------------------------------------


def bound(identity=None, **options):
    """A process that may use the device, with two buffers."""
    world = World(identity=identity)
    if options:
        world.dsa = world.m.plug_accelerator("dsa1", **options)
    world.app = world.m.spawn("app")
    world.pasid = world.app.bind(world.dsa)
    world.src, world.dst = world.app.buffer(b"once and again"), world.app.buffer(14)
    return world


def questions(world, begin):
    """How often the device asked the IOMMU."""
    return len([event for event in world.since(begin) if event.verb is Verb.ATS])


def test_the_device_asks_once_for_each_page_and_access():
    """Source, destination, completion record; then never again."""
    world = bound()
    begin = world.time.now
    assert world.app.copy(world.dsa, world.src, world.dst, 14).ok
    assert questions(world, begin) == 3
    begin = world.time.now
    assert world.app.copy(world.dsa, world.src, world.dst, 14).ok
    assert questions(world, begin) == 0
    assert world.app.read(world.dst, 14) == b"once and again"


@pytest.mark.parametrize(("nwfs", "asked"), [(True, 2), (False, 0)])
def test_a_page_that_was_read_is_asked_for_again_only_where_the_right_is_missing(nwfs, asked):
    """A unit with ECAP.NWFS grants what was asked for; without it the first answer held both rights."""
    world = bound(identity=VtdIdentity(nwfs=nwfs))
    assert world.app.copy(world.dsa, world.src, world.dst, 14).ok
    begin = world.time.now
    assert world.app.copy(world.dsa, world.dst, world.src, 14).ok
    assert questions(world, begin) == asked


def test_a_line_for_reading_does_not_let_a_read_only_page_be_written():
    """The device asks again, and there is no such right."""
    world = bound()
    with world.time.operation("mmap"):
        page = world.app.process.mm.mmap(PAGE_SIZE, writable=False)
    assert world.app.copy(world.dsa, page, world.dst, 14).ok
    begin = world.time.now
    assert not world.app.copy(world.dsa, world.src, page, 14).ok
    assert questions(world, begin) >= 1
    assert world.app.read(page, 14) == bytes(14)


def test_what_the_device_uses_from_its_tlb_is_a_translated_request():
    """The DMA event names the address that the process knows, and the page that was reached."""
    world = bound()
    world.app.copy(world.dsa, world.src, world.dst, 14)
    begin = world.time.now
    world.app.copy(world.dsa, world.src, world.dst, 14)
    moved = [event for event in world.since(begin) if event.verb is Verb.DMA]
    physical = world.app.process.mm.physical
    assert [(event.fact("address"), event.fact("hpa")) for event in moved[:2]] == [
        (world.src, physical(world.src)),
        (world.dst, physical(world.dst)),
    ]


def test_two_processes_share_the_device_but_no_line():
    """Equal virtual addresses, different PASIDs."""
    world = bound()
    other = world.m.spawn("other")
    other.bind(world.dsa)
    src, dst = other.buffer(b"somebody else!"), other.buffer(14)
    assert (src, dst) == (world.src, world.dst)
    for _ in range(2):
        assert world.app.copy(world.dsa, src, dst, 14).ok
        assert other.copy(world.dsa, src, dst, 14).ok
    assert (world.app.read(dst, 14), other.read(dst, 14)) == (b"once and again", b"somebody else!")


def test_a_device_without_ats_has_nothing_to_keep():
    """Every access goes to the IOMMU as it is."""
    world = bound(ats=False)
    begin = world.time.now
    assert world.app.copy(world.dsa, world.src, world.dst, 14).ok
    assert questions(world, begin) == 0
    assert not len(world.dsa.hardware.tlb.lines)


def test_a_queue_can_do_without_ats():
    """WQCFG.ats_disable: its descriptors send untranslated requests."""
    world = bound()
    device = world.dsa.hardware
    wq = world.m.kernel.accelerators["dsa0"].queue_of(world.app.process).index
    with world.time.operation("ats_disable"):
        words = WQCFG.change(device.wq_words(wq), ats_disable=1)
        device.put_words(wqcfg_offset(wq), WQCFG, words)
    assert world.app.copy(world.dsa, world.src, world.dst, 14).ok
    assert not len(device.tlb.lines)


def test_a_stale_line_is_used_without_asking():
    """The most dangerous of all caches: the tables say no, and the device goes on writing."""
    world = bound()
    world.app.copy(world.dsa, world.src, world.dst, 14)
    physical = world.app.process.mm.physical(world.dst)
    with world.time.operation("the page goes, and nobody is told"):
        world.app.process.mm.table.unmap(world.dst)
    assert world.m.dma(world.dsa, world.pasid, world.dst, "write", tlb=True) == physical
    assert world.m.memory.read(physical, 8) == bytes(8)
    assert 13 in {one.rule.number for one in world.m.check().violations}
