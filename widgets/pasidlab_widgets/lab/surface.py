"""Surface: an unseen part of the lab that does what concerns the page as a whole.

It brings the style sheet, tells Python the colours of the page, puts to rest the buttons that cannot be pressed now and
writes on them what they mean now (one message instead of one for each), lets a double click be one press where a button
asks for a second one, and keeps JupyterLab's keyboard shortcuts away from the controls
(``facts/ui.md`` Q8: else "a" inserts a cell).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import traitlets as t

from pasidlab_widgets.lab.controls import Button, Menu
from pasidlab_widgets.theme_probe import ThemeProbe
from pasidlab_widgets.view import page_style

__all__ = ["Surface"]

_HERE = Path(__file__).parent


class Surface(ThemeProbe):
    """A theme probe with the lab's style sheet. ``resting`` holds for each reason the names of the buttons that rest
    for it (of menus, as ``pick-NAME``, those that lack a choice for it), ``labels`` what stands on buttons instead of
    their usual word, by name, and whether it is loud.

    >>> Surface().dark
    False
    """

    _esm = (
        (_HERE.parent / "static" / "theme.js")
        .read_text(encoding="utf-8")
        .replace("render() {}", (_HERE / "surface.js").read_text(encoding="utf-8").strip())
    )
    _css = page_style() + (_HERE / "lab.css").read_text(encoding="utf-8")
    resting = t.Dict().tag(sync=True)
    labels = t.Dict().tag(sync=True)

    def tell(self, buttons: Mapping[str, Button], menus: Mapping[str, Menu]) -> None:
        """Say to the page how the buttons and menus are now, in at most one message."""
        resting: dict[str, list[str]] = {}
        for name, button in buttons.items():
            if button.why_not:
                resting.setdefault(button.why_not, []).append(name)
        for name, menu in menus.items():
            if menu.why_not:
                resting.setdefault(menu.why_not, []).append(f"pick-{name}")
        with self.hold_sync():
            self.resting = resting
            self.labels = {name: [button.label, button.loud] for name, button in buttons.items() if button.label}
