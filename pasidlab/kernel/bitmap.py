"""A bitmap of numbers in use, with lowest-free-first search: PASIDs, page frames, set ids, domain ids.

Models the job that Linux gives to ``xarray``/``ida`` (and the page allocator's free lists): hand out the lowest free
number in an inclusive range, up to the whole 32 bits of an ``ioasid_t``.

The journal sees a :class:`~pasidlab.timeline.state.Table` with one cell a number: ``True`` (taken) or absent (free).
It is stored as words of 1,024 bits, a set bit for a free number, under levels of summaries: a bit in a summary is set
if the word below it has a set bit. So a search looks at two words a level however full the space is, and at one if the
number asked for is free. Words, summaries and ``count`` follow from the cells; nobody records them.

The size was measured (64 to 2,048 bits): smaller words are up to a tenth faster at 2^16 numbers, but need another level
at 2^20, where 1,024 bits are a fifth faster. Rejected: one byte a number in ``bytearray`` (no faster, eight times the
memory), and a heap of free numbers (cannot search a range, and equal states would not be equal).

Invariants: a word or summary that is not stored has every bit set, one that is stored has not; bit ``i`` of a summary
is clear exactly if word ``i`` below is zero. Bits beyond ``limit`` are set and never handed out.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, cast

from pasidlab.timeline import ABSENT, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["Bitmap"]

_SHIFT = 10
_BITS = 1 << _SHIFT
_MASK = _BITS - 1
_ALL = (1 << _BITS) - 1


class Bitmap(Table[int, bool]):
    """Numbers ``0 .. limit - 1``, each taken or free; ``count`` are taken. Iterates over those taken, lowest first.

    >>> from pasidlab.timeline import Timeline
    >>> ids = Bitmap(Timeline(), "ids", 1 << 20)
    >>> ids.take(1); ids.find(1, 5), 1 in ids, ids.count
    (2, True, 1)
    >>> ids.take_lowest(0, 5), ids.take_lowest(0, 5), list(ids)
    (0, 2, [0, 1, 2])
    """

    __slots__ = ("_summaries", "_words", "count", "limit")

    def __init__(self, timeline: Timeline, path: str, limit: int) -> None:
        super().__init__(timeline, path)
        self.limit = limit
        self.count = 0
        self._words: dict[int, int] = {}
        heights = range(_SHIFT, (limit - 1).bit_length(), _SHIFT)
        self._summaries: tuple[dict[int, int], ...] = tuple({} for _ in heights)

    # --- searching ------------------------------------------------------------------------------------------------

    def find(self, minimum: int, maximum: int) -> int | None:
        """The lowest free number in ``[minimum, maximum]``, or ``None``."""
        minimum = max(minimum, 0)
        free = self._words.get(minimum >> _SHIFT, _ALL) >> (minimum & _MASK)
        number = minimum + _lowest(free) if free else self._find_beyond(minimum >> _SHIFT)
        return number if number <= maximum and number < self.limit else None

    def _find_beyond(self, at: int) -> int:
        """The lowest free number in the words after word ``at``: up to a summary that knows one, and down again."""
        below = [self._words]
        for level in self._summaries:
            at += 1
            free = level.get(at >> _SHIFT, _ALL) >> (at & _MASK)
            if free:
                at += _lowest(free)
                while below:
                    at = (at << _SHIFT) + _lowest(below.pop().get(at, _ALL))
                return at
            at >>= _SHIFT
            below.append(level)
        return self.limit

    def find_run(self, length: int, align: int) -> int | None:
        """The lowest run of ``length`` free numbers (at most 1,024) that starts at a multiple of ``align``.

        A run does not cross the border of a word of 1,024 numbers.
        """
        wanted = (1 << length) - 1
        number = self.find(0, self.limit - 1)
        while number is not None:
            word = number >> _SHIFT
            free = self._words.get(word, _ALL)
            for start in range(0, _BITS - length + 1, align):
                if free >> start & wanted == wanted:
                    first = (word << _SHIFT) + start
                    return first if first + length <= self.limit else None
            number = self.find(word + 1 << _SHIFT, self.limit - 1)
        return None

    # --- taking and releasing -------------------------------------------------------------------------------------

    def take(self, number: int) -> None:
        """Mark a free number as taken."""
        if not 0 <= number < self.limit or not self._mark_taken(number):
            raise ValueError(f"{self.path}: {number} must be free and below {self.limit}")
        self.timeline.journal.log.append((self, number, ABSENT, True))

    def take_lowest(self, minimum: int, maximum: int) -> int | None:
        """Take the number that :meth:`find` finds."""
        number = self.find(minimum, maximum)
        if number is not None:
            self._mark_taken(number)
            self.timeline.journal.log.append((self, number, ABSENT, True))
        return number

    def release(self, number: int) -> None:
        """Mark a taken number as free."""
        if not self._mark_free(number):
            raise ValueError(f"{self.path}: {number} must be taken")
        self.timeline.journal.log.append((self, number, True, ABSENT))

    def restore(self, key: Hashable, value: object) -> None:
        """Take or release a number without recording it (the journal's way in)."""
        if value is ABSENT:
            self._mark_free(cast("int", key))
        else:
            self._mark_taken(cast("int", key))

    def _mark_taken(self, number: int) -> bool:
        """``False``: it is taken already."""
        at, bit = number >> _SHIFT, 1 << (number & _MASK)
        words = self._words
        free = words.get(at, _ALL)
        if not free & bit:
            return False
        words[at] = free = free ^ bit
        self.count += 1
        if not free:
            self._mark_full(at)
        return True

    def _mark_free(self, number: int) -> bool:
        """``False``: it is free already."""
        at, bit = number >> _SHIFT, 1 << (number & _MASK)
        words = self._words
        old = words.get(at, _ALL)
        if old & bit:
            return False
        free = old ^ bit
        if free == _ALL:
            del words[at]
        else:
            words[at] = free
        self.count -= 1
        if not old:
            self._mark_room(at)
        return True

    def _mark_full(self, at: int) -> None:
        """Word ``at`` has become zero: clear its bit above; where that was the last one, the bit above that."""
        for level in self._summaries:
            bit, at = 1 << (at & _MASK), at >> _SHIFT
            level[at] = left = level.get(at, _ALL) ^ bit
            if left:
                return

    def _mark_room(self, at: int) -> None:
        """Word ``at`` is no longer zero: set its bit above; where that is the first one, the bit above that."""
        for level in self._summaries:
            bit, at = 1 << (at & _MASK), at >> _SHIFT
            old = level[at]
            if old ^ bit == _ALL:
                del level[at]
            else:
                level[at] = old ^ bit
            if old:
                return

    # --- as a table: number -> True -------------------------------------------------------------------------------

    def __contains__(self, number: object) -> bool:
        at = cast("int", number)
        return not self._words.get(at >> _SHIFT, _ALL) >> (at & _MASK) & 1

    def __getitem__(self, number: int) -> bool:
        if number not in self:
            raise KeyError(number)
        return True

    def get(self, number: int, default: bool = False) -> bool:
        """Whether a number is taken."""
        return number in self or default

    def __setitem__(self, number: int, value: bool) -> None:
        if not value:
            raise ValueError(f"{self.path}: the item of a number must be True, not {value}; del releases it")
        self.take(number)

    def __delitem__(self, number: int) -> None:
        self.release(number)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        for at in sorted(self._words):
            taken = self._words[at] ^ _ALL
            while taken:
                yield (at << _SHIFT) + _lowest(taken)
                taken &= taken - 1

    def keys(self) -> list[int]:
        """The numbers taken, lowest first."""
        return list(self)

    def values(self) -> list[bool]:
        """``True``, once for each number taken."""
        return [True] * self.count

    def items(self) -> list[tuple[int, bool]]:
        """The numbers taken, lowest first, each with ``True``."""
        return [(number, True) for number in self]


def _lowest(bits: int) -> int:
    """The number of the lowest set bit."""
    return (bits & -bits).bit_length() - 1
