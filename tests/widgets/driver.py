"""What the tests of the lab share: a lab with two VMs, and looking at what it shows."""

from __future__ import annotations

from collections.abc import Mapping

from pasidlab import Machine
from pasidlab_widgets import Lab, View


def add_vm(lab: Lab, name: str, quota: int = 64) -> None:
    """By clicks: a VM with an ADI and a process."""
    lab.set(vm_name=name, quota=quota)
    lab.press("create-vm")
    lab.set(vm=name, where=name)
    lab.press("assign-adi")
    lab.press("spawn")


def bound_lab() -> Lab:
    """A lab in which two VMs have a bound process each."""
    lab = Lab()
    for vm in ("vm1", "vm2"):
        add_vm(lab, vm)
        lab.set(process=f"{vm}/app")
        lab.press("bind")
    return lab


def told(lab: Lab, name: str) -> dict[str, object]:
    """A mapping of the lab's state: ``"resting"``, ``"chosen"``, ``"menus"``."""
    found = lab.state()[name]
    assert isinstance(found, dict)
    return found


def shown(lab: Lab, stack: int) -> View:
    """The view that can be seen in a stack (0 above, 1 below)."""
    view = lab._stacks[stack].shown.view
    assert isinstance(view, View)
    return view


def entry(view: View, name: str, key: str) -> object:
    """One entry of a mapping that a view shows."""
    found = view.state[name]
    assert isinstance(found, Mapping)
    return found[key]


def world(machine: Machine) -> object:
    """Who holds what, and what translates."""
    return (
        machine.check().holdings,
        {vm.name: (vm.pasids, vm.vmm.kvm.entries(), [app.pasid for app in vm.apps]) for vm in machine.vms},
        {rid: [entry.pasid for entry in machine.unit.entries(rid)] for rid in machine.kernel.iommu.devices.keys()},
        [str(action.label) for action in machine.pending],
    )
