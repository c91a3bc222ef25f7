"""The accelerator's PCI configuration space: the command register and the PASID capability.

Source: Linux ``include/uapi/linux/pci_regs.h``. At construction bus mastering and PASIDs are on, as ``pci_set_master``
and ``pci_enable_pasid`` leave them; a driver may switch them off. Left out: BARs (the address map says where the
device answers), MSI-X, ATS and PRI capabilities (the device neither caches translations nor asks for pages).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.layouts.pcie import PASID_CAP
from pasidlab.hardware.pcie import PASID_BITS
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["COMMAND", "PASID_CAPABILITY", "ConfigSpace"]

COMMAND: Final = 0x04
BUS_MASTER: Final = 1 << 2
MEMORY_SPACE: Final = 1 << 1
PASID_CAPABILITY: Final = 0x100
"""Offset of the PASID capability, the first extended capability."""

_PASID_CONTROL = sum(PASID_CAP[name].mask for name in ("EN", "EXEC_EN", "PRIV_EN")) >> 32
_WRITABLE: Final = {COMMAND: BUS_MASTER | MEMORY_SPACE, PASID_CAPABILITY + 4: _PASID_CONTROL}


class ConfigSpace(Part):
    """Configuration registers, as journaled 32-bit words.

    >>> from pasidlab.timeline import Timeline
    >>> config = ConfigSpace(Timeline(), "dsa0.config")
    >>> config.bus_master, config.pasid_enabled, config.privileged_enabled
    (True, True, True)
    >>> config.write(COMMAND, 0); config.bus_master
    False
    """

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.words = Table[int, int](timeline, f"{path}.words")
        (pasid,) = (PASID_CAP.join(PASID_CAP.encode(ID=0x1B, VER=1, PRIV=1, WIDTH=PASID_BITS, EN=1, PRIV_EN=1)),)
        self.words[0x00] = 0x0B25_8086
        self.words[COMMAND] = BUS_MASTER | MEMORY_SPACE
        self.words[0x08] = 0x0880_0000
        self.words[PASID_CAPABILITY] = pasid & 0xFFFF_FFFF
        self.words[PASID_CAPABILITY + 4] = pasid >> 32

    def read(self, offset: int) -> int:
        """The 32-bit register at ``offset``; registers that do not exist read as zero."""
        return self.words.get(offset & ~3, 0)

    def write(self, offset: int, value: int) -> None:
        """Write the writable bits of a 32-bit register."""
        mask = _WRITABLE.get(offset & ~3, 0)
        if mask:
            self.words[offset & ~3] = self.read(offset) & ~mask | value & mask

    @property
    def bus_master(self) -> bool:
        """Whether the function may send memory requests."""
        return bool(self.read(COMMAND) & BUS_MASTER)

    @property
    def pasid_enabled(self) -> bool:
        """Whether requests may carry a PASID."""
        return bool(self._pasid("EN"))

    @property
    def privileged_enabled(self) -> bool:
        """Whether requests may ask for privileged mode."""
        return bool(self._pasid("PRIV_EN"))

    def _pasid(self, name: str) -> int:
        return PASID_CAP[name].get((self.read(PASID_CAPABILITY) | self.read(PASID_CAPABILITY + 4) << 32,))
