"""The machine as a person uses it: the documented calls, every kind of bad input, policies, isolation by bytes."""

from typing import Any

import pytest

from pasidlab import Machine
from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.commands import Command
from pasidlab.hardware.accelerator.descriptor import Descriptor, Opcode
from pasidlab.hardware.cpu import IA32_PASID
from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.pcie import Access
from pasidlab.kernel.pages import PageAllocator
from pasidlab.timeline import Verb
from tests.worlds import TwoVms, World, net_changes

# --- the calls of the design, as shown ----------------------------------------------------------------------------


def test_the_documented_session_works_as_shown():
    """Two VMs with an interface each: guest PASID 1 in both, different host PASIDs, bytes move, time goes back."""
    m = Machine(iommu="vtd")
    dsa = m.plug_accelerator("dsa0")
    vm1 = m.create_vm("vm1", quota=64)
    vm2 = m.create_vm("vm2", quota=16)
    adi1 = m.assign_adi(dsa, vm1, queue="shared")
    adi2 = m.assign_adi(dsa, vm2, queue="shared")
    app1, app2 = vm1.spawn("app"), vm2.spawn("app")
    g1, g2 = app1.bind(adi1), app2.bind(adi2)
    assert (g1, g2) == (1, 1)
    assert vm1.pasids[1] != vm2.pasids[1]
    src, dst = app1.buffer(bytes(range(64))), app1.buffer(64)
    assert app1.copy(adi1, src, dst, 64).ok
    assert app1.read(dst, 64) == bytes(range(64))
    walk = m.translate(dsa.rid, pasid=vm1.pasids[1], address=src, access="read", caches=False)
    assert [stop.stage for stop in walk.stops].count("first") == 4
    assert walk.address == m.translate(dsa.rid, pasid=vm1.pasids[1], address=src).address
    assert walk.address is not None
    m.timeline.back(3)
    m.timeline.forward(3)
    assert m.check().ok
    vm1.crash()
    assert m.check().ok


def test_only_units_that_exist_can_be_chosen():
    """A machine with another unit is refused by name, and the message lists those that there are."""
    with pytest.raises(ValueError, match=r"iommu must be one of 'vtd' \(.*not 'virtio'"):
        Machine(iommu="virtio")


def test_recorded_lines_repeat_the_session():
    """Each operation is a Python line; the lines give the same world."""
    first = Machine()
    dsa = first.plug_accelerator("dsa0")
    vm = first.create_vm("vm1", quota=4)
    adi = first.assign_adi(dsa, vm, queue="dedicated")
    app = vm.spawn("app")
    app.bind(adi)
    src, dst = app.buffer(b'it\'s "quoted"\n'), app.buffer(14)
    app.copy(adi, src, dst, 14)
    app.unbind(adi)
    scope: dict[str, Any] = {"Machine": Machine}
    for operation in first.timeline.operations:
        exec(operation.line, scope)  # lines that we have just written
    second = scope["m"]
    assert second.timeline.digest() == first.timeline.digest()
    assert second.timeline.events == first.timeline.events


def test_handles_say_what_they_are_and_what_became_of_it():
    """Short texts, also after the end."""
    world = TwoVms()
    assert repr(world.app1) == "<process app on vm1, PASID 1>"
    assert repr(world.adi1) == "<ADI adi0 in vm1, on dsa0>"
    assert repr(world.vm1) == "<VM vm1: 1 of 1000 PASIDs, 1 devices, 1 processes>"
    assert repr(world.dsa) == "<PF dsa0 at 6a:01.0, driven by host>"
    world.vm1.crash()
    assert repr(world.app1) == "<process app on vm1, exited>"
    assert repr(world.vm1) == "<VM vm1, gone>"
    assert "gone" in repr(world.adi1)


# --- bad input ----------------------------------------------------------------------------------------------------

