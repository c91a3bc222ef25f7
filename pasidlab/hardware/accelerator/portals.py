"""BAR2: the portals, through which descriptors are submitted.

Four 4 KiB pages a queue; page 0 is the unlimited portal, page 1 the limited one (it refuses when a shared queue holds
``wq_thresh`` descriptors, so that the kernel can keep room for itself). Linux steps through a page in 64-byte slots,
which all mean the same. Pages 2 and 3 are these two again, for descriptors whose interrupt handles name entries of
interrupt message storage; through pages 0 and 1 they name MSI-X vectors. Source: Linux ``drivers/dma/idxd/idxd.h``,
``submit.c``; the upper pages: "dmaengine: idxd: add support for IMS portals" (2021).

Which table was meant goes on with the descriptor, in a bit that its submitter cannot set (``int_table``). UNVERIFIED:
how the real device remembers it; the bit is reserved there.

A portal page is what a hypervisor maps into a guest: an address-map region on this target with ``portal_offset`` of
the queue as its offset. Nothing that is written here is looked at by software on its way.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from pasidlab.hardware.accelerator.register_map import PORTAL_IMS, PORTAL_LIMITED, PORTAL_PAGE, PORTAL_STRIDE
from pasidlab.hardware.layouts.dsa import HW_DESC

__all__ = ["Portal", "Portals"]


class Portal(NamedTuple):
    """Which queue, through which kind of page."""

    wq: int
    limited: bool
    ims: bool = False


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
        portal = _portal(offset)
        self._device.post_descriptor(portal, _stamped(data, portal.ims))

    def enqueue64(self, offset: int, data: bytes) -> bool:
        """ENQCMD or ENQCMDS to a portal."""
        portal = _portal(offset)
        return self._device.enqueue_descriptor(portal, _stamped(data, portal.ims))

    def __repr__(self) -> str:
        return f"<Portals {self.path}>"


def _portal(offset: int) -> Portal:
    wq, within = divmod(offset, PORTAL_STRIDE)
    limited = within // PORTAL_PAGE * PORTAL_PAGE % PORTAL_IMS == PORTAL_LIMITED
    return Portal(wq, limited, within >= PORTAL_IMS)


def _stamped(data: bytes, ims: bool) -> bytes:
    """The descriptor with its table of interrupts, whatever its submitter wrote there."""
    words = HW_DESC.from_bytes(data)
    if HW_DESC["int_table"].get(words) == ims:
        return data
    return HW_DESC.to_bytes(HW_DESC.change(words, int_table=int(ims)))
