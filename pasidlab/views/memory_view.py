"""Projections of memory: a 4 KiB frame -> table of its words, a word -> table of the fields of its structure.

Words that are zero are folded. Of a frame that is full only the words around the address are shown one by one; what is
before and behind them is folded, too, and says how much it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import BusError, KernelError
from pasidlab.views.bits import spans
from pasidlab.views.fields import field_table
from pasidlab.views.iommu_words import MEMORY
from pasidlab.views.memory_map import MemoryMap, plain_word
from pasidlab.views.numbers import counted
from pasidlab.views.table import Column, Line, Table

if TYPE_CHECKING:
    from pasidlab.machine import Machine
    from pasidlab.views.memory_map import Found

__all__ = ["frame", "frame_of", "memory_word"]

_WORDS: Final = 512
_SHOWN: Final = 48
_COLUMNS: Final = (
    Column("address", "address", mono=True),
    Column("word", "word", mono=True),
    Column("what", "what it is", wrap=True),
    Column("fields", "fields that are not zero", wrap=True),
)


def memory_word(machine: Machine, address: int, vm: str = "") -> Table:
    """The fields of the structure to which the word at ``address`` belongs: host-physical, or guest-physical of
    ``vm``. ``-EFAULT`` where no memory answers, ``-ESRCH`` no such VM.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0")
    >>> table = memory_word(m, m.kernel.iommu.entry_table(dsa.rid).address(0))
    >>> table.title, table.rows[0].cells[:3]
    ('PASID entry 0 of 6a:01.0 (dsa0)', ('P', '0', '0x1'))
    """
    return field_table(MemoryMap(machine, vm).word(address).bits())


def frame(machine: Machine, address: int, vm: str = "") -> Table:
    """The 512 words of the frame around ``address``; errors as for :func:`memory_word`.

    >>> from pasidlab import Machine
    >>> m = Machine(); table = frame(m, m.unit.reading.root)
    >>> table.title, [row.cells[2] for row in table.rows]
    ('Frame 0x1000: 0 of 512 words are not zero', ['512 words, all zero'])
    """
    return frame_of(MemoryMap(machine, vm), address)


def frame_of(known: MemoryMap, address: int) -> Table:
    """The same of a memory that was surveyed already."""
    start = address & ~0xFFF
    words = _load(known, start)
    count = sum(map(bool, words))
    rows = tuple(_row(known, start, words, run) for run in _runs(words, (address & 0xFFF) >> 3))
    title = MEMORY["frame"].format(address=f"{start:#x}", count=count)
    owners = known.owners(start)
    where = f": {'; '.join(owners[:2])}" if owners else ""
    whose = MEMORY["frame-of"].format(vm=known.vm) if known.vm else ""
    return Table("frame", f"{title}{whose}{where}", _COLUMNS, rows)


def _load(known: MemoryMap, start: int) -> tuple[int, ...]:
    try:
        return known.memory.load_words(start, _WORDS)
    except BusError:
        raise KernelError("EFAULT", f"no memory answers at {start:#x}") from None


class _Run(NamedTuple):
    """Neighbouring words: one that is shown, or many that are folded."""

    first: int
    length: int
    folded: bool


def _runs(words: tuple[int, ...], near: int) -> list[_Run]:
    """The frame cut into words that are shown and runs that are folded; the word ``near`` is always shown."""
    filled = [at for at, word in enumerate(words) if word]
    if len(filled) > _SHOWN:
        place = sum(at < near for at in filled)
        start = min(max(0, place - _SHOWN // 2), len(filled) - _SHOWN)
        filled = filled[start : start + _SHOWN]
    shown = set(filled) | ({near} if filled else set())
    runs: list[_Run] = []
    for at in range(len(words)):
        if at in shown:
            runs.append(_Run(at, 1, False))
        elif runs and runs[-1].folded and bool(words[at - 1]) == bool(words[at]):
            runs[-1] = runs[-1]._replace(length=runs[-1].length + 1)
        else:
            runs.append(_Run(at, 1, True))
    return runs


def _row(known: MemoryMap, start: int, words: tuple[int, ...], run: _Run) -> Line:
    at = start + run.first * 8
    if run.folded:
        end = at + run.length * 8 - 8
        where = f"{at:#x}" if run.length == 1 else f"{at:#x} - {end:#x}"
        said = MEMORY["folded" if words[run.first] else "zero"].format(count=counted(run.length, "word"))
        return Line(f"word:{at:#x}", (where, "", said, ""), "off" if not words[run.first] else "idle")
    word, found = words[run.first], known.word(at)
    what = MEMORY["data"] if plain_word(found) else found.name
    offset = at - found.address
    if offset >= 8 and not plain_word(found):
        what = MEMORY["part"].format(name=found.name, offset=offset)
    return Line(f"word:{at:#x}", (f"{at:#x}", f"{word:016x}", what, _fields(found, at, word)), _state(found, word))


def _state(found: Found, word: int) -> str:
    if not word:
        return "idle"
    return "idle" if plain_word(found) else "live"


def _fields(found: Found, at: int, word: int) -> str:
    """The fields of a structure that lie in one of its words; of data its bytes as text, where that is text."""
    if plain_word(found):
        data = word.to_bytes(8, "little")
        return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data) if word else ""
    low, width = (at - found.address) * 8, 64
    inside = [span for span in spans(found.bits()) if low <= span.lsb < low + width and span.value]
    return " ".join(f"{span.key}={span.value if span.value < 10 else hex(span.value)}" for span in inside)
