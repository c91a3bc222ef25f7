"""Where numbers come from: the default allocator, or a custom one such as the guest's virtual command.

Models the custom allocators of ``drivers/iommu/ioasid.c`` (mainline since v5.5). Custom allocators take precedence over
the default one; the first registered is active, the others wait in order of registration. Allocators with the same
functions share one entry, and so one space of numbers: several emulated IOMMUs of one guest do. In Python, objects of
one class have the same functions.

All IDs that are out belong to the active allocator. Two refusals keep this true: no custom allocator may replace the
default one while IDs are out, and the last one of an entry must not go before its IDs (the kernel only warned of this,
and orphaned them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pasidlab.errors import KernelError
from pasidlab.kernel.bitmap import Bitmap
from pasidlab.kernel.ioasid.record import INVALID_IOASID
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.kernel.slab import Slab
    from pasidlab.timeline import Timeline

__all__ = ["AllocatorOps", "Allocators", "DefaultAllocator"]


class AllocatorOps(Protocol):
    """What an allocator offers (``struct ioasid_allocator_ops``)."""

    path: str
    refusal: str
    """Why there is no number, in words."""

    def alloc(self, minimum: int, maximum: int) -> int | None:
        """A number in the inclusive range (a custom one may ignore the range), or ``None``."""

    def free(self, ioasid: int) -> None:
        """Take a number back."""


class DefaultAllocator(Part):
    """Lowest free number first, over everything that an ``ioasid_t`` can say: the caller's range decides."""

    refusal = "every number in the range is out"

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.bitmap = Bitmap(timeline, f"{path}.bitmap", INVALID_IOASID)

    def alloc(self, minimum: int, maximum: int) -> int | None:
        """The lowest free number in ``[minimum, maximum]``."""
        return self.bitmap.take_lowest(minimum, maximum)

    def free(self, ioasid: int) -> None:
        """Take a number back."""
        self.bitmap.release(ioasid)


class Allocators(Part, state=("_next", "active")):
    """The default allocator and, in order of registration, the custom ones. ``active`` serves the next request."""

    active: AllocatorOps

    def __init__(self, timeline: Timeline, path: str, slab: Slab) -> None:
        super().__init__(timeline, path)
        self.default = DefaultAllocator(timeline, f"{path}.default")
        self._slab = slab
        self._entries = Table[int, tuple[AllocatorOps, ...]](timeline, f"{path}.custom")
        self._next = 0
        self.active = self.default

    def entries(self) -> list[tuple[AllocatorOps, ...]]:
        """The custom allocators in order of precedence; those that share their functions stand together."""
        return self._entries.values()

    def register(self, ops: AllocatorOps, ids_out: int) -> None:
        """Add a custom allocator, behind those that are there or beside the one with the same functions.

        Errors: ``-EEXIST`` the same object twice, ``-EAGAIN`` the first one while the default allocator has IDs out,
        ``-ENOMEM``.
        """
        if any(other is ops for entry in self.entries() for other in entry):
            raise KernelError("EEXIST", f"{ops.path} is already registered as an allocator")
        if not len(self._entries) and ids_out:
            raise KernelError(
                "EAGAIN", f"a custom allocator must be registered before any ID is out, not with {ids_out} out"
            )
        self._slab.alloc("struct ioasid_allocator_data")
        for number, entry in self._entries.items():
            if type(entry[0]) is type(ops):
                self._entries[number] = (*entry, ops)
                return
        self._entries[self._next] = (ops,)
        self._next += 1
        self._choose()

    def unregister(self, ops: AllocatorOps, ids_out: int) -> bool:
        """Take a custom allocator away; the next in order, or the default one, becomes active. ``False``: it is not
        registered.

        Errors: ``-EBUSY`` it is the last of the active entry, and IDs are out.
        """
        for number, entry in self._entries.items():
            left = tuple(other for other in entry if other is not ops)
            if len(left) == len(entry):
                continue
            if left:
                self._entries[number] = left
            elif entry[0] is self.active and ids_out:
                raise KernelError(
                    "EBUSY", f"{ops.path} must not go while {ids_out} of its IDs are out: who would own them?"
                )
            else:
                del self._entries[number]
            self._choose()
            return True
        return False

    def _choose(self) -> None:
        entries = self.entries()
        if not entries:
            self._next = 0
        self.active = entries[0][0] if entries else self.default
