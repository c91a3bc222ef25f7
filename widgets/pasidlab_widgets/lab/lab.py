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
from pasidlab_widgets.lab.administrators import AdministratorsPane
from pasidlab_widgets.lab.caches import CachesPane
from pasidlab_widgets.lab.compare import ComparePane
from pasidlab_widgets.lab.controls import Button, Menu
from pasidlab_widgets.lab.entries import EntryPane, TablePane
from pasidlab_widgets.lab.explain import refused, refused_before
from pasidlab_widgets.lab.hypervisor import HypervisorPane
from pasidlab_widgets.lab.ioasids import IoasidsPane, KeepersPane, chains_pane, ioasid_of, life_pane
from pasidlab_widgets.lab.memory import MemoryPane
from pasidlab_widgets.lab.message import Message, MessageBox, say
from pasidlab_widgets.lab.moment import moment
from pasidlab_widgets.lab.occupancy import SpacePane
from pasidlab_widgets.lab.panels import MachinePanel, MistakePanel, Panel, ProcessPanel, VmPanel
from pasidlab_widgets.lab.pictures import FlowPane, HoldersPane, Pane, Stack, map_pane, mapping_pane
from pasidlab_widgets.lab.probe import ProbePane
from pasidlab_widgets.lab.script import LinesPane
from pasidlab_widgets.lab.start import calls_since, ready_machine
from pasidlab_widgets.lab.still import still_html, still_text
from pasidlab_widgets.lab.surface import Surface
from pasidlab_widgets.lab.trap_actions import trapped
from pasidlab_widgets.lab.travel import TravelBar
from pasidlab_widgets.lab.watch import Watch
from pasidlab_widgets.lab.wire import QueuePane, WirePane
from pasidlab_widgets.lab.words import APIS, IOMMUS

__all__ = ["Lab"]

_ABOVE, _BELOW = "clamp(320px, 34cqi, 440px)", "clamp(280px, 26cqi, 340px)"
_INNER = "clamp(286px, 32cqi, 406px)"
_LIST = "clamp(150px, 16cqi, 220px)"
_WALK = "clamp(380px, 42cqi, 500px)"


