"""The page allocator: whole zeroed frames, lowest first, never frame 0, aligned runs."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.kernel.pages import PageAllocator
from pasidlab.timeline import Timeline

FRAMES = 64


@pytest.fixture
def pages():
    """An allocator over 64 frames."""
    time = Timeline()
    return PageAllocator(time, "pages", PhysicalMemory(time, "ram", FRAMES << 12), FRAMES << 12)


def test_frames_come_lowest_first_and_frame_0_never(pages):
    """Address 0 stays free to mean nothing."""
    assert [pages.alloc() for _ in range(3)] == [0x1000, 0x2000, 0x3000]
    pages.free(0x2000)
    assert pages.alloc() == 0x2000
    assert pages.used == 3


def test_a_frame_is_zero_when_it_is_handed_out_again(pages):
    """What was in it does not leak to the next owner."""
    frame = pages.alloc()
    pages.memory.write(frame, b"secret" * 600)
    pages.free(frame)
    assert pages.alloc() == frame
    assert pages.memory.read(frame, 4096) == bytes(4096)


def test_all_frames_can_be_had_and_then_there_is_enomem(pages):
    """The end of memory is -ENOMEM, and nothing is taken by the refused request."""
    got = [pages.alloc() for _ in range(FRAMES - 1)]
    assert len(set(got)) == FRAMES - 1
    assert pages.available == 0
    with pytest.raises(KernelError) as refused:
        pages.alloc()
    assert refused.value.name == "ENOMEM"
    pages.free(got[10])
    assert pages.alloc() == got[10]


@pytest.mark.parametrize(("count", "align"), [(1, 1), (2, 2), (3, 4), (8, 8), (9, 16), (32, 32)])
def test_a_run_is_contiguous_and_aligned_to_its_size(pages, count, align):
    """Natural alignment, as the buddy allocator gives it."""
    pages.alloc()
    first = pages.alloc_run(count)
    assert first % (align << 12) == 0
    assert first > 0x1000
    assert all(pages.is_used(first + (at << 12)) for at in range(count))
    assert not pages.is_used(first + (count << 12))
    pages.free(first, count)
    assert pages.used == 1


def test_a_run_that_does_not_fit_is_enomem_and_takes_nothing(pages):
    """Fragmented memory refuses a long run."""
    for frame in (0x10000, 0x20000, 0x30000):
        while not pages.is_used(frame):
            pages.alloc()
    used = pages.used
    with pytest.raises(KernelError, match="no 32 contiguous frames"):
        pages.alloc_run(32)
    assert pages.used == used


def test_freeing_a_frame_twice_is_a_mistake(pages):
    """A double free does not go unnoticed."""
    frame = pages.alloc()
    pages.free(frame)
    with pytest.raises(ValueError, match="must be taken"):
        pages.free(frame)
