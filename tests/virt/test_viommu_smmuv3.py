"""The emulated SMMUv3: commands that trap, the guest's whole table that is bound, and what comes back to the guest."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.smmuv3 import register_file as reg
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.layouts.smmu import IDR0_REG, IDR1_REG, STE
from pasidlab.hardware.layouts.smmu_queue import (
    CMD_CFGI_ALL,
    CMD_CFGI_STE,
    CMD_PRI_RESP,
    CMD_RESUME,
    CMD_STALL_TERM,
    CMD_TLBI_NSNH_ALL,
    EVENT,
)
from pasidlab.hardware.pcie import PageRequest, ResponseCode
from pasidlab.kernel.iommu.smmuv3 import entries
from pasidlab.kernel.iommu.smmuv3.driver import SmmuDriver
from pasidlab.kernel.iommu.smmuv3.queue import encode
from pasidlab.machine import Machine
from pasidlab.timeline import Verb
from pasidlab.virt.viommu.smmuv3 import VirtualSmmu

TEXT = b"moved by a device"
GUEST_RID = 0x18


def driver_of(kernel):
    """The SMMUv3 driver of a kernel."""
    assert isinstance(kernel.iommu, SmmuDriver)
    return kernel.iommu


class World:
    """One VM with a whole accelerator, and a process in it."""

    at = 0
    """A page of the process that is not there yet, where there is one."""

    def __init__(self, ats=True, stall=False, **options):
        self.m = Machine(iommu="smmuv3", **options)
        self.dsa = self.m.plug_accelerator("dsa0", ats=ats, stall=stall)
        self.vm = self.m.create_vm("vm1", memory=1 << 20)
        self.pf = self.m.assign_pf(self.dsa, self.vm)
        self.app = self.vm.spawn("app")
        self.unit = self.vm.vmm.viommu
        self.driver, self.host = driver_of(self.vm.kernel), driver_of(self.m.kernel)
        self.mmio, self.base = self.vm.kernel.platform.mmio, self.vm.kernel.platform.iommu.base

    @property
    def stream(self):
        """The words of the host's stream table entry."""
        return STE.decode(self.host.streams.read(self.dsa.rid))

    def since(self, step, *verbs):
        """Subjects of the hypervisor's and the container's events from a step on."""
        events = self.m.timeline.events[step:]
        return [event.subject for event in events if event.actor in ("vmm", "vfio") and event.verb in verbs]

    def command(self, layout, **fields):
        """The guest's driver gives a command."""
        self.driver.queue.submit(encode(layout, **fields))

    def copies(self):
        """Whether the device moves the process's bytes."""
        src, dst = self.app.buffer(TEXT), self.app.buffer(len(TEXT))
        self.app.copy(self.pf, src, dst, len(TEXT))
        return self.app.read(dst, len(TEXT)) == TEXT

    def write_entry(self, words):
        """The guest changes its stream table entry, and says so."""
        self.driver.memory.store_words(self.driver.streams.address(GUEST_RID), words)
        self.command(CMD_CFGI_STE, SID=GUEST_RID, leaf=1)


@pytest.fixture
def world():
    """A server's unit."""
    return World()


# --- registers --------------------------------------------------------------------------------------------------------


def test_the_guest_sees_stage_1_only_and_the_rest_of_the_hosts_unit():
    """Widths are the host's; the stream table, which no silicon reads, may have two levels anyway."""
    world = World(identity=SmmuIdentity(ssidsize=8, st_level=0, pri=False, ril=False))
    seen = IDR0_REG.decode((world.mmio.read(world.base + reg.IDR0, 4),))
    assert (seen["S1P"], seen["S2P"], seen["PRI"], seen["ST_LEVEL"]) == (1, 0, 0, 1)
    assert IDR1_REG["SSIDSIZE"].get((world.mmio.read(world.base + reg.IDR1, 4),)) == 8
    assert world.driver.devices[GUEST_RID].pasid_bits == 8
    world.app.bind(world.pf)
    assert world.copies()


# --- the whole table --------------------------------------------------------------------------------------------------


