"""Invariant 14: a PASID on the wire has one meaning, whoever looks it up.

A function that carries a guest's own numbers has a table of its own, so that its DMA goes where it should. Others look
numbers up without asking which device they are for: a host that takes what a page request reports for an IOASID, the
CPU that translates ENQCMD for all portals of a VM alike, the IOTLB whose tags are domain and PASID. The three meet in a
VM whose policy nobody enforces (:mod:`pasidlab.virt.policies`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.iommu.device import Numbering

if TYPE_CHECKING:
    from pasidlab.invariants.entries import Entry
    from pasidlab.invariants.evidence import Evidence
    from pasidlab.machine import Machine
    from pasidlab.virt.vmm import Vmm

__all__ = ["ambiguous"]


def ambiguous(evidence: Evidence) -> Iterator[str]:
    """14: who would answer a page request, what ENQCMD would carry, which cached translation would be used."""
    machine = evidence.machine
    if not len(machine.kernel.iommu.numbering):
        return
    present = evidence.entries
    for vmm in machine.vmms.values():
        for device in vmm.container.devices.values():
            if device.numbering is Numbering.HOST or machine.kernel.iommu.has_table(device.rid):
                continue
            own = [entry for entry in present if entry.rid == device.rid and entry.pasid]
            if device.numbering is Numbering.UNSORTED:
                yield from _asked_of_others(machine, vmm, own)
            yield from _translated(vmm, own)
    yield from _shared_tags(present)


def _asked_of_others(machine: Machine, vmm: Vmm, own: list[Entry]) -> Iterator[str]:
    """The number that a device reports is looked up among all IOASIDs."""
    for entry in own:
        record = machine.kernel.ioasid.ids.get(entry.pasid)
        asked = f"a page request of {entry}, as {vmm.name}'s guest numbers it, is taken for one of IOASID {entry.pasid}"
        if record is None:
            yield f"{asked}, which nobody has"
        elif record.ioasid != entry.ioasid:
            mine = record.owner is vmm.container.set
            yield f"{asked} of {f'another process of {vmm.name}' if mine else record.owner.name}"


def _translated(vmm: Vmm, own: list[Entry]) -> Iterator[str]:
    """The CPU translates for every portal of the VM, those of this function included."""
    if not vmm.kvm.vmcs.translates_pasids:
        return
    by_number = {entry.pasid: entry for entry in own}
    for entry in own:
        sent = vmm.kvm.entry(entry.pasid)
        if sent is not None and sent != entry.pasid:
            there = f"another process's, guest PASID {sent}" if sent in by_number else "nobody's"
            yield (
                f"guest PASID {entry.pasid} of {vmm.name} has two meanings on {format_rid(entry.rid)}: programmed it "
                f"is itself, by ENQCMD it arrives as {sent}, which is {there}"
            )


def _shared_tags(present: list[Entry]) -> Iterator[str]:
    """Nested entries are cached under domain and PASID, whatever the device.

    Two page tables under *one* number of the host are another matter: a guest that does that harms itself.
    """
    seen: dict[tuple[int, int], Entry] = {}
    for entry in present:
        if entry.guests or entry.table.kind is not EntryKind.NESTED:
            continue
        first = seen.setdefault((entry.table.tag, entry.pasid), entry)
        if first.ioasid != entry.ioasid:
            yield f"{first} and {entry} share their tag in the IOTLB, and mean different page tables"
