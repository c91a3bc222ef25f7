"""The emulated AMD IOMMU: which commands trap, what the host makes of them, and what a hostile guest gets from it."""

from contextlib import suppress
from random import Random

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.amdvi import register_file as reg
from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.layouts.amd import DTE, EFR, EFR2, gcr3_fields, gcr3_root
from pasidlab.hardware.pcie import Access, DmaRequest, PageGroupResponse, ResponseCode
from pasidlab.kernel.iommu.amdvi.driver import AmdDriver
from pasidlab.machine import Machine
from pasidlab.timeline import HOST, Verb
from pasidlab.virt.viommu.amdvi import VirtualAmd

GUEST_RID = 0x18


class Vm:
    """A VM with a whole accelerator."""

    def __init__(self, m, device, name):
        self.m, self.device, self.vm = m, device, m.create_vm(name, memory=1 << 20)
        self.pf = m.assign_pf(device, self.vm)
        self.kernel = self.vm.kernel
        self.memory = self.kernel.platform.memory
        assert isinstance(self.kernel.iommu, AmdDriver)
        self.driver = self.kernel.iommu
        assert isinstance(self.vm.vmm.viommu, VirtualAmd)
        self.viommu = self.vm.vmm.viommu

    def entry(self):
        """Where the guest's device table entry lies in guest memory."""
        return self.driver.device_entry(GUEST_RID)

    def rewrite(self, **fields):
        """The guest changes its device table entry and says so."""
        words = DTE.change(self.memory.load_words(self.entry(), 4), **fields)
        self.memory.store_words(self.entry(), words)
        self.driver.queue.submit(self.driver.queue.device_entry(GUEST_RID))

    def app(self, name="app"):
        """A process of the guest with a text and an empty buffer, bound."""
        app = self.vm.spawn(name)
        app.bind(self.pf)
        return app, app.buffer(b"a guest's bytes"), app.buffer(15)

    def copies(self, app, src, dst):
        """Whether the device still moves the process's bytes."""
        app.write(dst, bytes(15))
        app.copy(self.pf, src, dst, 15)
        return app.read(dst, 15) == b"a guest's bytes"


class World:
    """Two VMs with an accelerator each, and a native process."""

    def __init__(self, identity=None, ats=True):
        self.m = Machine(iommu="amdvi", identity=identity)
        assert isinstance(self.m.kernel.iommu, AmdDriver)
        self.host = self.m.kernel.iommu
        self.devices = [self.m.plug_accelerator(f"dsa{at}", ats=ats) for at in range(2)]
        self.one = Vm(self.m, self.devices[0], "vm1")

    def second(self):
        """Another VM, with the other device."""
        return Vm(self.m, self.devices[1], "vm2")

    def host_entry(self, device=0):
        """The fields of the host's device table entry."""
        return DTE.decode(self.host.table.read(self.devices[device].rid))

    def told(self, begin, verb, actor="vmm"):
        """The events of a kind since a step."""
        return [event for event in self.m.timeline.since(begin) if event.verb is verb and event.actor == actor]


@pytest.fixture
def world():
    """Silicon that can do everything."""
    return World()


# --- registers --------------------------------------------------------------------------------------------------------


def test_the_guest_sees_guest_translation_and_no_host_translation(world):
    """The very driver of the host runs on it: GT, PPR, PASmax as the host has them; HATS=3, no GCR3TRPMode."""
    mmio = world.one.kernel.platform.mmio
    efr, efr2 = ((mmio.read(reg.BASE + at),) for at in (reg.EXT_FEATURES, reg.EXT_FEATURES2))
    seen = EFR.decode(efr)
    assert [seen[name] for name in ("GT", "PPR", "HATS", "PASmax", "GLX", "IA")] == [1, 1, 3, 15, 2, 0]
    assert EFR2["GCR3TRP"].get(efr2) == 0
    assert type(world.one.driver) is type(world.host)
    assert not world.one.driver.nesting


@pytest.mark.parametrize("lacks", [{"glx": 0}, {"gats": 0}, {"pasmax": 8}, {"ppr": False, "pprautorsp": False}])
def test_what_the_host_lacks_the_guest_is_not_shown(lacks):
    """IOMMU_GET_HW_INFO; its driver asks for nothing that the host would refuse."""
    world = World(AmdIdentity(**lacks))
    for name, value in lacks.items():
        assert getattr(world.one.viommu.identity, name) == value
    assert world.one.copies(*world.one.app())


