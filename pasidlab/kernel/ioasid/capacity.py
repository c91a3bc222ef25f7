"""How many IOASIDs there may be: the capacity that sets, administrators and quota policies divide among themselves.

Models ``ioasid_install_capacity``, ``ioasid_reserve_capacity`` and ``ioasid_cancel_capacity``. Capacity is a count, not
a bound on the numbers themselves: which numbers are handed out is the caller's range.

Invariant: the quotas of all sets + ``reserved`` + what the quota policy holds + ``available`` = ``total``. The code of
2021 broke it in three ways, listed in :mod:`pasidlab.deviations`: it forgot reservations when a capacity was installed,
gave back what had never been reserved, and kept the quota of a set that ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.timeline import Actor, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.lock import AllocatorLock
    from pasidlab.timeline import Timeline

__all__ = ["PCIE_CAPACITY", "Capacity"]

PCIE_CAPACITY: Final = 1 << 20
"""The PCIe PASID space: 20 bits."""


class Capacity(Actor, state=("available", "installed", "reserved", "total")):
    """``total`` IOASIDs, of which ``reserved`` were set aside by name and ``available`` are nobody's yet."""

    actor = "ioasid"

    def __init__(self, timeline: Timeline, path: str, altitude: str, total: int, lock: AllocatorLock) -> None:
        super().__init__(timeline, path, altitude)
        self._lock = lock
        self.total = total
        self.available = total
        self.reserved = 0
        self.installed = False

    def install(self, total: int) -> bool:
        """Tell the core how many IOASIDs the hardware has. ``False``, with an event that says why: it was told before,
        or more than that is in use.

        Errors: ``-EINVAL`` less than 1.
        """
        self._lock.take("ioasid_install_capacity")
        if type(total) is not int or total < 1:
            raise KernelError("EINVAL", f"the capacity must be at least 1 IOASID, not {total!r}")
        why = self._not_to_install(total)
        if why:
            self.emit(Verb.IGNORE, f"capacity {total}: {why}", capacity=total)
            return False
        before = self.total
        self.available = self._left_after_install(total)
        self.installed = True
        self.total = total
        self.emit(Verb.INSTALL, "capacity", before, total, capacity=total)
        return True

    def _not_to_install(self, total: int) -> str:
        if self.installed:
            return "it was installed before"
        promised = self.total - self.available
        return f"{promised} are promised already" if promised > total else ""

    def _left_after_install(self, total: int) -> int:
        return total - (self.total - self.available)

    def reserve(self, count: int) -> int:
        """Set ``count`` IOASIDs aside (0: all that are left); returns how many that were. ``-ENOSPC``, ``-EINVAL``."""
        self._lock.take("ioasid_reserve_capacity")
        if type(count) is not int or count < 0:
            raise KernelError("EINVAL", f"what is reserved must be 0 or more, not {count!r}")
        count = count or self.available
        self.take(count, "a reservation")
        self.reserved += count
        self.emit(Verb.RESERVE, "capacity", after=count, count=count, available=self.available)
        return count

    def cancel(self, count: int) -> int:
        """Give ``count`` reserved IOASIDs back; returns how many are available then.

        Errors: ``-EINVAL`` more than was reserved, or negative.
        """
        self._lock.take("ioasid_cancel_capacity")
        if type(count) is not int or not 0 <= count <= self.reserved:
            raise KernelError(
                "EINVAL", f"what is given back must be 0 to {self.reserved} (all reserved), not {count!r}"
            )
        self.reserved -= count
        self.give(count)
        self.emit(Verb.CANCEL, "reservation", before=count, count=count, available=self.available)
        return self.available

    def take(self, count: int, who: str) -> None:
        """``count`` IOASIDs become ``who``'s; ``-ENOSPC`` when fewer are available."""
        if count > self.available:
            raise KernelError(
                "ENOSPC", f"{who} must be at most {self.available} IOASIDs, not {count}: the rest is promised to others"
            )
        self.available -= count

    def give(self, count: int) -> None:
        """``count`` IOASIDs are nobody's again."""
        self.available += count

    def __repr__(self) -> str:
        return f"<capacity {self.total}: {self.available} available, {self.reserved} reserved>"
