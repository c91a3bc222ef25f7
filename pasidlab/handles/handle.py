"""The handle itself, and verbs: each is one operation on the timeline.

The Python line that repeats an operation is derived from the call itself, so the lab can show it and a recorded run can
hold it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, ClassVar, Concatenate, ParamSpec, TypeVar

from pasidlab.errors import KernelError

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["Handle", "line_of", "transaction", "verb"]

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound="Handle")


class Handle:
    """Something of a machine that a person can name. ``expression`` is Python that finds it again.

    ``draw`` is set by the package itself (:mod:`pasidlab.views.rich`): pictures are made above this floor.
    """

    draw: ClassVar[Callable[[Handle], dict[str, str]] | None] = None

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @property
    def expression(self) -> str:
        """Python that evaluates to this handle, given the machine as ``m``."""
        raise AttributeError("every handle names itself")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """How a notebook shows this handle: a picture or a table from the floor above, and always its text."""
        drawn = {} if Handle.draw is None else Handle.draw(self)
        return {"text/plain": repr(self), **drawn}


def verb(method: Callable[Concatenate[H, P], R]) -> Callable[Concatenate[H, P], R]:
    """Make a method one operation of its machine's timeline, recorded as the line that repeats it."""
    return _operation(method, atomic=False)


def transaction(method: Callable[Concatenate[H, P], R]) -> Callable[Concatenate[H, P], R]:
    """A verb of the administrator's: when it is refused, only the call and its refusal remain."""
    return _operation(method, atomic=True)


def _operation(method: Callable[Concatenate[H, P], R], *, atomic: bool) -> Callable[Concatenate[H, P], R]:
    takes = signature(method)

    def settled(self: H, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        finally:
            self.machine.settle()

    @wraps(method)
    def operation(self: H, /, *args: P.args, **kwargs: P.kwargs) -> R:
        machine = self.machine
        _check(machine, takes, takes.bind(self, *args, **kwargs).arguments)
        if machine.timeline.busy:
            return settled(self, *args, **kwargs)
        line = line_of(self, method.__name__, args, kwargs)

        def play(prefix: str) -> R:
            try:
                with machine.timeline.operation(prefix + line, atomic=atomic):
                    return settled(self, *args, **kwargs)
            finally:
                if machine.supervisor is not None:
                    machine.supervisor()

        return machine.attend(line, play, asks=not atomic)

    return operation


def _check(machine: Machine, takes: Signature, arguments: dict[str, object]) -> None:
    """``-EINVAL`` for an argument of another kind than the one that is written, or a handle of another machine.

    Nothing has happened then, and nothing is recorded: such a call could not be written down.
    """
    for name, value in arguments.items():
        wanted, each = str(takes.parameters[name].annotation), (value,)
        if takes.parameters[name].kind is Parameter.VAR_POSITIONAL and isinstance(value, tuple):
            each = value
        for one in each if name != "self" else ():
            if not any(_is(one, kind) for kind in wanted.split(" | ")):
                raise KernelError("EINVAL", f"{name} must be {wanted.replace(' | ', ' or ')}, not {one!r}")
            if isinstance(one, Handle) and one.machine is not machine:
                raise KernelError("EINVAL", f"{name} must be of this machine, and {one!r} is of another one")


def _is(value: object, kind: str) -> bool:
    """Whether a value is what an annotation says; annotations are text here, since handles know each other by name."""
    if kind in ("Any", "object") or "[" in kind:
        return True
    if kind == "None":
        return value is None
    if isinstance(value, bool):
        return kind == "bool"
    return any(known.__name__ == kind for known in type(value).__mro__)


def line_of(handle: Handle, name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> str:
    """``m.vm("vm1").spawn("app")``: the call as Python text."""
    words = [_word(value) for value in args] + [f"{key}={_word(value)}" for key, value in kwargs.items()]
    return f"{handle.expression}.{name}({', '.join(words)})"


def _word(value: object) -> str:
    if isinstance(value, Handle):
        return value.expression
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 4096:
        return hex(value)
    return repr(value)
