"""Invariants 1, 7, 8, 10 and 11: whose memory, whose table, whose number.

All of them read the tables that hardware reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.pcie import format_rid
from pasidlab.invariants import caches
from pasidlab.invariants.entries import ioasid_of
from pasidlab.invariants.evidence import mapped_frames
from pasidlab.invariants.interrupts import message_storage
from pasidlab.kernel.iommu.contract import PASID_RID2PASID
from pasidlab.timeline import HOST, Event, Verb

if TYPE_CHECKING:
    from pasidlab.invariants.entries import Entry
    from pasidlab.invariants.evidence import Evidence
    from pasidlab.machine import Machine
    from pasidlab.virt.vmm import Vmm

__all__ = ["kvm_entries", "no_orphans", "page_tables", "reach", "work_queues"]

_NOBODY: Final = "nobody"


def _assigned_to(machine: Machine, rid: int) -> Vmm | None:
    """The VM that has the whole function ``rid``."""
    for vmm in machine.vmms.values():
        if any(machine.functions[name].rid == rid for name in vmm.functions.values()):
            return vmm
    return None


def _vm_of(machine: Machine, rid: int, pasid: int) -> Vmm | None:
    """The VM that a requester ID and PASID serve: by the function, the owner of the PASID, or its default PASID."""
    if pasid == PASID_RID2PASID or rid in machine.kernel.iommu.numbering:
        return _assigned_to(machine, rid)
    for vmm in machine.vmms.values():
        if pasid == vmm.container.domain.default_pasid or pasid in vmm.container.set.ids:
            return vmm
    return None


def reach(evidence: Evidence) -> Iterator[str]:
    """1: what a domain maps is its VM's memory; where DMA of the last operation went is its owner's memory."""
    machine = evidence.machine
    frames = evidence.frames
    for vmm in machine.vmms.values():
        table = vmm.container.domain.table
        strange = mapped_frames(machine.memory, table.root) - frames[vmm.name]
        for mapping in table.mappings() if strange else ():
            if mapping.physical >> 12 in strange:
                yield f"the domain of {vmm.name} maps {mapping.virtual:#x} to {mapping.physical:#x}: not its memory"
    operation = machine.timeline.operation_now
    events = machine.timeline.events_of(operation) if operation else []
    for at, event in enumerate(events):
        if event.verb is Verb.DMA:
            yield from _landed(machine, frames, event, events[at:])


def _landed(machine: Machine, frames: dict[str, set[int]], event: Event, later: list[Event]) -> Iterator[str]:
    rid, hpa, pasid = (event.fact(name) for name in ("rid", "hpa", "pasid"))
    if not isinstance(rid, int) or not isinstance(hpa, int):
        return
    number = pasid if isinstance(pasid, int) else PASID_RID2PASID
    owner = _owner(machine, rid, number, later)
    if owner is None:
        return
    reached = [name for name, own in frames.items() if hpa >> 12 in own]
    gone = owner not in (*frames, HOST, _NOBODY)
    if not gone and reached != ([owner] if owner != HOST else []):
        whose = ", ".join(reached) or HOST
        yield f"DMA of {format_rid(rid)} with PASID {number} of {owner} reached {hpa:#x}, memory of {whose}"


def _owner(machine: Machine, rid: int, pasid: int, later: list[Event]) -> str | None:
    """Whose a PASID was when it was used; ``None`` for requests without PASID of a device that the host drives."""
    vmm = _vm_of(machine, rid, pasid)
    if vmm is not None:
        return vmm.name
    if pasid in machine.kernel.ioasid.ids:
        return machine.kernel.ioasid.ids[pasid].owner.name
    for event in later:
        if event.verb is Verb.RECLAIM and event.altitude == HOST and event.fact("ioasid") == pasid:
            return str(event.before)
    return None if pasid == PASID_RID2PASID else _NOBODY


def kvm_entries(evidence: Evidence) -> Iterator[str]:
    """7: guest PASID -> host PASID in KVM's table agrees with the IOASID core."""
    machine = evidence.machine
    for vmm in machine.vmms.values():
        for guest_pasid, host_pasid in evidence.translations[vmm.name]:
            record = machine.kernel.ioasid.ids.get(host_pasid)
            entry = f"KVM of {vmm.name} translates {guest_pasid} to {host_pasid}"
            if record is None:
                yield f"{entry}, which is not allocated"
            elif record.owner is not vmm.container.set:
                yield f"{entry}, which belongs to {record.owner.name}"
            elif record.spid != guest_pasid:
                yield f"{entry}, whose guest number is {record.spid}"


