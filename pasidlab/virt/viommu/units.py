"""The emulated units that a hypervisor has: the one place that knows all of them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.virt.viommu.amdvi import VirtualAmd
from pasidlab.virt.viommu.smmuv3 import VirtualSmmu
from pasidlab.virt.viommu.vtd import VirtualVtd

if TYPE_CHECKING:
    from pasidlab.virt.viommu.contract import MakeUnit

__all__ = ["VIRTUAL_UNITS"]

VIRTUAL_UNITS: Final[dict[str, MakeUnit]] = {"vtd": VirtualVtd, "smmuv3": VirtualSmmu, "amdvi": VirtualAmd}
"""By the name of the machine's IOMMU: a guest sees one of the same kind."""
