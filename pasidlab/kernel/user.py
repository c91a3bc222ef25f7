"""What a program in user space does with a queue: build a descriptor, submit it, poll the completion record.

Models the submission paths of user-space accelerator libraries and of the kernel's own test tools: ENQCMD with a
bounded number of retries on a shared queue, MOVDIR64B on a dedicated one, and a completion record in the program's own
memory. A #GP goes to the kernel first, which may load IA32_PASID and let the instruction run again
(:mod:`pasidlab.kernel.traps`).

A queue's portal is mapped into the processes that have it open. Nothing else keeps a process from a device on which it
is not bound: what it left in such a queue would still be there when its PASID belongs to somebody else. (A whole kernel
can write to every portal of its machine; what protects others from that is the PASID.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.descriptor import Completion, Descriptor, Flag
from pasidlab.hardware.cpu import GeneralProtection
from pasidlab.kernel.traps import fix_up_enqcmd
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.kernel.idxd import Idxd, WorkQueue
    from pasidlab.kernel.kernel import Kernel
    from pasidlab.kernel.process import Process

__all__ = ["COMPLETION_SIZE", "RETRIES", "poll", "submit"]

RETRIES: Final = 4
"""How often a program submits again before it gives up."""
COMPLETION_SIZE: Final = 32


def submit(kernel: Kernel, process: Process, device: Idxd, queue: WorkQueue, work: Descriptor, completion: int) -> None:
    """Submit ``work`` with its completion record at the virtual address ``completion``.

    Errors: ``-EFAULT`` the CPU raised #GP (no valid IA32_PASID) or #PF (the portal of a queue that it has not opened),
    ``-EAGAIN`` the queue did not accept: it is full, or the hypervisor has no entry for the PASID - software cannot
    tell these apart.
    """
    if process.path not in queue.clients and (queue.dedicated or process.mm.pasid is not None):
        # A process without PASID never gets as far as the portal: its ENQCMD raises #GP.
        raise KernelError("EFAULT", f"{process.name} must open {device.name} wq{queue.index} to have its portal mapped")
    process.mm.write(completion, bytes(COMPLETION_SIZE))
    flags = work.flags | Flag.CRAV | Flag.RCR
    data = work._replace(completion_addr=completion, flags=flags).to_bytes()
    kernel.run(process)
    event = process.emit(Verb.SUBMIT, f"to {device.name} wq{queue.index}", pid=process.pid, wq=queue.index)
    with process.timeline.because(event):
        portal = device.portal(queue)
        if queue.dedicated:
            kernel.platform.cpu.movdir64b(kernel.platform.mmio, portal, data)
            return
        accepted = any(_enqcmd(kernel, process, portal, data) for _ in range(RETRIES))
    if not accepted:
        raise KernelError(
            "EAGAIN",
            f"{device.name} did not accept the descriptor in {RETRIES} tries (ZF=1): the queue is full, or the "
            f"hypervisor has no entry for the PASID of {process.name}",
        )


def _enqcmd(kernel: Kernel, process: Process, portal: int, data: bytes) -> bool:
    """One ENQCMD; after a #GP once more if the kernel could mend its cause, otherwise ``-EFAULT``."""
    cpu, mmio = kernel.platform.cpu, kernel.platform.mmio
    while True:
        try:
            return cpu.enqcmd(mmio, portal, data)
        except GeneralProtection as fault:
            if not fix_up_enqcmd(cpu, process):
                raise KernelError("EFAULT", f"{process.name} was stopped by {fault}") from None


def poll(process: Process, completion: int) -> Completion | None:
    """The completion record, or ``None`` while the device has not written it."""
    record = Completion.from_bytes(process.mm.read(completion, COMPLETION_SIZE))
    return record if record.status else None