EVIL = [
    "",
    " ",
    "1vm",
    "a b",
    "a" * 33,
    "a.b",
    "vm'1",
    'vm"1',
    "<script>alert(1)</script>",
    "a\nb",
    "é",
    "../x",
    "a\0b",
]


def refuse_quietly(world, call, *args, **kwargs):
    """The error of a call that must be refused whole: only the call and its refusal are told, nothing is changed."""
    before, begin = world.time.digest(), world.time.now
    error = world.refused(call, *args, **kwargs)
    told = world.since(begin)
    assert world.time.digest() == before
    assert [event.verb for event in told] == [Verb.CALL, Verb.REFUSE]
    assert (told[1].subject, told[1].after) == (error.reason, f"-{error.name}")
    return error


@pytest.mark.parametrize("name", EVIL)
def test_a_name_that_could_be_code_or_markup_is_einval(name):
    """For VMs, devices and processes of host and guest; the message quotes it as Python does."""
    world = TwoVms()
    for call in (world.m.create_vm, world.m.plug_accelerator, world.m.spawn, world.vm1.spawn):
        error = refuse_quietly(world, call, name)
        assert error.name == "EINVAL"
        assert repr(name) in error.reason
        assert "\n" not in world.time.operations[-1].line


@pytest.mark.parametrize("name", ["host", "user", "hardware", "memory", "agenda", "machine", "cpu0"])
def test_a_word_that_names_a_part_of_the_machine_is_einval(name):
    """Paths and lanes of the parts must not be imitated."""
    world = World()
    assert refuse_quietly(world, world.m.create_vm, name).name == "EINVAL"
    assert refuse_quietly(world, world.m.plug_accelerator, name).name == "EINVAL"


def test_a_name_that_is_taken_is_eexist():
    """Devices and VMs share one space of names; processes have one for each kernel."""
    world = TwoVms()
    for call, name in (
        (world.m.create_vm, "vm1"),
        (world.m.create_vm, "dsa0"),
        (world.m.create_vm, "adi0"),
        (world.m.plug_accelerator, "vm1"),
        (world.m.plug_accelerator, "dsa0"),
        (world.vm1.spawn, "app"),
    ):
        assert refuse_quietly(world, call, name).name == "EEXIST", name
    world.m.spawn("app")
    assert refuse_quietly(world, world.m.spawn, "app").name == "EEXIST"


@pytest.mark.parametrize(
    ("options", "errno", "word"),
    [
        ({"quota": 0}, "EINVAL", "at least 1"),
        ({"quota": -5}, "EINVAL", "at least 1"),
        ({"quota": 1 << 20}, "ENOSPC", "the rest is promised to others"),
        ({"policy": "magic"}, "EINVAL", "translated, identity"),
        ({"memory": 5000}, "EINVAL", "whole pages"),
        ({"memory": 4096}, "EINVAL", "between 1 and 256 MiB"),
    ],
    ids=str,
)
def test_a_vm_that_cannot_be_is_refused_whole(options, errno, word):
    """No set, no process, no memory remains."""
    world = World()
    frames = world.m.kernel.pages.used
    error = refuse_quietly(world, world.m.create_vm, "vm1", **options)
    assert (error.name, word in error.reason) == (errno, True)
    assert world.m.kernel.pages.used == frames
    assert world.m.vms == []


def test_the_quotas_of_all_vms_together_are_bounded():
    """2^20 PASIDs, the host's own share taken off."""
    world = World()
    rest = world.core.capacity.available
    world.vm("vm1", quota=rest - 10)
    assert refuse_quietly(world, world.m.create_vm, "vm2", quota=11).name == "ENOSPC"
    world.vm("vm2", quota=10)


