"""PCI Express: requester IDs, memory requests with a PASID prefix, and the root complex that routes them.

Source: PCIe base specification (requester ID, end-to-end PASID prefix), as used by Linux ``include/linux/pci.h``.
Modelled: what an IOMMU sees of a request. Not modelled: links, ordering, credits.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["PASID_BITS", "PASID_LIMIT", "Access", "DmaRequest", "format_rid", "parse_rid"]

PASID_BITS = 20
PASID_LIMIT = 1 << PASID_BITS


class Access(StrEnum):
    """What a request wants to do at its address. ``ATOMIC`` (fetch and add, swap ...) reads and writes."""

    READ = "read"
    WRITE = "write"
    EXECUTE = "execute"
    ATOMIC = "atomic"


class DmaRequest(NamedTuple):
    """One untranslated memory request as it arrives at the IOMMU.

    ``rid`` is the 16-bit requester ID (bus 15:8, device 7:3, function 2:0); ``pasid`` is ``None`` when the request
    carries no PASID prefix; ``privileged`` is the prefix's privileged-mode bit.
    """

    rid: int
    address: int
    access: Access
    pasid: int | None = None
    privileged: bool = False

    def __str__(self) -> str:
        who = format_rid(self.rid) + (f" PASID {self.pasid}" if self.pasid is not None else " without PASID")
        return f"{who} {self.access} {self.address:#x}"


def format_rid(rid: int) -> str:
    """``bus:device.function`` as Linux prints it.

    >>> format_rid(0x6a08)
    '6a:01.0'
    """
    return f"{rid >> 8:02x}:{rid >> 3 & 31:02x}.{rid & 7}"


def parse_rid(text: str) -> int:
    """The requester ID that ``bus:device.function`` names (an optional ``0000:`` domain is accepted).

    >>> hex(parse_rid("0000:6a:01.0"))
    '0x6a08'
    """
    parts = text.removeprefix("0000:").replace(".", ":").split(":")
    try:
        bus, device, function = (int(part, 16) for part in parts)
    except ValueError:
        raise ValueError(f"a requester ID must look like 6a:01.0, not {text!r}") from None
    if not (0 <= bus < 256 and 0 <= device < 32 and 0 <= function < 8):
        raise ValueError(f"a requester ID must have bus < 100, device < 20, function < 8 (hex), not {text!r}")
    return bus << 8 | device << 3 | function
