"""PCI configuration space: identification, the command register, and the PASID, ATS and PRI capabilities.

Source: Linux ``include/uapi/linux/pci_regs.h``. At construction bus mastering and PASIDs are on, as ``pci_set_master``
and ``pci_enable_pasid`` leave them; address translation and page requests are off until a driver switches them on. The
same registers serve the silicon and a hypervisor's emulated copy of it. A function on the bus also has the PCI Express
capability, through which software resets it (FLR); the switches here survive that, as if the kernel had saved and
restored them (``pci_save_state``). Left out: BARs (the address map says where the device answers), MSI-X.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.layouts.pcie import ATS_CAP, PASID_CAP, PRI_CAP
from pasidlab.hardware.pcie import PASID_BITS
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = [
    "ATS_CAPABILITY",
    "COMMAND",
    "PAGE_REQUESTS",
    "PASID_CAPABILITY",
    "PCIE_CAPABILITY",
    "PRI_CAPABILITY",
    "ConfigSpace",
    "PciIdentity",
]

COMMAND: Final = 0x04
BUS_MASTER: Final = 1 << 2
MEMORY_SPACE: Final = 1 << 1
CAPABILITIES: Final = 1 << 20
"""In the status half of the command register's word: there is a list of capabilities."""
CAPABILITY_POINTER: Final = 0x34
PCIE_CAPABILITY: Final = 0x40
"""Offset of the PCI Express capability, the only one of the old kind."""
_PCIE_ID: Final = 2 << 16 | 0x10
_FLR_SUPPORTED: Final = 1 << 28
_INITIATE_FLR: Final = 1 << 15
PASID_CAPABILITY: Final = 0x100
"""Offset of the PASID capability, the first extended capability."""
ATS_CAPABILITY: Final = 0x110
PRI_CAPABILITY: Final = 0x120
PAGE_REQUESTS: Final = 32
"""How many groups of page requests the device can have outstanding."""

_PASID_CONTROL = sum(PASID_CAP[name].mask for name in ("EN", "EXEC_EN", "PRIV_EN")) >> 32
_ATS_CONTROL = sum(ATS_CAP[name].mask for name in ("EN", "STU")) >> 32
_PRI_CONTROL = PRI_CAP["EN"].mask >> 32
_PRI_ERRORS = sum(PRI_CAP[name].mask for name in ("RF", "UPRGI")) >> 32
_WRITABLE: Final = {
    COMMAND: BUS_MASTER | MEMORY_SPACE,
    PASID_CAPABILITY + 4: _PASID_CONTROL,
    ATS_CAPABILITY + 4: _ATS_CONTROL,
    PRI_CAPABILITY + 4: _PRI_CONTROL,
    PRI_CAPABILITY + 12: 0xFFFF_FFFF,
}


class PciIdentity(NamedTuple):
    """By which a kernel finds the driver of a function, and ``class_code``: what kind of device it is (24 bits)."""

    vendor: int
    device: int
    class_code: int = 0


