"""How a kernel gets its AMD IOMMU driver running."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.kernel.iommu.amdvi.driver import AmdDriver
from pasidlab.kernel.iommu.amdvi.faults import AmdFaultHandler
from pasidlab.kernel.iommu.bindings import Bindings
from pasidlab.kernel.iommu.contract import Support

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.core import IoasidCore
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["start"]


def start(platform: Platform, pages: PageAllocator, core: IoasidCore) -> Support:
    """Take the unit into use. ``-ENODEV``: it lacks what the driver needs."""
    driver = AmdDriver(platform, pages, core)
    return Support(driver, Bindings(driver), AmdFaultHandler(driver, platform, pages))
