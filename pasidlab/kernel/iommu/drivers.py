"""The IOMMU drivers that a kernel has: the firmware's table says which unit there is, and this which driver it needs.

This is the one place of the kernel that knows all of them by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.kernel.iommu.amdvi import start as amdvi
from pasidlab.kernel.iommu.smmuv3 import start as smmuv3
from pasidlab.kernel.iommu.vtd import start as vtd

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.core import IoasidCore
    from pasidlab.kernel.iommu.contract import Start, Support
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["start_iommu"]

_DRIVERS: Final[dict[str, Start]] = {"vtd": vtd.start, "smmuv3": smmuv3.start, "amdvi": amdvi.start}


def start_iommu(platform: Platform, pages: PageAllocator, core: IoasidCore) -> Support:
    """Start the driver of the platform's unit. ``-ENODEV``: the unit lacks what the driver needs."""
    return _DRIVERS[platform.iommu.name](platform, pages, core)
