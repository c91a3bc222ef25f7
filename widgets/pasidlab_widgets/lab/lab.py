"""Lab: a machine to play with. Controls on the left, live pictures on the right, time on top.

Everything that a click does is one call on the machine (or a few: a copy fills two buffers first), shown as the Python
line that repeats it. After each click, and after each cell that touched the machine, every visible picture is refreshed
once. A refusal is an answer and shown as one; a defect of the kit is shown with its traceback.
"""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as w

from pasidlab import KernelError, Machine
from pasidlab.timeline import Timeline
from pasidlab_widgets.errors import ErrorLog
from pasidlab_widgets.lab.entries import EntryPane, TablePane
from pasidlab_widgets.lab.explain import refused
from pasidlab_widgets.lab.ioasids import IoasidsPane, KeepersPane, chains_pane, ioasid_of, life_pane
from pasidlab_widgets.lab.message import Message, MessageBox, say
from pasidlab_widgets.lab.moment import moment
from pasidlab_widgets.lab.occupancy import SpacePane
from pasidlab_widgets.lab.panels import MachinePanel, MistakePanel, Panel, ProcessPanel, VmPanel
from pasidlab_widgets.lab.pictures import FlowPane, HoldersPane, Stack, map_pane, mapping_pane
from pasidlab_widgets.lab.script import LinesPane
from pasidlab_widgets.lab.still import still_html, still_text
from pasidlab_widgets.lab.surface import Surface
from pasidlab_widgets.lab.travel import TravelBar
from pasidlab_widgets.lab.watch import Watch

__all__ = ["Lab"]

_ABOVE, _BELOW = "clamp(320px, 34cqi, 440px)", "clamp(280px, 26cqi, 340px)"
_INNER = "clamp(286px, 32cqi, 406px)"


