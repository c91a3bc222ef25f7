"""A million steps: the moves of :mod:`tests.properties.isolation`, fast, on all cores (``make nightly``).

Worlds are independent: each is made from its own number, lives for a few hundred steps, and is left by everybody at the
end. A failure names the number of its world, which is all that is needed to see it again:
``make nightly IOMMU=<name> REPLAY=<number>``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter, deque
from contextlib import ExitStack
from multiprocessing import get_context
from typing import NamedTuple

from pasidlab.virt.policies import POLICIES
from tests.properties.isolation import CENTRES, ENFORCING, TENANCY, TIME
from tests.properties.isolation_mutants import MUTANTS, caught
from tests.properties.isolation_programs import HONEST_MOVES

__all__ = ["LIFE", "Life", "live", "main", "policies_of"]

LIFE = 300
"""Steps of a world."""
WORLDS = 1_000_000
"""Numbers of worlds that one seed has for itself."""
LAST = 12
"""Moves that are told of a world that failed."""


class Life(NamedTuple):
    """How one world went."""

    world: int
    steps: int
    seen: Counter[str]
    failure: str = ""


def policies_of(world):
    """Every fifth world may have VMs for which nobody enforces anything."""
    return tuple(POLICIES) if world % 5 == 4 else ENFORCING


def live(task):
    """One world, from its number, its steps, the policies of its VMs and its IOMMU, to its end."""
    world, steps, policies, iommu = task
    seen: Counter[str] = Counter()
    last: deque[str] = deque(maxlen=LAST)
    done = 0
    try:
        centre = CENTRES[iommu](world, seen, policies)
        for done in range(1, steps + 1):
            try:
                centre.step(centre.draw())
            finally:
                last.append(f"{done:5}  {centre.said}")
        last.append("       everybody leaves")
        centre.end()
    except Exception:
        return Life(world, done, seen, "\n".join((*last, "", traceback.format_exc())))
    return Life(world, done, seen)


def tasks(steps, seed, life, iommu):
    """The worlds of a run."""
    first, whole = seed * WORLDS, steps // life
    lives = [life] * whole + ([steps % life] if steps % life else [])
    return [(first + at, length, policies_of(first + at), iommu) for at, length in enumerate(lives)]


def lives(stack, work, jobs):
    """All of them, on so many processes; on one, in this one."""
    if jobs == 1:
        return map(live, work)
    return stack.enter_context(get_context("spawn").Pool(jobs)).imap_unordered(live, work)


def report(iommu, steps, worlds, seen, seconds):
    """What was done, as lines."""
    known = {**CENTRES[iommu].evil, **HONEST_MOVES, **TENANCY, **TIME}
    moves = {name: seen[name] for name in sorted(known)}
    events = {name.removeprefix("event "): n for name, n in sorted(seen.items()) if name.startswith("event ")}
    rest = {name: n for name, n in sorted(seen.items()) if name not in known and not name.startswith("event ")}
    yield f"{iommu}: {steps:,} steps in {worlds:,} worlds, {seconds:,.0f} s, {steps / max(seconds, 1e-9):,.0f} steps/s"
    for title, counts in (("moves", moves), ("what came of them", rest), ("events", events)):
        yield f"{title}: " + ", ".join(f"{name} {n:,}" for name, n in counts.items())


def planted(iommu, worlds):
    """Plant every bug once; how many of them were found, and in how many steps, as lines, and whether all were."""
    found = {mutant.__name__: caught(mutant, iommu, worlds) for mutant in MUTANTS[iommu]}
    for name, answer in found.items():
        yield f"  {name}: " + (f"after {answer.steps:,} steps, {answer.what}" if answer else "NOT FOUND")
    yield f"{sum(answer is not None for answer in found.values())} of {len(found)} planted bugs were found"


def main(arguments=None):
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.properties.isolation_nightly", description=__doc__)
    parser.add_argument("--iommu", choices=sorted(CENTRES), default="vtd", help="of the machines")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--planted", type=int, default=0, metavar="WORLDS", help="look for planted bugs, in so many worlds"
    )
    parser.add_argument("--life", type=int, default=LIFE, help="steps of a world")
    parser.add_argument("--replay", type=int, help="the number of one world, to live once more")
    options = parser.parse_args(arguments)
    work = tasks(options.steps, options.seed, options.life, options.iommu)
    if options.replay is not None:
        work = [(options.replay, options.life, policies_of(options.replay), options.iommu)]
    seen: Counter[str] = Counter()
    begin, steps, worlds, told = time.monotonic(), 0, 0, time.monotonic()
    with ExitStack() as stack:
        for one in lives(stack, work, min(options.jobs, len(work))):
            steps, worlds = steps + one.steps, worlds + 1
            seen += one.seen
            if one.failure:
                print(one.failure, file=sys.stderr)
                print(f"1 isolation failure, in world {one.world} after {steps:,} steps of this run.", file=sys.stderr)
                print(f"See it again: make nightly IOMMU={options.iommu} REPLAY={one.world}", file=sys.stderr)
                return 1
            if time.monotonic() - told > 60:
                told = time.monotonic()
                print(f"{steps:,} steps, {steps / (told - begin):,.0f} steps/s", flush=True)
    for line in report(options.iommu, steps, worlds, seen, time.monotonic() - begin):
        print(line)
    print("0 isolation failures")
    lines = list(planted(options.iommu, options.planted)) if options.planted else []
    for line in lines:
        print(line)
    return int(any("NOT FOUND" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
