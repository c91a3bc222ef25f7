"""The number allocator and the IOASID core above it: speed, memory, and whether either grows with what is out.

    python -m tests.benchmarks.ioasid

A part of `make bench`. The baseline of the allocator is a binary heap, measured in the same run: the plain way to hand
out the lowest free number (it cannot search a range, remembers nothing and cannot be undone). Each operation is
measured at 2^16 and at 2^20 numbers; the cost there by the cost here is its growth. Some of it is the machine's: what
lies at random places of a larger memory is in no cache.

The space that a thousand sets fill is measured in a process of its own, whose memory can be read as a whole.
"""

from __future__ import annotations

import gc
import heapq
import random
import resource
import subprocess
import sys
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Protocol, TypeVar

from pasidlab.kernel.ioasid.allocators import DefaultAllocator
from pasidlab.kernel.ioasid.core import IoasidCore
from pasidlab.kernel.ioasid.sets import IoasidSet
from pasidlab.timeline import Agenda, Part, Timeline

__all__ = ["Row", "rows", "show"]

Row = tuple[str, str, str]

SMALL, LARGE = 1 << 16, 1 << 20
OPERATIONS = 200_000
SETS = 1000
C_FIFTH = "380-640 k ops/s (C / 5)"


class Allocator(Protocol):
    """What is measured."""

    def alloc(self, minimum: int, maximum: int) -> int | None:
        """The lowest free number in the range."""

    def free(self, ioasid: int) -> None:
        """A number comes back."""


class Heap:
    """The plain way to hand out the lowest free number."""

    def __init__(self, limit: int) -> None:
        self.free_numbers = list(range(limit))

    def alloc(self, minimum: int, maximum: int) -> int:
        """The lowest."""
        return heapq.heappop(self.free_numbers)

    def free(self, ioasid: int) -> None:
        """Back into the heap."""
        heapq.heappush(self.free_numbers, ioasid)


def ours(limit: int) -> DefaultAllocator:
    """The allocator under the core, with its journal. It serves every range: the limit is up to the caller."""
    return DefaultAllocator(Timeline(), "bench")


S = TypeVar("S")


# --- operations: seconds for one --------------------------------------------------------------------------------------


def per_operation(work: Callable[[], object], operations: int) -> float:
    """Seconds for one operation of a piece of work, which starts without garbage from before."""
    gc.collect()
    start = perf_counter()
    work()
    return (perf_counter() - start) / operations


def fill(subject: Allocator, count: int, limit: int) -> None:
    """Allocate ``count`` numbers."""
    for _ in range(count):
        subject.alloc(0, limit - 1)


def alloc_all(subject: Allocator, limit: int) -> float:
    """Every number, lowest first."""
    return per_operation(lambda: fill(subject, limit, limit), limit)


def free_all(subject: Allocator, limit: int) -> float:
    """Every number comes back."""
    fill(subject, limit, limit)

    def work() -> None:
        for number in range(limit):
            subject.free(number)

    return per_operation(work, limit)


