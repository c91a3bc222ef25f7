"""Capacity: a count that is divided, not a bound on the numbers themselves (facts 1.7)."""

import pytest

from pasidlab.kernel.ioasid.capacity import PCIE_CAPACITY
from pasidlab.kernel.ioasid.core import IoasidCore
from pasidlab.timeline import Agenda, Timeline, Verb


@pytest.fixture
def capacity(bench):
    """The 32 IOASIDs of the bench."""
    return bench.core.capacity


def counts(capacity):
    """Total, available, reserved."""
    return capacity.total, capacity.available, capacity.reserved


def test_the_default_is_the_pcie_pasid_space():
    """20 bits."""
    time = Timeline()
    assert IoasidCore(time, "ioasid", "host", Agenda(time)).capacity.total == PCIE_CAPACITY == 1 << 20


def test_installing_sets_the_total_and_what_is_left(capacity, bench):
    """And an event says so."""
    assert capacity.install(20) is True
    assert counts(capacity) == (20, 20, 0)
    assert bench.verbs(Verb.INSTALL) == [(Verb.INSTALL, "capacity")]


def test_installing_does_not_forget_what_is_promised(capacity, bench):
    """The code of 2021 made everything available again."""
    bench.set(quota=8)
    capacity.reserve(4)
    assert capacity.install(20) is True
    assert counts(capacity) == (20, 8, 4)


def test_a_second_installation_is_ignored_with_an_event(capacity, bench):
    """Also of the very same number, and also after the default was installed (the code could not tell)."""
    capacity.install(32)
    for total in (32, 64):
        assert bench.unchanged(capacity.install, total) is False
    assert [subject for _, subject in bench.verbs(Verb.IGNORE)] == [
        "capacity 32: it was installed before",
        "capacity 64: it was installed before",
    ]


def test_less_than_is_in_use_is_not_installed(capacity, bench):
    """Promises are kept; later, with less promised, it works."""
    the_set = bench.set(quota=8)
    assert bench.unchanged(capacity.install, 7) is False
    assert bench.verbs(Verb.IGNORE) == [(Verb.IGNORE, "capacity 7: 8 are promised already")]
    bench.core.sets.free(the_set)
    assert capacity.install(7) is True


@pytest.mark.parametrize("total", [0, -1])
def test_a_capacity_below_1_is_einval(capacity, bench, total):
    """There is hardware, or nobody calls this."""
    assert bench.errno(capacity.install, total) == "EINVAL"


def test_reserving_takes_from_what_is_available_and_answers_how_many(capacity):
    """Not how many remain, as the comment in the source has it."""
    assert capacity.reserve(5) == 5
    assert counts(capacity) == (32, 27, 5)


def test_reserving_0_takes_all_that_is_left(capacity, bench):
    """As for the quota of a set."""
    bench.set(quota=8)
    assert capacity.reserve(0) == 24
    assert counts(capacity) == (32, 0, 24)
    assert capacity.reserve(0) == 0
    assert bench.errno(bench.set, "mm2", 1) == "ENOSPC"


def test_reserving_more_than_is_left_is_enospc_and_a_negative_number_einval(capacity, bench):
    """Nothing is reserved then."""
    bench.set(quota=30)
    assert bench.errno(capacity.reserve, 3) == "ENOSPC"
    assert bench.errno(capacity.reserve, -1) == "EINVAL"
    assert capacity.reserve(2) == 2


def test_cancelling_gives_back_and_answers_what_is_available_then(capacity):
    """Part by part."""
    capacity.reserve(5)
    assert capacity.cancel(2) == 29
    assert capacity.cancel(0) == 29
    assert capacity.cancel(3) == 32
    assert counts(capacity) == (32, 32, 0)


def test_only_what_was_reserved_can_be_cancelled(capacity, bench):
    """-EINVAL; the code trusted its caller up to the capacity, and so gave a set's quota away twice."""
    bench.set(quota=8)
    capacity.reserve(5)
    assert bench.errno(capacity.cancel, 6) == "EINVAL"
    assert bench.errno(capacity.cancel, -1) == "EINVAL"


def test_numbers_are_bounded_by_the_callers_range_and_not_by_the_capacity(make_bench):
    """A capacity of 2 IOASIDs may be number 5 and number 4,000,000,000."""
    bench = make_bench(capacity=2)
    the_set = bench.set(quota=2)
    assert bench.alloc(the_set, 5, 5) == 5
    assert bench.alloc(the_set, 4_000_000_000, 0xFFFF_FFFF) == 4_000_000_000
