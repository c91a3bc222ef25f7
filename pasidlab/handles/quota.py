"""What an administrator types to allow somebody another number of PASIDs, checked before anything happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.quota.rlimit import Limits, RlimitQuota

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.quota.contract import QuotaPolicy
    from pasidlab.timeline import Part

__all__ = ["number", "prlimit"]


def number(value: object, what: str = "a quota") -> int:
    """A number of PASIDs; ``-EINVAL`` for anything that is no whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise KernelError("EINVAL", f"{what} must be a whole number, not {value!r}")
    return value


def prlimit(policy: QuotaPolicy, mm: Part, name: str, quota: int, hard: int | None, privileged: bool) -> bool:
    """Set the limits of a process, where there are limits of processes: one number is both. ``False``: there are none.

    Errors: those of :meth:`RlimitQuota.set_limits`; ``-EINVAL`` a hard limit, or no privilege, under another policy.
    """
    limits = Limits(number(quota), number(quota if hard is None else hard))
    if isinstance(policy, RlimitQuota):
        policy.set_limits(mm, limits, privileged=privileged, name=name)
        return True
    if hard is not None or not privileged:
        raise KernelError("EINVAL", f"soft and hard limits need the quota policy rlimit, not {policy.name}")
    return False
