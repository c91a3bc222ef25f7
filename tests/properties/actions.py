"""What a person can do to a machine, as data: scripts that can be replayed, renamed and put into another order.

Each action becomes one operation of the timeline, whatever verbs it uses; its outcome is a word: ``ok``, a value, or an
errno. Every process has a source and a destination buffer from birth; a copy is verified byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pasidlab.errors import KernelError
from pasidlab.kernel.mm import MMAP_BASE
from pasidlab.machine import Machine

__all__ = ["DST", "HOST", "SIZE", "SRC", "Action", "Script", "perform", "renamed", "start"]

HOST = "host"
SIZE = 64
SRC, DST = MMAP_BASE + 0x2000, MMAP_BASE + 0x4000


class Action(NamedTuple):
    """One call: what, where (a VM's name or ``host``), and further words."""

    what: str
    where: str
    args: tuple = ()


Script = list


def start(iommu: str = "vtd") -> Machine:
    """A machine with accelerators, as one action's worth of history: two, or where only whole ones can be given away,
    one for the host and one for each VM.
    """
    machine = Machine(iommu=iommu)
    with machine.timeline.operation("plug"):
        machine.plug_accelerator("dsa0")
        machine.plug_accelerator("dsa1", shared=1, dedicated=1)
        if machine.kernel.platform.iommu.binds_tables:
            machine.plug_accelerator("dsa2", shared=1, dedicated=2)
    machine.timeline.floor = machine.timeline.now
    return machine


def pattern(where: str, name: str) -> bytes:
    """Bytes that no other process of these scripts has; the names of VMs have no part in it."""
    salt = (where == HOST) * 64 + ord(name) * 3 & 0xFF
    return bytes(at ^ salt for at in range(SIZE))


def renamed(action: Action, names: dict[str, str]) -> Action:
    """The same action with VMs called otherwise."""
    return action._replace(where=names.get(action.where, action.where))


def perform(machine: Machine, action: Action) -> str:
    """Carry out one action as one operation; returns its outcome."""
    try:
        with machine.timeline.operation(repr(action)):
            return str(_VERBS[action.what](machine, action.where, *action.args))
    except KernelError as error:
        return f"-{error.name}"


def _app(machine, where, name):
    return machine.app(name) if where == HOST else machine.vm(where).app(name)


def _device(machine, where, index):
    if where == HOST:
        return machine.device(sorted(machine.accelerators.keys())[index % len(machine.accelerators)])
    devices = machine.vm(where).devices
    if not devices:
        raise KernelError("ENODEV", "the VM has no devices")
    return devices[index % len(devices)]


def _create(machine, where, quota, policy):
    machine.create_vm(where, quota=quota, policy=policy, memory=1 << 20)
    return "ok"


def _adi(machine, where, device, queue):
    machine.assign_adi(machine.device(device), machine.vm(where), queue=queue)
    return "ok"


def _pf(machine, where, device):
    machine.assign_pf(machine.device(device), machine.vm(where))
    return "ok"


def _spawn(machine, where, name):
    app = machine.spawn(name) if where == HOST else machine.vm(where).spawn(name)
    assert app.buffer(pattern(where, name)) == SRC
    assert app.buffer(2 * SIZE) == DST
    return "ok"


def _bind(machine, where, name, index):
    return _app(machine, where, name).bind(_device(machine, where, index))


def _unbind(machine, where, name, index):
    _app(machine, where, name).unbind(_device(machine, where, index))
    return "ok"


def _copy(machine, where, name, index, offset):
    """Copy from one byte of the source on, and look: everything arrived, or nothing."""
    app, device = _app(machine, where, name), _device(machine, where, index)
    before = app.read(DST, SIZE)
    outcome = app.copy(device, SRC + offset, DST + offset, SIZE - offset)
    after = app.read(DST, SIZE)
    moved = app.read(SRC + offset, SIZE - offset)
    assert app.read(SRC, SIZE) == pattern(where, name), "somebody wrote into the source buffer"
    if outcome.ok:
        assert after == before[:offset] + moved
    else:
        assert not _works(machine, where, app, device), f"{app} is bound to {device}, but: {outcome}"
    return outcome.status.name


def _works(machine, where, app, device):
    """Whether a copy has to succeed: the process has the device open, and what is below it is bound."""
    kernel = app.kernel
    driver = kernel.accelerators[device.name]
    if driver.queue_of(app.process) is None or len(machine.pending) >= 16:
        return False
    if where == HOST:
        return True
    whole, bound = machine.kernel.platform.iommu.binds_tables, machine.vm(where).vmm.viommu.bound
    return (driver.rid if whole else (driver.rid, app.pasid)) in bound


def _submit(machine, where, name, index):
    """Submit and do not wait; it goes behind the part of the destination that `_copy` looks at."""
    app = _app(machine, where, name)
    app.submit(_device(machine, where, index), SRC, DST + SIZE, SIZE)
    return "ok"


def _exit(machine, where, name):
    _app(machine, where, name).exit()
    return "ok"


def _free(machine, where, pasid):
    machine.vm(where).free_pasid(pasid)
    return "ok"


def _bind_raw(machine, where, name, index, pasid):
    machine.vm(where).bind_raw(_device(machine, where, index), pasid, _app(machine, where, name))
    return "ok"


def _crash(machine, where):
    machine.vm(where).crash()
    return "ok"


def _dma(machine, where, device, pasid, address, access):
    """One stray request of hostile firmware. Host memory is not written to: the host's kernel lies at its beginning."""
    answer = machine.dma(machine.device(device), pasid, address, access)
    return "ok" if isinstance(answer, int) else answer.name


def _run(machine, where, index):
    if index is None:
        return machine.run()
    waiting = machine.pending
    return machine.run(waiting[index % len(waiting)].number) if waiting else 0


_VERBS: dict[str, Callable[..., object]] = {
    "create": _create,
    "adi": _adi,
    "pf": _pf,
    "spawn": _spawn,
    "bind": _bind,
    "unbind": _unbind,
    "copy": _copy,
    "submit": _submit,
    "exit": _exit,
    "free": _free,
    "bind_raw": _bind_raw,
    "crash": _crash,
    "dma": _dma,
    "run": _run,
}
