"""A guest's table over stage 2: what the host takes of the guest's entry and commands, and what it refuses."""

import pytest

from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.layouts.pcie import ATS_CAP
from pasidlab.hardware.layouts.smmu import CD, STE
from pasidlab.hardware.layouts.smmu_queue import (
    CMD_ATC_INV,
    CMD_CFGI_CD,
    CMD_CFGI_CD_ALL,
    CMD_CFGI_STE,
    CMD_PRI_RESP,
    CMD_RESUME,
    CMD_SYNC,
    CMD_TLBI_NH_ALL,
    CMD_TLBI_NH_ASID,
    CMD_TLBI_NH_VA,
    CMD_TLBI_NH_VAA,
    CMD_TLBI_NSNH_ALL,
    CMD_TLBI_S2_IPA,
    CMD_TLBI_S12_VMALL,
)
from pasidlab.hardware.pcie import PageGroupResponse, PageRequest, ResponseCode
from pasidlab.kernel.iommu.smmuv3 import entries
from pasidlab.kernel.iommu.smmuv3.capabilities import Capabilities
from pasidlab.kernel.iommu.smmuv3.queue import encode

RID = 0x6A08
GUEST_RID = 0x18
PASID = 5
TABLE, ROOT = 0x10000, 0x20000
"""Where the guest has its context descriptors and its process's page table."""
GUESTS = {"V": 1, "Config": 5, "S1Fmt": 0, "S1CDMax": 4, "S1ContextPtr": TABLE, "S1DSS": 1, "EATS": 1}


def ste(**fields):
    """A guest's entry for one table of 16 linear descriptors."""
    return STE.encode(**{**GUESTS, **fields})


@pytest.fixture
def vm(make_bench):
    """A device with ATS in a VM, whose memory has the guest's table with one process in it."""
    return build(make_bench(ats=True))


def build(bench):
    """Attach a domain, and write a guest's tables into its memory."""
    bench.domain = bench.driver.domain_alloc("vm1")
    bench.domain.enable_nesting()
    bench.frames = {}
    for page in (0x1000, TABLE, *range(ROOT, ROOT + 0x4000, 0x1000)):
        bench.frames[page] = bench.pages.alloc()
        bench.domain.map(page, bench.frames[page])
    for level in range(3):
        at = bench.frames[ROOT + 0x1000 * level]
        bench.memory.store(at, ROOT + 0x1000 * (level + 1) | 3)
    bench.memory.store(bench.frames[ROOT + 0x3000] + 8 * 7, 0x1000 | 0xF47)
    card = bench.unit.identity
    seen = Capabilities.read(card.idr0(), card.idr1(), card.idr3(), card.idr5())
    bench.memory.store_words(bench.frames[TABLE] + PASID * 64, entries.process_context(ROOT, 1, seen))
    bench.driver.attach_domain(bench.domain, RID)
    bench.watch()
    return bench


def bind(vm, **fields):
    """Bind the guest's entry."""
    vm.driver.bind_table(vm.domain, RID, ste(**fields))


def forward(vm, layout, **fields):
    """Forward a command; returns the words that the silicon got, if any."""
    vm.unit.seen.clear()
    vm.driver.forward(vm.domain, encode(layout, **fields), {GUEST_RID: RID})
    return [words for _, words, *_ in vm.unit.seen]


# --- the entry --------------------------------------------------------------------------------------------------------


def test_the_whole_table_of_a_guest_is_bound_once(vm):
    """Its process is reached with its PASID, within the memory of the VM; the host was asked for no PASID."""
    assert vm.read(0x7008, PASID).name == "C_BAD_SUBSTREAMID"
    bind(vm)
    assert vm.read(0x7008, PASID) == vm.frames[0x1000] + 8
    assert vm.read(0x1008) == vm.frames[0x1000] + 8
    assert vm.driver.has_table(RID)
    assert vm.core.ids.keys() == []
    nested = [entry for entry in vm.unit.entries(RID) if entry.pasid]
    (entry,) = nested
    assert (entry.kind, entry.first, entry.second) == (EntryKind.NESTED, ROOT, vm.domain.table.root)
    assert entry.guest_address == TABLE + PASID * 64


