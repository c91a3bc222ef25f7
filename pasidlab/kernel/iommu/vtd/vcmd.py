"""The guest's PASID allocator: ask the hypervisor through the virtual command registers.

Models ``vcmd_alloc_pasid``/``vcmd_free_pasid`` and the custom allocator of the VT-d driver (v5.8 to v6.3): write the
command, poll the response until it is no longer in progress, read status and result. The requested range is not sent;
what the host hands out is the host's policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.vtd.register_file import BASE as IOMMU_BASE
from pasidlab.hardware.iommu.vtd.virtual_command import VCMD_ALLOC, VCMD_AT_E10, VCMD_FREE
from pasidlab.hardware.pcie import PASID_LIMIT
from pasidlab.timeline import Actor, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.platform import Platform

__all__ = ["INTERFACE", "VirtualCommandAllocator"]

INTERFACE: Final = VCMD_AT_E10
"""Where this kernel expects the registers: the layout of the kernels of 2020."""


class VirtualCommandAllocator(Actor):
    """A custom IOASID allocator whose numbers come from the host."""

    actor = "iommu"
    refusal = "the hypervisor answered the virtual command with 'no PASID available'"

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform.timeline, f"{platform.altitude}.iommu.vcmd", platform.altitude)
        self._mmio = platform.mmio

    def alloc(self, minimum: int, maximum: int) -> int | None:
        """A PASID from the host, or ``None`` (the kernel's -ENOSPC).

        A range that the kernel could not use is refused here; within it the host's answer is taken as it is.
        """
        if minimum < 1 or maximum >= PASID_LIMIT:
            return None
        status, pasid = self._command(VCMD_ALLOC, 0, "allocate a PASID")
        return pasid if status == INTERFACE.success else None

    def free(self, ioasid: int) -> None:
        """Give a PASID back; a refusal by the host has nowhere to go and is only told."""
        self._command(VCMD_FREE, ioasid, f"free PASID {ioasid}")

    def _command(self, command: int, operand: int, words: str) -> tuple[int, int]:
        event = self.emit(Verb.COMMAND, words, command=command, operand=operand)
        with self.timeline.because(event):
            self._response()
            self._mmio.write(IOMMU_BASE + INTERFACE.vcmd, INTERFACE.request(command, operand))
            response = self._response()
        return INTERFACE.response["SC"].get((response,)), INTERFACE.response["PASID"].get((response,))

    def _response(self) -> int:
        """The response register, once no command is in progress any more."""
        while INTERFACE.response["IP"].get((response := self._mmio.read(IOMMU_BASE + INTERFACE.vcrsp),)):
            continue
        return response