def test_the_guests_entry_is_bound_when_its_kernel_finds_the_device(world):
    """Its context descriptors, where the guest has them, over the VM's memory; S1DSS as the guest wrote it."""
    guest = STE.decode(world.driver.streams.read(GUEST_RID))
    assert world.stream["Config"] == 7
    assert world.stream["S1ContextPtr"] == guest["S1ContextPtr"] == world.driver.tables[GUEST_RID].base
    assert world.stream["S2TTB"] == world.vm.vmm.container.domain.table.root
    assert world.host.has_table(world.dsa.rid)
    assert list(world.unit.bound.keys()) == [GUEST_RID]


def test_a_bind_in_the_guest_traps_for_what_is_cached_only(world):
    """The host carries invalidations out; it binds nothing, and allocates no PASID."""
    begin = world.m.timeline.now
    world.app.bind(world.pf)
    assert {subject.partition(":")[2].split(":")[0].strip() for subject in world.since(begin, Verb.TRAP)} == {"CFGI_CD"}
    assert set(world.since(begin, Verb.IOCTL)) == {"cache-invalidate, a command of the guest"}
    assert world.m.kernel.ioasid.ids.keys() == []
    assert world.vm.pasids == {}
    assert world.copies()


def test_an_entry_that_is_written_again_is_not_bound_again(world):
    """Bits that the host is not told of make no difference; only its context descriptors are forgotten."""
    begin = world.m.timeline.now
    world.command(CMD_CFGI_STE, SID=GUEST_RID)
    world.write_entry(STE.change(world.driver.streams.read(GUEST_RID), SHCFG=1, S2VMID=77))
    assert world.since(begin, Verb.IOCTL) == ["cache-invalidate, a command of the guest"] * 2


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("command", [encode(CMD_CFGI_STE, SID=0, leaf=1), encode(CMD_CFGI_ALL, range=31)])
def test_a_command_for_streams_drops_their_contexts_natively_and_in_a_guest(native, command):
    """A kernel that takes a descriptor away may say so with CFGI_STE or CFGI_ALL too."""
    m = Machine(iommu="smmuv3")
    device, vm = m.plug_accelerator("dsa0", ats=False), m.create_vm("vm1", memory=1 << 20)
    given = device if native else m.assign_pf(device, vm)
    app = m.spawn("app") if native else vm.spawn("app")
    app.bind(given)
    at = app.buffer(TEXT)
    m.dma(device, 1, at)
    driver = driver_of(m.kernel if native else vm.kernel)
    (rid,) = driver.devices.keys()
    driver.memory.store(driver.tables[rid].address(1), 0)
    sid = CMD_CFGI_STE["SID"].put(rid) if command[0] & 0xFF == 3 else 0
    driver.queue.submit((command[0] | sid, command[1]), encode(CMD_TLBI_NSNH_ALL))
    fault = m.translate(device.rid, 1, at).fault
    assert fault is not None
    assert fault.name == "C_BAD_CD"


def test_other_streams_are_none_of_the_hosts_business(world):
    """A guest may invalidate what it has no device for."""
    begin = world.m.timeline.now
    world.command(CMD_CFGI_STE, SID=0x1234)
    world.command(CMD_CFGI_ALL, SID=0x4000, range=4)
    assert world.since(begin, Verb.IOCTL) == []


@pytest.mark.parametrize("range_", [31, 4])
def test_all_streams_are_looked_at(world, range_):
    """CFGI_ALL, and CFGI_STE_RANGE around the device."""
    at = world.driver.streams.address(GUEST_RID)
    world.driver.memory.store_words(at, (0,) * 8)
    world.command(CMD_CFGI_ALL, range=range_)
    assert world.stream["Config"] == 0


@pytest.mark.parametrize(
    ("words", "config"),
    [
        ((0,) * 8, 0),
        (entries.abort(), 0),
        (entries.bypass(), 6),
        (STE.encode(V=1, Config=5, S1ContextPtr=0x7F_FFFF_F000, S1CDMax=20, S1Fmt=2), 7),
        (STE.encode(V=1, Config=6), 0),
        (STE.encode(V=1, Config=7), 0),
        (STE.encode(V=1, Config=5, EATS=2), 0),
        (STE.encode(V=1, Config=5, S1CDMax=31), 0),
        ((0xFFFF_FFFF_FFFF_FFFF,) * 8, 0),
    ],
)
def test_whatever_a_guest_writes_its_device_stays_in_its_memory(world, words, config):
    """Blocked where the entry is none, bypassed or nested within stage 2 otherwise; all rules hold."""
    world.write_entry(words)
    assert world.stream["Config"] == config
    if config:
        assert world.stream["S2TTB"] == world.vm.vmm.container.domain.table.root
    for pasid in (None, 1, 0xFFFFF):
        world.m.dma(world.dsa, pasid, 0x1000)
    assert world.m.check().ok, world.m.check()