class Lab(w.VBox):
    """The lab. Without ``machine`` it makes one with an accelerator plugged in; ``lab.machine`` is that machine.

    >>> lab = Lab()
    >>> lab.press("create-vm")
    >>> lab.machine.vms, lab.message.title
    ([<VM vm1: 0 of 64 PASIDs, 0 devices, 0 processes>], 'vm1 is running')
    """

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or _ready_machine()
        self.revision = 0
        self._watch: Watch | None = None
        self._errors = ErrorLog()
        self._box = MessageBox()
        self._surface = Surface()
        self._travel = TravelBar(self.travel)
        refresh = self._errors.guard(self._refresh_controls)
        self._panels: tuple[Panel, ...] = (
            MachinePanel(self.act),
            VmPanel(self.act),
            ProcessPanel(self.act, refresh),
            MistakePanel(self.act, refresh),
        )
        self._entry = EntryPane(_BELOW)
        self._table = TablePane(_ABOVE, self._errors.guard, self._pick_entry)
        self._keepers = KeepersPane(_INNER, self._errors.guard, self.pick_ioasid)
        self._life, mapping, self._holders = life_pane(_INNER), mapping_pane(_ABOVE), HoldersPane(_BELOW)
        space = SpacePane(self._surface, self.pick_ioasid)
        ioasids = IoasidsPane([self._life, self._keepers, chains_pane(_INNER), space], self._errors.guard)
        for shown in (self._life.view, mapping.view, self._holders.view):
            shown.on_pick(self._pick_if_ioasid)
        self._stacks = (
            Stack([map_pane(_ABOVE), mapping, self._table, ioasids], self._errors.guard),
            Stack(
                [
                    FlowPane(_BELOW, self._travel_to),
                    self._entry,
                    self._holders,
                    LinesPane(_BELOW, self._travel_to),
                ],
                self._errors.guard,
            ),
        )
        for view in (self._travel, *(pane.view for stack in self._stacks for pane in stack.panes)):
            view.on_trouble(self._errors.add)
        super().__init__(self._arranged())
        for name in ("pasidlab", "pl-lab"):
            self.add_class(name)
        self._box.show(say("adopted" if machine else "welcome", "info"))
        self._watch = Watch(self.machine.timeline, self._errors.guard(self._noticed))
        self.refresh()

    # --- what a person, a cell or a test does -------------------------------------------------------------------------

    @property
    def message(self) -> Message:
        """What the lab said last."""
        return self._box.message

    def press(self, name: str) -> None:
        """Press the button of this name, as a click does; one that rests raises ``ValueError`` with its reason."""
        for panel in self._panels:
            if name in panel.buttons:
                button = panel.buttons[name]
                if button.why_not:
                    raise ValueError(f"the button {name!r} must be ready to be pressed: {button.why_not}")
                button.widget.click()
                return
        raise KeyError(f"the lab has no button {name!r}")

    def set(self, **values: str | int) -> None:
        """Choose in menus and write into fields, by name (``-`` written as ``_``): ``lab.set(vm="vm1", quota=4)``."""
        for name, value in values.items():
            key = name.replace("_", "-")
            for panel in self._panels:
                if key in panel.menus:
                    panel.menus[key].value = str(value)
                elif key in panel.fields:
                    panel.fields[key].value = value

    def show_picture(self, name: str) -> None:
        """Bring a picture to the front: ``"table"``, ``"holders"``, ..."""
        for stack in self._stacks:
            stack.open(name)

    def pick_entry(self, pasid: int) -> None:
        """Show the 512 bits of an entry of the PASID table, as a click on it does."""
        self._table.pick(f"entry:{pasid}")

    def pick_ioasid(self, ioasid: int) -> None:
        """Show who keeps an IOASID alive, as a click on it does."""
        self._keepers.choose(ioasid)
        for shown in (self._life.view, self._holders.view):
            shown.selected = f"ioasid:{ioasid}"
        self.show_picture("keepers")

    def _pick_if_ioasid(self, key: str) -> None:
        ioasid = ioasid_of(key)
        if ioasid is not None:
            self.pick_ioasid(ioasid)

    def _pick_entry(self, device: str, pasid: int) -> None:
        self._entry.choose(device, pasid)
        self.show_picture("entry")
        self._stacks[1].refresh(self.machine)

    def act(self, call: Callable[[Machine], Message]) -> None:
        """Make a call on the machine, say what came of it, and refresh once."""
        time = self.machine.timeline
        dropped, first = time.at_stake, time.now
        if dropped:
            self._forget()
        self._travel.stop()
        try:
            message = call(self.machine)
        except KernelError as error:
            message = refused(error)
        except Exception as error:
            self._errors.add(error)
            message = Message("broken", f"{type(error).__name__}: {error}")
        lines = tuple(operation.line for operation in time.operations if operation.first >= first)
        if dropped and lines:
            message = message.also(*say("future", count=dropped, s="" if dropped == 1 else "s").sentences)
        self._box.show(message.of(lines) if lines else message)
        self.refresh()

    def travel(self, move: Callable[[Timeline], None]) -> None:
        """Make a move in time and refresh once."""
        self._errors.guard(move)(self.machine.timeline)
        now = self.machine.timeline.now
        self._box.show(moment(self.machine.timeline).of((f"m.timeline.go({now})",)))
        self.refresh()

    def refresh(self) -> None:
        """Show the present step in everything that can be seen."""
        self.revision += 1
        if self._watch is not None:
            self._watch.seen()
        self._errors.guard(self._refresh)()

    def state(self) -> dict[str, object]:
        """What the lab shows, as plain data."""
        menus = {name: menu for panel in self._panels for name, menu in panel.menus.items()}
        time = self.machine.timeline
        return {
            "step": time.now,
            "last": time.last,
            "revision": self.revision,
            "message": {
                "kind": self.message.kind,
                "title": self.message.title,
                "sentences": list(self.message.sentences),
                "lines": list(self.message.lines),
            },
            "menus": {name: menu.labels for name, menu in menus.items()},
            "chosen": {name: menu.value for name, menu in menus.items()},
            "resting": self._resting(),
            "shown": [stack.shown.name for stack in self._stacks],
            "errors": list(self._errors.texts),
        }

    def close(self) -> None:
        """Stop following the machine."""
        if self._watch is not None:
            self._travel.stop()
            self._watch.close()
            self._watch = None
        super().close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        self._refresh_controls()
        self._travel.show(self.machine.timeline)
        for stack in self._stacks:
            stack.refresh(self.machine)

    def _refresh_controls(self) -> None:
        for panel in self._panels:
            panel.refresh(self.machine)
        self._surface.resting = self._resting()

    def _resting(self) -> dict[str, str]:
        """The buttons that cannot be pressed now, each with its reason."""
        buttons = {name: button for panel in self._panels for name, button in panel.buttons.items()}
        return {name: button.why_not for name, button in buttons.items() if button.why_not}

    def _noticed(self) -> None:
        """Something happened in a cell."""
        operation = self.machine.timeline.operation_now
        line = (operation.line,) if operation else ()
        self._box.show(say("cell", "info").of(line))
        self.refresh()

    def _travel_to(self, step: int) -> None:
        self.travel(lambda timeline: timeline.go(step))

    def _forget(self) -> None:
        for stack in self._stacks:
            stack.forget()

    def _arranged(self) -> list[w.Widget]:
        """The parts of the lab from top to bottom."""
        controls = w.VBox([panel.widget for panel in self._panels])
        controls.add_class("pl-controls")
        pictures = w.VBox([stack.widget for stack in self._stacks])
        pictures.add_class("pl-pictures")
        body = w.Box([controls, pictures])
        body.add_class("pl-body")
        return [self._surface, self._travel, self._box.widget, self._errors.widget, body]

    def _repr_mimebundle_(self, **more: object) -> dict[str, object]:
        bundle: dict[str, object] = super()._repr_mimebundle_(**more)
        return bundle | {"text/plain": still_text(self.machine), "text/html": still_html(self.machine)}


def _ready_machine() -> Machine:
    machine = Machine()
    machine.plug_accelerator("dsa0")
    return machine
