"""Invariants 3, 5 and 6: references, quotas, guest numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pasidlab.invariants.ownership import entries

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["quotas", "unique_spids", "users"]


def users(machine: Machine) -> Iterator[str]:
    """3: who holds a reference is who uses the PASID, by name.

    Uses are read where they take effect: present PASID entries, valid KVM entries, programmed work queues; the
    allocator's own reference belongs to whoever still lists the number as theirs.
    """
    using: dict[int, Counter[str]] = {}
    for number, holder in _uses(machine):
        using.setdefault(number, Counter())[holder] += 1
    for number, record in machine.kernel.ioasid.ids.items():
        expected = using.pop(number, Counter())
        if Counter(record.holders) != expected:
            used = ", ".join(expected.elements()) or "nobody"
            yield f"PASID {number} is held by {', '.join(record.holders) or 'nobody'}, but used by {used}"
    for number, holders in using.items():
        yield f"PASID {number} is used by {', '.join(holders.elements())}, but not allocated"


def _uses(machine: Machine) -> Iterator[tuple[int, str]]:
    for pasid in {entry.pasid for entry in entries(machine) if entry.pasid} - _defaults(machine):
        yield pasid, "iommu"
    for vmm in machine.vmms.values():
        for _, host_pasid in vmm.kvm.entries():
            yield host_pasid, vmm.kvm.holder
        for mdev in vmm.mdevs.values():
            sent = machine.accelerators[mdev.parent.name].wq_pasid(mdev.queue.index)
            if mdev.queue.dedicated and sent and sent != vmm.container.domain.default_pasid:
                yield sent, mdev.holder
        for pasid in vmm.container.pasids.keys():
            yield pasid, "vfio"
        if vmm.container.domain.default_pasid is not None:
            yield vmm.container.domain.default_pasid, f"aux-domain:{vmm.name}"
    for process in machine.natives:
        if process.mm.pasid is not None:
            yield process.mm.pasid, "sva"


def _defaults(machine: Machine) -> set[int | None]:
    """Default PASIDs: their entries belong to the domain that allocated them, which is their one holder."""
    return {vmm.container.domain.default_pasid for vmm in machine.vmms.values()}


def quotas(machine: Machine) -> Iterator[str]:
    """5: what the sets were promised and what is left make up the whole."""
    core = machine.kernel.ioasid
    promised = sum(the_set.quota for the_set in core.sets.values())
    if promised + core.available != core.capacity:
        yield f"quotas of {promised} and {core.available} available do not add up to {core.capacity}"
    for the_set in core.sets.values():
        if the_set.count > the_set.quota:
            yield f"{the_set.name} has {the_set.count} PASIDs, more than its quota of {the_set.quota}"


def unique_spids(machine: Machine) -> Iterator[str]:
    """6: within a set each guest number stands for one PASID."""
    for the_set in machine.kernel.ioasid.sets.values():
        counted = Counter(record.spid for record in the_set.ids.values() if record.spid is not None)
        for spid, count in counted.items():
            if count > 1:
                yield f"guest PASID {spid} of {the_set.name} stands for {count} host PASIDs"