def test_another_process_needs_nothing_of_the_host(vm):
    """The guest writes a descriptor; only what was cached must be forgotten."""
    bind(vm)
    begin = vm.time.now
    words = vm.memory.load_words(vm.frames[TABLE] + PASID * 64, 8)
    vm.memory.store_words(vm.frames[TABLE] + 6 * 64, CD.change(words, ASID=2))
    assert vm.read(0x7008, 6) == vm.frames[0x1000] + 8
    assert vm.time.now == begin


def test_stage_2_and_vmid_are_the_hosts(vm):
    """Config 7; from the guest its table, S1DSS and hints."""
    bind(vm, S1CIR=2, S1COR=1, S1CSH=3, S1STALLD=1)
    at, second = STE.decode(vm.stream()), STE.decode(vm.driver.second_stage(vm.domain, RID))
    assert (at["Config"], at["S2VMID"], at["S2TTB"]) == (7, vm.domain.did, vm.domain.table.root)
    taken = ("S1Fmt", "S1CDMax", "S1ContextPtr", "S1DSS", "S1CIR", "S1COR", "S1CSH", "S1STALLD")
    assert [at[name] for name in taken] == [0, 4, TABLE, 1, 2, 1, 3, 1]
    assert {name: at[name] for name in at if name.startswith("S2")} == {
        name: second[name] for name in second if name.startswith("S2")
    }


@pytest.mark.parametrize(
    ("fields", "meaning"),
    [({"V": 0}, "abort"), ({"Config": 0}, "abort"), ({"Config": 4}, "stage 2")],
)
def test_entries_without_a_table(vm, fields, meaning):
    """One that is not valid blocks, as one that aborts; one that bypasses reaches the VM's memory."""
    bind(vm, **fields)
    assert entries.meaning_of(vm.stream()) == meaning
    assert vm.driver.has_table(RID)
    passed = vm.read(0x1000)
    assert passed == vm.frames[0x1000] if meaning == "stage 2" else passed.name == "ABORT"


def test_a_device_that_is_blocked_leaves_nothing_in_the_tlb(vm):
    """Nothing of the VMID is kept for nobody."""
    bind(vm)
    vm.read(0x7000, PASID)
    bind(vm, V=0)
    assert vm.unit.caches.tlb.keys() == []


def test_a_linear_table_may_be_as_wide_as_the_unit_takes(make_bench):
    """The host's own linear tables are smaller; the guest's are the guest's."""
    vm = build(make_bench(SmmuIdentity(cd2l=False)))
    bind(vm, S1CDMax=12, EATS=0)
    assert STE["S1CDMax"].get(vm.stream()) == 12


REFUSED = [
    ({"Config": 6}, "EINVAL", "Config"),
    ({"Config": 7}, "EINVAL", "Config"),
    ({"Config": 1}, "EINVAL", "Config"),
    ({"EATS": 2}, "EINVAL", "EATS"),
    ({"SHCFG": 1}, "EINVAL", "bits"),
    ({"STRW": 2}, "EINVAL", "bits"),
    ({"S1CDMax": 21}, "EINVAL", "S1CDMax"),
]


@pytest.mark.parametrize(("fields", "name", "word"), REFUSED)
def test_what_a_guest_may_not_decide_is_refused(vm, fields, name, word):
    """And what was there before stays."""
    before = vm.stream()
    error = vm.refused(bind, vm, **fields)
    assert (error.name, word in error.reason) == (name, True)
    assert vm.stream() == before
    assert not vm.driver.has_table(RID)


def test_stage_2_of_the_guest_is_not_looked_at(vm):
    """Its words are not among those that the kernel takes."""
    bind(vm, S2VMID=99, S2TTB=0x5000, S2T0SZ=24)
    at = STE.decode(vm.stream())
    assert (at["S2VMID"], at["S2TTB"]) == (vm.domain.did, vm.domain.table.root)


