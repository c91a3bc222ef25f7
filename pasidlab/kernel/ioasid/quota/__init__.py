"""How an administrator limits PASIDs: three interchangeable policies (the open question of the talk)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pasidlab.kernel.ioasid.quota.cgroup import CgroupQuota
from pasidlab.kernel.ioasid.quota.contract import QuotaPolicy
from pasidlab.kernel.ioasid.quota.fixed import FixedQuota
from pasidlab.kernel.ioasid.quota.rlimit import RlimitQuota

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.ids import IoasidIds

__all__ = ["QUOTA_POLICIES"]

QUOTA_POLICIES: Final[dict[str, Callable[["IoasidIds"], QuotaPolicy]]] = {
    FixedQuota.name: FixedQuota,
    RlimitQuota.name: RlimitQuota,
    CgroupQuota.name: CgroupQuota,
}
"""Every policy by its name, the one of the patches first."""
