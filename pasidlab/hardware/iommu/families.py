"""The IOMMUs that a machine may have: the one place of the hardware that knows all of them by name."""

from __future__ import annotations

from typing import Final

from pasidlab.hardware.iommu.amdvi.family import AMDVI
from pasidlab.hardware.iommu.smmuv3.family import SMMUV3
from pasidlab.hardware.iommu.vtd.family import VTD

__all__ = ["FAMILIES"]

FAMILIES: Final = {family.name: family for family in (VTD, SMMUV3, AMDVI)}
"""By the name that :class:`~pasidlab.machine.Machine` is given."""
