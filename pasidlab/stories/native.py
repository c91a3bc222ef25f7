"""T3 and T16: Shared Virtual Addressing on the bare machine, from bind to free (facts 2.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.machine import Machine
from pasidlab.stories.lives import expect_references
from pasidlab.stories.story import Story, expect

__all__ = ["NATIVE"]

_TEXT: Final = b"no guest in sight"


def _tell(m: Machine) -> Iterator[str]:
    yield "A machine with one accelerator and a process on the host."
    dsa = m.plug_accelerator("dsa0")
    app = m.spawn("app")

    yield "Bind: a PASID is allocated, and its entry points to the process's own page table."
    start = m.timeline.now
    pasid = app.bind(dsa)
    expect_references(m, pasid, start, [("", 1), ("iommu", 2)])
    words = m.kernel.iommu.read_entry(dsa.rid, pasid)
    expect(
        PASID_ENTRY["FLPTPTR"].get(words) == app.process.mm.root, "the entry's first-level pointer is the page table"
    )

    yield "The device uses the process's virtual addresses with that PASID."
    src, dst = app.buffer(_TEXT), app.buffer(len(_TEXT))
    expect(app.copy(dsa, src, dst, len(_TEXT)).ok, "the copy succeeds")
    expect(app.read(dst, len(_TEXT)) == _TEXT, "the bytes arrived")

    yield "The device stops, unbind, free: the entry is gone, the number is back."
    start = m.timeline.now
    app.unbind(dsa)
    expect_references(m, pasid, start, [("iommu", 1), ("sva", 0), ("", 0)])
    expect(m.translate(dsa.rid, pasid=pasid, address=src).fault is not None, "the IOMMU blocks the old number")
    expect(len(m.kernel.ioasid.ids) == 0, "no PASID is out")


NATIVE: Final = Story("native", "Shared Virtual Addressing on the bare machine", ("T1", "T3", "T16"), _tell)
