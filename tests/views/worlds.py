"""Machines to look at."""

from __future__ import annotations

from pasidlab import Machine


def bound_vms(count: int = 2) -> Machine:
    """VMs with one bound process each, on one shared queue."""
    machine = Machine()
    dsa = machine.plug_accelerator("dsa0")
    for at in range(count):
        vm = machine.create_vm(f"vm{at + 1}", quota=64)
        adi = machine.assign_adi(dsa, vm)
        vm.spawn("app").bind(adi)
    return machine


def crowd() -> Machine:
    """Eight VMs on two accelerators, with eight bound processes each."""
    machine = Machine()
    devices = [machine.plug_accelerator(name) for name in ("dsa0", "dsa1")]
    for at in range(8):
        vm = machine.create_vm(f"vm{at + 1}", quota=64)
        adi = machine.assign_adi(devices[at % 2], vm)
        for number in range(8):
            vm.spawn(f"app{number}").bind(adi)
    return machine
