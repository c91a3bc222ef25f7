"""The lab where no widget can live: on GitHub, in exported pages, in a terminal. Two pictures, and the script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pasidlab.views import layout, svg, text
from pasidlab.views.machine_map import machine_map
from pasidlab.views.mapping import guest_to_host
from pasidlab_widgets.lab.script import script

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["still_html", "still_text"]


def still_text(machine: Machine) -> str:
    """The machine in words.

    >>> from pasidlab import Machine
    >>> still_text(Machine()).splitlines()[0]
    'Machine'
    """
    return "\n\n".join((text(machine_map(machine)), text(guest_to_host(machine)), script(machine.timeline)))


def still_html(machine: Machine) -> str:
    """The machine as pictures, and its script; in words where there is no Graphviz."""
    lines = f"<pre>{escape(script(machine.timeline))}</pre>"
    if not layout.available():
        return f"<pre>{escape(still_text(machine))}</pre>"
    return f"<div>{svg(machine_map(machine))}{svg(guest_to_host(machine))}{lines}</div>"
