"""Numbers in words: many PASIDs in little room."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["counted", "quota_words", "ranges"]


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "client"), counted(3, "client"), counted(2, "entry", "entries")
    ('1 client', '3 clients', '2 entries')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


def quota_words(used: int, quota: int | None) -> str:
    """How many of how many; without a quota only how many.

    >>> quota_words(3, 64), quota_words(3, None)
    ('3 of 64', '3')
    """
    return str(used) if quota is None else f"{used} of {quota}"


def ranges(numbers: Iterable[int], most: int = 2) -> str:
    """Numbers with neighbours drawn together; at most ``most`` groups, then an ellipsis.

    >>> ranges([3]), ranges([2, 3, 4, 9]), ranges([1, 3, 5, 7])
    ('3', '2-4, 9', '1, 3, …')
    """
    groups: list[list[int]] = []
    for number in sorted(set(numbers)):
        if groups and number == groups[-1][1] + 1:
            groups[-1][1] = number
        else:
            groups.append([number, number])
    words = [str(first) if first == last else f"{first}-{last}" for first, last in groups[:most]]
    return ", ".join([*words, *(["…"] if len(groups) > most else [])])
