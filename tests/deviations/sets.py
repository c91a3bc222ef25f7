"""Sets, capacity, allocators: what the code did, and where it shows."""

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.capacity import PCIE_CAPACITY
from pasidlab.kernel.ioasid.core import IoasidRefused
from pasidlab.kernel.kernel import HOST_QUOTA
from pasidlab.timeline import Part
from tests.deviations.switch import USUAL, deviant, scenario

LEFT = PCIE_CAPACITY - HOST_QUOTA


@deviant("quota-kept")
def return_quota(sets, quota):
    pass


@scenario("quota-kept", usual=LEFT, deviating=LEFT - 8)
def a_vm_comes_and_goes(lab):
    lab.vm("vm1", quota=8).crash()
    return lab.core.capacity.available


@deviant("quota-zero")
def all_left(sets, name):
    raise KernelError("EINVAL", f"the quota of {name} must be at least 1")


@scenario("quota-zero", usual=LEFT, deviating="EINVAL")
def a_set_of_quota_zero(lab):
    made = lab.do(lab.core.sets.alloc, "all", None, 0)
    return made if isinstance(made, str) else made.quota


@deviant("set-type-zero")
def kind(sets, token, wanted):
    return 0 if wanted == 0 else USUAL["set-type-zero"](token, wanted)


@scenario("set-type-zero", usual="EINVAL", deviating=0)
def a_set_of_type_zero(lab):
    made = lab.do(lab.core.sets.alloc, "odd", Part(lab.time, "token"), 4, 0)
    return made if isinstance(made, str) else made.kind


@deviant("set-number-bound")
def free_number(sets):
    number = sets._numbers.find(0, sets._capacity.available)
    if number is None:
        raise KernelError("ENOSPC", "no ioasid_set number is left")
    return number


@scenario("set-number-bound", usual=2, deviating="ENOSPC")
def the_last_pasid_for_the_last_set(lab):
    """One PASID is left, two sets are there, and numbers 0 and 1 are taken."""
    lab.vm("big", quota=LEFT - 1)
    made = lab.do(lab.core.sets.alloc, "small", Part(lab.time, "token"), 1)
    return made if isinstance(made, str) else made.set_id


@deviant("ending-set-grows")
def refuse_ending(core, the_set):
    pass


@scenario("ending-set-grows", usual=("EBUSY", "ENOSPC"), deviating=("EBUSY", 2))
def a_pasid_from_a_set_that_ends(lab):
    vm = lab.vm("vm1")
    vm.request_pasid()
    return lab.do(lab.core.sets.free, vm.vmm.container.set), lab.do(vm.request_pasid)


@deviant("ending-set-token")
def has_set(sets, token):
    return any(known.token is token and not known.free_pending for known in sets.values())


@scenario("ending-set-token", usual="EEXIST", deviating=2)
def a_new_set_for_the_same_process(lab):
    vm = lab.vm("vm1")
    vm.request_pasid()
    lab.do(lab.core.sets.free, vm.vmm.container.set)
    made = lab.do(lab.core.sets.alloc, "again", vm.vmm.process.mm, 4)
    return made if isinstance(made, str) else made.set_id


@deviant("install-forgets")
def left_after_install(capacity, total):
    return total


@scenario("install-forgets", usual=(1 << 19) - HOST_QUOTA, deviating=1 << 19)
def hardware_that_has_less(lab):
    lab.do(lab.core.capacity.install, 1 << 19)
    return lab.core.capacity.available


@deviant("install-twice")
def not_to_install(capacity, total):
    return "it was installed before" if capacity.total != PCIE_CAPACITY else ""


@scenario("install-twice", usual=[True, False], deviating=[True, True])
def the_default_capacity_and_another_one(lab):
    return [lab.do(lab.core.capacity.install, total) for total in (PCIE_CAPACITY, 1 << 19)]


@deviant("reserve-answer")
def reserve(capacity, count):
    USUAL["reserve-answer"](capacity, count)
    return capacity.available


@scenario("reserve-answer", usual=10, deviating=LEFT - 10)
def ten_are_reserved(lab):
    return lab.do(lab.core.capacity.reserve, 10)


@deviant("cancel-trusts")
def cancel(capacity, count):
    if capacity.available + count > capacity.total:
        raise KernelError("EINVAL", "more than there is")
    capacity.reserved -= min(count, capacity.reserved)
    capacity.give(count)
    return capacity.available


@scenario("cancel-trusts", usual="EINVAL", deviating=LEFT + 5)
def somebody_gives_back_what_was_never_reserved(lab):
    return lab.do(lab.core.capacity.cancel, 5)


@deviant("alloc-keeps-charge")
def uncharge_refused(core, the_set, payer):
    pass


@scenario("alloc-keeps-charge", usual=("ENOSPC", 0), deviating=("ENOSPC", 1), quota_policy="cgroup")
def no_memory_for_a_pasid(lab):
    tenant = lab.m.create_cgroup("tenant", max=4)
    vm = lab.vm("vm1", cgroup="tenant")
    lab.core.slab.fail_nth = 1
    return lab.do(vm.request_pasid), tenant.current


@deviant("alloc-returns-freed")
def alloc(core, the_set, minimum, maximum, *rest, **more):
    try:
        return USUAL["alloc-returns-freed"](core, the_set, minimum, maximum, *rest, **more)
    except IoasidRefused as refused:
        if "the table of the set's IDs" not in str(refused):
            raise
        return core.allocators.active.bitmap.find(minimum, maximum)


@scenario("alloc-returns-freed", usual=("ENOSPC", 1), deviating=(1, 1))
def one_number_for_two(lab):
    """The third request for memory of an alloc is for the set's table."""
    vm1, vm2 = lab.vm("vm1"), lab.vm("vm2")
    lab.core.slab.fail_nth = 3
    return lab.do(vm1.request_pasid), lab.do(vm2.request_pasid)


class Always77(Part):
    """A custom allocator that knows one number."""

    refusal = "77 is out"

    def alloc(self, minimum, maximum):
        return 77

    def free(self, ioasid):
        pass


@deviant("orphaned-ids")
def unregister_allocator(core, ops):
    before = core.allocators.active
    core.allocators.unregister(ops, 0)
    if type(core.allocators.active) is not type(before):
        for ioasid in core.ids.keys():
            del core.ids[ioasid]


@scenario("orphaned-ids", usual=("EBUSY", 0), deviating=(None, 1))
def an_allocator_goes_before_its_ids(lab):
    """The owner's free finds no such ID, and the set keeps it."""
    ops = Always77(lab.time, "always77")
    lab.do(lab.core.register_allocator, ops)
    vm = lab.vm("vm1")
    number = vm.request_pasid()
    answer = lab.do(lab.core.unregister_allocator, ops)
    vm.return_pasid(number)
    return answer, vm.vmm.container.set.count
