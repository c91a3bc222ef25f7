"""The slider over all steps: a thin view around the browser's own range input.

Why not ``ipywidgets.IntSlider``: when Python moves its end and its value together, its page side first meets the new end,
reports the old value back, and the lab would travel to the past by itself (seen with ipywidgets 8.1, continuous updates).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pasidlab_widgets.lab.words import BANNER
from pasidlab_widgets.view import STATIC, View

__all__ = ["Slider"]

_PARTS = (STATIC / "view.js", Path(__file__).parent / "slider.js")


class Slider(View):
    """A slider; ``moved`` is called with the step that a person wants to see.

    >>> slider = Slider(lambda step: print("to", step)); slider.show(5, 7, 9)
    >>> slider.receive({"type": "go", "step": 6}, [])
    to 6
    """

    _esm = "\n".join(part.read_text(encoding="utf-8") for part in _PARTS)

    def __init__(self, moved: Callable[[int], None]) -> None:
        self._moved = moved
        super().__init__()
        self.publish(floor=0, now=0, last=0, label=BANNER["slider"])

    def show(self, floor: int, now: int, last: int) -> None:
        """Where the ends are, and where the present is."""
        self.publish(floor=floor, now=now, last=last)

    def receive(self, message: Mapping[str, object], buffers: list[bytes]) -> None:
        """A person moved the slider; a step that has been dropped meanwhile is left alone."""
        step = message.get("step")
        if message.get("type") == "go" and isinstance(step, int):
            floor, last = self.state["floor"], self.state["last"]
            if isinstance(floor, int) and isinstance(last, int):
                self._moved(min(max(step, floor), last))
