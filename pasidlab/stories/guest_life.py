"""T14 to T18: the whole life of a guest's PASID, with the reference count after each step (facts 2.1).

Five users, in step through notifications: VFIO allocates and frees, the IOMMU driver programs the entry, KVM translates
for the CPU, the mediated device programs the queue, and the core counts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pasidlab.machine import Machine
from pasidlab.stories.lives import expect_references
from pasidlab.stories.story import Story, expect
from pasidlab.timeline import Verb
from pasidlab.views.users import USERS, kept

__all__ = ["GUEST_LIFE"]

_TEXT: Final = b"from cradle to grave"


def _tell(m: Machine) -> Iterator[str]:
    yield "Init, once a VM: KVM and the mediated device register for the VM's set, by the hypervisor's mm."
    dsa = m.plug_accelerator("dsa0")
    vm = m.create_vm("vm1", quota=16)
    adi = m.assign_adi(dsa, vm, queue="dedicated")
    app = vm.spawn("app")
    chain = [one.notifier_name for one in vm.vmm.container.set.chain.subscribers()]
    expect(chain == ["KVM vm1", f"VDCM {adi.name}"], "the CPU is told before the device")

    yield "Alloc, bind: VFIO's reference is the first, then the IOMMU's, KVM's, and the device's when it is programmed."
    start = m.timeline.now
    guest_pasid = app.bind(adi)
    ioasid = vm.pasids[guest_pasid]
    expect_references(m, ioasid, start, [("", 1), ("iommu", 2), ("kvm:vm1", 3), (f"vdcm:{adi.name}", 4)])

    yield "DMA may start; it changes no count."
    src, dst = app.buffer(_TEXT), app.buffer(len(_TEXT))
    expect(app.copy(adi, src, dst, len(_TEXT)).ok, "the copy succeeds")
    expect(app.read(dst, len(_TEXT)) == _TEXT, "the bytes arrived")
    expect(m.kernel.ioasid.refs(ioasid) == 4, "four references, as before")

    yield "Five users, five places: CPU, VFIO, IOMMU driver, KVM, device driver. Two know it as the guest does."
    start = m.timeline.now
    places = [(one.user, one.number) for one in kept(m, vm, guest_pasid)]
    wanted_places = [("cpu", guest_pasid), *((user, ioasid) for user in ("vfio", "iommu", "kvm"))]
    wanted_places += [("device", guest_pasid), ("device", ioasid)]
    expect(places == wanted_places, "the guest's number where the guest writes, the host's where hardware looks it up")
    expect({one.user for one in kept(m, vm, guest_pasid)} == set(USERS), "nobody is missing")
    expect(m.timeline.now == start, "looking changes nothing")

    yield "Unbind and free, in reverse: the device, KVM (told by UNBIND), the IOMMU, VFIO. Then the number is reusable."
    start = m.timeline.now
    app.unbind(adi)
    wanted = [(f"vdcm:{adi.name}", 3), ("kvm:vm1", 2), ("iommu", 1), ("vfio", 0), ("", 0)]
    expect_references(m, ioasid, start, wanted)
    told = [event.fact("event") for event in m.timeline.events[start:] if event.verb is Verb.NOTIFY]
    expect(told == ["UNBIND"], "nobody is told FREE: nobody was left to be told")
    expect(kept(m, vm, guest_pasid) == [], "and in none of the five places is anything left")


GUEST_LIFE: Final = Story(
    "guest-life", "A guest's PASID from alloc to free", ("T14", "T15", "T16", "T17", "T18"), _tell
)
