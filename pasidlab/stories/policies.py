"""T7 and T10: what each policy gives, what it costs and what it prevents: the script of :mod:`.mixture`, side by side.

All that is told is counted from the events and tables of the run that was just made; rows of the same table as
:func:`pasidlab.views.policies.policies`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.machine import Machine
from pasidlab.stories.mixture import MEANINGS, ORDERS, mix
from pasidlab.stories.story import Story, expect
from pasidlab.views.policies import DEVICES, policies
from pasidlab.virt.policies import POLICIES

if TYPE_CHECKING:
    from pasidlab.views.policies import Mixture

__all__ = ["COMPARED"]


def _tell(m: Machine) -> Iterator[str]:
    found: list[Mixture] = []
    for policy, first in ORDERS:
        rule = POLICIES[policy]
        yield f"{policy}: {rule.rule}. A VM is to get {DEVICES[first]} first, then the other kind; four processes bind."
        found.append(mix(m, policy, first))
        _expect_as_promised(found[-1])
    table = policies(found)
    names = [column.title for column in table.columns[1:]]
    for row in table.rows:
        answers = "; ".join(f"{name}: {cell}" for name, cell in zip(names, row.cells[1:], strict=True))
        yield f"{row.cells[0][0].upper()}{row.cells[0][1:]}. {answers}."
    expect(m.check().ok and not len(m.vmms), "nothing is left of it")


def _expect_as_promised(one: Mixture) -> None:
    """Only the policy that enforces nothing has conflicts, and then somebody is harmed."""
    harmed = any(not reached.own for side in one.sides.values() for reached in side.reached)
    enforced = one.policy != "unenforced"
    expect(enforced is not bool(one.conflicts), f"{one.name}: check() names conflicts only where nobody prevents them")
    expect(enforced is not harmed, f"{one.name}: every ENQCMD reaches its own memory, unless nobody sees to it")
    expect(one.left == 0, f"{one.name}: every number comes back")


COMPARED: Final = Story(
    "policies", "The same VM under each policy, counted", ("T7", "T10"), _tell, breaks=frozenset({13, MEANINGS})
)
