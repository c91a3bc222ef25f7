"""How a kernel gets its VT-d driver running."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.kernel.iommu.contract import Support
from pasidlab.kernel.iommu.vtd.driver import VtdDriver
from pasidlab.kernel.iommu.vtd.faults import VtdFaultHandler
from pasidlab.kernel.iommu.vtd.svm import Svm

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.core import IoasidCore
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["start"]


def start(platform: Platform, pages: PageAllocator, core: IoasidCore) -> Support:
    """Take the unit into use. ``-ENODEV``: it lacks what the driver needs."""
    driver = VtdDriver(platform, pages, core)
    return Support(driver, Svm(driver), VtdFaultHandler(platform))
