"""Rules 10 and 13 for caches: a line is compared with a walk of the tables alone; what differs is named."""

import pytest

from pasidlab.hardware.device_tlb import DeviceLine
from pasidlab.hardware.iommu.vtd.caches import CONTEXT_CACHE, IOTLB, PAGING_CACHE, PASID_CACHE
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.invariants.caches import DEVICE_TLB, cache_lines
from tests.worlds import TwoVms, World

CACHES = {CONTEXT_CACHE, PASID_CACHE, IOTLB, PAGING_CACHE}


def used(**names):
    """A native process that has used these devices."""
    world = World()
    world.plain = world.m.plug_accelerator("dsa1", ats=False)
    world.app = world.m.spawn("app")
    devices = [getattr(world, name) for name, wanted in names.items() if wanted]
    for device in devices:
        world.pasid = world.app.bind(device)
    world.src, world.dst = world.app.buffer(b"x" * PAGE_SIZE), world.app.buffer(PAGE_SIZE)
    for device in devices:
        assert world.app.copy(device, world.src, world.dst, PAGE_SIZE).ok
    return world


@pytest.fixture
def world():
    """A device with a TLB and one without."""
    return used(dsa=True, plain=True)


def wrong(world):
    """The caches with lines that the tables contradict, by rule."""
    found: dict[int, set[str]] = {}
    for line in cache_lines(world.m):
        if line.said:
            found.setdefault(10 if line.orphan else 13, set()).add(line.cache)
    broken = {one.rule.number for one in world.m.check().violations}
    assert broken >= set(found), "what a line says wrong is a broken rule"
    return found


def behind_the_back(world, change):
    """Do something to the tables that no driver would do alone."""
    with world.time.operation("behind the back"):
        return change()


def test_every_line_of_every_cache_is_listed(world):
    """Context cache, PASID cache, IOTLB, paging structures, and each device's TLB."""
    lines = list(cache_lines(world.m))
    assert {line.cache for line in lines} == {*CACHES, f"{DEVICE_TLB} of dsa0"}
    caches = world.m.unit.caches
    tables = (caches.contexts, caches.pasids, caches.iotlb, caches.paging, world.dsa.hardware.tlb.lines)
    assert len(lines) == sum(len(table) for table in tables)
    assert wrong(world) == {}


def test_a_line_says_what_it_holds_in_words(world):
    """Cache, tag, and that the tables agree."""
    texts = [str(line) for line in cache_lines(world.m)]
    assert all(text.endswith("the tables agree") for text in texts)
    assert any(f"PASID {world.pasid}, {world.src:#x}" in text for text in texts)
    (line,) = [line for line in cache_lines(world.m) if line.cache == IOTLB and line.tag.endswith(f"{world.src:#x}")]
    assert line.layout is not None
    assert line.layout.decode(line.words)["ADDRESS"] == world.app.process.mm.physical(world.src)


def test_a_page_that_moved_is_stale_in_iotlb_and_device_tlb(world):
    """13: the tables lead elsewhere. Nothing else is wrong."""
    table = world.app.process.mm.table
    frame = world.m.kernel.pages

    def move():
        table.unmap(world.src)
        table.map(world.src, frame.alloc())

    behind_the_back(world, move)
    assert wrong(world) == {13: {IOTLB, f"{DEVICE_TLB} of dsa0"}}
    assert any("the tables lead to" in str(one) for one in world.m.check().violations)


def test_a_page_that_went_is_stale_with_the_fault_that_there_would_be(world):
    """13: 0x71."""
    behind_the_back(world, lambda: world.app.process.mm.table.unmap(world.dst))
    assert wrong(world) == {13: {IOTLB, f"{DEVICE_TLB} of dsa0"}}
    assert any("0x71" in line.said for line in cache_lines(world.m))


@pytest.mark.parametrize(("page", "stale"), [("src", False), ("dst", True)])
def test_a_right_that_was_lost_counts_where_it_was_granted(page, stale):
    """Read-only now: what was kept for reading is right, what was kept for writing is not."""
    world = used(plain=True)
    address, table = getattr(world, page), world.app.process.mm.table
    frame = table.find(address)

    def protect():
        table.unmap(address)
        table.map(address, frame, writable=False)

    behind_the_back(world, protect)
    assert (wrong(world) != {}) is stale