def test_what_the_host_refuses_is_told(world):
    """As an event: no answer of the unit can say so. What was bound before counts on."""
    world.vm.vmm.container.domain.nesting = False
    begin = world.m.timeline.now
    world.write_entry(STE.change(world.driver.streams.read(GUEST_RID), S1DSS=0))
    assert world.since(begin, Verb.REFUSE)
    assert STE["S1DSS"].get(world.unit.bound[GUEST_RID]) == 1
    assert world.stream["S1DSS"] == 1


def test_an_entry_that_the_host_refuses_blocks_the_device(monkeypatch):
    """A hypervisor that shows wider SubstreamIDs than there are: the host says no, and nothing passes."""
    world = World(identity=SmmuIdentity(ssidsize=8))
    assert isinstance(world.unit, VirtualSmmu)
    monkeypatch.setattr(world.unit.rules, "identity", SmmuIdentity())
    begin = world.m.timeline.now
    world.write_entry(STE.change(world.driver.streams.read(GUEST_RID), S1CDMax=20))
    assert world.stream["Config"] == 0
    (told,) = world.since(begin, Verb.REFUSE)
    assert "S1CDMax must be at most 8" in told


def test_a_guest_without_a_stream_table_blocks_its_device(world):
    """Its tables lie where no memory is."""
    world.driver.memory.store(world.driver.streams.base, 0x7F_FFFF_F009)
    world.command(CMD_CFGI_STE, SID=GUEST_RID)
    assert world.stream["Config"] == 0


def test_while_the_guests_unit_is_off_its_devices_reach_its_memory(world):
    """Stage 2 alone; with GBPA.ABORT nothing. When it is on again, its table counts again."""
    on = world.mmio.read(world.base + reg.CR0, 4)
    world.mmio.write(world.base + reg.CR0, on & ~reg.SMMUEN, 4)
    assert world.stream["Config"] == 6
    assert not world.host.has_table(world.dsa.rid)
    world.mmio.write(world.base + reg.CR0, on, 4)
    assert world.stream["Config"] == 7
    world.mmio.write(world.base + reg.GBPA, 1 << 31 | 1 << 20, 4)
    world.mmio.write(world.base + reg.CR0, on & ~reg.SMMUEN, 4)
    assert world.stream["Config"] == 0
    assert world.m.check().ok


def test_without_stage_2_no_function_can_be_assigned():
    """-EINVAL: there is nothing that would bound it."""
    m = Machine(iommu="smmuv3", identity=SmmuIdentity(s2p=False))
    dsa, vm = m.plug_accelerator("dsa0"), m.create_vm("vm1", memory=1 << 20)
    with pytest.raises(KernelError) as error:
        m.assign_pf(dsa, vm)
    assert error.value.name == "EINVAL"
    assert m.check().ok


# --- commands ---------------------------------------------------------------------------------------------------------


def test_invalidations_reach_the_silicon_under_the_hosts_names(world):
    """VMID and requester ID are the host's."""
    world.app.bind(world.pf)
    assert world.copies()
    begin = world.m.timeline.now
    world.app.unbind(world.pf)
    told = [event for event in world.m.timeline.events[begin:] if event.verb is Verb.INVALIDATE]
    vmid = world.vm.vmm.container.domain.did
    assert {event.fact("rid") for event in told} == {None, world.dsa.rid}
    assert {event.fact("vmid") for event in told if event.fact("rid") is None} == {vmid}


def test_a_guest_cannot_flush_others(world):
    """TLBI_NSNH_ALL of a guest leaves the host's own translations alone."""
    other = world.m.plug_accelerator("dsa1")
    native = world.m.spawn("native")
    native.bind(other)
    at = native.buffer(TEXT)
    world.m.dma(other, native.pasid, at)
    kept = [key for key in world.m.unit.caches.tlb.keys() if key[0] == 0]
    world.command(CMD_TLBI_NSNH_ALL)
    assert kept
    assert [key for key in world.m.unit.caches.tlb.keys() if key[0] == 0] == kept


