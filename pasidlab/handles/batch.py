"""Batches of copies as a program writes them: the list of descriptors and their records, in its own memory.

Models what user-space accelerator libraries do: one buffer holds the list (64 bytes a descriptor, aligned to 64) and
behind it a completion record for each; one further descriptor, the batch, names the list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.handles.work import Outcome, Ticket
from pasidlab.hardware.accelerator.descriptor import Completion, Descriptor, Flag, Opcode
from pasidlab.kernel import user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasidlab.handles.app import App

__all__ = ["BatchOutcome", "BatchTicket", "batch_list", "checked_copies", "checked_copy"]

_DESCRIPTOR: Final = 64


def checked_copy(src: int, dst: int, size: int) -> None:
    """``-EINVAL`` for what no descriptor can hold."""
    if not 1 <= size < 1 << 32:
        raise KernelError("EINVAL", f"the number of bytes to copy must be between 1 and 2^32 - 1, not {size}")
    for address in (src, dst):
        if not 0 <= address < 1 << 64:
            raise KernelError("EINVAL", f"an address must have at most 64 bits, not {address:#x}")


def checked_copies(copies: object) -> list[tuple[int, int, int]]:
    """``-EINVAL`` unless it is a list of (source, destination, bytes), one at least, that descriptors can hold."""
    if not isinstance(copies, list | tuple) or not copies:
        raise KernelError("EINVAL", f"copies must be a list of (source, destination, bytes), not {copies!r}")
    found = []
    for copy in copies:
        if not isinstance(copy, list | tuple) or len(copy) != 3 or any(type(number) is not int for number in copy):
            raise KernelError("EINVAL", f"a copy of a batch must be (source, destination, bytes), not {copy!r}")
        src, dst, size = copy
        checked_copy(src, dst, size)
        found.append((src, dst, size))
    return found


def batch_list(copies: Sequence[tuple[int, int, int]], place: int, flags: int) -> bytes:
    """The list as it will lie at ``place``, and behind it the records, empty.

    >>> data = batch_list([(0x2000, 0x3000, 64), (0x2000, 0x4000, 64)], 0x1000, Flag.FENCE)
    >>> len(data), [hex(Descriptor.from_bytes(data[at : at + 64]).completion_addr) for at in (0, 64)]
    (192, ['0x1080', '0x10a0'])
    """
    wanted = flags | Flag.CRAV | Flag.RCR
    descriptors = [
        Descriptor(Opcode.MEMMOVE, src=src, dst=dst, size=size, completion_addr=record, flags=wanted)
        for (src, dst, size), record in zip(copies, _records(place, len(copies)), strict=True)
    ]
    return b"".join(one.to_bytes() for one in descriptors) + bytes(user.COMPLETION_SIZE * len(copies))


def _records(place: int, number: int) -> list[int]:
    return [place + _DESCRIPTOR * number + user.COMPLETION_SIZE * at for at in range(number)]


class BatchTicket(Ticket):
    """A batch that was submitted. ``place`` is its buffer, which is the program's to free when the device is done."""

    def __init__(self, app: App, device: str, record: int, place: int, number: int) -> None:
        super().__init__(app, device, record)
        self.place = place
        self.records = tuple(_records(place, number))

    def outcome(self) -> BatchOutcome:
        """What the device has written so far."""
        process = self.app.process
        return BatchOutcome(self.poll(), tuple(Outcome(user.poll(process, record)) for record in self.records))


class BatchOutcome(Outcome):
    """How a batch ended: ``status`` of its own record, ``completed`` copies, and the outcome of each in ``copies``."""

    def __init__(self, completion: Completion | None, copies: tuple[Outcome, ...]) -> None:
        super().__init__(completion)
        self.copies = copies
        self.completed = completion.bytes_completed if completion else 0
        self.copied = sum(copy.copied for copy in copies)

    def __repr__(self) -> str:
        if self.ok:
            return f"<{self.completed} copies, {self.copied} bytes>"
        if self.completion is None:
            return super().__repr__()
        return f"<{self.status.name} after {self.completed} of {len(self.copies)} copies, {self.copied} bytes>"
