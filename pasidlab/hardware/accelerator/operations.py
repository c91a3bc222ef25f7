"""What each operation does to memory: one small step at a time, so that a page fault leaves honest progress behind.

A transfer is cut where any of its addresses crosses a 4 KiB border; each piece is one step. Source: names and operand
places from Linux ``include/uapi/linux/idxd.h``. UNVERIFIED: that an overlapping copy whose destination lies above its
source runs from the end (the result is the same as memmove's; only the progress that a fault reports differs).

Left out: drain, delta, CRC, DIF and cache-flush operations, and flags that check or steer results. A batch moves
nothing itself: :mod:`pasidlab.hardware.accelerator.execution` carries out its list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from pasidlab.hardware.accelerator.descriptor import Completion, CompletionStatus, Descriptor, Opcode
from pasidlab.hardware.dma import DmaPort
from pasidlab.hardware.memory import PAGE_SIZE

__all__ = ["OPERATIONS", "Operation", "piece", "pieces"]

_ADDRESS_MASK = (1 << 64) - 1

Step = Callable[[DmaPort, Descriptor, int, int], Completion | None]
"""Do ``length`` bytes from ``offset`` on; a completion ends the operation early."""


class Operation(NamedTuple):
    """An operation: its step, the addresses that it uses, and what makes a descriptor unacceptable."""

    step: Step
    addresses: Callable[[Descriptor], tuple[int, ...]]
    backwards: Callable[[Descriptor], bool] = lambda descriptor: False
    check: Callable[[Descriptor], CompletionStatus | None] = lambda descriptor: None


def piece(addresses: tuple[int, ...], size: int, done: int, backwards: bool = False) -> tuple[int, int]:
    """The next (offset, length) of ``size`` bytes with ``done`` behind: as far as the page that each address is in.

    >>> piece((0xff0, 0x2000), 32, 0), piece((0xff0, 0x2000), 32, 16), piece((0xff0, 0x2000), 32, 0, backwards=True)
    ((0, 16), (16, 16), (16, 16))
    """
    if backwards:
        end = size - done
        start = max(0, end - min((address + end - 1) % PAGE_SIZE + 1 for address in addresses))
        return start, end - start
    end = min(size, done + min(PAGE_SIZE - (address + done) % PAGE_SIZE for address in addresses))
    return done, end - done


def pieces(addresses: tuple[int, ...], size: int, backwards: bool = False) -> Iterator[tuple[int, int]]:
    """Cut ``size`` bytes into (offset, length) where one of ``addresses`` crosses a page.

    >>> list(pieces((0xff0, 0x2000), 32)), list(pieces((0xff0, 0x2000), 32, backwards=True))
    ([(0, 16), (16, 16)], [(16, 16), (0, 16)])
    """
    done = 0
    while done < size:
        offset, length = piece(addresses, size, done, backwards)
        yield offset, length
        done += length


def _copy(dma: DmaPort, work: Descriptor, offset: int, length: int) -> Completion | None:
    dma.write(work.dst + offset, dma.read(work.src + offset, length))
    return None


def _overlaps_upwards(work: Descriptor) -> bool:
    return work.src < work.dst < work.src + work.size


def _pattern(value: int, offset: int, length: int) -> bytes:
    """``length`` bytes of an 8-byte pattern repeated from the start of the transfer."""
    unit = value.to_bytes(8, "little")
    return (unit * (length // 8 + 2))[offset % 8 :][:length]


def _fill(dma: DmaPort, work: Descriptor, offset: int, length: int) -> Completion | None:
    dma.write(work.dst + offset, _pattern(work.src, offset, length))
    return None


def _difference(left: bytes, right: bytes, offset: int) -> Completion | None:
    """End a compare at the first byte that differs: result 1, and how many bytes were equal."""
    for index, (one, other) in enumerate(zip(left, right, strict=True)):
        if one != other:
            return Completion(CompletionStatus.SUCCESS, result=1, bytes_completed=offset + index)
    return None


def _compare(dma: DmaPort, work: Descriptor, offset: int, length: int) -> Completion | None:
    return _difference(dma.read(work.src + offset, length), dma.read(work.dst + offset, length), offset)


def _compare_value(dma: DmaPort, work: Descriptor, offset: int, length: int) -> Completion | None:
    return _difference(dma.read(work.src + offset, length), _pattern(work.dst, offset, length), offset)


def _second_destination(work: Descriptor) -> int:
    return work.op_specific & _ADDRESS_MASK


def _dualcast(dma: DmaPort, work: Descriptor, offset: int, length: int) -> Completion | None:
    data = dma.read(work.src + offset, length)
    dma.write(work.dst + offset, data)
    dma.write(_second_destination(work) + offset, data)
    return None


def _check_dualcast(work: Descriptor) -> CompletionStatus | None:
    """Both destinations must lie at the same place in their pages."""
    same = work.dst % PAGE_SIZE == _second_destination(work) % PAGE_SIZE
    return None if same else CompletionStatus.DCAST_ERR


OPERATIONS: Final = {
    Opcode.MEMMOVE: Operation(_copy, lambda work: (work.src, work.dst), _overlaps_upwards),
    Opcode.MEMFILL: Operation(_fill, lambda work: (work.dst,)),
    Opcode.COMPARE: Operation(_compare, lambda work: (work.src, work.dst)),
    Opcode.COMPVAL: Operation(_compare_value, lambda work: (work.src,)),
    Opcode.DUALCAST: Operation(
        _dualcast, lambda work: (work.src, work.dst, _second_destination(work)), check=_check_dualcast
    ),
}
"""Operations that move or read bytes, by opcode. NOOP is an operation without a step."""
