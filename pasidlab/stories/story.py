"""What a story is: a script over the public API, told in captions, that checks itself as it goes.

A story is a generator: it yields a caption, then acts until the next one. Notebooks, tests and the command line play
the same scripts. An expectation that does not hold breaks the story loudly; so does an invariant of the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.machine import Machine

if TYPE_CHECKING:
    from pasidlab.timeline import Event

__all__ = ["Chapter", "Story", "StoryBroken", "expect", "play"]


class StoryBroken(Exception):
    """An expectation of a story, or an invariant, does not hold."""


class Story(NamedTuple):
    """``points`` are the numbers of the talk's table of contents (T1 to T20) that the story shows; ``make`` builds the
    machine that it needs. ``breaks`` are the invariants that it breaks on purpose inside a chapter, at whose end they
    hold again; ``leaves`` are those that it leaves broken from one chapter to the next: at its own end they hold again.
    """

    name: str
    title: str
    points: tuple[str, ...]
    tell: Callable[[Machine], Iterator[str]]
    make: Callable[[], Machine] = Machine
    breaks: frozenset[int] = frozenset()
    leaves: frozenset[int] = frozenset()


class Chapter(NamedTuple):
    """A caption and the events that followed it."""

    caption: str
    events: list[Event]


def expect(holds: bool, sentence: str) -> None:
    """Break the story unless ``holds``; ``sentence`` says what was expected.

    >>> expect(1 + 1 == 2, "arithmetic works")
    """
    if not holds:
        raise StoryBroken(f"expected: {sentence}")


def play(story: Story, machine: Machine | None = None) -> Iterator[Chapter]:
    """Tell a story, chapter by chapter; every invariant must hold after each operation and at each chapter's end.

    Those that the story breaks on purpose must hold at the ends of chapters only, or at its own. A chapter in which
    something breaks is told before :class:`StoryBroken` says what.
    """
    machine = machine or story.make()
    found: list[str] = []

    def supervise(on_purpose: frozenset[int] = frozenset()) -> None:
        found.extend(str(one) for one in machine.check().violations if one.rule.number not in on_purpose)

    machine.supervisor = partial(supervise, story.breaks | story.leaves)
    caption, seen = "", machine.timeline.now
    telling = story.tell(machine)
    broken: Exception | None = None
    while broken is None:
        following = ""
        try:
            following = next(telling, "")
        except (StoryBroken, KernelError) as error:
            broken = error
        supervise(_on_purpose(story, ended=not following, broken=broken is not None))
        if caption:
            yield Chapter(caption, machine.timeline.events[seen:])
        if found:
            raise StoryBroken("\n".join(dict.fromkeys(found)))
        if not following:
            break
        caption, seen = following, machine.timeline.now
    machine.supervisor = None
    if broken is not None:
        raise StoryBroken(str(broken)) from broken


def _on_purpose(story: Story, *, ended: bool, broken: bool) -> frozenset[int]:
    """The invariants that need not hold at a chapter's end; where an expectation failed that is what is to be told."""
    if broken:
        return story.breaks | story.leaves
    return frozenset() if ended else story.leaves
