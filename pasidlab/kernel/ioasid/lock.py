"""The allocator's spinlock, as far as it can go wrong.

Models ``ioasid_allocator_lock`` of the V4 series: one lock for the allocators, the sets and the notifier chains, held
while notification handlers run. A handler that calls what takes the lock waits for itself for ever. Here such a call is
reported in the event stream and refused with ``-EDEADLK`` (as lockdep would report it), before it has changed anything;
handlers have ``get_locked`` and ``put_locked``, and the ordered workqueue for everything else.

Nothing else runs while a call is carried out, so the lock is never contended and is not part of the modelled state.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.timeline import Actor, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.notifier import Subscriber

__all__ = ["AllocatorLock"]


class AllocatorLock:
    """``handler`` is the subscriber whose handler runs under the lock, if one does."""

    __slots__ = ("_core", "handler")

    def __init__(self, core: Actor) -> None:
        self._core = core
        self.handler: Subscriber | None = None

    def take(self, call: str) -> None:
        """``call`` takes the lock. In a handler that is reported, and refused with ``-EDEADLK``."""
        if self.handler is not None:
            name = self.handler.notifier_name
            self._core.emit(Verb.DEADLOCK, f"{call} in a handler of {name}", call=call, handler=name)
            raise KernelError(
                "EDEADLK",
                f"{name} must not call {call} in its handler, which runs under the allocator's lock: "
                "use the variant for handlers, or queue work",
            )

    def held_for(self, subscriber: Subscriber) -> _Held:
        """``with lock.held_for(subscriber):`` its handler runs."""
        return _Held(self, subscriber)


class _Held:
    """While active, a handler runs under the lock. Handlers are not nested: what would nest them takes the lock."""

    __slots__ = ("_lock", "_subscriber")

    def __init__(self, lock: AllocatorLock, subscriber: Subscriber) -> None:
        self._lock = lock
        self._subscriber = subscriber

    def __enter__(self) -> None:
        self._lock.handler = self._subscriber

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.handler = None