def test_an_exhausted_quota_is_enospc_in_the_guest():
    """The hypervisor answers "no PASID available"; what the process held before, it holds still."""
    world = World()
    vm = world.vm("vm1", "shared", quota=1)
    first, second = vm.spawn("first"), vm.spawn("second")
    first.bind(vm.devices[0])
    error = world.refused(second.bind, vm.devices[0])
    assert (error.name, "no PASID available" in error.reason) == ("ENOSPC", True)
    assert (second.pasid, second.process.ia32_pasid, vm.pasids.keys()) == (None, 0, {1})
    assert first.copy(vm.devices[0], first.buffer(b"x"), first.buffer(1), 1).ok
    first.unbind(vm.devices[0])
    assert second.bind(vm.devices[0]) == 1


def test_a_double_bind_is_ebusy_and_an_unbind_of_nothing_einval():
    """In the guest and on the host."""
    world = TwoVms()
    native = world.m.spawn("native")
    native.bind(world.dsa)
    for app, device in ((world.app1, world.adi1), (native, world.dsa)):
        assert refuse_quietly(world, app.bind, device).name == "EBUSY"
        app.unbind(device)
        assert refuse_quietly(world, app.unbind, device).name == "EINVAL"


def test_a_device_that_is_not_there_is_enodev():
    """Another VM's interface, a name of nobody's, the whole function from within a guest."""
    world = TwoVms()
    for device in (world.adi2, world.dsa, "nothing", ""):
        assert refuse_quietly(world, world.app1.bind, device).name == "ENODEV"
    for look_up in (lambda: world.m.device("nothing"), lambda: world.vm1.device("adi1")):
        with pytest.raises(KernelError, match="ENODEV"):
            look_up()


def test_what_has_gone_is_esrch():
    """Handles of a dead process, of a dead VM."""
    world = TwoVms()
    world.app1.exit()
    assert refuse_quietly(world, world.app1.bind, world.adi1).name == "ESRCH"
    assert refuse_quietly(world, world.app1.exit).name == "ESRCH"
    world.vm1.crash()
    assert refuse_quietly(world, world.vm1.crash).name == "ESRCH"
    assert refuse_quietly(world, world.vm1.spawn, "x").name == "ESRCH"
    with pytest.raises(KernelError, match="ESRCH"):
        world.m.vm("vm1")


@pytest.mark.parametrize("pasid", [0, 2, 4, 0xFFFFF, -1, 1 << 20])
def test_freeing_a_pasid_of_nobodys_or_of_another_vm_is_einval(pasid):
    """The hypervisor answers "invalid PASID"; whose it is stays untouched."""
    world = TwoVms()
    before = world.core.ids[world.h2].holders
    assert world.refused(world.vm1.free_pasid, pasid).name == "EINVAL"
    assert world.core.ids[world.h2].holders == before
    assert world.vm1.pasids == {1: world.h1}


@pytest.mark.parametrize(
    ("pasid", "errno"),
    [(0, "EINVAL"), (1 << 20, "EINVAL"), (-1, "EINVAL"), (999, "ENOENT"), ("h2", "EACCES"), (1, "EACCES")],
)
def test_binding_any_host_pasid_is_checked_against_the_owner(pasid, errno):
    """Unknown, another VM's, the host's own: each its errno, and no entry changes."""
    world = TwoVms()
    number = world.h2 if pasid == "h2" else pasid
    entry = world.entry(world.h2)
    error = world.refused(world.vm1.bind_raw, world.adi1, number, world.app1)
    assert error.name == errno
    assert world.entry(world.h2) == entry


@pytest.mark.parametrize("size", [0, -1, 1 << 32])
def test_a_copy_of_no_bytes_is_einval(size):
    """Before anything is submitted."""
    world = TwoVms()
    assert refuse_quietly(world, world.app1.copy, world.adi1, 0x1000, 0x2000, size).name == "EINVAL"


def test_enqcmd_without_a_valid_ia32_pasid_is_a_general_protection_fault():
    """The processor refuses: #GP, reported as -EFAULT; nothing reaches the device."""
    world = TwoVms()
    app = world.vm1.spawn("unbound")
    src, dst = app.buffer(b"x"), app.buffer(1)
    begin = world.time.now
    error = world.refused(app.copy, world.adi1, src, dst, 1)
    assert (error.name, "IA32_PASID must be valid" in error.reason) == ("EFAULT", True)
    verbs = [event.verb for event in world.since(begin)]
    assert Verb.GP_FAULT in verbs
    assert not {Verb.ACCEPT, Verb.DMA, Verb.EXIT_VMX} & set(verbs)