def test_a_refused_invalidation_leaves_a_stale_answer(world):
    """The guest believes that it was done: the device still reaches the page that it gave up."""
    world.app.bind(world.pf)
    at = world.app.buffer(TEXT)
    world.m.dma(world.dsa, 1, at)
    with world.m.hypervisor("refuse", "refuse"):
        world.app.free(at)
    assert isinstance(world.m.dma(world.dsa, 1, at), int)
    assert world.m.check().ok


def test_an_altered_invalidation_names_another_address_space(world):
    """The ASID can be altered; the descriptor's SubstreamID too."""
    world.app.bind(world.pf)
    begin = world.m.timeline.now
    with world.m.hypervisor("serve", "alter 9"):
        world.app.unbind(world.pf)
    flushed = [event for event in world.m.timeline.events[begin:] if "TLBI_NH_ASID" in event.subject]
    assert [event.fact("asid") for event in flushed if event.verb is Verb.INVALIDATE][:1] == [9]


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_fault_of_stage_1_is_in_the_guests_log_and_not_in_the_hosts(world):
    """Under the guest's StreamID and its own PASID."""
    world.app.bind(world.pf)
    world.m.dma(world.dsa, 1, 0x5000)
    (entry,) = world.vm.kernel.faults.log.values()
    assert "event: F_TRANSLATION client: 0000:00:03.0 sid: 0x18 ssid: 0x1 iova: 0x5000 ipa: 0x0" in entry
    assert world.m.fault_log == []


def test_a_forged_record_of_a_held_transaction_is_printed(world):
    """The queue lies in the guest's memory; a device that cannot be held is never served as if it were."""
    ring = world.unit.event_queue.ring
    at = ring.address(ring.write_index)
    world.unit.record_event((1, 0, 0, 0))
    forged = EVENT.encode(ID=0x10, SID=GUEST_RID, STALL=1, STAG=0x4033, SSV=1, SSID=1)
    world.driver.memory.store_words(at, forged)
    world.m.settle()
    world.m.run()
    assert "stall stag: 0x4033" in world.vm.kernel.faults.log.values()[-1]
    assert world.m.check().ok


def test_a_hypervisor_that_is_gone_is_told_of_no_fault(world):
    """Its guest's memory may be gone as well."""
    world.app.bind(world.pf)
    world.vm.vmm.container.listen(None)
    world.m.dma(world.dsa, 1, 0x5000)
    assert world.vm.kernel.faults.log.values() == []


def test_a_fault_of_stage_2_stays_the_hosts(world):
    """A guest's descriptor table outside of its memory: the host's kernel prints it, the guest knows nothing."""
    world.write_entry(STE.change(world.driver.streams.read(GUEST_RID), S1ContextPtr=0x7F_FFFF_C000))
    world.m.dma(world.dsa, 1, 0x5000)
    (entry,) = world.m.fault_log
    assert 's2 "CD fetch"' in entry
    assert world.vm.kernel.faults.log.values() == []


def test_a_guest_that_has_overwritten_its_event_queue_disturbs_nobody(world):
    """Its handler stops; the host and its check go on."""
    world.app.bind(world.pf)
    world.mmio.write(world.base + reg.CR0, world.mmio.read(world.base + reg.CR0, 4) & ~reg.EVTQEN, 4)
    world.mmio.write(world.base + reg.EVTQ_BASE, 0x7F_FFFF_F007)
    world.mmio.write(world.base + reg.CR0, world.mmio.read(world.base + reg.CR0, 4) | reg.EVTQEN, 4)
    world.m.dma(world.dsa, 1, 0x5000)
    assert world.m.check().ok


# --- page requests ----------------------------------------------------------------------------------------------------


def test_the_guests_kernel_brings_the_page_that_its_device_asks_for(world):
    """PRI in, PRI_RESP out."""
    world.app.bind(world.pf)
    at = world.app.process.mm.mmap(4096, populate=False)
    begin = world.m.timeline.now
    world.app.copy(world.pf, world.app.buffer(TEXT), at, len(TEXT), block_on_fault=True)
    assert world.app.read(at, len(TEXT)) == TEXT
    assert any("PRI_RESP" in subject for subject in world.since(begin, Verb.TRAP))


