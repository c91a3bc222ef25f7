"""Invariants 10 and 13: what the caches of IOMMU and devices hold is what the tables say, and nothing of the dead.

A cached line is compared with a walk of the tables alone. Between operations all invalidations that a change needs have
been made, so that every line agrees: hardware that forgot it and walked again would see no difference. Rights may have
become more since, never less; accessed bits do not count. A guest that does not invalidate what it changes breaks this
for itself, and for nobody else: lines that come of a table which a guest owns as a whole are its own affair, as long
as they lead to its own memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.device_tlb import NO_PASID
from pasidlab.hardware.iommu.contract import CacheLine
from pasidlab.hardware.memory import PAGE_SHIFT
from pasidlab.hardware.pcie import Access, DmaRequest
from pasidlab.invariants.entries import entries

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasidlab.hardware.device_tlb import DeviceLine
    from pasidlab.invariants.entries import Entry
    from pasidlab.invariants.evidence import Evidence
    from pasidlab.machine import Machine

__all__ = ["DEVICE_TLB", "CacheLine", "cache_lines", "coherent", "orphans", "wrong_lines"]

DEVICE_TLB: Final = "device TLB"


def cache_lines(machine: Machine) -> Iterator[CacheLine]:
    """Every line of every cache of the machine's IOMMU and devices, compared with the tables."""
    yield from _lines(machine, list(entries(machine)), every=True)


def wrong_lines(machine: Machine, present: Iterable[Entry]) -> Iterator[CacheLine]:
    """Those that disagree with the tables, whose ``present`` entries are given."""
    yield from _lines(machine, present, every=False)


def _lines(machine: Machine, present: Iterable[Entry], *, every: bool) -> Iterator[CacheLine]:
    found = list(present)
    yield from machine.unit.cache_lines([entry.table for entry in found], every=every)
    there = {(entry.rid, entry.pasid) for entry in found}
    guests = _tables_of_guests(machine)
    for name, device in machine.functions.items():
        for key, line in device.tlb.lines.items():
            one = _device_line(machine, name, device.rid, key, line)
            tag, _, _ = key
            gone = bool(one.said) and (device.rid, max(tag, 0)) not in there
            if every or one.said:
                said = "its entry is not present" if gone else one.said
                yield one._replace(
                    orphan=gone, said=said, guest=device.rid in guests, did=_domain_of(machine, device.rid)
                )


def _tables_of_guests(machine: Machine) -> Iterable[int]:
    """The devices whose table of PASIDs is a guest's own affair, also while that guest has none.

    Lines of its own memory stay in a device that it did not tell; the host empties that when the device leaves the VM.
    """
    kernel = machine.kernel
    return kernel.iommu.numbering.keys() if kernel.platform.iommu.binds_tables else ()


def _domain_of(machine: Machine, rid: int) -> int:
    """The number of the domain that has a device as a whole."""
    return next((domain.did for domain in machine.kernel.iommu.domains.values() if rid in domain.rids), -1)


def _device_line(machine: Machine, name: str, rid: int, key: tuple[int, int, bool], found: DeviceLine) -> CacheLine:
    """A line of a device's TLB: what would the tables alone answer to the access that it grants?"""
    tag, page, privileged = key
    pasid = None if tag == NO_PASID else tag
    access = Access.WRITE if found.write else Access.READ
    now = machine.unit.walk(DmaRequest(rid, page << 12, access, pasid, privileged), caches=False)
    said = ""
    if now.fault is not None:
        said = f"the tables say fault {now.fault.code:#x}"
    elif now.address != found.page:
        said = f"the tables lead to {now.address or 0:#x}"
    whose = "without PASID" if pasid is None else f"PASID {tag}"
    return CacheLine(f"{DEVICE_TLB} of {name}", f"{whose}, {page << 12:#x}", None, (), found.page, said)


def coherent(evidence: Evidence) -> Iterator[str]:
    """13: hardware would come to the same answers without its caches."""
    yield from (str(line) for line in evidence.wrong_lines if not line.orphan and not line.guest)


def orphans(evidence: Evidence) -> Iterator[str]:
    """10, as far as caches go: nothing is kept of an entry that is not there any more."""
    for line in evidence.wrong_lines:
        if line.guest:
            domain = evidence.machine.kernel.iommu.domain_of(line.did)
            if domain is None or line.at >> PAGE_SHIFT not in evidence.frames.get(domain.name, ()):
                whose = "nobody" if domain is None else domain.name
                yield f"{line}; it is left to {whose}, and {line.at:#x} is not its memory"
        elif line.orphan:
            yield str(line)
