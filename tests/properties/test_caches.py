"""Cached and uncached walks agree whenever the required invalidations were made; and each kind of them is required."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.properties.table_edits import KINDS, Software

EDITS = (*["process"] * 5, *["domain"] * 4, *["entry"] * 4, "context", "directory", "root")
COURSES = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
SEEDS = 40


class Edits(RuleBasedStateMachine):
    """Somebody edits tables and tells the unit; nobody ever notices that it has caches."""

    sent: ClassVar[Counter[str]] = Counter()
    answers: ClassVar[Counter[str]] = Counter()

    @initialize(seed=st.integers(0, 999), caching_mode=st.booleans())
    def build(self, seed, caching_mode):
        """Tables, and caches that are warm."""
        self.software = Software(seed, caching_mode=caching_mode)
        for number in range(30):
            self.software.compare(Random(number))

    @rule(what=st.sampled_from(EDITS), number=st.integers(0, 1 << 32))
    def edit(self, what, number):
        """An edit of some table; then requests."""
        self.software.step(what, number)

    def teardown(self):
        """Count what was needed."""
        if hasattr(self, "software"):
            self.sent.update(self.software.sent)
            self.answers.update(self.software.answers)


def test_with_the_required_invalidations_nobody_notices_the_caches(record_property):
    """Every kind of invalidation was needed, and most requests met a cache."""
    Edits.sent.clear()
    Edits.answers.clear()
    run_state_machine_as_test(Edits, settings=COURSES)
    record_property("sent", dict(Edits.sent))
    record_property("answers", dict(Edits.answers))
    assert {kind for kind in KINDS if not Edits.sent[kind]} == set()
    assert Edits.answers["from a cache"] > 2000
    assert Edits.answers["translated"] > 500


def course(seed, omits, caching_mode):
    """A course of edits in which one kind of invalidation is left out."""
    software, random = Software(seed, omits=omits, caching_mode=caching_mode), Random(seed)
    for number in range(40):
        software.compare(Random(number))
    for _ in range(40):
        software.step(random.choice(EDITS), random.getrandbits(32))


def found_out(omits, caching_mode):
    """How many courses it takes until a stale answer is given; ``None`` if there is none."""
    for seed in range(SEEDS):
        try:
            course(seed, omits, caching_mode)
        except AssertionError:
            return seed + 1
    return None


@pytest.mark.parametrize("caching_mode", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_invalidation_is_missed_when_it_is_left_out(kind, caching_mode, record_property):
    """The comparison finds a stale answer; so it would find a unit that forgets too little."""
    courses = found_out(kind, caching_mode)
    record_property("courses", courses)
    assert courses is not None


def test_nothing_is_missed_when_nothing_is_left_out():
    """The same courses, complete."""
    for caching_mode in (False, True):
        for seed in range(6):
            course(seed, "", caching_mode)
