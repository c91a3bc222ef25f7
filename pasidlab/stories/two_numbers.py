"""T7: one process, a whole function and an interface at once. What each carries on the wire, under each policy.

The guest programs one number into both devices. Device A, a physical function (PF), gets it as it is. Of mdev0, an
assignable interface (ADI), the host converts it. So the host sees guest and host PASIDs at the same time, unless a
policy keeps them apart (:mod:`pasidlab.virt.policies`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.handles import App, AssignedDevice, PhysicalFunction, VirtualMachine
from pasidlab.hardware.layouts.vtd import PASID_ENTRY, PGTT
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect
from pasidlab.stories.wire import wire_numbers

__all__ = ["TWO_NUMBERS"]

_TEXT: Final = b"one process, two devices"
_SIZE: Final = len(_TEXT)
_MEMORY: Final = 1 << 20


class Both(NamedTuple):
    """A VM with a function ``a`` and an interface ``mdev`` of ``parent``."""

    vm: VirtualMachine
    a: AssignedDevice
    mdev: AssignedDevice
    parent: PhysicalFunction


def _tell(m: Machine) -> Iterator[str]:
    yield "Device A is a whole function. Of another device, which the host uses too, the VM gets an interface: mdev0."
    function, parent = m.plug_accelerator("dsa0"), m.plug_accelerator("dsa1")
    editor = m.spawn("editor")
    native = editor.bind(parent)
    secret = editor.buffer(b"the host's own process")
    both = _both(m, "vm1", "unenforced", function, parent)

    yield "One process binds on both. Its guest has one PASID for it, and programs that into both devices."
    app = both.vm.spawn("app")
    numbers = {app.bind(device, queue="dedicated") for device in (both.a, both.mdev)}
    guest_pasid = numbers.pop()
    host_pasid = both.vm.pasids[guest_pasid]
    expect(not numbers and guest_pasid != host_pasid, "one number in the guest, another one on the host")
    mdev = both.vm.vmm.mdevs[both.mdev.name]
    expect(guest_pasid in _queues(function) and mdev.wq_pasid(0) == guest_pasid, "the guest's registers hold it, both")

    yield "Below: device A has the guest's number in its register, for nobody was in between. mdev0 has the host's."
    expect(parent.hardware.wq_pasid(mdev.queue.index) == host_pasid, "the composition module has converted it")
    expect(host_pasid not in _queues(function), "of the host's number device A knows nothing")

    yield "On the wire: both copy for the same process, and both really do."
    carried = [_carried(m, app, device) for device in (both.a, both.mdev)]
    expect(carried == [{guest_pasid}, {host_pasid}], "A sends the guest's number, mdev0 the host's")

    yield "So the process has two entries: under its guest's number in A's table, under the host's in the parent's."
    read = m.kernel.iommu.read_entry
    entries = [read(function.rid, guest_pasid), read(parent.rid, host_pasid)]
    expect([PASID_ENTRY["PGTT"].get(entry) for entry in entries] == [PGTT.NESTED] * 2, "nested, both")
    roots = {tuple(PASID_ENTRY[name].get(entry) for name in ("FLPTPTR", "SLPTPTR", "DID")) for entry in entries}
    expect(len(roots) == 1, "and both name the same page tables")

    yield "The host sees guest and host PASIDs at the same time. One number, two devices, two address spaces."
    expect(guest_pasid == native, "the guest's number is at the same time that of a process of the host")
    theirs = m.translate(parent.rid, guest_pasid, secret).address
    expect(theirs == editor.process.mm.physical(secret), "on the parent it means the host's editor")
    mine = m.translate(function.rid, guest_pasid, app.buffer(_TEXT)).address or 0
    expect(mine & ~0xFFF in both.vm.vmm.container.pinned, "on device A it means the guest's process")

    yield "Each table is right by itself. But who looks a number up without asking for the device errs: invariant 14."
    said = [one for one in m.check().violations if one.rule.number == 14]
    expect(len(said) >= 2, "what a page request would be taken for, and what ENQCMD would send")
    expect(all(both.vm.name in one.where for one in said), "both are about this VM")

    yield "Unbound, the conflict is gone. The VM ends, for the next one gets the same devices under another policy."
    app.exit()
    expect(m.check().ok, "every invariant holds again")
    both.vm.crash()

    yield "identity: the virtual command returns the host's number. The guest programs that, and there is no other."
    both = _both(m, "vm2", "identity", function, parent)
    app = both.vm.spawn("app")
    for device in (both.a, both.mdev):
        app.bind(device, queue="dedicated")
    numbers_of = both.vm.pasids
    expect(all(guest == host for guest, host in numbers_of.items()), "guest and host number are the same")
    carried = [_carried(m, app, device) for device in (both.a, both.mdev)]
    expect(carried == [set(numbers_of)] * 2, "both devices carry it")
    app.exit()
    both.vm.crash()

    yield "translated: the guest keeps its own numbers. Then it must not have a whole function: -EPERM."
    vm3 = m.create_vm("vm3", quota=4, policy="translated", memory=_MEMORY)
    _refused(m, vm3, function)
    adi = m.assign_adi(parent, vm3, queue="dedicated")
    app = vm3.spawn("app")
    number = app.bind(adi, queue="dedicated")
    expect(_carried(m, app, adi) == {vm3.pasids[number]}, "the interface carries the host's number, as ever")
    vm3.crash()

    yield "refuse: its own numbers, and one kind of device. The first one decides; the other kind is refused."
    vm4 = m.create_vm("vm4", quota=4, policy="refuse", memory=_MEMORY)
    a = m.assign_pf(function, vm4)
    _refused(m, vm4, parent)
    app = vm4.spawn("app")
    number = app.bind(a, queue="dedicated")
    expect(vm4.pasids[number] != number, "guest and host number differ")
    expect(_carried(m, app, a) == {number}, "device A carries the guest's number, which is alone here")
    vm5 = m.create_vm("vm5", quota=4, policy="refuse", memory=_MEMORY)
    m.assign_adi(parent, vm5)
    _refused(m, vm5, m.plug_accelerator("dsa2"))

    yield "All end."
    for vm in m.vms:
        vm.crash()
    expect(m.check().ok and editor.read(secret, 8) == b"the host", "the host's process noticed nothing")


def _both(m: Machine, name: str, policy: str, function: PhysicalFunction, parent: PhysicalFunction) -> Both:
    vm = m.create_vm(name, quota=4, policy=policy, memory=_MEMORY)
    return Both(vm, m.assign_pf(function, vm), m.assign_adi(parent, vm, queue="dedicated"), parent)


def _queues(device: PhysicalFunction) -> set[int | None]:
    """What the queues of a device have as their PASID."""
    return {device.hardware.wq_pasid(wq) for wq in range(device.hardware.num_wqs)}


def _carried(m: Machine, app: App, device: AssignedDevice) -> set[int]:
    """Let a device copy for a process, to the byte, and say which numbers it used on the wire."""
    src, dst = app.buffer(_TEXT), app.buffer(_SIZE)
    start = m.timeline.now
    expect(app.copy(device, src, dst, _SIZE).ok, f"{device.name} copies")
    expect(app.read(dst, _SIZE) == _TEXT, "the bytes arrived in the process's own memory")
    return wire_numbers(m, start, device.parent)


def _refused(m: Machine, vm: VirtualMachine, device: PhysicalFunction) -> None:
    """Giving a device to a VM, as a whole or as an interface, must be refused: ``-EPERM``."""
    give = m.assign_adi if device.name == "dsa1" else m.assign_pf
    try:
        give(device, vm)
    except KernelError as error:
        expect(error.name == "EPERM", f"{device.name} is refused with -EPERM, not {error}")
    else:
        expect(False, f"{vm.name} is refused {device.name}")


TWO_NUMBERS: Final = Story(
    "two-numbers", "One process, two devices, two numbers", ("T6", "T7"), _tell, leaves=frozenset({14})
)