@pytest.mark.parametrize("mapped", ["source", "destination"])
@pytest.mark.parametrize("ats", [False, True])
def test_a_copy_from_or_to_nowhere_is_a_completion_record_and_without_ats_a_recorded_fault(mapped, ats):
    """No error of the call: the outcome has the address; a device that asks before it acts (ATS) causes no fault."""
    world = TwoVms(ats=ats)
    good, bad = world.app1.buffer(b"good"), 0x5000_0000
    src, dst = (good, bad) if mapped == "source" else (bad, good)
    outcome = world.app1.copy(world.adi1, src, dst, 4)
    assert (outcome.ok, outcome.fault_address, outcome.copied) == (False, bad, 0)
    assert world.app1.read(good, 4) == b"good"
    assert len(world.m.fault_log) == (0 if ats else 1)
    for line in world.m.fault_log:
        assert f"PASID {world.h1:#x}" in line
        assert "0x71" in line


@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize(("pasid", "code"), [(9, 0x59), (77, 0x51)], ids=["no entry", "no table"])
def test_dma_with_an_unbound_pasid_is_a_recorded_fault(pasid, code, access):
    """The entry, or the table that would hold it, is not present: a line in the kernel's log, and no other change."""
    world = TwoVms()
    position = world.time.journal.position
    fault = world.m.dma(world.dsa, pasid, 0x1000, access)
    assert isinstance(fault, Fault)
    assert (fault.code, fault.suppressed) == (code, False)
    assert f"PASID {pasid:#x}" in world.m.fault_log[-1]
    assert f"{code:#04x}" in world.m.fault_log[-1]
    assert {path for path, _ in net_changes(world.m, position)} <= {
        "host.iommu.faults",
        "host.iommu.faults.log",
        "iommu-unit.caches.contexts",
        "iommu-unit.faults",
        "iommu-unit.registers",
    }


@pytest.mark.parametrize(
    ("pasid", "address", "access", "errno"),
    [
        (1 << 20, 0, "read", "EINVAL"),
        (-1, 0, "read", "EINVAL"),
        (None, 1 << 64, "read", "EINVAL"),
        (None, -8, "read", "EINVAL"),
        (None, 0, "erase", "EINVAL"),
        (None, 0, "execute", "EINVAL"),
        (None, 1 << 40, "read", "EFAULT"),
    ],
)
def test_a_request_that_cannot_be_made_is_refused(pasid, address, access, errno):
    """Numbers that do not fit, accesses that a device does not have, addresses where nothing answers."""
    world = TwoVms()
    world.m.dma(world.dsa, None, 0)  # from here on the caches know the device
    assert refuse_quietly(world, world.m.dma, world.dsa, pasid, address, access).name == errno


def test_running_work_that_does_not_wait_is_einval():
    """Numbers of enabled actions come from the list."""
    world = World()
    assert refuse_quietly(world, world.m.run, 5).name == "EINVAL"
    assert world.m.run() == 0


def test_memory_that_is_not_there_is_enomem_or_efault():
    """A buffer larger than the guest, an address that is not mapped."""
    world = TwoVms()
    assert refuse_quietly(world, world.app1.buffer, 1 << 30).name == "ENOMEM"
    assert refuse_quietly(world, world.app1.buffer, 0).name == "EINVAL"
    assert refuse_quietly(world, world.app1.write, 0x1000, b"x").name == "EFAULT"
    with pytest.raises(KernelError, match="EFAULT"):
        world.app1.read(0x1000, 1)


