"""An ordered workqueue: deferred work, one item at a time, in the order in which it was queued.

Models ``alloc_ordered_workqueue``/``queue_work``/``flush_workqueue``/``cancel_work_sync``. Of all the items only the
oldest can run next, so only that one is an enabled action of the machine; a person, a story or an explorer chooses when
it runs, never which.

Invariant: the agenda has exactly one action of this queue while an item waits and none is running, and no action
otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from pasidlab.errors import KernelError
from pasidlab.timeline import HOST, Actor, Table, Verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from pasidlab.timeline import Agenda, Timeline

__all__ = ["OrderedWorkqueue", "Work", "Worker"]


class Worker(Protocol):
    """Whoever queues work for itself."""

    path: str

    def run_work(self, what: str) -> None:
        """Do what was queued as ``what``."""


class Work(NamedTuple):
    """One queued item: ``worker`` will do ``what``; ``label`` is for people."""

    number: int
    worker: Worker
    what: str
    label: str


class OrderedWorkqueue(Actor, state=("_action", "_next", "running")):
    """``running`` tells whether an item is being worked on. ``might_sleep`` refuses who must not wait: handlers.

    What an item refuses (a ``KernelError``) is told and ends with it: work has nobody to return an error to.
    """

    actor = "kernel"

    def __init__(
        self,
        timeline: Timeline,
        path: str,
        agenda: Agenda,
        altitude: str = HOST,
        might_sleep: Callable[[str], None] = lambda call: None,
    ) -> None:
        super().__init__(timeline, path, altitude)
        self._agenda = agenda
        self._might_sleep = might_sleep
        self._items = Table[int, tuple[Worker, str, str]](timeline, f"{path}.items")
        self._next = 0
        self._action: int | None = None
        self.running = False

    def queue(self, worker: Worker, what: str, label: str) -> bool:
        """Queue work behind everything else; ``False`` if this very work waits already (it then runs once)."""
        if any(known is worker and other == what for known, other, _ in self._items.values()):
            return False
        self._items[self._next] = (worker, what, label)
        self._next += 1
        self._arm()
        return True

    def cancel(self, worker: Worker, what: str | None = None) -> int:
        """Take ``what`` (default: everything) of one worker off the queue; returns how many items that were."""
        return self._remove(
            [work.number for work in self.waiting() if work.worker is worker and what in (None, work.what)]
        )

    def cancel_all(self) -> int:
        """Take everything off the queue: its kernel stops where it is."""
        return self._remove(self._items.keys())

    def waiting(self) -> list[Work]:
        """What is queued, in the order in which it will run."""
        return [Work(number, *item) for number, item in self._items.items()]

    def flush(self) -> int:
        """Wait until everything that is queued now has run; returns how many items that were. What they queue in turn
        goes on waiting.

        Only who may sleep can call this. ``-EDEADLK`` from a handler, or from inside a work item, which would wait for
        itself.
        """
        self._might_sleep("flush_workqueue")
        if self.running:
            raise KernelError("EDEADLK", f"{self.path} must not be flushed by its own work: it would wait for itself")
        count = 0
        for number in self._items.keys():
            if number in self._items:
                self._disarm()
                self._work()
                count += 1
        return count

    def run_enabled(self, what: str) -> None:
        """Run the oldest item (the agenda's way in)."""
        self._action = None
        self._work()

    def _work(self) -> None:
        worker, what, label = self._items.pop(self._items.keys()[0])
        self.running = True
        try:
            worker.run_work(what)
        except KernelError as error:
            self.emit(Verb.REFUSE, f"{label}: {error.reason}", after=f"-{error.name}")
        finally:
            self.running = False
            self._arm()

    def _remove(self, numbers: list[int]) -> int:
        if numbers:
            self._disarm()
            for number in numbers:
                del self._items[number]
            self._arm()
        return len(numbers)

    def _arm(self) -> None:
        """Enable the oldest item; an empty queue counts afresh, so that equal states have equal digests."""
        if self.running:
            return
        if not len(self._items):
            self._next = 0
        elif self._action is None:
            _, what, label = self._items[self._items.keys()[0]]
            self._action = self._agenda.enable(self, what, label)

    def _disarm(self) -> None:
        if self._action is not None:
            self._agenda.disable(self._action)
            self._action = None
