"""ThemeProbe: tells Python the colours of the page, for what is drawn on a canvas and follows no style sheet."""

from __future__ import annotations

import anywidget
import traitlets as t

from pasidlab_widgets.view import STATIC

__all__ = ["ThemeProbe"]


class ThemeProbe(anywidget.AnyWidget):
    """An invisible widget; observe ``colours`` (``paper``, ``ink``, ``grid`` as ``#rrggbb``) and ``dark``.

    Show it once on the page: it reports when it appears, and whenever the page's theme is switched.

    >>> ThemeProbe().colours["paper"]
    '#ffffff'
    """

    _esm = (STATIC / "theme.js").read_text(encoding="utf-8")
    dark = t.Bool(False).tag(sync=True)
    colours = t.Dict(default_value={"paper": "#ffffff", "ink": "#1b1f24", "grid": "#d0d7de"}).tag(sync=True)
