"""The pane "Probe": ask the IOMMU what would happen to a request, and follow the walk stop by stop.

The question is one call, ``m.translate(...)``, which changes nothing; the lab shows its line. The picture is laid out
once for each kind of walk, then a step only changes states. Beside it are the fields of the stop that the walk is at;
below, where it leads, or the fault in words. The same question is asked again at every step in time, and once more of
the tables alone: where caches and tables differ, that is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

import ipywidgets as w

from pasidlab.errors import KernelError
from pasidlab.views.explain import explain
from pasidlab.views.fields import field_table, set_fields
from pasidlab.views.figure import Figure, Node
from pasidlab.views.stale import stale_stops
from pasidlab.views.table import Column, Table
from pasidlab.views.walk_graph import walk_graph
from pasidlab.views.walk_path import WalkPath
from pasidlab.views.walk_table import stop_bits, walk_table
from pasidlab_widgets.graph import GraphView
from pasidlab_widgets.lab import choices, probe_choices
from pasidlab_widgets.lab.controls import Button, Menu, check, combobox
from pasidlab_widgets.lab.explain import refused
from pasidlab_widgets.lab.message import Message, say
from pasidlab_widgets.lab.probe_words import PROBE
from pasidlab_widgets.lab.stepping import StepBar
from pasidlab_widgets.lab.words import EMPTY, WHY
from pasidlab_widgets.table import TableView

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import Walk
    from pasidlab.machine import Machine

__all__ = ["ProbePane"]

_ACCESSES: Final = ("read", "write", "execute", "atomic")
_NO_WALK: Final = Figure("walk", EMPTY["walk-title"], (Node("none", (EMPTY["walk"],), columns=52, at=(0, 0)),))
_NO_STOP: Final = Table("stop", EMPTY["stop-title"], (Column("field", "field"),), (), EMPTY["stop"])


class _Question(NamedTuple):
    """What was asked."""

    device: str
    pasid: int | None
    address: int
    access: str
    privileged: bool
    caches: bool

    def ask(self, machine: Machine, *, caches: bool) -> Walk:
        """The walk. ``-ENODEV`` the device is gone, ``-EINVAL`` no such request."""
        rid = machine.device(self.device).rid
        return machine.translate(rid, self.pasid, self.address, self.access, privileged=self.privileged, caches=caches)

    def line(self) -> str:
        """The Python that asks it."""
        more = ", privileged=True" if self.privileged else ""
        more += "" if self.caches else ", caches=False"
        return (
            f'm.translate(m.device("{self.device}").rid, pasid={self.pasid}, address={self.address:#x}, '
            f'access="{self.access}"{more})'
        )


class ProbePane:
    """Device, PASID, address, access; the walk; its outcome. ``tell`` shows a message, ``opened`` opens memory at an
    address.
    """

    name = "probe"

    def __init__(
        self,
        height: str,
        guard: Callable[[Callable[[], None]], Callable[[], None]],
        tell: Callable[[Message], None],
        opened: Callable[[int], None],
    ) -> None:
        self._machine: Machine | None = None
        self._question: _Question | None = None
        self._walk: Walk | None = None
        self._stale: frozenset[int] = frozenset()
        self._doubt = ""
        self._tell, self._opened = tell, opened
        self.menus = {
            "probe-device": Menu("probe-device", guard(self._offer_pasids)),
            "probe-access": Menu("probe-access"),
            "probe-caches": Menu("probe-caches"),
        }
        self.menus["probe-access"].offer([(access, access) for access in _ACCESSES])
        self.menus["probe-caches"].offer([(PROBE["tables"], "tables"), (PROBE["caches"], "caches")])
        self.fields = {
            "probe-pasid": combobox("probe-pasid"),
            "probe-address": combobox("probe-address"),
            "probe-privileged": check("probe-privileged"),
        }
        self.fields["probe-pasid"].observe(lambda _: guard(self._offer_addresses)(), "value")
        self.buttons = {
            "probe": Button("probe", guard(self.ask), "primary"),
            "probe-memory": Button("probe-memory", guard(self._open)),
        }
        self.view = GraphView(_NO_WALK, height=height)
        self.view.on_pick(self._picked)
        self.stops = TableView(_NO_STOP, height=height, flash=False)
        self.bar = StepBar(self._show_step)
        self.beside = (self.stops, self.bar)
        self._verdict = w.HTML()
        self._verdict.add_class("pl-verdict")
        self.widget: w.Widget = self._arranged()
        self._clear()

    def _arranged(self) -> w.Widget:
        controls = w.Box(
            [
                self.menus["probe-device"].widget,
                self.fields["probe-pasid"],
                self.fields["probe-address"],
                self.menus["probe-access"].widget,
                self.menus["probe-caches"].widget,
                self.fields["probe-privileged"],
                self.buttons["probe"].widget,
            ]
        )
        controls.add_class("pl-asking")
        side = w.VBox([self.stops, self.buttons["probe-memory"].widget])
        body = w.Box([self.view, side])
        body.add_class("pl-walk")
        whole = w.VBox([controls, self.bar, self._verdict, body])
        whole.add_class("pl-probe")
        return whole

    # --- what a person does -------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Put the question that the controls hold, and play the walk (at once to its end where nothing can play)."""
        try:
            self._question = self._asked()
            if self._machine is not None:
                self._put(self._machine, self._question)
        except KernelError as error:
            self._question = self._walk = None
            self._clear()
            self._tell(refused(error))
            return
        if self._walk is None:
            return
        self._tell(self._message(self._walk, self._question))
        self.bar.load(len(self._walk.stops) + 1, self._levels(self._walk))
        if self.bar.calm or not _running_loop():
            self.bar.move("end")
        else:
            self.bar.play()

    def _asked(self) -> _Question:
        values = {name: menu.value for name, menu in self.menus.items()}
        return _Question(
            values["probe-device"],
            probe_choices.optional_number(self.fields["probe-pasid"].value, PROBE["a-pasid"]),
            probe_choices.number(self.fields["probe-address"].value, PROBE["an-address"]),
            values["probe-access"],
            bool(self.fields["probe-privileged"].value),
            values["probe-caches"] == "caches",
        )

    def _picked(self, key: str) -> None:
        """A box was picked: go to its (next) stop."""
        if self._walk is None:
            return
        mine = [at + 1 for at, box in enumerate(WalkPath(self._walk).boxes) if box == key]
        if key == "result":
            mine = [len(self._walk.stops) + 1]
        if mine:
            self.bar.stop()
            self.bar.go_to(next((step for step in mine if step > self.bar.now), mine[0]))

    def _open(self) -> None:
        """Open memory where the present stop lies."""
        at = self._at()
        if self._walk is None or at is None:
            self._tell(Message("info", EMPTY["stop"]))
        elif self._walk.stops[at].in_tlb:
            self._tell(Message("info", PROBE["not-in-memory"]))
        else:
            self._opened(self._walk.stops[at].address)

    # --- what the lab does --------------------------------------------------------------------------------------------

    def draw(self, machine: Machine) -> None:
        """Offer what there is; put the question again."""
        self._machine = machine
        self.menus["probe-device"].offer(choices.devices(machine))
        self._offer_pasids()
        if self._question is None:
            self._clear()
            return
        before = self._walk
        try:
            self._put(machine, self._question)
        except KernelError:
            self._question = self._walk = None
            self._clear()
            return
        if self._walk is not None:
            moving = before is not None and before.stops == self._walk.stops and self.bar.now <= self.bar.last
            self.bar.load(len(self._walk.stops) + 1, self._levels(self._walk), self.bar.now if moving else 1 << 30)
            self._show_step(self.bar.now)

    def forget(self) -> None:
        """Nothing is reserved: places do not depend on what was there before."""

    def leave(self) -> None:
        """Nothing was asked of another machine."""
        self.bar.stop()
        self._machine = self._question = self._walk = None
        self._clear()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _offer_pasids(self) -> None:
        if self._machine is None:
            return
        device, field = self.menus["probe-device"].value, self.fields["probe-pasid"]
        offered = tuple(probe_choices.pasids(self._machine, device))
        self.buttons["probe"].allow("" if device else WHY["no-device"])
        if field.options != offered:
            known = field.value in field.options or not field.value
            field.options = offered
            if known and field.value not in offered:
                field.value = offered[0]
        self._offer_addresses()

    def _offer_addresses(self) -> None:
        if self._machine is None:
            return
        try:
            pasid = probe_choices.optional_number(self.fields["probe-pasid"].value, PROBE["a-pasid"])
        except KernelError:
            return
        device = self.menus["probe-device"].value
        field, offered = self.fields["probe-address"], tuple(probe_choices.addresses(self._machine, pasid, device))
        if field.options != offered:
            known = field.value in field.options or not field.value
            field.options = offered
            if known and field.value not in offered:
                field.value = offered[0]

    def _put(self, machine: Machine, question: _Question) -> None:
        walk = question.ask(machine, caches=question.caches)
        self._walk, self._stale = walk, stale_stops(walk)
        other = question.ask(machine, caches=not question.caches)
        same = (walk.address, _code(walk)) == (other.address, _code(other))
        self._doubt = (
            "" if same else _difference(walk if question.caches else other, other if question.caches else walk)
        )

    def _levels(self, walk: Walk) -> tuple[int, ...]:
        """The steps at which another row of the picture begins."""
        path = WalkPath(walk)
        rows = {box: at for at, row in enumerate(path.rows) for box in row}
        found = [rows.get(box, 0) for box in path.boxes]
        return tuple(at + 1 for at, row in enumerate(found) if at and row != found[at - 1])

    def _at(self) -> int | None:
        """The stop at the present step; at the end the last one."""
        if self._walk is None or not self._walk.stops or not self.bar.now:
            return None
        return min(self.bar.now, len(self._walk.stops)) - 1

    def _show_step(self, step: int) -> None:
        walk = self._walk
        if walk is None:
            return
        over, at = step > len(walk.stops), self._at()
        box = WalkPath(walk).boxes[at] if at is not None and not over else "result" if over else ""
        self.view.show(walk_graph(walk, None if over else step, self._stale), box)
        self.view.selected = ""
        self.stops.show(_NO_STOP if at is None else field_table(stop_bits(walk, at)))
        self._verdict.value = self._said(walk, step, at)

    def _said(self, walk: Walk, step: int, at: int | None) -> str:
        if step > len(walk.stops):
            said = explain(walk, self._stale)
            kind = "is-fault" if walk.fault is not None else "is-page"
            return _html(kind, said.title, " ".join(said.sentences), self._doubt)
        if at is None:
            return _html("", PROBE["start"], PROBE["start-more"], "")
        bits = stop_bits(walk, at)
        stale = PROBE["stale-here"] if at in self._stale else ""
        return _html("", bits.title, f"{bits.note}. {set_fields(bits)}", stale)

    def _message(self, walk: Walk, question: _Question) -> Message:
        said = explain(walk, self._stale)
        message = say("probe", "fault" if walk.fault is not None else "done", title=said.title)
        return message.also(self._doubt).of((question.line(),))

    def _clear(self) -> None:
        self.bar.load(0, ())
        self.view.show(_NO_WALK)
        self.stops.show(_NO_STOP)
        self._verdict.value = _html("", PROBE["ask"], PROBE["ask-more"], "")

    def table(self) -> Table | None:
        """Every stop of the present walk: the picture's text twin."""
        return walk_table(self._walk, self._stale) if self._walk is not None else None


def _code(walk: Walk) -> int | None:
    return walk.fault.code if walk.fault is not None else None


def _difference(cached: Walk, fresh: Walk) -> str:
    return PROBE["differ"].format(cached=_outcome(cached), fresh=_outcome(fresh))


def _outcome(walk: Walk) -> str:
    if walk.fault is None:
        return PROBE["address"].format(address=f"{walk.address or 0:#x}")
    return PROBE["fault"].format(code=f"{walk.fault.code:#x}", name=walk.fault.name)


def _html(kind: str, title: str, more: str, doubt: str) -> str:
    loud = f'<p class="pl-doubt">▼ {escape(doubt)}</p>' if doubt else ""
    live = "polite" if kind else "off"  # a screen reader is told the outcome, not each of forty stops
    return (
        f'<div class="pl-said {kind}" role="status" aria-live="{live}"><strong>{escape(title)}</strong>'
        f"<p>{escape(more)}</p>{loud}</div>"
    )


def _running_loop() -> bool:
    """Whether there is somebody who can play."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
