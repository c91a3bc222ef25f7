"""The bitmap against a plain set: lowest free number first, in any range, across the borders of its words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.kernel.bitmap import Bitmap
from pasidlab.timeline import Timeline

LIMIT = 2100  # two full words and a bit of a third


def naive_find(taken, minimum, maximum):
    """The definition."""
    return next((number for number in range(minimum, min(maximum, LIMIT - 1) + 1) if number not in taken), None)


def naive_run(taken, length, align):
    """The lowest aligned run; a run may not cross the border of a 1,024-bit word."""
    for first in range(0, LIMIT - length + 1, align):
        if first // 1024 == (first + length - 1) // 1024 and not taken & set(range(first, first + length)):
            return first
    return None


numbers = st.integers(0, LIMIT - 1) | st.sampled_from((0, 1, 1022, 1023, 1024, 2047, 2048, 2099))
ranges = st.tuples(st.just("range"), numbers, st.integers(0, 1100))
steps = st.lists(st.tuples(st.just("flip"), numbers) | ranges, max_size=12)


def apply(bitmap, taken, step):
    """Flip one number, or take a whole range."""
    if step[0] == "range":
        for number in set(range(step[1], min(LIMIT, step[1] + step[2]))) - taken:
            bitmap.take(number)
            taken.add(number)
    elif step[1] in taken:
        bitmap.release(step[1])
        taken.remove(step[1])
    else:
        bitmap.take(step[1])
        taken.add(step[1])


@settings(deadline=None)
@given(steps, st.lists(st.tuples(numbers, st.integers(0, LIMIT + 50)), min_size=5, max_size=5))
def test_the_bitmap_finds_what_a_set_finds(steps, questions):
    """Any mix of takes and releases: same lowest free number in every range, same membership, same count."""
    bitmap, taken = Bitmap(Timeline(), "b", LIMIT), set[int]()
    for step in steps:
        apply(bitmap, taken, step)
    assert bitmap.count == len(taken)
    for minimum, maximum in questions:
        assert bitmap.find(minimum, maximum) == naive_find(taken, minimum, maximum)
        assert (minimum in bitmap) == (minimum in taken)


@settings(deadline=None)
@given(steps, st.integers(1, 40), st.sampled_from((1, 2, 8, 32, 64)))
def test_runs_are_the_lowest_that_fit(steps, length, align):
    """An aligned run of free numbers, lowest first."""
    bitmap, taken = Bitmap(Timeline(), "b", LIMIT), set[int]()
    for step in steps:
        apply(bitmap, taken, step)
    assert bitmap.find_run(length, align) == naive_run(taken, length, align)


def test_a_bitmap_that_was_emptied_has_the_digest_of_a_fresh_one():
    """A word of zero is not stored."""
    time = Timeline()
    bitmap = Bitmap(time, "b", LIMIT)
    fresh = time.digest()
    for number in range(LIMIT):
        bitmap.take(number)
    assert bitmap.find(0, LIMIT) is None
    for number in range(LIMIT):
        bitmap.release(number)
    assert time.digest() == fresh


@pytest.mark.parametrize("number", [5, LIMIT, LIMIT + 1024])
def test_taking_twice_or_beyond_the_limit_is_a_mistake(number):
    """A number must be free and below the limit."""
    bitmap = Bitmap(Timeline(), "b", LIMIT)
    bitmap.take(5)
    with pytest.raises(ValueError, match=f"{number} must be free and below {LIMIT}"):
        bitmap.take(number)
    assert bitmap.count == 1


def test_releasing_a_free_number_is_a_mistake():
    """Double free is found."""
    with pytest.raises(ValueError, match="7 must be taken"):
        Bitmap(Timeline(), "b", LIMIT).release(7)
