"""What the invariants 3 and 8 ask of interrupt message storage: who may raise which interrupt, read from the registers.

An entry carries a PASID as a work queue does, and lets whoever runs under it interrupt a guest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pasidlab.machine import Machine
    from pasidlab.virt.vmm import Vmm

__all__ = ["message_storage", "wired_pasids"]


def wired_pasids(machine: Machine) -> Iterator[tuple[int, str]]:
    """The PASIDs that are programmed for interfaces' interrupts, and as what each is held; default PASIDs are not."""
    for vmm in machine.vmms.values():
        for mdev in vmm.mdevs.values():
            interrupts = machine.accelerators[mdev.parent.name].interrupts
            for wired in mdev.vectors.wired.values():
                allowed = interrupts.permission(True, wired.entry)
                if allowed is not None and allowed.pasid not in (None, vmm.container.domain.default_pasid):
                    yield allowed.pasid or 0, mdev.vectors.holder


def message_storage(machine: Machine) -> Iterator[str]:
    """8, for interrupts: each entry that is in use is an interface's, and serves PASIDs of its VM only.

    What a VM has as a whole it programs as it likes: that function serves nobody else, and is reset when it leaves.
    """
    owners: dict[tuple[str, int], Vmm] = {}
    for vmm in machine.vmms.values():
        for mdev in vmm.mdevs.values():
            for wired in mdev.vectors.wired.values():
                owners[mdev.parent.name, wired.entry] = vmm
    whole = {function for vmm in machine.vmms.values() for function in vmm.functions.values()}
    for name, device in machine.accelerators.items():
        for entry in device.interrupts.used() if name not in whole else ():
            owner, allowed = owners.get((name, entry)), device.interrupts.permission(True, entry)
            if owner is None:
                yield f"{name} IMS entry {entry} is in use, but no interface's"
            elif allowed is None or allowed.ignore or not _own(owner, allowed.pasid):
                yield f"{name} IMS entry {entry} of {owner.name} serves {allowed}, which is not its own"


def _own(vmm: Vmm, pasid: int | None) -> bool:
    return pasid is not None and (pasid == vmm.container.domain.default_pasid or pasid in vmm.container.set.ids)
