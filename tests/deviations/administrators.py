"""Control groups and /dev/ioasid: what the code did, and where it shows."""

from pasidlab.errors import KernelError
from tests.deviations.sets import LEFT
from tests.deviations.switch import USUAL, deviant, scenario

CGROUP = {"quota_policy": "cgroup"}


@deviant("cgroup-wrong-task")
def relieved(policy, the_set):
    running = policy._sets._lock._core.work.running
    return None if running else policy.set_group(the_set)


@scenario("cgroup-wrong-task", usual=0, deviating=1, **CGROUP)
def clean_up_runs_the_last_put(lab):
    tenant = lab.m.create_cgroup("tenant", max=8)
    lab.bound(cgroup="tenant")
    lab.vm1.free_pasid(1)
    lab.m.run()
    return tenant.current


@deviant("cgroup-dead-owner")
def can_uncharge(policy, the_set):
    return len(the_set.token.areas) > 0


@scenario("cgroup-dead-owner", usual=0, deviating=1, **CGROUP)
def a_vm_dies_with_a_pasid(lab):
    tenant = lab.m.create_cgroup("tenant", max=8)
    vm = lab.vm("vm1", cgroup="tenant")
    vm.request_pasid()
    vm.crash()
    return tenant.current


@deviant("cgroup-events")
def note_refusal(policy, group):
    pass


@scenario("cgroup-events", usual=("ENOSPC", 1), deviating=("ENOSPC", 0), **CGROUP)
def a_group_is_full(lab):
    vm = lab.vm("vm1", quota=1)
    vm.request_pasid()
    return lab.do(vm.request_pasid), vm.group.events


@deviant("cgroup-rmdir-keeps")
def return_reserve(groups, group):
    pass


@scenario("cgroup-rmdir-keeps", usual=LEFT, deviating=LEFT - 8, **CGROUP)
def a_group_is_removed(lab):
    lab.m.create_cgroup("tenant", max=8).remove()
    return lab.core.capacity.available


@deviant("cgroup-write-max")
def write_max(groups, group, limit):
    if limit != "max":
        USUAL["cgroup-write-max"](groups, group, limit)
        return
    left = groups._capacity.available
    groups._capacity.take(left, group.name)
    group.max = left


@scenario("cgroup-write-max", usual=LEFT, deviating=LEFT - 8, **CGROUP)
def a_group_wants_everything(lab):
    tenant = lab.m.create_cgroup("tenant", max=8)
    tenant.set_max("max")
    return tenant.max


@deviant("cgroup-paid-twice")
def make_set(policy, name, token, quota):
    made = USUAL["cgroup-paid-twice"](policy, name, token, quota)
    policy._capacity.take(quota, name)
    made.quota = quota
    return made


@scenario("cgroup-paid-twice", usual=LEFT - 8, deviating=LEFT - 16, **CGROUP)
def a_vm_of_eight(lab):
    lab.vm("vm1", quota=8)
    return lab.core.capacity.available


@deviant("passed-file")
def request_alloc(file, minimum, maximum, current=None, **sizes):
    if current not in (None, file.user.mm):
        raise KernelError("EPERM", "/dev/ioasid must be used by the process that opened it")
    return USUAL["passed-file"](file, minimum, maximum, current, **sizes)


@scenario("passed-file", usual=1, deviating="EPERM", pasid_api="dev-ioasid")
def a_stranger_with_the_file(lab):
    vm, stranger = lab.vm("vm1"), lab.m.spawn("stranger")
    return lab.do(vm.request_pasid, caller=stranger)
