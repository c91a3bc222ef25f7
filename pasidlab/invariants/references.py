"""Invariants 3, 5 and 6: references, quotas, guest numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pasidlab.kernel.iommu.vtd.svm import SvmBinding

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.record import IoasidRecord
    from pasidlab.machine import Machine

__all__ = ["quotas", "unique_spids", "users"]


def users(machine: Machine) -> Iterator[str]:
    """3: who holds a reference is who uses the PASID, by name; a PASID without references is in no table."""
    using: dict[int, list[str]] = {}
    for vmm in machine.vmms.values():
        for _, host_pasid in vmm.kvm.entries():
            using.setdefault(host_pasid, []).append(vmm.kvm.holder)
        for mdev in vmm.mdevs.values():
            if mdev.programmed is not None:
                using.setdefault(mdev.programmed, []).append(mdev.holder)
    for number, record in machine.kernel.ioasid.ids.items():
        expected = Counter([*using.get(number, []), *_own_users(record)])
        if Counter(record.holders) != expected:
            yield f"PASID {number} is held by {', '.join(record.holders)}, but used by {', '.join(expected.elements())}"


def _own_users(record: IoasidRecord) -> Iterator[str]:
    """The allocator (until free), and the IOMMU driver while the PASID is bound."""
    if not record.free_pending:
        yield record.holders[0]
    if isinstance(record.private, SvmBinding) and len(record.private.devices):
        yield "iommu"


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