def test_a_device_of_somebody_else_is_refused(vm):
    """-ENODEV, for bind and unbind."""
    other = vm.driver.domain_alloc("vm2")
    other.enable_nesting()
    assert vm.refused(vm.driver.bind_table, other, RID, ste()).name == "ENODEV"
    bind(vm)
    assert vm.refused(vm.driver.unbind_table, other, RID).name == "ENODEV"


def test_without_nesting_nothing_is_bound(make_bench):
    """-EOPNOTSUPP: the domain does not allow it, or the unit has one stage only."""
    bench = make_bench()
    domain = bench.driver.domain_alloc("vm1")
    domain.map(0x1000, bench.pages.alloc())
    bench.driver.attach_domain(domain, RID)
    assert bench.refused(bench.driver.bind_table, domain, RID, ste()).name == "EOPNOTSUPP"


def test_a_guest_that_does_not_use_ats_gets_none(vm):
    """It would not flush the device's TLB: ATS is off in the device until the table is unbound."""
    bind(vm, EATS=0)
    assert STE["EATS"].get(vm.stream()) == 0
    assert vm.driver.function(RID).get(ATS_CAP)["EN"] == 0
    vm.driver.unbind_table(vm.domain, RID)
    assert vm.driver.function(RID).get(ATS_CAP)["EN"] == 1


def test_a_device_that_is_never_held_is_not_held_for_a_guest(vm):
    """Whatever its descriptor says (S=1): S1STALLD makes that illegal."""
    bind(vm, S1STALLD=0)
    words = vm.memory.load_words(vm.frames[TABLE] + PASID * 64, 8)
    vm.memory.store_words(vm.frames[TABLE] + PASID * 64, CD.change(words, S=1))
    assert vm.read(0x9000, PASID).name == "C_BAD_CD"
    assert vm.unit.stalls.keys() == []


def test_a_guest_may_let_its_device_be_held_where_that_is_possible(make_bench):
    """The firmware says that the device bears it; the guest's S1STALLD counts."""
    vm = build(make_bench(stall=True))
    bind(vm, EATS=0)
    assert STE["S1STALLD"].get(vm.stream()) == 0
    bind(vm, EATS=0, S1STALLD=1)
    assert STE["S1STALLD"].get(vm.stream()) == 1


def test_a_unit_that_holds_everything_takes_no_s1stalld_of_a_guest(make_bench):
    """It would be illegal."""
    vm = build(make_bench(SmmuIdentity(stall_model=2)))
    bind(vm, EATS=0, S1STALLD=1)
    assert STE["S1STALLD"].get(vm.stream()) == 0


def test_an_unbound_table_leaves_nothing(vm):
    """PASIDs are refused again, caches and device are empty, and page requests are answered."""
    bind(vm)
    vm.read(0x7000, PASID)
    vm.unit.page_request(PageRequest(RID, PASID, 0x9000, True, False, group=3))
    vm.driver.unbind_table(vm.domain, RID)
    assert vm.read(0x7000, PASID).name == "C_BAD_SUBSTREAMID"
    assert vm.read(0x1000) == vm.frames[0x1000]
    assert not vm.driver.has_table(RID)
    assert [key for key in vm.unit.caches.tlb.keys() if key[1] >= 0] == []
    assert vm.unit.caches.cds.keys() == []
    assert PageGroupResponse(RID, PASID, 3, ResponseCode.INVALID) in vm.function.told
    begin = vm.time.now
    vm.driver.unbind_table(vm.domain, RID)
    assert vm.time.now == begin


