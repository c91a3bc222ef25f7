"""One allocated IOASID: state, owner, SPID, private data, and by name everyone who holds a reference.

Models ``struct ioasid_data`` of the IOASID extensions. The kernel keeps a number (``refs``); the model keeps the
holders' names and counts them, so that "who keeps 101 alive?" always has an answer.

ACTIVE is derived, not stored: "IDLE and referenced by someone besides the allocator" (the documents name it as a state
of its own).
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final

from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.timeline import Timeline

__all__ = ["INVALID_IOASID", "MOVES", "IoasidRecord", "Phase", "State"]

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


class Phase(IntEnum):
    """What is stored of the state. While FREE is TOLD the allocator still holds its reference; PENDING it does not."""

    LIVING = 0
    TOLD = 1
    PENDING = 2


class IoasidRecord(Part, state=("holders", "phase", "private", "spid")):
    """An ID between alloc and reclaim. ``holders`` are the names of its references, the allocator's first.

    ``payer`` is whose account the ID is charged to: the set's token, or for a kernel's own set the process that asked.
    """

    def __init__(
        self,
        timeline: Timeline,
        path: str,
        ioasid: int,
        owner: IoasidSet,
        holder: str,
        private: Part | None = None,
        payer: Part | None = None,
    ) -> None:
        super().__init__(timeline, path)
        self.ioasid = ioasid
        self.owner = owner
        self.payer = payer
        self.phase = Phase.LIVING
        self.holders: tuple[str, ...] = (holder,)
        self.spid: int | None = None
        self.private = private

    @property
    def free_pending(self) -> bool:
        """Whether it was freed and only waits for its users."""
        return self.phase is not Phase.LIVING

    @property
    def users(self) -> tuple[str, ...]:
        """The holders but for the allocator, whose reference goes by free and in no other way."""
        return self.holders if self.phase is Phase.PENDING else self.holders[1:]

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
