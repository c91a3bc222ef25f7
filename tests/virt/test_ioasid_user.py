"""Who owns a hypervisor's PASIDs, and the device file /dev/ioasid (facts 2.5, 3.5)."""

from itertools import permutations

import pytest

from pasidlab import Machine
from pasidlab.errors import KernelError
from pasidlab.timeline import Verb
from pasidlab.virt.ioasid_user import ID_BITS, USER_QUOTA
from tests.worlds import World


@pytest.fixture
def world():
    """A machine with /dev/ioasid, and a VM that has it open."""
    return _world("fixed")


def _world(policy):
    world = World(pasid_api="dev-ioasid", quota_policy=policy)
    world.vm1 = world.vm("vm1", "shared", quota=3)
    world.file, world.container = world.vm1.vmm.ioasid_file, world.vm1.vmm.container
    return world


def open_files(world):
    """Every open file of the device."""
    assert world.m.ioasid_device is not None
    return world.m.ioasid_device.files.values()


# --- open ---------------------------------------------------------------------------------------------------------


def test_a_process_opens_it_once(world):
    """The second open is -EBUSY, also for the same number; another process may."""
    device = world.m.ioasid_device
    assert world.refused(device.open, world.vm1.vmm.process, "again").name == "EBUSY"
    other = device.open(world.m.spawn("native").process, "native")
    assert (other.user.set.kind.name, other.user.set.quota) == ("MM", USER_QUOTA)


def test_the_error_of_the_set_is_passed_on(world):
    """A quota that does not fit; and no memory for the user's own record. Nothing stays open."""
    device, process = world.m.ioasid_device, world.m.spawn("native").process
    assert world.refused(device.open, process, "native", 1 << 21).name == "ENOSPC"
    for nth in (1, 2, 3):
        world.core.slab.fail_nth = nth
        assert world.refused(device.open, process, "native").name == "ENOMEM"
    assert process.mm.path not in device.files
    device.open(process, "native")


def test_it_is_open_before_vfio(world):
    """The set is the device file's, and the container takes a reference."""
    opened = [event.actor for event in world.time.events if event.verb is Verb.OPEN]
    assert opened == ["dev-ioasid", "vfio"]
    assert world.container.user is world.file.user
    assert world.file.user.users == ("dev-ioasid", "vfio")
    made = next(event for event in world.time.events if event.verb is Verb.SET_ALLOC and event.fact("set_id") == 1)
    assert world.time.events[made.cause].subject == "/dev/ioasid for vm1"


# --- ioctls -------------------------------------------------------------------------------------------------------


def test_it_tells_its_version_and_how_many_bits_an_id_has(world):
    """31, and flags of 0."""
    assert isinstance(world.file.get_api_version(), int)
    assert world.file.get_info() == (0, 31)
    assert world.file.get_info(argsz=100) == (0, ID_BITS)


@pytest.mark.parametrize("wrong", [{"argsz": 0}, {"argsz": 4}, {"flags": 1}])
def test_a_structure_that_is_too_short_or_has_flags_is_einval(world, wrong):
    """GET_INFO and REQUEST_ALLOC."""
    assert world.refused(world.file.get_info, **wrong).name == "EINVAL"
    assert world.refused(world.file.request_alloc, 1, 100, **wrong).name == "EINVAL"


@pytest.mark.parametrize("span", [(5, 4), (1, 1 << 31), (1 << 31, 1 << 31), (-1, 5), (-2, -1)])
def test_a_range_beyond_31_bits_or_upside_down_is_einval(world, span):
    """Before anything is asked of the core."""
    assert world.refused(world.file.request_alloc, *span).name == "EINVAL"


def test_an_id_lies_in_the_inclusive_range(world):
    """The whole of the 31 bits."""
    assert world.file.request_alloc(500, 500) == 500
    assert world.file.request_alloc((1 << 31) - 1, (1 << 31) - 1) == (1 << 31) - 1


@pytest.mark.parametrize("policy", ["fixed", "rlimit", "cgroup"])
def test_every_failure_of_the_core_is_einval(policy):
    """A used-up quota, a range that is out, no memory: never -ENOSPC or -ENOMEM here."""
    world = _world(policy)
    world.file.request_alloc(500, 500)
    assert world.refused(world.file.request_alloc, 500, 500).name == "EINVAL"
    for nth in (1, 2, 3, 4):
        world.core.slab.fail_nth = nth
        assert world.refused(world.file.request_alloc, 1, 1000).name == "EINVAL"
        assert (world.core.slab.fail_nth, world.container.set.count) == (0, 1)
    world.file.request_alloc(1, 1000), world.file.request_alloc(1, 1000)
    assert world.refused(world.file.request_alloc, 1, 1000).name == "EINVAL"


