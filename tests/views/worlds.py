"""Machines to look at."""

from __future__ import annotations

from pasidlab import Machine
from pasidlab.timeline import Verb


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


def freed_early() -> Machine:
    """A guest gave PASID 1 back while it was bound: host PASID 3 is dying, held by the IOMMU driver and a queue."""
    machine = Machine()
    dsa = machine.plug_accelerator("dsa0")
    vm1, vm2 = machine.create_vm("vm1", quota=8), machine.create_vm("vm2", quota=4)
    dedicated, shared = machine.assign_adi(dsa, vm1, queue="dedicated"), machine.assign_adi(dsa, vm2)
    vm1.spawn("app").bind(dedicated)
    vm2.spawn("app").bind(shared)
    vm1.free_pasid(1)
    return machine


def step_of(machine: Machine, verb: Verb, actor: str) -> int:
    """Travel to the newest step in which ``actor`` did ``verb``, and return it."""
    event = [e for e in machine.timeline.events if (e.verb, e.actor) == (verb, actor)][-1]
    machine.timeline.go(event.number + 1)
    return event.number + 1


def whole_function(iommu: str) -> Machine:
    """A VM with a whole function, two bound processes of which one has gone, and a native one on another device."""
    machine = Machine(iommu=iommu)
    given, kept = machine.plug_accelerator("dsa0"), machine.plug_accelerator("dsa1")
    vm = machine.create_vm("vm1", quota=8)
    function, native = machine.assign_pf(given, vm), machine.spawn("native")
    native.bind(kept)
    native.copy(kept, native.buffer(b"native"), native.buffer(6), 6)
    first, second = vm.spawn("first"), vm.spawn("second")
    first.bind(function, queue="dedicated")
    first.copy(function, first.buffer(b"guest"), first.buffer(5), 5)
    second.bind(function, queue="dedicated")
    first.unbind(function)
    return machine
