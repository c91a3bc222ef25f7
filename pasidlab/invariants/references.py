"""Invariants 3, 5 and 6: references, quotas, guest numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.invariants.history import may_exceed, overcharged
from pasidlab.invariants.interrupts import wired_pasids
from pasidlab.kernel.ioasid.quota.cgroup import CgroupQuota
from pasidlab.kernel.ioasid.quota.rlimit import RlimitQuota

if TYPE_CHECKING:
    from pasidlab.invariants.evidence import Evidence
    from pasidlab.machine import Machine
    from pasidlab.virt.ioasid_user import IoasidUser

__all__ = ["quotas", "unique_spids", "users"]


def users(evidence: Evidence) -> Iterator[str]:
    """3: who holds a reference is who uses the PASID, by name.

    Uses are read where they take effect: present PASID entries, valid KVM entries, programmed work queues and interrupt
    entries; the allocator's own reference belongs to whoever still lists the number as theirs.
    """
    machine = evidence.machine
    using: dict[int, Counter[str]] = {}
    for number, holder in _uses(evidence):
        using.setdefault(number, Counter())[holder] += 1
    for number, record in machine.kernel.ioasid.ids.items():
        expected = using.pop(number, Counter())
        if Counter(record.holders) != expected:
            used = ", ".join(expected.elements()) or "nobody"
            yield f"PASID {number} is held by {', '.join(record.holders) or 'nobody'}, but used by {used}"
    for number, holders in using.items():
        yield f"PASID {number} is used by {', '.join(holders.elements())}, but not allocated"


def _uses(evidence: Evidence) -> Iterator[tuple[int, str]]:
    machine = evidence.machine
    for pasid in _bound(evidence):
        yield pasid, "iommu"
    for vmm in machine.vmms.values():
        for _, host_pasid in evidence.translations[vmm.name]:
            yield host_pasid, vmm.kvm.holder
        for mdev in vmm.mdevs.values():
            sent = machine.accelerators[mdev.parent.name].wq_pasid(mdev.queue.index)
            if mdev.queue.dedicated and sent and sent != vmm.container.domain.default_pasid:
                yield sent, mdev.holder
        if vmm.container.domain.default_pasid is not None:
            yield vmm.container.domain.default_pasid, f"aux-domain:{vmm.name}"
    yield from wired_pasids(machine)
    for user in _pasid_users(machine):
        for pasid in user.pasids.keys():
            yield pasid, user.holder
    for process in machine.natives:
        if process.mm.pasid is not None:
            yield process.mm.pasid, "sva"


def _pasid_users(machine: Machine) -> list[IoasidUser]:
    """Who owns PASIDs through VFIO or /dev/ioasid, each once."""
    files = [] if machine.ioasid_device is None else machine.ioasid_device.files.values()
    users = [*(vmm.container.user for vmm in machine.vmms.values()), *(file.user for file in files)]
    return list({user.path: user for user in users}.values())


def _bound(evidence: Evidence) -> set[int]:
    """The PASIDs with a present entry that the IOMMU driver bound. The second-level entry of a default PASID belongs to
    the domain that allocated it; a nested one in its place was bound (HPASID_DEF).
    """
    defaults = {vmm.container.domain.default_pasid for vmm in evidence.machine.vmms.values()}
    return {
        entry.ioasid
        for entry in evidence.entries
        if entry.ioasid and (entry.ioasid not in defaults or entry.table.kind is EntryKind.NESTED)
    }


def quotas(evidence: Evidence) -> Iterator[str]:
    """5: what was promised and what is left make up the whole, and whoever pays for PASIDs pays for exactly those."""
    machine = evidence.machine
    core = machine.kernel.ioasid
    capacity = core.capacity
    promised = sum(the_set.quota or 0 for the_set in core.sets.values()) + capacity.reserved + core.policy.held
    if promised + capacity.available != capacity.total:
        yield f"{promised} promised and {capacity.available} available do not add up to {capacity.total}"
    for the_set in core.sets.values():
        if the_set.quota is not None and the_set.count > the_set.quota:
            yield f"{the_set.name} has {the_set.count} PASIDs, more than its quota of {the_set.quota}"
    if isinstance(core.policy, RlimitQuota):
        yield from _limits(machine, core.policy)
    elif isinstance(core.policy, CgroupQuota):
        yield from _groups(machine, core.policy)


def _limits(machine: Machine, policy: RlimitQuota) -> Iterator[str]:
    core = machine.kernel.ioasid
    out = sum(the_set.count for the_set in core.sets.values() if the_set.quota is None)
    if policy.held != out:
        yield f"{policy.held} of the capacity are counted as taken without quota, but {out} PASIDs are out"
    for account in policy.accounts():
        paid = sum(record.payer is account.mm for record in core.ids.values())
        if account.used != paid:
            yield f"{account.name} is charged for {account.used} PASIDs, but pays for {paid}"
    yield from overcharged(machine)


def _groups(machine: Machine, policy: CgroupQuota) -> Iterator[str]:
    charged: Counter[str] = Counter()
    for the_set in machine.kernel.ioasid.sets.values():
        group = policy.set_group(the_set)
        for level in group.levels() if group is not None else ():
            charged[level.name] += the_set.count
    for group in policy.groups.values():
        if group.current != charged[group.name]:
            yield f"group {group.name} is charged for {group.current} PASIDs, its members have {charged[group.name]}"
        if group.current > group.max and not may_exceed(machine, group.name):
            yield f"group {group.name} has {group.current} PASIDs, more than its max of {group.max}"
    if policy.drawn > policy.root_count():
        yield f"the root has drawn {policy.drawn} of the capacity for {policy.root_count()} PASIDs"
    yield from overcharged(machine)


def unique_spids(evidence: Evidence) -> Iterator[str]:
    """6: within a set each guest number stands for one PASID."""
    machine = evidence.machine
    for the_set in machine.kernel.ioasid.sets.values():
        counted = Counter(record.spid for record in the_set.ids.values() if record.spid is not None)
        for spid, count in counted.items():
            if count > 1:
                yield f"guest PASID {spid} of {the_set.name} stands for {count} host PASIDs"