def test_free_answers_0_whatever_the_number(world):
    """Unknown, foreign, twice; only a negative one is -EINVAL. What is foreign stays."""
    other = world.vm("vm2", quota=2)
    foreign, own = other.request_pasid(), world.file.request_alloc(1, 1000)
    assert [world.file.request_free(number) for number in (own, own, 999, foreign, 1 << 40)] == [0] * 5
    assert (own in world.core.ids, foreign in world.core.ids) == (False, True)
    assert world.refused(world.file.request_free, -1).name == "EINVAL"


def test_an_unknown_command_is_einval(world):
    """As for any device."""
    assert world.refused(world.file.ioctl, 0x3B99).name == "EINVAL"


def test_a_file_that_was_handed_on_cannot_allocate_where_groups_are_charged():
    """-EPERM inside, -EINVAL outside; and the other may free, nobody checks that."""
    world = _world("cgroup")
    helper = world.m.spawn("helper")
    error = world.refused(world.vm1.request_pasid, caller=helper)
    assert (error.name, "(-EPERM)" in error.reason) == ("EINVAL", True)
    assert world.vm1.group.current == 0
    assert world.file.request_free(world.vm1.request_pasid()) == 0


@pytest.mark.parametrize(("policy", "payer"), [("fixed", None), ("rlimit", "helper")])
def test_elsewhere_a_file_that_was_handed_on_works(policy, payer):
    """By a quota the set pays, by rlimits the caller; the ID is the opener's."""
    world = _world(policy)
    helper = world.m.spawn("helper")
    ioasid = world.vm1.request_pasid(caller=helper)
    assert world.core.ids[ioasid].owner is world.container.set
    if payer:
        assert world.core.policy.used_by(helper.process.mm) == 1
        assert world.core.policy.used_by(world.vm1.vmm.process.mm) == 0
    assert world.m.check().ok


# --- beside VFIO --------------------------------------------------------------------------------------------------


def test_the_container_answers_pasid_requests_with_eopnotsupp(world):
    """It binds, but it hands nothing out; a range upside down is told first."""
    assert world.refused(world.container.pasid_alloc, 1, 5).name == "EOPNOTSUPP"
    assert world.refused(world.container.pasid_free, 1, 5).name == "EOPNOTSUPP"
    assert world.refused(world.container.pasid_alloc, 5, 1).name == "EINVAL"


def test_a_container_without_an_open_device_file_is_refused(world):
    """There is no set to take a reference on."""
    assert world.refused(world.m.ioasid_device.user_of, world.m.spawn("native").process.mm).name == "EINVAL"


def test_the_guests_requests_go_to_the_device_file(world):
    """trap -> ioctl of /dev/ioasid -> core; bind goes to VFIO; and the device copies."""
    adi, app = world.vm1.devices[0], world.vm1.spawn("app")
    begin = world.time.now
    app.bind(adi)
    asked = [(event.actor, event.subject) for event in world.since(begin) if event.verb is Verb.IOCTL]
    assert asked[:2] == [("dev-ioasid", "REQUEST_ALLOC"), ("vfio", "NESTING_OP bind")]
    assert world.core.ids[world.vm1.pasids[1]].holders == ("dev-ioasid", "iommu", "kvm:vm1")
    assert app.copy(adi, app.buffer(b"x"), app.buffer(1), 1).ok
    app.unbind(adi)
    assert world.vm1.pasids == {}
    assert world.m.check().ok


def test_a_guest_that_is_refused_hears_what_it_hears_by_vfio(world):
    """No PASID: -ENOSPC, although the hypervisor was told -EINVAL."""
    for _ in range(3):
        world.vm1.request_pasid()
    assert world.refused(world.vm1.spawn("app").bind, world.vm1.devices[0]).name == "ENOSPC"


def test_a_request_to_a_closed_file_is_ebadf(world):
    """The guest's free is answered "invalid PASID", and its number stays."""
    app = world.vm1.spawn("app")
    app.bind(world.vm1.devices[0])
    process = world.vm1.vmm.process
    number = next(number for number, file in process.files.items() if file is world.file)
    with world.time.operation("close"):
        process.close_file(number)
    assert world.refused(world.file.request_alloc, 1, 5).name == "EBADF"
    assert world.refused(world.vm1.free_pasid, 1).name == "EINVAL"
    assert world.container.set.count == 1
    assert world.refused(world.vm1.spawn("late").bind, world.vm1.devices[0]).name == "ENOSPC"
    world.vm1.crash()
    assert world.core.ids.keys() == []
    assert world.m.check().ok


