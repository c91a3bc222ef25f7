"""BokehView: a Bokeh figure as one live view, without ``output_notebook()`` and without the network.

The page gets BokehJS from the installed ``bokeh`` package, asks for the figure as it is now, and follows Bokeh's own
patches. A block of changes under :meth:`BokehView.batch` is one message. The data belong to Python: from the page
come only events (a tap) and the attributes named in ``accept`` (a selection); the page never answers a patch, so
nothing is applied twice.

Uses the same inner parts of Bokeh as the ``jupyter_bokeh`` package does (``Document.from_json``,
``apply_json_patch``, ``PATCH-DOC``), hence the tight bound on Bokeh's version and the test in a real browser
(``facts/ui.md`` sections 3, 5 and 8).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import anywidget
import bokeh
import traitlets as t
from bokeh.core.json_encoder import serialize_json
from bokeh.core.serialization import Deserializer, Serialized
from bokeh.document import Document
from bokeh.document.events import DocumentPatchedEvent
from bokeh.embed import json_item
from bokeh.model import Model
from bokeh.protocol import Protocol

from pasidlab_widgets.view import STATIC, PageError, page_style

__all__ = ["BokehView"]

_BOKEHJS = Path(bokeh.__file__).parent / "server" / "static" / "js"


class BokehView(anywidget.AnyWidget):
    """A live Bokeh figure. Change its data sources and models in Python, inside :meth:`batch`.

    ``components`` are the parts of BokehJS that the figure uses. Give every range as a fixed ``Range1d``: an
    automatic one answers Python at every click. Register ``figure.on_event`` before the view is made (Bokeh 3.9 loses
    it otherwise).

    >>> from bokeh.plotting import figure
    >>> view = BokehView(figure(width=100, height=100, x_range=(0, 1), y_range=(0, 1)), label="occupancy")
    >>> with view.batch():
    ...     view.figure.title.text = "PASIDs"
    """

    _esm = (STATIC / "bokeh.js").read_text(encoding="utf-8")
    _css = page_style()
    version = t.Unicode(bokeh.__version__).tag(sync=True)
    accept = t.List(t.Unicode(), ["indices"]).tag(sync=True)
    label = t.Unicode("chart").tag(sync=True)

    def __init__(self, figure: Model, *, label: str = "chart", components: tuple[str, ...] = ("bokeh",)) -> None:
        self.figure = figure
        self.components = components
        self.revision = 0
        self._held: list[DocumentPatchedEvent] = []
        self._depth = 0
        self._trouble: Callable[[BaseException], None] | None = None
        self._document = figure.document or Document()
        if figure.document is None:
            self._document.add_root(figure)
        super().__init__(label=label)
        self._document.on_change_dispatch_to(self)
        self.on_msg(self._receive)

    def on_trouble(self, callback: Callable[[BaseException], None]) -> None:
        """Give errors of the page and of Bokeh's callbacks to ``callback``, for instance :meth:`ErrorLog.add`."""
        self._trouble = callback

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """All changes inside travel as one message."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._flush()

    def _document_patched(self, event: DocumentPatchedEvent) -> None:
        """Bokeh calls this for every change of the document."""
        if event.setter is self:
            return
        self._held.append(event)
        if not self._depth:
            self._flush()

    def _flush(self) -> None:
        events, self._held = self._held, []
        if not events:
            return
        self.revision += 1
        message = Protocol().create("PATCH-DOC", events)
        ids = [buffer.ref["id"] for buffer in message.buffers]
        content = json.loads(message.content_json)
        buffers = [buffer.to_bytes() for buffer in message.buffers]
        self.send({"type": "patch", "content": content, "ids": ids, "revision": self.revision}, buffers)

    def _receive(self, _widget: object, message: object, _buffers: list[bytes]) -> None:
        if not isinstance(message, Mapping):
            return
        try:
            self._dispatch(message)
        except Exception as error:
            if self._trouble is None:
                raise
            self._trouble(error)

    def _dispatch(self, message: Mapping[str, object]) -> None:
        kind = message.get("type")
        if kind == "need-bokehjs":
            self.send({"type": "bokehjs"}, [(_BOKEHJS / f"{name}.min.js").read_bytes() for name in self.components])
        elif kind == "need-item":
            item = json.loads(serialize_json(json_item(self.figure)))
            self.send({"type": "item", "view": message.get("view"), "item": item, "revision": self.revision})
        elif kind == "event":
            self._happened(message.get("event"))
        elif kind == "error":
            raise PageError(f"BokehView: {message.get('text')}")

    def _happened(self, content: object) -> None:
        """Something that a person did in the page."""
        reader = Deserializer(list(self._document.models), setter=self)
        event = reader.deserialize(Serialized(content=content, buffers=[]))
        if event["kind"] == "MessageSent" and event["msg_type"] == "bokeh_event":
            self._document.callbacks.trigger_event(event["msg_data"])
        elif event["kind"] == "ModelChanged" and event["attr"] in self.accept:
            event["model"].set_from_json(event["attr"], event["new"], setter=self)

    def close(self) -> None:
        """Stop following the figure."""
        self._document.remove_on_change(self)
        super().close()
