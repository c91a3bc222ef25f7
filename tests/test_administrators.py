"""The administrator's choices on a machine: words, handles, refusals, recorded lines, and what the invariants see."""

import pytest

from pasidlab import Machine
from pasidlab.errors import KernelError
from tests.worlds import World

POLICIES = ("fixed", "rlimit", "cgroup")
APIS = ("vfio", "dev-ioasid")
HOSTILE = (
    '"><script>',
    "a b",
    "a.b",
    "..",
    "-a",
    "",
    "a" * 33,
    "tenant/",
    "/tenant",
    "tenant//a",
    "tenant/..",
    "é",
    "host",
)


@pytest.fixture
def world():
    """Control groups, one tenant with room for 5, a VM in it."""
    world = World(quota_policy="cgroup")
    world.tenant = world.m.cgroup("tenant", max=5)
    world.vm1 = world.vm("vm1", cgroup="tenant")
    return world


# --- the machine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "line", "words"),
    [
        ({}, 'm = Machine(iommu="vtd")', "<Machine vtd: no devices; 0 VMs; step"),
        (
            {"quota_policy": "rlimit"},
            'm = Machine(iommu="vtd", quota_policy="rlimit")',
            "<Machine vtd: no devices; 0 VMs; quota policy rlimit; step",
        ),
        (
            {"quota_policy": "cgroup", "pasid_api": "dev-ioasid", "memory": 1 << 24},
            'm = Machine(iommu="vtd", memory=0x1000000, quota_policy="cgroup", pasid_api="dev-ioasid")',
            "<Machine vtd: no devices; 0 VMs; quota policy cgroup; PASIDs from /dev/ioasid; step",
        ),
    ],
)
def test_a_machine_says_what_it_is_and_how_to_make_it_again(options, line, words):
    """The recorded line and the repr are true."""
    m = Machine(**options)
    assert m.timeline.operations[0].line == line
    assert repr(m).startswith(words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quota_policy": "ulimit"}, "quota_policy must be one of fixed, rlimit, cgroup, not 'ulimit'"),
        ({"pasid_api": "/dev/ioasid"}, "pasid_api must be one of vfio, dev-ioasid, not '/dev/ioasid'"),
    ],
)
def test_words_that_are_not_known_are_refused(options, words):
    """With those that are."""
    with pytest.raises(ValueError, match=words):
        Machine(**options)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_combination_serves_a_guest(policy, api):
    """Bind, copy, unbind; a quota of one is enforced; a crash returns everything."""
    world = World(quota_policy=policy, pasid_api=api)
    available = world.core.capacity.available
    vm = world.vm("vm1", "shared", quota=1)
    first, second = vm.spawn("a"), vm.spawn("b")
    first.bind(vm.devices[0])
    assert world.refused(second.bind, vm.devices[0]).name == "ENOSPC"
    src, dst = first.buffer(b"bytes"), first.buffer(5)
    assert first.copy(vm.devices[0], src, dst, 5).ok
    first.unbind(vm.devices[0])
    second.bind(vm.devices[0])
    assert repr(vm).startswith("<VM vm1: 1 of 1 PASIDs")
    vm.crash()
    assert (world.core.capacity.available, world.core.policy.held) == (available, 0)
    assert world.m.check().ok


# --- quotas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_a_quota_can_be_changed(policy):
    """One operation, recorded; vm.quota says the new number."""
    world = World(quota_policy=policy)
    vm = world.vm("vm1", quota=2)
    vm.set_quota(3)
    assert (vm.quota, world.time.operations[-1].line) == (3, 'm.vm("vm1").set_quota(3)')
    for _ in range(3):
        vm.request_pasid()
    assert world.refused(vm.request_pasid).name == "ENOSPC"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("quota", [-1, "3", 2.5, True, None])
def test_a_quota_that_is_no_number_of_pasids_is_einval(policy, quota):
    """And leaves the state as it was."""
    world = World(quota_policy=policy)
    vm = world.vm("vm1", quota=2)
    before = world.time.digest()
    assert world.refused(vm.set_quota, quota).name == "EINVAL"
    assert world.time.digest() == before


def test_hard_limits_are_for_rlimits():
    """prlimit with two numbers; elsewhere -EINVAL."""
    world = World(quota_policy="rlimit")
    vm = world.vm("vm1", quota=2)
    vm.set_quota(3, hard=5)
    vm.set_quota(4, hard=5, privileged=False)
    assert world.refused(vm.set_quota, 4, hard=6, privileged=False).name == "EPERM"
    assert world.refused(vm.set_quota, 7, hard=6).name == "EINVAL"
    assert world.core.policy.limits_of(vm.vmm.process.mm) == (4, 5)
    for policy in ("fixed", "cgroup"):
        other = World(quota_policy=policy)
        assert other.refused(other.vm("vm1", quota=2).set_quota, 3, hard=4).name == "EINVAL"
        assert other.refused(other.m.vm("vm1").set_quota, 3, privileged=False).name == "EINVAL"