def work_queues(evidence: Evidence) -> Iterator[str]:
    """8: what a mediated device's hardware queue sends belongs to its VM, and it never sends requests without PASID.

    The same for whom it lets raise its interrupts.

    A whole function is programmed by its guest without mediation: there the function's own table protects (rule 11).
    """
    machine = evidence.machine
    for vmm in machine.vmms.values():
        for mdev in vmm.mdevs.values():
            device, wq = machine.accelerators[mdev.parent.name], mdev.queue.index
            if not mdev.queue.dedicated or not device.wq_enabled(wq):
                continue
            pasid = device.wq_pasid(wq)
            if pasid is None or (pasid != vmm.container.domain.default_pasid and pasid not in vmm.container.set.ids):
                words = f"PASID {pasid}" if pasid is not None else "requests without PASID"
                yield f"{device.path} wq{wq} of {vmm.name} sends {words}, which is not its own"
    for device in machine.accelerators.values():
        yield from _native_queues(machine, device.path)
    yield from message_storage(machine)


def _native_queues(machine: Machine, name: str) -> Iterator[str]:
    """A dedicated queue that a host process has open sends that process's PASID."""
    device, driver = machine.accelerators[name], machine.kernel.accelerators.get(name)
    for process in machine.natives:
        queue = driver.queue_of(process) if driver is not None else None
        if queue is not None and queue.dedicated and device.wq_pasid(queue.index) != process.mm.pasid:
            yield f"{name} wq{queue.index} of {process.name} sends PASID {device.wq_pasid(queue.index)}"


def no_orphans(evidence: Evidence) -> Iterator[str]:
    """10: present entries, cached lines, waiting descriptors and page requests all belong to a PASID that is out."""
    machine = evidence.machine
    yield from _stale_descriptors(machine)
    yield from _stale_page_requests(machine)
    yield from caches.orphans(evidence)
    for entry in evidence.entries:
        if entry.pasid == PASID_RID2PASID:
            if entry.table.kind is not EntryKind.PASS_THROUGH and _assigned_to(machine, entry.rid) is None:
                yield f"{entry} still translates for a VM that is gone"
        elif not entry.guests and entry.ioasid not in machine.kernel.ioasid.ids:
            yield f"{entry} is present, but the PASID is not allocated"


def _stale_descriptors(machine: Machine) -> Iterator[str]:
    """Work that outlives its PASID would run in the address space of whoever gets the number next.

    A function that is a VM's own as a whole may hold what it likes: only that VM's entries answer it.
    """
    for device in machine.accelerators.values():
        for held in device.held() if _assigned_to(machine, device.rid) is None else ():
            if held.pasid is not None and held.pasid not in machine.kernel.ioasid.ids:
                where = f"{device.path} wq{held.progress.wq}"
                yield f"{where} holds a descriptor for PASID {held.pasid}, which is not allocated"


def _stale_page_requests(machine: Machine) -> Iterator[str]:
    """A page request that outlives its PASID would be answered for whoever gets the number next.

    The number 0 is no IOASID: it stands for the function itself, and ends when that is taken from its VM.
    """
    waiting = [(request.rid, request.pasid) for request in machine.unit.page_queue.requests()]
    handed_on = [(rid, pasid) for rid, pasid, _ in machine.kernel.iommu.page_requests.pending.keys()]
    asked = [
        (device.rid, work.request.pasid)
        for device in machine.accelerators.values()
        if _assigned_to(machine, device.rid) is None
        for _, work in device.waits.working()
    ]
    asked += [
        (device.rid, request.pasid)
        for device in machine.functions.values()
        if _assigned_to(machine, device.rid) is None
        for request in device.asked.values()
    ]
    for rid, pasid in dict.fromkeys([*waiting, *handed_on, *asked]):
        own_table = machine.kernel.iommu.has_table(rid)
        if own_table or (pasid == PASID_RID2PASID and _assigned_to(machine, rid) is not None):
            continue
        if pasid is not None and ioasid_of(machine, rid, pasid) not in machine.kernel.ioasid.ids:
            yield f"a page request of {format_rid(rid)} waits for PASID {pasid}, which is not allocated"


def page_tables(evidence: Evidence) -> Iterator[str]:
    """11: the roots in a present entry are the owner's, and a function in a VM has entries of that VM only."""
    machine = evidence.machine
    for entry in evidence.entries:
        vmm, holder = _vm_of(machine, entry.rid, entry.pasid), _assigned_to(machine, entry.rid)
        if holder is not None and (vmm is not holder or not entry.table.bounded):
            yield f"{entry}, a function of {holder.name}, has an entry that is not bounded by its memory"
        elif entry.table.bounded:
            table = vmm.container.domain.fit(machine.kernel.iommu.second_levels) if vmm is not None else None
            if table is None or entry.table.second != table.root:
                yield f"{entry} translates by a second-level table that is not its owner's"
        elif entry.table.kind is EntryKind.FIRST:
            yield from _native_entry(machine, entry)
        elif entry.pasid != PASID_RID2PASID:
            yield f"{entry} passes through without translation"


def _native_entry(machine: Machine, entry: Entry) -> Iterator[str]:
    roots = {process.mm.root for process in machine.kernel.processes.values() if process.mm.pasid == entry.pasid}
    if entry.table.first not in roots:
        yield f"{entry} translates by a page table that is no process's with this PASID"
