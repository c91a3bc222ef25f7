"""A work queue's memory: descriptors in the order in which they came, each as its 64 bytes.

Every waiting descriptor is an enabled action of the machine; the queue remembers which, so that draining and aborting
can take it off that list. The queue knows nothing about its configuration: size, mode and state are WQCFG bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["Waiting", "WorkQueue"]


class Waiting(NamedTuple):
    """A descriptor in a queue: its bytes, and the number of the enabled action that will execute it."""

    data: bytes
    action: int


class WorkQueue(Part, state=("next_ticket",)):
    """First in, first out; tickets number the descriptors while the queue is not empty.

    >>> from pasidlab.timeline import Timeline
    >>> queue = WorkQueue(Timeline(), "dsa0.wq0")
    >>> ticket = queue.next_ticket
    >>> queue.put(bytes(64), action=7)
    >>> len(queue), queue.take(ticket).action, len(queue), queue.next_ticket
    (1, 7, 0, 0)
    """

    next_ticket: int

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.next_ticket = 0
        self._waiting = Table[int, Waiting](timeline, f"{path}.waiting")

    def put(self, data: bytes, action: int) -> None:
        """Append a descriptor under ``next_ticket``."""
        self._waiting[self.next_ticket] = Waiting(data, action)
        self.next_ticket += 1

    def take(self, ticket: int) -> Waiting:
        """Remove a descriptor. An empty queue starts counting afresh, so that equal states have equal digests."""
        waiting = self._waiting.pop(ticket)
        if not len(self._waiting):
            self.next_ticket = 0
        return waiting

    def items(self) -> list[tuple[int, Waiting]]:
        """Tickets and descriptors, oldest first."""
        return self._waiting.items()

    def __len__(self) -> int:
        return len(self._waiting)
