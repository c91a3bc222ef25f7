"""Projection: one work queue -> figure "Shared queue": clients, portals, the places of the queue, the engine.

Each owner has a state's colour, glyph and outline of its own (the first VM that has to do with the device the first
one, and so on), and its name stands in every box: a colour alone says nothing. All places are fixed, and a descriptor
stays in its own until it leaves (which place that is says nothing: its ticket says when it came).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.timeline import HOST
from pasidlab.views.figure import Edge, Figure, Node, fold
from pasidlab.views.queue_slots import Client, Work, clients_of, in_flight, room_of, waiting
from pasidlab.views.wire_words import QUEUE

if TYPE_CHECKING:
    from pasidlab.machine import Machine
    from pasidlab.views.queue_slots import Room

__all__ = ["work_queue"]

_PLACES: Final = 16
_ACROSS: Final = 4
_SIDE: Final = 4
_CLIENT, _SLOT, _MOVING = 17, 17, 20
_TOP, _TALL, _GAP, _AISLE = 78, 63, 10, 34
_STATES: Final = ("live", "new", "cached", "pending")
"""What owners are drawn with, in this order; a fifth one shares with the first."""


def work_queue(machine: Machine, device: str, wq: int) -> Figure:
    """The figure of a queue of the accelerator called ``device``.

    ``-ENODEV`` if the machine has no such accelerator, ``-EINVAL`` if that has no such queue.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm = m.create_vm("vm1"); adi = m.assign_adi(dsa, vm)
    >>> app = vm.spawn("app"); _ = app.bind(adi); at = app.buffer(8); _ = app.submit(adi, at, at, 8)
    >>> work_queue(m, "dsa0", 0).node("slot:0").lines
    ('MEMMOVE', 'host 2 = guest 1', 'no. 0, 8 bytes')
    """
    _check(machine, device, wq)
    made = _Parts(machine, device, wq)
    room = room_of(machine.accelerators[device], wq)
    made.add_top(room)
    made.add_clients(clients_of(machine, device, wq))
    made.add_slots(waiting(machine, device, wq), room)
    made.add_moving()
    mode = "dedicated" if room.dedicated else "shared"
    title = QUEUE["title"].format(queue=f"wq{wq}", device=device, mode=mode)
    architecture = machine.cpu.architecture
    unused = not room.dedicated and not architecture.enqueues
    note = QUEUE["no-enqcmd"].format(reason=architecture.why_no_enqueue) if unused else QUEUE["note"]
    return Figure("queue", title, tuple(made.nodes), tuple(made.edges), note=note)


def _check(machine: Machine, device: str, wq: int) -> None:
    """Refuse a queue that is not there."""
    found = next((one for name, one in machine.accelerators.items() if name == device), None)
    if found is None:
        raise KernelError("ENODEV", f"the queue must be that of an accelerator of the machine, not of {device!r}")
    if wq not in range(found.num_wqs):
        last = found.num_wqs - 1
        raise KernelError("EINVAL", f"the work queue of {device} must be a number from 0 to {last}, not {wq!r}")


def _width(columns: int) -> int:
    return round(24 + columns * 7.4)


class _Parts:
    """The parts of the figure while it is put together."""

    def __init__(self, machine: Machine, device: str, wq: int) -> None:
        self.machine = machine
        self.device = device
        self.wq = wq
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self._moving = in_flight(machine, device, wq)
        self._owners = [vm.name for vm in machine.vms if self._concerned(vm.name)]
        self._slots_at = _width(_CLIENT) + _AISLE
        self._engine_at = self._slots_at + _ACROSS * (_width(_SLOT) + _GAP) - _GAP + _AISLE

    def _concerned(self, vm: str) -> bool:
        """Whether a VM has an interface of the device, or the whole of it."""
        vmm = self.machine.vm(vm).vmm
        return self.device in vmm.functions or any(mdev.parent.name == self.device for mdev in vmm.mdevs.values())

    def _state(self, owner: str) -> str:
        if owner == HOST:
            return "idle"
        return _STATES[self._owners.index(owner) % len(_STATES)] if owner in self._owners else "fault"

    # --- the row on top -----------------------------------------------------------------------------------------------

    def add_top(self, room: Room) -> None:
        """The portals, the queue's register, the engine."""
        name = f"wq{self.wq}"
        limit = room.size if room.dedicated else room.threshold
        taken = (QUEUE["limited"].format(used=min(room.used, limit), room=limit),
                 QUEUE["unlimited"].format(used=room.used, room=room.size))  # fmt: skip
        closed, full = not room.enabled, room.used >= limit
        word = QUEUE["closed" if closed else "full" if full else "open"]
        state = "off" if closed else "pending" if full else "live"
        self._add("portals", (QUEUE["portals"], *taken), "device", state, word, _CLIENT, (0, 0))
        mode = "dedicated" if room.dedicated else "shared"
        number = QUEUE["register-none"] if room.pasid is None else QUEUE["register"].format(pasid=room.pasid)
        said = number if room.dedicated else QUEUE["threshold"].format(threshold=room.threshold)
        used = QUEUE["waiting"].format(used=room.used, size=room.size)
        queue_wide = round((self._engine_at - _AISLE - self._slots_at - 24) / 7.4)
        word = QUEUE["enabled" if room.enabled else "disabled"]
        self._add("queue", (QUEUE["queue"].format(queue=name, mode=mode), used, said), "queue",
                  "live" if room.enabled else "off", word, queue_wide, (self._slots_at, 0))  # fmt: skip
        count = len(self._moving)
        words = QUEUE["moving"].format(count=count) if count else QUEUE["resting"]
        self._add("engine", (QUEUE["engine"], words, ""), "device", "now" if count else "idle", " " if count else "",
                  _MOVING, (self._engine_at, 0))  # fmt: skip
        flow = "live" if room.used else "idle"
        self.edges.append(Edge("in", "portals", "queue", "flow", flow))
        self.edges.append(Edge("out", "queue", "engine", "flow", "live" if count else "idle"))

    def _add(self, key: str, lines: tuple[str, ...], kind: str, state: str, word: str, columns: int,
             at: tuple[int, int], present: bool = True) -> None:  # fmt: skip
        self.nodes.append(
            Node(key, lines, kind, state=state, word=word, present=present, columns=columns, rows=3, at=at)
        )

    def _side(self, row: int) -> int:
        return _TOP + _AISLE - _GAP + row * (_TALL + _GAP)

    # --- below it -----------------------------------------------------------------------------------------------------

    def add_clients(self, clients: list[Client]) -> None:
        """Who may submit; at the side, one below the other."""
        shown, folded = fold(clients, _SIDE)
        waits = [work.owner for work in waiting(self.machine, self.device, self.wq)]
        for row in range(_SIDE):
            client = shown[row] if row < len(shown) else None
            key, at = f"client:{row}", (0, self._side(row))
            if client is not None:
                name = "cut" if client.adi else "process"
                words = QUEUE[name].format(vm=client.owner, where=client.owner)
                lines = (client.name, words, QUEUE["of-vm"].format(count=waits.count(client.owner)))
                self._add(key, lines, "thing", self._state(client.owner), client.owner, _CLIENT, at)
            elif folded and row == _SIDE - 1:
                self._add(key, (QUEUE["more"].format(count=folded), "", ""), "more", "idle", "", _CLIENT, at)
            else:
                lines = (QUEUE["no-client"], "", "")
                self._add(key, lines, "thing", "off", " ", _CLIENT, at, present=not row)

    def add_slots(self, works: list[Work], room: Room) -> None:
        """The places of the queue; a descriptor has that of its ticket, or the next one that is free."""
        places = min(_PLACES, max(room.size, 1))
        shown, folded = fold(works, places)
        taken: dict[int, Work] = {}
        for work in shown:
            taken[next(at for more in range(places) if (at := (work.ticket + more) % places) not in taken)] = work
        for at in range(places):
            row, column = divmod(at, _ACROSS)
            place = (self._slots_at + column * (_width(_SLOT) + _GAP), self._side(row))
            if at in taken:
                self._add_work(f"slot:{at}", taken[at], place, _SLOT)
            elif folded:
                self._add(
                    f"slot:{at}", (QUEUE["more"].format(count=folded), "", ""), "entry", "pending", " ", _SLOT, place
                )
            else:
                self._add(f"slot:{at}", (QUEUE["slot"].format(slot=at), QUEUE["empty"], ""), "entry", "off", " ",
                          _SLOT, place)  # fmt: skip

    def add_moving(self) -> None:
        """What the engine has begun."""
        shown, folded = fold(self._moving, _SIDE)
        for row in range(_SIDE):
            key, at = f"moving:{row}", (self._engine_at, self._side(row))
            if row < len(shown):
                self._add_work(key, shown[row], at, _MOVING, moving=True)
            elif folded and row == _SIDE - 1:
                self._add(key, (QUEUE["more"].format(count=folded), "", ""), "entry", "pending", " ", _MOVING, at)
            else:
                self._add(key, ("", "", ""), "entry", "off", " ", _MOVING, at, present=False)

    def _add_work(self, key: str, work: Work, at: tuple[int, int], wide: int, moving: bool = False) -> None:
        waits = QUEUE["ticket"].format(ticket=work.ticket, size=_size(work))
        lines = (work.name, _numbers(work), _progress(work) if moving else waits)
        self._add(key, lines, "entry", self._state(work.owner), work.owner, wide, at)


def _numbers(work: Work) -> str:
    """The number on the wire, and what its owner calls it."""
    if work.pasid is None:
        return QUEUE["no-pasid"]
    if work.host == work.pasid and work.guest is not None:
        return QUEUE["host-number"].format(pasid=work.pasid, guest=QUEUE["guest-number"].format(pasid=work.guest))
    return QUEUE["wire-number"].format(pasid=work.pasid)


def _size(work: Work) -> str:
    return QUEUE["list" if work.batch else "size"].format(size=work.size)


def _progress(work: Work) -> str:
    return QUEUE["descriptors" if work.batch else "bytes"].format(done=work.done, size=work.size)