def test_a_function_in_use_cannot_be_assigned_nor_cut():
    """-EBUSY: it has clients, or belongs to a VM as a whole; and an unknown one is -ENODEV."""
    world = TwoVms()
    late = world.m.create_vm("late")
    assert refuse_quietly(world, world.m.assign_pf, world.dsa, late).name == "EBUSY"
    second = world.m.plug_accelerator("dsa1")
    world.m.assign_pf(second, late)
    assert refuse_quietly(world, world.m.assign_adi, second, world.vm1).name == "EBUSY"
    assert refuse_quietly(world, world.m.assign_pf, second, world.m.create_vm("later")).name == "EBUSY"
    assert world.refused(world.m.spawn("native").bind, second).name in ("ENODEV", "EBUSY")


# --- what a refused call may leave --------------------------------------------------------------------------------

LEFT_BEHIND = {
    "registers of an emulated or real unit: the command and its answer, head and tail of the queue": (".registers",),
    "registers of a device: the last command and its status": (".bar0",),
    "the driver's place in its invalidation ring": (".iommu.queue",),
    "tables that were built on the way stay for the next user, as in Linux": (".pages.frames", ".pages.frames.words"),
    "the processor runs the process: its register is loaded, the flag says retry": (".vcpu0", "cpu0"),
    "ring, status word, and the tables themselves": ("memory",),
}
"""Where a refused call may leave a net change, and why. Everything else must be as it was."""


def refusals(world):
    """Calls of a guest that fail half-way, each after it has done something already."""
    vm, adi = world.vm1, world.adi1
    unbound = vm.spawn("unbound")
    src = unbound.buffer(b"x")
    world.vm2.crash()
    small = world.vm("small", "shared", quota=1)
    holder, hungry = small.spawn("holder"), small.spawn("hungry")
    holder.bind(small.devices[0])
    yield lambda: hungry.bind(small.devices[0])
    yield lambda: unbound.copy(adi, src, src, 1)
    yield lambda: vm.free_pasid(9)
    yield lambda: vm.bind_raw(adi, world.m.kernel.host_set.ids.keys()[0], world.app1)


def test_a_call_that_fails_half_way_leaves_nothing_but_what_is_listed():
    """Net changes of the whole call, from the journal, against the list."""
    world = TwoVms()
    allowed = tuple(suffix for suffixes in LEFT_BEHIND.values() for suffix in suffixes)
    for call in refusals(world):
        position, ids = world.time.journal.position, {n: r.holders for n, r in world.core.ids.items()}
        world.refused(call)
        left = {path for path, _ in net_changes(world.m, position) if not path.endswith(allowed)}
        assert left == set()
        assert {n: r.holders for n, r in world.core.ids.items()} == ids


class Scarce:
    """Lets a number of page allocations succeed, and then none."""

    def __init__(self, monkeypatch, count):
        self.left = count
        real = PageAllocator.alloc

        def alloc(pages):
            if not self.left:
                raise KernelError("ENOMEM", "no page is left")
            self.left -= 1
            return real(pages)

        monkeypatch.setattr(PageAllocator, "alloc", alloc)


FAULT_POINTS = [*range(12), *range(12, 330, 20)]
"""Each of the first pages of a call, and every twentieth of the many that a VM's memory takes."""


def attempt(call):
    """The errno of a call, or ``None``."""
    try:
        call()
    except KernelError as error:
        return error.name
    return None


def steps_of(name, world):
    """A call, by name, that needs pages in host or guest."""
    return {
        "spawn": lambda: world.vm1.spawn("new"),
        "buffer": lambda: world.app1.buffer(50000),
        "native spawn": lambda: world.m.spawn("new"),
        "create": lambda: world.m.create_vm("new", memory=1 << 20),
        "assign": lambda: world.m.assign_adi(world.dsa, world.late, queue="dedicated"),
        "plug": lambda: world.m.plug_accelerator("new"),
        "native bind": lambda: world.native.bind(world.dsa),
    }[name]


