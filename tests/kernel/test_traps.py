"""A #GP of ENQCMD is mended once, from the PASID of the process (facts of hardware, section 2)."""

import pytest

from pasidlab.hardware.cpu import IA32_PASID
from pasidlab.kernel.traps import fix_up_enqcmd
from pasidlab.timeline import Verb
from tests.worlds import TwoVms, World

VALID = 1 << 31


def forget(app):
    """The state of the process's thread loses its PASID, as that of a thread which was never told."""
    app.process.ia32_pasid = 0


@pytest.mark.parametrize("altitude", ["host", "guest"])
def test_a_thread_that_was_never_told_its_pasid_gets_it_at_its_first_enqcmd(altitude):
    """#GP, the register is loaded from the mm, the instruction runs again; the next ENQCMD needs no help."""
    world = TwoVms()
    if altitude == "guest":
        app, device = world.app1, world.adi1
    else:
        app, device = world.m.spawn("app"), world.dsa
        app.bind(device)
    src, dst = app.buffer(b"x"), app.buffer(1)
    forget(app)
    begin = world.time.now
    assert app.copy(device, src, dst, 1).ok
    assert app.process.ia32_pasid == VALID | app.pasid
    assert app.kernel.platform.cpu.read_msr(IA32_PASID) == VALID | app.pasid
    steps = [event.verb for event in world.since(begin) if event.actor in ("app", "cpu")]
    at = steps.index(Verb.GP_FAULT)
    assert steps[at : at + 4] == [Verb.GP_FAULT, Verb.HANDLE, Verb.WRITE_MSR, Verb.ENQCMD]
    begin = world.time.now
    assert app.copy(device, src, dst, 1).ok
    assert not any(event.verb in (Verb.GP_FAULT, Verb.WRITE_MSR) for event in world.since(begin))


def test_a_process_without_pasid_is_not_mended():
    """Its #GP ends the call, and the register stays invalid."""
    world = World()
    app = world.m.spawn("app")
    assert fix_up_enqcmd(world.m.cpu, app.process) is False
    error = world.refused(app.copy, world.dsa, app.buffer(1), app.buffer(1), 1)
    assert (error.name, "IA32_PASID must be valid" in error.reason) == ("EFAULT", True)
    assert world.m.cpu.read_msr(IA32_PASID) == 0


def test_a_thread_is_mended_once():
    """With the register loaded already the #GP has another cause."""
    world = World()
    app = world.m.spawn("app")
    app.bind(world.dsa)
    forget(app)
    assert fix_up_enqcmd(world.m.cpu, app.process) is True
    before = world.time.digest()
    assert fix_up_enqcmd(world.m.cpu, app.process) is False
    assert world.time.digest() == before
