"""The kernel's own use of an accelerator: a copy between physical addresses, on behalf of no process.

Models a work queue of type *kernel* (``drivers/dma/idxd/dma.c``): a dedicated queue without PASID, used by MOVDIR64B.
Its requests carry no PASID where the device is a whole function (the IOMMU takes the function's RID_PASID entry). On an
assignable interface the hypervisor has put the VM's default PASID into the queue instead: the parent's requests without
PASID are the host's. Left out: keeping the queue; here it is taken into use for one copy, and disabling it waits for
the copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.commands import CommandError
from pasidlab.hardware.accelerator.descriptor import Completion, Descriptor, Flag, Opcode
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.kernel.idxd import Idxd
    from pasidlab.kernel.kernel import Kernel

__all__ = ["memcpy"]

_CLIENT: Final = "kernel"
_RECORD: Final = 32


def memcpy(kernel: Kernel, driver: Idxd, work: tuple[int, int, int], pasid: int | None = None) -> Completion | None:
    """Let a free dedicated queue carry out ``work`` (source, destination, bytes), all of it physical addresses.

    With ``pasid`` the queue is programmed with that number, whatever it means to the device. ``None``: the device wrote
    no completion record. Errors: ``-ENODEV`` no dedicated queue, ``-EBUSY`` all are taken, ``-ENXIO`` the device
    refuses the queue, ``-ENOMEM``.
    """
    channel = driver.choose_dedicated()
    record = kernel.pages.alloc()
    event = kernel.emit(Verb.OPEN, f"{driver.name} wq{channel} for the kernel itself", wq=channel)
    try:
        with kernel.timeline.because(event):
            error = driver.enable_for(channel, pasid)
            if error is not CommandError.SUCCESS:
                raise KernelError("ENXIO", f"{driver.name} answered ENABLE_WQ with {error.name}")
            driver.queues[channel].clients[_CLIENT] = 0
            src, dst, size = work
            wanted = Flag.CRAV | Flag.RCR
            data = Descriptor(Opcode.MEMMOVE, src=src, dst=dst, size=size, completion_addr=record, flags=wanted)
            portal = driver.portal(driver.queues[channel])
            kernel.platform.cpu.movdir64b(kernel.platform.mmio, portal, data.to_bytes())
            driver.disable(channel)
            del driver.queues[channel].clients[_CLIENT]
        found = Completion.from_bytes(kernel.platform.memory.read(record, _RECORD))
    finally:
        kernel.pages.free(record)
    return found if found.status else None
