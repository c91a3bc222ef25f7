"""What can be seen on the wire since a step: the numbers of requests, and of what queues have accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.handles import PhysicalFunction
    from pasidlab.machine import Machine

__all__ = ["accepted", "wire_numbers"]


def wire_numbers(m: Machine, start: int, device: PhysicalFunction) -> set[int]:
    """The PASIDs with which a device has asked the IOMMU since a step (translated requests carry none)."""
    asked = (event for event in m.timeline.since(start) if event.verb in (Verb.ATS, Verb.DMA))
    numbers = (event.fact("pasid") for event in asked if event.fact("rid") == device.rid)
    return {number for number in numbers if isinstance(number, int)}


def accepted(m: Machine, start: int) -> list[object]:
    """The PASIDs of the descriptors that queues have accepted since a step, in order."""
    return [event.fact("pasid") for event in m.timeline.since(start) if event.verb is Verb.ACCEPT]
