"""The engine: carries out one descriptor by DMA and writes its completion record.

Source: Linux ``include/uapi/linux/idxd.h`` (status codes), ``drivers/dma/idxd`` (what a driver expects of them). A
page fault without block-on-fault ends the operation with status 3, the bytes done, the address, and whether it was a
write. With it (descriptor flag and queue) the operation waits for the page and goes on where it was. A record is
written when the descriptor asks for one (RCR) or something went wrong, provided that it gives an address (CRAV).

UNVERIFIED: error code 0x1a for a completion record that faults (so named in the kernel's event-log code; no page is
asked for then); that RCR without CRAV is INVALID_FLAGS; that the flag BOF is ignored where the queue does not block or
page requests are off; the order of checks. Left out: interrupts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pasidlab.errors import BusError
from pasidlab.hardware.accelerator.descriptor import Completion, CompletionStatus, Descriptor, Flag, Opcode
from pasidlab.hardware.accelerator.operations import OPERATIONS, DmaPort, Operation, PageMissing, pieces
from pasidlab.hardware.iommu.contract import DmaAborted
from pasidlab.hardware.pcie import Access, DmaRequest

__all__ = ["Blocked", "Limits", "SoftwareError", "execute", "page_fault", "report", "supported_opcodes"]

_RECORD_ALIGNMENT: Final = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """What the device and the queue allow a descriptor."""

    max_transfer: int
    overlap_copy: bool
    privileged: bool
    blocks: bool = False


class Blocked(Exception):
    """The operation waits for a page that ``request`` needs, with ``done`` bytes behind it."""

    def __init__(self, request: DmaRequest, done: int) -> None:
        self.request = request
        self.done = done
        super().__init__(f"waits for a page: {request}")


class SoftwareError(Exception):
    """A descriptor's fate that cannot be told in its completion record: it goes to the SWERR register."""

    def __init__(self, error: int, fault_addr: int = 0, write: int = 0) -> None:
        self.error = error
        self.fault_addr = fault_addr
        self.write = write
        super().__init__(f"software error {error:#x} at {fault_addr:#x}")


def supported_opcodes() -> list[Opcode]:
    """What the OPCAP register lists."""
    return sorted((Opcode.NOOP, *OPERATIONS))


def execute(dma: DmaPort, work: Descriptor, limits: Limits, done: int = 0) -> Completion:
    """Carry out the operation from ``done`` bytes on; says how it ended, or raises :class:`Blocked`.

    Whatever it did to memory before a fault stays done.
    """
    refused = _check(dma, work, limits)
    if refused is not None:
        return Completion(refused)
    if work.opcode == Opcode.NOOP:
        return Completion(CompletionStatus.SUCCESS)
    operation = OPERATIONS[Opcode(work.opcode)]
    backwards = operation.backwards(work)
    if backwards and not limits.overlap_copy:
        return Completion(CompletionStatus.OVERLAP_BUFFERS)
    blocks = limits.blocks and bool(work.flags & Flag.BOF)
    return _run(operation, dma, work, backwards, blocks, done)


def _run(operation: Operation, dma: DmaPort, work: Descriptor, backwards: bool, blocks: bool, start: int) -> Completion:
    done = 0
    for offset, length in pieces(operation.addresses(work), work.size, backwards):
        if done < start:
            done += length
            continue
        try:
            ended = operation.step(dma, work, offset, length)
        except DmaAborted as aborted:
            return page_fault(aborted.fault.request, done, backwards)
        except PageMissing as missing:
            if blocks:
                raise Blocked(missing.request, done) from None
            return page_fault(missing.request, done, backwards)
        except BusError as error:
            return Completion(CompletionStatus.HW_ERR1, int(backwards), done, error.address)
        if ended is not None:
            return ended
        done += length
    return Completion(CompletionStatus.SUCCESS, 0, done)


def page_fault(
    request: DmaRequest,
    done: int,
    backwards: bool = False,
    status: CompletionStatus = CompletionStatus.PAGE_FAULT_NOBOF,
) -> Completion:
    """How an operation ends whose ``request`` reached no page."""
    return Completion(status, int(backwards), done, request.address, int(request.access is Access.WRITE))


def _check(dma: DmaPort, work: Descriptor, limits: Limits) -> CompletionStatus | None:
    """Why the descriptor is not acceptable, if so."""
    if work.opcode not in supported_opcodes():
        return CompletionStatus.BAD_OPCODE
    if work.rsvd:
        return CompletionStatus.NOZERO_RESERVE
    if work.flags & Flag.RCR and not work.flags & Flag.CRAV:
        return CompletionStatus.INVALID_FLAGS
    if dma.privileged and not limits.privileged:
        return CompletionStatus.PRIV_BAD
    if work.opcode == Opcode.NOOP:
        return None
    if not 0 < work.size <= limits.max_transfer:
        return CompletionStatus.XFER_ERANGE
    return OPERATIONS[Opcode(work.opcode)].check(work)


def report(dma: DmaPort, work: Descriptor, completion: Completion) -> None:
    """Write the completion record if one is due; what cannot be reported there raises :class:`SoftwareError`."""
    failed = completion.status not in (CompletionStatus.SUCCESS, CompletionStatus.SUCCESS_PRED)
    if not work.flags & Flag.CRAV:
        if failed:
            raise SoftwareError(completion.status, completion.fault_addr, completion.write)
        return
    if not failed and not work.flags & Flag.RCR:
        return
    if work.completion_addr % _RECORD_ALIGNMENT:
        raise SoftwareError(CompletionStatus.CRA_ALIGN, work.completion_addr)
    try:
        dma.write(work.completion_addr, completion.to_bytes())
    except DmaAborted as aborted:
        raise SoftwareError(CompletionStatus.CRA_XLAT, aborted.fault.request.address, 1) from aborted
    except PageMissing as missing:
        raise SoftwareError(CompletionStatus.CRA_XLAT, missing.request.address, 1) from missing
    except BusError as error:
        raise SoftwareError(CompletionStatus.CRA_XLAT, error.address, 1) from error
