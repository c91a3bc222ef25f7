"""Custom allocators: they take precedence, in order of registration, and only while no ID is out (facts 1.10)."""

import pytest

from pasidlab.kernel.ioasid.core import IoasidRefused


class Fixed:
    """An allocator that answers from a list."""

    refusal = "the list is empty"

    def __init__(self, *answers, path="fixed"):
        self.path = path
        self.answers = list(answers)
        self.freed = []

    def alloc(self, minimum, maximum):
        return self.answers.pop(0) if self.answers else None

    def free(self, ioasid):
        self.freed.append(ioasid)


def register(bench, allocator):
    """As the core's users do it."""
    bench.core.allocators.register(allocator, len(bench.core.ids))


def test_a_custom_allocator_takes_precedence_and_the_range_is_its_own_affair(bench):
    """A guest's numbers come from the host; its kernel does not check them against the range."""
    register(bench, Fixed(20, 3))
    the_set = bench.set()
    assert [bench.alloc(the_set, 1, 5), bench.alloc(the_set, 1, 5)] == [20, 3]


def test_a_reclaimed_id_goes_back_to_the_allocator_that_gave_it(bench):
    """Free reaches the custom allocator, once, at reclaim."""
    allocator = Fixed(20)
    register(bench, allocator)
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.get(number, "user")
    bench.core.free(the_set, number)
    assert allocator.freed == []
    bench.core.put(number, "user")
    assert allocator.freed == [20]


def test_an_allocator_without_numbers_refuses_in_its_own_words(bench):
    """INVALID_IOASID, with the reason."""
    register(bench, Fixed())
    with pytest.raises(IoasidRefused, match="the list is empty"):
        bench.alloc(bench.set())


def test_a_duplicate_answer_is_given_back_and_refused(bench):
    """The core stores the ID itself and finds that it is out."""
    allocator = Fixed(20, 20)
    register(bench, allocator)
    the_set = bench.set()
    bench.alloc(the_set)
    with pytest.raises(IoasidRefused, match="20, which is already out"):
        bench.alloc(the_set)
    assert allocator.freed == [20]
    assert the_set.count == 1


def test_registering_while_ids_are_out_is_eagain(bench):
    """The default allocator would never get them back."""
    the_set = bench.set()
    number = bench.alloc(the_set)
    allocator = Fixed(20)
    assert bench.errno(register, bench, allocator) == "EAGAIN"
    bench.core.free(the_set, number)
    register(bench, allocator)
    assert bench.alloc(the_set) == 20


def test_registering_the_same_object_twice_is_eexist(bench):
    """Each once."""
    allocator = Fixed(20)
    register(bench, allocator)
    assert bench.errno(register, bench, allocator) == "EEXIST"


def test_the_first_registered_allocator_stays_active(bench):
    """Later ones wait."""
    register(bench, Fixed(20, path="first"))
    register(bench, Fixed(30, path="second"))
    assert bench.alloc(bench.set()) == 20
