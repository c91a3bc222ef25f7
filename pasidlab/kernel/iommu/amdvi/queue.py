"""How the driver talks to the unit: commands in a ring in memory, and COMPLETION_WAIT to know that they are done.

Models ``iommu_queue_command_sync``, ``iommu_completion_wait`` and the ``build_*`` functions of
``drivers/iommu/amd/iommu.c``: a ring of 8 KiB with 512 commands of 16 bytes, and behind each batch a COMPLETION_WAIT
that stores a number where the driver looks for it. A guest's driver does exactly this with its emulated unit; that is
where the hypervisor's trap sits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.amdvi import register_file as reg
from pasidlab.hardware.iommu.amdvi.invalidation import command_address
from pasidlab.hardware.layouts.amd import BUFFER_REG
from pasidlab.hardware.layouts.amd_queue import (
    CMD_COMPLETE_PPR,
    CMD_COMPLETION_WAIT,
    CMD_INV_ALL,
    CMD_INV_DEVTAB,
    CMD_INV_IOMMU_PAGES,
    CMD_INV_IOTLB_PAGES,
)
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.pcie import WHOLE_SPACE, PageGroupResponse
from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["RING_ENTRIES_CODE", "RING_PAGES", "RING_SIZE", "CommandBuffer"]

RING_PAGES: Final = 2
RING_SIZE: Final = RING_PAGES * PAGE_SIZE
"""Bytes of each of the three rings: commands, events, page requests."""
RING_ENTRIES_CODE: Final = 9
"""2^9 entries of 16 bytes (MMIO_CMD_SIZE_512)."""
_COMMAND_SIZE: Final = 16
_MOST_IN_FLIGHT: Final = 32
"""What a queue depth of 0 in a device's ATS capability stands for (PCI_ATS_MAX_QDEP)."""
_PASID_LOW_BITS: Final = 8

Command = tuple[int, ...]


class CommandBuffer(Part, state=("_done", "_tail")):
    """The driver's end of one unit's command buffer."""

    def __init__(self, platform: Platform, pages: PageAllocator, path: str) -> None:
        super().__init__(platform.timeline, path)
        self._memory = platform.memory
        self._mmio = platform.mmio
        self._ring = pages.alloc_run(RING_PAGES)
        self._semaphore = pages.alloc()
        self._tail = 0
        self._done = 0

    def enable(self) -> None:
        """Tell the unit where the ring is; it is empty then."""
        base = BUFFER_REG.encode(Base=self._ring, Length=RING_ENTRIES_CODE)[0]
        self._mmio.write(reg.BASE + reg.CMD_BUF, base)

    # --- commands -----------------------------------------------------------------------------------------------------

    def everything(self) -> Command:
        """Forget all (INVALIDATE_IOMMU_ALL), where the unit can."""
        return CMD_INV_ALL.encode(OPCODE=8)

    def device_entry(self, rid: int) -> Command:
        """Forget the device table entry of one device."""
        return CMD_INV_DEVTAB.encode(OPCODE=2, devid=rid)

    def domain_pages(self, did: int, start: int = 0, size: int = WHOLE_SPACE) -> Command:
        """Forget the host table of a DomainID, and what was translated through it."""
        address, sized = command_address(start, size)
        return CMD_INV_IOMMU_PAGES.encode(OPCODE=3, domid=did, PDE=1, S=sized, addr=address)

    def pasid_pages(
        self, did: int, pasid: int, start: int = 0, size: int = WHOLE_SPACE, *, tables: bool = True
    ) -> Command:
        """Forget the guest table of a PASID; with ``tables`` (PDE) its upper levels and its GCR3 entry as well."""
        address, sized = command_address(start, size)
        return CMD_INV_IOMMU_PAGES.encode(
            OPCODE=3, PASID=pasid, domid=did, PDE=int(tables), GN=1, S=sized, addr=address
        )

    def device_pages(self, rid: int, start: int = 0, size: int = WHOLE_SPACE, depth: int = 0) -> Command:
        """Let a device forget what it asked for without PASID; ``depth`` is its invalidate queue depth."""
        return CMD_INV_IOTLB_PAGES.encode(**_to_device(rid, start, size, depth))

    def device_pasid_pages(
        self, rid: int, pasid: int, start: int = 0, size: int = WHOLE_SPACE, depth: int = 0
    ) -> Command:
        """Let a device forget pages of one PASID, of which the command has 16 bits."""
        high, low = pasid >> _PASID_LOW_BITS, pasid & (1 << _PASID_LOW_BITS) - 1
        return CMD_INV_IOTLB_PAGES.encode(**_to_device(rid, start, size, depth), GN=1, PASID_HI=high, PASID_LO=low)

    def page_response(self, response: PageGroupResponse) -> Command:
        """Answer a group of page requests (COMPLETE_PPR_REQUEST)."""
        pasid = response.pasid
        return CMD_COMPLETE_PPR.encode(
            OPCODE=7,
            devid=response.rid,
            PASID=pasid or 0,
            GN=int(pasid is not None),
            tag=response.group,
            status=response.code,
        )

    def fence(self) -> Command:
        """Begin what follows only when all before is done."""
        return CMD_COMPLETION_WAIT.encode(OPCODE=1, F=1)

    # --- submission ---------------------------------------------------------------------------------------------------

    def submit(self, *commands: Command) -> None:
        """Hand commands to the unit and wait until they are carried out; ``-EIO`` if the unit stopped at one."""
        self._done += 1
        wait = CMD_COMPLETION_WAIT.encode(OPCODE=1, S=1, STORE_ADDR=self._semaphore, STORE_DATA=self._done)
        for words in (*commands, wait):
            self._memory.store_words(self._ring + self._tail, words)
            self._tail = (self._tail + _COMMAND_SIZE) % RING_SIZE
        self._mmio.write(reg.BASE + reg.CMD_TAIL, self._tail)
        if self._memory.load(self._semaphore) != self._done:
            raise KernelError("EIO", "the IOMMU did not complete an invalidation (completion-wait loop timed out)")


def _to_device(rid: int, start: int, size: int, depth: int) -> dict[str, int]:
    """The fields that every INVALIDATE_IOTLB_PAGES has; the queue is named after the device."""
    address, sized = command_address(start, size)
    return {
        "OPCODE": 4,
        "devid": rid,
        "queueid": rid,
        "qdep": depth or _MOST_IN_FLIGHT,
        "S": sized,
        "addr": address,
    }
