"""The journal: undo, redo and the digest, compared with a plain dict that remembers everything by copying."""

from functools import reduce
from operator import xor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.timeline import ABSENT, Part, Table, Timeline
from pasidlab.timeline.encoding import cell_hash

keys = st.sampled_from("abcd")
changes = st.tuples(st.just("set"), keys, st.integers(0, 3)) | st.tuples(st.just("del"), keys)
moves = st.tuples(st.just("seek"), st.floats(0, 1)) | st.tuples(st.just("digest"))


def naive_digest(path, cells):
    """The definition: the exclusive or of one hash a cell."""
    return f"{reduce(xor, (cell_hash(path, key, value) for key, value in cells.items()), 0):032x}"


class Twin:
    """A journaled table beside its whole history as copies of a dict."""

    def __init__(self):
        self.time = Timeline()
        self.table = Table[Any, Any](self.time, "t")
        self.past: list[dict[Any, Any]] = [{}]
        self.future: list[dict[Any, Any]] = []

    def do(self, step):
        journal = self.time.journal
        if step[0] == "digest":
            assert journal.digest() == naive_digest("t", self.past[-1])
        elif step[0] == "seek":
            every = self.past + self.future
            position = round(step[1] * (len(every) - 1))
            journal.seek(position)
            self.past, self.future = every[: position + 1], every[position + 1 :]
        else:
            self.change(*step)

    def change(self, what, key, value=None):
        state = dict(self.past[-1])
        if what == "del" and key not in state:
            return
        self.time.journal.forget_future()
        self.future = []
        before = self.time.journal.position
        if what == "set":
            self.table[key] = state[key] = value
        else:
            del self.table[key], state[key]
        if self.time.journal.position > before:
            self.past.append(state)


@given(st.lists(changes | moves, max_size=40))
def test_any_course_of_changes_and_travels_matches_copies_of_a_dict(steps):
    """Undo, redo and the incremental digest agree with a twin that copies its whole state at every change."""
    twin = Twin()
    for step in steps:
        twin.do(step)
        assert dict(twin.table.items()) == twin.past[-1]
        assert twin.time.journal.position == len(twin.past) - 1
    assert twin.time.journal.digest() == naive_digest("t", twin.past[-1])


def test_the_digest_does_not_depend_on_the_way():
    """Two histories that lead to the same state have the same digest."""
    one, other = Timeline(), Timeline()
    first, second = Table[Any, Any](one, "t"), Table[Any, Any](other, "t")
    first[1], first[2] = "x", "y"
    second[2], second[1], second[3] = "z", "x", "w"
    del second[3]
    second[2] = "y"
    assert one.digest() == other.digest()
    second[2] = "x"
    assert one.digest() != other.digest()


def test_a_world_that_gave_everything_back_has_the_digest_of_an_empty_one():
    """What was deleted leaves no trace."""
    time = Timeline()
    empty = time.digest()
    table = Table[Any, Any](time, "t")
    table[1] = 1
    assert time.digest() != empty
    del table[1]
    assert time.digest() == empty


def test_setting_a_cell_to_the_value_that_it_has_records_nothing():
    """A change that changes nothing is not a change."""
    time = Timeline()
    table = Table[Any, Any](time, "t")
    table[1] = None
    table[1] = None
    assert time.journal.position == 1


@pytest.mark.parametrize("position", [-1, 3])
def test_a_position_outside_the_journal_is_refused(position):
    """Seeking names the range that it expects."""
    time = Timeline()
    table = Table[Any, Any](time, "t")
    table[1] = table[2] = 0
    with pytest.raises(ValueError, match=f"between 0 and 2, not {position}"):
        time.journal.seek(position)


def test_a_change_record_tells_container_key_old_and_new():
    """One record has everything that undo and a highlight need."""
    time = Timeline()
    table = Table[Any, Any](time, "t")
    table["k"] = 1
    table["k"] = 2
    del table["k"]
    assert time.journal.changes(0) == [(table, "k", ABSENT, 1), (table, "k", 1, 2), (table, "k", 2, ABSENT)]


class Lamp(Part, state=("lit",)):
    """Something that can be on."""

    def __init__(self, time, path):
        super().__init__(time, path)
        self.lit = True
        self.uses = Table[Any, Any](time, f"{path}.uses")


def test_burying_deletes_the_cells_of_a_part_and_of_all_below_it_and_of_nothing_beside_it():
    """Paths decide: lamp and lamp.uses are buried, lamp2 is not."""
    time = Timeline()
    beside = Lamp(time, "lamp2")
    before = time.digest()
    lamp = Lamp(time, "lamp")
    lamp.uses[1] = 1
    time.journal.bury("lamp")
    assert time.digest() == before
    assert lamp.retired
    assert not len(lamp.uses)
    assert beside.lit


def test_a_burial_can_be_undone():
    """It is a change like any other."""
    time = Timeline()
    lamp = Lamp(time, "lamp")
    lamp.uses[1] = 1
    position, digest = time.journal.position, time.digest()
    time.journal.bury("lamp")
    time.journal.seek(position)
    assert lamp.lit
    assert lamp.uses[1] == 1
    assert time.digest() == digest