# --- the table is bound -----------------------------------------------------------------------------------------------


def test_one_command_binds_the_whole_table(world):
    """The guest's driver has announced its entry: root, levels and PPR are the guest's, the rest is the host's."""
    at, words = world.host_entry(), world.one.memory.load_words(world.one.entry(), 4)
    assert gcr3_root(world.host.table.read(world.devices[0].rid)) == gcr3_root(words)
    assert gcr3_root(words) == world.one.driver.entry_table(GUEST_RID).root
    assert (at["GV"], at["Mode"], at["HostRoot"]) == (1, 4, world.one.vm.vmm.container.domain.table.root)
    assert at["DomainID"] != world.one.driver.tags[GUEST_RID]
    binds = [event for event in world.m.timeline.events if event.subject == "bind the PASID table of dsa0"]
    assert len(binds) == 1


def test_a_pasid_of_the_guest_costs_no_ioasid_of_the_host(world):
    """The host is not asked: no allocation, no bind, no entry written by it; only invalidations come."""
    begin = world.m.timeline.now
    app, src, dst = world.one.app()
    assert world.one.copies(app, src, dst)
    assert len(world.m.kernel.ioasid.ids) == 0
    assert not world.one.vm.pasids
    assert world.told(begin, Verb.ALLOC, "ioasid")[0].altitude == "vm1"
    written = [event.altitude for event in world.m.timeline.since(begin) if event.verb is Verb.WRITE_ENTRY]
    assert HOST not in written
    traps = {event.subject.split(":")[1].strip() for event in world.told(begin, Verb.TRAP)}
    assert traps == {"INVALIDATE_IOMMU_PAGES", "INVALIDATE_IOTLB_PAGES"}


def test_the_same_pasid_in_two_vms_reaches_two_memories(world):
    """Both say 1; each copies its own bytes, and the tables that answer are each guest's own."""
    two = world.second()
    first, second = world.one.app(), two.app()
    assert first[0].process.mm.pasid == second[0].process.mm.pasid == 1
    assert world.one.copies(*first)
    assert two.copies(*second)
    nested = [entry for device in world.devices for entry in world.m.unit.entries(device.rid) if entry.pasid]
    assert [(entry.pasid, entry.kind) for entry in nested] == [(1, EntryKind.NESTED)] * 2
    assert nested[0].address != nested[1].address
    assert nested[0].tag != nested[1].tag
    assert world.m.check().ok


def test_an_unbound_process_is_not_reached_any_more(world):
    """The guest clears its entry and invalidates; both commands go on to silicon in the guest's order."""
    app, src, dst = world.one.app()
    world.one.copies(app, src, dst)
    begin = world.m.timeline.now
    app.unbind(world.one.pf)
    told = [event.subject.partition(":")[0] for event in world.told(begin, Verb.INVALIDATE, "iommu unit")]
    assert told[:2] == ["INVALIDATE_IOMMU_PAGES", "INVALIDATE_IOTLB_PAGES"]
    fault = world.m.translate(world.devices[0].rid, 1, src, "read").fault
    assert fault is not None
    assert world.m.check().ok


def test_a_guest_that_takes_its_table_away_has_none(world):
    """V=0, TV=0, GV=0, GTEn or IommuEn off: requests with PASID are refused; it comes back with the entry."""
    app, src, dst = world.one.app()
    for off, on in (({"V": 0}, {"V": 1}), ({"TV": 0}, {"TV": 1}), ({"GV": 0}, {"GV": 1})):
        world.one.rewrite(**off)
        assert not world.host.has_table(world.devices[0].rid)
        assert world.m.translate(world.devices[0].rid, 1, src, "read").fault is not None
        world.one.rewrite(**on)
        assert world.one.copies(app, src, dst)
    control = world.one.kernel.platform.mmio.read(reg.BASE + reg.CONTROL)
    for bit in (1, 1 << 16):
        world.one.kernel.platform.mmio.write(reg.BASE + reg.CONTROL, control & ~bit)
        assert not world.host.has_table(world.devices[0].rid)
        world.one.kernel.platform.mmio.write(reg.BASE + reg.CONTROL, control)
        assert world.host.has_table(world.devices[0].rid)
    assert world.one.copies(app, src, dst)


