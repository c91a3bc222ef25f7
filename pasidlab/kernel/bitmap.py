"""A bitmap of numbers in use, with lowest-free-first search: PASIDs, page frames, set ids, domain ids.

Models the job that Linux gives to ``xarray``/``ida`` (and the page allocator's free lists): hand out the lowest free
number in an inclusive range. Two levels: words of 1,024 bits, and one summary integer that knows which words are full,
so that a search looks at three words however full the space is.

Invariant: bit ``i`` of ``_full`` is set exactly if word ``i`` has no clear bit; a word of zero is not stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["Bitmap"]

_SHIFT = 10
_BITS = 1 << _SHIFT
_ALL = (1 << _BITS) - 1


class Bitmap(Part, state=("_full", "count")):
    """Numbers ``0 .. limit - 1``, each taken or free; ``count`` are taken.

    >>> from pasidlab.timeline import Timeline
    >>> ids = Bitmap(Timeline(), "ids", 1 << 20)
    >>> ids.take(1); ids.find(1, 5), 1 in ids, ids.count
    (2, True, 1)
    """

    def __init__(self, timeline: Timeline, path: str, limit: int) -> None:
        super().__init__(timeline, path)
        self.limit = limit
        self._words = Table[int, int](timeline, f"{path}.words")
        self._full = 0
        self.count = 0

    def __contains__(self, number: int) -> bool:
        return bool(self._words.get(number >> _SHIFT, 0) >> (number & _BITS - 1) & 1)

    def find(self, minimum: int, maximum: int) -> int | None:
        """The lowest free number in ``[minimum, maximum]``, or ``None``."""
        maximum = min(maximum, self.limit - 1)
        word = minimum >> _SHIFT
        free = ~self._words.get(word, 0) & (_ALL >> (minimum & _BITS - 1) << (minimum & _BITS - 1))
        if not free:
            word = _lowest(~self._full >> word + 1) + word + 1
            free = ~self._words.get(word, 0) & _ALL
        number = (word << _SHIFT) + _lowest(free)
        return number if minimum <= number <= maximum else None

    def find_run(self, length: int, align: int) -> int | None:
        """The lowest run of ``length`` free numbers (at most 1,024) that starts at a multiple of ``align``."""
        wanted = (1 << length) - 1
        for word in range((self.limit + _BITS - 1) >> _SHIFT):
            if self._full >> word & 1:
                continue
            used = self._words.get(word, 0)
            for start in range(0, _BITS - length + 1, align):
                number = (word << _SHIFT) + start
                if not used >> start & wanted and number + length <= self.limit:
                    return number
        return None

    def take(self, number: int) -> None:
        """Mark a free number as taken."""
        word, bit = number >> _SHIFT, 1 << (number & _BITS - 1)
        used = self._words.get(word, 0)
        if used & bit or not 0 <= number < self.limit:
            raise ValueError(f"{self.path}: {number} must be free and below {self.limit}")
        self._words[word] = used | bit
        if used | bit == _ALL:
            self._full |= 1 << word
        self.count += 1

    def release(self, number: int) -> None:
        """Mark a taken number as free."""
        word, bit = number >> _SHIFT, 1 << (number & _BITS - 1)
        used = self._words.get(word, 0)
        if not used & bit:
            raise ValueError(f"{self.path}: {number} must be taken")
        if used == _ALL:
            self._full &= ~(1 << word)
        if used == bit:
            del self._words[word]
        else:
            self._words[word] = used & ~bit
        self.count -= 1


def _lowest(bits: int) -> int:
    """The number of the lowest set bit."""
    return (bits & -bits).bit_length() - 1