def test_limits_end_with_the_process():
    """The next one with the same pid has the default."""
    world = World(quota_policy="rlimit")
    world.vm("vm1", quota=2).crash()
    assert world.core.policy.accounts() == []
    app = world.m.spawn("native")
    app.bind(world.dsa)
    assert world.core.policy.used_by(app.process.mm) == 1
    app.exit()
    assert world.core.policy.accounts() == []


def test_a_native_process_has_limits_of_its_own():
    """A limit of 0 keeps it from binding; without privilege it stays there. Guests and other policies have none."""
    world = World(quota_policy="rlimit")
    app = world.m.spawn("native")
    app.set_quota(0)
    assert world.refused(app.bind, world.dsa).name == "ENOSPC"
    assert world.refused(app.set_quota, 1, privileged=False).name == "EPERM"
    app.set_quota(0, hard=1)
    app.set_quota(1, privileged=False)
    app.bind(world.dsa)
    guest = world.vm("vm1", quota=2).spawn("app")
    assert world.refused(guest.set_quota, 1).name == "EINVAL"
    other = World()
    assert other.refused(other.m.spawn("native").set_quota, 1).name == "EINVAL"


@pytest.mark.parametrize("span", [(-1, 5), (1, 1 << 32), ("1", 5), (1, None), (7, 6)])
@pytest.mark.parametrize("api", APIS)
def test_a_range_that_no_request_can_have_is_einval(api, span):
    """Bounds are 32 bits, in order."""
    world = World(pasid_api=api)
    assert world.refused(world.vm("vm1").request_pasid, *span).name == "EINVAL"


def test_a_guest_process_cannot_hold_a_file_of_the_host():
    """-EINVAL, and the host's processes can."""
    world = World()
    vm = world.vm("vm1")
    assert world.refused(vm.request_pasid, caller=vm.spawn("app")).name == "EINVAL"
    vm.request_pasid(caller=world.m.spawn("helper"))


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_hypervisor_that_frees_behind_its_guests_back_harms_only_that(policy, api):
    """Bound and freed: cleaned up later; the guest's late unbind and the crash find it so."""
    world = World(quota_policy=policy, pasid_api=api)
    vm = world.vm("vm1", "shared", quota=2)
    app = vm.spawn("app")
    app.bind(vm.devices[0])
    vm.return_pasid(vm.pasids[1])
    assert world.m.check().ok
    world.m.run()
    app.unbind(vm.devices[0])
    assert world.m.check().ok
    vm.crash()
    assert world.core.policy.held == 0
    assert world.m.check().ok


# --- control groups -----------------------------------------------------------------------------------------------


def test_a_group_tells_its_files_members_and_children(world):
    """Through one handle, found again by its expression."""
    m, tenant = world.m, world.tenant
    below = m.cgroup("tenant/a", max=2)
    world.vm1.request_pasid()
    assert (tenant.max, tenant.current, tenant.events, tenant.reserved) == (5, 1, 0, 5)
    assert [vm.name for vm in tenant.members] == ["vm1"]
    assert [child.path for child in tenant.children] == ["tenant/a"]
    assert eval(below.expression, {"m": m}).max == 2
    assert world.vm1.group.path == "tenant"
    assert repr(tenant) == "<cgroup tenant: 1 of 5 PASIDs, 1 VM>"


def test_looking_a_group_up_is_no_operation(world):
    """Only making one is, and the recorded line makes it again."""
    count = len(world.time.operations)
    world.m.cgroup("tenant")
    assert len(world.time.operations) == count
    world.m.cgroup("other", max="max")
    assert world.time.operations[-1].line == 'm.create_cgroup("other", max="max")'
    assert world.m.cgroup("other").max == world.core.policy.groups.find("other").max > 1000


def test_the_root_has_members_and_children_but_no_files(world):
    """-ENOENT for max, current, events, reserved and for writing; it cannot be removed."""
    root = world.m.cgroup("/")
    assert [child.path for child in root.children] == ["tenant"]
    for name in ("max", "current", "events", "reserved"):
        with pytest.raises(KernelError, match="ENOENT"):
            getattr(root, name)
    assert world.refused(root.set_max, 5).name == "ENOENT"
    assert world.refused(root.remove).name == "EBUSY"
    world.vm1.move_to("/")
    assert [vm.name for vm in root.members] == ["vm1"]
    assert (world.vm1.quota, repr(root)) == (None, "<cgroup /: no limit, 1 VM>")
    assert world.refused(world.vm1.set_quota, 5).name == "ENOENT"
    assert repr(world.vm1) == "<VM vm1: 0 PASIDs, 0 devices, 0 processes>"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_groups_are_refused(world, name):
    """As elsewhere: letters, digits, dashes and underscores between slashes, and no word of the machine's own."""
    assert world.refused(world.m.create_cgroup, name).name == "EINVAL"
    assert world.refused(world.m.cgroup, name, max=1).name == "EINVAL"
    with pytest.raises(KernelError, match="ENOENT"):
        world.m.cgroup(name)