# --- the end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["fixed", "rlimit", "cgroup"])
@pytest.mark.parametrize("order", list(permutations(("kvm", "device", "container"))), ids="-".join)
def test_files_are_closed_in_any_order_and_nothing_leaks(policy, order):
    """The set survives until the last of the two is gone; mediated devices are closed before what they stand on."""
    world = World(pasid_api="dev-ioasid", quota_policy=policy)
    available, begin = world.core.capacity.available, world.time.digest()
    vm = world.vm("vm1", quota=3)
    vm.request_pasid(), vm.request_pasid()
    vmm = vm.vmm
    known = {"kvm": vmm.kvm, "device": vmm.ioasid_file, "container": vmm.container}
    numbers = {file.path: number for number, file in vmm.process.files.items()}
    the_set, left = vmm.container.set, []
    with world.time.operation("exit"):
        for name in order:
            vmm.process.close_file(numbers[known[name].path])
            left.append(the_set.retired)
        vmm.running = False
        world.m.kernel.exit(vmm.process)
        vmm._bury()
        del world.m.vmms["vm1"], world.m.numbers["vm1"]
    last = max(order.index("device"), order.index("container"))
    assert left == [at >= last for at in range(3)]
    assert (world.core.ids.keys(), world.core.capacity.available) == ([], available)
    assert open_files(world) == []
    assert world.m.check().ok
    assert begin == world.time.digest()


@pytest.mark.parametrize("api", ["vfio", "dev-ioasid"])
@pytest.mark.parametrize("policy", ["fixed", "rlimit", "cgroup"])
def test_a_set_with_ids_that_somebody_holds_ends_with_the_last_of_them(policy, api):
    """-EBUSY at the last close is told as an event; the number, the charge and the set return with the last put."""
    world = World(quota_policy=policy, pasid_api=api)
    available = world.core.capacity.available
    vm = world.vm("vm1", quota=3)
    ioasid = vm.request_pasid()
    world.core.get(ioasid, "somebody")
    begin = world.time.now
    vm.crash()
    told = [event for event in world.since(begin) if event.verb is Verb.REFUSE]
    assert [(event.actor, event.after) for event in told] == [("vfio", "-EBUSY")]
    assert [one.name for one in world.core.sets.values()] == ["host", "vm1"]
    world.core.put(ioasid, "somebody")
    assert [one.name for one in world.core.sets.values()] == ["host"]
    assert world.core.capacity.available == available
    assert world.m.check().ok


def test_an_id_that_cannot_be_written_down_is_given_back():
    """VFIO: -ENOMEM, and the ID is free again."""
    world = World()
    vm = world.vm("vm1", quota=3)
    world.core.slab.fail_nth = 4
    assert world.refused(vm.request_pasid).name == "ENOMEM"
    assert (world.core.ids.keys(), vm.vmm.container.set.count) == ([], 0)


def test_a_vm_that_fails_half_way_leaves_no_open_file():
    """The container's domain, the set, the file: each failure takes back what came before."""
    world = World(pasid_api="dev-ioasid", quota_policy="cgroup")
    begin = world.time.digest()
    for nth in range(1, 5):
        world.core.slab.fail_nth = nth
        with pytest.raises(KernelError, match="ENOMEM"):
            world.vm("vm1", quota=3)
        world.core.slab.fail_nth = 0
        assert open_files(world) == []
        assert world.time.digest() == begin
    world.vm("vm1", quota=3)


def test_users_and_files_say_what_they_are(world):
    """For a person at a prompt."""
    world.vm1.request_pasid()
    user = world.file.user
    assert repr(user) == "<ioasid_user of vm1: 1 PASIDs, used by dev-ioasid, vfio>"
    assert repr(world.file) == "<file of /dev/ioasid for vm1>"
    world.vm1.crash()
    assert repr(user) == "<ioasid_user of vm1: gone>"


@pytest.mark.parametrize("value", [None, "1", 1.5, True, [1]], ids=repr)
def test_what_is_no_number_is_einval(value):
    """In every field of every request; nothing is given or taken."""
    m = Machine(pasid_api="dev-ioasid")
    vm = m.create_vm("vm1", quota=4)
    assert m.ioasid_device is not None
    file = m.ioasid_device.files.values()[0]
    before = m.timeline.digest()
    for call in (
        lambda: file.request_alloc(value, 9),
        lambda: file.request_alloc(1, value),
        lambda: file.request_alloc(1, 9, argsz=value),
        lambda: file.get_info(value),
        lambda: file.get_info(flags=value),
        lambda: file.request_free(value),
    ):
        with pytest.raises(KernelError, match="EINVAL"):
            call()
    assert m.timeline.digest() == before
    assert vm.request_pasid() == 1
