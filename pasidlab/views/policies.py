"""Projection: what became of the same devices, processes and requests under each policy for a VM's numbers.

The facts come from one script that is played under every policy (:mod:`pasidlab.stories.mixture`); each is counted
from events and tables. Two tables: everything side by side, and what was refused or went wrong, in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.views.table import Column, Line, Table
from pasidlab.virt.policies import POLICIES

if TYPE_CHECKING:
    from pasidlab.views.price import Price

__all__ = ["DEVICES", "Asked", "Given", "Mixture", "Reached", "Side", "conflicts", "policies"]

DEVICES: Final = {"function": "a whole function", "interface": "an interface"}
"""The two kinds of devices, in words."""


class Given(NamedTuple):
    """A VM was to get a device: ``errno`` is empty if it did, ``words`` say why not."""

    device: str
    errno: str = ""
    words: str = ""


class Asked(NamedTuple):
    """A process let a device ask for a page. ``by``: the VMs whose kernels were asked. ``brought``: it got the page.

    ``astray``: who has a page now that nobody of his has touched.
    """

    process: str
    by: tuple[str, ...]
    brought: bool
    astray: tuple[str, ...] = ()


class Reached(NamedTuple):
    """A process submitted a copy by ENQCMD. ``carried`` is the number with which the queue accepted it, ``None`` if it
    did not. ``whose``: the processes in whose memory something was written.
    """

    process: str
    carried: int | None
    whose: tuple[str, ...]

    @property
    def own(self) -> bool:
        """Whether it reached its own memory, and no other."""
        return self.whose == (self.process,)


class Side(NamedTuple):
    """What is true of one kind of device: the numbers in its PASID entries, those on the wire, and what was tried."""

    entries: tuple[int, ...]
    wire: tuple[int, ...]
    asked: tuple[Asked, ...]
    reached: tuple[Reached, ...]


class Mixture(NamedTuple):
    """Everything that the script found out under one policy; ``first`` is the kind of device that came first.

    ``numbers``: guest PASID to host PASID. ``price``: of binding every process on every device that there is.
    ``conflicts``: what ``check()`` says of invariant 14 then. ``left``: IOASIDs that are out when all have gone.
    """

    policy: str
    first: str
    given: tuple[Given, ...]
    numbers: tuple[tuple[int, int], ...]
    default: int | None
    price: Price
    kvm_entries: int
    kvm_pages: int
    function: Side | None
    interface: Side | None
    conflicts: tuple[str, ...]
    left: int

    @property
    def name(self) -> str:
        """The policy, and which kind of device came first where that decides."""
        refused = any(one.errno for one in self.given)
        mixes = POLICIES[self.policy].function is not None
        return f"{self.policy}, {DEVICES[self.first]} first" if refused and mixes else self.policy

    @property
    def sides(self) -> dict[str, Side]:
        """The kinds of devices that the VM has, by name."""
        both = {"function": self.function, "interface": self.interface}
        return {name: side for name, side in both.items() if side is not None}


def policies(found: Sequence[Mixture]) -> Table:
    """One column a policy, one row a question."""
    columns = [Column(one.name, one.name, wrap=True) for one in found]
    rows = tuple(_rows(found)) if found else ()
    title = "The same devices and processes under each policy"
    return Table("policies", title, (Column("question", "question", wrap=True), *columns), rows)


def _rows(found: Sequence[Mixture]) -> Iterator[Line]:
    def row(key: str, question: str, answer: Callable[[Mixture], object]) -> Line:
        return Line(key, (question, *(str(answer(one)) for one in found)), "live")

    yield row("guest", "numbers that the guest sees", lambda one: _list(guest for guest, _ in one.numbers))
    yield row("host", "host PASIDs behind them", lambda one: _list(host for _, host in one.numbers))
    for device, words in DEVICES.items():
        yield row(f"given-{device}", words, _given(device))
    for device, words in DEVICES.items():
        yield row(f"wire-{device}", f"on the wire of {words}", _of_side(device, lambda side: _list(side.wire)))
    yield row("traps", "traps to bind all", lambda one: one.price.traps)
    yield row("told", "handlers told meanwhile", lambda one: one.price.delivered)
    yield row("ioasids", "host PASIDs taken", _taken)
    yield row("kvm", "CPU translation", lambda one: f"{one.kvm_entries} entries, {one.kvm_pages} pages")
    for device, words in DEVICES.items():
        yield row(f"entries-{device}", f"PASID entries of {words}", _of_side(device, lambda side: len(side.entries)))
    yield row("pages", "pages asked for on the function", _of_side("function", _pages))
    for device, words in DEVICES.items():
        yield row(f"enqcmd-{device}", f"ENQCMD to {words}", _of_side(device, _enqueued))
    yield row("conflicts", "conflicts that check() names", lambda one: len(one.conflicts))
    yield row("left", "IOASIDs left when all have gone", lambda one: one.left)
    yield row("cost", "the price", lambda one: POLICIES[one.policy].cost)


def _list(numbers: Iterator[int] | tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _given(device: str) -> Callable[[Mixture], str]:
    def answer(one: Mixture) -> str:
        errno = next((given.errno for given in one.given if given.device == device), "")
        return f"-{errno}" if errno else "yes"

    return answer


def _taken(one: Mixture) -> str:
    return f"{one.price.ioasids}" + (f" and the default PASID {one.default}" if one.default is not None else "")


def _of_side(device: str, answer: Callable[[Side], object]) -> Callable[[Mixture], object]:
    return lambda one: answer(one.sides[device]) if device in one.sides else "-"


def _pages(side: Side) -> str:
    brought = sum(one.brought for one in side.asked)
    wrong = sum(bool(one.astray) for one in side.asked)
    return f"{brought} of {len(side.asked)} brought" + (f", {wrong} to the wrong owner" if wrong else "")


def _enqueued(side: Side) -> str:
    own = sum(one.own for one in side.reached)
    others = sum(bool(one.whose) and not one.own for one in side.reached)
    return f"{own} of {len(side.reached)} to its own memory" + (f", {others} to another's" if others else "")


def conflicts(found: Sequence[Mixture]) -> Table:
    """Everything that was refused, with its errno, and everything that went wrong, in the words of ``check()``."""
    columns = (
        Column("policy", "policy", wrap=True),
        Column("what", "what", wrap=True),
        Column("why", "why", wrap=True),
    )
    rows = [
        Line(f"{one.name}/{at}", (one.name, *row), _state(row)) for one in found for at, row in enumerate(_bad(one))
    ]
    return Table("conflicts", "What was refused, and what went wrong", columns, tuple(rows))


def _state(row: tuple[str, str]) -> str:
    return "pending" if row[0].endswith(")") else "fault"


def _astray(reached: Reached) -> str:
    if reached.carried is None:
        return "is not accepted"
    whose = ", ".join(reached.whose)
    then = f"is carried out in the memory of {whose}" if whose else "reaches nobody"
    return f"arrives as {reached.carried} and {then}"


def _bad(one: Mixture) -> Iterator[tuple[str, str]]:
    for given in one.given:
        if given.errno:
            yield f"{DEVICES[given.device]} (-{given.errno})", given.words
    for asked in one.function.asked if one.function is not None else ():
        if asked.astray:
            yield f"{asked.process} asks for a page", f"{', '.join(asked.astray)} gets one, {asked.process} does not"
    for device, side in one.sides.items():
        for reached in side.reached:
            if not reached.own:
                yield f"{reached.process}'s ENQCMD to {DEVICES[device]}", _astray(reached)
    for words in one.conflicts:
        yield "invariant 14", words
