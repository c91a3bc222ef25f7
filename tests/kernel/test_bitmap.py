"""The bitmap against a plain set: lowest free number first, in any range, across the borders of words and summaries."""

from contextlib import contextmanager

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pasidlab.kernel import bitmap as module
from pasidlab.kernel.bitmap import Bitmap
from pasidlab.timeline import ABSENT, Timeline

LIMIT = 2100  # two full words and a bit of a third
WHOLE = (1 << 32) - 1  # every ioasid_t but INVALID_IOASID
BORDERS = [1 << 10, 1 << 20, 1 << 30, 2 << 30, 3 << 30, WHOLE]


def naive_find(taken, minimum, maximum, limit=LIMIT):
    """The definition."""
    return next((number for number in range(minimum, min(maximum, limit - 1) + 1) if number not in taken), None)


def naive_run(taken, length, align):
    """The lowest aligned run; a run may not cross the border of a 1,024-bit word."""
    for first in range(0, LIMIT - length + 1, align):
        if first // 1024 == (first + length - 1) // 1024 and not taken & set(range(first, first + length)):
            return first
    return None


@contextmanager
def words_of(shift):
    """Words of ``1 << shift`` bits: as many levels in a tiny space as 1,024 bits give in a huge one."""
    bits = 1 << shift
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ("_SHIFT", shift), ("_BITS", bits), ("_MASK", bits - 1), ("_ALL", (1 << bits) - 1):
            patch.setattr(module, name, value)
        yield


def derived(bitmap):
    """What follows from the cells: a bitmap has it exactly as a fresh one with the same numbers has."""
    return bitmap.count, bitmap._words, bitmap._summaries


def fresh(numbers, limit):
    """A bitmap that only ever took these numbers."""
    bitmap = Bitmap(Timeline(), "b", limit)
    for number in numbers:
        bitmap.take(number)
    return bitmap


numbers = st.integers(0, LIMIT - 1) | st.sampled_from((0, 1, 1022, 1023, 1024, 2047, 2048, 2099))
ranges = st.tuples(st.just("range"), numbers, st.integers(0, 1100))
lowest = st.tuples(st.just("lowest"), numbers, st.integers(0, LIMIT + 50))
steps = st.lists(st.tuples(st.just("flip"), numbers) | ranges | lowest, max_size=12)


def apply(bitmap, taken, step):
    """Flip one number, take the lowest of a range, or take a whole range."""
    if step[0] == "range":
        for number in set(range(step[1], min(LIMIT, step[1] + step[2]))) - taken:
            bitmap.take(number)
            taken.add(number)
    elif step[0] == "lowest":
        number = naive_find(taken, step[1], step[2])
        assert bitmap.take_lowest(step[1], step[2]) == number
        taken |= {number} - {None}
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
@example([("range", 0, 1), ("range", 1024, 1100)], 1024, 1024)
def test_runs_are_the_lowest_that_fit(steps, length, align):
    """An aligned run of free numbers, lowest first."""
    bitmap, taken = Bitmap(Timeline(), "b", LIMIT), set[int]()
    for step in steps:
        apply(bitmap, taken, step)
    assert bitmap.find_run(length, align) == naive_run(taken, length, align)


@settings(deadline=None)
@given(steps, numbers)
def test_a_bitmap_is_a_table_of_the_numbers_taken(steps, number):
    """Each number taken is an item with the value ``True``; the others are not there."""
    bitmap, taken = Bitmap(Timeline(), "b", LIMIT), set[int]()
    for step in steps:
        apply(bitmap, taken, step)
    twin = dict.fromkeys(sorted(taken), True)
    assert (list(bitmap), bitmap.keys(), len(bitmap)) == (list(twin), list(twin), len(twin))
    assert (bitmap.items(), bitmap.values()) == (list(twin.items()), list(twin.values()))
    assert bitmap.get(number) == (number in taken)
    if number in taken:
        assert bitmap[number]
        del bitmap[number]
    else:
        with pytest.raises(KeyError):
            bitmap[number]
        bitmap[number] = True
    assert (number in bitmap) == (number not in taken)
    with pytest.raises(ValueError, match="must be True, not False"):
        bitmap[number] = False


