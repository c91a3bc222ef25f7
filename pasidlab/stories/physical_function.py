"""T10 and the PF half of T6: a whole function in a VM, programmed without mediation.

The guest writes PASIDs straight into hardware. Under the policy identity, which a VM gets whose first device is a
function, the numbers that it sees are the host's own. A VM whose devices must be mediated is refused a function. (A
function that carries a guest's own numbers is in :mod:`.two_numbers`.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pasidlab.errors import KernelError
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect

__all__ = ["PHYSICAL_FUNCTION"]

_TEXT: Final = b"straight to the hardware"


def _tell(m: Machine) -> Iterator[str]:
    yield "Two accelerators, two VMs, one whole function each. The virtual command returns the host's numbers."
    functions = [m.plug_accelerator("dsa0"), m.plug_accelerator("dsa1")]
    vms = [m.create_vm("vm1", quota=64), m.create_vm("vm2", quota=16)]
    devices = [m.assign_pf(function, vm) for function, vm in zip(functions, vms, strict=True)]

    yield "A process in each guest binds to a dedicated queue. The number it programs goes on the wire as it is."
    apps = [vm.spawn("app") for vm in vms]
    pasids = [app.bind(device, queue="dedicated") for app, device in zip(apps, devices, strict=True)]
    expect(len(set(pasids)) == 2, "the guests see different numbers")
    for vm, function, pasid in zip(vms, functions, pasids, strict=True):
        expect(vm.pasids == {pasid: pasid}, "guest and host number are the same")
        sent = {function.hardware.wq_pasid(wq) for wq in range(function.hardware.num_wqs)}
        expect(pasid in sent, "the hardware queue holds the guest's number")

    yield "The devices copy bytes for their guests, nested through the VM's memory."
    for app, device in zip(apps, devices, strict=True):
        src, dst = app.buffer(_TEXT), app.buffer(len(_TEXT))
        expect(app.copy(device, src, dst, len(_TEXT)).ok, "the copy succeeds")
        expect(app.read(dst, len(_TEXT)) == _TEXT, "the bytes arrived")

    yield "A function's table is its own: the other VM's number means nothing to it."
    expect(
        m.translate(functions[0].rid, pasid=pasids[1], address=0x1000).fault is not None, "foreign PASIDs are blocked"
    )

    yield "A VM with numbers of its own, under the policy translated, is refused a physical function."
    spare, vm3 = m.plug_accelerator("dsa2"), m.create_vm("vm3", quota=8, policy="translated")
    try:
        m.assign_pf(spare, vm3)
    except KernelError as error:
        expect(error.name == "EPERM", "the policy is enforced")
    else:
        expect(False, "the assignment is refused")

    yield "Unbind: everything comes back."
    for app, device in zip(apps, devices, strict=True):
        app.unbind(device)
    expect(all(vm.pasids == {} for vm in vms), "the guests own no PASID")


PHYSICAL_FUNCTION: Final = Story(
    "physical-function", "A whole function in a VM: the host's numbers, unmediated", ("T4", "T6", "T10"), _tell
)
