"""A kernel's small allocations can fail when somebody asks for it: the nth request, once."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.kernel.slab import Slab
from pasidlab.timeline import Timeline


@pytest.fixture
def slab():
    """A slab that never fails by itself."""
    return Slab(Timeline(), "slab")


def outcomes(slab, count):
    """What ``count`` requests get."""
    found = []
    for at in range(count):
        try:
            slab.alloc(f"thing {at}")
        except KernelError as error:
            found.append(f"-{error.name}")
        else:
            found.append("ok")
    return found


def test_nothing_fails_by_itself(slab):
    """And asking leaves no trace."""
    before = slab.timeline.digest()
    assert outcomes(slab, 5) == ["ok"] * 5
    assert slab.timeline.digest() == before


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_the_nth_request_fails_and_the_next_ones_do_not(slab, nth):
    """fail-nth of Linux: armed once, fires once; then the world is as before."""
    before = slab.timeline.digest()
    slab.fail_nth = nth
    assert outcomes(slab, 4) == ["-ENOMEM" if at == nth - 1 else "ok" for at in range(4)]
    assert (slab.fail_nth, slab.timeline.digest()) == (0, before)


def test_the_failure_names_what_was_wanted(slab):
    """So that a student sees which of the requests it was."""
    slab.fail_nth = 1
    with pytest.raises(KernelError, match="-ENOMEM: no memory for struct ioasid_set"):
        slab.alloc("struct ioasid_set")


def test_an_armed_failure_travels_in_time(slab):
    """It is part of the state: undone, the failure is still to come."""
    slab.fail_nth = 2
    position = slab.timeline.journal.position
    assert outcomes(slab, 2) == ["ok", "-ENOMEM"]
    slab.timeline.journal.seek(position)
    assert outcomes(slab, 2) == ["ok", "-ENOMEM"]
