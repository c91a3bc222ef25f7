"""The physical address map beside RAM: which device answers at which address.

Models MMIO decoding on the host (BARs, IOMMU registers) and, in a guest's map, what the hypervisor put there: a region
may be emulated (each access traps to the target given here) or a window onto a real device (no trap). A window can be
taken away for a while: then each access leaves the guest before anything else happens to it. Three kinds of
access exist because the instructions differ: loads and stores, the posted 64-byte store (MOVDIR64B), and the non-posted
64-byte enqueue (ENQCMD) which the target may refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from pasidlab.errors import BusError
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["AddressMap", "MmioRegion", "MmioTarget"]


class MmioTarget(Protocol):
    """A device or an emulation that answers at MMIO addresses. Offsets count from the region's base."""

    path: str

    def mmio_read(self, offset: int, size: int = 8) -> int:
        """Load ``size`` (4 or 8) bytes."""

    def mmio_write(self, offset: int, value: int, size: int = 8) -> None:
        """Store ``size`` (4 or 8) bytes."""

    def post64(self, offset: int, data: bytes) -> None:
        """Take a 64-byte posted store. A target without such a register drops it."""

    def enqueue64(self, offset: int, data: bytes) -> bool:
        """Take a 64-byte enqueue store: ``True`` accepted, ``False`` retry (also: no enqueue register here)."""


class MmioRegion(NamedTuple):
    """``size`` bytes at ``base`` that ``target`` answers, starting at its own offset ``offset``.

    ``intercepted``: a window that the hypervisor has unmapped; ``target`` is its emulation of what was there.
    """

    base: int
    size: int
    target: MmioTarget
    offset: int
    name: str
    intercepted: bool = False


class AddressMap(Part):
    """The MMIO regions of one address space (the host's, or one guest's)."""

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.regions = Table[int, MmioRegion](timeline, f"{path}.regions")

    def add(self, base: int, size: int, target: MmioTarget, name: str, offset: int = 0) -> MmioRegion:
        """Let ``target`` answer at ``base``; regions must not overlap."""
        for region in self.regions.values():
            if base < region.base + region.size and region.base < base + size:
                raise ValueError(f"{name} at {base:#x} must not overlap {region.name} at {region.base:#x}")
        region = MmioRegion(base, size, target, offset, name)
        self.regions[base] = region
        return region

    def remove(self, base: int) -> None:
        """Nobody answers at the region that starts at ``base`` any more."""
        del self.regions[base]

    def region(self, address: int) -> MmioRegion:
        """The region in which ``address`` lies; BusError: nobody answers there."""
        for region in self.regions.values():
            if region.base <= address < region.base + region.size:
                return region
        raise BusError(address)

    def find(self, address: int) -> tuple[MmioTarget, int]:
        """Who answers at ``address``, and at which of its offsets."""
        region = self.region(address)
        return region.target, region.offset + address - region.base

    def intercepts(self, address: int) -> bool:
        """Whether an access leaves the guest before anything else happens to it (an EPT violation)."""
        return any(
            region.intercepted and region.base <= address < region.base + region.size
            for region in self.regions.values()
        )

    def read(self, address: int, size: int = 8) -> int:
        """A load."""
        target, offset = self.find(address)
        return target.mmio_read(offset, size)

    def write(self, address: int, value: int, size: int = 8) -> None:
        """A store."""
        target, offset = self.find(address)
        target.mmio_write(offset, value, size)

    def post64(self, address: int, data: bytes) -> None:
        """A 64-byte posted store (MOVDIR64B)."""
        target, offset = self.find(address)
        target.post64(offset, data)

    def enqueue64(self, address: int, data: bytes) -> bool:
        """A 64-byte enqueue store (ENQCMD)."""
        target, offset = self.find(address)
        return target.enqueue64(offset, data)
