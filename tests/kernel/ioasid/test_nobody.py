"""No token, no set, and handlers that break: the core stays whole."""

import pytest

from pasidlab.kernel.ioasid.core import IoasidRefused
from pasidlab.kernel.ioasid.notifier import IoasidEvent, Priority
from pasidlab.kernel.ioasid.record import State


def test_no_token_finds_no_set(bench):
    """The host's set has no token, but it is no set of type MM."""
    bench.core.sets.alloc("host", None, 4)
    assert bench.core.sets.find_mm(None) is None


def test_nobody_registers_by_no_mm(bench, make_listener):
    """-EINVAL, as in v2 and v3; the host's chain stays empty."""
    host = bench.core.sets.alloc("host", None, 4)
    assert bench.errno(bench.core.notifiers.register_mm, None, make_listener("x")) == "EINVAL"
    assert host.chain.subscribers() == []


def test_no_set_gets_no_id(bench):
    """INVALID_IOASID."""
    with pytest.raises(IoasidRefused, match="must belong to an ioasid_set"):
        bench.core.alloc(None, 1, 9, "vfio")


@pytest.mark.parametrize("broken", ["a mistake of Python", "a put of what is not held"])
def test_a_handler_that_breaks_leaves_a_free_pending_id_that_can_drain(bench, broken):
    """The mistake comes out, the allocator's reference is dropped all the same, and the last put reclaims."""
    the_set = bench.set()

    def mistake(payload):
        if broken == "a mistake of Python":
            raise ZeroDivisionError
        bench.core.put_locked(payload.ioasid, "nobody")

    bench.listen("bad", Priority.CPU, react={IoasidEvent.FREE: mistake})
    number = bench.alloc(the_set)
    bench.core.get(number, "user")
    with pytest.raises((ZeroDivisionError, ValueError)):
        bench.core.free(the_set, number)
    assert (bench.core.ids[number].state, bench.core.ids[number].holders) == (State.FREE_PENDING, ("user",))
    assert bench.core.lock.handler is None
    assert bench.core.put(number, "user")
    assert bench.core.alloc(the_set, number, number, "vfio") == number
