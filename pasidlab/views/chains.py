"""Projection: the notifier chains -> figure. For each set, who hears its events, in order of delivery.

The global chain and the set's own are merged by priority, as the core delivers. Who registered for an mm whose set is
not there yet stands apart, in a row without a set. During a notification each subscriber says whether it was told,
runs, is next or comes later (:mod:`pasidlab.views.delivery`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.kernel.ioasid.notifier import HEARD_ON, IoasidEvent, NotifyFlag
from pasidlab.views.delivery import Delivery, delivery_now
from pasidlab.views.figure import Edge, Figure, Node, fold
from pasidlab.views.numbers import counted
from pasidlab.views.room import Room
from pasidlab.views.words import CHAINS

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.notifier import Subscriber
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.kernel.ioasid.subscriptions import Registration
    from pasidlab.machine import Machine
    from pasidlab.timeline import Part

__all__ = ["chains"]

_SETS: Final = 12
_BOXES: Final = 54
_LISTENERS: Final = 5
_WAITING: Final = 2
_WIDE: Final = 28
_SET: Final = 20
_TURNS: Final = {"told": "new", "running": "now", "one-of": "now", "next": "pending", "later": "idle"}
_BOTH: Final = NotifyFlag.ALL | NotifyFlag.SET


def chains(machine: Machine, room: Room | None = None) -> Figure:
    """Who is told, in which order, at the present step.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm1 = m.create_vm("vm1"); adi = m.assign_adi(dsa, vm1)
    >>> [node.lines[0] for node in chains(m).nodes if node.key.startswith("set:1:")]
    ['vm1', 'KVM vm1', 'VDCM adi0', 'IOMMU driver']
    """
    now = delivery_now(machine)
    made = _Parts(machine, now)
    shown, folded = _fold(machine.kernel.ioasid.sets.values(), now)
    if folded:
        made.nodes.append(Node("more", (CHAINS["more"].format(count=folded),), "more", columns=_SET))
    # Graphviz puts rows that are not connected from the bottom up.
    made.listeners = max(2, min(_LISTENERS, _BOXES // max(1, len(shown)) - 1))
    made.add_waiting()
    for the_set in reversed(shown):
        made.add_set(the_set)
    note = _note(now) if now is not None else CHAINS["note"]
    figure = Figure("chains", CHAINS["title"], tuple(made.nodes), tuple(made.edges), note=note)
    return (room or Room()).fit(figure)


def _fold(sets: list[IoasidSet], now: Delivery | None) -> tuple[list[IoasidSet], int]:
    """The sets to draw; the one to which something is delivered is among them."""
    shown, folded = fold(sets, _SETS)
    late = [the_set for the_set in sets[len(shown) :] if now is not None and the_set.set_id == now.set_id]
    return ([*shown[: len(shown) - 1], *late] if late else list(shown)), folded


def _note(now: Delivery) -> str:
    told, following = (", ".join(names) or CHAINS["nobody"] for names in (now.named("told"), now.named("next")))
    running = CHAINS["or"].join(now.named("running", "one-of")) or CHAINS["nobody"]
    return CHAINS["now"].format(event=now.event, ioasid=now.ioasid, told=told, running=running, next=following)


class _Parts:
    """The parts of the figure while it is put together."""

    def __init__(self, machine: Machine, now: Delivery | None) -> None:
        self.notifiers = machine.kernel.ioasid.notifiers
        self.owners = {id(process.mm): process.name for process in machine.kernel.processes.values()}
        self.now = now
        self.listeners = _LISTENERS
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []

    def add_set(self, the_set: IoasidSet) -> None:
        """A set, and behind it those who hear its events."""
        frame, now = f"set:{the_set.set_id}", self._delivery_to(the_set)
        words = CHAINS["delivers"].format(event=now.event, ioasid=now.ioasid) if now is not None else CHAINS["quiet"]
        lines, out = (the_set.name, words), CHAINS["set"].format(ids=counted(the_set.count, "ID"))
        state = "now" if now is not None and not now.running else "live" if the_set.count else "idle"
        self.nodes.append(Node(f"{frame}:core", lines, "set", state=state, word=out, columns=_SET, rows=3))
        shown, folded = fold(self.notifiers.listeners(the_set, _BOTH), self.listeners)
        before = f"{frame}:core"
        for subscriber in shown:
            before = self._add_listener(the_set, frame, before, subscriber)
        if folded:
            key = f"{frame}:more"
            self.nodes.append(Node(key, (CHAINS["more-listeners"].format(count=folded),), "more", columns=_WIDE))
            self.edges.append(Edge(f"{before}>{key}", before, key))

    def _delivery_to(self, the_set: IoasidSet) -> Delivery | None:
        return self.now if self.now is not None and self.now.set_id == the_set.set_id else None

    def _add_listener(self, the_set: IoasidSet, frame: str, before: str, subscriber: Subscriber) -> str:
        own = any(known is subscriber for known in the_set.chain.subscribers())
        now, key = self._delivery_to(the_set), f"{frame}:{subscriber.path}"
        turn = now.turn(subscriber) if now is not None else None
        word = CHAINS[turn] if turn is not None else CHAINS["not-told"] if now is not None else ""
        state = _TURNS[turn] if turn is not None else "off" if now is not None else "idle"
        lines = (subscriber.notifier_name, _priority(subscriber, own), _hears(own))
        self.nodes.append(Node(key, lines, "listener", state=state, word=word, columns=_WIDE))
        arrow = state if turn in ("told", "running", "one-of") else "idle"
        self.edges.append(Edge(f"{before}>{key}", before, key, state=arrow))
        return key

    def add_waiting(self) -> None:
        """Registrations by mm whose set is not there yet: a row for each mm, in the order that will be theirs."""
        waiting: dict[int, list[Registration]] = {}
        for row in self.notifiers.registrations():
            if not row.active:
                waiting.setdefault(id(row.token), []).append(row)
        shown: dict[str, list[Registration]] = {}
        for rows in waiting.values():
            key = f"waiting:{rows[0].token.path}"
            shown[key if key not in shown else f"{key}#{len(shown)}"] = rows
        for key, rows in list(shown.items())[:_WAITING]:
            self._add_row(key, rows)
        if len(shown) > _WAITING:
            words = CHAINS["more-waiting"].format(count=len(shown) - _WAITING)
            self.nodes.append(Node("more-waiting", (words,), "more", columns=_SET))

    def _add_row(self, key: str, rows: list[Registration]) -> None:
        lines = (self._owner(rows[0].token), CHAINS["waiting"])
        before = f"{key}:core"
        self.nodes.append(Node(before, lines, "set", state="off", word=CHAINS["no-set"], columns=_SET, rows=3))
        ordered = sorted(rows, key=lambda row: -row.subscriber.notifier_priority)
        for at, row in enumerate(ordered[:_WAITING]):
            words = (row.subscriber.notifier_name, _priority(row.subscriber, True), CHAINS["waiting-for"])
            box = f"{key}:{at}"
            self.nodes.append(Node(box, words, "listener", state="pending", word=CHAINS["pending"], columns=_WIDE))
            self.edges.append(Edge(f"{before}>{box}", before, box, state="off"))
            before = box

    def _owner(self, token: Part) -> str:
        return self.owners.get(id(token), CHAINS["somebody"])


def _priority(subscriber: Subscriber, own: bool) -> str:
    rank = subscriber.notifier_priority
    return CHAINS["priority"].format(name=rank.name, number=rank.value, chain=CHAINS["own" if own else "global"])


def _hears(own: bool) -> str:
    """Which events reach a subscriber of a chain."""
    chain = NotifyFlag.SET if own else NotifyFlag.ALL
    events = [event.value for event in IoasidEvent if chain in HEARD_ON[event]]
    return CHAINS["hears"].format(events=", ".join(events))
