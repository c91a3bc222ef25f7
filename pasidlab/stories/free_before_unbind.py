"""T18 and T19: the guest frees a PASID that is still in use (facts 2.2).

Free must always succeed. The ID becomes free-pending: everyone is told, nobody may take a new reference, those who can
let go at once do, the others queue work. The number is not reused, and counts against the quota, until the last has
let go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pasidlab.errors import KernelError
from pasidlab.machine import Machine
from pasidlab.stories.lives import expect_references, guest_bench
from pasidlab.stories.story import Story, expect

__all__ = ["FREE_BEFORE_UNBIND"]


def _tell(m: Machine) -> Iterator[str]:
    yield "A guest's process has a PASID in use: VFIO, IOMMU, KVM and the device hold it."
    bench = guest_bench(m)
    core, ioasid, device = m.kernel.ioasid, bench.ioasid, f"vdcm:{bench.adi.name}"
    expect(core.ids[ioasid].holders == ("vfio", "iommu", "kvm:vm1", device), "four holders, by name")

    yield "The guest frees it without unbinding. KVM lets go in its handler; device and IOMMU queue work; VFIO is last."
    start = m.timeline.now
    bench.vm.free_pasid(1)
    expect_references(m, ioasid, start, [("kvm:vm1", 3), ("vfio", 2)])
    expect(bench.vm.vmm.kvm.entries() == [], "the CPU translates it no more")
    expect(str(core.ids[ioasid].state) == "free-pending", "it waits for its last users")

    yield "It is dying: nobody finds it, nobody takes a reference, and it still counts against the quota."
    try:
        core.get(ioasid, "late")
    except KernelError as error:
        expect(error.name == "ENOENT", "the documents say -ENOENT")
    else:
        expect(False, "a dying PASID gets no new reference")
    expect(core.find_by_spid(bench.vm.vmm.container.set, 1, holder="late") is None, "not by its guest number either")
    expect(bench.vm.vmm.container.set.count == 1, "one PASID is charged to the VM")

    yield "The queued work runs in its order: the device drains and lets go."
    labels = [work.worker.path for work in core.work.waiting()]
    expect(labels == [f"host.mdev[{bench.adi.name}]", "host.iommu.svm"], "device first, then the IOMMU")
    expect(len(m.pending) == 1, "of an ordered queue only the oldest item can run")
    start = m.timeline.now
    m.run(m.pending[0].number)
    expect_references(m, ioasid, start, [(device, 1)])

    yield "Then the IOMMU tears its entry down. That was the last reference: the number is reusable."
    start = m.timeline.now
    m.run(m.pending[0].number)
    expect_references(m, ioasid, start, [("iommu", 0), ("", 0)])
    expect(bench.vm.vmm.container.set.count == 0, "the quota is free again")

    yield "The late unbind finds nothing, and harms nothing."
    bench.app.unbind(bench.adi)
    expect(ioasid not in core.ids, "the number stays in the pool")


FREE_BEFORE_UNBIND: Final = Story(
    "free-before-unbind", "A guest frees a PASID that is in use", ("T15", "T18", "T19"), _tell
)
