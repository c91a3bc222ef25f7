"""Descriptors that are being carried out: how far each has come, and the table of those that are in flight.

A descriptor that needs more than one step leaves its queue with the first one (its slot is free) and is in flight until
the last: what a real engine holds in its internal state. Each step that is still to be done is an enabled action of the
machine, so anything else may happen in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pasidlab.hardware.accelerator.descriptor import Descriptor, Opcode, opcode_name
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["InFlight", "Moving", "Progress"]


class Progress(NamedTuple):
    """An accepted descriptor of a queue (its 64 bytes) with ``done`` bytes behind it.

    For a batch ``done`` counts the descriptors of its list that have ended, ``failed`` says whether one of them did not
    succeed, ``child`` is the one that is being carried out (empty: not fetched yet), with ``child_done`` bytes behind.

    >>> copy = Descriptor(Opcode.MEMMOVE, size=9000)
    >>> Progress(0, copy.to_bytes(), 4096).words(pasid=5)
    'MEMMOVE for PASID 5, 4096 of 9000 bytes'
    """

    wq: int
    data: bytes
    done: int = 0
    failed: bool = False
    child: bytes = b""
    child_done: int = 0

    @property
    def work(self) -> Descriptor:
        """The descriptor that the queue accepted."""
        return Descriptor.from_bytes(self.data)

    def words(self, pasid: int | None) -> str:
        """For people: ``MEMMOVE for PASID 5, 4096 of 9000 bytes``."""
        work, who = self.work, "without PASID" if pasid is None else f"for PASID {pasid}"
        unit = "descriptors" if work.opcode == Opcode.BATCH else "bytes"
        return f"{opcode_name(work.opcode)} {who}, {self.done} of {work.size} {unit}"


class Moving(NamedTuple):
    """A descriptor in flight, and the number of the enabled action that does its next step."""

    progress: Progress
    action: int


class InFlight(Part, state=("next_ticket",)):
    """The descriptors in flight of one device; tickets number their next steps while there are any.

    >>> from pasidlab.timeline import Timeline
    >>> moving = InFlight(Timeline(), "dsa0.in-flight")
    >>> moving.add(Progress(0, bytes(64), 4096), action=7)
    >>> moving.take(0).progress.done, len(moving), moving.next_ticket
    (4096, 0, 0)
    """

    next_ticket: int

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.next_ticket = 0
        self._moving = Table[int, Moving](timeline, f"{path}.moving")

    def add(self, progress: Progress, action: int) -> None:
        """Remember how far a descriptor has come, under ``next_ticket``."""
        self._moving[self.next_ticket] = Moving(progress, action)
        self.next_ticket += 1

    def take(self, ticket: int) -> Moving:
        """Remove a descriptor. With none left counting starts afresh, so that equal states have equal digests."""
        moving = self._moving.pop(ticket)
        if not len(self._moving):
            self.next_ticket = 0
        return moving

    def items(self) -> list[tuple[int, Moving]]:
        """Tickets and descriptors, by the time of their last step."""
        return self._moving.items()

    def __len__(self) -> int:
        return len(self._moving)
