"""PCI functions as a kernel reaches them: configuration space through the memory-mapped window (ECAM).

Models ``pci_read_config_dword``, ``pci_find_ext_capability`` and ``pcie_flr`` of ``drivers/pci``. On the host the
window leads to the bus; in a guest the hypervisor answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.bits import Layout
from pasidlab.hardware.config_space import CAPABILITY_POINTER, PciIdentity
from pasidlab.hardware.layouts.pcie import ATS_CAP, PASID_CAP, PRI_CAP
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.platform import ECAM_BASE

if TYPE_CHECKING:
    from pasidlab.hardware.mmio import AddressMap

__all__ = ["PciFunction"]

_FIRST: Final = 0x100
_ABSENT: Final = 0xFFFF_FFFF
_PCI_EXPRESS: Final = 0x10
_DEVICE_CAPABILITIES: Final = 4
_DEVICE_CONTROL: Final = 8
_FLR_SUPPORTED: Final = 1 << 28
_INITIATE_FLR: Final = 1 << 15
_IDS: Final = {PASID_CAP.name: 0x1B, ATS_CAP.name: 0x0F, PRI_CAP.name: 0x13}


class PciFunction:
    """The configuration space of the function ``rid``."""

    __slots__ = ("_base", "_mmio", "rid")

    def __init__(self, mmio: AddressMap, rid: int) -> None:
        self._mmio = mmio
        self.rid = rid
        self._base = ECAM_BASE + (rid << 12)

    @property
    def present(self) -> bool:
        """Whether a function answers."""
        return self._mmio.read(self._base, 4) != _ABSENT

    @property
    def identity(self) -> PciIdentity:
        """Vendor, device and class: what a driver is found by."""
        word = self._mmio.read(self._base, 4)
        return PciIdentity(word & 0xFFFF, word >> 16, self._mmio.read(self._base + 8, 4) >> 8)

    def reset(self) -> None:
        """Function-level reset (``pcie_flr``). ``-ENOTTY``: the function cannot be reset in this way."""
        at = self._mmio.read(self._base + CAPABILITY_POINTER, 4) & 0xFF if self.present else 0
        while at:
            header = self._mmio.read(self._base + at, 4)
            able = self._mmio.read(self._base + at + _DEVICE_CAPABILITIES, 4) & _FLR_SUPPORTED
            if header & 0xFF == _PCI_EXPRESS and able:
                self._mmio.write(self._base + at + _DEVICE_CONTROL, _INITIATE_FLR, 4)
                return
            at = header >> 8 & 0xFF
        raise KernelError("ENOTTY", f"the function {format_rid(self.rid)} has no function-level reset")

    def find(self, layout: Layout) -> int | None:
        """The offset of an extended capability, or ``None``."""
        at = _FIRST if self.present else 0
        while at:
            header = self._mmio.read(self._base + at, 4)
            if header & 0xFFFF == _IDS[layout.name]:
                return at
            at = header >> 20
        return None

    def get(self, layout: Layout) -> dict[str, int]:
        """The fields of a capability; all zero if the function does not have it."""
        at = self.find(layout)
        words = [0] * layout.word_count if at is None else self._words(at, layout)
        return layout.decode(words)

    def set(self, layout: Layout, **fields: int) -> None:
        """Change fields of a capability that is there; the registers that hold none of them are not written."""
        at = self.find(layout)
        assert at is not None
        words = self._words(at, layout)
        whole = layout.join(layout.change(words, **fields))
        for step in sorted({layout[name].lsb // 32 for name in fields}):
            self._mmio.write(self._base + at + 4 * step, whole >> 32 * step & _ABSENT, 4)

    def _words(self, at: int, layout: Layout) -> list[int]:
        return [self._mmio.read(self._base + at + 8 * index) for index in range(layout.word_count)]
