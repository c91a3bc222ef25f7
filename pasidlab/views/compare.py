"""Projection: the same guest on several IOMMUs, step by step: what each step cost, who wrote tables, what was refused.

The facts come from one script that is played on a machine of each kind (:mod:`pasidlab.stories.compare`); here they are
data, and the tables that show them. Steps are *linked*: step k of one machine is shown beside step k of the others, and
within a step event j beside event j; a machine that needs fewer events for it waits at its last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.views.compare_words import COMPARE, STEPS, TRIES
from pasidlab.views.price import WORDS, Price, price
from pasidlab.views.table import Column, Line, Table

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.family import Family
    from pasidlab.machine import Machine

__all__ = [
    "Comparison",
    "Did",
    "Moment",
    "Played",
    "Tried",
    "prices",
    "spent",
    "steps",
    "tags",
    "total",
    "tries",
    "writers",
]

_NO_PRICE: Final = Price()


class Did(NamedTuple):
    """A step of the script on one machine: the timeline's steps before (``first``) and after it (``last``), its price.

    ``trapped``: what was intercepted, in order. ``allocated``: the IOASIDs that the host handed out.
    """

    name: str
    first: int
    last: int
    price: Price
    trapped: tuple[str, ...]
    allocated: tuple[int, ...]


class Played(NamedTuple):
    """The script on one machine, which can travel through all of it."""

    machine: Machine
    did: tuple[Did, ...]

    @property
    def family(self) -> Family:
        """The kind of IOMMU."""
        return FAMILIES[self.machine.iommu]

    @property
    def total(self) -> Price:
        """Of all steps."""
        return total(self.did)


class Tried(NamedTuple):
    """Something beside the script was tried; ``errno`` is empty if it was done, ``words`` say what came of it or why
    not: those of the model itself.
    """

    what: str
    errno: str
    words: str

    def __str__(self) -> str:
        return f"-{self.errno}: {self.words}" if self.errno else self.words


class Moment(NamedTuple):
    """A place in the linked run: ``sub`` events of step ``step`` have happened. Step -1: nothing has."""

    step: int
    sub: int


class Comparison(NamedTuple):
    """The script on each machine, and what was tried on each (by the machine's kind)."""

    played: tuple[Played, ...]
    tried: tuple[tuple[str, tuple[Tried, ...]], ...]

    @property
    def lengths(self) -> list[int]:
        """How many events each step takes on the machine that needs most of them."""
        columns = zip(*(one.did for one in self.played), strict=True)
        return [max(did.last - did.first for did in row) for row in columns]

    @property
    def last(self) -> int:
        """The last place of a slider over all events of all steps."""
        return sum(self.lengths)

    @property
    def ends(self) -> list[int]:
        """The places of a slider at which a step has ended, 0 (nothing has happened) first."""
        found = [0]
        for length in self.lengths:
            found.append(found[-1] + length)
        return found

    def moment(self, place: int) -> Moment:
        """The place of a slider as step and event; the end of a step belongs to that step.

        ``ValueError`` for a place that the slider does not have.
        """
        if not 0 <= place <= self.last:
            raise ValueError(f"the place must be between 0 and {self.last}, not {place}")
        ends = self.ends
        step = next(at for at, end in enumerate(ends) if place <= end) - 1
        return Moment(step, place - ends[step] if step >= 0 else 0)

    def go(self, place: int) -> Moment:
        """Let every machine travel to a place; a machine that is done with the step waits at its end."""
        moment = self.moment(place)
        for one in self.played:
            one.machine.timeline.go(self.step_of(one, moment))
        return moment

    def step_of(self, one: Played, moment: Moment) -> int:
        """The step of a machine's own timeline at a moment."""
        if moment.step < 0:
            return one.did[0].first
        did = one.did[moment.step]
        return min(did.first + moment.sub, did.last)

    @property
    def key(self) -> tuple[str, ...]:
        """The kinds of machines."""
        return tuple(one.machine.iommu for one in self.played)


def total(did: tuple[Did, ...]) -> Price:
    """The price of several steps."""
    return sum((one.price for one in did), _NO_PRICE)


def spent(one: Played, moment: Moment) -> tuple[Price, Price]:
    """What a machine that has travelled to a moment has spent: in its step until now, and in all steps until now."""
    if moment.step < 0:
        return _NO_PRICE, _NO_PRICE
    did = one.did[moment.step]
    now = did.price if one.machine.timeline.now == did.last else price(one.machine, did.first)
    return now, total(one.did[: moment.step]) + now


def tags(found: Comparison, moment: Moment) -> Table:
    """The price of the step that goes on, and in brackets that of all until now; what differs is marked.

    >>> from pasidlab.stories.compare import compare_machines
    >>> found = compare_machines(("vtd",)); tags(found, found.go(found.last)).rows[0].cells
    ('traps', '0 (21)')
    """
    columns = _columns(found)
    both = [spent(one, moment) for one in found.played]
    rows = []
    for name, words in WORDS.items():
        counts = [(getattr(now, name), getattr(whole, name)) for now, whole in both]
        cells = (words, *(f"{now} ({whole})" for now, whole in counts))
        state = "live" if any(now for now, _ in counts) else "idle"
        rows.append(Line(name, cells, state, _odd(columns, counts)))
    return Table("tags", COMPARE["tags"], (Column("counted", COMPARE["counted"]), *columns), tuple(rows))


def _columns(found: Comparison) -> list[Column]:
    """A column a machine."""
    return [Column(one.machine.iommu, one.family.title, wrap=True) for one in found.played]


def prices(found: Comparison, step: str = "") -> Table:
    """What a step (all of them, if it is not named) cost: one row a count, one column a machine; what differs is
    marked.

    >>> from pasidlab.stories.compare import compare_machines
    >>> found = compare_machines(("vtd",)); prices(found, "bind").rows[0].cells
    ('traps', '3')
    """
    columns = _columns(found)
    chosen = [_of_step(one, step) for one in found.played]
    title = COMPARE["prices"].format(what=STEPS[step][0] if step else COMPARE["total"])
    rows = []
    for name, words in WORDS.items():
        counts = [getattr(price, name) for price in chosen]
        cells = (words, *(str(count) for count in counts))
        rows.append(Line(name, cells, "live" if any(counts) else "idle", _odd(columns, counts)))
    return Table("prices", title, (Column("counted", COMPARE["counted"]), *columns), tuple(rows))


def _of_step(one: Played, step: str) -> Price:
    return next(did.price for did in one.did if did.name == step) if step else one.total


def _odd(columns: list[Column], counts: Sequence[object]) -> tuple[str, ...]:
    """The columns to mark: all of a row in which the machines differ."""
    return tuple(column.key for column in columns) if len(set(counts)) > 1 else ()


def steps(found: Comparison, count: str) -> Table:
    """One count over all steps: one row a step, one column a machine, the sum in the last row.

    >>> from pasidlab.stories.compare import compare_machines
    >>> steps(compare_machines(("vtd",)), "ioasids").rows[-1].cells
    ('in all', '2')
    """
    columns = _columns(found)
    rows = [_step_row(found, columns, at, count) for at in range(len(STEPS))]
    sums = [getattr(one.total, count) for one in found.played]
    last = Line("total", (COMPARE["total"], *map(str, sums)), "live", _odd(columns, sums))
    title = COMPARE["price"].format(title=WORDS[count])
    return Table("steps", title, (Column("step", COMPARE["step"]), *columns), (*rows, last))


def _step_row(found: Comparison, columns: list[Column], at: int, count: str) -> Line:
    counts = [getattr(one.did[at].price, count) for one in found.played]
    name = found.played[0].did[at].name
    return Line(name, (STEPS[name][0], *map(str, counts)), "idle", _odd(columns, counts))


def writers(found: Comparison, step: int | None = None) -> Table:
    """For each step (or one by its number) and machine: words of IOMMU tables by host and by guest, the traps in words,
    the host's PASIDs.
    """
    heads = ("step", "machine", "wrote", "trapped", "allocated")
    columns = tuple(Column(key, COMPARE[key], wrap=key in ("step", "trapped")) for key in heads)
    chosen = range(len(STEPS)) if step is None else range(step, step + 1) if step >= 0 else ()
    rows = tuple(row for at in chosen for row in _writer_rows(found, at))
    return Table("writers", COMPARE["who"], columns, rows, empty=COMPARE["begin"])


def _writer_rows(found: Comparison, at: int) -> Iterator[Line]:
    for number, one in enumerate(found.played):
        did = one.did[at]
        wrote = COMPARE["host-guest"].format(host=did.price.host_words, guest=did.price.guest_words)
        cells = (
            STEPS[did.name][0] if not number else "",
            one.machine.iommu,
            wrote if did.price.host_words or did.price.guest_words else COMPARE["nothing"],
            "; ".join(_counted(did.trapped)) or COMPARE["nothing"],
            ", ".join(map(str, did.allocated)) or COMPARE["nothing"],
        )
        yield Line(f"{did.name}/{one.machine.iommu}", cells, "live" if did.trapped else "idle")


def _counted(words: tuple[str, ...]) -> list[str]:
    """Each sentence once, with how often it was said."""
    counts = {word: words.count(word) for word in words}
    return [word if count == 1 else f"{word} ({count} times)" for word, count in counts.items()]


def tries(found: Comparison) -> Table:
    """What was tried beside the script, one column a machine; what is refused is in the words of the model."""
    columns = [Column(name, FAMILIES[name].title, wrap=True) for name, _ in found.tried]
    answers = {name: {one.what: one for one in tried} for name, tried in found.tried}
    rows = []
    for what, words in TRIES.items():
        given = [answers[name][what] for name, _ in found.tried]
        state = "pending" if any(one.errno for one in given) else "live"
        rows.append(Line(what, (words, *map(str, given)), state))
    return Table("tries", COMPARE["tries"], (Column("tried", COMPARE["tried"], wrap=True), *columns), tuple(rows))
