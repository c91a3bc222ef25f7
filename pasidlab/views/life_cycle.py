"""Projection: the states of an IOASID, the moves between them, and every ID standing on its state.

States and moves are those of :mod:`pasidlab.kernel.ioasid.record`; nothing of them is repeated here. An ID is a token
with a seat of its own, the same on every state's board: when it moves, nothing else does. In a picture that remembers
(:class:`~pasidlab.views.room.Room`) an ID that was out before keeps its token, which stands on FREE. The lowest numbers
have a seat each. Of the others every state shows one, the ID that moves in this step before any other, and how many
more.

The move of the present step is read from the journal: a copy of each record that the step changed is taken back to what
it was before, and both are asked for their state.
"""

from __future__ import annotations

from collections import Counter
from copy import copy
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.kernel.ioasid.record import MOVES, IoasidRecord, State
from pasidlab.views.figure import Edge, Figure, Node
from pasidlab.views.numbers import counted
from pasidlab.views.room import Room
from pasidlab.views.words import LIFE, MEANINGS

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["Move", "life_cycle", "move_now", "state_of"]

_SEATS: Final = 12
_OWN: Final = _SEATS - 2
_GUEST_SEAT, _MORE_SEAT = _SEATS - 2, _SEATS - 1
_WIDE: Final = 22
_STATES: Final = {State.FREE: "off", State.IDLE: "idle", State.ACTIVE: "live", State.FREE_PENDING: "pending"}


class Move(NamedTuple):
    """A move of ``MOVES`` that an ID made."""

    ioasid: int
    before: State
    trigger: str
    after: State


def state_of(record: IoasidRecord | None) -> State:
    """Where an ID stands; without references it is FREE, also in the instant before its record goes."""
    return State.FREE if record is None or record.retired or not record.refs else record.state


def move_now(machine: Machine) -> Move | None:
    """The move that the present step made, if it made one.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm1 = m.create_vm("vm1"); adi = m.assign_adi(dsa, vm1)
    >>> while move_now(m) is None:
    ...     m.timeline.back()
    >>> move_now(m)
    Move(ioasid=1, before=<State.FREE: 'free'>, trigger='alloc', after=<State.IDLE: 'idle'>)
    """
    time, core = machine.timeline, machine.kernel.ioasid
    before: dict[str, IoasidRecord] = {}
    now: dict[str, IoasidRecord] = {}
    for cells, key, old, _ in reversed(time.changes_of_step(time.now) if time.now else []):
        if isinstance(cells, IoasidRecord) and cells.path.startswith(f"{core.path}."):
            now[cells.path] = cells
            before.setdefault(cells.path, copy(cells)).restore(key, old)
    moves = (_move(before[path], record) for path, record in now.items())
    return next((move for move in moves if move is not None), None)


def _move(was: IoasidRecord, record: IoasidRecord) -> Move | None:
    """The move from the earlier to the present condition of a record; ``None`` if only its data or its SPID changed."""
    before, after = state_of(was), state_of(record)
    old, new = (0 if known.retired else known.refs for known in (was, record))
    if before is after and old == new:
        return None
    way = "get" if new > old else "put"
    found = [move for move in MOVES if (move[0], move[2]) == (before, after)]
    chosen = next((move for move in found if move[1] == way), found[0] if found else None)
    return Move(record.ioasid, *chosen) if chosen is not None else None


def life_cycle(machine: Machine, room: Room | None = None) -> Figure:
    """The state diagram at the present step, with the IDs standing on it.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm1 = m.create_vm("vm1"); adi = m.assign_adi(dsa, vm1)
    >>> life_cycle(m).node("ioasid:1").inside
    'state:idle'
    """
    room = room or Room()
    ids = machine.kernel.ioasid.ids
    known = [ioasid for (ioasid,) in room.recall("ioasids", [(ioasid,) for ioasid in ids.keys()])]
    move = move_now(machine)
    where = {ioasid: state_of(ids.get(ioasid)) for ioasid in known}
    nodes = [_board(machine, state, where) for state in State]
    seats = _seated(where, move)
    nodes += [_token(machine, ioasid, where[ioasid], seat) for ioasid, seat in seats.items()]
    nodes += _rest([state for ioasid, state in where.items() if ioasid not in seats])
    title = LIFE["title"].format(out=counted(len(ids), "ID"))
    return Figure("life-cycle", title, tuple(nodes), _arrows(move), note=LIFE["note"])


def _seated(where: dict[int, State], move: Move | None) -> dict[int, int]:
    """The seat of each ID that has one. ``where`` is in the order of numbers."""
    if len(where) <= _SEATS:
        return {ioasid: at for at, ioasid in enumerate(where)}
    seats = dict(zip(where, range(_OWN), strict=False))
    guests = {state: ioasid for ioasid, state in reversed(where.items()) if ioasid not in seats}
    if move is not None and move.ioasid in where and move.ioasid not in seats:
        guests[where[move.ioasid]] = move.ioasid
    return seats | dict.fromkeys(guests.values(), _GUEST_SEAT)


def _board(machine: Machine, state: State, where: dict[int, State]) -> Node:
    count = sum(found is state for found in where.values())
    if state is State.FREE:
        total = machine.kernel.ioasid.capacity.total
        words = LIFE["count"].format(count=total - len(where) + count)
    else:
        words = counted(count, "ID")
    look = _STATES[state] if count or state is State.FREE else "idle"
    lines = (state.name, MEANINGS[state.value])
    return Node(f"state:{state.value}", lines, "state", state=look, word=words, columns=_WIDE, seats=_SEATS)


def _token(machine: Machine, ioasid: int, state: State, seat: int) -> Node:
    record = machine.kernel.ioasid.ids.get(ioasid)
    hint = LIFE["token-free"].format(ioasid=ioasid)
    if record is not None:
        owner, refs = record.owner.name, counted(record.refs, "reference")
        hint = LIFE["token"].format(ioasid=ioasid, owner=owner, refs=refs)
    return Node(
        f"ioasid:{ioasid}", (str(ioasid),), "token", state=_STATES[state], word=str(state), hint=hint,
        inside=f"state:{state.value}", seat=seat,
    )  # fmt: skip


def _rest(states: list[State]) -> list[Node]:
    """For each state a token that says how many more stand there."""
    return [
        Node(
            f"more:{state.value}", (LIFE["more"].format(count=count),), "token", state=_STATES[state], word=" ",
            hint=LIFE["more-hint"].format(count=count), inside=f"state:{state.value}", seat=_MORE_SEAT,
        )
        for state, count in Counter(states).items()
    ]  # fmt: skip


def _arrows(move: Move | None) -> tuple[Edge, ...]:
    """An arrow for each pair of states between which there are moves, labelled with what makes them."""
    ways: dict[tuple[State, State], list[str]] = {}
    for before, trigger, after in MOVES:
        ways.setdefault((before, after), []).append(trigger)
    made = (move.before, move.after) if move is not None else None
    arrows, order = [], list(State)
    for (before, after), triggers in ways.items():
        label = move.trigger if move is not None and (before, after) == made else ", ".join(triggers)
        state = "now" if (before, after) == made else "idle"
        key = f"{before.value}>{after.value}"
        tail, head = f"state:{before.value}", f"state:{after.value}"
        back = order.index(after) < order.index(before)
        columns = 9 if tail == head else 6
        arrows.append(Edge(key, tail, head, state=state, label=label, columns=columns, loose=back))
    return tuple(arrows)
