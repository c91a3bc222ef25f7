"""Custom allocators: they take precedence, in order of registration, and only while no ID is out (facts 1.10)."""

import pytest

from pasidlab.kernel.ioasid.core import IoasidRefused
from pasidlab.timeline import Verb


class Other:
    """An allocator with other functions."""

    refusal = "it never has a number"
    path = "other"

    def alloc(self, minimum, maximum):
        return None

    def free(self, ioasid):
        """Nothing comes back, for nothing was given."""


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
    bench.core.register_allocator(allocator)
    return allocator


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
    """Later ones wait, in their order."""
    register(bench, Fixed(20, path="first"))
    register(bench, Other())
    assert bench.alloc(bench.set()) == 20
    assert bench.core.allocators.active.path == "first"
    assert [[ops.path for ops in entry] for entry in bench.core.allocators.entries()] == [["first"], ["other"]]


def test_allocators_with_the_same_functions_share_one_entry(bench):
    """And one space of numbers; the first of them serves."""
    register(bench, Fixed(20, 21, path="first"))
    register(bench, Other())
    register(bench, Fixed(30, path="again"))
    assert [[ops.path for ops in entry] for entry in bench.core.allocators.entries()] == [["first", "again"], ["other"]]
    assert bench.alloc(bench.set()) == 20


def test_another_may_join_or_wait_while_ids_are_out(bench):
    """Only the first custom allocator must come before the first ID."""
    register(bench, Fixed(20, path="first"))
    bench.alloc(bench.set())
    register(bench, Fixed(path="again"))
    register(bench, Other())
    assert len(bench.core.allocators.entries()) == 2


def test_registering_the_same_object_twice_is_eexist_whether_it_serves_joins_or_waits(bench):
    """Each once, with IDs out or not."""
    for allocator in (Fixed(20), Fixed(30), Other()):
        register(bench, allocator)
        assert bench.errno(bench.core.register_allocator, allocator) == "EEXIST"


def test_without_memory_nobody_is_registered(bench):
    """-ENOMEM; the default allocator goes on."""
    bench.core.slab.fail_nth = 1
    with pytest.raises(Exception, match="ENOMEM"):
        register(bench, Fixed(20))
    assert bench.core.allocators.active is bench.core.allocators.default
    assert bench.alloc(bench.set()) == 1


def test_when_the_active_one_goes_the_next_in_order_becomes_active_and_at_last_the_default(bench):
    """Hot unplug of the units, one by one."""
    first, other, again = (
        register(bench, Fixed(20, path="first")),
        register(bench, Other()),
        register(bench, Fixed(30, path="again")),
    )
    served = []
    for gone in (first, again, other):
        bench.core.unregister_allocator(gone)
        served.append(bench.core.allocators.active.path)
    assert served == ["again", "other", "k.ioasid.allocators.default"]
    assert bench.alloc(bench.set()) == 1


def test_one_of_several_with_the_same_functions_may_go_while_ids_are_out(bench):
    """They share the numbers, so the IDs still have an allocator, which gets them back."""
    first, again = register(bench, Fixed(20, path="first")), register(bench, Fixed(30, path="again"))
    the_set = bench.set()
    number = bench.alloc(the_set)
    bench.core.unregister_allocator(first)
    assert number in bench.core.ids
    assert bench.alloc(the_set) == 30
    bench.core.free_all(the_set)
    assert again.freed == [20, 30]


def test_the_last_one_must_not_go_while_ids_are_out(bench):
    """-EBUSY; the kernel only warned, and orphaned the IDs."""
    allocator = register(bench, Fixed(20))
    register(bench, Other())
    the_set = bench.set()
    number = bench.dying(the_set)
    assert bench.errno(bench.core.unregister_allocator, allocator) == "EBUSY"
    bench.core.put(number, "user")
    bench.core.unregister_allocator(allocator)
    assert bench.core.allocators.active.path == "other"


def test_one_that_waits_may_go_at_any_time(bench):
    """No ID is its own."""
    register(bench, Fixed(20, path="first"))
    other = register(bench, Other())
    bench.alloc(bench.set())
    bench.core.unregister_allocator(other)
    assert bench.core.allocators.active.path == "first"


def test_unregistering_what_is_not_registered_is_ignored_with_an_event(bench):
    """Nobody at all, or somebody else of the same kind."""
    for _ in range(2):
        bench.unchanged(bench.core.unregister_allocator, Fixed(path="stranger"))
        bench.core.register_allocator(Fixed(20))
    assert [subject for _, subject in bench.verbs(Verb.IGNORE)] == ["stranger is not registered as an allocator"] * 2


def test_private_data_works_the_same_with_a_custom_allocator(bench):
    """It is the core that keeps it."""
    register(bench, Fixed(20))
    thing = bench.tokens["mm3"]
    number = bench.core.alloc(bench.set(), 1, 5, "owner", private=thing)
    assert bench.core.find(number) is thing
    bench.core.detach_data(number)
    bench.core.attach_data(number, bench.tokens["mm2"])
    assert bench.core.find(number) is bench.tokens["mm2"]
