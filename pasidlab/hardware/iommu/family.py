"""What one kind of IOMMU is: its registers, its processor, its words, and how a unit of it is made.

Each has a ``family.py``; :mod:`.families` lists them. A kernel learns of its unit as a real one does, from a table of
its firmware (DMAR, IORT, IVRS).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pasidlab.hardware.bus import PcieBus
    from pasidlab.hardware.cpu import LocalApic
    from pasidlab.hardware.cpu.architecture import Architecture
    from pasidlab.hardware.iommu.contract import Identity, IommuUnit
    from pasidlab.hardware.memory import Memory
    from pasidlab.timeline import Timeline

__all__ = ["Family", "Parts", "Terms"]


class Terms(NamedTuple):
    """The words of one architecture for what :mod:`~pasidlab.hardware.iommu.contract` has in common.

    ``device_entry`` says where the table of a device is; ``table`` and ``entry`` are that table and what it has for
    one PASID; ``tag`` is what cached translations carry beside the PASID; ``command`` is what software asks for
    invalidations with.
    """

    device_entry: str
    table: str
    entry: str
    first: str
    second: str
    tag: str
    number: str
    command: str


class Parts(NamedTuple):
    """What a unit is connected to: the memory that holds its tables, the bus, and who takes its interrupts."""

    timeline: Timeline
    memory: Memory
    bus: PcieBus
    apic: LocalApic


class Family(NamedTuple):
    """One kind of IOMMU. Its registers are ``size`` bytes at ``base``; ``firmware`` is the table that tells a kernel.

    ``binds_tables``: under nested translation a guest owns its table of PASIDs, which the host binds as a whole; else
    the host owns it and each PASID of a guest is bound by itself (T2 of the talk).

    >>> from pasidlab.hardware.iommu.vtd.family import VTD
    >>> VTD.title, VTD.terms.entry, VTD.binds_tables
    ('Intel VT-d, scalable mode', 'PASID entry', False)
    """

    name: str
    title: str
    firmware: str
    architecture: Architecture
    base: int
    size: int
    binds_tables: bool
    terms: Terms
    make: Callable[[Parts, Identity | None], IommuUnit]
    identity: type

    def check(self, identity: Identity | None, memory: int) -> None:
        """``ValueError`` for an identity that is none of this family's, or that no silicon of this machine can have."""
        if identity is None:
            return
        if not isinstance(identity, self.identity):
            where = f"{self.identity.__module__}.{self.identity.__name__}"
            raise ValueError(f"identity must be one of {self.title} ({where}), not of type {type(identity).__name__}")
        identity.check_silicon()
        if memory > 1 << identity.address_bits:
            bits = identity.address_bits
            raise ValueError(
                f"the addresses of identity must cover the memory: {memory:#x} bytes, not {bits} address bits"
            )