def test_an_answer_to_nothing_is_refused(world):
    """-EINVAL, told as an event; the guest hears nothing of it."""
    begin = world.m.timeline.now
    for sid in (GUEST_RID, 0x99):
        world.command(CMD_PRI_RESP, SID=sid, SSV=1, SSID=1, GRPID=5, RESP=2)
        world.command(CMD_RESUME, SID=sid, STAG=3, RESP=1)
    assert len(world.since(begin, Verb.REFUSE)) == 4
    assert world.m.check().ok


def test_a_request_that_finds_no_room_is_answered(world):
    """The guest's queue has 256 entries; the unit answers by itself, as silicon does."""
    for group in range(257):
        world.m.unit.page_request(PageRequest(world.dsa.rid, 1, 0x5000, True, False, group=group))
        world.host.page_requests.serve()
    waiting = [key for key in world.host.page_requests.pending.keys() if key[0] == world.dsa.rid]
    assert len(waiting) == 256
    assert len(world.unit.page_queue.requests()) == 256


def test_requests_while_the_guests_unit_is_off_are_invalid(world):
    """Nobody would read them."""
    on = world.mmio.read(world.base + reg.CR0, 4)
    request = PageRequest(world.dsa.rid, 1, 0x5000, True, False)
    assert world.unit.page_requested(request._replace(rid=0x7777)) is ResponseCode.INVALID
    world.mmio.write(world.base + reg.CR0, on & ~reg.SMMUEN, 4)
    assert world.unit.page_requested(request) is ResponseCode.INVALID


def test_the_code_of_an_answer_can_be_altered(world):
    """The device is told that there is no such page, although the guest has brought it."""
    world.app.bind(world.pf)
    at = world.app.process.mm.mmap(4096, populate=False)
    src = world.app.buffer(TEXT)
    with world.m.hypervisor("alter 1"):
        outcome = world.app.copy(world.pf, src, at, len(TEXT), block_on_fault=True)
    assert "copied" not in str(outcome)


# --- held transactions ------------------------------------------------------------------------------------------------


@pytest.fixture
def holding():
    """A device that bears being held, in a VM, whose process has a page that is not there yet."""
    world = World(ats=False, stall=True)
    world.app.bind(world.pf)
    world.at = world.app.process.mm.mmap(4096, populate=False)
    return world


def test_a_held_transaction_goes_to_the_guest_and_on_when_it_says_so(holding):
    """As an event that is a stall; RESUME comes back through the host."""
    begin = holding.m.timeline.now
    holding.app.copy(holding.pf, holding.app.buffer(TEXT), holding.at, len(TEXT))
    assert holding.app.read(holding.at, len(TEXT)) == TEXT
    assert any("RESUME" in subject for subject in holding.since(begin, Verb.TRAP))
    assert holding.m.unit.stalls.keys() == []
    assert holding.unit.held.keys() == []
    assert holding.m.check().ok


def test_the_guest_can_end_everything_that_is_held(holding):
    """CMD_STALL_TERM."""
    holding.app.submit(holding.pf, holding.app.buffer(TEXT), holding.at, len(TEXT))
    while not holding.unit.held.keys():
        holding.m.run(holding.m.pending[0].number)
    holding.command(CMD_STALL_TERM, SID=GUEST_RID)
    assert holding.m.unit.stalls.keys() == []
    assert holding.unit.held.keys() == []


def test_a_guest_that_never_answers_keeps_nothing_when_it_ends(holding):
    """What is held ends with the VM."""
    holding.app.submit(holding.pf, holding.app.buffer(TEXT), holding.at, len(TEXT))
    while not holding.unit.held.keys():
        holding.m.run(holding.m.pending[0].number)
    holding.vm.crash()
    assert holding.m.unit.stalls.keys() == []
    assert holding.host.page_requests.pending.keys() == []
    assert holding.m.check().ok


def test_without_room_for_its_event_a_held_transaction_ends(holding):
    """Silicon would wait for room."""
    holding.mmio.write(holding.base + reg.CR0, holding.mmio.read(holding.base + reg.CR0, 4) & ~reg.EVTQEN, 4)
    outcome = holding.app.copy(holding.pf, holding.app.buffer(TEXT), holding.at, len(TEXT))
    assert "copied" not in str(outcome)
    assert holding.m.unit.stalls.keys() == []
