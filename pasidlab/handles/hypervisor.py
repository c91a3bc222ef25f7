"""Be the hypervisor: traps of guests wait, and a person decides what becomes of each.

A call that comes to a trap which nobody has decided does not go on: the timeline stands at that trap, and the call is
in the list of those that wait. A decision carries the call out again from its start with the answers given so far;
everything is deterministic, so that it comes to the same trap and beyond. A call that waits has not happened yet:
whatever else is called meanwhile comes before it, and what it meets when it goes on may be another world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pasidlab.errors import KernelError
from pasidlab.handles.handle import Handle
from pasidlab.virt.traps import Answer, Decision, Trap, TrapDesk

if TYPE_CHECKING:
    from pasidlab.machine import Machine
    from pasidlab.timeline import Timeline

__all__ = ["Call", "Decided", "Hypervisor", "WaitingTrap"]

R = TypeVar("R")


class Call(NamedTuple):
    """A call on a machine: its Python line, and the function that carries it out, whose argument stands before the
    line when it is recorded.
    """

    line: str
    play: Callable[[str], object]


class WaitingTrap(NamedTuple):
    """A trap that waits: its ``number`` in the list, the call that came to it, the answers that this call had so far,
    and where on the timeline it was (``begin`` is the step before the call).
    """

    number: int
    trap: Trap
    call: Call
    answers: tuple[Decision, ...]
    begin: int
    step: int

    def __repr__(self) -> str:
        so_far = f", after {', '.join(map(str, self.answers))}" if self.answers else ""
        return f"<trap {self.number}, {self.trap}{so_far}: {self.call.line}>"


class Decided(NamedTuple):
    """What came of a decision: the call's ``result``, or the next ``trap`` that it waits at."""

    result: object = None
    trap: WaitingTrap | None = None


