"""The engine: carries out one step of a descriptor by DMA, and writes completion records.

Source: Linux ``include/uapi/linux/idxd.h`` (status codes), ``drivers/dma/idxd`` (what a driver expects of them). A
step is one piece of at most a page of each address; a descriptor of one piece ends in its only step. A page fault
without block-on-fault ends the operation with status 3, the bytes done, the address, and whether it was a write. With
it (descriptor flag and queue) the operation waits for the page and goes on where it was. A record is written when the
descriptor asks for one (RCR) or something went wrong, provided that it gives an address (CRAV).

A batch is checked here like any descriptor: its list must be aligned to 64 bytes (DESCLIST_ALIGN), of 2 to
2^max_batch_shift descriptors (DESC_CNT_ERANGE).

UNVERIFIED: how much real silicon does at once; error code 0x1a for a completion record that faults (so named in the
kernel's event-log code; no page is asked for then); that RCR without CRAV is INVALID_FLAGS; that the flag BOF is
ignored where the queue does not block or page requests are off; the order of checks, and that they are made once, when
a descriptor begins. A request that the IOMMU holds (SMMUv3) makes the operation wait whatever BOF says; a completion
record whose store is held counts as faulted (UNVERIFIED: silicon would just wait). Left out: interrupts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from pasidlab.errors import BusError
from pasidlab.hardware.accelerator.descriptor import Completion, CompletionStatus, Descriptor, Flag, Opcode
from pasidlab.hardware.accelerator.operations import OPERATIONS, piece
from pasidlab.hardware.dma import DmaPort, PageMissing
from pasidlab.hardware.iommu.contract import DmaAborted
from pasidlab.hardware.pcie import Access, DmaRequest

__all__ = [
    "Blocked",
    "Limits",
    "SoftwareError",
    "advance",
    "check",
    "page_fault",
    "read_child",
    "report",
    "succeeded",
    "supported_opcodes",
]

T = TypeVar("T")

_RECORD_ALIGNMENT: Final = 32
_DESCRIPTOR_SIZE: Final = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """What the device and the queue allow a descriptor."""

    max_transfer: int
    overlap_copy: bool
    privileged: bool
    max_batch: int
    blocks: bool = False


class Blocked(Exception):
    """The step waits for a page that ``request`` needs, and will be done again from its start.

    With a ``tag`` the IOMMU holds the request and will say when; otherwise the device has to ask.
    """

    def __init__(self, request: DmaRequest, tag: int | None = None) -> None:
        self.request = request
        self.tag = tag
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
    return sorted((Opcode.NOOP, Opcode.BATCH, *OPERATIONS))


def advance(dma: DmaPort, work: Descriptor, limits: Limits, done: int) -> int | Completion:
    """Carry out one step, with ``done`` bytes behind: how many there are now, or how the descriptor ended.

    Raises :class:`Blocked`. Whatever was done to memory before a fault stays done. A batch is no step of a batch
    (UNVERIFIED: BAD_OPCODE).
    """
    if work.opcode == Opcode.BATCH:
        return Completion(CompletionStatus.BAD_OPCODE)
    refused = None if done else check(dma, work, limits)
    if refused is not None:
        return Completion(refused)
    if work.opcode == Opcode.NOOP:
        return Completion(CompletionStatus.SUCCESS)
    operation = OPERATIONS[Opcode(work.opcode)]
    backwards = operation.backwards(work)
    offset, length = piece(operation.addresses(work), work.size, done, backwards)
    blocks = limits.blocks and bool(work.flags & Flag.BOF)
    ended = _attempt(lambda: operation.step(dma, work, offset, length), blocks, done, backwards)
    if ended is not None:
        return ended
    done += length
    return done if done < work.size else Completion(CompletionStatus.SUCCESS, 0, done)


def read_child(dma: DmaPort, batch: Descriptor, child: int, limits: Limits) -> bytes | Completion:
    """Fetch one descriptor of a batch's list: its bytes, or how the batch ended. Raises :class:`Blocked`.

    UNVERIFIED: that each is fetched when its turn comes, and that the flag BOF of the batch is for its list. The record
    of a list that cannot be read tells how many descriptors were completed before.
    """
    blocks = limits.blocks and bool(batch.flags & Flag.BOF)
    place = batch.src + _DESCRIPTOR_SIZE * child
    return _attempt(lambda: dma.read(place, _DESCRIPTOR_SIZE), blocks, child, False)


def _attempt(access: Callable[[], T], blocks: bool, done: int, backwards: bool) -> T | Completion:
    """Try to reach memory: what came of it, or how the descriptor ended. Raises :class:`Blocked`."""
    try:
        return access()
    except DmaAborted as aborted:
        if aborted.fault.stall is not None:
            raise Blocked(aborted.fault.request, aborted.fault.stall) from None
        return page_fault(aborted.fault.request, done, backwards)
    except PageMissing as missing:
        if blocks:
            raise Blocked(missing.request) from None
        return page_fault(missing.request, done, backwards)
    except BusError as error:
        return Completion(CompletionStatus.HW_ERR1, int(backwards), done, error.address)


def page_fault(
    request: DmaRequest,
    done: int,
    backwards: bool = False,
    status: CompletionStatus = CompletionStatus.PAGE_FAULT_NOBOF,
) -> Completion:
    """How an operation ends whose ``request`` reached no page."""
    return Completion(status, int(backwards), done, request.address, int(request.access is Access.WRITE))


def check(dma: DmaPort, work: Descriptor, limits: Limits) -> CompletionStatus | None:
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
    return _check_list(work, limits) if work.opcode == Opcode.BATCH else _check_transfer(work, limits)


def _check_list(work: Descriptor, limits: Limits) -> CompletionStatus | None:
    if work.src % _DESCRIPTOR_SIZE:
        return CompletionStatus.DESCLIST_ALIGN
    return None if 2 <= work.size <= limits.max_batch else CompletionStatus.DESC_CNT_ERANGE


def _check_transfer(work: Descriptor, limits: Limits) -> CompletionStatus | None:
    if not 0 < work.size <= limits.max_transfer:
        return CompletionStatus.XFER_ERANGE
    operation = OPERATIONS[Opcode(work.opcode)]
    refused = operation.check(work)
    overlaps = operation.backwards(work) and not limits.overlap_copy
    return CompletionStatus.OVERLAP_BUFFERS if refused is None and overlaps else refused


def succeeded(completion: Completion) -> bool:
    """Whether a descriptor ended as it should."""
    return completion.status in (CompletionStatus.SUCCESS, CompletionStatus.SUCCESS_PRED)


def report(dma: DmaPort, work: Descriptor, completion: Completion) -> None:
    """Write the completion record if one is due; what cannot be reported there raises :class:`SoftwareError`."""
    failed = not succeeded(completion)
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
