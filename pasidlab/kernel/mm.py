"""An address space: the mm of a process.

Models ``struct mm_struct``: a page table, anonymous memory that is present from the start (demand paging comes with
page requests), and the PASID under which devices know it. Everything that a process reads or writes goes through its
page table, walked as bits by the CPU's MMU.

An mm is also the *token* that ties the users of an ioasid_set together (the hypervisor process's mm).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import BusError, KernelError
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.mmu import PageFault, resolve
from pasidlab.kernel.pagetable import FIRST_LEVEL, PageTable
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.timeline import Timeline

__all__ = ["MMAP_BASE", "Mm"]

MMAP_BASE: Final = 0x7F00_0000_0000
"""Where the first mapping of a process goes; later ones follow upwards, one unmapped guard page between them."""


class Mm(Part, state=("_next", "pasid")):
    """One address space. ``pasid`` is the number its kernel gave it for DMA, or ``None``."""

    def __init__(self, timeline: Timeline, path: str, pages: PageAllocator) -> None:
        super().__init__(timeline, path)
        self._pages = pages
        self.table = PageTable(timeline, f"{path}.table", pages, FIRST_LEVEL)
        self.areas = Table[int, int](timeline, f"{path}.areas")
        self._next = MMAP_BASE
        self.pasid: int | None = None

    @property
    def root(self) -> int:
        """The physical address of the top-level page table (what CR3 holds)."""
        return self.table.root

    def mmap(self, length: int, *, writable: bool = True) -> int:
        """Map ``length`` bytes of fresh zeroed memory; returns the address.

        Errors: ``-EINVAL`` a length below 1, ``-ENOMEM`` not enough pages are free (nothing is mapped then).
        """
        if length < 1:
            raise KernelError("EINVAL", f"the length of a mapping must be at least 1 byte, not {length}")
        count = (length + PAGE_SIZE - 1) // PAGE_SIZE
        start = self._next
        if count > self._pages.available:
            raise KernelError("ENOMEM", f"{length} bytes must fit into the {self._pages.available} pages that are free")
        self._populate(start, count, writable)
        self.areas[start] = count
        self._next = start + (count + 1) * PAGE_SIZE
        return start

    def _populate(self, start: int, count: int, writable: bool) -> None:
        pages: list[int] = []
        try:
            for index in range(count):
                pages.append(self._pages.alloc())
                self.table.map(start + index * PAGE_SIZE, pages[-1], writable=writable)
        except KernelError:
            for index, page in enumerate(pages):
                if self.table.find(start + index * PAGE_SIZE) is not None:
                    self.table.unmap(start + index * PAGE_SIZE)
                self._pages.free(page)
            raise

    def munmap(self, start: int) -> None:
        """Unmap what :meth:`mmap` returned and free its pages."""
        if start not in self.areas:
            raise KernelError("EINVAL", f"{start:#x} must be the start of a mapping")
        for at in range(start, start + self.areas.pop(start) * PAGE_SIZE, PAGE_SIZE):
            self._pages.free(self.table.unmap(at))

    def physical(self, virtual: int, *, write: bool = False) -> int:
        """The physical address behind ``virtual``, by a walk of the tables; ``-EFAULT`` if there is none."""
        try:
            return resolve(self._pages.memory, self.root, virtual, write=write)
        except (PageFault, BusError) as fault:
            raise KernelError("EFAULT", f"address {virtual:#x}: {fault}") from None

    def read(self, virtual: int, length: int) -> bytes:
        """``length`` bytes of the process's memory."""
        try:
            return b"".join(self._pages.memory.read(self.physical(at), size) for at, size in _pieces(virtual, length))
        except BusError as error:
            raise KernelError("EFAULT", f"address {virtual:#x}: {error}") from None

    def write(self, virtual: int, data: bytes) -> None:
        """Write to the process's memory."""
        done = 0
        places = [(self.physical(at, write=True), size) for at, size in _pieces(virtual, len(data))]
        for physical, size in places:
            try:
                self._pages.memory.write(physical, data[done : done + size])
            except BusError as error:
                raise KernelError("EFAULT", f"address {virtual + done:#x}: {error}") from None
            done += size

    def exit(self) -> None:
        """The last user of the address space is gone (``exit_mmap``): free all memory and the tables that map it.

        What somebody has pinned stays where it is until they let go. The empty top-level table stays with the mm.
        """
        for start in self.areas.keys():
            self.munmap(start)
        self.table.clear()

    def drop(self) -> None:
        """The last reference on the mm itself is gone (``mmdrop``)."""
        self.table.destroy()
        self.retire()


def _pieces(address: int, length: int) -> Iterator[tuple[int, int]]:
    """The parts of a byte range, cut at page borders; the range may be larger than any memory."""
    end = address + length
    while address < end:
        size = min(end, (address | PAGE_SIZE - 1) + 1) - address
        yield address, size
        address += size
