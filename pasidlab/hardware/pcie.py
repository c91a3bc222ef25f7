"""PCI Express: requester IDs, memory requests with a PASID prefix, and the messages of ATS and PRI.

Source: PCIe base specification (requester ID, end-to-end PASID prefix, Address Translation Services, Page Request
Interface), as used by Linux ``include/linux/pci.h`` and ``drivers/pci/ats.c``. Modelled: what an IOMMU and a device see
of each other. Not modelled: links, ordering, credits.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum, unique
from typing import NamedTuple, Protocol

__all__ = [
    "PASID_BITS",
    "PASID_LIMIT",
    "SERVE_PAGES",
    "WHOLE_SPACE",
    "Access",
    "ConfigAccess",
    "DmaRequest",
    "Endpoint",
    "InvalidateRequest",
    "PageGroupResponse",
    "PageRequest",
    "RequestKind",
    "ResponseCode",
    "TranslationCompletion",
    "format_rid",
    "parse_rid",
]

PASID_BITS = 20
PASID_LIMIT = 1 << PASID_BITS
WHOLE_SPACE = 1 << 64
"""Bytes that an address of 64 bits can name."""
SERVE_PAGES = "serve page requests"
"""The name of the enabled actions that answer page requests; a device that is drained waits for them."""


class Access(StrEnum):
    """What a request wants to do at its address. ``ATOMIC`` (fetch and add, swap ...) reads and writes."""

    READ = "read"
    WRITE = "write"
    EXECUTE = "execute"
    ATOMIC = "atomic"


@unique
class RequestKind(IntEnum):
    """What a request asks of the IOMMU: the address type of a memory request (0 to 2), or a page request."""

    MEMORY = 0
    """An untranslated memory request."""
    TRANSLATION = 1
    """An ATS translation request: the device asks for the address, to keep it in its own TLB."""
    TRANSLATED = 2
    """A memory request with an address that the device was given before."""
    PAGE = 3
    """A page request (PRI)."""


class DmaRequest(NamedTuple):
    """One request as it arrives at the IOMMU.

    ``rid`` is the 16-bit requester ID (bus 15:8, device 7:3, function 2:0); ``pasid`` is ``None`` when the request
    carries no PASID prefix; ``privileged`` is the prefix's privileged-mode bit; ``kind`` its address type.
    """

    rid: int
    address: int
    access: Access
    pasid: int | None = None
    privileged: bool = False
    kind: RequestKind = RequestKind.MEMORY

    def __str__(self) -> str:
        who = format_rid(self.rid) + (f" PASID {self.pasid}" if self.pasid is not None else " without PASID")
        return f"{who} {_KIND_WORDS[self.kind]}{self.access} {self.address:#x}"


_KIND_WORDS = ("", "ATS translation for ", "translated ", "page request for ")


class TranslationCompletion(NamedTuple):
    """The answer to a translation request: ``size`` bytes around the requested address lie at ``address``.

    Neither ``read`` nor ``write``: there is no such page for this access now; the device may ask for one (PRI).
    """

    address: int
    size: int
    read: bool
    write: bool
    execute: bool = False
    privileged: bool = False


@unique
class ResponseCode(IntEnum):
    """How a page request ended."""

    SUCCESS = 0
    """The pages may be there now: translate again."""
    INVALID = 1
    """There is no such page for this access."""
    FAILURE = 15
    """The request could not be handled; the page request interface stops."""


class PageRequest(NamedTuple):
    """A device asks software to make a page accessible. Requests of one ``group`` are answered once, at the ``last``.

    A last one without any access is a stop marker: "no more requests for this PASID"; it gets no answer.
    """

    rid: int
    pasid: int | None
    address: int
    read: bool
    write: bool
    execute: bool = False
    privileged: bool = False
    group: int = 0
    last: bool = True
    private: tuple[int, int] | None = None

    def __str__(self) -> str:
        who = format_rid(self.rid) + (f" PASID {self.pasid}" if self.pasid is not None else " without PASID")
        asked = [word for word in ("read", "write", "execute") if getattr(self, word)]
        return f"{who} asks for the page {self.address:#x} ({'+'.join(asked) or 'stop marker'}, group {self.group})"


class PageGroupResponse(NamedTuple):
    """The answer to a group of page requests."""

    rid: int
    pasid: int | None
    group: int
    code: int

    def __str__(self) -> str:
        who = format_rid(self.rid) + (f" PASID {self.pasid}" if self.pasid is not None else " without PASID")
        known = self.code in ResponseCode._value2member_map_
        return f"{who}, group {self.group}: {ResponseCode(self.code).name.lower() if known else self.code}"


class InvalidateRequest(NamedTuple):
    """The IOMMU tells a device to forget translations: of one ``pasid`` (``None``: those without) or of ``all_pasids``.

    ``size`` bytes from ``start`` on; the whole address space when it is ``WHOLE_SPACE``.
    """

    rid: int
    pasid: int | None
    start: int
    size: int
    all_pasids: bool = False


class ConfigAccess(Protocol):
    """A function's configuration registers, 32 bits each."""

    def read(self, offset: int) -> int:
        """The register at ``offset``; registers that do not exist read as zero."""

    def write(self, offset: int, value: int) -> None:
        """Write what is writable of a register."""


class Endpoint(Protocol):
    """A function on the bus, as kernel and IOMMU speak to it."""

    path: str

    @property
    def config(self) -> ConfigAccess:
        """Its configuration registers."""

    def invalidate(self, request: InvalidateRequest) -> None:
        """Forget translations (ATS); when this returns the device no longer uses them."""

    def page_response(self, response: PageGroupResponse) -> None:
        """A page request was answered (PRI)."""

    def resumed(self, tag: int, *, retry: bool) -> None:
        """A transaction that the IOMMU held under ``tag`` goes on (SMMUv3): it is to be tried again, or has failed."""


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