# --- every level ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "limit"), [(1, 8), (1, 7), (1, 1), (2, 9)])
def test_every_state_of_a_tiny_space_answers_every_question(shift, limit):
    """Words of two and four bits under up to two summaries: all subsets, filled and emptied, and all ranges."""
    with words_of(shift):
        for pattern in range(1 << limit):
            taken = {number for number in range(limit) if pattern >> number & 1}
            filled, emptied = fresh(taken, limit), fresh(range(limit), limit)
            for number in set(range(limit)) - taken:
                emptied.release(number)
            assert derived(filled) == derived(emptied)
            assert filled.timeline.digest() == emptied.timeline.digest()
            for minimum in range(limit + 1):
                for maximum in range(limit + 1):
                    assert filled.find(minimum, maximum) == naive_find(taken, minimum, maximum, limit)


@given(st.integers(1, 3), st.integers(1, 70), st.lists(st.integers(0, 69), max_size=200), st.integers(0, 69))
def test_small_words_under_many_summaries_find_what_a_set_finds(shift, limit, flips, minimum):
    """Up to seven levels, of which each is full at some time."""
    with words_of(shift):
        bitmap, taken = Bitmap(Timeline(), "b", limit), set[int]()
        for number in (flip % limit for flip in flips):
            (bitmap.release if number in taken else bitmap.take)(number)
            taken ^= {number}
            assert bitmap.find(minimum, limit) == naive_find(taken, minimum, limit, limit)
        assert derived(bitmap) == derived(fresh(taken, limit))


def test_a_full_summary_leads_to_the_next():
    """A million numbers fill a summary of words and clear one bit above; a number that returns is found at once."""
    limit = (1 << 20) + 5
    bitmap = fresh(range(limit), limit)
    assert bitmap.find(0, limit) is None
    assert [len(level) for level in (bitmap._words, *bitmap._summaries)] == [1025, 1, 1]
    for number in (0, 1023, 1024, (1 << 20) - 1, 1 << 20, limit - 1):
        bitmap.release(number)
        assert bitmap.find(0, limit) == bitmap.find(number, number) == number
        assert bitmap.find(number + 1, limit) is None
        bitmap.take(number)


@pytest.mark.parametrize("border", BORDERS)
def test_the_whole_space_of_an_ioasid_costs_what_is_taken(border):
    """With 2^32 - 1 numbers: the borders of words and summaries, the top included, and memory for what is out only."""
    bitmap = Bitmap(Timeline(), "b", WHOLE)
    assert (bitmap.find(WHOLE - 1, WHOLE), bitmap.find(WHOLE, WHOLE)) == (WHOLE - 1, None)
    first = max(0, border - 1500)
    for number in range(first, border):
        assert bitmap.take_lowest(first, WHOLE) == number
    assert bitmap.find(first, border - 1) is None
    assert bitmap.find(first, 1 << 40) == (border if border < WHOLE else None)
    assert bitmap.find(0, WHOLE) == (0 if border > 1500 else border)
    assert sum(len(level) for level in (bitmap._words, *bitmap._summaries)) <= 8
    with pytest.raises(ValueError, match="must be free and below 4294967295"):
        bitmap.take(WHOLE)


@given(st.lists(st.sampled_from(BORDERS).flatmap(lambda at: st.integers(at - 3, min(at + 3, WHOLE - 1))), max_size=40))
def test_sparse_numbers_are_found_as_in_a_set(flips):
    """Numbers at the borders of every level of the whole space come and go."""
    bitmap, taken = Bitmap(Timeline(), "b", WHOLE), set[int]()
    for number in flips:
        (bitmap.release if number in taken else bitmap.take)(number)
        taken ^= {number}
        for minimum in (number - 3, number, number + 1):
            assert bitmap.find(minimum, number + 5) == naive_find(taken, minimum, number + 5, WHOLE)
    assert derived(bitmap) == derived(fresh(taken, WHOLE))