def test_a_right_that_was_gained_is_no_contradiction(world):
    """The next access that needs it walks."""
    with world.time.operation("read-only"):
        at = world.app.process.mm.mmap(PAGE_SIZE, writable=False)
    assert world.app.copy(world.plain, at, world.dst, 8).ok
    table = world.app.process.mm.table
    frame = table.find(at)

    def allow():
        table.unmap(at)
        table.map(at, frame)

    behind_the_back(world, allow)
    assert wrong(world) == {}
    assert world.app.copy(world.plain, world.dst, at, 8).ok


def test_accessed_bits_are_no_contradiction(world):
    """The unit sets them behind everybody's back; what it read before was another word."""
    more = world.app.buffer(b"y")
    assert world.app.copy(world.plain, more, world.dst, 1).ok
    assert wrong(world) == {}


def test_a_table_that_was_exchanged_is_stale_in_the_paging_structure_cache(world):
    """13, although the pages are the same."""
    memory, root = world.m.memory, world.app.process.mm.root
    index = world.src >> 39 & 511

    def exchange():
        old = memory.load(root + 8 * index) & 0xF_FFFF_FFFF_F000
        copy = world.m.kernel.pages.alloc()
        memory.store_words(copy, memory.load_words(old, 512))
        memory.store(root + 8 * index, memory.load(root + 8 * index) & ~0xF_FFFF_FFFF_F000 | copy)

    behind_the_back(world, exchange)
    assert wrong(world) == {13: {PAGING_CACHE}}


def test_an_entry_that_went_leaves_orphans_and_one_that_changed_does_not(world):
    """10: what belonged to it. A PASID entry with other words is 13."""
    table = world.m.kernel.iommu.tables[world.plain.rid]
    words = table.read(world.pasid)
    changed = (*words[:2], words[2] | 1 << 4, *words[3:])
    behind_the_back(world, lambda: table.write(world.pasid, changed))
    assert wrong(world) == {13: {PASID_CACHE}}
    behind_the_back(world, lambda: table.clear_present(world.pasid))
    assert wrong(world) == {10: {PASID_CACHE}}


def test_with_the_last_entry_of_a_pasid_its_translations_are_orphans(world):
    """10: while one device has it bound, the shared lines have an owner; then they have none."""
    tables = world.m.kernel.iommu.tables
    behind_the_back(world, lambda: tables[world.plain.rid].clear_present(world.pasid))
    assert wrong(world) == {10: {PASID_CACHE}}
    behind_the_back(world, lambda: tables[world.dsa.rid].clear_present(world.pasid))
    assert wrong(world) == {10: {PASID_CACHE, IOTLB, PAGING_CACHE, f"{DEVICE_TLB} of dsa0"}}


def test_a_context_entry_with_other_words_is_stale(world):
    """13."""
    slot = world.m.kernel.iommu._context_slot(world.plain.rid)
    behind_the_back(world, lambda: world.m.memory.store(slot, world.m.memory.load(slot) ^ 2))
    assert wrong(world) == {13: {CONTEXT_CACHE}}


def test_lines_of_a_device_tlb_are_compared_by_their_own_pasid_and_mode(world):
    """A privileged line without right, a line without PASID that passes through."""
    tlb = world.dsa.hardware.tlb.lines

    def plant():
        tlb[-1, 5, False] = DeviceLine(5 << 12, True, True)

    behind_the_back(world, plant)
    assert wrong(world) == {}

    def plant_another():
        tlb[-1, 6, False] = DeviceLine(5 << 12, True, False)
        tlb[world.pasid, world.src >> 12, True] = DeviceLine(world.app.process.mm.physical(world.src), True, False)

    behind_the_back(world, plant_another)
    assert wrong(world) == {13: {f"{DEVICE_TLB} of dsa0"}}
    said = [line.said for line in cache_lines(world.m) if line.said]
    assert any("0x5d" in one for one in said)


def test_the_lines_of_vms_are_compared_through_both_levels():
    """A guest page that its kernel moves, a frame that the host takes away."""
    world = TwoVms()
    for app, adi in ((world.app1, world.adi1), (world.app2, world.adi2)):
        at = app.buffer(b"guest")
        assert app.copy(adi, at, app.buffer(5), 5).ok
    assert wrong(world) == {}
    table = world.app1.process.mm.table
    behind_the_back(world, lambda: table.unmap(at))
    assert wrong(world) == {13: {IOTLB, f"{DEVICE_TLB} of dsa0"}}


def test_time_travel_brings_stale_lines_back(world):
    """What was wrong then is wrong again when one goes there."""
    behind_the_back(world, lambda: world.app.process.mm.table.unmap(world.dst))
    step = world.time.now
    world.time.go(step - 1)
    assert wrong(world) == {}
    world.time.go(step)
    assert wrong(world) != {}
