"""Every world that a small IOASID core can reach: in each, every call, compared with the naive twin.

Breadth first over all courses of calls; a world that was seen before (by the digest of its state) is not entered again.
Counted on the way: how often an ID was in which state, what was done to it there, and where that led. The tables show
with ``pytest -s``, or alone with ``python -m tests.twins.test_naive_ioasid_small``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import pytest

from pasidlab.kernel.ioasid.record import MOVES, State
from pasidlab.timeline import Verb
from tests.twins.ioasid_pair import Pair

pytestmark = pytest.mark.slow

OWN_FREE = ": it was freed already"


class Small(NamedTuple):
    """One small core: what is done first, which calls there are, and how many references a holder takes at most."""

    name: str
    capacity: int
    first: tuple[tuple, ...]
    calls: tuple[tuple, ...]
    numbers: tuple[int, ...]
    most: int = 1


def references(numbers, holders):
    """Every get, put and free of these numbers, with and without a check of the owner."""
    calls: list[tuple] = []
    for number in numbers:
        calls += [("free", token, number) for token in (None, "mm1", "mm2")]
        calls += [(what, number, holder, None) for what in ("get", "put") for holder in holders]
        calls += [("get", number, "a", "mm2"), ("put", number, "a", "mm1"), ("put", number, "owner", None)]
    return tuple(calls)


def sets(quotas, high):
    """A set of each mm begins, allocates, frees everything, ends."""
    calls: list[tuple] = []
    for token, quota in quotas.items():
        calls += [("set_alloc", token, token, quota), ("set_free", token), ("free_all", token)]
        calls += [("alloc", token, 1, high, "owner")]
    return tuple(calls)


def spids(numbers, guests):
    """A guest's number comes, goes, is looked up with a reference."""
    calls: list[tuple] = [("detach_spid", number) for number in numbers]
    calls += [("attach_spid", number, guest) for number in numbers for guest in guests]
    calls += [("find_by_spid", token, guest, "a") for token in ("mm1", "mm2") for guest in guests]
    return tuple(calls)


SMALL = (
    Small(
        "2 sets (quotas 2 and 1), 2 IDs, 2 holders",
        3,
        (("register", "late"), ("register_mm", "mm1", "deaf")),
        references((1, 2), "ab") + sets({"mm1": 2, "mm2": 1}, 2) + (("adjust", "mm1", 1), ("adjust", "mm1", 2)),
        (1, 2),
    ),
    Small(
        "2 sets (quotas 2 and 2), 3 IDs, 1 holder",
        4,
        (("register", "deaf"), ("register_mm", "mm2", "late")),
        references((1, 2, 3), "a") + sets({"mm1": 2, "mm2": 2}, 3),
        (1, 2, 3),
    ),
    Small(
        "2 sets (quotas 2 and 1), 2 IDs, KVM and 1 holder, 2 SPIDs",
        3,
        (("register", "late"), ("register_mm", "mm1", "kvm")),
        references((1, 2), "a") + sets({"mm1": 2, "mm2": 1}, 2) + spids((1, 2), (1, 2)),
        (1, 2),
    ),
    Small(
        "2 sets (quota 1), 1 ID, KVM and 1 holder, 3 references a holder, private data",
        2,
        (("register_mm", "mm1", "kvm"), ("register_mm", "mm2", "late")),
        references((1,), "a")
        + sets({"mm1": 1, "mm2": 1}, 1)
        + spids((1,), (1,))
        + (("attach_data", 1, "data1"), ("attach_data", 1, "data2"), ("detach_data", 1), ("find", 1, "mm1", None))
        + (("get_if_owned", 1, "a", "mm1"), ("get_if_owned", 1, "a", None)),
        (1,),
        3,
    ),
)


