"""An address space: the mm of a process.

Models ``struct mm_struct``: a page table, anonymous memory that is present from the start or comes page by page when it
is first touched, and the PASID under which devices know it. Everything that a process reads or writes goes through its
page table, walked as bits by the CPU's MMU. Devices translate by the same table; whoever lets them registers a
notifier and is told before pages are freed.

A page that was never touched reads as zero and stays unmapped (Linux maps one shared page of zeros).

An mm is also the *token* that ties the users of an ioasid_set together (the hypervisor process's mm).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pasidlab.errors import BusError, KernelError
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.mmu import PageFault, resolve
from pasidlab.hardware.paging import X86, PagingFormat
from pasidlab.kernel.pagetable import PageTable
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.timeline import Timeline

__all__ = ["MMAP_BASE", "Area", "Mm", "MmNotifier"]

MMAP_BASE: Final = 0x7F00_0000_0000
"""Where the first mapping of a process goes; later ones follow upwards, one unmapped guard page between them."""


class Area(NamedTuple):
    """One mapping (``struct vm_area_struct``): its number of ``pages``, and whether they can be written."""

    pages: int
    writable: bool


class MmNotifier(Protocol):
    """Who keeps translations of an address space outside the CPU (``struct mmu_notifier``)."""

    path: str

    def invalidate_range(self, mm: Mm, start: int, count: int) -> None:
        """``count`` pages from ``start`` on are not mapped any more, and are about to be freed."""


class Mm(Part, state=("_next", "pasid")):
    """One address space, with page tables in the format of its processor (``form``). ``pasid`` is the number its kernel
    gave it for DMA, or ``None``.
    """

    def __init__(self, timeline: Timeline, path: str, pages: PageAllocator, form: PagingFormat = X86) -> None:
        super().__init__(timeline, path)
        self._pages = pages
        self.table = PageTable(timeline, f"{path}.table", pages, form)
        self.areas = Table[int, Area](timeline, f"{path}.areas")
        self.notifiers = Table[str, MmNotifier](timeline, f"{path}.notifiers")
        self._next = MMAP_BASE
        self.pasid: int | None = None

    @property
    def root(self) -> int:
        """The physical address of the top-level page table (what CR3 holds)."""
        return self.table.root

    def mmap(self, length: int, *, writable: bool = True, populate: bool = True) -> int:
        """Map ``length`` bytes of fresh zeroed memory; returns the address.

        Without ``populate`` (MAP_POPULATE) a page comes when it is first touched, by the CPU or by a device.
        Errors: ``-EINVAL`` a length below 1, ``-ENOMEM`` not enough pages are free (nothing is mapped then).
        """
        if length < 1:
            raise KernelError("EINVAL", f"the length of a mapping must be at least 1 byte, not {length}")
        count = (length + PAGE_SIZE - 1) // PAGE_SIZE
        start = self._next
        if count > self._pages.available:
            raise KernelError("ENOMEM", f"{length} bytes must fit into the {self._pages.available} pages that are free")
        if populate:
            self._populate(start, count, writable)
        self.areas[start] = Area(count, writable)
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
        """Unmap what :meth:`mmap` returned: first nobody translates to its pages any more, then they are freed.

        ``-EINVAL`` nothing begins there. If somebody cannot be told (``-EIO``), everything stays as it was.
        """
        if start not in self.areas:
            raise KernelError("EINVAL", f"{start:#x} must be the start of a mapping")
        area = self.areas.pop(start)
        pages = range(start, start + area.pages * PAGE_SIZE, PAGE_SIZE)
        frames = {at: self.table.unmap(at) for at in pages if self.table.find(at) is not None}
        try:
            for notifier in self.notifiers.values() if frames else ():
                notifier.invalidate_range(self, start, area.pages)
        except KernelError:
            self.areas[start] = area
            for at, frame in frames.items():
                self.table.map(at, frame, writable=area.writable)
            raise
        for frame in frames.values():
            self._pages.free(frame)

    def fault(self, address: int, *, write: bool) -> bool:
        """Bring the page at ``address`` for an access (``handle_mm_fault``); ``False`` if there can be none.

        That is so outside of every mapping, for a write where the mapping is read-only, and without free memory.
        """
        page, area = address & -PAGE_SIZE, self._area_of(address)
        if area is None or (write and not area.writable):
            return False
        try:
            return self.table.find(page) is not None or self._bring(page, writable=area.writable)
        except BusError:
            return False

    def _area_of(self, address: int) -> Area | None:
        for start, area in self.areas.items():
            if start <= address < start + area.pages * PAGE_SIZE:
                return area
        return None

    def _bring(self, page: int, *, writable: bool) -> bool:
        try:
            self._populate(page, 1, writable)
        except KernelError:
            return False
        return True

    def physical(self, virtual: int, *, write: bool = False) -> int:
        """The physical address behind ``virtual``, by a walk of the tables; ``-EFAULT`` if there is none.

        A page that was not there yet is brought for a write, as the CPU's page fault does.
        """
        memory = self._pages.memory
        try:
            try:
                return resolve(memory, self.root, virtual, write=write, form=self.table.form)
            except PageFault:
                if not (write and self.fault(virtual, write=True)):
                    raise
                return resolve(memory, self.root, virtual, write=write, form=self.table.form)
        except (PageFault, BusError) as fault:
            raise KernelError("EFAULT", f"address {virtual:#x}: {fault}") from None

    def read(self, virtual: int, length: int) -> bytes:
        """``length`` bytes of the process's memory."""
        try:
            return b"".join(self._read(at, size) for at, size in _pieces(virtual, length))
        except BusError as error:
            raise KernelError("EFAULT", f"address {virtual:#x}: {error}") from None

    def _read(self, at: int, size: int) -> bytes:
        if self.table.find(at & -PAGE_SIZE) is None and self._area_of(at) is not None:
            return bytes(size)
        return self._pages.memory.read(self.physical(at), size)

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
