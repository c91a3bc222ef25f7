"""What a story is: a script over the public API, told in captions, that checks itself as it goes.

A story is a generator: it yields a caption, then acts until the next one. Notebooks, tests and the command line play
the same scripts. An expectation that does not hold breaks the story loudly; so does an invariant of the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from pasidlab.machine import Machine

if TYPE_CHECKING:
    from pasidlab.timeline import Event

__all__ = ["Chapter", "Story", "StoryBroken", "expect", "play"]


class StoryBroken(Exception):
    """An expectation of a story, or an invariant, does not hold."""


class Story(NamedTuple):
    """``points`` are the numbers of the talk's table of contents (T1 to T20) that the story shows."""

    name: str
    title: str
    points: tuple[str, ...]
    tell: Callable[[Machine], Iterator[str]]


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
    """Tell a story, chapter by chapter; after each one every invariant must hold."""
    machine = machine or Machine()
    caption, seen = "", machine.timeline.now
    for following in story.tell(machine):
        if caption:
            yield _close(machine, caption, seen)
        caption, seen = following, machine.timeline.now
    yield _close(machine, caption, seen)


def _close(machine: Machine, caption: str, seen: int) -> Chapter:
    report = machine.check()
    if not report.ok:
        raise StoryBroken("\n".join(map(str, report.violations)))
    return Chapter(caption, machine.timeline.events[seen:])