class Lab(w.VBox):
    """The lab. Without ``machine`` it makes one with an accelerator plugged in; ``lab.machine`` is that machine.

    >>> lab = Lab()
    >>> lab.press("create-vm")
    >>> lab.machine.vms, lab.message.title
    ([<VM vm1: 0 of 64 PASIDs, 0 devices, 0 processes>], 'vm1 is running')
    """

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or ready_machine()
        self.revision = 0
        self._watch: Watch | None = None
        self._errors = ErrorLog()
        self._box = MessageBox()
        self._surface = Surface()
        self._travel = TravelBar(self.travel)
        refresh = self._errors.guard(self._refresh_controls)
        self._renewing = MachinePanel(self.act, self._errors.guard(self._start_over))
        self._panels: tuple[Panel, ...] = (
            self._renewing,
            VmPanel(self.act, refresh),
            ProcessPanel(self.act, refresh),
            MistakePanel(self.act, refresh),
        )
        self._entry = EntryPane(_BELOW, self.open_memory)
        self._table = TablePane(_ABOVE, self._errors.guard, self._pick_entry, self.open_memory)
        self._probe = ProbePane(_WALK, self._errors.guard, self._box.show, self.open_memory)
        self._memory = MemoryPane(_BELOW, self._errors.guard, self._box.show)
        self._wire = WirePane(_ABOVE, self._errors.guard)
        self._queue = QueuePane(_ABOVE, self._errors.guard, self._run_chosen)
        self._hypervisor = HypervisorPane(_LIST, self._errors.guard, self.act)
        self._side_by_side = ComparePane(_ABOVE, self._errors.guard)
        self._keepers = KeepersPane(_INNER, self._errors.guard, self.pick_ioasid)
        self._life, mapping, self._holders = life_pane(_INNER), mapping_pane(_ABOVE), HoldersPane(_BELOW)
        space, allowed = SpacePane(self._surface, self.pick_ioasid), AdministratorsPane(_INNER)
        inner: list[Pane] = [self._life, self._keepers, chains_pane(_INNER), space, allowed]
        self._ioasids = IoasidsPane(inner, self._errors.guard)
        for shown in (self._life.view, mapping.view, self._holders.view):
            shown.on_pick(self._pick_if_ioasid)
        self._stacks = (
            Stack(
                [
                    map_pane(_ABOVE),
                    mapping,
                    self._table,
                    self._ioasids,
                    self._probe,
                    self._wire,
                    self._queue,
                    self._hypervisor,
                    self._side_by_side,
                ],
                self._errors.guard,
            ),
            Stack(
                [
                    FlowPane(_BELOW, self._travel_to),
                    self._entry,
                    self._holders,
                    LinesPane(_BELOW, self._travel_to),
                    self._memory,
                    CachesPane(_BELOW, self.open_memory),
                ],
                self._errors.guard,
            ),
        )
        panes = [pane for stack in self._stacks for pane in stack.panes]
        for view in (self._travel, *(view for pane in panes for view in (pane.view, *getattr(pane, "beside", ())))):
            view.on_trouble(self._errors.add)
        super().__init__(self._arranged())
        for name in ("pasidlab", "pl-lab"):
            self.add_class(name)
        self._box.show(say("adopted" if machine else "welcome", "info"))
        self._begin()
        self.refresh()

    # --- what a person, a cell or a test does -------------------------------------------------------------------------

    @property
    def message(self) -> Message:
        """What the lab said last."""
        return self._box.message

    def press(self, name: str) -> None:
        """Press the button of this name, as a click does; one that rests raises ``ValueError`` with its reason."""
        button = self._buttons.get(name)
        if button is None:
            raise KeyError(f"the lab has no button {name!r}")
        if button.why_not:
            raise ValueError(f"the button {name!r} must be ready to be pressed: {button.why_not}")
        button.widget.click()

    def set(self, **values: str | int) -> None:
        """Choose in menus and write into fields, by name (``-`` written as ``_``): ``lab.set(vm="vm1", quota=4)``."""
        for name, value in values.items():
            key = name.replace("_", "-")
            for panel in self._controls:
                if key in panel.menus:
                    panel.menus[key].value = str(value)
                elif key in panel.fields:
                    panel.fields[key].value = value

    def new_machine(self, quota_policy: str = "fixed", pasid_api: str = "vfio", iommu: str = "vtd") -> None:
        """Leave the machine as it is and go on with a fresh one, as at the lab's start: another ``lab.machine``.

        ``ValueError`` for words that a machine does not know.
        """
        machine = ready_machine(quota_policy, pasid_api, iommu)
        self._travel.stop()
        if self._watch is not None:
            self._watch.close()
        for stack in self._stacks:
            stack.leave()
        self._errors.clear()
        self.machine = machine
        self._begin()
        lines = tuple(operation.line for operation in machine.timeline.operations)
        facts = {"policy": quota_policy, "api": APIS[pasid_api], "iommu": IOMMUS[iommu]}
        self._box.show(say("new-machine", **facts).of(lines))
        self.refresh()

    def show_picture(self, name: str) -> None:
        """Bring a picture to the front: ``"table"``, ``"holders"``, ..."""
        for stack in self._stacks:
            stack.open(name)

    def pick_entry(self, pasid: int) -> None:
        """Show the bits of an entry of a device's table of PASIDs, as a click on it does."""
        self._table.pick(f"entry:{pasid}")

    def probe(
        self,
        device: str,
        pasid: int | None,
        address: int,
        access: str = "read",
        *,
        privileged: bool = False,
        caches: bool = False,
    ) -> None:
        """Ask the IOMMU what would happen to a request and show the walk, as the pane "Probe" does.

        >>> lab = Lab(); lab.probe("dsa0", None, 0x1000); lab.message.title
        '0x1000 leads to host-physical 0x1000'
        """
        self.show_picture("probe")
        self.set(probe_device=device, probe_access=access, probe_caches="caches" if caches else "tables")
        self.set(probe_pasid="none" if pasid is None else str(pasid), probe_privileged=privileged)
        self.set(probe_address=f"{address:#x}")
        self.press("probe")

    def open_memory(self, address: int, vm: str = "") -> None:
        """Show the frame around an address, and the structure there; of ``vm`` the address is guest-physical."""
        self._memory.open(address, vm)
        self.show_picture("memory")
        self._stacks[1].refresh(self.machine)

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
            waits = trapped(self.machine) if error.name == "EINPROGRESS" else None
            message = waits or refused(error, behind=refused_before(self.machine, first, error))
        except Exception as error:
            self._errors.add(error)
            message = Message("broken", f"{type(error).__name__}: {error}")
        lines = tuple(operation.line for operation in time.operations if operation.first >= first)
        if dropped and lines:
            message = message.also(*say("future", count=dropped, s="" if dropped == 1 else "s").sentences)
        self._box.show(message.of(message.lines or lines))
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
            "menus": {name: menu.labels for name, menu in self._menus.items()},
            "chosen": {name: menu.value for name, menu in self._menus.items()},
            "resting": {name: button.why_not for name, button in self._buttons.items() if button.why_not},
            "labels": {name: button.label or button.widget.description for name, button in self._buttons.items()},
            "shown": [stack.shown.name for stack in self._stacks],
            "errors": list(self._errors.texts),
        }

    def close(self) -> None:
        """Stop following the machine."""
        if self._watch is not None:
            self._travel.stop()
            self._probe.bar.stop()
            self._side_by_side.bar.stop()
            self._watch.close()
            self._watch = None
        super().close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Follow the machine from now on."""
        self._watch = Watch(self.machine.timeline, self._errors.guard(self._noticed))
        for panel in self._panels:
            panel.start(self.machine)

    def _start_over(self, quota_policy: str, pasid_api: str, iommu: str) -> None:
        """The button of a new machine: at once if there is nothing to lose, else by a second press."""
        calls = calls_since(self.machine)
        if self._renewing.asked or not calls:
            self.new_machine(quota_policy, pasid_api, iommu)
            return
        self._travel.stop()
        self._renewing.ask()
        self._surface.tell(self._buttons, self._menus)
        self._box.show(say("really", "info", count=calls, s="" if calls == 1 else "s"))

    def _refresh(self) -> None:
        self._refresh_controls()
        self._travel.show(self.machine.timeline, waits=self.machine.trap_now is not None)
        for stack in self._stacks:
            stack.refresh(self.machine)

    def _refresh_controls(self) -> None:
        for panel in self._panels:
            panel.refresh(self.machine)
        self._queue.refresh(self.machine)
        self._hypervisor.refresh(self.machine)
        self._surface.tell(self._buttons, self._menus)

    @property
    def _buttons(self) -> dict[str, Button]:
        return {name: button for panel in self._controls for name, button in panel.buttons.items()}

    @property
    def _menus(self) -> dict[str, Menu]:
        return {name: menu for panel in self._controls for name, menu in panel.menus.items()}

    @property
    def _controls(self) -> tuple[Panel | ProbePane | MemoryPane | WirePane | QueuePane | HypervisorPane, ...]:
        """Whatever has buttons, menus and fields."""
        return *self._panels, self._probe, self._memory, self._wire, self._queue, self._hypervisor

    def _run_chosen(self) -> None:
        """The button "Run next" of the pane of queues: that of the control panel."""
        self._buttons["run-next"].widget.click()

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
