"""The machine with which a lab begins, and whether somebody has done anything with it since."""

from __future__ import annotations

from typing import Final

from pasidlab import Machine

__all__ = ["calls_since", "ready_machine"]

_FIRST: Final = "dsa0"


def ready_machine(quota_policy: str = "fixed", pasid_api: str = "vfio", iommu: str = "vtd") -> Machine:
    """A machine with an accelerator plugged in. ``ValueError`` for words that a machine does not know.

    >>> ready_machine("cgroup")
    <Machine vtd: dsa0; 0 VMs; quota policy cgroup; step 18>
    """
    machine = Machine(iommu=iommu, quota_policy=quota_policy, pasid_api=pasid_api)
    machine.plug_accelerator(_FIRST)
    return machine


def calls_since(machine: Machine) -> int:
    """How many calls a machine has seen beyond those of :func:`ready_machine`, refused and undone ones included.

    >>> machine = ready_machine(); vm = machine.create_vm("vm1"); machine.timeline.back_over(); calls_since(machine)
    1
    """
    lines = [operation.line for operation in machine.timeline.operations][1:]
    return len(lines) - (lines[:1] == [f'm.plug_accelerator("{_FIRST}")'])
