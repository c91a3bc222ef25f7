"""What a quota policy is: who pays for an ID, and who may say no.

The talk leaves it open how an administrator manages quotas. A policy answers three questions: what is set aside when a
set is made, who is charged when an ID is allocated, and who gets the charge back when it is reclaimed. The core asks at
these three moments, and tells a policy when a set ends and when a process is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.timeline import Part

__all__ = ["IoasidRefused", "QuotaPolicy"]


class IoasidRefused(Exception):
    """No ID: what the kernel reports as INVALID_IOASID, with the reason in words."""


class QuotaPolicy(Protocol):
    """One administrator's way. ``name`` is what a machine calls it."""

    name: str

    @property
    def held(self) -> int:
        """How much of the capacity the policy itself has taken, beside the quotas of the sets."""

    def make_set(self, name: str, token: Part, quota: int) -> IoasidSet:
        """The set of a new VM that is to have at most ``quota`` IDs. Errors: those of ``IoasidSets.alloc``."""

    def change(self, the_set: IoasidSet, quota: int) -> None:
        """The VM is to have at most ``quota`` IDs from now on. Errors: the policy's own."""

    def limit(self, the_set: IoasidSet) -> int | None:
        """The number that :meth:`change` writes, as it is now; ``None`` when there is none."""

    def charge(self, the_set: IoasidSet, payer: Part | None) -> None:
        """One more ID for ``the_set``: raises :class:`IoasidRefused`, and then has charged nobody."""

    def uncharge(self, the_set: IoasidSet, payer: Part | None) -> None:
        """The ID was reclaimed (or never came to be): the charge goes back to whoever bore it."""

    def forget(self, the_set: IoasidSet) -> None:
        """The set has ended."""

    def leave(self, mm: Part) -> None:
        """The process with this mm is gone. Its set may live on for as long as IDs are pending."""
