"""BAR2: the portals, through which descriptors are submitted.

Four 4 KiB pages a queue; page 0 is the unlimited portal, page 1 the limited one (it refuses when a shared queue holds
``wq_thresh`` descriptors, so that the kernel can keep room for itself). Linux steps through a page in 64-byte slots,
which all mean the same. Source: Linux ``drivers/dma/idxd/idxd.h``, ``submit.c``.

A portal page is what a hypervisor maps into a guest: an address-map region on this target with ``portal_offset`` of
the queue as its offset. Nothing that is written here is looked at by software on its way.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from pasidlab.hardware.accelerator.register_map import PORTAL_LIMITED, PORTAL_PAGE, PORTAL_STRIDE

__all__ = ["Portal", "Portals"]


class Portal(NamedTuple):
    """Which queue, through which kind of page."""

    wq: int
    limited: bool


class Submission(Protocol):
    """The device behind the portals."""

    path: str

    def post_descriptor(self, portal: Portal, data: bytes) -> None:
        """Take a posted 64-byte store."""

    def enqueue_descriptor(self, portal: Portal, data: bytes) -> bool:
        """Take or refuse a 64-byte enqueue store."""


class Portals:
    """The MMIO target for BAR2. Portals have no state: reads give zero, other stores are dropped."""

    def __init__(self, device: Submission) -> None:
        self.path = f"{device.path}.portals"
        self._device = device

    def mmio_read(self, offset: int, size: int = 8) -> int:
        """Portals cannot be read."""
        return 0

    def mmio_write(self, offset: int, value: int, size: int = 8) -> None:
        """Only 64-byte stores submit."""

    def post64(self, offset: int, data: bytes) -> None:
        """MOVDIR64B to a portal."""
        self._device.post_descriptor(_portal(offset), data)

    def enqueue64(self, offset: int, data: bytes) -> bool:
        """ENQCMD or ENQCMDS to a portal."""
        return self._device.enqueue_descriptor(_portal(offset), data)

    def __repr__(self) -> str:
        return f"<Portals {self.path}>"


def _portal(offset: int) -> Portal:
    wq, within = divmod(offset, PORTAL_STRIDE)
    return Portal(wq, within // PORTAL_PAGE * PORTAL_PAGE % (2 * PORTAL_PAGE) == PORTAL_LIMITED)
