"""T20: how does an administrator manage the quota, and through what is a PASID allocated? Four stories, one an answer.

In each, VMs with little to share between them; what differs is who may have how many, who is told no, and what comes
back. The same requests under every combination, side by side: :mod:`pasidlab.stories.comparison`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from pasidlab.errors import KernelError
from pasidlab.handles import PhysicalFunction, VirtualMachine
from pasidlab.machine import Machine
from pasidlab.stories.comparison import leave_room
from pasidlab.stories.story import Story, expect

__all__ = ["DEV_IOASID", "QUOTA_CGROUP", "QUOTA_FIXED", "QUOTA_RLIMIT"]

_MEMORY: Final = 1 << 20
_HOST: Final = 1
"""The default PASID of a VM's interfaces comes from the host's own set."""


def _refused(errno: str, sentence: str, call: Callable[[], object]) -> None:
    """Expect a call to be refused with this errno."""
    try:
        call()
    except KernelError as error:
        expect(error.name == errno, f"{sentence} (-{errno}, not {error})")
    else:
        expect(False, sentence)


def _vm_with_apps(m: Machine, name: str, count: int, **options: int | str) -> VirtualMachine:
    """A VM with an interface and processes that could bind."""
    quota, group = options.get("quota"), options.get("cgroup")
    if isinstance(quota, int):
        vm = m.create_vm(name, quota=quota, memory=_MEMORY)
    else:
        vm = m.create_vm(name, memory=_MEMORY, cgroup=str(group))
    m.assign_adi(PhysicalFunction(m, "dsa0"), vm)
    for at in range(count):
        vm.spawn(f"app{at}")
    return vm


def _bind_all(vm: VirtualMachine, start: int, stop: int) -> None:
    for at in range(start, stop):
        vm.app(f"app{at}").bind(vm.devices[0])


def _used(vm: VirtualMachine) -> int:
    return vm.vmm.container.set.count


# --- fixed ------------------------------------------------------------------------------------------------------------


def _tell_fixed(m: Machine) -> Iterator[str]:
    capacity = m.kernel.ioasid.capacity

    yield "Room for 10 PASIDs, two VMs with a quota of 4. A quota is set aside at once, used or not."
    leave_room(m, 10)
    quiet, greedy = m.create_vm("quiet", quota=4, memory=_MEMORY), m.create_vm("greedy", quota=4, memory=_MEMORY)
    expect(capacity.available == 2, "8 of 10 are promised before the first is used")

    yield "Nobody can promise more than there is: a third VM with a quota of 4 is refused before it runs."
    _refused("ENOSPC", "the third quota does not fit", partial(m.create_vm, "late", quota=4, memory=_MEMORY))

    yield "greedy uses its quota up and is told no, although most of what was promised to quiet lies idle: the waste."
    quiet.request_pasid()
    for _ in range(4):
        greedy.request_pasid()
    _refused("ENOSPC", "greedy has had its quota", greedy.request_pasid)

    yield "The guarantee: whenever quiet wants the rest of its promise, it is there."
    for _ in range(3):
        quiet.request_pasid()
    expect(_used(quiet) == 4, "quiet has all that it was promised")

    yield "The administrator may change a quota: not below what is out, not above what is left."
    _refused("EINVAL", "4 are out", partial(greedy.set_quota, 3))
    _refused("ENOSPC", "2 are left", partial(greedy.set_quota, 7))
    greedy.set_quota(6)
    greedy.request_pasid()

    yield "Both end, and their quotas return."
    quiet.crash()
    greedy.crash()
    expect(capacity.available == 10, "everything is back")


QUOTA_FIXED: Final = Story("quota-fixed", "A fixed quota: a guarantee, and a waste", ("T12", "T13", "T20"), _tell_fixed)


# --- rlimit -----------------------------------------------------------------------------------------------------------


def _tell_rlimit(m: Machine) -> Iterator[str]:
    capacity = m.kernel.ioasid.capacity

    yield "Room for 6 PASIDs, two VMs with a limit of 4 each: more than there is. Nothing is set aside, all may come."
    leave_room(m, 6)
    first, second = m.create_vm("first", quota=4, memory=_MEMORY), m.create_vm("second", quota=4, memory=_MEMORY)
    expect(capacity.available == 6, "a limit takes nothing away from anybody")

    yield "First come, first served: the first VM takes all that it may, and is told no by its limit."
    for _ in range(4):
        first.request_pasid()
    _refused("ENOSPC", "the limit", first.request_pasid)

    yield "The second one is below its limit and is told no all the same: a limit is no guarantee."
    second.request_pasid()
    second.request_pasid()
    _refused("ENOSPC", "nothing is left", second.request_pasid)
    expect(_used(second) < 4, "it has less than it may")

    yield "Soft and hard: a hypervisor may raise its soft limit up to the hard one, and never the hard one."
    first.set_quota(5, hard=8)
    first.set_quota(7, hard=8, privileged=False)
    _refused("EPERM", "no privilege", partial(first.set_quota, 9, hard=9, privileged=False))
    _refused("EINVAL", "soft above hard", partial(first.set_quota, 9, hard=8))

    yield "A smaller limit takes nothing back; it refuses what comes next."
    first.set_quota(1)
    expect(_used(first) == 4, "what is out stays out")
    _refused("ENOSPC", "above the new limit", first.request_pasid)

    yield "The limit is the process's: every native process has its own, and pays for its own PASID."
    dsa = m.plug_accelerator("dsa0")
    app = m.spawn("native")
    app.bind(dsa)
    expect(capacity.available == 0, "native PASIDs come from the host's own quota")
    app.exit()

    yield "Both end: what they had out returns, and the limits end with the processes."
    first.crash()
    second.crash()
    expect(capacity.available == 6, "everything is back")


QUOTA_RLIMIT: Final = Story(
    "quota-rlimit",
    "A limit for each process: no guarantee, first come, first served",
    ("T20",),
    _tell_rlimit,
    partial(Machine, quota_policy="rlimit"),
)


# --- cgroup -----------------------------------------------------------------------------------------------------------


def _tell_cgroup(m: Machine) -> Iterator[str]:
    capacity = m.kernel.ioasid.capacity
    before = capacity.available

    yield "Two tenants with a group each, the first with two departments in it. What is written to max is set aside."
    tenant, other = m.cgroup("tenant", max=5), m.cgroup("other", max=5)
    web, db = m.cgroup("tenant/web", max=4), m.cgroup("tenant/db", max=4)
    expect(before - capacity.available == 18, "each level sets its own max aside")

    yield "VMs join groups and share what these have. Each PASID is charged to the VM's group and to all above it."
    m.plug_accelerator("dsa0")
    vm1, vm2 = _vm_with_apps(m, "vm1", 4, cgroup="tenant/web"), _vm_with_apps(m, "vm2", 2, cgroup="tenant/db")
    vm3 = _vm_with_apps(m, "vm3", 5, cgroup="other")
    _bind_all(vm1, 0, 4)
    expect((web.current, tenant.current, db.current) == (4, 4, 0), "the department's and the tenant's account")

    yield "The second department is below its max, but the tenant is not: refused, and the level that said no counts."
    _bind_all(vm2, 0, 1)
    _refused("ENOSPC", "the tenant is at its max", partial(vm2.app("app1").bind, vm2.devices[0]))
    expect((db.current, tenant.current) == (1, 5), "what was charged on the way up was undone")
    expect((tenant.events, db.events) == (1, 0), "the tenant said no")

    yield "A move is never refused: the other tenant is full, a VM with one PASID comes in. Current 6, max 5."
    _bind_all(vm3, 0, 5)
    vm2.move_to(other)
    expect((other.current, other.max, tenant.current) == (6, 5, 4), "the charge moved with the VM")

    yield "Further PASIDs are refused there until it is below its max again; those that are out stay charged to it."
    _refused("ENOSPC", "above the max", partial(vm2.app("app1").bind, vm2.devices[0]))
    vm3.app("app0").unbind(vm3.devices[0])
    vm3.app("app1").unbind(vm3.devices[0])
    _bind_all(vm2, 1, 2)
    expect(other.current == other.max, "one came back")

    yield "A group in use cannot be removed. When its VMs have gone, nothing is charged, whoever ran the last put."
    _refused("EBUSY", "a member", web.remove)
    for vm in (vm1, vm2, vm3):
        vm.crash()
    expect((tenant.current, other.current) == (0, 0), "every charge came back to the owner's group")

    yield "Removing the groups gives back what they had set aside."
    for group in (web, db, tenant, other):
        group.remove()
    expect(capacity.available == before, "everything is back")


QUOTA_CGROUP: Final = Story(
    "quota-cgroup",
    "Control groups: a tenant's VMs share, in levels, and take their charge along",
    ("T12", "T20"),
    _tell_cgroup,
    partial(Machine, quota_policy="cgroup"),
)


# --- /dev/ioasid ------------------------------------------------------------------------------------------------------


def _tell_dev_ioasid(m: Machine) -> Iterator[str]:
    yield "The hypervisor opens /dev/ioasid, which makes its ioasid_set. VFIO takes a reference on it."
    m.plug_accelerator("dsa0")
    vm = _vm_with_apps(m, "vm1", 3, quota=2)
    expect(vm.vmm.container.user.users == ("dev-ioasid", "vfio"), "one set, two files that keep it")
    _refused("EOPNOTSUPP", "the container is not asked any more", partial(vm.vmm.container.pasid_alloc, 1, 100))

    yield "Once for each process: a second open is refused."
    _refused("EBUSY", "it is open already", vm.open_ioasid)

    yield "The guest's virtual command becomes a request to the device file; bind goes to VFIO as before."
    _bind_all(vm, 0, 2)
    host = vm.pasids[1]
    expect(m.kernel.ioasid.ids[host].holders[0] == "dev-ioasid", "the first reference is the device file's")

    yield "Every failure is -EINVAL here, a used-up quota too. The guest is told 'no PASID' either way."
    _refused("EINVAL", "the quota", vm.request_pasid)
    _refused("ENOSPC", "the guest's view", partial(vm.app("app2").bind, vm.devices[0]))

    yield "The file is handed to another process. By the documents it cannot allocate; by a quota for each set it can."
    vm.set_quota(3)
    helper = m.spawn("helper")
    lent = vm.request_pasid(caller=helper)
    expect(m.kernel.ioasid.ids[lent].owner is vm.vmm.container.set, "the number is the opener's")
    vm.return_pasid(lent)
    helper.exit()

    yield "The hypervisor dies with PASIDs bound. The set survives until the last of its two files is closed."
    vm.crash()
    expect(m.ioasid_device is not None and len(m.ioasid_device.files) == 0, "no file is open")
    expect(len(m.kernel.ioasid.ids) == 0 and len(m.kernel.ioasid.sets) == _HOST, "no PASID and no set is left")


DEV_IOASID: Final = Story(
    "dev-ioasid",
    "A stand-alone user API: /dev/ioasid hands out numbers, VFIO binds them",
    ("T20",),
    _tell_dev_ioasid,
    partial(Machine, pasid_api="dev-ioasid"),
)
