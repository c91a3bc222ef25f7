"""The bus: which function answers to a requester ID, for configuration accesses and for messages from the IOMMU.

Models PCIe routing by ID, and the memory-mapped configuration space (ECAM, 4 KiB a function) through which a kernel
reads and switches a function's capabilities. A function that is not there reads as all ones. Left out: bridges, and
the enumeration of buses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.pcie import ConfigAccess, Endpoint
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["ECAM_SIZE", "ConfigSpaces", "PcieBus"]

ECAM_SIZE: Final = 1 << 28
_ABSENT: Final = 0xFFFF_FFFF


class ConfigSpaces(ABC):
    """Configuration space as an MMIO target: offset = requester ID * 4096 + register."""

    path: str

    @abstractmethod
    def config_of(self, rid: int) -> ConfigAccess | None:
        """The configuration registers of a function, if there is one."""

    def mmio_read(self, offset: int, size: int = 8) -> int:
        """Load 4 or 8 bytes."""
        config = self.config_of(offset >> 12)
        low = _ABSENT if config is None else config.read(offset & 0xFFC)
        if size == 4:
            return low
        return low | (_ABSENT if config is None else config.read((offset & 0xFFC) + 4)) << 32

    def mmio_write(self, offset: int, value: int, size: int = 8) -> None:
        """Store 4 or 8 bytes."""
        config = self.config_of(offset >> 12)
        if config is not None:
            for step in range(0, size, 4):
                config.write((offset & 0xFFC) + step, value >> 8 * step & 0xFFFF_FFFF)

    def post64(self, offset: int, data: bytes) -> None:
        """Configuration space takes no such store: dropped."""
        del offset, data

    def enqueue64(self, offset: int, data: bytes) -> bool:
        """Configuration space has no enqueue register: retry."""
        return False


class PcieBus(Part, ConfigSpaces):
    """The functions of one machine, by requester ID."""

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.endpoints = Table[int, Endpoint](timeline, f"{path}.endpoints")

    def config_of(self, rid: int) -> ConfigAccess | None:
        """The configuration registers of a function."""
        endpoint = self.endpoints.get(rid)
        return endpoint.config if endpoint is not None else None
