"""Errors that a person sees. Exceptions in widget callbacks vanish into the server's log unless somebody catches them.

Every callback of the lab goes through :meth:`ErrorLog.guard`. What the modelled kernel refuses
(:class:`pasidlab.errors.KernelError`) is an answer, shown as the sentence that it carries; anything else is a defect
of the kit and is shown with its traceback.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import wraps
from html import escape
from typing import ParamSpec

import ipywidgets as w

from pasidlab.errors import KernelError

__all__ = ["ErrorLog"]

_Args = ParamSpec("_Args")
_KEPT = 20


class ErrorLog:
    """One visible place for errors; empty and without height while nothing is wrong.

    >>> log = ErrorLog()
    >>> log.guard(lambda: 1 // 0)()
    >>> log.texts
    ['ZeroDivisionError: integer division or modulo by zero']
    >>> log.clear(); log.texts
    []
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._details: list[str] = []
        self._html = w.HTML()
        self._html.add_class("pl-errors")
        self._dismiss = w.Button(description="Dismiss", layout=w.Layout(width="auto", align_self="flex-start"))
        self._dismiss.on_click(lambda _: self.clear())
        self.widget = w.VBox([self._html, self._dismiss], layout=w.Layout(display="none"))

    def guard(self, callback: Callable[_Args, object]) -> Callable[_Args, None]:
        """``callback`` with its exceptions shown here instead of lost."""

        @wraps(callback)
        def guarded(*args: _Args.args, **kwargs: _Args.kwargs) -> None:
            try:
                callback(*args, **kwargs)
            except Exception as error:
                self.add(error)

        return guarded

    def add(self, error: BaseException) -> None:
        """Show an error."""
        refused = isinstance(error, KernelError)
        self.texts.append(str(error) if refused else f"{type(error).__name__}: {error}")
        self._details.append("" if refused else "".join(traceback.format_exception(error)))
        del self.texts[:-_KEPT], self._details[:-_KEPT]
        self._show()

    def clear(self) -> None:
        """Forget all errors."""
        self.texts.clear()
        self._details.clear()
        self._show()

    def _show(self) -> None:
        self._html.value = "".join(map(_entry, self.texts, self._details))
        self.widget.layout.display = None if self.texts else "none"


def _entry(text: str, detail: str) -> str:
    more = (
        f"<details><summary>details for a bug report</summary><pre>{escape(detail)}</pre></details>" if detail else ""
    )
    return f'<div class="pasidlab"><div class="pl-error" role="alert">{escape(text)}{more}</div></div>'
