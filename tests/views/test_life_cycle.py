"""The life of IOASIDs: states and moves are the model's, each ID stands on its state, the step's move stands out."""

from __future__ import annotations

from collections import Counter

from pasidlab import Machine
from pasidlab.kernel.ioasid.record import MOVES, State
from pasidlab.views import topology
from pasidlab.views.layout import geometry
from pasidlab.views.life_cycle import life_cycle, move_now, state_of
from pasidlab.views.room import Room
from tests.views.worlds import crowd, freed_early


def test_arrows_are_the_moves_of_the_model() -> None:
    """All of them, between the states that they lead from and to, with what makes them."""
    arrows = {(edge.tail, edge.head): edge.label for edge in life_cycle(Machine()).edges}
    wanted: dict[tuple[str, str], list[str]] = {}
    for before, trigger, after in MOVES:
        wanted.setdefault((f"state:{before.value}", f"state:{after.value}"), []).append(trigger)
    assert arrows == {ends: ", ".join(triggers) for ends, triggers in wanted.items()}


def test_every_id_stands_on_its_state() -> None:
    """The counts are those of the tokens, and FREE has all others."""
    machine = freed_early()
    figure = life_cycle(machine)
    stand = {node.key: node.inside for node in figure.nodes if node.inside}
    assert stand == {
        f"ioasid:{number}": f"state:{record.state.value}" for number, record in machine.kernel.ioasid.ids.items()
    }
    assert stand["ioasid:3"] == "state:free-pending"
    assert figure.node("state:idle").word == "2 IDs"
    assert figure.node("state:free").word == f"{(1 << 20) - 4} left"


def test_every_move_of_a_history_is_allowed_and_leads_to_where_the_id_stands() -> None:
    """Step by step from the start of time to its end."""
    machine = freed_early()
    machine.run()
    time, seen = machine.timeline, Counter[tuple[State, str, State]]()
    time.go(time.floor)
    before: dict[int, State] = {}
    while time.now < time.last:
        time.forward()
        move, ids = move_now(machine), machine.kernel.ioasid.ids
        now = {number: state_of(record) for number, record in ids.items()}
        if move is not None:
            assert move[1:] in MOVES
            assert before.get(move.ioasid, State.FREE) is move.before
            assert now.get(move.ioasid, State.FREE) is move.after
            seen[move[1:]] += 1
        else:
            assert {key: state for key, state in now.items() if state is not State.FREE} == before
        before = {key: state for key, state in now.items() if state is not State.FREE}
    assert seen[State.ACTIVE, "free", State.FREE_PENDING] == 1
    assert seen[State.FREE_PENDING, "put", State.FREE] == 1
    assert seen[State.FREE, "alloc", State.IDLE] == 4


def test_the_arrow_of_the_step_stands_out_and_no_other() -> None:
    """With the one thing that made the move."""
    machine = freed_early()
    time = machine.timeline
    while move_now(machine) is None:
        time.back()
    lit = [(edge.key, edge.label) for edge in life_cycle(machine).edges if edge.state == "now"]
    assert lit == [("free-pending>free-pending", "put")]
    time.go(time.last)
    assert not [edge for edge in life_cycle(machine).edges if edge.state == "now"]


def test_a_token_returns_to_free_and_nothing_else_moves() -> None:
    """A picture that remembers keeps it; boards and arrows have one place at all steps."""
    machine, room = freed_early(), Room()
    places, seats = set(), set()
    first = life_cycle(machine, room)
    machine.run()
    for figure in (first, life_cycle(machine, room)):
        found = geometry(topology(figure))
        places.add(tuple(found.nodes[f"state:{state.value}"] for state in State))
        seats.add(tuple(node.seat for node in figure.nodes if node.inside))
    assert len(places) == len(seats) == 1
    assert life_cycle(machine, room).node("ioasid:3").inside == "state:free"


def test_many_ids_are_folded_but_not_the_one_that_moves() -> None:
    """At most about 60 boxes; every ID is counted once."""
    machine = crowd()
    machine.vm("vm8").free_pasid(8)
    while (move := move_now(machine)) is None:
        machine.timeline.back()
    figure = life_cycle(machine)
    assert len(figure.nodes) <= 60
    assert figure.node(f"ioasid:{move.ioasid}").inside == f"state:{move.after.value}"
    shown = sum(node.key.startswith("ioasid:") for node in figure.nodes)
    more = sum(int(node.lines[0].removeprefix("+")) for node in figure.nodes if node.key.startswith("more:"))
    assert shown + more == len(machine.kernel.ioasid.ids) == 72
