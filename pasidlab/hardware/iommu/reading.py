"""How people read the tables of a unit: what pictures and texts ask it for, beyond what it does itself.

Every register block has a *reading*, that of the silicon and that of the emulated unit of a guest; each vendor makes
its own (``reading.py``). It looks at memory and registers and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pasidlab.hardware.bits import Layout
    from pasidlab.hardware.iommu.contract import Walk
    from pasidlab.hardware.iommu.shape import Way
    from pasidlab.hardware.iommu.survey import QueueSlot, Survey
    from pasidlab.hardware.memory import Memory

__all__ = ["Reading"]


class Reading(Protocol):
    """One unit, read by people."""

    @property
    def family(self) -> str:
        """The unit's name in :data:`~pasidlab.hardware.iommu.families.FAMILIES`."""

    @property
    def memory(self) -> Memory:
        """The memory that holds the unit's tables."""

    @property
    def root(self) -> int:
        """Where the first table begins, as the registers say."""

    @property
    def queues(self) -> dict[str, int]:
        """Where the queues between software and unit begin, by name; those that were never set are left out."""

    @property
    def entry_layout(self) -> Layout:
        """The layout of an entry of a table of PASIDs."""

    def way(self, walk: Walk) -> Way:
        """A walk put into its shape."""

    def must_be_zero(self, layout: Layout, words: tuple[int, ...], level: int = 0, *, nested: bool = False) -> int:
        """The bits of a structure that the unit demands to be zero, as one mask over all its words.

        ``nested``: it is an entry of a first level that is found through the second one.
        """

    def marks(self, layout: Layout) -> int:
        """The bits that the unit itself sets in an entry (accessed, dirty)."""

    def survey(self) -> Survey:
        """What lies where at the present step."""

    def queue_slots(self, address: int) -> Iterator[QueueSlot]:
        """The entries of queues to which the byte at ``address`` belongs."""

    def present(self, words: tuple[int, ...]) -> bool:
        """Whether an entry of a PASID is in use."""

    def silent(self, words: tuple[int, ...]) -> bool:
        """Whether an entry that is not present asks that faults are not recorded."""
