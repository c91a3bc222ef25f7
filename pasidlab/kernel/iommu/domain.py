"""A domain: an I/O address space that a whole VM shares, guest-physical to host-physical.

Models ``struct dmar_domain`` (``arm_smmu_domain``, ``protection_domain``) as VFIO uses it (an unmanaged domain): a
second-level page table in the format of the unit, an id (domain id, VMID, DomainID) that tags the unit's caches,
whether guest page tables may be nested over it (DOMAIN_ATTR_NESTING), and, once the domain was attached to a device in
the *auxiliary* manner, a default PASID with which a mediated device reaches the VM's guest-physical memory.

A device serves either one domain as a whole or any number of auxiliary ones. Linux has a feature of the device for that
(IOMMU_DEV_FEAT_AUX), which is switched on and off by its driver; here the first attachment decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.pagetable import PageTable
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.hardware.paging import PagingFormat
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.timeline import Timeline

__all__ = ["Domain", "SecondLevel", "refuse_attach"]

_LEVELS: Final = 4


class SecondLevel(NamedTuple):
    """What an entry is told of a domain's table: where it begins, and how many levels are walked from there."""

    root: int
    levels: int


class Domain(Part, state=("default_pasid", "live", "nesting")):
    """One VM's I/O address space. ``aux`` counts, by requester ID, how often it is attached as an auxiliary domain;
    ``rids`` are the devices that it has as a whole. ``width``: how many bits its addresses have.
    """

    width: Final = 48

    def __init__(
        self, timeline: Timeline, path: str, name: str, did: int, pages: PageAllocator, form: PagingFormat
    ) -> None:
        super().__init__(timeline, path)
        self.name = name
        self.did = did
        self.table = PageTable(timeline, f"{path}.table", pages, form)
        self.default_pasid: int | None = None
        self.live = True
        self.nesting = False
        self._memory = pages.memory
        self.aux = Table[int, int](timeline, f"{path}.aux")
        self.rids = Table[int, bool](timeline, f"{path}.rids")

    def enable_nesting(self) -> None:
        """Let guest page tables be nested over it: what a VFIO container of nesting type asks for when it is opened."""
        self.nesting = True

    def fit(self, levels: int) -> SecondLevel | None:
        """The table for a unit that walks at most ``levels`` levels; ``None`` if it does not fit.

        For a unit with less than 4 levels the upper tables are skipped, if all addresses lie below the first entry of
        each (``iommu_skip_agaw``).
        """
        root, have, form = self.table.root, _LEVELS, self.table.form
        while have > levels:
            entry = self._memory.load(root)
            if have == 1 or not form.is_present(entry):
                return None
            root, have = form.address(entry), have - 1
        return SecondLevel(root, have)

    def map(self, iova: int, physical: int) -> None:
        """Let DMA at ``iova`` (a guest-physical page) reach a host frame."""
        self.table.map(iova, physical)

    def unmap(self, iova: int) -> None:
        """Undo :meth:`map`."""
        self.table.unmap(iova)

    def destroy(self) -> None:
        """Free the second-level table; nothing may be attached any more."""
        self.table.destroy()
        self.retire()


def refuse_attach(domains: Iterable[Domain], rid: int, *, aux: bool) -> None:
    """``-EPERM`` for a device that already serves domains in the other way: as a whole, or as auxiliary ones."""
    taken = [domain.name for domain in domains if rid in (domain.rids if aux else domain.aux)]
    if taken:
        way, other = ("auxiliary", "whole") if aux else ("whole", "auxiliary")
        raise KernelError(
            "EPERM",
            f"{format_rid(rid)} must not be attached as {way} device: it serves {', '.join(taken)} as {other} device",
        )