def mix(subject: Allocator, limit: int, operations: int = OPERATIONS) -> float:
    """With half of the space out, free one at random and allocate one, again and again."""
    fill(subject, limit // 2, limit)
    chance = random.Random(1)
    out = array("I", range(limit // 2))
    choices = [chance.randrange(len(out)) for _ in range(operations // 2)]

    def work() -> None:
        for at in choices:
            subject.free(out[at])
            number = subject.alloc(0, limit - 1)
            assert number is not None
            out[at] = number

    return per_operation(work, operations)


def find(subject: DefaultAllocator, limit: int) -> float:
    """With the lower half out, the lowest free number from anywhere in that half on."""
    fill(subject, limit // 2, limit)
    chance = random.Random(1)
    starts = [chance.randrange(limit // 2) for _ in range(OPERATIONS)]
    bitmap = subject.bitmap

    def work() -> None:
        for minimum in starts:
            bitmap.find(minimum, limit - 1)

    return per_operation(work, OPERATIONS)


def best(operation: Callable[[S, int], float], make: Callable[[int], S], limit: int) -> float:
    """The best of three runs, each on a new subject."""
    return min(operation(make(limit), limit) for _ in range(3))


def speed(cost: float) -> str:
    """Seconds for one operation, as operations a second."""
    return f"{1e-3 / cost:.0f} k ops/s"


def size(limit: int) -> str:
    """A power of two."""
    return f"2^{limit.bit_length() - 1}"


def ratio(costs: dict[int, float]) -> str:
    """What one operation costs in the large space, by what it costs in the small one."""
    return f"{costs[LARGE] / costs[SMALL]:.2f}x"


def growth(name: str, costs: dict[int, float], beside: str = "") -> Row:
    """The row that says whether an operation costs more where there are more numbers."""
    return f"{name}, cost at {size(LARGE)} / at {size(SMALL)}", ratio(costs) + beside, "no growth"


def allocator() -> Iterator[Row]:
    """The allocator under the core, journal included, against a heap."""
    for name, operation in (("alloc all", alloc_all), ("free all", free_all), ("mix, half out", mix)):
        costs, plain = {}, {}
        for limit in (SMALL, LARGE):
            costs[limit], plain[limit] = best(operation, ours, limit), best(operation, Heap, limit)
            heap = f"a heap is {costs[limit] / plain[limit]:.1f}x as fast"
            yield f"allocator, {name}, {size(limit)}", f"{speed(costs[limit])}, {heap}", C_FIFTH
        yield growth(f"allocator, {name}", costs, f", a heap {ratio(plain)}")
    costs = {limit: best(find, ours, limit) for limit in (SMALL, LARGE)}
    for limit, cost in costs.items():
        yield f"allocator, find, lower half of {size(limit)} out", speed(cost), "(none)"
    yield growth("allocator, find", costs)


# --- memory -----------------------------------------------------------------------------------------------------------


def bytes_per_id(name: str, target: str, alloc: Callable[[], object], count: int) -> Row:
    """What an ID costs in memory, its part of the journal included."""
    gc.collect()
    tracemalloc.start()
    for _ in range(count):
        alloc()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return f"bytes per ID, {name}", f"{used / count:.0f} B", target


def memory() -> Iterator[Row]:
    """The allocator by itself, and everything that the core keeps of an ID that is out."""
    subject, core = ours(LARGE), Core(LARGE)
    yield bytes_per_id("allocator", "<= 200 B", lambda: subject.alloc(0, LARGE - 1), LARGE >> 2)
    yield bytes_per_id("IOASID core: record, events, journal", "(none)", lambda: core.alloc(0, LARGE - 1), LARGE >> 6)


# --- the whole core ---------------------------------------------------------------------------------------------------


class Core:
    """A core with one set, as an allocator: quota, record, references and events come with each number."""

    def __init__(self, limit: int) -> None:
        self.core = make_core(limit)
        self.set = new_set(self.core, 0, limit)

    def alloc(self, minimum: int, maximum: int) -> int:
        """An ID of the set."""
        return self.core.alloc(self.set, minimum, maximum, "bench")

    def free(self, ioasid: int) -> None:
        """Its only reference goes."""
        self.core.free(self.set, ioasid)


def make_core(limit: int) -> IoasidCore:
    """A core of its own."""
    time = Timeline()
    return IoasidCore(time, "bench", "host", Agenda(time), capacity=limit)


def new_set(core: IoasidCore, number: int, quota: int) -> IoasidSet:
    """A set for a process of its own."""
    return core.sets.alloc(f"vm{number}", Part(core.timeline, f"mm{number}"), quota)


def whole_core() -> Iterator[Row]:
    """The same mix with everything that an ID carries, and the full space."""
    costs = {limit: mix(Core(limit), limit, OPERATIONS // 10) for limit in (SMALL >> 4, SMALL)}
    for limit, cost in costs.items():
        yield f"IOASID core with events, mix, half of {size(limit)} out", speed(cost), "(none)"
    code = "from tests.benchmarks.ioasid import full_space; print(full_space())"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    yield f"IOASID core, {size(LARGE)} IDs held by {SETS:,} sets", told.strip(), "(none)"


def full_space() -> str:
    """Fill the 20-bit space, a set after the other: seconds, speed, memory."""
    before = resident()
    core = make_core(LARGE)
    start = perf_counter()
    for number in range(SETS):
        quota = LARGE // SETS + (number < LARGE % SETS)
        the_set = new_set(core, number, quota)
        for _ in range(quota):
            core.alloc(the_set, 0, LARGE - 1, "bench")
    taken = perf_counter() - start
    assert (len(core.ids), core.capacity.available) == (LARGE, 0)
    return f"{taken:.0f} s, {speed(taken / LARGE)}, {(resident() - before) / LARGE:.0f} B an ID"


def resident() -> int:
    """The memory of this process in bytes; where nothing tells that, the most that it ever had."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def rows() -> Iterator[Row]:
    """The table."""
    yield from allocator()
    yield from memory()
    yield from whole_core()


def show(table: Iterator[Row]) -> None:
    """Print a table, row by row as it is measured."""
    print(f"{'what':<58} {'measured':<42} target")
    for what, measured, target in table:
        print(f"{what:<58} {measured:<42} {target}", flush=True)


if __name__ == "__main__":
    show(rows())
