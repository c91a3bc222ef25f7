"""Page tables as software builds them: 4 levels of 512 entries over 4 KiB pages, in the kernel's own memory.

One builder for all formats of :mod:`pasidlab.hardware.paging`: a process's page table *is* the IOMMU's first level; the
second level leads from guest-physical to host-physical. Models ``pgd_alloc``/``set_pte``, and on the side of the IOMMU
``__domain_mapping``, ``arm_lpae_map_pages``, ``iommu_v1_map_pages``. Intermediate tables are freed with the whole
table, not before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.hardware.paging import PagingFormat
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.timeline import Timeline

__all__ = ["Mapping", "PageTable"]

_SHIFTS = (39, 30, 21, 12)


class Mapping(NamedTuple):
    """One mapped page."""

    virtual: int
    physical: int
    writable: bool


class PageTable(Part, state=("root",)):
    """A tree of tables. ``root`` is the address of the top one in the memory that ``pages`` allocates from."""

    def __init__(self, timeline: Timeline, path: str, pages: PageAllocator, form: PagingFormat) -> None:
        super().__init__(timeline, path)
        self.form = form
        self._pages = pages
        self.root = pages.alloc()

    def map(self, virtual: int, physical: int, *, writable: bool = True) -> None:
        """Map one page; ``-EEXIST`` if it is mapped already."""
        slot = self._slot(virtual, build=True)
        if slot is None or self._pages.memory.load(slot):
            raise KernelError("EEXIST", f"{virtual:#x} is already mapped in {self.path}")
        self._pages.memory.store(slot, physical | (self.form.page if writable else self.form.read_only))

    def find(self, virtual: int) -> int | None:
        """The physical page behind ``virtual``, or ``None`` if it is not mapped."""
        slot = self._slot(virtual, build=False)
        entry = self._pages.memory.load(slot) if slot is not None else 0
        return self.form.address(entry) if entry else None

    def unmap(self, virtual: int) -> int:
        """Clear one page's entry and return the physical address that it had; ``-ENOENT`` if it was not mapped."""
        slot = self._slot(virtual, build=False)
        entry = self._pages.memory.load(slot) if slot is not None else 0
        if slot is None or not entry:
            raise KernelError("ENOENT", f"{virtual:#x} is not mapped in {self.path}")
        self._pages.memory.store(slot, 0)
        return self.form.address(entry)

    def _slot(self, virtual: int, *, build: bool) -> int | None:
        """The address of the last-level entry for ``virtual``; missing tables are built or end the search."""
        memory, table = self._pages.memory, self.root
        for depth, shift in enumerate(_SHIFTS[:-1]):
            slot = table + (virtual >> shift & 511) * 8
            entry = memory.load(slot)
            if not entry:
                if not build:
                    return None
                entry = self._pages.alloc() | self.form.to_table(len(_SHIFTS) - depth)
                memory.store(slot, entry)
            table = self.form.address(entry)
        return table + (virtual >> 12 & 511) * 8

    def mappings(self) -> Iterator[Mapping]:
        """Every mapped page, lowest address first, read from the tables."""
        for virtual, entry in self._leaves(self.root, 0, 0):
            yield Mapping(virtual, self.form.address(entry), self.form.is_writable(entry))

    def _leaves(self, table: int, level: int, base: int) -> Iterator[tuple[int, int]]:
        for index, entry in enumerate(self._pages.memory.load_words(table, 512)):
            if entry:
                at = base | index << _SHIFTS[level]
                if level == len(_SHIFTS) - 1:
                    yield at, entry
                else:
                    yield from self._leaves(self.form.address(entry), level + 1, at)

    def clear(self) -> None:
        """Free every table below the top one, which is empty then (the pages that they map are not freed)."""
        memory = self._pages.memory
        for at in range(self.root, self.root + PAGE_SIZE, 8):
            if entry := memory.load(at):
                self._free_below(self.form.address(entry), 1)
                memory.store(at, 0)

    def destroy(self) -> None:
        """Free every table (not the pages that they map)."""
        self._free_below(self.root, 0)
        self.retire()

    def _free_below(self, table: int, level: int) -> None:
        if level < len(_SHIFTS) - 1:
            for entry in self._pages.memory.load_words(table, PAGE_SIZE // 8):
                if entry:
                    self._free_below(self.form.address(entry), level + 1)
        self._pages.free(table)
