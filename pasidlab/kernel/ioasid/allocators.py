"""Where numbers come from: the default allocator, or a custom one such as the guest's virtual command.

Models the custom allocators of ``drivers/iommu/ioasid.c`` (mainline since v5.5): a custom allocator takes precedence
over the default one; the first registered is active; it cannot be registered while IDs are out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pasidlab.errors import KernelError
from pasidlab.kernel.bitmap import Bitmap
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["AllocatorOps", "Allocators", "DefaultAllocator"]


class AllocatorOps(Protocol):
    """What an allocator offers."""

    path: str
    refusal: str
    """Why there is no number, in words."""

    def alloc(self, minimum: int, maximum: int) -> int | None:
        """A number in the inclusive range (a custom one may ignore the range), or ``None``."""

    def free(self, ioasid: int) -> None:
        """Take a number back."""


class DefaultAllocator(Part):
    """Lowest free number first, over the whole capacity."""

    refusal = "every number in the range is out"

    def __init__(self, timeline: Timeline, path: str, capacity: int) -> None:
        super().__init__(timeline, path)
        self.bitmap = Bitmap(timeline, f"{path}.bitmap", capacity)

    def alloc(self, minimum: int, maximum: int) -> int | None:
        """The lowest free number in ``[minimum, maximum]``."""
        number = self.bitmap.find(minimum, maximum)
        if number is not None:
            self.bitmap.take(number)
        return number

    def free(self, ioasid: int) -> None:
        """Take a number back."""
        self.bitmap.release(ioasid)


class Allocators(Part):
    """The default allocator and, in order of registration, the custom ones."""

    def __init__(self, timeline: Timeline, path: str, capacity: int) -> None:
        super().__init__(timeline, path)
        self.default = DefaultAllocator(timeline, f"{path}.default", capacity)
        self._custom = Table[int, AllocatorOps](timeline, f"{path}.custom")

    @property
    def active(self) -> AllocatorOps:
        """The allocator that serves the next request."""
        custom = self._custom.values()
        return custom[0] if custom else self.default

    def register(self, ops: AllocatorOps, ids_out: int) -> None:
        """Add a custom allocator.

        ``-EAGAIN`` while the default one has IDs out, ``-EEXIST`` for the same object twice.
        """
        known = self._custom.values()
        if any(other is ops for other in known):
            raise KernelError("EEXIST", f"{ops.path} is already registered as an allocator")
        if not known and ids_out:
            raise KernelError(
                "EAGAIN", f"a custom allocator must be registered before any ID is out, not with {ids_out} out"
            )
        self._custom[len(known)] = ops