@pytest.mark.parametrize("name", ["spawn", "buffer", "native spawn", "create", "assign", "plug", "native bind"])
def test_whichever_page_is_missing_every_invariant_holds_and_the_call_works_later(name):
    """Every fault point: the n-th page of the call cannot be had, for every n; then it is made again, with memory."""
    failures = 0
    for count in FAULT_POINTS:
        world = TwoVms()
        world.late, world.native = world.vm("late", "shared", "dedicated"), world.m.spawn("native")
        world.late.spawn("app")
        for _ in range(70):  # the next PASIDs need leaf tables of their own
            world.vm2.vmm.container.pasid_alloc(1, 1000)
        call = steps_of(name, world)
        ids = {number: record.holders for number, record in world.core.ids.items()}
        with pytest.MonkeyPatch.context() as patch:
            Scarce(patch, count)
            errno = attempt(call)
        assert world.m.check().ok, (count, world.m.check())
        if errno is None:
            break
        assert errno in ("ENOMEM", "ENOSPC")
        failures += 1
        assert {number: record.holders for number, record in world.core.ids.items()} == ids
        call()
        assert world.m.check().ok, (count, world.m.check())
    assert failures > 0
    assert errno is None, "the call never got all its pages"


@pytest.mark.parametrize("count", [0, 1], ids=["the entry's table", "KVM's table"])
def test_a_guest_cannot_learn_that_the_host_had_no_memory_for_its_bind(count):
    """An invalidation has no answer: the guest believes that it is bound, and the processor says retry for ever."""
    world = World()
    vm = world.vm("vm1", "shared")
    for _ in range(63):  # the next PASID needs a leaf table of its own
        vm.vmm.container.pasid_alloc(1, 1000)
    app, adi = vm.spawn("app"), vm.devices[0]
    with pytest.MonkeyPatch.context() as patch:
        Scarce(patch, count)
        pasid = app.bind(adi)
    assert vm.vmm.kvm.entries() == []
    assert world.refused(app.copy, adi, app.buffer(1), app.buffer(1), 1).name == "EAGAIN"
    app.unbind(adi)
    assert vm.pasids == {}
    assert app.bind(adi) == pasid
    assert app.copy(adi, app.buffer(1), app.buffer(1), 1).ok


# --- policies -----------------------------------------------------------------------------------------------------


def test_a_function_carries_the_guests_number_which_is_the_hosts():
    """Identity: one number in the guest, in the descriptor, on the wire and in the host's table."""
    world = World()
    vm = world.m.create_vm("vm1")
    pf = world.m.assign_pf(world.dsa, vm)
    app = vm.spawn("app")
    pasid = app.bind(pf)
    assert vm.pasids == {pasid: pasid}
    src, dst = app.buffer(b"whole function"), app.buffer(14)
    begin = world.time.now
    assert app.copy(pf, src, dst, 14).ok
    assert app.read(dst, 14) == b"whole function"
    assert {event.fact("pasid") for event in world.since(begin) if event.verb is Verb.DMA} == {pasid}
    assert world.m.check().ok


def test_a_function_and_an_interface_live_together_under_identity():
    """Both carry the same number: the processor's translation is the identity too."""
    world = World()
    whole = world.m.plug_accelerator("dsa1")
    vm = world.vm("vm1", "shared", policy="identity")
    pf = world.m.assign_pf(whole, vm)
    app, adi = vm.spawn("app"), vm.device("adi0")
    pasid = app.bind(adi)
    assert app.bind(pf) == pasid
    for device, text in ((adi, b"interface"), (pf, b"function!")):
        src, dst = app.buffer(text), app.buffer(9)
        assert app.copy(device, src, dst, 9).ok
        assert app.read(dst, 9) == text
    assert vm.vmm.kvm.entries() == [(pasid, pasid)]
    assert world.m.check().ok


