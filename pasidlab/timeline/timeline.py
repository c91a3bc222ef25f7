"""Time: the journal, the events, and travel between them.

A *step* is one event. An *operation* is one call by a person (``vm1.spawn("app")``) with all the events that it causes.
Going back undoes changes; nothing is computed again. A call made in the past starts a new future: the old one is
dropped. In the middle of an operation that operation is completed first, so that no call is ever half made.

Invariants: the state at step ``n`` is the state right after event ``n`` was emitted, and at the last step of an
operation the state in which the operation left the world; observers see events and can change nothing (``observe``).
Prior art of the latter: Trio's instruments, which cannot act either, and are detached when they fail.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple

from pasidlab.errors import KernelError
from pasidlab.timeline.events import USER, Event, Verb
from pasidlab.timeline.journal import Change, Journal

__all__ = ["Operation", "Timeline"]

_LOG = logging.getLogger(__name__)


class Operation(NamedTuple):
    """One call by a person: its Python line, and the steps ``first`` to ``last`` (event numbers) that it took.

    ``refused`` holds the reason when the modelled kernel said no.
    """

    number: int
    line: str
    first: int
    last: int
    refused: str | None = None


class _Because:
    """While active, new events name ``cause`` as the event that led to them."""

    __slots__ = ("_cause", "_stack")

    def __init__(self, stack: list[int], cause: int) -> None:
        self._stack = stack
        self._cause = cause

    def __enter__(self) -> None:
        self._stack.append(self._cause)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.pop()


class Timeline:
    """The order of all things in one machine.

    >>> time = Timeline()
    >>> with time.operation("demo()"):
    ...     first = time.emit("host", "vfio", Verb.ALLOC, "PASID 101", pasid=101)
    ...     with time.because(first):
    ...         second = time.emit("host", "kvm", Verb.HANDLE, "PASID 101")
    >>> second.cause == first.number, len(time.events)
    (True, 3)
    """

    def __init__(self) -> None:
        self.journal = Journal()
        self._events: list[Event] = []
        self._stops: list[int] = []
        self._operations: list[Operation] = []
        self._now = 0
        self._causes: list[int] = []
        self._open: str | None = None
        self._observers: list[Callable[[Event], None]] = []
        self._telling = False
        self.floor = 0

    # --- reading ------------------------------------------------------------------------------------------------

    @property
    def events(self) -> list[Event]:
        """The events up to the present step, oldest first."""
        return self._events[: self._now]

    def since(self, step: int) -> list[Event]:
        """The events from step ``step`` to the present one, oldest first."""
        return self._events[step : self._now]

    @property
    def busy(self) -> bool:
        """Whether an operation is being carried out."""
        return self._open is not None

    @property
    def now(self) -> int:
        """The present step: how many events lie in the past."""
        return self._now

    @property
    def last(self) -> int:
        """The newest step that can be reached."""
        return len(self._events)

    @property
    def operations(self) -> list[Operation]:
        """Every operation, those of an undone future included, oldest first."""
        return list(self._operations)

    @property
    def operation_now(self) -> Operation | None:
        """The operation to which the present step belongs."""
        for operation in reversed(self._operations):
            if operation.first < self._now:
                return operation
        return None

    def events_of(self, operation: Operation) -> list[Event]:
        """The events of one operation that lie in the past."""
        return self._events[operation.first : min(operation.last, self._now)]

    def all_events_of(self, operation: Operation) -> list[Event]:
        """The events of one operation, those of an undone future included."""
        return self._events[operation.first : operation.last]

    def changes_of_step(self, step: int) -> list[Change]:
        """What changed between step ``step - 1`` and ``step`` (both in the past)."""
        if not 0 < step <= self._now:
            raise ValueError(f"step must be between 1 and {self._now}, not {step}")
        start = self._stops[step - 2] if step > 1 else 0
        return self.journal.changes(start, self._stops[step - 1])

    # --- writing ------------------------------------------------------------------------------------------------

    def emit(
        self,
        altitude: str,
        actor: str,
        verb: Verb,
        subject: str,
        before: object = None,
        after: object = None,
        **facts: object,
    ) -> Event:
        """Record that something happened, now; its cause is the innermost ``because``."""
        return self.record(altitude, actor, verb, subject, before, after, facts)

    def record(
        self,
        altitude: str,
        actor: str,
        verb: Verb,
        subject: str,
        before: object,
        after: object,
        facts: dict[str, object],
    ) -> Event:
        """As :meth:`emit`, for who has the facts in hand."""
        if self._telling:
            self._refuse_observers()
        if self._now < len(self._events):
            self._forget_future()
        number, causes = len(self._events), self._causes
        cause = causes[-1] if causes else None
        words = (altitude, actor, verb, subject, before, after, tuple(facts.items()))
        event = Event._make((number, len(self._operations), cause, *words))
        self._events.append(event)
        self._stops.append(len(self.journal.log))
        self._now = number + 1
        if self._observers:
            self._tell(event)
        return event

    def _tell(self, event: Event) -> None:
        """Show an event to the observers. One that fails or changes something is detached, and the log says so."""
        position, self._telling = self.journal.position, True
        try:
            for observer in tuple(self._observers):
                try:
                    observer(event)
                    if self.journal.position != position:
                        raise RuntimeError("an observer must not change the modelled world")
                except Exception:
                    self._detach(observer)
                    _LOG.exception("observer %r failed at event %d and is detached", observer, event.number)
                finally:
                    if self.journal.position != position:
                        self.journal.seek(position)
                        self.journal.forget_future()
        finally:
            self._telling = False

    def _refuse_observers(self) -> None:
        if self._telling:
            raise RuntimeError("an observer must not act: it may only look at the event that it is shown")

    def because(self, event: Event) -> _Because:
        """``with timeline.because(event):`` makes ``event`` the cause of what follows."""
        return _Because(self._causes, event.number)

    @contextmanager
    def operation(self, line: str, *, atomic: bool = False) -> Iterator[None]:
        """Run one call of a person. A call inside a call belongs to the outer one.

        A :class:`KernelError` ends the operation with a ``refuse`` event: what the modelled software did until then has
        happened (a register that says "no" says so), unless the operation is ``atomic``: then only the call and its
        refusal remain. Any other exception is a mistake of ours or of the caller's: everything since the start is
        undone.
        """
        self._refuse_observers()
        if self._open is not None:
            yield
            return
        if self._now < len(self._events) or self.journal.undone:
            self._forget_future()
        self._seal()
        first, position = len(self._events), self.journal.position
        self._open = line
        call = self.emit(USER, "user", Verb.CALL, line)
        refused: str | None = None
        try:
            with self.because(call):
                try:
                    yield
                except KernelError as error:
                    refused = str(error)
                    if atomic:
                        self._roll_back(first + 1, position)
                    self.emit(USER, "user", Verb.REFUSE, error.reason, after=f"-{error.name}")
                    raise
        except KernelError:
            self._finish(line, first, refused)
            raise
        except BaseException:
            self._roll_back(first, position)
            raise
        else:
            self._finish(line, first, refused)
        finally:
            self._open = None

    def _seal(self) -> None:
        """Changes that no event followed (somebody poked without an operation) belong to the last step."""
        if self._events and self._now == len(self._events):
            self._stops[-1] = self.journal.position

    def _finish(self, line: str, first: int, refused: str | None) -> None:
        self._stops[-1] = self.journal.position
        self._operations.append(Operation(len(self._operations), line, first, len(self._events), refused))

    def _roll_back(self, first: int, position: int) -> None:
        self.journal.seek(position)
        self.journal.forget_future()
        del self._events[first:], self._stops[first:]
        self._now = first

    @property
    def at_stake(self) -> int:
        """How many steps a call made now would drop. A call in the middle of an operation lets that end first."""
        return self.last - self._resume_from()

    def _resume_from(self) -> int:
        """The step from which a new future starts: an operation is whole or has not begun, it is never half done."""
        operation = self.operation_now
        return max(self._now, operation.last) if operation is not None else self._now

    def _forget_future(self) -> None:
        """Drop what was undone, from the end of the present operation on."""
        resume = self._resume_from()
        if resume != self._now:
            self.journal.seek(self._stops[resume - 1])
            self._now = resume
        self.journal.forget_future()
        del self._events[resume:], self._stops[resume:]
        self._operations[:] = [operation for operation in self._operations if operation.last <= resume]

    def observe(self, observer: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``observer`` with each new event; returns the function that ends this.

        An observer can only look: whatever it raises, calls or changes has no effect but that it is detached.
        """
        self._observers.append(observer)
        return lambda: self._detach(observer)

    def _detach(self, observer: Callable[[Event], None]) -> None:
        if observer in self._observers:
            self._observers.remove(observer)

    # --- travelling ---------------------------------------------------------------------------------------------

    def go(self, step: int) -> None:
        """Travel to a step: between ``floor`` (the machine has booted) and ``last``."""
        self._refuse_observers()
        if self._open is not None:
            raise RuntimeError(f"time travel must wait until the operation has ended: {self._open}")
        if not self.floor <= step <= self.last:
            raise ValueError(f"step must be between {self.floor} and {self.last}, not {step}")
        self._seal()
        self.journal.seek(self._stops[step - 1] if step else 0)
        self._now = step

    def back(self, steps: int = 1) -> None:
        """Go back by ``steps`` events, no further than the machine's first moment."""
        self.go(max(self.floor, self._now - steps))

    def forward(self, steps: int = 1) -> None:
        """Go forward by ``steps`` events, no further than the newest one."""
        self.go(min(self.last, self._now + steps))

    def back_over(self) -> None:
        """Go back to before the present operation (or, in its middle, to its start)."""
        starts = [operation.first for operation in self._operations if operation.first < self._now]
        self.go(max(self.floor, starts[-1] if starts else self.floor))

    def forward_over(self) -> None:
        """Go forward to the end of the next operation (or of the present one, from its middle)."""
        ends = [operation.last for operation in self._operations if operation.last > self._now]
        self.go(ends[0] if ends else self.last)

    def digest(self) -> str:
        """The fingerprint of the present state (see :meth:`Journal.digest`)."""
        return self.journal.digest()

    def __repr__(self) -> str:
        return f"<Timeline step {self._now} of {self.last}, {len(self._operations)} operations>"