class Hypervisor(Handle):
    """The part of a machine in which a person takes the place of its hypervisors."""

    timeline: Timeline

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.desk = TrapDesk()
        self.holds_traps = False
        self._script: tuple[Decision, ...] | None = None
        self._waiting: tuple[WaitingTrap, ...] = ()
        self._at: WaitingTrap | None = None

    # --- deciding beforehand ------------------------------------------------------------------------------------------

    @contextmanager
    def hypervisor(self, *answers: str) -> Iterator[None]:
        """Answer the traps of the calls inside, in order: ``"serve"``, ``"refuse"``, ``"alter 7"``; the rest is served,
        and none of them is held.

        ``-EINVAL`` for anything else. A refusal that the guest cannot be told of is believed to have been done:

        >>> from pasidlab import Machine
        >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm = m.create_vm("vm1")
        >>> adi, app = m.assign_adi(dsa, vm), vm.spawn("app")
        >>> with m.hypervisor("serve", "refuse"):                 # the PASID, then the flush that means "bind it"
        ...     app.bind(adi)
        1
        >>> vm.vmm.kvm.entry(1) is None
        True
        """
        before, self._script = self._script, tuple(map(_decision, answers))
        try:
            yield
        finally:
            self._script = before

    # --- deciding as they come ----------------------------------------------------------------------------------------

    def hold_traps(self, on: bool = True) -> None:
        """From now on traps of guests wait (or no longer). A call that comes to one ends with ``-EINPROGRESS``.

        What administrators do (create, assign, spawn, quotas) is not held. Switched off, nothing waits any more: the
        calls that did have not happened.
        """
        if type(on) is not bool:
            raise KernelError("EINVAL", f"traps are held (True) or not (False), not {on!r}")
        self.holds_traps = on
        if not on:
            self._leave()
            self._waiting = ()

    @property
    def traps(self) -> list[WaitingTrap]:
        """The traps that wait, in the order in which they began to.

        Who has gone on from one to the end of its call has let it happen: it was served.
        """
        self._let_happen()
        return sorted(self._waiting, key=lambda one: one.number)

    @property
    def trap_now(self) -> WaitingTrap | None:
        """The one at which the timeline stands."""
        at = self._at
        return at if at is not None and self.timeline.now == at.step and at in self._waiting else None

    def decide(self, answer: str, value: int | None = None, number: int | None = None) -> Decided:
        """Decide a trap that waits: the one where the timeline stands, else the oldest, or the one with that
        ``number``. ``answer`` is ``"serve"``, ``"refuse"``, or ``"alter"`` with the ``value`` in the guest's place.

        Errors: ``-EINVAL`` nothing waits, no such answer, or nothing to alter; those of the call that goes on.
        """
        one = self._meant(number)
        text = f"{answer} {value}" if value is not None else answer
        decision = _decision(text)
        if decision.answer is Answer.ALTER and not one.trap.number:
            raise KernelError("EINVAL", f"{one.trap} has no number that could be altered")
        self._leave()
        return self._attempt(one.number, one.call, (*one.answers, decision))

    def forget_trap(self, number: int) -> None:
        """Give a call that waits up: it has not happened. ``-EINVAL`` no trap of that number waits."""
        one = self._meant(number)
        self._leave()
        self._drop(one.number)

    def _meant(self, number: int | None) -> WaitingTrap:
        now = self.trap_now
        if number is None and now is not None:
            return now
        found = [one for one in self.traps if number in (None, one.number)]
        if not found:
            which = "no trap" if number is None else f"no trap with the number {number}"
            raise KernelError("EINVAL", f"{which} waits")
        return found[0]

    def _drop(self, number: int) -> None:
        self._waiting = tuple(one for one in self._waiting if one.number != number)

    # --- calls --------------------------------------------------------------------------------------------------------

    def attend(self, line: str, play: Callable[[str], R], *, asks: bool) -> R:
        """Carry a call out with its traps decided, or let it wait (:mod:`pasidlab.handles.handle` calls this).

        ``play`` does it, with the given text before its recorded ``line``; ``asks``: its traps may be held.
        """
        self._leave()
        if self._script is None:
            return self._hold(line, play) if asks and self.holds_traps else play("")
        script = self._script
        self.desk.begin(script)
        try:
            return play(_prefix(script))
        finally:
            self._script = script[len(self.desk.end()) :]

    def _hold(self, line: str, play: Callable[[str], R]) -> R:
        results: list[R] = []

        def keep(prefix: str) -> object:
            results.append(play(prefix))
            return results[-1]

        number = max((one.number for one in self._waiting), default=-1) + 1
        found = self._attempt(number, Call(line, keep), ())
        if found.trap is not None:
            raise KernelError(
                "EINPROGRESS",
                f"the call waits at a trap, {found.trap.trap}: m.decide('serve'), m.decide('refuse') or "
                "m.decide('alter', value)",
            )
        return results[-1]

    def _attempt(self, number: int, call: Call, answers: tuple[Decision, ...]) -> Decided:
        """Carry a call out with these answers; if it comes to a further trap, go back to there and let it wait."""
        self._drop(number)
        self.desk.begin(answers)
        refused: KernelError | None = None
        result: object = None
        try:
            result = call.play(_prefix(answers))
        except KernelError as error:
            refused = error
        finally:
            met = self.desk.end()
        open_ones = [one for one in met if not one.decided and one.step <= self.timeline.last]
        if open_ones:
            begin = self.timeline.operations[-1].first
            self.timeline.go(open_ones[0].step)
            self._at = WaitingTrap(number, open_ones[0].trap, call, answers, begin, open_ones[0].step)
            self._waiting = (*self._waiting, self._at)
            return Decided(trap=self._at)
        if refused is not None:
            raise refused
        return Decided(result)

    def _leave(self) -> None:
        """Go back to before the call at whose trap the timeline stands.

        A call whose trap is its last step ends nowhere else: it is not done by standing there.
        """
        self._let_happen()
        at, self._at = self._at, None
        operation = self.timeline.operation_now
        if at is not None and at in self._waiting and operation is not None and operation.first == at.begin:
            self.timeline.go(at.begin)

    def _let_happen(self) -> None:
        """A call that was stepped from its trap to its end is done."""
        at, operation = self._at, self.timeline.operation_now
        if at is None or operation is None or operation.first != at.begin:
            return
        if at.step < self.timeline.now == operation.last:
            self._drop(at.number)
            self._at = None


def _decision(text: object) -> Decision:
    try:
        return Decision.parse(str(text))
    except ValueError:
        raise KernelError("EINVAL", f"an answer must be 'serve', 'refuse' or 'alter 7', not {text!r}") from None


def _prefix(answers: tuple[Decision, ...]) -> str:
    """What a recorded line begins with, so that it can be carried out again."""
    if all(one.answer is Answer.SERVE for one in answers):
        return ""
    words = ", ".join(f'"{one}"' for one in answers)
    return f"with m.hypervisor({words}): "
