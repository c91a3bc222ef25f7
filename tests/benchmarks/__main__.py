"""Measured speeds beside their targets (`make bench`). Printed, never asserted: machines differ, so do the numbers.

Where a target is a ratio to other code, a plain baseline is measured in the same run. The kernel's allocator in C does
1.9 to 3.2 million operations a second on the machine on which the targets were set.
"""

from __future__ import annotations

import heapq
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from time import perf_counter

from pasidlab import Machine
from pasidlab.hardware.pcie import Access, DmaRequest
from pasidlab.kernel.ioasid.allocators import DefaultAllocator
from pasidlab.kernel.ioasid.core import IoasidCore
from pasidlab.timeline import Part, Timeline

Row = tuple[str, str, str]


def seconds(work: Callable[[], object], repeat: int = 3) -> float:
    """The best time of a few runs."""
    times = []
    for _ in range(repeat):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return min(times)


def start_up(code: str) -> float:
    """Seconds from nothing to the end of a line of Python."""
    return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True), 7)


def import_time() -> Row:
    """A fresh interpreter with and without the import."""
    taken = start_up("import pasidlab; pasidlab.Machine") - start_up("")
    return "import pasidlab, with all that a Machine needs", f"{taken * 1000:.0f} ms", "< 150 ms"


class Heap:
    """The plain way to hand out the lowest free number."""

    def __init__(self, limit: int) -> None:
        self.free_numbers = list(range(limit))

    def alloc(self, minimum: int, maximum: int) -> int:
        """The lowest."""
        return heapq.heappop(self.free_numbers)

    def free(self, number: int) -> None:
        """Back into the heap."""
        heapq.heappush(self.free_numbers, number)


def mix(alloc: Callable[[], int | None], free: Callable[[int], object], limit: int, operations: int) -> float:
    """Operations a second: fill half, then free a random number and allocate one, again and again."""
    chance = random.Random(1)
    out = [number for number in (alloc() for _ in range(limit // 2)) if number is not None]
    start = perf_counter()
    for _ in range(operations // 2):
        at = chance.randrange(len(out))
        free(out[at])
        number = alloc()
        assert number is not None
        out[at] = number
    return operations / (perf_counter() - start)


def allocator(limit: int) -> Row:
    """The allocator under the core, journal included, against a heap."""
    ours, heap = DefaultAllocator(Timeline(), "bench", limit), Heap(limit)
    mine = mix(lambda: ours.alloc(0, limit - 1), ours.free, limit, 100_000)
    plain = mix(lambda: heap.alloc(0, limit - 1), heap.free, limit, 100_000)
    name = f"allocator, alloc/free mix, half of 2^{limit.bit_length() - 1} out"
    return name, f"{mine / 1e3:.0f} k ops/s, a heap is {plain / mine:.1f}x as fast", "380-640 k ops/s (C / 5)"


def core_of(limit: int) -> tuple[Callable[[], int], Callable[[int], None]]:
    """Alloc and free of a whole IOASID core: set, quota, record, references, events."""
    time = Timeline()
    core = IoasidCore(time, "bench", "host", limit)
    the_set = core.set_alloc("bench", Part(time, "mm"), limit)
    return lambda: core.alloc(the_set, 0, limit - 1, "bench"), lambda number: core.free(the_set, number)


def whole_core() -> Row:
    """The same mix with everything that an ID carries."""
    limit = 1 << 16
    alloc, free = core_of(limit)
    rate = mix(alloc, free, limit, 20_000)
    return "IOASID core with events, the same mix, half of 2^16 out", f"{rate / 1e3:.0f} k ops/s", "(none)"


def bytes_per_id(name: str, alloc: Callable[[], object], count: int) -> Row:
    """What an ID costs in memory, its part of the journal included."""
    tracemalloc.start()
    for _ in range(count):
        alloc()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return f"bytes per ID, {name}", f"{used / count:.0f} B", "<= 200 B"


class World:
    """One VM with an interface and a process."""

    def __init__(self) -> None:
        self.m = Machine()
        self.dsa = self.m.plug_accelerator("dsa0")
        self.vm = self.m.create_vm("vm1")
        self.adi = self.m.assign_adi(self.dsa, self.vm)
        self.app = self.vm.spawn("app")
        self.src, self.dst = self.app.buffer(bytes(64)), self.app.buffer(64)

    def live(self, count: int = 1) -> None:
        """Alloc, bind, copy, unbind, free: full lives of a PASID in a guest."""
        for _ in range(count):
            self.app.bind(self.adi)
            assert self.app.copy(self.adi, self.src, self.dst, 64).ok
            self.app.unbind(self.adi)


def lives() -> Row:
    """Full lives through guest, hypervisor and host, every event kept."""
    world, count = World(), 300
    begin = world.m.timeline.now
    taken = seconds(lambda: world.live(count), 1)
    events = (world.m.timeline.now - begin) / count
    return f"full life of a PASID in a guest ({events:.0f} events)", f"{count / taken:.0f} lives/s", ">= 5,000 lives/s"


def nested_walk() -> Row:
    """4 over 4 levels without any cache: up to 24 table reads a request."""
    world = World()
    world.app.bind(world.adi)
    at, host_pasid = world.app.buffer(1 << 20), world.vm.pasids[1]
    requests = [DmaRequest(world.dsa.rid, at + (page << 12), Access.READ, host_pasid) for page in range(256)]
    translate = world.m.unit.translate
    taken = seconds(lambda: [translate(request) for request in requests * 8])
    return "nested 4+4-level walk, cold", f"{len(requests) * 8 / taken / 1e3:.0f} k/s", ">= 50 k/s"


def trip(time: Timeline, step: int, *, digest: bool) -> float:
    """Seconds to another step."""
    start = perf_counter()
    time.go(step)
    if digest:
        time.digest()
    return perf_counter() - start


def time_travel() -> Iterator[Row]:
    """Anywhere in a run of 10,000 steps, state and digest."""
    world, chance = World(), random.Random(1)
    while world.m.timeline.last < 10_000:
        world.live()
    time = world.m.timeline
    steps = [chance.randrange(time.floor, time.last + 1) for _ in range(60)]
    trips = [trip(time, step, digest=False) for step in [*steps, time.floor, time.last]]
    mean, worst = sum(trips) / len(trips) * 1000, max(trips) * 1000
    yield f"time travel in {time.last:,} steps", f"{mean:.1f} ms mean, {worst:.1f} ms from end to end", "< 20 ms"
    with_digest = [trip(time, step, digest=True) for step in steps]
    yield "the same, with the digest of each stop", f"{sum(with_digest) / len(steps) * 1000:.1f} ms mean", "(none)"
    time.go(time.last)
    yield "check of all invariants at its end", f"{seconds(world.m.check) * 1000:.1f} ms", "(none)"


def rows() -> Iterator[Row]:
    """The table."""
    yield import_time()
    yield allocator(1 << 16)
    yield allocator(1 << 20)
    yield whole_core()
    bitmap = DefaultAllocator(Timeline(), "bench", 1 << 20)
    yield bytes_per_id("allocator", lambda: bitmap.alloc(0, 1 << 20), 1 << 18)
    yield bytes_per_id("IOASID core: record, events, journal", core_of(1 << 20)[0], 1 << 12)
    yield lives()
    yield nested_walk()
    yield "nested walk from the IOTLB", "no IOTLB yet", ">= 500 k/s"
    yield from time_travel()


if __name__ == "__main__":
    print(f"{'what':<58} {'measured':<42} target")
    for what, measured, target in rows():
        print(f"{what:<58} {measured:<42} {target}", flush=True)
