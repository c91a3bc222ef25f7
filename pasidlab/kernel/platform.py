"""What a kernel runs on. The host's platform is silicon; a guest's is what its hypervisor shows it.

This is the whole difference between the two altitudes: the kernel package never asks whether it is a guest. What it
finds in the registers (caching mode, virtual commands) makes it behave accordingly, as on the real machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pasidlab.hardware.cpu import Cpu, LocalApic
    from pasidlab.hardware.iommu.family import Family
    from pasidlab.hardware.memory import Memory
    from pasidlab.hardware.mmio import AddressMap
    from pasidlab.kernel.driver import Drivers
    from pasidlab.timeline import Agenda, Timeline

__all__ = ["ECAM_BASE", "Platform"]

ECAM_BASE = 0xB000_0000
"""Where PCs put the memory-mapped configuration space of PCI functions."""


@dataclass(frozen=True, slots=True)
class Platform:
    """One machine as its kernel sees it. ``altitude`` is ``"host"`` or the VM's name; ``drivers`` are the modules that
    this kernel has: a guest's kernel is the same kernel. ``iommu`` is what the firmware's tables say of the IOMMU.
    """

    timeline: Timeline
    agenda: Agenda
    altitude: str
    memory: Memory
    memory_size: int
    mmio: AddressMap
    cpu: Cpu
    apic: LocalApic
    drivers: Drivers
    iommu: Family
