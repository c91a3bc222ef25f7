"""The page allocator: 4 KiB frames of one kernel's physical memory.

Models ``alloc_pages``/``free_pages``: lowest frame first, naturally aligned runs. Frames are zeroed when they are given
back (Linux's ``init_on_free``), so what is handed out is always zero. Frame 0 is never handed out. Frames that a device
may write to are pinned: they outlive the process that they belonged to (``pin_user_pages``, as VFIO uses it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.hardware.memory import PAGE_SHIFT, PAGE_SIZE, Memory
from pasidlab.kernel.bitmap import Bitmap
from pasidlab.kernel.slab import Slab
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasidlab.timeline import Timeline

__all__ = ["PageAllocator"]


class PageAllocator(Part):
    """Frames of ``memory``, up to ``size`` bytes. ``slab`` can make the nth allocation fail (``fail_page_alloc``)."""

    def __init__(self, timeline: Timeline, path: str, memory: Memory, size: int) -> None:
        super().__init__(timeline, path)
        self.memory = memory
        self.size = size
        self.slab = Slab(timeline, f"{path}.slab")
        self._frames = Bitmap(timeline, f"{path}.frames", size >> PAGE_SHIFT)
        self._frames.take(0)
        self._pins = Table[int, frozenset[int]](timeline, f"{path}.pins")
        self._left = Table[int, bool](timeline, f"{path}.left")

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
        self.slab.alloc("a page")
        frame = self._frames.find(0, self._frames.limit - 1)
        if frame is None:
            raise KernelError("ENOMEM", f"{self.path}: all {self.size >> 20} MiB of memory are in use")
        self._frames.take(frame)
        return frame << PAGE_SHIFT

    def alloc_run(self, count: int) -> int:
        """The address of ``count`` contiguous zeroed frames, aligned to the next power of two."""
        self.slab.alloc(f"{count} pages")
        first = self._frames.find_run(count, 1 << (count - 1).bit_length())
        if first is None:
            raise KernelError("ENOMEM", f"{self.path}: no {count} contiguous frames are free")
        for frame in range(first, first + count):
            self._frames.take(frame)
        return first << PAGE_SHIFT

    def free(self, address: int, count: int = 1) -> None:
        """Give ``count`` frames back, zeroed. A pinned one stays, as it is, until it is unpinned."""
        for at in range(address, address + count * PAGE_SIZE, PAGE_SIZE):
            if at in self._left:
                raise ValueError(f"{self.path}: frame {at:#x} was freed already and only waits to be unpinned")
            if self._pinned(at):
                self._left[at] = True
            else:
                self.memory.clear_frame(at)
                self._frames.release(at >> PAGE_SHIFT)

    def pin(self, frames: Iterable[int]) -> int:
        """Keep frames in place for a device (``pin_user_pages``); returns a number for :meth:`unpin`."""
        kept = frozenset(frames)
        if not all(self.is_used(at) for at in kept):
            raise ValueError(f"{self.path}: only frames that are out can be pinned")
        number = next(at for at in range(len(self._pins) + 1) if at not in self._pins)
        self._pins[number] = kept
        return number

    def pinned(self, number: int) -> frozenset[int]:
        """The frames that one :meth:`pin` keeps."""
        return self._pins[number]

    def unpin(self, number: int) -> None:
        """Let go of what :meth:`pin` kept; frames that their owner has freed meanwhile are free now."""
        for at in sorted(self._pins.pop(number)):
            if at in self._left and not self._pinned(at):
                self._left.pop(at)
                self.free(at)

    def _pinned(self, address: int) -> bool:
        return any(address in frames for frames in self._pins.values())

    def is_used(self, address: int) -> bool:
        """Whether the frame at ``address`` is out."""
        return address >> PAGE_SHIFT in self._frames
