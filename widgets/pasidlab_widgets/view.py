"""What every live view has: a page side, state as plain data, typed messages, and errors that are seen.

The bridge is thin: a view *publishes* values by name; the page gets all of them when it appears and afterwards only
what changed, entry by entry for mappings. So a click costs one small message a view, and a second view or a reloaded
page starts from the present. Nothing is drawn here: :mod:`pasidlab.views` turns figures into data, the page turns
data into pixels.

Synced traits are not used for this state because they send a whole mapping for one changed entry, and because a page
that is opened later would start from the state of the widget's creation.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import anywidget
import traitlets as t

from pasidlab.views import style
from pasidlab.views.escape import address, key_of

__all__ = ["STATIC", "PageError", "Picked", "View", "page_side", "page_style"]

STATIC = Path(__file__).parent / "static"

_LONG = 1500
"""Characters from which on a message is compressed."""
Picked = Callable[[str], None]
"""Called with the key of the box, arrow or row that a person picked."""


def page_side(name: str) -> str:
    """The JavaScript of a view: what all share, then its own file."""
    return "\n".join((STATIC / part).read_text(encoding="utf-8") for part in ("view.js", f"{name}.js"))


def page_style() -> str:
    """The style sheet of live views: the theme's, then what only live pictures need."""
    return style.live() + (STATIC / "view.css").read_text(encoding="utf-8")


class PageError(RuntimeError):
    """Something went wrong in the page; the text is the browser's."""


class View(anywidget.AnyWidget):
    """Base of the live views. ``selected`` is the key of what is marked; assigning it marks it in the page.

    Callbacks given to :meth:`on_pick` run for each pick. ``on_trouble`` gets the text of an error that the page
    reports (the page shows it as well) and the exceptions of callbacks; without it those are raised.
    """

    selected = t.Unicode("")
    height = t.Unicode("")
    _css: ClassVar[str] = page_style()

    def __init__(self, *, selected: str = "", height: str = "", **more: object) -> None:
        self._state: dict[str, object] = {"revision": 0, "selected": address(selected), "height": height}
        self._picked: list[Picked] = []
        self._trouble: Callable[[BaseException], None] | None = None
        super().__init__(selected=selected, height=height, **more)
        self.on_msg(self._receive)
        self.observe(lambda change: self.publish(selected=address(change["new"])), "selected")
        self.observe(lambda change: self.publish(height=change["new"]), "height")

    @property
    def state(self) -> Mapping[str, object]:
        """What the page shows, as plain data."""
        return dict(self._state)

    def publish(self, **values: object) -> None:
        """Give these values to the page; only differences travel, in one message, and none if there is no difference.

        >>> view = View(height="10px")
        >>> view.publish(states={"a": "s-live"})
        >>> view.state["revision"]
        1
        """
        plain: dict[str, object] = {}
        merge: dict[str, dict[str, object]] = {}
        for name, value in values.items():
            old = self._state.get(name)
            if old == value and name in self._state:
                continue
            if isinstance(old, dict) and isinstance(value, dict) and old:
                changed = {key: entry for key, entry in value.items() if key not in old or old[key] != entry}
                merge[name] = {"set": changed, "drop": [key for key in old if key not in value]}
            else:
                plain[name] = value
            self._state[name] = value
        if plain or merge:
            revision = self._state["revision"]
            self._state["revision"] = plain["revision"] = revision + 1 if isinstance(revision, int) else 1
            self._deliver({"type": "patch", "set": plain, "merge": merge})

    def _deliver(self, message: Mapping[str, object]) -> None:
        """Send a message; a long one travels compressed (the markup of drawings shrinks to a fifth)."""
        text = json.dumps(message, separators=(",", ":"))
        if len(text) < _LONG:
            self.send(message)
        else:
            self.send({"type": "packed"}, [zlib.compress(text.encode())])

    def on_pick(self, callback: Picked) -> None:
        """Call ``callback(key)`` when a person clicks something, or presses Enter on it."""
        self._picked.append(callback)

    def on_trouble(self, callback: Callable[[BaseException], None]) -> None:
        """Give errors of the page and of callbacks to ``callback``, for instance :meth:`ErrorLog.add`."""
        self._trouble = callback

    def receive(self, message: Mapping[str, object], buffers: list[bytes]) -> None:
        """Handle a message of the page that this class does not know; subclasses add theirs."""

    def _receive(self, _widget: object, message: object, buffers: list[bytes]) -> None:
        if not isinstance(message, Mapping):
            return
        try:
            self._dispatch(message, buffers)
        except Exception as error:
            if self._trouble is None:
                raise
            self._trouble(error)

    def _dispatch(self, message: Mapping[str, object], buffers: list[bytes]) -> None:
        kind = message.get("type")
        if kind == "need-all":
            self._deliver({"type": "all", "view": message.get("view"), "state": self._state})
        elif kind == "pick":
            key = key_of(str(message.get("key", "")))
            for callback in self._picked:
                callback(key)
        elif kind == "error":
            raise PageError(f"{type(self).__name__}: {message.get('text')}")
        else:
            self.receive(message, buffers)
