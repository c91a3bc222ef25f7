"""The small parts of the control panel: buttons, menus and fields, each with its words from the catalogue.

A menu offers what makes sense now and keeps its choice while that exists. A button that rests says why in its tooltip.
Setting the same thing again sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets as w

from pasidlab_widgets.lab.words import BUTTONS, EMPTY, FIELDS

__all__ = ["Button", "Menu", "check", "combobox", "number", "text"]

_FULL = {"width": "auto", "flex": "1 1 auto", "min_width": "0"}


class Button:
    """A button of the catalogue. ``why_not`` says why it rests now; empty while it can be pressed. ``label`` stands on
    it instead of the catalogue's word; empty if that word does.

    Both are told to the page in one message for all buttons (:class:`~pasidlab_widgets.lab.surface.Surface`).
    A press that comes all the same is a call like any other: the machine refuses it.

    >>> pressed = []
    >>> button = Button("check", lambda: pressed.append(1)); button.widget.click(); pressed
    [1]
    """

    def __init__(self, name: str, callback: Callable[[], object], style: str = "") -> None:
        label, hint = BUTTONS[name]
        self.why_not = self.label = ""
        self.loud = False
        self.widget = w.Button(description=label, tooltip=hint, button_style=style, layout=w.Layout(**_FULL))
        self.widget.add_class(f"pl-do-{name}")
        self.widget.on_click(lambda _: callback())

    def relabel(self, label: str = "", loud: bool = False) -> None:
        """Let something more particular stand on it; the words of the catalogue without ``label``."""
        self.label, self.loud = label, loud

    def allow(self, why_not: str = "") -> None:
        """Rest with a reason, or be ready."""
        self.why_not = why_not


class Menu:
    """A menu whose options are (label, key); ``value`` is a key, empty while there is nothing to choose. ``why_not``
    says why something is not offered (its tooltip, brought by the surface); empty if nothing is missing.

    >>> menu = Menu("vm"); menu.offer([("vm1", "vm1"), ("vm2", "vm2")]); menu.value = "vm2"
    >>> menu.offer([("vm2", "vm2")]); menu.value
    'vm2'
    """

    def __init__(self, name: str, callback: Callable[[], object] | None = None) -> None:
        self.name = name
        self.why_not = ""
        self._offering = False
        self.widget = w.Dropdown(options=[(EMPTY["choose"], "")], description=FIELDS[name], layout=w.Layout(**_FULL))
        self.widget.add_class(f"pl-pick-{name}")
        if callback:
            self.widget.observe(lambda _: None if self._offering else callback(), "value")

    @property
    def value(self) -> str:
        """The key that is chosen."""
        return str(self.widget.value or "")

    @value.setter
    def value(self, key: str) -> None:
        self.widget.value = key

    def show(self, key: str) -> None:
        """Choose without telling anybody: the choice was made elsewhere."""
        self._offering = True
        try:
            self.widget.value = key
        finally:
            self._offering = False

    @property
    def labels(self) -> list[str]:
        """What a person reads in the menu."""
        return [label for label, _ in self.widget.options]

    def explain(self, words: str = "") -> None:
        """Say why something is not offered."""
        self.why_not = words

    def offer(self, options: Sequence[tuple[str, str]]) -> None:
        """Offer other options; the choice stays if it is among them, else the first is chosen."""
        wanted = tuple(options) or ((EMPTY["choose"], ""),)
        if tuple(self.widget.options) == wanted:
            return
        keys = [key for _, key in wanted]
        chosen = self.value if self.value in keys else keys[0]
        self._offering = True
        try:
            with self.widget.hold_sync():
                self.widget.options = wanted
                self.widget.value = chosen
                self.widget.disabled = not options
        finally:
            self._offering = False


def text(name: str, value: str) -> w.Text:
    """A field for a text; every key that is pressed counts."""
    return w.Text(value=value, description=FIELDS[name], continuous_update=True, layout=w.Layout(**_FULL))


def number(name: str, value: int) -> w.IntText:
    """A field for a number; wrong ones are refused by the machine, not by the field."""
    return w.IntText(value=value, description=FIELDS[name], layout=w.Layout(**_FULL))


def combobox(name: str) -> w.Combobox:
    """A field with suggestions, in which anything may be written."""
    made = w.Combobox(description=FIELDS[name], ensure_option=False, continuous_update=False, layout=w.Layout(**_FULL))
    made.add_class(f"pl-write-{name}")
    return made


def check(name: str) -> w.Checkbox:
    """A box to tick."""
    made = w.Checkbox(description=FIELDS[name], indent=False, layout=w.Layout(width="auto"))
    made.add_class(f"pl-tick-{name}")
    return made
