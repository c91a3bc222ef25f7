"""Invariants 1, 7, 8, 10 and 11: whose memory, whose table, whose number. All of them read the tables that hardware
reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.iommu.vtd.driver import PASID_RID2PASID
from pasidlab.kernel.iommu.vtd.pasid_table import PGTT
from pasidlab.timeline import HOST, Verb

if TYPE_CHECKING:
    from pasidlab.machine import Machine
    from pasidlab.virt.vmm import Vmm

__all__ = ["kvm_entries", "no_orphans", "page_tables", "reach", "work_queues"]

_BY_DOMAIN: Final = (PGTT.SECOND, PGTT.NESTED)


class _Entry(NamedTuple):
    """One present PASID entry of the host."""

    rid: int
    pasid: int
    words: tuple[int, ...]

    def field(self, name: str) -> int:
        return PASID_ENTRY[name].get(self.words)

    def __str__(self) -> str:
        return f"PASID {self.pasid} of {format_rid(self.rid)}"


def _entries(machine: Machine) -> Iterator[_Entry]:
    for rid, table in machine.kernel.iommu.tables.items():
        for pasid in table.present():
            yield _Entry(rid, pasid, table.read(pasid))


def _vm_of(machine: Machine, entry: _Entry) -> Vmm | None:
    """The VM that an entry serves: by the owner of the PASID, its default PASID, or its physical function."""
    for vmm in machine.vmms.values():
        domain = vmm.container.domain
        if entry.pasid == PASID_RID2PASID:
            if entry.rid in domain.rids:
                return vmm
        elif entry.pasid == domain.default_pasid or entry.pasid in vmm.container.set.ids:
            return vmm
    return None


def _frames(vmm: Vmm) -> set[int]:
    return {mapping.physical >> 12 for mapping in vmm.process.mm.table.mappings()}


def reach(machine: Machine) -> Iterator[str]:
    """1: what a domain maps is its VM's memory; where DMA of the last operation went is its owner's memory."""
    frames = {vmm.name: _frames(vmm) for vmm in machine.vmms.values()}
    for vmm in machine.vmms.values():
        for mapping in vmm.container.domain.table.mappings():
            if mapping.physical >> 12 not in frames[vmm.name]:
                yield f"the domain of {vmm.name} maps {mapping.virtual:#x} to {mapping.physical:#x}: not its memory"
    operation = machine.timeline.operation_now
    for event in machine.timeline.events_of(operation) if operation else []:
        if event.verb is Verb.DMA:
            yield from _landed(machine, frames, event.fact("pasid"), event.fact("hpa"))


def _landed(machine: Machine, frames: dict[str, set[int]], pasid: object, hpa: object) -> Iterator[str]:
    if not isinstance(pasid, int) or not isinstance(hpa, int):
        return
    owners = [name for name, own in frames.items() if hpa >> 12 in own]
    record = machine.kernel.ioasid.ids.get(pasid)
    if record is None:
        return
    defaults = {vmm.container.domain.default_pasid: vmm.name for vmm in machine.vmms.values()}
    owner = defaults.get(pasid, record.owner.name)
    if owners != ([owner] if owner != HOST else []):
        yield f"DMA with PASID {pasid} of {owner} reached {hpa:#x}, memory of {', '.join(owners) or HOST}"


def kvm_entries(machine: Machine) -> Iterator[str]:
    """7: guest PASID -> host PASID in KVM's table agrees with the IOASID core."""
    for vmm in machine.vmms.values():
        for guest_pasid, host_pasid in vmm.kvm.entries():
            record = machine.kernel.ioasid.ids.get(host_pasid)
            entry = f"KVM of {vmm.name} translates {guest_pasid} to {host_pasid}"
            if record is None:
                yield f"{entry}, which is not allocated"
            elif record.owner is not vmm.container.set:
                yield f"{entry}, which belongs to {record.owner.name}"
            elif record.spid != guest_pasid:
                yield f"{entry}, whose guest number is {record.spid}"


def work_queues(machine: Machine) -> Iterator[str]:
    """8: the PASID that a dedicated queue sends belongs to whoever uses the queue."""
    for device in machine.accelerators.values():
        driver = machine.kernel.accelerators[device.path]
        owner = next((vmm for vmm in machine.vmms.values() if device.path in vmm.functions), None)
        for wq in range(device.num_wqs):
            pasid = device.wq_pasid(wq)
            if not pasid or not device.wq_enabled(wq) or not device.wq_field(wq, "mode"):
                continue
            user = owner or _vm_of_queue(machine, driver.queues[wq].clients.keys())
            allowed = user.container.set if user else machine.kernel.host_set
            default = user.container.domain.default_pasid if user else None
            if pasid != default and pasid not in allowed.ids:
                yield f"{device.path} wq{wq} sends PASID {pasid}, which does not belong to {allowed.name}"


def _vm_of_queue(machine: Machine, clients: list[str]) -> Vmm | None:
    return next((vmm for vmm in machine.vmms.values() for name in clients if name in vmm.mdevs), None)


def no_orphans(machine: Machine) -> Iterator[str]:
    """10: every present entry belongs to a PASID that is out, and so does every descriptor that waits in a queue."""
    yield from _stale_descriptors(machine)
    for entry in _entries(machine):
        if entry.pasid == PASID_RID2PASID:
            if entry.field("PGTT") != PGTT.PASS_THROUGH and _vm_of(machine, entry) is None:
                yield f"{entry} still translates for a VM that is gone"
        elif entry.pasid not in machine.kernel.ioasid.ids:
            yield f"{entry} is present, but the PASID is not allocated"


def _stale_descriptors(machine: Machine) -> Iterator[str]:
    """A device that is a VM's own as a whole may hold what it likes: only that VM's entries answer it."""
    assigned = {name for vmm in machine.vmms.values() for name in vmm.functions.values()}
    for device in machine.accelerators.values():
        for wq in range(device.num_wqs) if device.path not in assigned else ():
            for work in device.waiting(wq):
                pasid = device.wq_pasid(wq) if device.wq_field(wq, "mode") else work.pasid
                if pasid is not None and pasid not in machine.kernel.ioasid.ids:
                    yield f"{device.path} wq{wq} holds a descriptor for PASID {pasid}, which is not allocated"


def page_tables(machine: Machine) -> Iterator[str]:
    """11: the roots in a present entry are the owner's."""
    for entry in _entries(machine):
        kind, vmm = entry.field("PGTT"), _vm_of(machine, entry)
        if kind in _BY_DOMAIN:
            if vmm is None or entry.field("SLPTPTR") != vmm.container.domain.table.root:
                yield f"{entry} translates by a second-level table that is not its owner's"
            elif kind == PGTT.NESTED and not 0 < entry.field("FLPTPTR") < vmm.memory.size:
                yield f"{entry} nests a table outside the memory of {vmm.name}"
        elif kind == PGTT.FIRST:
            roots = {
                process.mm.root for process in machine.kernel.processes.values() if process.mm.pasid == entry.pasid
            }
            if entry.field("FLPTPTR") not in roots:
                yield f"{entry} translates by a page table that is no process's with this PASID"
