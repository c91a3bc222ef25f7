"""Commands as the unit understands them: from words in the command buffer to a typed command, or to an error.

Models the decoder behind the command buffer. Follows facts/hardware.md 4.1 and Linux 6.1 ``drivers/iommu/amd/iommu.c``
(build_*). An unknown opcode or a reserved bit is an illegal command. UNVERIFIED: so is what the unit lacks
(INVALIDATE_IOMMU_ALL without EFR.IA, COMPLETE_PPR_REQUEST without PPR, PREFETCH_IOMMU_PAGES without PREF, GN=1 without
GT), and INVALIDATE_IOTLB_PAGES whose queue is not the device's own is taken as it stands.

With S the address field holds the range: its lowest zero bit, from bit 12 on, is half of the size. 51 ones mean
everything.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.layouts.amd_queue import (
    CMD_COMPLETE_PPR,
    CMD_INV_ALL,
    CMD_PREFETCH,
    COMMANDS,
)
from pasidlab.hardware.memory import PAGE_SHIFT, PAGE_SIZE
from pasidlab.hardware.pcie import WHOLE_SPACE, format_rid

__all__ = ["ALL_PAGES", "Command", "command_address", "command_range", "decode_command"]

ALL_PAGES: Final = 0x7FFF_FFFF_FFFF_F000
"""The address that means everything, with S."""

_BY_OPCODE: Final = {code: (layout, name) for code, layout, name in COMMANDS}
_HIDDEN: Final = frozenset({"OPCODE", "qdep", "queueid", "PASID_HI", "PASID_LO", "addr"})
_NEEDS: Final = {CMD_INV_ALL.name: "ia", CMD_COMPLETE_PPR.name: "ppr", CMD_PREFETCH.name: "pref"}


class Command(NamedTuple):
    """One command from the buffer, and where it lay.

    >>> from pasidlab.hardware.layouts.amd_queue import CMD_INV_IOTLB_PAGES
    >>> fields = {"devid": 0x6A01, "GN": 1, "PASID_HI": 0x12, "PASID_LO": 0x34, "S": 1, "addr": ALL_PAGES}
    >>> words = CMD_INV_IOTLB_PAGES.encode(OPCODE=4, **fields)
    >>> command = decode_command(words)
    >>> print(command)
    INVALIDATE_IOTLB_PAGES: devid=6a:00.1 S=0x1 GN=0x1 PASID=0x1234 everything
    >>> command.pasid, command.range()
    (4660, (0, 18446744073709551616))
    """

    opcode: int
    name: str
    layout: Layout
    words: tuple[int, ...]
    address: int = 0

    def field(self, name: str) -> int:
        """The value of one field."""
        return self.layout[name].get(self.words)

    def fields(self) -> dict[str, int]:
        """All field values by name."""
        return self.layout.decode(self.words)

    @property
    def pasid(self) -> int | None:
        """The PASID that it is about; ``None`` without GN."""
        at = self.fields()
        if not at.get("GN"):
            return None
        return at["PASID"] if "PASID" in at else at["PASID_HI"] << 8 | at["PASID_LO"]

    def range(self) -> tuple[int, int]:
        """The bytes that it is about: start and size."""
        return command_range(self.field("addr"), bool(self.field("S")))

    def __str__(self) -> str:
        at = self.fields()
        values = [
            f"{field.name}={format_rid(value) if field.name == 'devid' else hex(value)}"
            for field, value in self.layout.explain(self.words)
            if value and field.name not in _HIDDEN and field.name != "PASID"
        ]
        if self.pasid is not None:
            values.append(f"PASID={self.pasid:#x}")
        if "addr" in at:
            start, size = self.range()
            values.append("everything" if size >= WHOLE_SPACE else f"{size >> PAGE_SHIFT} pages at {start:#x}")
        return f"{self.name}: {' '.join(values)}".removesuffix(": ")


def command_range(address: int, sized: bool) -> tuple[int, int]:
    """The bytes that the address field names.

    >>> command_range(0x1234_7000, True) == (0x1234_0000, 0x1_0000), command_range(0x5000, False)
    (True, (20480, 4096))
    """
    if not sized:
        return address & -PAGE_SIZE, PAGE_SIZE
    page = address >> PAGE_SHIFT
    size = min(PAGE_SIZE << (~page & page + 1).bit_length(), WHOLE_SPACE)
    return address & -size, size


def command_address(start: int, size: int) -> tuple[int, int]:
    """The address field and S for a range, as small as the encoding can say it; what Linux's build_inv_address does.

    >>> hex(command_address(0x1234_0000, 0x1_0000)[0]), command_address(0x5000, 0x1000)
    ('0x12347000', (20480, 0))
    """
    last = start + size - 1
    if start >> PAGE_SHIFT == last >> PAGE_SHIFT:
        return start & -PAGE_SIZE, 0
    highest = (start ^ last).bit_length() - 1
    if highest > 51:
        return ALL_PAGES, 1
    return (start | (1 << highest) - 1) & -PAGE_SIZE, 1


_NOTHING_LACKING: Final = AmdIdentity()


def decode_command(
    words: tuple[int, ...], identity: AmdIdentity = _NOTHING_LACKING, address: int = 0
) -> Command | None:
    """The command in ``words``; ``None`` if it is illegal.

    >>> decode_command((9 << 60, 0)) is None
    True
    """
    code = words[0] >> 60
    known = _BY_OPCODE.get(code)
    if known is None:
        return None
    layout, name = known
    needed = _NEEDS.get(layout.name)
    if layout.reserved(words) or (needed is not None and not getattr(identity, needed)):
        return None
    command = Command(code, name, layout, words, address)
    return None if command.fields().get("GN") and not identity.gt else command
