"""The Arm SMMUv3 as one of the IOMMUs that a machine may have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.cpu.architecture import ARM64
from pasidlab.hardware.iommu.family import Family, Parts, Terms
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.iommu.smmuv3.register_file import BASE, SIZE
from pasidlab.hardware.iommu.smmuv3.unit import SmmuUnit
from pasidlab.timeline import HARDWARE

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.contract import Identity

__all__ = ["SMMUV3"]


def _make(parts: Parts, identity: Identity | None) -> SmmuUnit:
    card = identity if isinstance(identity, SmmuIdentity) else None
    return SmmuUnit(parts.timeline, "iommu-unit", HARDWARE, parts.memory, card, parts.bus, parts.apic)


SMMUV3: Final = Family(
    "smmuv3",
    "Arm SMMUv3",
    "IORT",
    ARM64,
    base=BASE,
    size=SIZE,
    binds_tables=True,
    terms=Terms(
        device_entry="stream table entry",
        table="context descriptor table",
        entry="context descriptor",
        first="stage 1",
        second="stage 2",
        tag="VMID",
        number="SubstreamID",
        command="command",
    ),
    make=_make,
    identity=SmmuIdentity,
)
