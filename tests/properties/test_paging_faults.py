"""Every allocation of page-request work is refused once, in host and guest: nothing leaks, the second try succeeds."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.memory import PAGE_SIZE
from tests.properties.paging import PLACES, DataCentre

OPERATIONS = ("bind", "plug", "copy", "free and copy")


def allocators(centre, place):
    """Whose pages and small allocations may be refused."""
    kernels = {"host": centre.m.kernel} | ({} if place == "host" else {"guest": centre.m.vm(place).kernel})
    return {
        **{f"{name} pages": kernel.pages.slab for name, kernel in kernels.items()},
        **{f"{name} slab": kernel.ioasid.slab for name, kernel in kernels.items()},
    }


def prepare(place):
    """A data centre with a program that is bound, and memory of both kinds."""
    centre = DataCentre()
    program = centre.spawn(place)
    src, dst = centre.allocate(program, 1, populate=True), centre.allocate(program, 2)
    return centre, program, src, dst


def act(centre, program, place, src, dst, what):
    """One operation; whether it did what was asked."""
    if what == "bind":
        centre.end(centre.spawn(place))
        return True
    if what == "plug":
        centre.m.plug_accelerator("dsa9")
        return True
    if what == "free and copy":
        gone = centre.allocate(program, 1)
        centre.free(program, gone)
    outcome = program.app.copy(program.device, src, dst + PAGE_SIZE - 8, 16, block_on_fault=True)
    return outcome.ok


def sweep(place, whose, what):
    """Refuse the 1st, 2nd, ... request of an allocator until none is refused; returns how many there are."""
    for nth in range(1, 60):
        centre, program, src, dst = prepare(place)
        slab = allocators(centre, place)[whose]
        with centre.m.timeline.operation("fail"):
            slab.fail_nth = nth
        try:
            done = act(centre, program, place, src, dst, what)
        except KernelError:
            done = False
        with centre.m.timeline.operation("no failure"):
            missed, slab.fail_nth = slab.fail_nth, 0
        centre.m.run()
        centre.check()
        while len(centre.programs) > 1:
            centre.end(centre.programs[-1])
        if missed and done:
            return nth - 1
        if what != "plug":
            assert act(centre, program, place, src, dst, what), nth
            centre.close()
    raise AssertionError(f"{what} asks without end")


@pytest.mark.parametrize("what", OPERATIONS)
@pytest.mark.parametrize("place", PLACES)
def test_no_refused_allocation_leaks_anything(place, what, record_property):
    """Bytes arrive or the copy says why not; afterwards invariants hold, everything comes back, the next try works."""
    centre, *_ = prepare(place)
    points = {whose: sweep(place, whose, what) for whose in allocators(centre, place)}
    record_property("fault points", points)
    if what == "copy":
        assert points["host pages" if place == "host" else "guest pages"] >= 2
    if what == "plug":
        assert points["host pages"] >= 2
