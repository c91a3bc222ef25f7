"""A notifier chain, its events and its subscribers: how the users of a PASID hear of its life.

Models the atomic notifier chains of the IOASID extensions (2020-21, never merged; Documentation/driver-api/ioasid.rst
of that series). Who is on which chain, and the order of delivery over two chains: :mod:`.subscriptions`.

All documents want the CPU (KVM) first. They disagree on the rest: the v2 document runs the device before the IOMMU
(quiesce the source of DMA first), the V4 document and the code the other way round. This model follows the v2 document.

Handlers run in atomic context: they must not call anything that takes the allocator's lock (:mod:`.lock`).
"""

from __future__ import annotations

from enum import IntEnum, IntFlag, StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pasidlab.errors import KernelError
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["HEARD_ON", "Chain", "IoasidEvent", "NotifyFlag", "Payload", "Priority", "Subscriber"]


class Priority(IntEnum):
    """Larger runs first."""

    LAST = 0
    IOMMU = 1
    DEVICE = 2
    CPU = 3


class IoasidEvent(StrEnum):
    """What subscribers are told."""

    ALLOC = "ALLOC"
    FREE = "FREE"
    BIND = "BIND"
    UNBIND = "UNBIND"


class NotifyFlag(IntFlag):
    """To which chains an event goes."""

    ALL = 1
    SET = 2


HEARD_ON: Final[dict[IoasidEvent, NotifyFlag]] = {
    IoasidEvent.ALLOC: NotifyFlag.SET,
    IoasidEvent.BIND: NotifyFlag.SET,
    IoasidEvent.UNBIND: NotifyFlag.SET,
    IoasidEvent.FREE: NotifyFlag.ALL | NotifyFlag.SET,
}
"""To which chains each event goes (facts 1.8)."""


class Payload(NamedTuple):
    """The snapshot that a handler gets: it stays true even if the record changes afterwards."""

    ioasid: int
    spid: int | None
    set_id: int
    private: Part | None = None


class Subscriber(Protocol):
    """Whoever registers: KVM, a mediated device, an IOMMU driver."""

    path: str

    @property
    def notifier_name(self) -> str:
        """The name shown in lists and ladders."""

    @property
    def notifier_priority(self) -> Priority:
        """When in the chain it runs."""

    def ioasid_notified(self, event: IoasidEvent, payload: Payload) -> bool:
        """Handle an event; ``True`` is NOTIFY_OK, ``False`` NOTIFY_DONE (not interested)."""


class Chain(Part, state=("_next",)):
    """Subscribers in order of delivery: priority first, then registration."""

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self._entries = Table[tuple[int, int], Subscriber](timeline, f"{path}.entries")
        self._next = 0

    def register(self, subscriber: Subscriber) -> None:
        """Add a subscriber behind those of the same priority; ``-EEXIST`` if it is on the chain (UNVERIFIED for the
        kernels of 2020, which warned).
        """
        if subscriber in self:
            raise KernelError("EEXIST", f"{subscriber.notifier_name} is on this chain already")
        self._entries[-subscriber.notifier_priority, self._next] = subscriber
        self._next += 1

    def unregister(self, subscriber: Subscriber) -> None:
        """Take a subscriber off the chain; one that is not on it is ignored."""
        for key, known in self._entries.items():
            if known is subscriber:
                del self._entries[key]
        if not len(self._entries):
            self._next = 0

    def __contains__(self, subscriber: object) -> bool:
        return any(known is subscriber for known in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def subscribers(self) -> list[Subscriber]:
        """In order of delivery."""
        return self._entries.values()

    def retire(self) -> None:
        """The set is gone: nobody is on its chain any more."""
        for key in self._entries.keys():
            del self._entries[key]
        super().retire()
