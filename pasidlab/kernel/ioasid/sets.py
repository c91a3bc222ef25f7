"""An ioasid_set: the IDs of one owner, its quota and its notifier chain.

Models ``struct ioasid_set`` of the IOASID extensions: the host has one set, each VM one, found by the *token* that its
users have in common (the mm of the hypervisor process).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from pasidlab.kernel.ioasid.notifier import Chain
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.record import IoasidRecord
    from pasidlab.timeline import Timeline

__all__ = ["IoasidSet", "SetType"]


class SetType(StrEnum):
    """What the token of a set is."""

    NONE = "none"
    MM = "mm"


class IoasidSet(Part, state=("free_pending", "quota")):
    """``quota`` IDs at most; ``ids`` are those out at present, free-pending ones included."""

    def __init__(self, timeline: Timeline, path: str, set_id: int, name: str, token: Part | None, quota: int) -> None:
        super().__init__(timeline, path)
        self.set_id = set_id
        self.name = name
        self.token = token
        self.kind = SetType.MM if token is not None else SetType.NONE
        self.quota = quota
        self.free_pending = False
        self.ids: Table[int, IoasidRecord] = Table(timeline, f"{path}.ids")
        self.chain = Chain(timeline, f"{path}.chain")

    @property
    def count(self) -> int:
        """How many IDs are charged to the quota."""
        return len(self.ids)

    def __repr__(self) -> str:
        if self.retired:
            return f"<ioasid_set {self.set_id} {self.name}, freed>"
        return f"<ioasid_set {self.set_id} {self.name}: {self.count} of {self.quota}>"
