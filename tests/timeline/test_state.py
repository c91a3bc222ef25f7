"""Parts and tables: state is recorded, wiring is set once, the dead cannot be read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.timeline import Part, Table, Timeline


class Door(Part, state=("note", "open")):
    """A part with state and wiring."""

    note: str

    def __init__(self, time, path="door"):
        super().__init__(time, path)
        self.colour = "red"
        self.open = False


class Gate(Door, state=("lock",)):
    """A subclass adds state to that of its parent."""


def test_wiring_can_be_set_once_only():
    """A change that would escape the journal is an error where it is made, and changes nothing."""
    door = Door(Timeline())
    with pytest.raises(
        AttributeError, match=r"Door\.colour is wiring and is set once; declare it as state to change it"
    ):
        door.colour = "blue"
    assert door.colour == "red"


def test_state_is_recorded_and_travels():
    """Each assignment and deletion is one change; undo restores value and absence."""
    time = Timeline()
    door = Door(time)
    start = time.journal.position
    door.open = True
    door.note = "wet paint"
    del door.note
    assert time.journal.position == start + 3
    time.journal.seek(start + 2)
    assert door.note == "wet paint"
    time.journal.seek(start)
    assert not door.open
    assert not hasattr(door, "note")


def test_a_subclass_has_the_state_of_its_parent_too():
    """Declared names add up."""
    time = Timeline()
    gate = Gate(time)
    start = time.journal.position
    gate.open = True
    gate.lock = 7
    assert time.journal.position == start + 2


def test_reading_a_retired_part_is_an_error_and_writing_its_wiring_still_is():
    """The model's use after free."""
    time = Timeline()
    empty = time.digest()
    door = Door(time)
    door.note = "x"
    door.retire()
    assert door.retired
    assert time.digest() == empty
    with pytest.raises(AttributeError):
        assert door.open


def test_going_back_before_a_retirement_brings_the_part_back_to_life():
    """Death is a change like any other."""
    time = Timeline()
    door = Door(time)
    position = time.journal.position
    door.retire()
    time.journal.seek(position)
    assert not door.retired
    assert door.open is False


def test_going_back_before_a_part_was_made_leaves_it_retired():
    """A handle of something that does not exist yet can tell."""
    time = Timeline()
    door = Door(time)
    time.journal.seek(0)
    assert door.retired


@given(st.dictionaries(st.integers(), st.integers(), max_size=20), st.randoms())
def test_a_table_iterates_in_the_order_of_its_keys_whatever_the_order_of_insertion(content, random):
    """Two histories that lead to the same state behave the same from there on."""
    table = Table[Any, Any](Timeline(), "t")
    order = list(content)
    random.shuffle(order)
    for key in order:
        table[key] = content[key]
    assert list(table) == table.keys() == sorted(content)
    assert table.items() == sorted(content.items())
    assert table.values() == [content[key] for key in sorted(content)]


def test_the_keys_of_a_table_are_a_snapshot():
    """A loop over keys() may change the table."""
    table = Table[Any, Any](Timeline(), "t")
    table[1] = table[2] = table[3] = "x"
    for key in table.keys():
        del table[key]
    assert not len(table)


def test_a_missing_key_is_a_key_error_and_records_nothing():
    """pop and del of what is not there change nothing."""
    time = Timeline()
    table = Table[Any, Any](time, "t")
    for act in (lambda: table.pop(1), lambda: table[1], lambda: table.__delitem__(1)):
        with pytest.raises(KeyError):
            act()
    assert table.get(1) is None
    assert table.get(1, "no") == "no"
    assert time.journal.position == 0
