"""Address spaces: memory that is there at once, guard pages, CPU access through the tables, and a clean end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import KernelError
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.kernel.mm import MMAP_BASE, Mm
from pasidlab.kernel.pages import PageAllocator
from pasidlab.timeline import Timeline

SIZE = 1 << 20


@pytest.fixture
def mm():
    """A fresh address space over 1 MiB."""
    time = Timeline()
    return Mm(time, "mm", PageAllocator(time, "pages", PhysicalMemory(time, "ram", SIZE), SIZE))


def test_mappings_follow_each_other_with_a_guard_page_between(mm):
    """An overrun hits an unmapped page instead of a neighbour."""
    first, second = mm.mmap(5000), mm.mmap(1)
    assert first == MMAP_BASE
    assert second == MMAP_BASE + 3 * 4096
    with pytest.raises(KernelError) as fault:
        mm.read(first + 2 * 4096 - 1, 2)
    assert fault.value.name == "EFAULT"


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 9000), st.binary(max_size=6000))
def test_what_was_written_is_read_across_pages(offset, data):
    """Pages need not be neighbours in physical memory."""
    time = Timeline()
    pages = PageAllocator(time, "pages", PhysicalMemory(time, "ram", SIZE), SIZE)
    mm, other = Mm(time, "mm", pages), Mm(time, "other", pages)
    at = mm.mmap(15000)
    other.mmap(100)
    mm.write(at + offset, data)
    whole = bytes(offset) + data
    assert mm.read(at, 15000) == whole + bytes(15000 - len(whole))


def test_a_write_that_meets_a_hole_changes_nothing(mm):
    """All pages are looked up before the first byte is written."""
    at = mm.mmap(4096)
    with pytest.raises(KernelError):
        mm.write(at + 4090, b"0123456789")
    assert mm.read(at, 4096) == bytes(4096)


def test_read_only_memory_refuses_writes(mm):
    """-EFAULT, and it can be read."""
    at = mm.mmap(10, writable=False)
    with pytest.raises(KernelError, match="read-only"):
        mm.write(at, b"x")
    assert mm.read(at, 1) == b"\0"


@pytest.mark.parametrize("length", [0, -1])
def test_an_empty_mapping_is_einval(mm, length):
    """A mapping has at least one byte."""
    with pytest.raises(KernelError, match=f"at least 1 byte, not {length}") as refused:
        mm.mmap(length)
    assert refused.value.name == "EINVAL"


@pytest.mark.parametrize(
    "length", [SIZE, SIZE * 1000, SIZE - 3 * 4096], ids=["all", "far too much", "no room for tables"]
)
def test_a_mapping_that_does_not_fit_is_enomem_and_keeps_no_page(mm, length):
    """Only tables that were built on the way may stay; they go with the address space."""
    pages, used = mm._pages, mm._pages.used
    with pytest.raises(KernelError) as refused:
        mm.mmap(length)
    assert refused.value.name == "ENOMEM"
    assert list(mm.table.mappings()) == []
    assert pages.used <= used + 4
    assert mm.mmap(1) == MMAP_BASE
    mm.exit()
    mm.drop()
    assert pages.used == 0


def test_a_mapping_larger_than_memory_is_refused_before_the_first_page(mm):
    """A terabyte costs nothing to refuse."""
    position = mm.timeline.journal.position
    with pytest.raises(KernelError, match="must fit into"):
        mm.mmap(1 << 40)
    assert mm.timeline.journal.position == position


def test_unmapping_frees_the_pages_and_another_address_is_einval(mm):
    """munmap takes what mmap gave."""
    used = mm._pages.used
    at = mm.mmap(3 * 4096)
    with pytest.raises(KernelError, match="must be the start of a mapping"):
        mm.munmap(at + 4096)
    mm.munmap(at)
    assert mm._pages.used == used + 3  # the tables stay
    with pytest.raises(KernelError):
        mm.read(at, 1)


def test_the_end_of_an_address_space_returns_every_frame(mm):
    """Memory and tables."""
    pages = mm._pages
    for length in (1, 5000, 100000):
        mm.mmap(length)
    mm.exit()
    mm.drop()
    assert pages.used == 0
    assert mm.retired