def test_a_table_is_replaced_by_another_one(vm):
    """There is no moment in which both count."""
    bind(vm)
    vm.watch(vm.stream)
    bind(vm, S1ContextPtr=ROOT)
    assert [STE["V"].get(look) for name, _, look in vm.unit.seen if name == "CFGI_STE"] == [0, 0, 1]
    assert vm.read(0x7000, PASID).name == "C_BAD_CD"


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "fields"),
    [
        (CMD_TLBI_NH_ALL, {}),
        (CMD_TLBI_NH_ASID, {"ASID": 7}),
        (CMD_TLBI_NH_VA, {"ASID": 7, "addr": 0x5000, "leaf": 1}),
        (CMD_TLBI_NH_VAA, {"addr": 0x5000, "NUM": 3, "SCALE": 1, "TG": 1}),
    ],
)
def test_translations_are_forgotten_for_the_vms_own_vmid(vm, layout, fields):
    """Whatever VMID the guest wrote."""
    for vmid in (0, 99, vm.domain.did):
        assert forward(vm, layout, VMID=vmid, **fields) == [encode(layout, **{**fields, "VMID": vm.domain.did})]


def test_all_translations_are_those_of_the_vm(vm):
    """NSNH_ALL of a guest becomes NH_ALL with its VMID."""
    assert forward(vm, CMD_TLBI_NSNH_ALL) == [encode(CMD_TLBI_NH_ALL, VMID=vm.domain.did)]


@pytest.mark.parametrize(
    ("layout", "fields"),
    [(CMD_CFGI_CD, {"SSID": 5, "leaf": 1}), (CMD_CFGI_CD_ALL, {}), (CMD_ATC_INV, {"SSV": 1, "SSID": 5, "SIZE": 52})],
)
def test_the_requester_id_is_the_hosts(vm, layout, fields):
    """The guest's own number for the device is replaced; another one is refused."""
    assert forward(vm, layout, SID=GUEST_RID, **fields) == [encode(layout, SID=RID, **fields)]
    for sid in (RID, GUEST_RID + 8, 0xFFFF_FFFF):
        assert vm.refused(forward, vm, layout, SID=sid, **fields).name == "EINVAL"
    assert vm.unit.seen == []


def test_a_device_that_the_domain_does_not_have_is_refused(vm):
    """The hypervisor names the host's device; the kernel looks whether it is this VM's."""
    vm.plug(0x6B08)
    command = encode(CMD_CFGI_CD_ALL, SID=GUEST_RID)
    assert vm.refused(vm.driver.forward, vm.domain, command, {GUEST_RID: 0x6B08}).name == "EINVAL"


@pytest.mark.parametrize(
    "layout", [CMD_CFGI_STE, CMD_TLBI_S12_VMALL, CMD_TLBI_S2_IPA, CMD_PRI_RESP, CMD_RESUME, CMD_SYNC]
)
def test_other_commands_are_refused(vm, layout):
    """Configuration of streams, stage 2, and answers are not a guest's to give."""
    error = vm.refused(forward, vm, layout)
    assert (error.name, layout.name in error.reason) == ("EINVAL", True)
    assert vm.unit.seen == []


def test_a_command_that_there_is_not_is_refused(vm):
    """Its opcode is told."""
    assert "0x7f" in vm.refused(vm.driver.forward, vm.domain, (0x7F, 0), {}).reason


def test_bits_without_a_meaning_are_dropped(vm):
    """They would stop the queue of everybody."""
    vm.driver.forward(vm.domain, (0x11 | 1 << 20, 1 << 60), {})
    assert vm.unit.seen[-1][1] == encode(CMD_TLBI_NH_ASID, VMID=vm.domain.did)


def test_a_range_that_is_reserved_costs_the_guest_an_error_and_nobody_else(vm):
    """CERROR_ILL: -EIO, and the queue goes on."""
    assert vm.refused(forward, vm, CMD_TLBI_NH_VA, TG=1).name == "EIO"
    vm.driver.queue.submit(vm.driver.queue.machine(1))


def test_a_device_without_ats_is_not_asked(make_bench):
    """It would not answer."""
    vm = build(make_bench())
    assert forward(vm, CMD_ATC_INV, SID=GUEST_RID) == []
