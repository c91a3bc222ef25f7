"""Everything that can be reached from an object, as plain data: what the journal forgot shows up as a difference.

The timeline itself is a border: it holds the past, and its own tests look after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.timeline import Table, Timeline

__all__ = ["mutable_containers", "snapshot"]

_LEAVES = (int, str, bytes, float, type(None), Enum, type, FunctionType, BuiltinFunctionType, ModuleType, Timeline)


def attributes(thing: object) -> Iterator[tuple[str, object]]:
    """The instance attributes of any object, slots included."""
    names = set(getattr(thing, "__dict__", {}))
    for base in type(thing).__mro__:
        slots = base.__dict__.get("__slots__", ())
        names |= {slots} if isinstance(slots, str) else set(slots)
    for name in sorted(names - {"__weakref__", "__dict__"}):
        if hasattr(thing, name):
            yield name, getattr(thing, name)


def parts(thing: object) -> list[tuple[object, object]]:
    """What an object is made of: named parts, in an order that does not depend on history."""
    if isinstance(thing, PhysicalMemory):
        words = (
            (at << 12 | index << 3, word) for at, frame in thing._frames.items() for index, word in enumerate(frame)
        )
        return [("size", thing.size), *sorted((address, word) for address, word in words if word)]
    if isinstance(thing, Table):
        return [("path", thing.path), *thing.items()]
    if isinstance(thing, dict):
        return sorted(thing.items(), key=lambda item: repr(item[0]))
    if isinstance(thing, set | frozenset):
        return [(index, item) for index, item in enumerate(sorted(thing, key=repr))]
    if isinstance(thing, list | tuple):
        return list(enumerate(thing))
    if isinstance(thing, MethodType):
        return [("self", thing.__self__), ("name", thing.__func__.__qualname__)]
    return list(attributes(thing))


def _walk(root: object) -> Iterator[tuple[object, list[tuple[object, object]]]]:
    seen, waiting = {id(root)}, [root]
    while waiting:
        thing = waiting.pop(0)
        made_of = parts(thing)
        yield thing, made_of
        for _, value in made_of:
            if not isinstance(value, _LEAVES) and id(value) not in seen:
                seen.add(id(value))
                waiting.append(value)


def snapshot(root: object) -> list[object]:
    """The whole graph as text; objects are numbered in the order in which they are met."""
    numbers: dict[int, int] = {}
    rows = list(_walk(root))
    for thing, _ in rows:
        numbers[id(thing)] = len(numbers)
    return [
        (type(thing).__name__, [(repr(name), _show(value, numbers)) for name, value in made_of])
        for thing, made_of in rows
    ]


def _show(value: object, numbers: dict[int, int]) -> str:
    if id(value) in numbers:
        return f"-> {numbers[id(value)]}"
    return "a timeline" if isinstance(value, Timeline) else repr(value)


def mutable_containers(root: object) -> Iterator[tuple[str, object]]:
    """Every list, dict, set or bytearray that can be reached, with the attribute that holds it."""
    for thing, made_of in _walk(root):
        for name, value in made_of:
            if isinstance(value, list | dict | set | bytearray):
                yield f"{type(thing).__name__}.{name}", value
