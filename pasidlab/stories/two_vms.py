"""T13 and T6: two VMs, the same guest PASID, one shared work queue.

Both guests bind a process and both get guest PASID 1. Each is backed by a host PASID of its own, so that the streams of
one queue stay apart: in the CPU's translation for ENQCMD, in the IOMMU's table, in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pasidlab.errors import KernelError
from pasidlab.handles import App
from pasidlab.hardware.accelerator.descriptor import CompletionStatus
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect

__all__ = ["TWO_VMS"]

_TEXTS: Final = (b"the first guest's secret", b"the second one's message")


def _tell(m: Machine) -> Iterator[str]:
    yield "One accelerator; two VMs, the second with a smaller quota; one interface of the shared queue each."
    dsa = m.plug_accelerator("dsa0")
    vm1, vm2 = m.create_vm("vm1", quota=64), m.create_vm("vm2", quota=16)
    adi1, adi2 = m.assign_adi(dsa, vm1, queue="shared"), m.assign_adi(dsa, vm2, queue="shared")
    expect(vm1.vmm.mdevs[adi1.name].queue is vm2.vmm.mdevs[adi2.name].queue, "both interfaces use one hardware queue")

    yield "In each guest a process binds. What is trapped is the PASID allocation and the PASID-cache flush."
    app1, app2 = vm1.spawn("app"), vm2.spawn("app")
    g1, g2 = app1.bind(adi1), app2.bind(adi2)
    h1, h2 = vm1.pasids[g1], vm2.pasids[g2]
    expect(g1 == g2 == 1, "both guests see PASID 1")
    expect(h1 != h2, "two different host PASIDs stand behind them")
    expect((vm1.vmm.kvm.entry(1), vm2.vmm.kvm.entry(1)) == (h1, h2), "KVM's tables translate 1 differently for each VM")

    yield "Each process lets the device copy bytes between two buffers of its own. Both use the same virtual addresses."
    buffers = [_copy(app, device, text) for app, device, text in zip((app1, app2), (adi1, adi2), _TEXTS, strict=True)]
    expect(buffers[0] == buffers[1], "the virtual addresses are the same in both guests")

    yield "Neither can reach the other's memory: the same address leads each host PASID to its own VM."
    src, dst = buffers[0]
    places = [m.translate(dsa.rid, pasid=pasid, address=src).address for pasid in (h1, h2)]
    expect(None not in places and places[0] != places[1], "one virtual address, two host-physical pages")
    secret = app2.buffer(_TEXTS[1])
    outcome = app1.copy(adi1, secret, dst, len(_TEXTS[1]))
    expect(outcome.status is CompletionStatus.PAGE_FAULT_NOBOF, "an address of the other guest is a page fault")
    fault = m.translate(dsa.rid, pasid=h1, address=secret).fault
    expect(fault is not None and fault.code == 0x71, "the IOMMU told the device why: no first-level entry")
    try:
        vm1.bind_raw(adi1, h2, app1)
    except KernelError as error:
        expect(error.name == "EACCES", "a hypervisor cannot bind another VM's PASID")
    else:
        expect(False, "the foreign PASID is refused")
    expect(app1.read(dst, len(_TEXTS[0])) == _TEXTS[0], "the first guest still has its own bytes")
    expect(app2.read(secret, len(_TEXTS[1])) == _TEXTS[1], "and the second one its own")

    yield "Both unbind: entries are cleared, KVM and the device are told, the numbers return to the pool."
    app1.unbind(adi1)
    app2.unbind(adi2)
    expect(vm1.vmm.kvm.entries() == vm2.vmm.kvm.entries() == [], "KVM's tables are empty")
    expect(vm1.pasids == vm2.pasids == {}, "the guests own no PASID")
    expect(m.translate(dsa.rid, pasid=h1, address=src).fault is not None, "the IOMMU blocks the old number")
    core = m.kernel.ioasid
    expect({h1, h2}.isdisjoint(core.ids.keys()), "the host PASIDs were reclaimed")


def _copy(app: App, device: object, text: bytes) -> tuple[int, int]:
    """Copy ``text`` from one new buffer to another by DMA; returns their addresses."""
    src, dst = app.buffer(text), app.buffer(len(text))
    outcome = app.copy(getattr(device, "name", ""), src, dst, len(text))
    expect(outcome.ok, f"the device copies for {app.name} of {app.altitude}")
    expect(app.read(dst, len(text)) == text, "the bytes arrived in the process's own memory")
    return src, dst


TWO_VMS: Final = Story(
    "two-vms", "Two VMs, one guest PASID, one shared queue", ("T6", "T9", "T12", "T13", "T15", "T18"), _tell
)