# --- in time ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(steps, st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_a_bitmap_travels_in_time(steps, trips):
    """At any moment, reached by undo or redo, it is what a fresh one is that took the same numbers."""
    time = Timeline()
    bitmap, taken = Bitmap(time, "b", LIMIT), set[int]()
    moments = [(0, frozenset[int]())]
    for step in steps:
        apply(bitmap, taken, step)
        moments.append((time.journal.position, frozenset(taken)))
    for trip in trips:
        position, then = moments[round(trip * (len(moments) - 1))]
        time.journal.seek(position)
        again = fresh(then, LIMIT)
        assert (list(bitmap), derived(bitmap)) == (sorted(then), derived(again))
        assert time.digest() == again.timeline.digest()


def test_a_number_is_one_record():
    """Taking and releasing write one change each; words, summaries and count follow from it."""
    time = Timeline()
    bitmap = Bitmap(time, "b", LIMIT)
    bitmap.take(1023)
    assert bitmap.take_lowest(1023, 1030) == 1024
    bitmap.release(1023)
    assert time.journal.changes(0) == [
        (bitmap, 1023, ABSENT, True),
        (bitmap, 1024, ABSENT, True),
        (bitmap, 1023, True, ABSENT),
    ]


def test_a_buried_bitmap_is_empty_and_comes_back_by_undo():
    """Burying its path releases every number; going back takes them again."""
    time = Timeline()
    nothing = time.digest()
    bitmap = Bitmap(time, "owner.b", LIMIT)
    for number in (*range(1024), 2000):
        bitmap.take(number)
    full = derived(bitmap)[0], dict(bitmap._words), bitmap._summaries[0].copy()
    position, digest = time.journal.position, time.digest()
    time.journal.bury("owner")
    assert derived(bitmap) == (0, {}, ({},))
    assert time.digest() == nothing
    time.journal.seek(position)
    assert derived(bitmap) == (full[0], full[1], (full[2],))
    assert time.digest() == digest


def test_a_bitmap_that_was_emptied_has_the_digest_of_a_fresh_one():
    """A free number leaves no trace."""
    time = Timeline()
    bitmap = Bitmap(time, "b", LIMIT)
    fresh = time.digest()
    for number in range(LIMIT):
        bitmap.take(number)
    assert bitmap.find(0, LIMIT) is None
    for number in range(LIMIT):
        bitmap.release(number)
    assert time.digest() == fresh
    assert derived(bitmap) == (0, {}, ({},))


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [-1, 5, LIMIT, LIMIT + 1024])
def test_taking_twice_or_beyond_the_limit_is_a_mistake(number):
    """A number must be free and below the limit."""
    bitmap = Bitmap(Timeline(), "b", LIMIT)
    bitmap.take(5)
    with pytest.raises(ValueError, match=f"{number} must be free and below {LIMIT}"):
        bitmap.take(number)
    assert bitmap.count == 1


@pytest.mark.parametrize("number", [-1, 7, LIMIT, LIMIT + 1024])
def test_releasing_a_free_number_is_a_mistake(number):
    """Double free is found."""
    bitmap = Bitmap(Timeline(), "b", LIMIT)
    with pytest.raises(ValueError, match=f"{number} must be taken"):
        bitmap.release(number)
    assert (bitmap.count, bitmap.timeline.journal.position) == (0, 0)


def test_there_are_no_numbers_below_0():
    """A range that starts lower starts at 0."""
    bitmap = Bitmap(Timeline(), "b", 100)
    assert (bitmap.find(-5, 10), bitmap.take_lowest(-5, 10), list(bitmap)) == (0, 0, [0])
    assert bitmap.find(-5, -1) is None
