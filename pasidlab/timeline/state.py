"""State that the journal knows: parts with declared attributes, and tables.

Code above writes plain Python (``record.spid = 5``, ``del table[key]``); the classes here record each change.

A part declares which of its attributes are *state*. All others are *wiring* and can be set only once, so that a change
which would escape the journal is an error at the place where it is made. ``retire`` deletes the state of a part whose
life is over: a later read of a dead object is then an ``AttributeError``, the model's "use after free", and a world
from which everything was returned has the digest of a world in which nothing ever happened.

A table iterates in the order of its keys, not of insertion: two histories that lead to the same state must also behave
the same from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, ClassVar, Generic, Never, Protocol, TypeVar, cast, overload

from pasidlab.timeline.journal import ABSENT

if TYPE_CHECKING:
    from pasidlab.timeline.timeline import Timeline

__all__ = ["Part", "Table"]


class Ordered(Protocol):
    """A key that can be sorted among its like."""

    def __lt__(self, other: Never, /) -> bool: ...

    def __hash__(self) -> int: ...


K = TypeVar("K", bound=Ordered)
V = TypeVar("V")


class Part:
    """One piece of the modelled world: a device, a VM, a PASID record.

    ``path`` names it for ever (``"host.ioasid.set[2]"``); it enters digests and runs, so it must not depend on history.

    >>> from pasidlab.timeline import Timeline
    >>> class Lamp(Part, state=("lit",)):
    ...     def __init__(self, timeline: Timeline) -> None:
    ...         super().__init__(timeline, "lamp")
    ...         self.lit = False
    >>> time = Timeline(); lamp = Lamp(time)
    >>> lamp.lit = True
    >>> time.journal.seek(1); lamp.lit
    False
    """

    _state: ClassVar[frozenset[str]] = frozenset()
    _state_names: ClassVar[tuple[str, ...]] = ()

    timeline: Timeline
    path: str

    def __init_subclass__(cls, *, state: tuple[str, ...] = ()) -> None:
        super().__init_subclass__()
        cls._state = cls._state | frozenset(state)
        cls._state_names = tuple(sorted(cls._state))

    def __init__(self, timeline: Timeline, path: str) -> None:
        self.timeline = timeline
        self.path = path

    def __setattr__(self, name: str, value: object) -> None:
        known = self.__dict__
        old = known.get(name, ABSENT)
        if name in self._state:
            if old is value:
                return
            self.timeline.journal.log.append((self, name, old, value))
        elif old is not ABSENT:
            raise AttributeError(
                f"{type(self).__name__}.{name} is wiring and is set once; declare it as state to change it"
            )
        known[name] = value

    def __delattr__(self, name: str) -> None:
        old = self.__dict__.pop(name)
        if name in self._state:
            self.timeline.journal.log.append((self, name, old, ABSENT))

    def restore(self, key: Hashable, value: object) -> None:
        """Set or delete a state attribute without recording it (the journal's way in)."""
        if value is ABSENT:
            self.__dict__.pop(str(key), None)
        else:
            self.__dict__[str(key)] = value

    def retire(self) -> None:
        """End this part's life: its state is gone, and reading it afterwards is an error."""
        known, append = self.__dict__, self.timeline.journal.log.append
        for name in self._state_names:
            if name in known:
                append((self, name, known.pop(name), ABSENT))

    @property
    def retired(self) -> bool:
        """Whether the part has state to lose and has lost it."""
        return bool(self._state) and not any(name in self.__dict__ for name in self._state)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"


class Table(Generic[K, V]):
    """A journaled mapping that iterates in the order of its keys.

    >>> from pasidlab.timeline import Timeline
    >>> time = Timeline(); table = Table[int, str](time, "demo")
    >>> table[2] = "b"; table[1] = "a"
    >>> list(table), time.journal.position
    ([1, 2], 2)
    """

    __slots__ = ("_items", "path", "timeline")

    def __init__(self, timeline: Timeline, path: str) -> None:
        self.timeline = timeline
        self.path = path
        self._items: dict[K, V] = {}

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __setitem__(self, key: K, value: V) -> None:
        old = self._items.get(key, ABSENT)
        if old is value:
            return
        self._items[key] = value
        self.timeline.journal.log.append((self, key, old, value))

    def __delitem__(self, key: K) -> None:
        old = self._items.pop(key)
        self.timeline.journal.log.append((self, key, old, ABSENT))

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[K]:
        return iter(sorted(self._items))

    @overload
    def get(self, key: K) -> V | None: ...
    @overload
    def get(self, key: K, default: V) -> V: ...
    def get(self, key: K, default: V | None = None) -> V | None:
        """The value at ``key``, or ``default``."""
        return self._items.get(key, default)

    def pop(self, key: K) -> V:
        """Remove ``key`` and return its value."""
        value = self._items[key]
        del self[key]
        return value

    def keys(self) -> list[K]:
        """The keys, in order."""
        return sorted(self._items)

    def values(self) -> list[V]:
        """The values, in the order of their keys."""
        return [self._items[key] for key in sorted(self._items)]

    def items(self) -> list[tuple[K, V]]:
        """Pairs, in the order of their keys."""
        return [(key, self._items[key]) for key in sorted(self._items)]

    def select(self, wanted: Callable[[K], bool]) -> list[K]:
        """The keys that are ``wanted``, in order."""
        return sorted(key for key in self._items if wanted(key))

    def restore(self, key: Hashable, value: object) -> None:
        """Set or delete an item without recording it (the journal's way in)."""
        items = cast("dict[Hashable, object]", self._items)
        if value is ABSENT:
            items.pop(key, None)
        else:
            items[key] = value

    def __repr__(self) -> str:
        return f"<Table {self.path}: {len(self)} items>"
