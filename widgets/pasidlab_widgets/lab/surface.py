"""Surface: an unseen part of the lab that brings its style sheet, tells Python the colours of the page, and keeps
JupyterLab's keyboard shortcuts away from the lab's controls (``facts/ui.md`` Q8: else "a" inserts a cell).
"""

from __future__ import annotations

from pathlib import Path

from pasidlab_widgets.theme_probe import ThemeProbe
from pasidlab_widgets.view import page_style

__all__ = ["Surface"]

_HERE = Path(__file__).parent


class Surface(ThemeProbe):
    """A theme probe with the lab's style sheet.

    >>> Surface().dark
    False
    """

    _esm = (
        (_HERE.parent / "static" / "theme.js")
        .read_text(encoding="utf-8")
        .replace("render() {}", (_HERE / "surface.js").read_text(encoding="utf-8").strip())
    )
    _css = page_style() + (_HERE / "lab.css").read_text(encoding="utf-8")
