"""VMX PASID translation: from a guest's PASID to the host's, through two levels of tables in host-physical memory.

PASID bit 19 picks one of two directories, bits 18:10 the directory entry, bits 9:0 the table entry. Source: KVM code
of the public linux-dsa-siov tree; the arithmetic leaves no other split (2 x 512 x 1024 = 2^20).

UNVERIFIED (the SDM was not available): that reserved bits fail the translation, that presence is looked at first, and
what the processor does where no memory answers (here the bus returns ones, which are reserved bits). Left out: any
caching of the tables. Real hypervisors keep vCPUs out of the guest while an entry changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from typing import NamedTuple

from pasidlab.errors import BusError
from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.contract import Stop
from pasidlab.hardware.layouts.cpu import VMX_PASID_DIR_ENTRY, VMX_PASID_TABLE_ENTRY
from pasidlab.hardware.memory import Memory
from pasidlab.hardware.pcie import PASID_LIMIT

__all__ = ["PasidFailure", "PasidIndex", "PasidTranslation", "split_pasid", "translate_pasid"]


class PasidIndex(NamedTuple):
    """Where a guest PASID is looked up."""

    high: bool
    directory: int
    table: int


@unique
class PasidFailure(Enum):
    """Why a guest PASID has no translation; the value says it in words."""

    DIRECTORY_NOT_PRESENT = "the directory entry is not present"
    DIRECTORY_RESERVED = "the directory entry has reserved bits set"
    ENTRY_NOT_VALID = "the table entry is not valid"
    ENTRY_RESERVED = "the table entry has reserved bits set"


@dataclass(frozen=True, slots=True)
class PasidTranslation:
    """The way of one guest PASID through the tables. Exactly one of ``host_pasid`` and ``failure`` is set."""

    guest_pasid: int
    stops: tuple[Stop, ...]
    host_pasid: int | None = None
    failure: PasidFailure | None = None

    def __str__(self) -> str:
        lines = [f"guest PASID {self.guest_pasid}"]
        for stop in self.stops:
            fields = " ".join(f"{name}={value:#x}" for name, value in stop.fields().items() if value)
            lines.append(f"  {stop.name} at {stop.address:#x}: {fields or 'all zero'}")
        lines.append(f"  -> {self.failure.value}" if self.failure else f"  -> host PASID {self.host_pasid}")
        return "\n".join(lines)


def split_pasid(pasid: int) -> PasidIndex:
    """The three indices of a 20-bit PASID.

    >>> split_pasid(0x400), split_pasid(0x80000)
    (PasidIndex(high=False, directory=1, table=0), PasidIndex(high=True, directory=0, table=0))
    """
    if not 0 <= pasid < PASID_LIMIT:
        raise ValueError(f"a PASID must be between 0 and {PASID_LIMIT - 1:#x}, not {pasid:#x}")
    return PasidIndex(bool(pasid >> 19), pasid >> 10 & 511, pasid & 1023)


def translate_pasid(memory: Memory, low: int, high: int, guest_pasid: int) -> PasidTranslation:
    """Walk the tables whose directories are at host-physical ``low`` and ``high``. Changes nothing.

    >>> from pasidlab.hardware.memory import PhysicalMemory
    >>> from pasidlab.timeline import Timeline
    >>> memory = PhysicalMemory(Timeline(), "ram", 1 << 16)
    >>> memory.store(0x1000, 0x3001)                      # low directory, entry 0: a table at 0x3000
    >>> memory.store32(0x3000 + 4 * 1, 0x8000_0065)       # guest PASID 1 -> host PASID 101
    >>> print(translate_pasid(memory, 0x1000, 0x2000, 1))
    guest PASID 1
      low PASID directory entry 0 at 0x1000: P=0x1 TABLE=0x3000
      PASID table entry 1 at 0x3004: HOST_PASID=0x65 V=0x1
      -> host PASID 101
    """
    index = split_pasid(guest_pasid)
    base, name = (high, "high") if index.high else (low, "low")
    address = base + 8 * index.directory
    directory = _stop(f"{name} PASID directory entry {index.directory}", address, VMX_PASID_DIR_ENTRY, memory)
    failure = _check(directory, "P", PasidFailure.DIRECTORY_NOT_PRESENT, PasidFailure.DIRECTORY_RESERVED)
    if failure is not None:
        return PasidTranslation(guest_pasid, (directory,), failure=failure)
    address = VMX_PASID_DIR_ENTRY["TABLE"].get(directory.words) + 4 * index.table
    entry = _stop(f"PASID table entry {index.table}", address, VMX_PASID_TABLE_ENTRY, memory)
    failure = _check(entry, "V", PasidFailure.ENTRY_NOT_VALID, PasidFailure.ENTRY_RESERVED)
    if failure is not None:
        return PasidTranslation(guest_pasid, (directory, entry), failure=failure)
    host_pasid = VMX_PASID_TABLE_ENTRY["HOST_PASID"].get(entry.words)
    return PasidTranslation(guest_pasid, (directory, entry), host_pasid)


def _stop(name: str, address: int, layout: Layout, memory: Memory) -> Stop:
    """Read one entry. Where no memory answers, the bus returns ones, which the reserved-bit check then catches."""
    try:
        word = memory.load32(address) if layout.size == 4 else memory.load(address)
    except BusError:
        word = (1 << 8 * layout.size) - 1
    return Stop("lookup", name, address, (word,), layout)


def _check(stop: Stop, present: str, absent: PasidFailure, reserved: PasidFailure) -> PasidFailure | None:
    """Presence first, then the reserved bits."""
    if not stop.layout[present].get(stop.words):
        return absent
    return reserved if stop.layout.reserved(stop.words) else None
