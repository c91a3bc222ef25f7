"""The local APIC: message-signalled interrupts become calls of the handlers that a kernel has registered.

Models the part of the interrupt path that remapping units need: a store of a vector to 0xFEExxxxx reaches one CPU, and
the kernel's handler for the vector runs. Left out: priorities, masking by the CPU, interrupt remapping, several CPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["INTERRUPT_BASE", "InterruptHandler", "LocalApic"]

INTERRUPT_BASE: Final = 0xFEE0_0000
"""Address of the messages for CPU 0."""


class InterruptHandler(Protocol):
    """What a kernel registers for a vector."""

    path: str

    def interrupt(self) -> None:
        """The interrupt came. This is atomic context: note it, and do the work later."""


class LocalApic(Part):
    """The interrupts of one CPU: ``handlers`` by vector."""

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.handlers = Table[int, InterruptHandler](timeline, f"{path}.handlers")

    def message(self, address: int, data: int) -> None:
        """A message arrived. One for another CPU, or for a vector without handler, is spurious: nothing happens."""
        handler = self.handlers.get(data & 0xFF)
        if address == INTERRUPT_BASE and handler is not None:
            handler.interrupt()