def test_requests_without_pasid_of_a_guests_function_stay_in_its_memory():
    """The domain bounds them; after the VM the host drives the function again."""
    world = World()
    vm = world.vm("vm1")
    world.m.assign_pf(world.dsa, vm)
    frames = {mapping.physical >> 12 for mapping in vm.vmm.process.mm.table.mappings()}
    reached = world.m.dma(world.dsa, None, 0x3000)
    assert isinstance(reached, int)
    assert reached >> 12 in frames
    assert isinstance(world.m.dma(world.dsa, None, vm.vmm.memory.size), Fault)
    vm.crash()
    assert world.m.dma(world.dsa, None, 0x3000) == 0x3000


def test_a_native_process_shares_the_device_with_vms():
    """The host's own queue beside the mediated ones."""
    world = TwoVms()
    native = world.m.spawn("native")
    pasid = native.bind(world.dsa)
    assert pasid not in (world.h1, world.h2)
    src, dst = native.buffer(b"n" * 5000), native.buffer(5000)
    assert native.copy(world.dsa, src, dst, 5000).ok
    assert native.read(dst, 5000) == b"n" * 5000
    assert world.m.check().ok


# --- isolation, by bytes ------------------------------------------------------------------------------------------

SECRET, MARK = b"SECRET!!" * 8, b"untouched" * 7


class Attack:
    """VM 2 has a secret and a marked buffer; VM 1's kernel is hostile."""

    def __init__(self, queue):
        self.world = TwoVms(queue)
        victim = self.world.app2
        self.secret, self.mark, self.loot = victim.buffer(SECRET), victim.buffer(MARK), victim.buffer(64)
        own = [self.world.app1.buffer(64) for _ in range(3)]
        assert own == [self.secret, self.mark, self.loot], "the same addresses are mapped in both"
        self.kernel = self.world.vm1.kernel
        self.driver = self.kernel.accelerators[self.world.adi1.name]
        self.portal = self.driver.portal(self.driver.queues[0])

    def descriptor(self, src, dst, pasid=0, priv=0):
        """A copy of 64 bytes."""
        return Descriptor(Opcode.MEMMOVE, src=src, dst=dst, size=64, pasid=pasid, priv=priv).to_bytes()

    def unharmed(self):
        """Run what was submitted; nothing was stolen, nothing was overwritten, no invariant is broken."""
        self.world.m.run()
        victim, thief = self.world.app2, self.world.app1
        assert victim.read(self.secret, len(SECRET)) == SECRET
        assert victim.read(self.mark, len(MARK)) == MARK
        memory = self.world.vm1.vmm.memory
        assert not any(b"SECRET!!" in memory.read(at, 4096) for at in range(0, memory.size, 4096))
        assert thief.alive
        assert self.world.m.check().ok


NUMBERS = (*range(12), 0x3FF, 0x400, 0x7FFFF, 0x80000, 0xFFFFF)


def test_enqcmd_with_any_ia32_pasid_reaches_only_the_own_memory():
    """The hostile kernel tries every number in the register, its victim's host PASID included."""
    attack = Attack("shared")
    cpu, mmio = attack.kernel.platform.cpu, attack.kernel.platform.mmio
    accepted = set()
    for pasid in NUMBERS:
        cpu.write_msr(IA32_PASID, 1 << 31 | pasid)
        for data in (attack.descriptor(attack.secret, attack.loot), attack.descriptor(attack.loot, attack.mark)):
            if cpu.enqcmd(mmio, attack.portal, data):
                accepted.add(pasid)
    assert accepted == {1}
    attack.unharmed()


def test_enqcmds_with_any_pasid_and_privilege_reaches_only_the_own_memory():
    """Ring 0 may put a PASID and privilege into the descriptor: they are translated just the same."""
    attack = Attack("shared")
    cpu, mmio = attack.kernel.platform.cpu, attack.kernel.platform.mmio
    accepted = set()
    for pasid in NUMBERS:
        for data in (
            attack.descriptor(attack.secret, attack.loot, pasid, 1),
            attack.descriptor(attack.loot, attack.mark, pasid, 1),
        ):
            if cpu.enqcmds(mmio, attack.portal, data):
                accepted.add(pasid)
    assert accepted == {1}
    attack.unharmed()


