"""State machines over hostile and honest tenants: Hypothesis chooses who does what, and all is checked after each step.

The world is that of :mod:`tests.properties.isolation`; `make nightly` takes a million steps in it without Hypothesis.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.properties.hostile import EVIL_MOVES
from tests.properties.isolation import TENANCY, TIME, TWO_MEANINGS, DataCentre
from tests.properties.isolation_mutants import MUTANTS, PATIENT, PLAIN, caught
from tests.properties.isolation_nightly import live, main
from tests.properties.isolation_programs import HONEST_MOVES

COURSE = settings(
    max_examples=60, stateful_step_count=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
WORLDS = 16
"""In how many worlds a planted bug has to be found."""
UNENFORCED = range(6)
NEEDED = {
    **dict.fromkeys(EVIL_MOVES, 1),
    **dict.fromkeys(HONEST_MOVES, 5),
    **dict.fromkeys(TENANCY, 5),
    "run_one": 50,
    "run_all": 5,
    "travel": 5,
    "honest bytes": 3000,
    "answered by hand": 3,
    "policy identity": 5,
    "policy translated": 5,
    "policy refuse": 5,
    "event trap": 200,
    "event page-request": 20,
    "event fault": 5,
    "event reclaim": 50,
}
"""How often each of these has to occur for the courses to mean anything."""


NUMBERS = st.integers(0, 1 << 32)


class AnyTenants(RuleBasedStateMachine):
    """Who acts is a rule, what they do and how comes out of a number."""

    seen: ClassVar[Counter[str]] = Counter()

    @initialize(seed=NUMBERS)
    def open_up(self, seed):
        """A world of its own."""
        self.centre = DataCentre(seed, self.seen)

    def do(self, moves, seed):
        """One checked step of these kinds. (The same number means something else at another time.)"""
        self.seen["steps"] += 1
        self.centre.r.seed(f"{seed} at {self.centre.steps}")
        self.centre.step(self.centre.draw(moves))

    @rule(seed=NUMBERS)
    def a_hostile_guest_acts(self, seed):
        """Any register, any number, any table, any portal, in any order."""
        self.do(EVIL_MOVES, seed)

    @rule(seed=NUMBERS)
    def another_hostile_guest_acts(self, seed):
        """Most steps are theirs."""
        self.do(EVIL_MOVES, seed)

    @rule(seed=NUMBERS)
    def an_honest_program_works(self, seed):
        """And is right, whatever the others do."""
        self.do(HONEST_MOVES, seed)

    @rule(seed=NUMBERS)
    def the_administrator_acts(self, seed):
        """VMs die, come, get devices and quotas."""
        self.do(TENANCY, seed)

    @rule(seed=NUMBERS)
    def time_passes(self, seed):
        """Something that waits happens, in any order, or all of it; or time goes back and another future begins."""
        self.do(TIME, seed)

    def teardown(self):
        """Everybody leaves, and nothing is left of them."""
        if hasattr(self, "centre"):
            self.centre.end()


def test_whatever_hostile_guests_do_in_any_order_nobody_else_is_reached(record_property):
    """All rules, a second opinion and the bytes of the honest, after each step; no number gets a second meaning."""
    AnyTenants.seen.clear()
    run_state_machine_as_test(AnyTenants, settings=COURSE)
    seen = AnyTenants.seen
    said = f"{seen['steps']:,} steps of hostile guests in any order, each checked: 0 isolation failures"
    record_property("counted", said)
    record_property("seen", dict(sorted(seen.items())))
    assert {what: seen[what] for what, least in NEEDED.items() if seen[what] < least} == {}
    assert not seen[TWO_MEANINGS]


def test_where_nobody_enforces_a_policy_numbers_get_two_meanings_and_still_nobody_else_is_reached(record_property):
    """Rule 14 names what happens; memory of other VMs and of the host stays out of reach."""
    seen = Counter[str]()
    for world in UNENFORCED:
        one = live((world, 100, ("unenforced",)))
        assert not one.failure, one.failure
        seen += one.seen
    said = f"{100 * len(UNENFORCED):,} steps without a policy, {seen[TWO_MEANINGS]:,} with a number of two meanings"
    record_property("counted", f"{said}: 0 isolation failures")
    record_property("seen", dict(sorted(seen.items())))
    assert seen[TWO_MEANINGS] > 20


@pytest.mark.parametrize(
    "mutant", [mutant for mutant in MUTANTS if mutant not in PATIENT], ids=lambda one: one.__name__
)
def test_a_planted_bug_is_found(mutant):
    """Within a bounded number of steps something is wrong that is not wrong without it."""
    assert caught(mutant, worlds=WORLDS) is not None


@pytest.mark.parametrize("mutant", PLAIN, ids=lambda one: one.__name__)
def test_a_planted_bug_is_found_without_the_rules_of_the_package(mutant):
    """The second opinion and the bytes of the honest see by themselves what reaches somebody else."""
    assert caught(mutant, worlds=WORLDS, rules=False) is not None


def test_without_a_planted_bug_nothing_is_found():
    """The same worlds are sound: what is found there is found because of the bug."""
    assert caught(lambda stack: None, worlds=WORLDS) is None


def test_the_nightly_mode_counts_its_steps_and_says_how_it_ended(capsys):
    """Steps, speed, moves, what came of them, worlds, failures."""
    assert main(["--steps", "40", "--jobs", "1", "--life", "20"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("40 steps in 2 worlds")
    assert told.endswith("0 isolation failures\n")


def test_the_nightly_mode_names_the_world_that_failed(capsys):
    """The last moves, and the line that shows it again."""
    with ExitStack() as stack:
        MUTANTS[0](stack)
        assert main(["--steps", "3000", "--jobs", "1", "--life", "150"]) == 1
    told = capsys.readouterr().err
    assert "invariant 3" in told
    assert "See it again: make nightly REPLAY=" in told
