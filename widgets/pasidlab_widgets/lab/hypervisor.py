"""The pane "Hypervisor": traps of guests wait in a list, and a person decides what becomes of each.

While a call waits the timeline stands at its trap, and so do all pictures. After a decision the ladder below shows what
followed, and this pane says what the guest was told, and in what it is wrong about its PASIDs from now on.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

import ipywidgets as w

from pasidlab.errors import KernelError
from pasidlab.views.changes import mark_table
from pasidlab.views.traps_beliefs import trap_table
from pasidlab.views.wire_words import TRAPS
from pasidlab_widgets.lab import choices
from pasidlab_widgets.lab.controls import Button, Menu, text
from pasidlab_widgets.lab.hypervisor_words import HYPERVISOR
from pasidlab_widgets.lab.message import Message
from pasidlab_widgets.lab.probe_choices import number
from pasidlab_widgets.lab.trap_actions import believed, decide, forget, hold
from pasidlab_widgets.lab.words import LABELS, WHY
from pasidlab_widgets.table import TableView

if TYPE_CHECKING:
    from pasidlab.handles.hypervisor import WaitingTrap
    from pasidlab.machine import Machine

__all__ = ["HypervisorPane"]

Act = Callable[[Callable[["Machine"], Message]], None]
Guard = Callable[[Callable[[], None]], Callable[[], None]]


class HypervisorPane:
    """The list of traps and the buttons that decide them. ``act`` makes a call and shows what came of it."""

    name = "hypervisor"

    def __init__(self, height: str, guard: Guard, act: Act) -> None:
        self._machine: Machine | None = None
        self._act = act
        self._vm = ""
        self._at: int | None = None
        self.menus = {"trap": Menu("trap", guard(self._chosen))}
        self.fields = {"alter-to": text("alter-to", "1")}
        self.fields["alter-to"].add_class("pl-write-alter-to")
        self.buttons = {
            "hold": Button("hold", lambda: act(self._hold)),
            "serve": Button("serve", lambda: act(lambda m: self._decide(m, "serve")), "primary"),
            "refuse": Button("refuse", lambda: act(lambda m: self._decide(m, "refuse")), "warning"),
            "alter": Button("alter", lambda: act(lambda m: self._decide(m, "alter")), "warning"),
            "forget": Button("forget", lambda: act(self._forget)),
        }
        self.view = TableView(height=height)
        self.view.on_pick(self._picked)
        self._said = w.HTML()
        self._said.add_class("pl-verdict")
        self.widget: w.Widget = self._arranged()

    def _arranged(self) -> w.Widget:
        buttons = {name: button.widget for name, button in self.buttons.items()}
        first = w.Box([buttons["hold"], self.menus["trap"].widget])
        second = w.Box(
            [buttons["serve"], buttons["refuse"], self.fields["alter-to"], buttons["alter"], buttons["forget"]]
        )
        for row in (first, second):
            row.add_class("pl-asking")
        whole = w.VBox([first, second, self._said, self.view])
        whole.add_class("pl-hypervisor")
        return whole

    # --- what a person does -------------------------------------------------------------------------------------------

    def _hold(self, machine: Machine) -> Message:
        self._vm = ""
        return hold(machine, not machine.holds_traps)

    def _decide(self, machine: Machine, answer: str) -> Message:
        one = self._one(machine)
        if one is None:
            raise KernelError("EINVAL", WHY["no-trap"])
        value = number(self.fields["alter-to"].value, HYPERVISOR["a-number"]) if answer == "alter" else None
        self._vm = one.trap.vm
        return decide(machine, answer, value, one.number)

    def _forget(self, machine: Machine) -> Message:
        one = self._one(machine)
        if one is None:
            raise KernelError("EINVAL", WHY["no-trap"])
        return forget(machine, one.number)

    def _picked(self, key: str) -> None:
        """A row was picked: that trap is meant from now on."""
        found = key.partition(":")[2]
        if found in [value for _, value in self.menus["trap"].widget.options]:
            self.menus["trap"].value = found

    def _chosen(self) -> None:
        if self._machine is not None:
            self.draw(self._machine)

    def _one(self, machine: Machine) -> WaitingTrap | None:
        """The trap that is chosen."""
        chosen = self.menus["trap"].value
        return next((one for one in machine.traps if str(one.number) == chosen), None)

    # --- what the lab does --------------------------------------------------------------------------------------------

    def refresh(self, machine: Machine) -> None:
        """Offer the traps that wait, the one at which the pictures stand first of all; what can be pressed now."""
        self.menus["trap"].offer(choices.traps(machine))
        now = machine.trap_now
        if now is not None and now.number != self._at:
            self.menus["trap"].show(str(now.number))
        self._at = now.number if now is not None else None
        one = self._one(machine)
        missing = "" if one is not None else WHY["no-trap"]
        for name in ("serve", "refuse", "forget"):
            self.buttons[name].allow(missing)
        self.buttons["alter"].allow(missing or ("" if one is not None and one.trap.number else WHY["no-number"]))
        self.buttons["hold"].relabel(LABELS["hold"] if machine.holds_traps else "", loud=machine.holds_traps)

    def draw(self, machine: Machine) -> None:
        """Show the present list, and what the guest of the last decision believes now."""
        self._machine = machine
        self.view.show(mark_table(self.view.table, trap_table(machine)))
        one = self._one(machine)
        self.view.selected = f"trap:{one.number}" if one is not None else ""
        self._said.value = self._words(machine, one)

    def forget(self) -> None:
        """Nothing is reserved."""

    def leave(self) -> None:
        """Nothing waits in another machine."""
        self._machine = self._at = self.view.table = None
        self._vm = self.view.selected = ""

    # --- words --------------------------------------------------------------------------------------------------------

    def _words(self, machine: Machine, one: WaitingTrap | None) -> str:
        wrong = believed(machine, self._vm) if self._vm else []
        agree = [TRAPS["agree"].format(vm=self._vm)] if self._vm in machine.vmms and not wrong else []
        if one is None:
            name = "on" if machine.holds_traps else "off"
            return _html("", HYPERVISOR[name], HYPERVISOR[f"{name}-more"], wrong, agree)
        now = machine.trap_now
        if now is not None and now.number == one.number:
            trap = one.trap
            name = "at-more" if trap.number else "at-fixed"
            more = HYPERVISOR[name].format(number=trap.number, vm=trap.vm, refusal=trap.refusal)
            does = HYPERVISOR[f"does-{trap.kind}"]
            return _html("is-page", HYPERVISOR["at"].format(trap=trap), f"{does} {more}", wrong, agree)
        count = len(machine.traps)
        title = HYPERVISOR["elsewhere"].format(count=count, s=_s(count), verb="s" * (count == 1))
        return _html("", title, HYPERVISOR["elsewhere-more"], wrong, agree)


def _html(kind: str, title: str, more: str, wrong: list[str], agree: list[str]) -> str:
    loud = "".join(f'<p class="pl-doubt">▼ {escape(sentence)}</p>' for sentence in wrong)
    calm = "".join(f"<p>{escape(sentence)}</p>" for sentence in agree)
    return (
        f'<div class="pl-said {kind}" role="status" aria-live="polite"><strong>{escape(title)}</strong>'
        f"<p>{escape(more)}</p>{loud}{calm}</div>"
    )


def _s(count: int) -> str:
    return "" if count == 1 else "s"