@pytest.mark.parametrize("queue", ["shared", "dedicated"])
def test_a_descriptor_that_names_a_pasid_by_a_posted_store_reaches_only_the_own_memory(queue):
    """MOVDIR64B is not translated: a shared queue refuses it, a dedicated one ignores the number in it."""
    attack = Attack(queue)
    cpu, mmio = attack.kernel.platform.cpu, attack.kernel.platform.mmio
    for pasid in NUMBERS[:12]:
        cpu.movdir64b(mmio, attack.portal, attack.descriptor(attack.secret, attack.loot, pasid))
        cpu.movdir64b(mmio, attack.portal, attack.descriptor(attack.loot, attack.mark, pasid))
        attack.world.m.run()
    attack.unharmed()


@pytest.mark.parametrize("pasid", [None, *NUMBERS])
def test_a_dedicated_queue_programmed_with_any_number_reaches_only_the_own_memory(pasid):
    """Programming is mediated: the look-up is in the VM's own set."""
    attack = Attack("dedicated")
    attack.driver.disable(0)
    attack.driver._write_pasid(0, pasid)
    attack.driver._command(Command.ENABLE_WQ, 0)
    cpu, mmio = attack.kernel.platform.cpu, attack.kernel.platform.mmio
    cpu.movdir64b(mmio, attack.portal, attack.descriptor(attack.secret, attack.loot))
    cpu.movdir64b(mmio, attack.portal, attack.descriptor(attack.loot, attack.mark))
    attack.unharmed()


def test_a_guest_that_points_its_tables_at_every_page_still_walks_its_own_memory():
    """What first-level tables hold is guest-physical and passes the second level: beyond the guest there is a fault."""
    attack = Attack("shared")
    mm, memory = attack.world.app1.process.mm, attack.world.vm1.vmm.memory
    victim = attack.world.vm2.vmm
    frame = victim.process.mm.physical(victim.process.mm.areas.keys()[-1])
    for target in (frame, frame + 0x1000, memory.size, 0xFEE00000):
        slot = mm.table._slot(attack.loot, build=False)
        memory.store(slot, target & ~0xFFF | 0x7)
        walk = attack.world.m.translate(attack.world.dsa.rid, attack.world.h1, attack.loot, "write")
        own = {mapping.physical >> 12 for mapping in attack.world.vm1.vmm.process.mm.table.mappings()}
        assert walk.address is None or walk.address >> 12 in own
    attack.world.m.run()
    assert attack.world.app2.read(attack.secret, len(SECRET)) == SECRET


@pytest.mark.parametrize("access", list(Access))
def test_a_pasid_of_one_vm_never_leads_to_the_frames_of_another(access):
    """Every page of the address range that both use, by both numbers, with and without PASID prefix."""
    world = TwoVms()
    frames = {
        vm.name: {mapping.physical >> 12 for mapping in vm.vmm.process.mm.table.mappings()}
        for vm in (world.vm1, world.vm2)
    }
    assert not frames["vm1"] & frames["vm2"]
    reached: dict[str, set[int]] = {}
    for name, pasid in (("vm1", world.h1), ("vm2", world.h2)):
        for address in [
            *range(0, 0x20000, 0x1000),
            *range(world.app1.buffer(1) - 0x10000, world.app1.buffer(1), 0x1000),
        ]:
            walk = world.m.translate(world.dsa.rid, pasid, address, access)
            if walk.address is not None:
                reached.setdefault(name, set()).add(walk.address >> 12)
    for name, found in reached.items():
        assert found <= frames[name]


def test_pasid_tables_are_per_device():
    """A number that is bound on one function means nothing on another."""
    world = TwoVms()
    other = world.m.plug_accelerator("dsa1")
    fault = world.m.translate(other.rid, world.h1, 0x1000).fault
    assert fault is not None
    assert fault.code in (0x51, 0x59)
