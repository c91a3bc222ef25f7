"""Intel VT-d, scalable mode as one of the IOMMUs that a machine may have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.cpu.architecture import INTEL64
from pasidlab.hardware.iommu.family import Family, Parts, Terms
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.register_file import BASE, SIZE
from pasidlab.hardware.iommu.vtd.unit import VtdUnit
from pasidlab.timeline import HARDWARE

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import Identity

__all__ = ["VTD"]


def _make(parts: Parts, identity: Identity | None) -> VtdUnit:
    card = identity if isinstance(identity, VtdIdentity) else None
    return VtdUnit(parts.timeline, "iommu-unit", HARDWARE, parts.memory, card, parts.bus, parts.apic)


VTD: Final = Family(
    "vtd",
    "Intel VT-d, scalable mode",
    "DMAR",
    INTEL64,
    base=BASE,
    size=SIZE,
    binds_tables=False,
    terms=Terms(
        device_entry="context entry",
        table="PASID table",
        entry="PASID entry",
        first="first level",
        second="second level",
        tag="domain id",
        number="PASID",
        command="descriptor",
    ),
    make=_make,
    identity=VtdIdentity,
)
