"""Stable bytes for values: the same in every run, different for different values, and nothing mutable gets in."""

import subprocess
import sys
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.timeline import Part, Timeline
from pasidlab.timeline.encoding import cell_hash, encode

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=8,
)


class Colour(Enum):
    """Something to encode."""

    RED = 1
    BLUE = 2


def typed(value):
    """A value that equals another exactly when type and content agree, all the way down."""
    if isinstance(value, tuple | frozenset):
        return type(value), type(value)(typed(item) for item in value)
    return type(value), value


@given(values, values)
def test_two_values_have_equal_bytes_exactly_when_they_are_equal(one, other):
    """The encoding is one-to-one: the length of every text stands before it."""
    assert (encode(one) == encode(other)) == (typed(one) == typed(other))


def test_a_part_is_encoded_by_its_path_and_a_path_cannot_imitate_a_tuple():
    """A reference to a part is its name; a comma in a name does not split it."""
    time = Timeline()
    odd, plain = Part(time, "a,i1"), Part(time, "a")
    assert encode(odd) == encode(Part(Timeline(), "a,i1"))
    assert encode((odd,)) != encode((plain, 1))


def test_enum_members_are_encoded_by_name():
    """A member is its class and its name, not its value."""
    assert encode(Colour.RED) != encode(Colour.BLUE)
    assert encode(Colour.RED) != encode(1)


@pytest.mark.parametrize("value", [[], {}, set(), bytearray(), object(), 1.5])
def test_a_value_that_could_change_behind_the_journal_is_refused(value):
    """Lists, dicts and the like never enter a digest."""
    with pytest.raises(TypeError, match="must be immutable or have a path, not"):
        encode(value)


def test_the_hash_of_a_cell_names_container_key_and_value():
    """The same value elsewhere is another cell."""
    assert len({cell_hash("a", 1, 2), cell_hash("a", 2, 1), cell_hash("b", 1, 2), cell_hash("a", 1, 3)}) == 4


def test_hashes_are_the_same_in_another_run_of_python():
    """Nothing depends on Python's randomised hashing of text."""
    text = "from pasidlab.timeline.encoding import cell_hash; print(cell_hash('p', frozenset({'x', 'y'}), ('z', 1)))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", text],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == f"{cell_hash('p', frozenset({'x', 'y'}), ('z', 1))}\n".encode()