def test_what_the_devices_own_tlb_holds_outlives_a_table_that_is_taken_away(world):
    """No command empties it for all PASIDs: the device goes on, in the VM's own memory, until it is reset."""
    app, src, dst = world.one.app()
    world.one.copies(app, src, dst)
    world.one.rewrite(V=0)
    assert world.one.copies(app, src, dst)
    assert world.m.check().ok
    world.one.vm.crash()
    assert not world.m.functions["dsa0"].tlb.lines.keys()


def test_a_change_that_nobody_is_told_of_changes_nothing(world):
    """The host binds what it was told of: the trap is the command, not the store."""
    before = world.host.table.read(world.devices[0].rid)
    world.one.memory.store_words(world.one.entry(), (0, 0, 0, 0))
    assert world.host.table.read(world.devices[0].rid) == before


def test_a_new_device_table_is_looked_at(world):
    """A register, not a command: DEV_TAB. An empty page lets everything pass, so that no table is named."""
    empty = world.one.kernel.pages.alloc()
    world.one.kernel.platform.mmio.write(reg.BASE + reg.DEV_TAB, empty)
    assert not world.host.has_table(world.devices[0].rid)


def test_without_gcr3trpmode_the_guest_is_shown_no_guest_translation():
    """What it sees is true: its device works in its memory, and its kernel says why there is no PASID."""
    world = World(AmdIdentity(gcr3trp=False))
    assert not world.one.driver.unit.guest_translation
    assert not world.host.has_table(world.devices[0].rid)
    page = world.one.vm.page(b"guest-physical")
    assert world.one.vm.read(page, 14) == b"guest-physical"
    app = world.one.vm.spawn("app")
    with pytest.raises(KernelError) as refused:
        app.bind(world.one.pf)
    assert refused.value.name == "ENODEV"
    assert "GCR3TRPMode" in refused.value.reason
    assert "docs/iommus.md" in refused.value.reason
    assert world.m.spawn("native").bind(world.devices[1]) == 1
    assert world.m.check().ok


def test_without_gcr3trpmode_the_host_binds_no_table_whoever_asks():
    """-EOPNOTSUPP with the reason, before anything is written; a guest that sets GV=1 all the same gets no more."""
    world = World(AmdIdentity(gcr3trp=False))
    container, before = world.one.vm.vmm.container, world.host.table.read(world.devices[0].rid)
    with pytest.raises(KernelError) as refused:
        container.bind_table("dsa0", DTE.encode(V=1, TV=1, GV=1, IR=1, IW=1, **gcr3_fields(0x5000)))
    assert refused.value.name == "EOPNOTSUPP"
    assert "system-physical" in refused.value.reason
    assert world.host.table.read(world.devices[0].rid) == before
    world.one.rewrite(GV=1, **gcr3_fields(0x5000))
    assert world.host.table.read(world.devices[0].rid) == before


def test_a_refusal_of_the_host_is_told_and_the_old_table_does_not_stay(world, monkeypatch):
    """An event with errno and reason; the guest believes that its new table is in use."""

    def refuse(*_):
        raise KernelError("ENOSPC", "no domain id is left")

    monkeypatch.setattr(type(world.host), "bind_table", refuse)
    begin = world.m.timeline.now
    world.one.rewrite(DomainID=99)
    assert [event.after for event in world.told(begin, Verb.REFUSE)] == ["-ENOSPC"]
    assert not world.host.has_table(world.devices[0].rid)


# --- traps are decided ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["refuse", "alter 0x20"])
def test_a_command_for_the_entry_that_the_hypervisor_does_not_serve_binds_nothing(answer):
    """Dropped, or looked at for another device: the guest believes that its table is in use."""
    m = Machine(iommu="amdvi")
    dsa, vm = m.plug_accelerator("dsa0"), m.create_vm("vm1", memory=1 << 20)
    with m.hypervisor(answer):
        pf = m.assign_pf(dsa, vm)
    assert not m.kernel.iommu.has_table(dsa.rid)
    app = vm.spawn("app")
    assert app.bind(pf) == 1
    assert m.translate(dsa.rid, 1, app.buffer(b"x"), "read").fault is not None
    assert m.check().ok


def test_an_invalidation_that_the_hypervisor_drops_leaves_the_old_page_in_use(world):
    """Refused: the guest believes that it was done; what the unit keeps is what it kept."""
    app, src, dst = world.one.app()
    world.one.copies(app, src, dst)
    begin = world.m.timeline.now
    with world.m.hypervisor("refuse", "refuse"):
        app.free(dst)
    assert world.told(begin, Verb.DECIDE)
    assert not world.told(begin, Verb.INVALIDATE, "iommu unit")


