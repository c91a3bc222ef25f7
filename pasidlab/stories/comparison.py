"""T20: the administrator's question as an experiment: one script, under each policy and through each interface.

There is room for 14 PASIDs and three VMs want a promise of 5. ``quiet`` takes one and leaves the rest for later,
``greedy`` asks for more than it was promised, ``late`` comes last. Where there are control groups the three share one
of a tenant, whose max is two promises. Then the administrator changes his mind, a VM moves, and everybody goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.quota import QUOTA_POLICIES
from pasidlab.machine import PASID_APIS, Machine
from pasidlab.views.administrators import Administration, Asked, Tried

__all__ = ["PROMISE", "ROOM", "administer", "compare_administrators", "leave_room"]

ROOM: Final = 14
PROMISE: Final = 5
_TENANT: Final = "tenant"
_SPARE: Final = "spare"
_MEMORY: Final = 1 << 20
_SMALLER: Final = "a smaller limit for greedy"
_LARGER: Final = "a larger one"


def leave_room(m: Machine, count: int) -> None:
    """Reserve all but ``count`` PASIDs, so that VMs have to share few."""
    surplus = m.kernel.ioasid.capacity.available - count
    if not surplus:
        return
    with m.timeline.operation(f"m.kernel.ioasid.capacity.reserve({surplus})"):
        m.kernel.ioasid.capacity.reserve(surplus)


def compare_administrators() -> list[Administration]:
    """The script under every combination; a machine each.

    >>> from pasidlab.views.administrators import administrators
    >>> len(compare_administrators())
    6
    """
    return [administer(policy, api) for policy in QUOTA_POLICIES for api in PASID_APIS]


def administer(policy: str, api: str) -> Administration:
    """The script under one policy and through one interface."""
    m = Machine(quota_policy=policy, pasid_api=api)
    leave_room(m, ROOM)
    core = m.kernel.ioasid
    if policy == "cgroup":
        m.cgroup(_TENANT, max=2 * PROMISE)
    admitted = tuple(_try(f"{name} comes", partial(_admit, m, name)) for name in ("quiet", "greedy", "late"))
    set_aside = ROOM - core.capacity.available
    asked = tuple(_asking(m))
    idle = ROOM - len(core.ids)
    grown = (2 * PROMISE if policy == "cgroup" else PROMISE) + 2
    smaller = _try(_SMALLER, partial(_limit, m, _SMALLER, 2))
    larger = _try(_LARGER, partial(_limit, m, _LARGER, grown))
    move = _try("a move of greedy", partial(_move, m))
    _everybody_goes(m)
    missing = ROOM - core.capacity.available
    return Administration(policy, api, ROOM, admitted, set_aside, asked, idle, smaller, larger, move, missing)


def _admit(m: Machine, name: str) -> Tried:
    if m.quota_policy == "cgroup":
        m.create_vm(name, memory=_MEMORY, cgroup=_TENANT)
    else:
        m.create_vm(name, quota=PROMISE, memory=_MEMORY)
    return Tried(f"{name} comes", words="admitted")


def _asking(m: Machine) -> Iterator[Asked]:
    """quiet asks for little, greedy for much, late for its promise, then quiet for the rest of its own."""
    for name, wanted in (("quiet", 1), ("greedy", PROMISE + 3), ("late", PROMISE), ("quiet", PROMISE - 1)):
        yield _ask(m, name, wanted)


def _ask(m: Machine, name: str, wanted: int) -> Asked:
    if name not in m.vmms:
        return Asked(name, wanted, 0, words="not admitted")
    for got in range(wanted):
        try:
            m.vm(name).request_pasid()
        except KernelError as error:
            return Asked(name, wanted, got, error.name, error.reason)
    return Asked(name, wanted, wanted)


def _limit(m: Machine, what: str, limit: int) -> Tried:
    """Another quota for greedy, or for its group, and what it gets when it asks for two more."""
    greedy = m.vm("greedy")
    greedy.set_quota(limit)
    used = m.cgroup(_TENANT).current if m.quota_policy == "cgroup" else greedy.vmm.container.set.count
    return Tried(what, words=f"{used} used of {limit}", then=_ask(m, "greedy", 2))


def _move(m: Machine) -> Tried:
    """To a group that is too small for it."""
    greedy = m.vm("greedy")
    if m.quota_policy == "cgroup":
        m.cgroup(_SPARE, max=1)
    greedy.move_to(_SPARE)
    spare, tenant = m.cgroup(_SPARE), m.cgroup(_TENANT)
    words = f"{spare.current} used of {spare.max}, left behind {tenant.current} of {tenant.max}"
    return Tried("a move of greedy", words=words, then=_ask(m, "greedy", 1))


def _everybody_goes(m: Machine) -> None:
    for vm in m.vms:
        vm.crash()
    if m.quota_policy == "cgroup":
        for group in m.cgroup("/").children:
            group.remove()


def _try(what: str, act: Callable[[], Tried]) -> Tried:
    """What came of it; a refusal is an answer too."""
    try:
        return act()
    except KernelError as error:
        return Tried(what, error.name, error.reason)
