"""What must hold after every operation, evaluated on demand: isolation is checked, not assumed.

A rule may be broken for a moment inside an operation (a reference is taken one step before the entry that it is for is
written); whoever travels to such a step and checks there is told so.

Fourteen rules (:data:`RULES`). Each is a function from what was read of a machine to sentences that say what is wrong,
so an empty answer is good news. Rules about tables and queues read the bits that the hardware reads, those about caches
compare them with a walk; rules about sets and numbers read the IOASID core; rules about order read the event stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.invariants import caches, history, meanings, ownership, references
from pasidlab.invariants.evidence import Evidence

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["RULES", "Holding", "Report", "Rule", "Violation", "check"]


class Rule(NamedTuple):
    """One invariant: its number, its sentence, and the function that looks for violations."""

    number: int
    sentence: str
    find: Callable[[Evidence], Iterator[str]]


class Violation(NamedTuple):
    """A rule that does not hold, and where."""

    rule: Rule
    where: str

    def __str__(self) -> str:
        return f"invariant {self.rule.number} ({self.rule.sentence}): {self.where}"


class Holding(NamedTuple):
    """One IOASID and everyone who keeps it alive."""

    ioasid: int
    owner: str
    state: str
    spid: int | None
    holders: tuple[str, ...]


RULES: Final = (
    Rule(1, "DMA reaches only its owner's memory", ownership.reach),
    Rule(2, "a host PASID has one owner and is handed out again only after a reclaim", history.single_owner),
    Rule(3, "the references of a PASID are exactly its users", references.users),
    Rule(4, "a dying PASID gets no new reference", history.no_new_reference),
    Rule(5, "quotas and available capacity add up, and no set exceeds its quota", references.quotas),
    Rule(6, "a guest PASID is unique in its VM", references.unique_spids),
    Rule(7, "a valid KVM entry names a living PASID of that VM with that guest number", ownership.kvm_entries),
    Rule(8, "a PASID in a work queue belongs to the VM that uses the queue", ownership.work_queues),
    Rule(
        9,
        "the subscribers of a PASID are told BIND and UNBIND in turn, FREE at most once, and no BIND after it",
        history.event_order,
    ),
    Rule(10, "no translation outlives its owner", ownership.no_orphans),
    Rule(11, "the page tables of a present entry belong to the owner of its PASID", ownership.page_tables),
    Rule(12, "a notification handler never calls what takes the allocator's lock", history.atomic_handlers),
    Rule(13, "caches of the IOMMU and of devices hold what the tables say", caches.coherent),
    Rule(14, "a PASID on the wire has one meaning, whoever looks it up", meanings.ambiguous),
)


@dataclass(frozen=True)
class Report:
    """The answer of :func:`check`: what is violated, and who holds which PASID."""

    violations: tuple[Violation, ...]
    holdings: tuple[Holding, ...]

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return not self.violations

    def __str__(self) -> str:
        lines = [f"{len(RULES)} invariants hold" if self.ok else "\n".join(map(str, self.violations))]
        for row in self.holdings:
            spid = f" = guest PASID {row.spid}" if row.spid is not None else ""
            lines.append(f"  PASID {row.ioasid}{spid} of {row.owner}, {row.state}: held by {', '.join(row.holders)}")
        return "\n".join(lines)

    __repr__ = __str__


def check(machine: Machine) -> Report:
    """Evaluate every rule on the present state and the events that led to it."""
    evidence = Evidence(machine)
    violations = tuple(Violation(rule, where) for rule in RULES for where in rule.find(evidence))
    holdings = tuple(
        Holding(number, record.owner.name, str(record.state), record.spid, record.holders)
        for number, record in machine.kernel.ioasid.ids.items()
    )
    return Report(violations, holdings)