def test_an_invalidation_can_be_altered(world):
    """Another PASID is flushed than the guest's."""
    app, src, dst = world.one.app()
    world.one.copies(app, src, dst)
    begin = world.m.timeline.now
    with world.m.hypervisor("alter 7", "alter 0x1234"):
        app.free(dst)
    flushed = [event.fact("pasid") for event in world.told(begin, Verb.INVALIDATE, "iommu unit")]
    assert flushed == [7, 0x1234]


# --- page requests ----------------------------------------------------------------------------------------------------


def test_a_page_request_goes_up_to_the_guest_and_its_answer_down_to_the_device(world):
    """Under the host's requester ID below, under the guest's above; the PASID is the guest's own everywhere."""
    app, src, _ = world.one.app()
    dst = app.buffer(15, populate=False)
    begin = world.m.timeline.now
    assert app.copy(world.one.pf, src, dst, 15, block_on_fault=True).ok
    asked = [event for event in world.m.timeline.since(begin) if event.verb is Verb.PAGE_REQUEST]
    assert [(event.fact("rid"), event.fact("pasid")) for event in asked] == [(world.devices[0].rid, 1), (GUEST_RID, 1)]
    answered = [event for event in world.m.timeline.since(begin) if event.verb is Verb.PAGE_RESPONSE]
    assert [event.fact("rid") for event in answered] == [GUEST_RID, world.devices[0].rid]
    assert app.read(dst, 15) == b"a guest's bytes"


def test_the_hypervisor_can_answer_something_else(world):
    """Altered to 1: the device hears that there is no such page, although the guest has brought it."""
    app, src, _ = world.one.app()
    dst = app.buffer(15, populate=False)
    with world.m.hypervisor("alter 1"):
        outcome = app.copy(world.one.pf, src, dst, 15, block_on_fault=True)
    assert not outcome.ok


def test_an_answer_that_nobody_waits_for_is_refused(world):
    """For an unknown group, for a device that the guest does not have: an event, and nothing else."""
    begin, queue = world.m.timeline.now, world.one.driver.queue
    for rid in (GUEST_RID, 0x20, world.devices[0].rid):
        queue.submit(queue.page_response(PageGroupResponse(rid, 1, 3, ResponseCode.SUCCESS)))
    assert [event.after for event in world.told(begin, Verb.REFUSE)] == ["-EINVAL"] * 3
    assert not world.told(begin, Verb.PAGE_RESPONSE, "iommu unit")


def test_a_guest_whose_log_is_full_lets_the_device_try_again(world):
    """The guest has switched its log off: "success" at once, so that the device comes back."""
    app, src, _ = world.one.app()
    dst = app.buffer(15, populate=False)
    mmio = world.one.kernel.platform.mmio
    mmio.write(reg.BASE + reg.CONTROL, mmio.read(reg.BASE + reg.CONTROL) & ~(1 << 13))
    outcome = app.copy(world.one.pf, src, dst, 15, block_on_fault=True)
    assert not outcome.ok
    assert not world.host.page_requests.pending.keys()
    assert world.m.check().ok


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_fault_of_the_guests_table_appears_in_the_guests_log():
    """Under the requester ID that the guest knows; the host prints nothing."""
    world = World(ats=False)
    app, src, _ = world.one.app()
    app.copy(world.one.pf, src, 0x12_3000, 15)
    world.one.kernel.faults.service()
    assert world.one.kernel.faults.log.values() == [
        "pci 0000:00:03.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0001 address=0x123000 flags=0x0025]"
    ]
    assert world.m.fault_log == []


def test_a_fault_of_the_host_table_stays_on_the_host():
    """The guest maps a page that its VM does not have: the host prints DomainID and guest-physical address."""
    world = World(ats=False)
    app, src, _ = world.one.app()
    app.process.mm.table.map(0x5000_0000, 0x100_0000_0000)
    app.copy(world.one.pf, src, 0x5000_0000, 15)
    (line,) = world.m.fault_log
    assert "address=0x10000000000" in line
    assert world.one.kernel.faults.log.values() == []