class ConfigSpace(Part):
    """Configuration registers, as journaled 32-bit words; ``ats``: with address translation and page requests.

    ``reset`` is what a function-level reset does; without, there is no such reset.

    >>> from pasidlab.timeline import Timeline
    >>> config = ConfigSpace(Timeline(), "dsa0.config", PciIdentity(0x8086, 0x0B25, 0x088000))
    >>> hex(config.read(0)), hex(config.read(8))
    ('0xb258086', '0x8800000')
    >>> config.bus_master, config.pasid_enabled, config.privileged_enabled, config.ats_enabled
    (True, True, True, False)
    >>> config.write(COMMAND, 0); config.bus_master
    False
    """

    def __init__(
        self,
        timeline: Timeline,
        path: str,
        identity: PciIdentity,
        *,
        ats: bool = True,
        reset: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(timeline, path)
        self.words = Table[int, int](timeline, f"{path}.words")
        self.words[0x00] = identity.device << 16 | identity.vendor
        self.words[COMMAND] = BUS_MASTER | MEMORY_SPACE
        self.words[0x08] = identity.class_code << 8
        self._reset = reset
        if reset is not None:
            self.words[COMMAND] |= CAPABILITIES
            self.words[CAPABILITY_POINTER] = PCIE_CAPABILITY
            self.words[PCIE_CAPABILITY] = _PCIE_ID
            self.words[PCIE_CAPABILITY + 4] = _FLR_SUPPORTED
            self.words[PCIE_CAPABILITY + 8] = 0
        following = ATS_CAPABILITY if ats else 0
        pasid = PASID_CAP.encode(ID=0x1B, VER=1, NEXT=following, PRIV=1, WIDTH=PASID_BITS, EN=1, PRIV_EN=1)
        self._put(PASID_CAPABILITY, PASID_CAP, pasid)
        if ats:
            self._put(ATS_CAPABILITY, ATS_CAP, ATS_CAP.encode(ID=0x0F, VER=1, NEXT=PRI_CAPABILITY, PA=1))
            pri = PRI_CAP.encode(ID=0x13, VER=1, PASID_REQ=1, STOPPED=1, MAX=PAGE_REQUESTS)
            self._put(PRI_CAPABILITY, PRI_CAP, pri)

    def _put(self, offset: int, layout: Layout, words: tuple[int, ...]) -> None:
        for step in range(0, layout.size, 4):
            word = words[step // 8] >> 8 * (step & 4) & 0xFFFF_FFFF
            if word:
                self.words[offset + step] = word

    def _get(self, offset: int, layout: Layout) -> tuple[int, ...]:
        return tuple(self.read(at) | self.read(at + 4) << 32 for at in range(offset, offset + layout.size, 8))

    def read(self, offset: int) -> int:
        """The 32-bit register at ``offset``; registers that do not exist read as zero."""
        return self.words.get(offset & ~3, 0)

    def write(self, offset: int, value: int) -> None:
        """Write the writable bits of a 32-bit register."""
        at = offset & ~3
        if at not in self.words and not (at == PRI_CAPABILITY + 12 and PRI_CAPABILITY in self.words):
            return
        if at == PRI_CAPABILITY + 4:
            self._write_pri(value)
        elif at == PCIE_CAPABILITY + 8:
            self._write_device_control(value)
        elif mask := _WRITABLE.get(at, 0):
            self.words[at] = self.read(at) & ~mask | value & mask

    def _write_pri(self, value: int) -> None:
        """RESET clears what happened; the error bits are cleared by writing 1; STOPPED follows EN."""
        old = self.read(PRI_CAPABILITY + 4)
        kept = old & ~(_PRI_CONTROL | value & _PRI_ERRORS)
        stopped = PRI_CAP["STOPPED"].mask >> 32
        if value & PRI_CAP["RESET"].mask >> 32:
            kept &= ~_PRI_ERRORS
        enabled = value & _PRI_CONTROL
        self.words[PRI_CAPABILITY + 4] = (kept & ~stopped if enabled else kept | stopped) | enabled

    def _write_device_control(self, value: int) -> None:
        """Initiate FLR reads as zero: it is an order, not a state. What went wrong with page requests is forgotten."""
        if self._reset is not None and value & _INITIATE_FLR:
            self._reset()
            if PRI_CAPABILITY + 4 in self.words:
                self.words[PRI_CAPABILITY + 4] = self.read(PRI_CAPABILITY + 4) & ~_PRI_ERRORS

    def flag_page_request(self, error: str) -> None:
        """The page request interface ran into an error: ``RF`` or ``UPRGI``."""
        if PRI_CAPABILITY + 4 in self.words:
            self.words[PRI_CAPABILITY + 4] = self.read(PRI_CAPABILITY + 4) | PRI_CAP[error].mask >> 32

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

    @property
    def ats_enabled(self) -> bool:
        """Whether the function asks for translations and keeps them."""
        return bool(ATS_CAP["EN"].get(self._get(ATS_CAPABILITY, ATS_CAP)))

    @property
    def page_requests(self) -> int:
        """How many groups of page requests may be outstanding: 0 while the interface is off or has failed."""
        words = self._get(PRI_CAPABILITY, PRI_CAP)
        able = PRI_CAP["EN"].get(words) and not PRI_CAP["RF"].get(words)
        return min(PRI_CAP["ALLOC"].get(words), PRI_CAP["MAX"].get(words)) if able else 0

    @property
    def page_requests_failed(self) -> bool:
        """Whether a response failure has stopped the page request interface."""
        return bool(PRI_CAP["RF"].get(self._get(PRI_CAPABILITY, PRI_CAP)))

    def _pasid(self, name: str) -> int:
        return PASID_CAP[name].get(self._get(PASID_CAPABILITY, PASID_CAP))
