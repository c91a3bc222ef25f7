"""T18 and T19: the hypervisor process dies with a PASID of its guest in use (facts 2.5).

The memory of the process ends first; what VFIO has pinned of it stays. Then the files close: KVM drops the references
of its entries, the mediated device is reset and drops its own, VFIO unbinds what is bound, frees what is allocated,
and ends the set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pasidlab.machine import Machine
from pasidlab.stories.lives import expect_references, guest_bench
from pasidlab.stories.story import Story, expect
from pasidlab.timeline import Verb

__all__ = ["VM_EXIT"]


def _tell(m: Machine) -> Iterator[str]:
    yield "A guest's PASID is in use: four references."
    bench = guest_bench(m)
    core, ioasid = m.kernel.ioasid, bench.ioasid
    expect(core.refs(ioasid) == 4, "VFIO, IOMMU, KVM, device")
    promised = core.capacity.available

    yield "The guest submits work, which waits in the device."
    app = bench.app
    app.submit(bench.adi, app.buffer(b"lost"), app.buffer(4), 4)
    expect(len(m.pending) == 1, "the descriptor waits")

    yield "The hypervisor is killed. Its files close: KVM, the device, VFIO; each drops what it held."
    start = m.timeline.now
    bench.vm.crash()
    device = f"vdcm:{bench.adi.name}"
    expect_references(m, ioasid, start, [("kvm:vm1", 3), (device, 2), ("iommu", 1), ("vfio", 0), ("", 0)])

    yield "Nobody had to be told FREE, nothing is left to do, and the quota is back."
    told = [event for event in m.timeline.events[start:] if event.verb is Verb.NOTIFY and event.fact("event") == "FREE"]
    expect(told == [] and m.pending == [], "the last reference was the allocator's")
    expect(core.capacity.available == promised + 16, "the set ended and returned its quota")
    expect([one.name for one in core.sets.values()] == ["host"], "only the host's set is left")


VM_EXIT: Final = Story("vm-exit", "A hypervisor dies with a PASID in use", ("T18", "T19"), _tell)
