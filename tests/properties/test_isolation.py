"""State machines over hostile and honest tenants: Hypothesis chooses who does what, and all is checked after each step.

Each of the three IOMMUs has its worlds, its hostile moves and its planted bugs. The worlds are those of
:mod:`tests.properties.isolation`; `make nightly` takes a million steps in them without Hypothesis.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.properties.hostile_tables import TABLE_MOVES
from tests.properties.hostile_vtd import VTD_MOVES
from tests.properties.isolation import CENTRES, TENANCY, TIME, TWO_MEANINGS
from tests.properties.isolation_mutants import MUTANTS, PATIENT, PLAIN, caught
from tests.properties.isolation_nightly import live, main
from tests.properties.isolation_programs import HONEST_MOVES

COURSE = settings(
    max_examples=60, stateful_step_count=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
WORLDS = 16
"""In how many worlds a planted bug has to be found."""
UNENFORCED = range(6)
EVERYWHERE = {
    **dict.fromkeys(HONEST_MOVES, 5),
    **dict.fromkeys(TENANCY, 5),
    "run_one": 50,
    "run_all": 5,
    "travel": 5,
    "honest bytes": 3000,
    "answered by hand": 3,
    "event trap": 200,
    "event page-request": 20,
    "event fault": 5,
    "event reclaim": 20,
}
NEEDED = {
    "vtd": {
        **dict.fromkeys(VTD_MOVES, 1),
        **EVERYWHERE,
        "policy identity": 5,
        "policy translated": 5,
        "policy refuse": 5,
        "event reclaim": 50,
    },
    "smmuv3": {**dict.fromkeys(TABLE_MOVES, 1), **EVERYWHERE, "travel": 2},
    "amdvi": {**dict.fromkeys(TABLE_MOVES, 1), **EVERYWHERE, "travel": 2},
}
"""How often each of these has to occur for the courses to mean anything."""


NUMBERS = st.integers(0, 1 << 32)


class AnyTenants(RuleBasedStateMachine):
    """Who acts is a rule, what they do and how comes out of a number."""

    seen: ClassVar[Counter[str]] = Counter()
    iommu: ClassVar[str]

    @initialize(seed=NUMBERS)
    def open_up(self, seed):
        """A world of its own."""
        self.centre = CENTRES[self.iommu](seed, self.seen)

    def do(self, moves, seed):
        """One checked step of these kinds. (The same number means something else at another time.)"""
        self.seen["steps"] += 1
        self.centre.r.seed(f"{seed} at {self.centre.steps}")
        self.centre.step(self.centre.draw(moves))

    @rule(seed=NUMBERS)
    def a_hostile_guest_acts(self, seed):
        """Any register, any number, any table, any portal, in any order."""
        self.do(self.centre.evil, seed)

    @rule(seed=NUMBERS)
    def another_hostile_guest_acts(self, seed):
        """Most steps are theirs."""
        self.do(self.centre.evil, seed)

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


class AnyVtdTenants(AnyTenants):
    """On VT-d."""

    iommu = "vtd"


class AnySmmuTenants(AnyTenants):
    """On SMMUv3."""

    iommu = "smmuv3"


class AnyAmdTenants(AnyTenants):
    """On AMD's IOMMU."""

    iommu = "amdvi"


@pytest.mark.parametrize("tenants", [AnyVtdTenants, AnySmmuTenants, AnyAmdTenants], ids=lambda one: one.iommu)
def test_whatever_hostile_guests_do_in_any_order_nobody_else_is_reached(tenants, record_property):
    """All rules, a second opinion and the bytes of the honest, after each step; no number gets a second meaning."""
    tenants.seen.clear()
    run_state_machine_as_test(tenants, settings=COURSE)
    seen = tenants.seen
    counted = f"{seen['steps']:,} steps of hostile guests on {tenants.iommu} in any order, each checked"
    record_property("counted", f"{counted}: 0 isolation failures")
    record_property("seen", dict(sorted(seen.items())))
    assert {what: seen[what] for what, least in NEEDED[tenants.iommu].items() if seen[what] < least} == {}
    assert not seen[TWO_MEANINGS]


def test_where_nobody_enforces_a_policy_numbers_get_two_meanings_and_still_nobody_else_is_reached(record_property):
    """Rule 14 names what happens; memory of other VMs and of the host stays out of reach."""
    seen = Counter[str]()
    for world in UNENFORCED:
        one = live((world, 100, ("unenforced",), "vtd"))
        assert not one.failure, one.failure
        seen += one.seen
    said = f"{100 * len(UNENFORCED):,} steps without a policy, {seen[TWO_MEANINGS]:,} with a number of two meanings"
    record_property("counted", f"{said}: 0 isolation failures")
    record_property("seen", dict(sorted(seen.items())))
    assert seen[TWO_MEANINGS] > 20


def planted(which):
    """The planted bugs of each IOMMU that ``which`` wants, with its name."""
    return [
        pytest.param(mutant, iommu, id=f"{iommu}-{mutant.__name__}")
        for iommu, mutants in MUTANTS.items()
        for mutant in mutants
        if which(mutant)
    ]


@pytest.mark.parametrize(("mutant", "iommu"), planted(lambda mutant: mutant not in PATIENT))
def test_a_planted_bug_is_found(mutant, iommu):
    """Within a bounded number of steps something is wrong that is not wrong without it."""
    assert caught(mutant, iommu, worlds=WORLDS) is not None


@pytest.mark.parametrize(("mutant", "iommu"), planted(lambda mutant: mutant in PLAIN))
def test_a_planted_bug_is_found_without_the_rules_of_the_package(mutant, iommu):
    """The second opinion and the bytes of the honest see by themselves what reaches somebody else."""
    assert caught(mutant, iommu, worlds=WORLDS, rules=False) is not None


@pytest.mark.parametrize("iommu", MUTANTS)
def test_without_a_planted_bug_nothing_is_found(iommu):
    """The same worlds are sound: what is found there is found because of the bug."""
    assert caught(lambda stack: None, iommu, worlds=WORLDS) is None


def test_the_nightly_mode_counts_its_steps_and_says_how_it_ended(capsys):
    """Steps, speed, moves, what came of them, worlds, failures."""
    assert main(["--steps", "40", "--jobs", "1", "--life", "20"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("vtd: 40 steps in 2 worlds")
    assert told.endswith("0 isolation failures\n")


def test_the_nightly_mode_names_the_world_that_failed(capsys):
    """The last moves, and the line that shows it again."""
    with ExitStack() as stack:
        MUTANTS["vtd"][0](stack)
        assert main(["--steps", "3000", "--jobs", "1", "--life", "150"]) == 1
    told = capsys.readouterr().err
    assert "invariant 3" in told
    assert "See it again: make nightly IOMMU=vtd REPLAY=" in told
