"""A fixed quota for each VM: what the patches had.

Models the quota of the ioasid_set (module parameter ``pasid_quota`` of VFIO, the constant of ``/dev/ioasid``). It is
capacity set aside: a VM can always use what it was promised, and nobody can promise more than there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.ids import IoasidIds
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.timeline import Part

__all__ = ["FixedQuota"]


class FixedQuota:
    """The set's own quota is all there is: nobody else is charged."""

    name = "fixed"
    held = 0

    def __init__(self, core: IoasidIds) -> None:
        self._sets = core.sets

    def make_set(self, name: str, token: Part, quota: int) -> IoasidSet:
        """A set with ``quota`` IDs set aside."""
        return self._sets.alloc(name, token, quota)

    def change(self, the_set: IoasidSet, quota: int) -> None:
        """Adjust the set: ``-EINVAL`` below what is out, ``-ENOSPC`` more than is left."""
        self._sets.adjust(the_set, quota)

    def limit(self, the_set: IoasidSet) -> int | None:
        """The set's own quota."""
        return the_set.quota

    def charge(self, the_set: IoasidSet, payer: Part | None) -> None:
        """Nobody: the core compares the set's count with its quota."""

    def uncharge(self, the_set: IoasidSet, payer: Part | None) -> None:
        """Nobody was charged."""

    def forget(self, the_set: IoasidSet) -> None:
        """Nothing is remembered beside the set."""

    def leave(self, mm: Part) -> None:
        """Nothing is remembered of a process."""
