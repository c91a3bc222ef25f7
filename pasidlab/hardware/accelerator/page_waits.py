"""Descriptors that wait for a page: what the device has asked for (PRI), and what it will do with the answer.

Each waiting descriptor is one group of page requests, of one request; its group index (9 bits) names the answer. The
device has no more groups outstanding than its PRI capability allocates; further ones wait until one is answered. A
descriptor that was aborted leaves its group behind until the answer has come, so that the index is not used twice.

An IOMMU that holds a faulting request instead of blocking it (the stall model of SMMUv3) makes a descriptor wait too,
whether it asked for that or not: the device's engine hears nothing until the request is resumed. Those descriptors have
no group; the unit's tag names them. Silicon would let software resume and hold the same request for ever, and time
would pass; here none does, so that a descriptor ends which was resumed :data:`HOLDS` times for one page (our choice).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.accelerator.progress import Progress
from pasidlab.hardware.pcie import DmaRequest, PageGroupResponse
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["HOLDS", "NOT_READY", "PATIENCE", "PageWaits", "WaitingWork"]

NOT_READY: Final = -1
"""In place of the number of an enabled action: the descriptor cannot go on yet."""
PATIENCE: Final = 4
"""How often the device asks for one page that is not there although the answer was success (UNVERIFIED: its number)."""
HOLDS: Final = 64
"""How often a request that the IOMMU held is tried again for the same page before its descriptor ends."""
_GROUPS: Final = 1 << 9


class WaitingWork(NamedTuple):
    """A descriptor and how far it has come (without its bytes once it was aborted).

    ``request`` needs the page, for which the device has asked ``tries`` times before. ``asked``: its page request is
    outstanding. ``code`` is the answer, ``action`` the enabled action that will use it. ``tag`` is that of a request
    which the IOMMU holds.
    """

    progress: Progress
    request: DmaRequest
    tries: int = 0
    asked: bool = False
    code: int = 0
    action: int = NOT_READY
    tag: int | None = None


class PageWaits(Part, state=("asking",)):
    """The waiting descriptors of one device, by group index. ``asking``: the device is sending page requests.

    ``held`` are those whose request the IOMMU holds, by a number of the device's own: a tag may be used again as soon
    as its request was resumed.
    """

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.asking = False
        self.groups = Table[int, WaitingWork](timeline, f"{path}.groups")
        self.held = Table[int, WaitingWork](timeline, f"{path}.held")

    @property
    def full(self) -> bool:
        """Whether every group index is taken."""
        return len(self.groups) == _GROUPS

    def add(self, work: WaitingWork) -> int:
        """Let a descriptor wait, while not :attr:`full`; returns its group index."""
        group = next(at for at in range(_GROUPS) if at not in self.groups)
        self.groups[group] = work
        return group

    @property
    def outstanding(self) -> int:
        """How many groups have not been answered."""
        return sum(work.asked for work in self.groups.values())

    def unasked(self) -> list[int]:
        """The groups whose request could not be sent yet, lowest first."""
        return [group for group, work in self.groups.items() if not work.asked and work.action == NOT_READY]

    def answered(self, response: PageGroupResponse) -> WaitingWork | None:
        """The descriptor that a response is for; ``None`` if there is none such: its index is unexpected."""
        work = self.groups.get(response.group)
        return work if work is not None and work.asked and work.request.pasid == response.pasid else None

    def abandon(self, group: int) -> None:
        """Drop a descriptor; a request that is outstanding keeps its index until it is answered."""
        work = self.groups[group]
        if work.asked:
            self.groups[group] = work._replace(progress=work.progress._replace(data=b""))
        else:
            del self.groups[group]

    def hold(self, work: WaitingWork) -> None:
        """Let a descriptor wait whose request the IOMMU holds under ``work.tag``."""
        self.held[next(at for at in range(len(self.held) + 1) if at not in self.held)] = work

    def resumed(self, tag: int) -> int | None:
        """The number of the descriptor whose request the IOMMU held under a tag, if it is this device's."""
        return next((number for number, work in self.held.items() if work.tag == tag), None)

    def release(self, number: int) -> None:
        """Drop a descriptor; a request that is still held keeps its place until it is resumed."""
        work = self.held[number]
        if work.tag is None:
            del self.held[number]
        else:
            self.held[number] = work._replace(progress=work.progress._replace(data=b""))

    def working(self) -> list[tuple[int, WaitingWork]]:
        """The groups whose descriptor was not aborted."""
        return [(group, work) for group, work in self.groups.items() if work.progress.data]
