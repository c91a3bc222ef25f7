"""Work that was given to a device: submitted, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.hardware.accelerator.descriptor import Completion, CompletionStatus
from pasidlab.kernel import user

if TYPE_CHECKING:
    from pasidlab.handles.app import App

__all__ = ["Outcome", "Ticket"]


class Ticket:
    """Work that was submitted: ask :meth:`poll` whether the device has written its completion record."""

    def __init__(self, app: App, device: str, record: int) -> None:
        self.app = app
        self.device = device
        self.record = record

    def poll(self) -> Completion | None:
        """The completion record, or ``None`` while there is none."""
        return user.poll(self.app.process, self.record)

    def __repr__(self) -> str:
        done = self.poll()
        return f"<submitted to {self.device}, {'done' if done else 'waiting'}>"


class Outcome:
    """How a copy ended: ``status`` of the completion record, ``copied`` bytes, and on a page fault the faulting
    address.
    """

    def __init__(self, completion: Completion | None) -> None:
        self.completion = completion
        self.status = CompletionStatus(completion.status) if completion else CompletionStatus.NONE
        self.copied = completion.bytes_completed if completion else 0
        self.fault_address = completion.fault_addr if completion else None

    @property
    def ok(self) -> bool:
        """Whether the device reports success."""
        return self.status is CompletionStatus.SUCCESS

    def __repr__(self) -> str:
        if self.ok:
            return f"<copied {self.copied} bytes>"
        if self.completion is None:
            return "<no completion record: the descriptor was dropped, or its record went nowhere or to other memory>"
        return f"<{self.status.name} after {self.copied} bytes at {self.fault_address:#x}>"