# --- hostile guests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        *({"Mode": 4}, {"HostRoot": 0x5000}, {"GLX": 3}, {"GPTMode": 3}, {"Mode": 7}, {"GLX": 2, "GPTMode": 1}),
        *(gcr3_fields(0xF_FFFF_FFFF_F000), gcr3_fields(0), gcr3_fields(0x7F_F000)),
        *({"DomainID": 0xFFFF}, {"GIOV": 1}, {"PPR": 0}, {"IR": 0, "IW": 0}, {"SA": 1}, {"I": 0}),
    ],
)
def test_whatever_a_guest_writes_into_its_entry_its_neighbour_keeps_working(world, fields):
    """No call raises, no host field changes, nothing but the guest's own memory can be reached."""
    two = world.second()
    first, second = world.one.app(), two.app()
    native = world.m.spawn("native")
    world.one.rewrite(**fields)
    world.one.copies(*first)
    at = world.host_entry()
    domain = world.one.vm.vmm.container.domain
    assert (at["Mode"], at["HostRoot"], at["V"], at["TV"]) == (4, domain.table.root, 1, 1)
    assert two.copies(*second)
    assert native.buffer(b"still here")
    frames = {mapping.physical for mapping in domain.table.mappings()}
    for pasid in (None, 0, 1, 2):
        for address in (0, 0x1000, first[1], 0x100_0000):
            found = world.m.unit.walk(DmaRequest(world.devices[0].rid, address, Access.READ, pasid))
            assert found.address is None or found.address & ~0xFFF in frames
    assert world.m.check().ok, world.m.check()


@pytest.mark.parametrize(
    "words",
    [
        *((0, 0), (0xF << 60, 0), (1 << 60 | 1 | 0xF_FFFF_F000, 5), (8 << 60, 0), (5 << 60 | 0x18, 0)),
        *((3 << 60 | 2 << 32, 0x7FFF_FFFF_FFFF_F003), (4 << 60 | 0x6A08, 0), (2 << 60 | 0x6A08, 0)),
        *((7 << 60 | 0x18, 1 << 44), (6 << 60 | 0x18, 0), (3 << 60 | 0xFFFF << 32, 7)),
    ],
)
def test_whatever_a_guest_puts_into_its_command_buffer_stays_with_the_guest(world, words):
    """Garbage, commands about the host's devices and DomainIDs: refused, ignored, or the guest's own unit stops."""
    two = world.second()
    second = two.app()
    two.copies(*second)
    kept = two.m.unit.caches.tlb.items()
    mmio = world.one.kernel.platform.mmio
    base = mmio.read(reg.BASE + reg.CMD_BUF) & 0xF_FFFF_FFFF_F000
    tail = mmio.read(reg.BASE + reg.CMD_TAIL)
    world.one.memory.store_words(base + tail, words)
    mmio.write(reg.BASE + reg.CMD_TAIL, (tail + 16) % 8192)
    assert set(kept) <= set(two.m.unit.caches.tlb.items())
    assert two.copies(*second)
    assert world.m.check().ok


@pytest.mark.parametrize("register", [reg.DEV_TAB, reg.CMD_BUF, reg.EVT_BUF, reg.PPR_LOG, reg.CONTROL, reg.CMD_TAIL])
@pytest.mark.parametrize("word", [0, (1 << 64) - 1, 0xF_FFFF_FFFF_F1FF, 0x0F00_0000_0000_0000])
def test_whatever_a_guest_writes_into_its_registers_stays_with_the_guest(world, register, word):
    """Tables and rings beyond its memory, everything switched on or off, a tail behind everything."""
    two = world.second()
    first, second = world.one.app(), two.app()
    mmio = world.one.kernel.platform.mmio
    mmio.write(reg.BASE + register, word)
    mmio.write(reg.BASE + reg.CMD_TAIL, 0x7FFF0)
    world.one.copies(*first)
    assert two.copies(*second)
    assert world.m.check().ok


def test_gcr3_tables_that_name_themselves_end(world):
    """Two levels that are one table: the unit reads them, the checker too, and nothing but guest memory is reached."""
    root = world.one.driver.entry_table(GUEST_RID).root
    world.one.memory.store_words(root, tuple(root | 1 for _ in range(512)))
    world.m.unit.translate(DmaRequest(world.devices[0].rid, 0x1000, Access.READ, 77))
    assert world.m.check().ok


