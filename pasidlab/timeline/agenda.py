"""What could happen next: the explicit list of enabled actions (queued work, descriptors waiting in a device).

Nothing asynchronous runs by itself. A person, a story or an explorer picks an action from the list; "run to quiescence"
picks the oldest until none is left. Models workqueues and device engines without threads or clocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from pasidlab.timeline.state import Part, Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from pasidlab.timeline.timeline import Timeline

__all__ = ["Agenda", "EnabledAction"]


class Runner(Protocol):
    """Whoever can carry out an enabled action."""

    path: str

    def run_enabled(self, what: str) -> None:
        """Carry out the action called ``what``."""


class EnabledAction(NamedTuple):
    """An action that may be chosen next: ``runner`` carries out ``what``; ``label`` is for people."""

    number: int
    runner: Runner
    what: str
    label: str


class Agenda(Part, state=("_next",)):
    """All enabled actions of a machine, in the order in which they became enabled."""

    def __init__(self, timeline: Timeline, path: str = "agenda") -> None:
        super().__init__(timeline, path)
        self._next = 0
        self._actions = Table[int, tuple[Runner, str, str]](timeline, f"{path}.actions")

    def enable(self, runner: Runner, what: str, label: str) -> int:
        """Add an action; returns its number."""
        number = self._next
        self._next = number + 1
        self._actions[number] = (runner, what, label)
        return number

    def disable(self, number: int) -> None:
        """Take an action off the list without running it; unknown numbers are an error."""
        del self._actions[number]
        self._settle()

    def actions(self, runner: Runner | None = None) -> list[EnabledAction]:
        """The enabled actions (of one runner), oldest first."""
        rows = [EnabledAction(number, *action) for number, action in self._actions.items()]
        return rows if runner is None else [row for row in rows if row.runner is runner]

    def run(self, number: int) -> None:
        """Carry out one action."""
        runner, what, _ = self._actions.pop(number)
        self._settle()
        runner.run_enabled(what)

    def run_named(self, what: str) -> bool:
        """Carry out the oldest action of that name; ``False`` if there is none."""
        found = next((action for action in self.actions() if action.what == what), None)
        if found is not None:
            self.run(found.number)
        return found is not None

    def _settle(self) -> None:
        """An empty list starts counting afresh, so that equal states have equal digests."""
        if not len(self._actions):
            self._next = 0

    def run_all(self, limit: int = 1_000_000, settle: Callable[[], None] | None = None) -> int:
        """Run to quiescence, oldest first; returns how many actions ran. More than ``limit`` is a livelock and an
        error. ``settle`` is called when the list is empty, and may enable more.
        """
        for count in range(limit):
            if settle is not None and not len(self._actions):
                settle()
            actions = self._actions.keys()
            if not actions:
                return count
            self.run(actions[0])
        raise RuntimeError(f"actions must come to rest within {limit} steps, and did not")
