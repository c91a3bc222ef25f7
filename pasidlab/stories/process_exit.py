"""T19: a native process dies with a device at work (facts 2.4).

Linux ends the memory of a process before its files. So the PASID entry goes first (A), then page tables and pages (A'),
then the device is closed and stops (B), and the PASID is freed last (C). Between A and B the device still runs: its DMA
is blocked, in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pasidlab.machine import Machine
from pasidlab.stories.lives import expect_references
from pasidlab.stories.story import Story, expect
from pasidlab.timeline import Verb

__all__ = ["PROCESS_EXIT"]

_ORDER: Final = {Verb.CLEAR_ENTRY: "A", Verb.UNMAP: "A'", Verb.DRAIN: "B", Verb.RECLAIM: "C"}


def _tell(m: Machine) -> Iterator[str]:
    yield "A process on the host has bound an accelerator."
    dsa = m.plug_accelerator("dsa0")
    app = m.spawn("app")
    ioasid = app.bind(dsa)
    expect(m.kernel.ioasid.ids[ioasid].holders == ("sva", "iommu"), "SVA and the IOMMU hold its PASID")

    yield "It submits work, which waits in the device."
    app.submit(dsa, app.buffer(b"too late"), app.buffer(8), 8)
    expect(len(m.pending) == 1, "the descriptor waits")

    yield "The process is killed. Entry, memory, device, PASID: in this order."
    start = m.timeline.now
    app.kill()
    events = m.timeline.events[start:]
    order = [_ORDER[event.verb] for event in events if event.verb in _ORDER]
    expect(list(dict.fromkeys(order)) == ["A", "A'", "B", "C"], "A, A', B, C")
    expect_references(m, ioasid, start, [("iommu", 1), ("sva", 0), ("", 0)])

    yield "The DMA that came too late reached no page, and nobody was bothered: the device asked in vain."
    late = [event for event in events if event.verb is Verb.ATS]
    expect(bool(late), "the device ran until it was stopped")
    expect(all(str(event.after).startswith("no page") for event in late), "the IOMMU had nothing to give")
    expect(m.fault_log == [], "no fault was recorded; for a device without ATS the entry's FPD sees to that")
    expect(m.pending == [] and len(m.kernel.ioasid.ids) == 0, "nothing waits, no PASID is out")


PROCESS_EXIT: Final = Story("process-exit", "A native process dies at work", ("T3", "T19"), _tell)