class Vandal:
    """A guest that scribbles into the rings and tables of its own driver, and rings every bell."""

    def __init__(self, guest, seed):
        self.guest, self.random = guest, Random(seed)
        self.mmio, self.memory = guest.kernel.platform.mmio, guest.memory

    def word(self):
        """Anything, or something that looks like an entry of the guest's own device."""
        free = self.random.getrandbits(64)
        kind = self.random.randrange(10) << 60
        return self.random.choice([free, free & ~(0xF << 60) | kind, 1 << 60 | GUEST_RID | free & 0xFFFF_FFFF_0000])

    def forge(self, base, tail):
        """Put an entry into a ring as if unit or driver had done it."""
        ring, at = self.mmio.read(reg.BASE + base) & 0xF_FFFF_FFFF_F000, self.mmio.read(reg.BASE + tail) % 8192
        self.memory.store_words(ring + at, (self.word(), self.word()))
        self.mmio.write(reg.BASE + tail, (at + 16) % 8192)

    def ring(self):
        """A forged page request, event or command; a unit that stopped at it is started again behind it."""
        base, tail = self.random.choice(
            [(reg.PPR_LOG, reg.PPR_TAIL), (reg.EVT_BUF, reg.EVT_TAIL), (reg.CMD_BUF, reg.CMD_TAIL)]
        )
        self.forge(base, tail)
        self.guest.driver.page_requests.interrupt()
        control = self.mmio.read(reg.BASE + reg.CONTROL)
        self.mmio.write(reg.BASE + reg.CONTROL, control & ~(1 << 12))
        self.mmio.write(reg.BASE + reg.CMD_HEAD, self.mmio.read(reg.BASE + reg.CMD_TAIL))
        self.mmio.write(reg.BASE + reg.CONTROL, control)

    def flip(self):
        """One bit of the device table entry is another one, and mostly comes back."""
        at, words = self.guest.entry(), self.memory.load_words(self.guest.entry(), 4)
        which = self.random.randrange(4)
        self.memory.store(at + 8 * which, words[which] ^ 1 << self.random.randrange(64))
        self.announce()
        if self.random.random() < 0.8:
            self.memory.store_words(at, words)
            self.announce()

    def announce(self):
        """The guest's own call may fail: its unit may have stopped."""
        with suppress(KernelError):
            self.guest.driver.queue.submit(self.guest.driver.queue.device_entry(GUEST_RID))


@pytest.mark.parametrize("seed", range(3))
def test_a_vandal_hurts_only_itself(world, seed):
    """No forged request, event or command raises out of anybody's call, reaches the host's log, or its neighbour."""
    two = world.second()
    second, vandal = two.app(), Vandal(world.one, seed)
    world.one.app()
    for at in range(200):
        vandal.ring() if at % 4 else vandal.flip()
        world.m.settle()
        world.m.run()
        if not at % 20:
            assert two.copies(*second), at
            assert world.m.check().ok, world.m.check()


# --- the end ----------------------------------------------------------------------------------------------------------


def test_nothing_of_a_dead_vm_is_left(world):
    """No entry, no line of any cache, no page request, no DomainID, no frame; the device is the host's again."""
    before = world.m.kernel.pages.used, world.host.ids.count
    two = world.second()
    app, src, _ = two.app()
    app.copy(two.pf, src, app.buffer(15, populate=False), 15, block_on_fault=True)
    two.vm.crash()
    assert (world.m.kernel.pages.used, world.host.ids.count) == before
    rid = world.devices[1].rid
    assert not world.host.has_table(rid)
    assert rid not in world.host.listeners
    assert not [key for key in world.host.page_requests.sinks.keys() if key[0] == rid]
    assert not world.m.functions["dsa1"].tlb.lines.keys()
    live = {DTE["DomainID"].get(world.host.table.read(device.rid)) for device in world.devices}
    assert {key[0] for key in world.m.unit.caches.tlb.keys()} <= live
    assert {key[0] for key in world.m.unit.caches.gcr3.keys()} <= live
    assert world.m.check().ok
    native = world.m.spawn("native")
    assert native.bind(world.devices[1]) == 1


def test_a_device_given_back_and_forth_means_the_newest_owner_only(world):
    """The same PASID, the same virtual addresses: a second VM on the same device reads its own bytes."""
    two = world.second()
    app, src, _ = two.app()
    two.copies(app, src, app.buffer(15))
    two.vm.crash()
    three = Vm(world.m, world.devices[1], "vm3")
    again = three.app()
    assert three.copies(*again)
    assert world.m.check().ok
