"""A control group: the files of the ioasids controller, its members, the groups below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pasidlab.errors import KernelError
from pasidlab.handles.handle import Handle, transaction
from pasidlab.handles.names import check_name
from pasidlab.handles.quota import number
from pasidlab.kernel.ioasid.quota.cgroup import CgroupQuota, cgroups_of
from pasidlab.kernel.ioasid.quota.group import ROOT, Group

if TYPE_CHECKING:
    from pasidlab.handles.vm import VirtualMachine
    from pasidlab.machine import Machine

__all__ = ["Cgroup"]


class Cgroup(Handle):
    """A directory of the cgroup file system (``/sys/fs/cgroup/ioasids/...``); ``path`` is ``"/"`` for the root.

    >>> from pasidlab import Machine
    >>> m = Machine(quota_policy="cgroup")
    >>> tenant = m.cgroup("tenant", max=8); vm = m.create_vm("vm1", cgroup="tenant")
    >>> tenant
    <cgroup tenant: 0 of 8 PASIDs, 1 VM>
    >>> vm.request_pasid(), tenant.current, tenant.members
    (1, 1, [<VM vm1: 1 of 8 PASIDs, 0 devices, 0 processes>])
    """

    def __init__(self, machine: Machine, path: str) -> None:
        super().__init__(machine)
        self.path = path

    @classmethod
    def find(cls, machine: Machine, path: str) -> Cgroup:
        """The handle of a group that is there; ``-ENOENT``, ``-EINVAL`` not a path, or no control groups here."""
        if type(path) is not str:
            raise KernelError("EINVAL", f"the path of a group must be text, not {path!r}")
        cgroups_of(machine.kernel.ioasid).groups.find(path)
        return cls(machine, path)

    @classmethod
    def make(cls, machine: Machine, path: str, limit: int | str) -> Cgroup:
        """Make a group (:meth:`Machine.create_cgroup`)."""
        policy = cgroups_of(machine.kernel.ioasid)
        for word in path.split("/") if type(path) is str else (path,):
            check_name("group", word, ())
        policy.groups.make(path, _limit(path, limit))
        return cls(machine, path)

    @property
    def expression(self) -> str:
        """``m.cgroup("tenants/a")``."""
        return f'm.cgroup("{self.path}")'

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def _policy(self) -> CgroupQuota:
        return cgroups_of(self.machine.kernel.ioasid)

    @property
    def group(self) -> Group:
        """The kernel's group; ``-ENOENT`` it is gone, or the root, which has no such files."""
        group = self._policy.groups.find(self.path)
        if group is None:
            raise KernelError("ENOENT", "the root has none of the files max, current and events: nothing limits it")
        return group

    @property
    def max(self) -> int:
        """How many PASIDs it and all below it may have."""
        return self.group.max

    @property
    def current(self) -> int:
        """How many are charged to it and all below it; more than ``max`` after a move or a smaller ``max``."""
        return self.group.current

    @property
    def events(self) -> int:
        """How often it said no."""
        return self.group.events

    @property
    def reserved(self) -> int:
        """What it has set aside of the capacity: its ``max``, whatever is in use."""
        return self.group.max

    @property
    def members(self) -> list[VirtualMachine]:
        """The VMs whose hypervisor is in it, in order of creation."""
        group = self._policy.groups.find(self.path)
        return [vm for vm in self.machine.vms if self._policy.group_of(vm.vmm.process.mm) is group]

    @property
    def children(self) -> list[Cgroup]:
        """The groups directly below it, in order of their names."""
        below = self._policy.groups.below(self._policy.groups.find(self.path))
        return [Cgroup(self.machine, group.name) for group in below]

    # --- changing -----------------------------------------------------------------------------------------------------

    @transaction
    def set_max(self, limit: int | str) -> None:
        """Write ``ioasids.max``: a number, or ``"max"`` for everything that is left besides.

        Errors: ``-EINVAL`` negative, unchanged, or another word; ``-ENOSPC`` it grows by more than is left; ``-ENOENT``
        the root. Less than is in use is allowed and refuses further PASIDs only.
        """
        self._policy.groups.write_max(self.group, _limit(self.path, limit))

    @transaction
    def remove(self) -> None:
        """rmdir: what it has set aside returns. ``-EBUSY`` with members, groups below it, or PASIDs; or the root."""
        if self.path == ROOT:
            raise KernelError("EBUSY", "the root of all groups cannot be removed")
        self._policy.remove(self.group)

    def __repr__(self) -> str:
        try:
            members = len(self.members)
            counts = "no limit" if self.path == ROOT else f"{self.current} of {self.max} PASIDs"
        except KernelError:
            return f"<cgroup {self.path}, gone>"
        return f"<cgroup {self.path}: {counts}, {members} VM{'' if members == 1 else 's'}>"


def _limit(path: str, limit: int | str) -> int | Literal["max"]:
    if limit == "max":
        return "max"
    return number(limit, f'the max of group {path}, unless it is "max",')
