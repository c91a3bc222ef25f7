"""The one door through which every trap of a guest goes, and who may stand in it.

A trap is the moment in which a guest has done something that only its hypervisor can carry out: a virtual command, an
invalidation, a write to a register of a mediated device, an ENQCMD that found no translation. Each one asks the desk
what is to become of it. As a rule it is *served*. A person who plays hypervisor can *refuse* it (the guest gets the
answer that the interface has for that, if it has one) or *alter* its number. What follows is computed, not told.

No hypervisor asks a person, so none of this is a model of anything: it is a place to try what a wrong or malicious
hypervisor could do. The desk is no state of the machine; what was decided is part of the call that a run records.
"""

from __future__ import annotations

from enum import StrEnum, unique
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.timeline import HOST, Verb

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["SERVED", "Answer", "Decision", "Met", "Trap", "TrapDesk", "TrapKind"]


@unique
class TrapKind(StrEnum):
    """What kinds of traps there are."""

    VIRTUAL_COMMAND = "virtual command"
    INVALIDATION = "invalidation"
    PAGE_RESPONSE = "page response"
    REGISTER = "device register"
    COMMAND = "device command"
    PORTAL = "portal"
    VM_EXIT = "VM exit"


@unique
class Answer(StrEnum):
    """What becomes of a trap."""

    SERVE = "serve"
    REFUSE = "refuse"
    ALTER = "alter"


class Trap(NamedTuple):
    """What a guest has done: ``vm`` is its name, ``words`` say it. ``number`` names what can be altered, empty if
    nothing can; ``refusal`` says what the guest is told when it is refused.
    """

    vm: str
    kind: TrapKind
    words: str
    number: str = ""
    refusal: str = "nothing; it believes that it was done"

    def __str__(self) -> str:
        return f"{self.vm}: {self.words}"


class Decision(NamedTuple):
    """An answer, with the number that takes the place of the guest's if it is ALTER.

    >>> Decision.parse("alter 7"), str(Decision.parse("refuse"))
    (Decision(answer=<Answer.ALTER: 'alter'>, value=7), 'refuse')
    """

    answer: Answer
    value: int = 0

    @classmethod
    def parse(cls, text: str) -> Decision:
        """``"serve"``, ``"refuse"`` or ``"alter 7"`` (also ``"alter 0x7"``); ``ValueError`` for anything else."""
        word, _, number = text.partition(" ")
        if word == Answer.ALTER and number:
            value = int(number, 0)
            if value < 0:
                raise ValueError(f"a number in place of the guest's must not be negative, as {value} is")
            return cls(Answer.ALTER, value)
        if number or word == Answer.ALTER:
            raise ValueError(f"an answer must be 'serve', 'refuse' or 'alter' and a number, not {text!r}")
        return cls(Answer(word))

    def __str__(self) -> str:
        return f"{self.answer} {self.value}" if self.answer is Answer.ALTER else str(self.answer)


_SERVE: Final = Decision(Answer.SERVE)


class Met(NamedTuple):
    """A trap that a call came to: after how many steps of the timeline, and whether somebody had decided it."""

    step: int
    trap: Trap
    decided: bool


class TrapDesk:
    """Where traps are decided. Between :meth:`begin` and :meth:`end` one call's traps get the given answers in turn;
    those for which there is none, and all others, are served.
    """

    def __init__(self) -> None:
        self._answers: tuple[Decision, ...] = ()
        self._met: list[Met] | None = None

    def begin(self, answers: tuple[Decision, ...]) -> None:
        """A call begins whose traps count."""
        self._answers = answers
        self._met = []

    def end(self) -> list[Met]:
        """It is over; returns what it came to, in order."""
        met, self._met = self._met or [], None
        return met

    def decide(self, timeline: Timeline, trap: Trap) -> Decision:
        """What is to become of a trap; what is not served is told as an event."""
        if self._met is None:
            return _SERVE
        at = len(self._met)
        decided = at < len(self._answers)
        decision = self._answers[at] if decided else _SERVE
        self._met.append(Met(timeline.now, trap, decided))
        if decision.answer is Answer.ALTER and not trap.number:
            decision = _SERVE
        if decision.answer is not Answer.SERVE:
            facts = {"vm": trap.vm, "answer": str(decision.answer), "value": decision.value}
            timeline.emit(HOST, "vmm", Verb.DECIDE, trap.words, None, str(decision), **facts)
        return decision


SERVED: Final = TrapDesk()
"""A desk at which nobody sits."""
