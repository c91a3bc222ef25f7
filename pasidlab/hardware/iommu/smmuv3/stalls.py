"""Transactions that an SMMU holds: what software names by a stall tag.

Models the resources of the stall model (specification, IHI 0070, 3.12.2): a transaction keeps its tag from the moment
it is held until CMD_RESUME or CMD_STALL_TERM names it; then another one may get it. Tags have 16 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.pcie import DmaRequest

if TYPE_CHECKING:
    from pasidlab.timeline import Table

__all__ = ["Stalled", "free_tag"]

_TAGS: Final = 1 << 16


class Stalled(NamedTuple):
    """A transaction that is held: its request, its event record, and whether software has been told."""

    request: DmaRequest
    words: tuple[int, ...]
    recorded: bool


def free_tag(stalls: Table[int, Stalled]) -> int | None:
    """The lowest stall tag that no transaction has; ``None`` if there is none, so that nothing can be held."""
    return next((tag for tag in range(len(stalls) + 1) if tag not in stalls and tag < _TAGS), None)
