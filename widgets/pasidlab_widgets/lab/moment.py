"""What to say after a journey in time: which step this is, who did what in it, and the call that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.views.flow import lane_of
from pasidlab.views.words import sentence
from pasidlab_widgets.lab.message import Message, say

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["moment"]


def moment(timeline: Timeline) -> Message:
    """The present step in words.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); m.timeline.back_over()
    >>> moment(m.timeline).sentences
    ('The machine has just booted.',)
    """
    now, last, operation = timeline.now, timeline.last, timeline.operation_now
    if now <= timeline.floor or operation is None:
        return say("start", "info", now=now, last=last)
    event = timeline.events[-1]
    who = lane_of(event).name
    said = say("travel", "info", now=now, last=last, who=who[:1].upper() + who[1:], what=sentence(event))
    return said.of((operation.line,))
