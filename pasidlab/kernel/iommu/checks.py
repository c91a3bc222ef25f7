"""A list of refusals as data: what is asked in which order, and the errno of each.

Kernel functions open with a run of ``if (...) return -EINVAL``; of several mistakes the first in that order is
reported. Here each is a row, so that tests and tables read the same list. A row's ``broken`` answers with the sentence
for people, or with nothing where all is well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from pasidlab.errors import KernelError

__all__ = ["Check", "refuse"]

Subject = TypeVar("Subject")


class Check(NamedTuple, Generic[Subject]):
    """One row: its ``name`` (the number that the source gives it), the ``errno``, and what is asked."""

    name: str
    errno: str
    broken: Callable[[Subject], str]


def refuse(checks: Iterable[Check[Subject]], subject: Subject) -> None:
    """Raise the ``KernelError`` of the first row that ``subject`` breaks.

    >>> odd = Check("1", "EINVAL", lambda number: f"the number must be even, not {number}" if number % 2 else "")
    >>> refuse([odd], 4)
    >>> refuse([odd], 5)
    Traceback (most recent call last):
    pasidlab.errors.KernelError: -EINVAL: the number must be even, not 5
    """
    for check in checks:
        words = check.broken(subject)
        if words:
            raise KernelError(check.errno, words)