@pytest.mark.parametrize("name", [None, 5, b"tenant", ["tenant"], True])
def test_a_path_that_is_no_text_is_einval(world, name):
    """Whatever it is."""
    assert world.refused(world.m.create_cgroup, name).name == "EINVAL"
    assert world.refused(world.vm1.move_to, name).name == "EINVAL"
    with pytest.raises(KernelError, match="EINVAL"):
        world.m.cgroup(name)


@pytest.mark.parametrize("limit", [-1, "min", 2.5, True, 1 << 21])
def test_a_max_that_cannot_be_is_refused(world, limit):
    """A word other than max, a fraction, negative, more than there is."""
    errno = "ENOSPC" if limit == 1 << 21 else "EINVAL"
    assert world.refused(world.tenant.set_max, limit).name == errno
    assert world.refused(world.m.create_cgroup, "other", limit).name == errno
    with pytest.raises(KernelError, match="ENOENT"):
        world.m.cgroup("other")


@pytest.mark.parametrize(
    ("options", "errno"),
    [
        ({"cgroup": "nowhere"}, "ENOENT"),
        ({"cgroup": 'x"y'}, "ENOENT"),
        ({"cgroup": 7}, "EINVAL"),
        ({"cgroup": "tenant", "quota": 3}, "EINVAL"),
        ({"quota": 1 << 21}, "ENOSPC"),
    ],
)
def test_a_vm_that_cannot_join_is_refused_whole(world, options, errno):
    """Nothing of it is left."""
    before = world.time.digest()
    assert world.refused(world.vm, "vm2", **options).name == errno
    assert world.time.digest() == before


def test_a_vm_without_a_group_gets_one_of_its_name(world):
    """Made and removed with it; if the name is taken the VM is refused."""
    vm2 = world.vm("vm2", quota=3)
    assert (vm2.group.path, vm2.group.max) == ("vm2", 3)
    world.m.cgroup("vm3", max=1)
    assert world.refused(world.vm, "vm3", quota=3).name == "EEXIST"
    vm2.crash()
    assert [group.path for group in world.m.cgroup("/").children] == ["tenant", "vm3"]


def test_a_move_by_path_or_by_handle(world):
    """The charge goes along, over the limit if need be; -ENOENT for a group that is not there."""
    small = world.m.cgroup("small", max=1)
    for _ in range(3):
        world.vm1.request_pasid()
    world.vm1.move_to(small)
    assert (small.current, small.max, world.tenant.current) == (3, 1, 0)
    assert world.refused(world.vm1.request_pasid).name == "ENOSPC"
    assert small.events == 1
    world.vm1.move_to("tenant")
    assert (small.current, world.tenant.current) == (0, 3)
    assert world.refused(world.vm1.move_to, "nowhere").name == "ENOENT"
    assert world.m.check().ok


def test_a_group_is_removed_when_it_is_empty(world):
    """-EBUSY before; a handle of a removed group says so."""
    assert world.refused(world.tenant.remove).name == "EBUSY"
    world.vm1.crash()
    world.tenant.remove()
    assert repr(world.tenant) == "<cgroup tenant, gone>"
    assert world.refused(world.tenant.set_max, 3).name == "ENOENT"
    assert world.core.policy.held == 0


def test_native_processes_are_not_charged(world):
    """Only sets of type MM are: the objection of the time."""
    app = world.m.spawn("native")
    app.bind(world.dsa)
    assert (world.tenant.current, world.core.policy.held) == (0, 5)


@pytest.mark.parametrize("policy", ["fixed", "rlimit"])
def test_without_control_groups_there_are_none(policy):
    """-EINVAL, with the name of the policy that the machine has."""
    world = World(quota_policy=policy)
    vm = world.vm("vm1", quota=2)
    for call in (
        lambda: world.m.create_cgroup("a"),
        lambda: world.m.cgroup("/"),
        lambda: vm.move_to("/"),
        lambda: vm.group,
        lambda: world.vm("vm2", cgroup="/"),
    ):
        with pytest.raises(KernelError, match=rf"EINVAL.*{policy}"):
            call()


# --- the device file ----------------------------------------------------------------------------------------------


def test_the_device_file_is_opened_once_or_does_not_exist():
    """-EBUSY where it exists, -ENOENT (UNVERIFIED) where it does not."""
    for api, errno in (("dev-ioasid", "EBUSY"), ("vfio", "ENOENT")):
        world = World(pasid_api=api)
        assert world.refused(world.vm("vm1").open_ioasid).name == errno
