"""What stories about VT-d itself look at: the unit and its tables, on a machine that must have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.vtd.unit import VtdUnit
from pasidlab.kernel.iommu.vtd.driver import VtdDriver

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.vtd.pasid_table import PasidTable
    from pasidlab.machine import Machine

__all__ = ["vtd_driver", "vtd_table", "vtd_unit"]


def vtd_unit(m: Machine) -> VtdUnit:
    """The machine's unit; ``-ENODEV`` on another machine.

    >>> from pasidlab import Machine
    >>> vtd_unit(Machine()).translation_enabled
    True
    """
    if not isinstance(m.unit, VtdUnit):
        raise KernelError("ENODEV", f"this needs a machine with VT-d, not with {m.iommu}")
    return m.unit


def vtd_driver(m: Machine) -> VtdDriver:
    """The host's driver of the unit; ``-ENODEV`` on another machine."""
    driver = m.kernel.iommu
    if not isinstance(driver, VtdDriver):
        raise KernelError("ENODEV", f"this needs a machine with VT-d, not with {m.iommu}")
    return driver


def vtd_table(m: Machine, rid: int) -> PasidTable:
    """The PASID table of a device; ``-ENODEV`` if there is none."""
    return vtd_driver(m).table_of(rid)
