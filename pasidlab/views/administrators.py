"""Projection: who may have how many PASIDs by the policy of a machine; and what became of the same requests under each
administrator's policy, through each interface.

The facts of the latter come from one script that is played under every combination
(:mod:`pasidlab.stories.comparison`). Two tables: who got how many, and every refusal with its errno and its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.kernel.ioasid.quota.cgroup import CgroupQuota
from pasidlab.kernel.ioasid.quota.rlimit import RlimitQuota
from pasidlab.views.table import Column, Line, Table

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["LESSONS", "Administration", "Asked", "Refused", "Tried", "administrators", "allowances", "refusals"]

LESSONS: Final = {
    "fixed": "a guarantee for each VM, and a waste",
    "rlimit": "a limit for each process, and no guarantee",
    "cgroup": "shared by a tenant's VMs, in levels, and moves with them",
}
"""What each policy is, in a few words."""
_APIS: Final = {"vfio": "VFIO", "dev-ioasid": "/dev/ioasid"}


class Asked(NamedTuple):
    """A VM asked for PASIDs, one by one until it had them all or was refused; ``errno`` is empty if it never was.

    ``words`` alone: there was nobody to ask.
    """

    vm: str
    wanted: int
    got: int
    errno: str = ""
    words: str = ""

    def __str__(self) -> str:
        if self.words and not self.errno:
            return self.words
        return f"{self.got} of {self.wanted}" + (f", -{self.errno}" if self.errno else "")


class Tried(NamedTuple):
    """An administrator tried something; ``errno`` is empty if it was done, ``words`` say what came of it or why not.

    ``then``: what a VM that it concerned asked for next.
    """

    what: str
    errno: str = ""
    words: str = ""
    then: Asked | None = None

    def __str__(self) -> str:
        if self.errno:
            return f"-{self.errno}"
        return self.words if self.then is None else f"{self.words}; asks: {self.then}"


class Refused(NamedTuple):
    """Who was refused what, with which errno and words; ``question`` is the row of :func:`administrators`."""

    question: str
    what: str
    errno: str
    words: str


class Administration(NamedTuple):
    """Everything that the script found out under one policy and one interface.

    ``room`` PASIDs were there for VMs, ``set_aside`` of them were promised once all were admitted or refused.
    ``idle`` are those that nobody had while somebody was refused, ``missing`` those that were not back when all had
    gone.
    """

    policy: str
    api: str
    room: int
    admitted: tuple[Tried, ...]
    set_aside: int
    asked: tuple[Asked, ...]
    idle: int
    smaller: Tried
    larger: Tried
    move: Tried
    missing: int

    @property
    def coming(self) -> list[Tried]:
        """The VMs that were let in."""
        return [one for one in self.admitted if not one.errno]

    @property
    def refused(self) -> list[Refused]:
        """Every refusal, in order."""
        rows = [Refused("admitted", one.what, one.errno, one.words) for one in self.admitted]
        for at, one in enumerate(self.asked):
            rows.append(Refused(_asking(at), f"{one.vm} asks for {one.wanted}", one.errno, one.words))
        for question, tried in (("smaller", self.smaller), ("larger", self.larger), ("move", self.move)):
            rows.append(Refused(question, tried.what, tried.errno, tried.words))
            if tried.then is not None:
                what = f"{tried.what}, asks for {tried.then.wanted}"
                rows.append(Refused(question, what, tried.then.errno, tried.then.words))
        return [row for row in rows if row.errno]


def _asking(at: int) -> str:
    """The key of a row that tells what came of a request."""
    return f"asked-{at}"


def allowances(machine: Machine) -> Table:
    """Everybody whom the policy limits: sets with a quota, processes with limits, or control groups in their tree.

    >>> from pasidlab import Machine
    >>> from pasidlab.views.table import table_text
    >>> m = Machine(quota_policy="cgroup"); tenant = m.cgroup("tenant", max=8); vm = m.create_vm("vm1", cgroup="tenant")
    >>> vm.request_pasid()
    1
    >>> print(table_text(allowances(m)))
    Allowed by cgroup
    who     may have  has  set aside  refused  members
    ------  --------  ---  ---------  -------  -------
    tenant  8         1    8          0        vm1
    """
    policy = machine.kernel.ioasid.policy
    columns = [
        Column("who", "who"),
        Column("limit", "may have, soft:hard" if isinstance(policy, RlimitQuota) else "may have", mono=True),
        Column("used", "has", mono=True),
        Column("reserved", "set aside", mono=True),
    ]
    if isinstance(policy, CgroupQuota):
        columns += [Column("events", "refused", mono=True), Column("members", "members")]
    return Table("allowances", f"Allowed by {policy.name}", tuple(columns), tuple(_allowed(machine)))


def _allowed(machine: Machine) -> Iterator[Line]:
    core = machine.kernel.ioasid
    policy = core.policy
    if isinstance(policy, CgroupQuota):
        for group in policy.groups.values():
            inside = (vm.name for vm in machine.vms if policy.group_of(vm.vmm.process.mm) is group)
            counts = (str(group.max), str(group.current), str(group.max), str(group.events), ", ".join(inside))
            yield Line(group.name, (group.name, *counts), _state(group.current, group.max))
    elif isinstance(policy, RlimitQuota):
        for account in policy.accounts():
            cells = (account.name, str(account.limits), str(account.used), "0")
            yield Line(account.path, cells, _state(account.used, account.limits.soft))
    else:
        for the_set in core.sets.values():
            quota = str(the_set.quota)
            cells = (the_set.name, quota, str(the_set.count), quota)
            yield Line(f"set:{the_set.set_id}", cells, _state(the_set.count, the_set.quota or 0))


def _state(used: int, limit: int) -> str:
    return "pending" if used > limit else "live" if used else "idle"


def administrators(found: Sequence[Administration]) -> Table:
    """One column a combination, one row a question: who got how many of what they asked for, and what the
    administrator could do about it.
    """
    combinations = [Column(f"{one.policy}/{one.api}", f"{one.policy}, {_APIS[one.api]}", wrap=True) for one in found]
    title = "Three administrators, two interfaces, the same requests"
    rows = tuple(_rows(found)) if found else ()
    return Table("administrators", title, (Column("question", "question", wrap=True), *combinations), rows)


def _answer(at: int) -> Callable[[Administration], object]:
    return lambda one: one.asked[at]


def _rows(found: Sequence[Administration]) -> Iterator[Line]:
    def row(key: str, question: str, answer: Callable[[Administration], object]) -> Line:
        return Line(key, (question, *(str(answer(one)) for one in found)), "live")

    yield row("admitted", "VMs admitted", lambda one: f"{len(one.coming)} of {len(one.admitted)}")
    yield row("set-aside", "PASIDs set aside", lambda one: f"{one.set_aside} of {one.room}")
    for at, asked in enumerate(found[0].asked):
        again = any(earlier.vm == asked.vm for earlier in found[0].asked[:at])
        yield row(_asking(at), f"{asked.vm} asks{' again' if again else ''}", _answer(at))
    yield row("idle", "idle while somebody is refused", lambda one: one.idle)
    yield row("smaller", found[0].smaller.what, lambda one: one.smaller)
    yield row("larger", found[0].larger.what, lambda one: one.larger)
    yield row("move", found[0].move.what, lambda one: one.move)
    yield row("missing", "missing when all have gone", lambda one: one.missing)
    yield row("lesson", "it is", lambda one: LESSONS[one.policy])


def refusals(found: Sequence[Administration], question: str = "") -> Table:
    """Every refusal: under which policy, through which interface, of what, with which errno, and why.

    With ``question`` only those behind one row of :func:`administrators`, by its key.
    """
    columns = (
        Column("policy", "policy"),
        Column("api", "through"),
        Column("what", "what"),
        Column("errno", "errno", mono=True),
        Column("why", "why", wrap=True),
    )
    rows = [
        Line(f"{one.policy}/{one.api}/{at}", (one.policy, _APIS[one.api], no.what, f"-{no.errno}", no.words), "pending")
        for one in found
        for at, no in enumerate(one.refused)
        if question in ("", no.question)
    ]
    return Table("refusals", "Who was refused, and why", columns, tuple(rows))
