"""What the stories of a PASID's life have in common: one VM with a dedicated interface, the column of references."""

from __future__ import annotations

from typing import NamedTuple

from pasidlab.handles import App, AssignedDevice, VirtualMachine
from pasidlab.machine import Machine
from pasidlab.stories.story import expect
from pasidlab.timeline import Verb
from pasidlab.views.life import life_steps

__all__ = ["Bench", "expect_references", "guest_bench", "references"]

_COUNTED = frozenset({Verb.ALLOC, Verb.GET, Verb.PUT, Verb.RECLAIM})


class Bench(NamedTuple):
    """One VM, its interface cut from a dedicated queue, and a process that has bound it under ``ioasid``."""

    vm: VirtualMachine
    adi: AssignedDevice
    app: App
    ioasid: int


def guest_bench(m: Machine) -> Bench:
    """Plug, create, assign, spawn, bind: four users hold the PASID then."""
    dsa = m.plug_accelerator("dsa0")
    vm = m.create_vm("vm1", quota=16)
    adi = m.assign_adi(dsa, vm, queue="dedicated")
    app = vm.spawn("app")
    guest_pasid = app.bind(adi)
    return Bench(vm, adi, app, vm.pasids[guest_pasid])


def references(m: Machine, ioasid: int, since: int = 0) -> list[tuple[str, int]]:
    """Who took or dropped a reference on an IOASID since a step, and the count after it; reclaim is ``("", 0)``."""
    steps = [step for step in life_steps(m.timeline.events, ioasid) if step.event.number >= since]
    return [(str(step.event.fact("holder") or ""), step.refs) for step in steps if step.event.verb in _COUNTED]


def expect_references(m: Machine, ioasid: int, since: int, wanted: list[tuple[str, int]]) -> None:
    """Break the story unless the references went exactly this way."""
    found = references(m, ioasid, since)
    expect(found == wanted, f"the references of IOASID {ioasid} go {wanted}, not {found}")
