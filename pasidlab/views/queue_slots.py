"""What a work queue holds: whose each descriptor is, how much room is left, who its clients are. Plain data.

The number of a descriptor is the one that its requests carry on the wire; the host's PASID behind it and the guest's
name for that are looked up as the host would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pasidlab.hardware.accelerator.descriptor import Descriptor, Opcode, opcode_name
from pasidlab.invariants.entries import ioasid_of
from pasidlab.timeline import HOST
from pasidlab.views.wire_words import QUEUE

if TYPE_CHECKING:
    from pasidlab.hardware.accelerator.device import Accelerator
    from pasidlab.machine import Machine

__all__ = ["Client", "Room", "Work", "clients_of", "in_flight", "room_of", "waiting"]


class Work(NamedTuple):
    """A descriptor. ``owner`` is a VM's name, ``"host"``, or nobody's; ``pasid`` is on the wire (``None``: none),
    ``host`` the host's PASID that it means, ``guest`` what the owner calls it; ``done`` is how far it has come. Its
    ``ticket`` says when it came, while it waits.
    """

    name: str
    owner: str
    pasid: int | None
    host: int | None
    guest: int | None
    done: int
    size: int
    batch: bool
    ticket: int = 0


class Client(NamedTuple):
    """Who has a queue: an interface (``adi``), or a process. ``owner`` is a VM's name or ``"host"``."""

    name: str
    owner: str
    adi: bool


class Room(NamedTuple):
    """Places of a queue: how many are ``used``, how many there are, up to which number the limited portal takes work;
    what stands in its register for all descriptors (dedicated queues), and whether it is enabled.
    """

    used: int
    size: int
    threshold: int
    dedicated: bool
    pasid: int | None
    enabled: bool


def room_of(device: Accelerator, wq: int) -> Room:
    """The room of a queue, read from WQCFG."""
    return Room(
        device.occupancy(wq),
        device.wq_field(wq, "wq_size"),
        device.wq_field(wq, "wq_thresh"),
        bool(device.wq_field(wq, "mode")),
        device.wq_pasid(wq),
        device.wq_enabled(wq),
    )


def waiting(machine: Machine, name: str, wq: int) -> list[Work]:
    """The descriptors that wait in a queue of the accelerator called ``name``, oldest first.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); app = m.spawn("app"); _ = app.bind(dsa)
    >>> at = app.buffer(8); _ = app.submit(dsa, at, at, 8)
    >>> [(work.name, work.owner, work.pasid) for work in waiting(m, "dsa0", 1)]
    [('MEMMOVE', 'host', 1)]
    """
    device = machine.accelerators[name]
    found = [(ticket, Descriptor.from_bytes(one.data)) for ticket, one in device.queues[wq].items()]
    return [_work(machine, device, wq, one, 0)._replace(ticket=ticket) for ticket, one in found]


def in_flight(machine: Machine, name: str, wq: int) -> list[Work]:
    """The descriptors of a queue that have begun and not ended, also those that wait for a page."""
    device = machine.accelerators[name]
    return [_work(machine, device, wq, one, done) for at, one, done in device.in_flight() if at == wq]


def _work(machine: Machine, device: Accelerator, wq: int, work: Descriptor, done: int) -> Work:
    pasid = device.wq_pasid(wq) if device.wq_field(wq, "mode") else work.pasid
    host = None if pasid is None else ioasid_of(machine, device.rid, pasid)
    record = machine.kernel.ioasid.ids.get(host) if host is not None else None
    owner = QUEUE["nobody"] if record is None else record.owner.name
    guest = record.spid if record is not None else None
    return Work(opcode_name(work.opcode), owner, pasid, host, guest, done, work.size, batch=work.opcode == Opcode.BATCH)


def clients_of(machine: Machine, name: str, wq: int) -> list[Client]:
    """Who has a queue: interfaces that were cut from it and native processes, or the processes of the guest whose
    function it is.
    """
    for vm in machine.vms:
        if name in vm.vmm.functions:
            queues = vm.kernel.accelerators[name].queues
            inside = [one for one in vm.kernel.processes.values() if wq in queues and one.path in queues[wq].clients]
            return [Client(process.name, vm.name, adi=False) for process in inside]
    driver = machine.kernel.accelerators[name]
    if wq not in driver.queues:
        return []
    cut = [(adi, vm.name) for vm in machine.vms for adi, mdev in vm.vmm.mdevs.items()
           if mdev.parent.name == name and mdev.queue.index == wq]  # fmt: skip
    natives = [process for process in machine.natives if process.path in driver.queues[wq].clients]
    return [
        *(Client(adi, vm, adi=True) for adi, vm in cut),
        *(Client(process.name, HOST, adi=False) for process in natives),
    ]
