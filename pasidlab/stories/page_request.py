"""T4, and what it takes that memory need not be there: ATS and PRI, natively and through a guest.

A buffer is mapped, but no page of it has ever been touched. A device that asks before it acts (ATS) learns that there
is no page, and asks for one (PRI). Whoever owns the page table brings it: the host's kernel for its own process, the
guest's kernel for one of the guest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.hardware.accelerator.descriptor import CompletionStatus
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.kernel.kernel import Kernel

__all__ = ["PAGE_REQUEST"]

_TEXT: Final = b"nobody has been here yet"
_SIZE: Final = len(_TEXT)
_NATIVE: Final = (
    ("iommu unit", Verb.ATS),
    ("iommu unit", Verb.PAGE_REQUEST),
    ("iommu", Verb.HANDLE),
    ("sva", Verb.PAGE_FAULT),
    ("iommu unit", Verb.PAGE_RESPONSE),
    ("accelerator", Verb.EXECUTE),
    ("accelerator", Verb.COMPLETE),
)
"""Who does what, in this order; other steps may lie between."""
_GUEST: Final = (
    ("hardware", Verb.PAGE_REQUEST),
    ("host", Verb.HANDLE),
    ("host", Verb.PAGE_FAULT),
    ("host", Verb.PAGE_REQUEST),
    ("vm1", Verb.HANDLE),
    ("vm1", Verb.PAGE_FAULT),
    ("host", Verb.TRAP),
    ("host", Verb.PAGE_RESPONSE),
    ("host", Verb.IOCTL),
    ("hardware", Verb.PAGE_RESPONSE),
    ("hardware", Verb.COMPLETE),
)
"""The same by altitude: silicon, host, guest, and all the way back."""


def _tell(m: Machine) -> Iterator[str]:
    yield "A process of the host has two buffers; the second one has no page yet. It binds."
    dsa = m.plug_accelerator("dsa0")
    app, neighbour = m.spawn("app"), m.spawn("neighbour")
    neighbour.buffer(1)
    src, dst = app.buffer(_TEXT), app.buffer(_SIZE, populate=False)
    pasid = app.bind(dsa)
    fault = m.translate(dsa.rid, pasid, dst, "write").fault
    expect(fault is not None and fault.code == 0x71, "a first-level entry is not present")

    yield "The device copies, and may wait: it asks, the kernel brings the page, the answer comes back, it goes on."
    start = m.timeline.now
    expect(app.copy(dsa, src, dst, _SIZE, block_on_fault=True).ok, "the copy succeeds")
    steps = [(event.actor, event.verb) for event in m.timeline.since(start)]
    expect(_in_order(_NATIVE, steps), "asked, handled, brought, answered, done")
    expect(app.read(dst, _SIZE) == _TEXT, "the bytes arrived")
    expect(m.fault_log == [], "a page that is not there yet is no fault for a device that asks first")

    yield "The process gives the buffer back. Unit and device forget it first, then its page is freed."
    page, start = app.process.mm.physical(dst), m.timeline.now
    app.free(dst)
    _expect_forgotten(m, start, m.kernel)
    mine = neighbour.buffer(b"mine")
    expect(neighbour.process.mm.physical(mine) == page, "the next one to need memory gets that very page")

    yield "The same copy again. Now there can be no page: the answer is 'invalid', the copy ends in a page fault."
    outcome = app.copy(dsa, src, dst, _SIZE, block_on_fault=True)
    expect(outcome.status is CompletionStatus.PAGE_FAULT_IR, "the completion record says that the request was refused")
    expect(neighbour.read(mine, 4) == b"mine", "and nothing was written to the page, which is somebody else's now")

    yield "A guest's process does the same. The request goes up to the guest, and its answer down to the device."
    vm = m.create_vm("vm1", quota=4)
    adi = m.assign_adi(dsa, vm)
    guest = vm.spawn("app")
    guest_pasid = guest.bind(adi)
    src, dst = guest.buffer(_TEXT), guest.buffer(_SIZE, populate=False)
    start = m.timeline.now
    expect(guest.copy(adi, src, dst, _SIZE, block_on_fault=True).ok, "the copy succeeds")
    events = m.timeline.since(start)
    expect(_in_order(_GUEST, [(event.altitude, event.verb) for event in events]), "each floor hands it on")
    asked = [event.fact("pasid") for event in events if event.verb is Verb.PAGE_REQUEST]
    expect(asked == [vm.pasids[guest_pasid], guest_pasid], "under the host's number below, under the guest's above")
    expect(guest.read(dst, _SIZE) == _TEXT, "the bytes arrived in the guest")

    yield "The guest's process gives its buffer back: its kernel invalidates, which is trapped and forwarded."
    start = m.timeline.now
    guest.free(dst)
    _expect_forgotten(m, start, vm.kernel)
    outcome = guest.copy(adi, src, dst, _SIZE, block_on_fault=True)
    expect(outcome.status is CompletionStatus.PAGE_FAULT_IR, "the guest refuses, and the device hears of it")


def _in_order(wanted: tuple[tuple[str, Verb], ...], steps: list[tuple[str, Verb]]) -> bool:
    rest = iter(steps)
    return all(step in rest for step in wanted)


def _expect_forgotten(m: Machine, start: int, kernel: Kernel) -> None:
    """Unit and device were told to forget, in this order, and while they were no page was free yet."""
    told = [event for event in m.timeline.since(start) if event.verb is Verb.INVALIDATE]
    kinds = [event.subject.partition(":")[0] for event in told]
    expect(kinds == ["PASID IOTLB", "PASID device TLB"], f"first the unit, then the device, not {kinds}")
    m.timeline.go(told[0].number + 1)
    free_then = kernel.pages.available
    m.timeline.go(m.timeline.last)
    expect(kernel.pages.available == free_then + 1, "the page is freed when nobody translates to it any more")


PAGE_REQUEST: Final = Story("page-request", "A page that is not there yet", ("T4", "T7"), _tell)
