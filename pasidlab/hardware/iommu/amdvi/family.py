"""The AMD IOMMU as one of the IOMMUs that a machine may have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.cpu.architecture import AMD64
from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.iommu.amdvi.register_file import BASE, SIZE
from pasidlab.hardware.iommu.amdvi.unit import AmdUnit
from pasidlab.hardware.iommu.family import Family, Parts, Terms
from pasidlab.timeline import HARDWARE

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import Identity

__all__ = ["AMDVI"]


def _make(parts: Parts, identity: Identity | None) -> AmdUnit:
    card = identity if isinstance(identity, AmdIdentity) else None
    return AmdUnit(parts.timeline, "iommu-unit", HARDWARE, parts.memory, card, parts.bus, parts.apic)


AMDVI: Final = Family(
    "amdvi",
    "AMD IOMMU",
    "IVRS",
    AMD64,
    base=BASE,
    size=SIZE,
    binds_tables=True,
    terms=Terms(
        device_entry="device table entry",
        table="GCR3 table",
        entry="GCR3 entry",
        first="guest table",
        second="host table",
        tag="domain id",
        number="PASID",
        command="command",
    ),
    make=_make,
    identity=AmdIdentity,
)
