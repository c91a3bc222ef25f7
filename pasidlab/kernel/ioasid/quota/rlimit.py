"""A limit for each process, in the manner of RLIMIT_*: soft and hard, inherited by nobody, promised by nobody.

UNVERIFIED as a whole: the talk mentions rlimits and no patch was ever posted. What is modelled is how resource limits
work in general (``setrlimit(2)``, ``prlimit(1)``): the soft limit is what counts; a process may move it up to the hard
limit; only with privilege may the hard limit be raised; what is in use already is not taken away.

Nothing is set aside. Each ID of a set without quota takes one from the capacity when it is allocated and returns it
when it is reclaimed, so processes compete for what is left, and a limit is no promise. A kernel's own set keeps its
quota; the processes that are served from it (native SVA) are limited one by one as well.

The limits belong to a process and end with it. IDs of the dead that wait for other users are counted in ``held`` and
against nobody: a new process must not inherit them.

Invariant: ``held`` is the number of IDs in sets without quota; ``used`` of a process is the number of IDs it pays for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.quota.contract import IoasidRefused
from pasidlab.timeline import Actor, Part, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.ids import IoasidIds
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.timeline import Timeline

__all__ = ["DEFAULT_LIMITS", "Account", "Limits", "RlimitQuota"]


class Limits(NamedTuple):
    """A soft and a hard limit, in IDs."""

    soft: int
    hard: int

    def __str__(self) -> str:
        return f"{self.soft}:{self.hard}"


DEFAULT_LIMITS: Final = Limits(1000, 1 << 20)
"""Of a process of which nothing was said. The soft one is the number that the patches knew (``pasid_quota``)."""


class Account(Part, state=("limits", "used")):
    """What one process may have and has. It exists while it differs from "nothing used, default limits"."""

    def __init__(self, timeline: Timeline, path: str, mm: Part, name: str) -> None:
        super().__init__(timeline, path)
        self.mm = mm
        self.name = name
        self.limits = DEFAULT_LIMITS
        self.used = 0


class RlimitQuota(Actor, state=("held",)):
    """First come, first served, each up to its own limit. ``held`` IDs of the capacity are out without a quota."""

    actor = "ioasid"
    name = "rlimit"

    def __init__(self, core: IoasidIds) -> None:
        super().__init__(core.timeline, f"{core.path}.rlimit", core.altitude)
        self._sets = core.sets
        self._capacity = core.capacity
        self._accounts = Table[str, Account](core.timeline, f"{self.path}.accounts")
        self.held = 0

    # --- limits -------------------------------------------------------------------------------------------------------

    def make_set(self, name: str, token: Part, quota: int) -> IoasidSet:
        """A set without quota, for a process that is given ``quota`` as both limits (as ``prlimit`` does with one
        number).
        """
        self._check(name, Limits(quota, quota))
        made = self._sets.alloc(name, token, None)
        self.set_limits(token, Limits(quota, quota), name=name)
        return made

    def change(self, the_set: IoasidSet, quota: int) -> None:
        """Both limits of the set's process, by an administrator; also below what is in use. ``-EINVAL`` negative, or
        a kernel's own set.
        """
        if the_set.token is None:
            raise KernelError("EINVAL", f"{the_set.name} is no process that could have limits")
        self.set_limits(the_set.token, Limits(quota, quota), name=the_set.name)

    def set_limits(self, mm: Part, limits: Limits, *, privileged: bool = True, name: str = "") -> None:
        """``prlimit``: what is in use already stays, further IDs are refused until below.

        Errors: ``-EINVAL`` negative, or soft above hard; ``-EPERM`` the hard limit is raised without privilege.
        """
        old = self.limits_of(mm)
        name = name or self._name(mm)
        self._check(name, limits)
        if limits.hard > old.hard and not privileged:
            raise KernelError(
                "EPERM", f"the hard limit of {name} must not be raised from {old.hard} to {limits.hard} by itself"
            )
        account = self._open(mm, name)
        account.limits = limits
        self.emit(Verb.ADJUST, f"limits of {name}", str(old), str(limits), used=account.used)
        self._tidy(account)

    @staticmethod
    def _check(name: str, limits: Limits) -> None:
        if limits.soft < 0:
            raise KernelError("EINVAL", f"the limit of {name} must be 0 or more PASIDs, not {limits.soft}")
        if limits.soft > limits.hard:
            raise KernelError("EINVAL", f"the soft limit of {name} must be at most the hard one, not {limits}")

    def limits_of(self, mm: Part) -> Limits:
        """The limits of a process."""
        account = self._account(mm)
        return DEFAULT_LIMITS if account is None else account.limits

    def used_by(self, mm: Part) -> int:
        """How many IDs a process pays for."""
        account = self._account(mm)
        return 0 if account is None else account.used

    def limit(self, the_set: IoasidSet) -> int | None:
        """The soft limit of the set's process; the quota of a kernel's own set."""
        return the_set.quota if the_set.token is None else self.limits_of(the_set.token).soft

    # --- accounts -----------------------------------------------------------------------------------------------------

    def accounts(self) -> list[Account]:
        """Everyone who uses IDs or whose limits were set."""
        return self._accounts.values()

    def _account(self, mm: Part) -> Account | None:
        account = self._accounts.get(mm.path)
        return account if account is not None and account.mm is mm else None

    def _open(self, mm: Part, name: str) -> Account:
        account = self._account(mm)
        if account is None:
            account = Account(self.timeline, f"{self.path}.account[{mm.path}]", mm, name)
            self._accounts[mm.path] = account
        return account

    def _tidy(self, account: Account) -> None:
        if not account.used and account.limits == DEFAULT_LIMITS:
            self._close(account)

    def _close(self, account: Account) -> None:
        del self._accounts[account.mm.path]
        account.retire()

    def _name(self, mm: Part) -> str:
        account = self._account(mm)
        return mm.path.removesuffix(".mm") if account is None else account.name

    # --- paying -------------------------------------------------------------------------------------------------------

    def charge(self, the_set: IoasidSet, payer: Part | None) -> None:
        """One more for the calling process, whoever owns the set; without a quota it also takes one of the capacity."""
        if payer is not None and self.used_by(payer) >= self.limits_of(payer).soft:
            limits = self.limits_of(payer)
            raise IoasidRefused(f"{self._name(payer)} has reached its soft limit of {limits.soft} PASIDs")
        if the_set.quota is None:
            if not self._capacity.available:
                raise IoasidRefused(f"no PASID is left for {the_set.name}: a limit is no promise")
            self._capacity.take(1, the_set.name)
            self.held += 1
        if payer is not None:
            account = self._open(payer, self._name(payer))
            account.used += 1
            self.emit(Verb.CHARGE, f"process {account.name}", account.used - 1, account.used, limit=account.limits.soft)

    def uncharge(self, the_set: IoasidSet, payer: Part | None) -> None:
        """Back to the process that was charged, if it still lives, and to the capacity."""
        if the_set.quota is None:
            self.held -= 1
            self._capacity.give(1)
        account = None if payer is None else self._account(payer)
        if account is not None:
            account.used -= 1
            self.emit(Verb.UNCHARGE, f"process {account.name}", account.used + 1, account.used)
            self._tidy(account)

    def forget(self, the_set: IoasidSet) -> None:
        """The limits are the process's, not the set's."""

    def leave(self, mm: Part) -> None:
        """The limits end with the process."""
        account = self._account(mm)
        if account is not None:
            self._close(account)
