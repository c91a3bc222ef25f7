"""What the lab says after a click: one message at a time, in one place, everything in it escaped.

A message has a kind (done, refused, fault, broken, info), a title, sentences, and the Python lines that ran. It is
plain data until :func:`message_html` draws it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from typing import Literal

import ipywidgets as w

from pasidlab_widgets.lab.words import MESSAGES

__all__ = ["Message", "MessageBox", "message_html", "say"]

Kind = Literal["done", "refused", "fault", "broken", "info"]
_SIGNS: dict[str, str] = {"done": "✓", "refused": "✕", "fault": "▲", "broken": "▲", "info": "i"}


@dataclass(frozen=True, slots=True)
class Message:
    """One answer. ``lines`` are the Python lines that led to it, ``output`` what the modelled host printed.

    >>> Message("done", "vm1 is running").kind
    'done'
    """

    kind: Kind
    title: str
    sentences: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    output: tuple[str, ...] = ()

    def also(self, *sentences: str) -> Message:
        """The message with more to say; empty sentences are left out."""
        return replace(self, sentences=(*self.sentences, *filter(None, sentences)))

    def printed(self, *output: str) -> Message:
        """The message with what the modelled host printed."""
        return replace(self, output=output)

    def of(self, lines: tuple[str, ...]) -> Message:
        """The message with the lines that led to it."""
        return replace(self, lines=lines)


def say(name: str, kind: Kind = "done", /, **facts: object) -> Message:
    """The message ``name`` of the catalogue, filled with ``facts``.

    >>> say("kill", process="app").title
    'app has ended'
    """
    title, text = MESSAGES[name]
    text = text.format(**facts)
    return Message(kind, title.format(**facts), (text,) if text else ())


def message_html(message: Message) -> str:
    """A message as HTML.

    >>> "<script>" in message_html(Message("refused", "<script>alert(1)</script>"))
    False
    """
    lines = "".join(f"<code>{_breakable(line)}</code>" for line in message.lines)
    lines += "".join(f"<samp>{escape(line)}</samp>" for line in message.output if line)
    text = "".join(f"<p>{escape(sentence)}</p>" for sentence in message.sentences)
    return (
        f'<div class="pl-message k-{message.kind}" role="status" aria-live="polite">'
        f'<span class="pl-sign" aria-hidden="true">{_SIGNS[message.kind]}</span>'
        f"<div><strong>{escape(message.title)}</strong>{text}</div><div class=pl-ran>{lines}</div></div>"
    )


def _breakable(line: str) -> str:
    """Python that a narrow column may break before a dot and behind a parenthesis."""
    return escape(line).replace("(", "(<wbr>").replace(".", "<wbr>.")


class MessageBox:
    """The place where messages appear; its height stays, so nothing below it jumps."""

    def __init__(self) -> None:
        self.message = Message("info", "")
        self.widget = w.HTML()
        self.widget.add_class("pl-message-box")

    def show(self, message: Message) -> None:
        """Show ``message`` instead of the one before."""
        self.message = message
        self.widget.value = message_html(message)
