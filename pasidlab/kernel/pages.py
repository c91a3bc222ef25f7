"""The page allocator: 4 KiB frames of one kernel's physical memory.

Models ``alloc_pages``/``free_pages``: lowest frame first, naturally aligned runs. Frames are zeroed when they are given
back (Linux's ``init_on_free``), so what is handed out is always zero. Frame 0 is never handed out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.hardware.memory import PAGE_SHIFT, PAGE_SIZE, Memory
from pasidlab.kernel.bitmap import Bitmap
from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["PageAllocator"]


class PageAllocator(Part):
    """Frames of ``memory``, up to ``size`` bytes."""

    def __init__(self, timeline: Timeline, path: str, memory: Memory, size: int) -> None:
        super().__init__(timeline, path)
        self.memory = memory
        self.size = size
        self._frames = Bitmap(timeline, f"{path}.frames", size >> PAGE_SHIFT)
        self._frames.take(0)

    @property
    def used(self) -> int:
        """How many frames are out (frame 0 not counted)."""
        return self._frames.count - 1

    @property
    def available(self) -> int:
        """How many frames are free."""
        return self._frames.limit - self._frames.count

    def alloc(self) -> int:
        """The address of one zeroed frame; ``-ENOMEM`` if there is none."""
        frame = self._frames.find(0, self._frames.limit - 1)
        if frame is None:
            raise KernelError("ENOMEM", f"{self.path}: all {self.size >> 20} MiB of memory are in use")
        self._frames.take(frame)
        return frame << PAGE_SHIFT

    def alloc_run(self, count: int) -> int:
        """The address of ``count`` contiguous zeroed frames, aligned to the next power of two."""
        first = self._frames.find_run(count, 1 << (count - 1).bit_length())
        if first is None:
            raise KernelError("ENOMEM", f"{self.path}: no {count} contiguous frames are free")
        for frame in range(first, first + count):
            self._frames.take(frame)
        return first << PAGE_SHIFT

    def free(self, address: int, count: int = 1) -> None:
        """Give ``count`` frames back, zeroed."""
        for at in range(address, address + count * PAGE_SIZE, PAGE_SIZE):
            self.memory.clear_frame(at)
            self._frames.release(at >> PAGE_SHIFT)

    def is_used(self, address: int) -> bool:
        """Whether the frame at ``address`` is out."""
        return address >> PAGE_SHIFT in self._frames
