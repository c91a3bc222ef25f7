"""The present PASID entries of the host, as hardware would read them: what several invariants start from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.hardware.pcie import format_rid

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["Entry", "entries"]


class Entry(NamedTuple):
    """One present PASID entry of the host."""

    rid: int
    pasid: int
    words: tuple[int, ...]

    def field(self, name: str) -> int:
        """The value of one field."""
        return PASID_ENTRY[name].get(self.words)

    def __str__(self) -> str:
        return f"PASID {self.pasid} of {format_rid(self.rid)}"


def entries(machine: Machine) -> Iterator[Entry]:
    """Every present PASID entry, read from the tables in memory."""
    for rid, table in machine.kernel.iommu.tables.items():
        for pasid in table.present():
            yield Entry(rid, pasid, table.read(pasid))
