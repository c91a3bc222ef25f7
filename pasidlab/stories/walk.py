"""T1, T2, T4 and T9: what a DMA request is translated through, in the four kinds of PASID entry.

Requester ID and PASID choose an entry of a table in memory; the entry says which page tables follow. Each walk is asked
for, and then a real request is sent the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pasidlab.handles import PhysicalFunction
from pasidlab.hardware.iommu.contract import Walk
from pasidlab.hardware.layouts.vtd import PASID_ENTRY, PGTT
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect

__all__ = ["WALK"]

_TEXT: Final = b"one page, many ways to it"


def _tell(m: Machine) -> Iterator[str]:
    yield "Without a PASID: the entry of PASID 0 says pass-through, and the address goes on as it is."
    dsa = m.plug_accelerator("dsa0")
    editor = m.spawn("editor")
    src = editor.buffer(_TEXT)
    page = editor.process.mm.physical(src)
    walk = _sent(m, dsa, None, page)
    expect((_kind(walk), walk.address) == (PGTT.PASS_THROUGH, page), "what comes out is what went in")
    expect(_read(walk) == {"lookup": 4}, "four structures say so: root, context, directory, PASID entry")

    yield "Bound by a process of the host: first-level. The device uses the page table of the process."
    pasid = editor.bind(dsa)
    walk = _sent(m, dsa, pasid, src)
    expect(_kind(walk) == PGTT.FIRST, "the entry says first-level")
    expect(_entry(walk, "FLPTPTR") == editor.process.mm.root, "its pointer is the root of the process's own table")
    expect((_read(walk)["first"], walk.address) == (4, page), "four more reads, and it is the process's page")

    yield "Bound in a guest: it writes a table that only the hypervisor reads. The unit reads the host's."
    vm = m.create_vm("vm1", quota=4)
    adi = m.assign_adi(dsa, vm)
    app = vm.spawn("app")
    guest_pasid = app.bind(adi)
    host_pasid, src = vm.pasids[guest_pasid], app.buffer(_TEXT)
    rid = next(iter(vm.vmm.viommu.devices.keys()))
    believed = vm.kernel.iommu.read_entry(rid, guest_pasid)
    written = m.kernel.iommu.read_entry(dsa.rid, host_pasid)
    kinds = [PASID_ENTRY["PGTT"].get(words) for words in (believed, written)]
    expect(kinds == [PGTT.FIRST, PGTT.NESTED], "the guest believes in first-level, the host has written nested")
    root = PASID_ENTRY["FLPTPTR"].get(believed)
    expect(PASID_ENTRY["FLPTPTR"].get(written) == root, "both entries name the same page table of the guest")

    yield "Nested: each guest-physical address on the way goes through the second level."
    walk = _sent(m, dsa, host_pasid, src)
    expect(_read(walk) == {"lookup": 4, "second": 20, "first": 4}, "24 reads in page tables: 4 x (4 + 1) + 4")
    inside = {stop.stage for stop in walk.stops if stop.address & ~0xFFF in vm.vmm.container.pinned}
    expect(inside == {"first"}, "of all that is read only the guest's own page table lies in the guest's memory")
    expect(m.memory.read(walk.address or 0, len(_TEXT)) == _TEXT, "at the end are the bytes of the guest's process")

    yield "Shadow: the host's number stands behind the guest's, which on the wire would mean somebody else."
    expect(guest_pasid == pasid != host_pasid, "the guest's process and the host's editor have the same number")
    expect(m.dma(dsa, guest_pasid, src) == page, "that number leads to the editor's page")

    yield "The default PASID of the interface: second-level only, for the guest-physical memory of the VM."
    default, guest_page = vm.vmm.container.domain.default_pasid, app.process.mm.physical(src)
    below = _sent(m, dsa, default, guest_page)
    expect((_kind(below), _read(below)["second"]) == (PGTT.SECOND, 4), "four reads in the second level")
    expect(below.address == walk.address, "the same page, by its guest-physical address")

    yield "When everybody has unbound, nothing is left to walk: the entries are not present."
    app.unbind(adi)
    editor.unbind(dsa)
    for number in (pasid, host_pasid):
        fault = m.translate(dsa.rid, pasid=number, address=src).fault
        expect(fault is not None and fault.code == 0x59, f"PASID {number} is blocked: its entry is not present")


def _sent(m: Machine, dsa: PhysicalFunction, pasid: int | None, address: int) -> Walk:
    """Send a real request, then ask the tables which way it went."""
    reached = m.dma(dsa, pasid, address)
    walk = m.translate(dsa.rid, pasid=pasid, address=address, caches=False)
    expect(walk.address is not None and reached == walk.address, "a real request goes where the tables say")
    return walk


def _entry(walk: Walk, field: str) -> int:
    return next(stop.fields()[field] for stop in walk.stops if stop.layout is PASID_ENTRY)


def _kind(walk: Walk) -> int:
    return _entry(walk, "PGTT")


def _read(walk: Walk) -> dict[str, int]:
    """How many structures of each stage the unit read."""
    stages = [stop.stage for stop in walk.stops]
    return {stage: stages.count(stage) for stage in dict.fromkeys(stages)}


WALK: Final = Story("walk", "What a DMA is translated through", ("T1", "T2", "T4", "T9"), _tell)