class Explorer:
    """All worlds of one small core, and what was counted in them."""

    def __init__(self, small: Small) -> None:
        self.small = small
        self.pair = Pair(small.capacity)
        for what, *args in small.first:
            self.pair.do(what, *args)
        self.start = self.pair.at
        self.worlds = 0
        self.transitions = 0
        self.states: Counter[State] = Counter()
        self.moves: Counter[tuple[State, str, State]] = Counter()
        self.refused: Counter[tuple[State, str, str]] = Counter()

    def explore(self) -> Explorer:
        """Breadth first: a world is kept as the shortest course of calls that leads to it."""
        known = {self.pair.time.digest(): self.key()}
        frontier: list[tuple[tuple, ...]] = [()]
        while frontier:
            found: list[tuple[tuple, ...]] = []
            for course in frontier:
                self.pair.go(self.start)
                for what, *args in course:
                    self.pair.do(what, *args)
                found += [(*course, call) for call in self.enter(known)]
            frontier = found
        assert len(set(known.values())) == len(known), "two digests for what cannot be told apart"
        self.worlds = len(known)
        return self

    def enter(self, known: dict[str, str]) -> list[tuple]:
        """Try every call in the present world; returns those that led to a world not seen before."""
        here, digest, new = self.pair.at, self.pair.time.digest(), []
        before = {number: self.state(number) for number in self.small.numbers}
        self.states.update(before.values())
        for call in self.small.calls:
            resolved = self.resolve(call)
            if resolved is None:
                continue
            answer = self.pair.do(*resolved)
            self.transitions += 1
            self.count(call, before, answer)
            after, key = self.pair.time.digest(), self.key()
            if after not in known:
                self.pair.compare()
                known[after] = key
                new.append(resolved)
            assert known[after] == key, f"{call}: one digest for two worlds"
            if isinstance(answer, str) and answer != "-EBUSY":
                assert after == digest, f"{call} was refused and changed something"
            self.pair.go(here)
        return new

    def resolve(self, call: tuple) -> tuple | None:
        """Sets are called by their mm; a call on one that is not there is left out, and so is a reference too many."""
        what, *args = call
        twin = self.pair.twin
        if what == "get" and twin.holds(args[0], args[1]) >= self.small.most:
            return None
        if what == "find_by_spid" and any(twin.holds(number, args[2]) >= self.small.most for number in twin.ids):
            return None
        if what == "get_if_owned" and twin.holds(args[0], args[1]) >= self.small.most:
            return None
        if what not in ("set_alloc", "get_if_owned"):
            handles = [twin._of(arg) if arg in ("mm1", "mm2") else arg for arg in args]
            if any(handle is None and arg is not None for handle, arg in zip(handles, args, strict=True)):
                return None
            args = handles
        return (what, *args)

    def state(self, number: int) -> State:
        """Where an ID is in its life."""
        record = self.pair.core.core.ids.get(number)
        return State.FREE if record is None else record.state

    def key(self) -> str:
        """The twin's world as text; the clever core's is compared with it whenever its digest is new."""
        seen = self.pair.twin.observe()
        return repr([sorted(value.items()) if isinstance(value, dict) else value for value in seen.values()])

    def count(self, call: tuple, before: dict[int, State], answer: Any) -> None:
        """Follow the events of one call: each alloc, get, put and free is a move of one ID."""
        time, states = self.pair.time, dict(before)
        moved, freed = False, {}
        for event in time.events_of(time.operations[-1]):
            number = event.fact("ioasid")
            if event.actor != "ioasid" or not isinstance(number, int):
                continue
            old, left = states.get(number, State.FREE), event.fact("refs")
            trigger = str(event.verb)
            if event.verb is Verb.ALLOC:
                new = State.IDLE
            elif event.verb is Verb.GET:
                new = State.ACTIVE
            elif event.verb is Verb.FREE:
                new, freed[event.number] = (State.FREE if left == 1 else State.FREE_PENDING), old
            elif event.verb is Verb.PUT and event.cause in freed and (left or freed[event.cause] is State.IDLE):
                continue
            elif event.verb is Verb.PUT:
                living = State.ACTIVE if left != 1 else State.IDLE
                new = State.FREE if not left else old if old is State.FREE_PENDING else living
            elif event.verb is Verb.IGNORE and event.subject.endswith(OWN_FREE):
                new, trigger = old, "free"
            else:
                continue
            states[number], moved = new, True
            self.moves[old, trigger, new] += 1
        assert all(self.state(number) is states[number] for number in states), call
        if not moved and call[0] in ("alloc", "free", "get", "put"):
            self.count_refusal(call, before, answer)

    def count_refusal(self, call: tuple, before: dict[int, State], answer: Any) -> None:
        """A call that moved no ID."""
        if call[0] == "alloc":
            for number in self.small.numbers:
                self.refused[before[number], "alloc", "no ID"] += 1
        else:
            number = call[2] if call[0] == "free" else call[1]
            self.refused[before[number], call[0], str(answer) if answer else "ignored"] += 1

    def report(self) -> str:
        """The tables."""
        lines = [f"{self.small.name}: {self.worlds} worlds, {self.transitions} calls compared"]
        lines += [f"  {state:<13}{count:>9} visits" for state, count in sorted(self.states.items())]
        return "\n".join(lines)


def table(explorers: list[Explorer]) -> str:
    """What all explorers together counted for each state and action."""
    moves: Counter[tuple] = sum((Counter(one.moves) for one in explorers), Counter())
    refused: Counter[tuple] = sum((Counter(one.refused) for one in explorers), Counter())
    pairs: Counter[tuple] = Counter()
    for (state, action, _), count in (*moves.items(), *refused.items()):
        pairs[state, action] += count
    lines = [one.report() for one in explorers]
    lines += ["", f"{'state':<14}{'action':<8}{'tried':>9}   led to"]
    for (state, action), count in sorted(pairs.items()):
        ends = [(str(new), seen) for (old, what, new), seen in moves.items() if (old, what) == (state, action)]
        ends += [(f"({why})", seen) for (old, what, why), seen in refused.items() if (old, what) == (state, action)]
        words = ", ".join(f"{end} {seen}" for end, seen in sorted(ends))
        lines.append(f"{state:<14}{action:<8}{count:>9}   {words}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def explorers():
    """Each small core, explored; the tables are printed."""
    done = [Explorer(small).explore() for small in SMALL]
    print("\n" + table(done))
    return done


def test_core_and_twin_agree_in_every_world_of_every_small_core(explorers):
    """Answers, what is heard, and all state, at each of the calls; equal digests exactly for equal worlds."""
    assert [one.small for one in explorers] == list(SMALL)
    assert all(one.transitions > 10 * one.worlds > 100 for one in explorers)


def test_every_allowed_move_is_visited_and_no_other(explorers):
    """The moves seen are the table of moves, exactly."""
    assert {move for one in explorers for move in one.moves} == set(MOVES)


def test_every_action_is_tried_in_every_state(explorers):
    """Alloc, get, put and free in FREE, IDLE, ACTIVE and FREE_PENDING, allowed there or not."""
    tried = {key[:2] for one in explorers for key in (*one.moves, *one.refused)}
    assert tried == {(state, action) for state in State for action in ("alloc", "get", "put", "free")}


if __name__ == "__main__":
    print(table([Explorer(small).explore() for small in SMALL]))
