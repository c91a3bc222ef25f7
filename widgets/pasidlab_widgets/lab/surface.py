"""Surface: an unseen part of the lab that does what concerns the page as a whole.

It brings the style sheet, tells Python the colours of the page, puts to rest the buttons that cannot be pressed now
(one message instead of one for each), and keeps JupyterLab's keyboard shortcuts away from the controls
(``facts/ui.md`` Q8: else "a" inserts a cell).
"""

from __future__ import annotations

from pathlib import Path

import traitlets as t

from pasidlab_widgets.theme_probe import ThemeProbe
from pasidlab_widgets.view import page_style

__all__ = ["Surface"]

_HERE = Path(__file__).parent


class Surface(ThemeProbe):
    """A theme probe with the lab's style sheet. ``resting`` holds the reasons of the buttons that rest, by name.

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
