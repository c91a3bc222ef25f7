"""The control panel: four groups of controls, and what each button calls.

A panel knows its widgets, what they offer at the present step, and the call that a press means. It hands the call to
``act`` (the lab), which makes it, says what came of it, and refreshes everything once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Final

import ipywidgets as w

from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.kernel.ioasid.quota import QUOTA_POLICIES
from pasidlab.machine import PASID_APIS
from pasidlab.timeline import HOST
from pasidlab_widgets.lab import actions, choices
from pasidlab_widgets.lab.controls import Button, Menu, number, text
from pasidlab_widgets.lab.hypervisor_words import NUMBERS, OWN_NUMBERS
from pasidlab_widgets.lab.message import Message
from pasidlab_widgets.lab.mistakes import attempt, description, never, offered, stage_of
from pasidlab_widgets.lab.words import APIS, GROUPS, IOMMUS, LABELS, POLICIES, WHY

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["MachinePanel", "MistakePanel", "Panel", "ProcessPanel", "VmPanel"]

Act = Callable[[Callable[["Machine"], Message]], None]
_CUT: Final = 150
"""Longer hints do not fit into their place."""


class Panel:
    """A group of controls. ``buttons``, ``menus`` and ``fields`` are known by name."""

    def __init__(self, name: str, act: Act) -> None:
        self._name = name
        self._act = act
        self.buttons: dict[str, Button] = {}
        self.menus: dict[str, Menu] = {}
        self.fields: dict[str, w.Text | w.IntText] = {}
        self.widget = w.VBox()

    def _button(self, name: str, call: Callable[[Machine], Message], style: str = "") -> w.Button:
        made = Button(name, lambda: self._act(call), style)
        self.buttons[name] = made
        return made.widget

    def _menu(self, name: str, callback: Callable[[], object] | None = None) -> w.Dropdown:
        made = Menu(name, callback)
        self.menus[name] = made
        return made.widget

    def _field(self, name: str, field: w.Text | w.IntText) -> w.Text | w.IntText:
        self.fields[name] = field
        field.add_class(f"pl-write-{name}")
        return field

    def _show(self, *rows: w.Widget | tuple[w.Widget, ...]) -> None:
        head = w.HTML(f"<h4>{GROUPS[self._name]}</h4>")
        lines = [row if isinstance(row, w.Widget) else w.HBox(list(row)) for row in rows]
        for line in lines:
            line.add_class("pl-row")
        self.widget.children = [head, *lines]
        self.widget.add_class("pl-group")
        self.widget.add_class(f"pl-group-{self._name}")

    def start(self, machine: Machine) -> None:
        """Begin with a machine: what was written for another one makes no sense here."""

    def refresh(self, machine: Machine) -> None:
        """Offer what makes sense now."""


class MachinePanel(Panel):
    """Hardware, invariants, work that waits, and another machine with another administrator.

    ``renew`` is called with the policy, the interface and the IOMMU of the machine that is wished for. ``asked`` is
    whether the next press would be the second one.
    """

    def __init__(self, act: Act, renew: Callable[[str, str, str], object]) -> None:
        super().__init__("machine", act)
        name = self._field("device-name", text("device-name", "dsa1"))
        self.asked = False
        policy, api, work = self._menu("policy"), self._menu("api"), self._menu("work")
        iommu, values = self._menu("iommu"), ("policy", "api", "iommu")
        self.menus["iommu"].offer([(IOMMUS[key], key) for key in FAMILIES])
        self.menus["policy"].offer([(POLICIES[key], key) for key in QUOTA_POLICIES])
        self.menus["api"].offer([(APIS[key], key) for key in PASID_APIS])
        again = Button("new-machine", lambda: renew(*(self.menus[name].value for name in values)))
        self.buttons["new-machine"] = again
        again.widget.add_class("pl-twice")
        self._show(
            (name, self._button("plug", lambda m: actions.plug(m, name.value))),
            (
                self._button("check", actions.check),
                self._button("run-next", lambda m: actions.run(m, everything=False, number=self.menus["work"].value)),
                self._button("run-all", lambda m: actions.run(m, everything=True)),
            ),
            work,
            iommu,
            policy,
            (api, again.widget),
        )

    def start(self, machine: Machine) -> None:
        """The administrator of this machine, and the first free name."""
        self.menus["iommu"].show(machine.iommu)
        self.menus["policy"].show(machine.quota_policy)
        self.menus["api"].show(machine.pasid_api)
        self.fields["device-name"].value = choices.free_name("dsa", machine.functions.keys(), 0)

    def ask(self, asked: bool = True) -> None:
        """Let the button ask for a second press, or no more."""
        self.asked = asked
        self.buttons["new-machine"].relabel(LABELS["new-machine"] if asked else "", loud=asked)

    def refresh(self, machine: Machine) -> None:
        """Waiting work, and a free name for the next accelerator. Whoever does something else has changed his mind."""
        self.ask(False)
        self.menus["work"].offer(choices.work(machine))
        for name in ("run-next", "run-all"):
            self.buttons[name].allow("" if machine.pending else WHY["no-work"])
        _suggest(self.fields["device-name"], "dsa", machine.functions.keys(), 0)


class VmPanel(Panel):
    """Virtual machines and what is assigned to them."""

    def __init__(self, act: Act, changed: Callable[[], object]) -> None:
        super().__init__("vm", act)
        name = self._field("vm-name", text("vm-name", "vm1"))
        quota = self._field("quota", number("quota", 64))
        vm, device, queue = self._menu("vm", changed), self._menu("device"), self._menu("queue")
        numbers = self._menu("numbers", changed)
        self._allowed = w.HTML()
        self.menus["numbers"].offer([(label, key) for key, (label, _) in NUMBERS.items()])
        self._show(
            (name, quota),
            numbers,
            (
                self._button("create-vm", lambda m: self._create(m, name.value, quota.value), "primary"),
                self._button("set-quota", lambda m: actions.set_quota(m, self.menus["vm"].value, quota.value)),
            ),
            self._allowed,
            (vm, device),
            (queue, self._button("assign-adi", lambda m: actions.assign_adi(m, *self._choice(), queue.value))),
            (
                self._button("assign-pf", lambda m: actions.assign_pf(m, *self._choice())),
                self._button("crash", lambda m: actions.crash(m, self.menus["vm"].value)),
            ),
        )

    def _choice(self) -> tuple[str, str]:
        return self.menus["device"].value, self.menus["vm"].value

    def _create(self, machine: Machine, name: str, quota: int) -> Message:
        return actions.create_vm(machine, name, quota, self.menus["numbers"].value)

    def start(self, machine: Machine) -> None:
        """The first free name."""
        self.fields["vm-name"].value = choices.free_name("vm", machine.vmms.keys())

    def refresh(self, machine: Machine) -> None:
        """VMs, devices, what the chosen VM may have, and a free name for the next VM."""
        self.menus["vm"].offer(choices.vms(machine))
        self.menus["device"].offer(choices.devices(machine))
        self.menus["queue"].offer(choices.modes(machine))
        architecture = FAMILIES[machine.iommu].architecture
        self.menus["queue"].explain("" if architecture.enqueues else architecture.why_no_enqueue)
        no_vm = "" if machine.vms else WHY["no-vm"]
        no_device = "" if len(machine.functions) else WHY["no-device"]
        no_adi = WHY["no-adi"].format(reason=machine.kernel.iommu.why_no_aux) if _whole(machine) else ""
        self.buttons["assign-adi"].allow(no_adi or no_device or no_vm)
        self.buttons["assign-pf"].allow(no_device or no_vm)
        chosen = self.menus["vm"].value
        for name in ("crash", "set-quota"):
            self.buttons[name].allow(no_vm)
        self.buttons["set-quota"].relabel(LABELS["set-quota"].format(vm=chosen) if chosen else "")
        self.menus["numbers"].offer([(label, key) for key, (label, _) in _numbers(machine).items()])
        policy = self.menus["numbers"].value
        hint = NUMBERS[policy][1] if policy else choices.allowance(machine, chosen)
        self._allowed.value = _hint(hint, no_adi)
        _suggest(self.fields["vm-name"], "vm", machine.vmms.keys(), 1)


class ProcessPanel(Panel):
    """Processes, in VMs and on the host, and what they do with a device."""

    def __init__(self, act: Act, changed: Callable[[], object]) -> None:
        super().__init__("process", act)
        name = self._field("process-name", text("process-name", "app"))
        words = self._field("text", text("text", "hello, device"))
        words.observe(lambda _: changed(), "value")
        where = self._menu("where")
        process, opened = self._menu("process", changed), self._menu("opened", changed)
        self._show(
            (where, name),
            self._button("spawn", lambda m: actions.spawn(m, self.menus["where"].value, name.value), "primary"),
            process,
            opened,
            (
                self._button("bind", lambda m: actions.bind(m, *self._choice()), "primary"),
                self._button("unbind", lambda m: actions.unbind(m, *self._choice())),
                self._button("free-early", lambda m: actions.free_early(m, self.menus["process"].value)),
            ),
            words,
            (
                self._button("copy", lambda m: actions.copy(m, *self._choice(), words.value), "primary"),
                self._button("submit", lambda m: actions.submit(m, *self._choice(), words.value)),
                self._button("kill", lambda m: actions.kill(m, self.menus["process"].value)),
            ),
        )

    def _choice(self) -> tuple[str, str]:
        return self.menus["process"].value, self.menus["opened"].value

    def refresh(self, machine: Machine) -> None:
        """Processes, the devices that the chosen one can open, and what it can do with the chosen device."""
        self.menus["where"].offer(choices.places(machine))
        self.menus["process"].offer(choices.processes(machine))
        process = self.menus["process"].value
        self.menus["opened"].offer(choices.openable(machine, process))
        device = self.menus["opened"].value
        missing = WHY["no-process"] if not process else WHY["nothing-to-open"] if not device else ""
        facts = {"process": process, "device": device}
        is_bound = not missing and choices.bound(choices.app_of(machine, process), device)
        unbound = missing or ("" if is_bound else WHY["not-bound"].format(**facts))
        self.buttons["bind"].allow(missing or (WHY["bound"].format(**facts) if is_bound else ""))
        self.buttons["unbind"].allow(unbound)
        for name in ("copy", "submit"):
            self.buttons[name].allow(unbound or ("" if self.fields["text"].value else WHY["no-text"]))
        self.buttons["kill"].allow("" if process else WHY["no-process"])
        self.buttons["free-early"].allow(_not_to_free(machine, process))


class MistakePanel(Panel):
    """Things that must be refused."""

    def __init__(self, act: Act, changed: Callable[[], object]) -> None:
        super().__init__("mistake", act)
        menu = self._menu("mistake", changed)
        self._words = w.HTML()
        self._show(
            menu, self._words, self._button("mistake", lambda m: attempt(m, self.menus["mistake"].value), "warning")
        )

    def start(self, machine: Machine) -> None:
        """The mistakes of this machine. One that nobody can make on it does not stay chosen."""
        menu, options = self.menus["mistake"], offered(machine)
        menu.offer(options)
        if never(machine, menu.value):
            menu.show(options[0][1])

    def refresh(self, machine: Machine) -> None:
        """What the chosen mistake is, or what it needs."""
        chosen = self.menus["mistake"].value
        words = description(machine, chosen)
        self._words.value = _hint(words)
        self.buttons["mistake"].allow("" if stage_of(machine, chosen) else words)


def _whole(machine: Machine) -> bool:
    """Whether guests own their tables of PASIDs, which the host binds as a whole."""
    return FAMILIES[machine.iommu].binds_tables


def _numbers(machine: Machine) -> Mapping[str, tuple[str, str]]:
    """The policies that a new VM may have: none where the guest owns its table."""
    return OWN_NUMBERS if _whole(machine) else NUMBERS


def _hint(words: str, more: str = "") -> str:
    """A hint. Under the pointer appears what there is ``more`` to say, and the whole of a long one, which is cut."""
    told = more or (words if len(words) > _CUT else "")
    title = f' title="{escape(told)}"' if told else ""
    return f'<div class="pl-hint"{title}>{escape(words)}</div>'


def _not_to_free(machine: Machine, process: str) -> str:
    """Why a process cannot give its PASID back early."""
    if not process:
        return WHY["no-process"]
    app = choices.app_of(machine, process)
    if app.altitude == HOST:
        return WHY["host-process"].format(process=app.name)
    if app.pasid is None:
        return WHY["no-pasid"].format(process=app.name)
    if _whole(machine):
        return WHY["own-numbers"].format(reason=machine.kernel.iommu.why_whole_tables)
    owned = app.pasid in machine.vm(app.altitude).pasids
    return "" if owned else WHY["freed"].format(process=app.name, pasid=app.pasid)


def _suggest(field: w.Text, stem: str, taken: list[str], first: int) -> None:
    """Put the next free name into a field whose name is taken by now; leave what a person has written."""
    if field.value in taken:
        field.value = choices.free_name(stem, list(taken), first)
