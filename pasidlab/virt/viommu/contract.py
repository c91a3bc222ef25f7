"""What every emulated unit offers its hypervisor, whatever its vendor.

The guest's driver of it is the very driver of the host. What it must do so that the unit notices (a virtual command, an
invalidation, a command for a device entry) is what the hypervisor traps; what follows on the host differs: see
:mod:`pasidlab.kernel.iommu.contract`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from pasidlab.hardware.mmio import MmioTarget
from pasidlab.virt.traps import SERVED

if TYPE_CHECKING:
    from collections.abc import Callable

    from pasidlab.hardware.cpu import LocalApic
    from pasidlab.hardware.iommu.contract import WaitingPages
    from pasidlab.hardware.iommu.reading import Reading
    from pasidlab.hardware.memory import Memory
    from pasidlab.hardware.pcie import PageRequest, ResponseCode
    from pasidlab.timeline import Table, Timeline
    from pasidlab.virt.ioasid_user import PasidSource
    from pasidlab.virt.traps import TrapDesk
    from pasidlab.virt.vfio import VfioContainer

    MakeUnit = Callable[[Timeline, str, "VirtualPlatform", VfioContainer, PasidSource], "VirtualUnit"]

__all__ = ["VirtualPlatform", "VirtualUnit"]


class VirtualPlatform(NamedTuple):
    """What of the guest the emulated unit reaches: its memory, and the CPU that it interrupts. ``desk``: where its
    traps are decided.
    """

    memory: Memory
    apic: LocalApic
    desk: TrapDesk = SERVED


class VirtualUnit(MmioTarget, Protocol):
    """One guest's unit. ``devices`` are the names of its devices by the requester ID that the guest knows.

    ``pasids`` maps the guest's numbers to the host's, for those that the host backs: none, where the guest owns its
    table. With ``identity_mapped`` the guest gets the host's numbers themselves.
    """

    name: str
    memory: Memory
    devices: Table[int, str]
    pasids: Table[int, int]
    identity_mapped: bool

    @property
    def page_queue(self) -> WaitingPages:
        """The guest's queue of page requests."""

    @property
    def reading(self) -> Reading:
        """How people read the guest's tables."""

    def page_requested(self, request: PageRequest) -> ResponseCode | None:
        """A device of the host asks for a page: put it into the guest's queue; ``None``: the guest will answer."""
