"""One allocated IOASID: state, owner, SPID, private data, and by name everyone who holds a reference.

Models ``struct ioasid_data`` of the IOASID extensions. The kernel keeps a number (``refs``); the model keeps the
holders' names and counts them, so that "who keeps 101 alive?" always has an answer.

ACTIVE is derived, not stored: "IDLE and referenced by someone besides the allocator" (the documents name it as a state
of its own).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.timeline import Timeline

__all__ = ["INVALID_IOASID", "MOVES", "IoasidRecord", "State"]

INVALID_IOASID: Final = 0xFFFF_FFFF
"""All ones: "no ID", and in the kernel also "no SPID attached" (here: ``None``)."""


class State(StrEnum):
    """Where an ID is in its life."""

    FREE = "free"
    IDLE = "idle"
    ACTIVE = "active"
    FREE_PENDING = "free-pending"


MOVES: Final[tuple[tuple[State, str, State], ...]] = (
    (State.FREE, "alloc", State.IDLE),
    (State.IDLE, "get", State.ACTIVE),
    (State.ACTIVE, "get", State.ACTIVE),
    (State.ACTIVE, "put", State.ACTIVE),
    (State.ACTIVE, "put", State.IDLE),
    (State.IDLE, "free", State.FREE),
    (State.ACTIVE, "free", State.FREE_PENDING),
    (State.FREE_PENDING, "put", State.FREE_PENDING),
    (State.FREE_PENDING, "put", State.FREE),
    (State.FREE_PENDING, "free", State.FREE_PENDING),
)
"""The allowed moves. A get in FREE_PENDING is refused; nothing else leads out of FREE."""


class IoasidRecord(Part, state=("free_pending", "holders", "private", "spid")):
    """An ID between alloc and reclaim. ``holders`` are the names of its references, the allocator's first."""

    def __init__(self, timeline: Timeline, path: str, ioasid: int, owner: IoasidSet, holder: str) -> None:
        super().__init__(timeline, path)
        self.ioasid = ioasid
        self.owner = owner
        self.free_pending = False
        self.holders: tuple[str, ...] = (holder,)
        self.spid: int | None = None
        self.private: Part | None = None

    @property
    def refs(self) -> int:
        """The reference count."""
        return len(self.holders)

    @property
    def state(self) -> State:
        """The documented state."""
        if self.retired:
            return State.FREE
        if self.free_pending:
            return State.FREE_PENDING
        return State.ACTIVE if len(self.holders) > 1 else State.IDLE

    def __repr__(self) -> str:
        if self.retired:
            return f"<IOASID {self.ioasid}, reclaimed>"
        return f"<IOASID {self.ioasid} of {self.owner.name}, {self.state}, held by {', '.join(self.holders)}>"
