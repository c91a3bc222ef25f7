"""What the pane "Compare" says: a part of the catalogue (:mod:`pasidlab_widgets.lab.words`)."""

from __future__ import annotations

from typing import Final

__all__ = ["LINKED"]

LINKED: Final = {
    "start": "To the beginning, on every machine",
    "back-over": "Back by one step, on every machine",
    "back": "Back by one event, on every machine",
    "play": "Play step by step",
    "pause": "Stop playing",
    "forward": "To the next event, on every machine",
    "forward-over": "To the end of the next step, on every machine",
    "end": "To the end, on every machine",
    "oldest": "Nothing has happened yet.",
    "newest": "The VM is gone on every machine.",
    "slider": "Event of the script",
    "begin": "before it begins",
    "place": "step {now} of {last}",
    "event": "{title}: event {sub} of {subs}",
    "done": "{title}: done",
}
