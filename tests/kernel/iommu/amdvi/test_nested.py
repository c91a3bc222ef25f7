"""A guest's whole GCR3 table: what the host takes of the guest's entry, what it refuses, and what it forwards."""

import pytest

from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.layouts.amd import DTE, gcr3_root
from pasidlab.hardware.layouts.amd_queue import (
    CMD_COMPLETE_PPR,
    CMD_COMPLETION_WAIT,
    CMD_INV_ALL,
    CMD_INV_DEVTAB,
    CMD_INV_IRT,
    CMD_PREFETCH,
)
from pasidlab.hardware.pcie import Access, DmaRequest, InvalidateRequest, PageRequest, ResponseCode
from pasidlab.kernel.iommu.amdvi.nested import TABLE_CHECKS, TableBind
from pasidlab.kernel.iommu.page_requests import EVERY_PASID
from pasidlab.timeline import Verb

RID = 0x6A08
OTHER = 0x6B08
GUEST = 0x18
TABLE = 0x2000
ROOT = 0x3000
PAGE = 0x4000
VIRTUAL = 0x40_0000_0000
WHOLE = 1 << 64


class Guest:
    """A VM's memory of eight pages, and a table of PASIDs in it that the guest has built."""

    def __init__(self, bench, rid=RID, name="vm1", domain=None):
        self.bench, self.rid = bench, rid
        self.domain = domain or bench.driver.domain_alloc(name)
        self.domain.enable_nesting()
        if domain is None:
            for page in range(0x2000, 0xA000, 0x1000):
                self.domain.map(page, bench.pages.alloc())
        bench.driver.attach_domain(self.domain, rid)

    def store(self, address, word):
        """The guest writes to its memory."""
        self.bench.memory.store(self.domain.table.find(address & ~0xFFF) | address & 0xFFF, word)

    def build(self, pasid, table=TABLE, page=PAGE):
        """A GCR3 entry, and page tables that map one page at ``VIRTUAL``, in guest-physical pages."""
        self.store(table + pasid * 8, ROOT | 1)
        self.store(ROOT + (VIRTUAL >> 39 & 511) * 8, 0x5000 | 7)
        self.store(0x5000 + (VIRTUAL >> 30 & 511) * 8, 0x6000 | 7)
        self.store(0x6000 + (VIRTUAL >> 21 & 511) * 8, 0x7000 | 7)
        self.store(0x7000 + (VIRTUAL >> 12 & 511) * 8, page | 7)

    def bind(self, words):
        """What the hypervisor asks for."""
        self.bench.driver.bind_table(self.domain, self.rid, words)

    def ask(self, pasid=3, address=VIRTUAL, access=Access.WRITE):
        """A request of the device."""
        return self.bench.unit.translate(DmaRequest(self.rid, address, access, pasid))

    def forward(self, command, devices=None):
        """What the guest's command becomes."""
        self.bench.driver.forward(self.domain, command, {GUEST: self.rid} if devices is None else devices)


@pytest.fixture
def guest(bench, entry):
    """A guest whose table is bound and has PASID 3."""
    guest = Guest(bench)
    guest.build(3)
    guest.bind(entry(root=TABLE))
    bench.watch()
    return guest


# --- what is bound ----------------------------------------------------------------------------------------------------


def test_the_host_takes_the_guests_part_of_the_entry_and_keeps_its_own(bench, entry):
    """GLX, GIOV, root, GPTMode, PPR are the guest's; Mode, HostRoot, DomainID, I and all else the host's."""
    guest = Guest(bench)
    guest.bind(entry(root=0xABC_DEF0_1000, did=77, GLX=2, GIOV=1, GPTMode=1, PPR=1, SE=1, SA=1, IV=1, INTCTL=2, IW=0))
    words = bench.driver.table.read(RID)
    at = DTE.decode(words)
    assert gcr3_root(words) == 0xABC_DEF0_1000
    assert {name: at[name] for name in ("GV", "GLX", "GIOV", "GPTMode", "PPR")} == {
        "GV": 1,
        "GLX": 2,
        "GIOV": 1,
        "GPTMode": 1,
        "PPR": 1,
    }
    assert (at["Mode"], at["HostRoot"], at["I"], at["IR"], at["IW"]) == (4, guest.domain.table.root, 1, 1, 1)
    assert at["DomainID"] not in (77, guest.domain.did, bench.driver.tags[RID])
    assert not any(at[name] for name in ("SE", "SA", "IV", "INTCTL"))


def test_the_guests_pasids_reach_its_memory_without_a_word_to_the_host(guest):
    """One bind; then the guest writes entries as it likes."""
    assert guest.ask(3) == guest.domain.table.find(PAGE)
    guest.build(9)
    assert guest.ask(9) == guest.domain.table.find(PAGE)
    assert guest.bench.names == []
    nested = [entry for entry in guest.bench.unit.entries(RID) if entry.pasid]
    assert [(entry.pasid, entry.kind, entry.guest_address) for entry in nested] == [
        (3, EntryKind.NESTED, TABLE + 24),
        (9, EntryKind.NESTED, TABLE + 72),
    ]
    assert len(guest.bench.core.ids) == 0


def test_whatever_the_guests_table_says_its_memory_is_the_limit(guest):
    """Roots and pages outside of the VM's memory are faults of the host table."""
    for entry, where in ((0xF_0000 | 1, TABLE + 5 * 8), (guest.bench.driver.table.base | 1, TABLE + 5 * 8)):
        guest.store(where, entry)
        assert not isinstance(guest.ask(5), int)
    guest.store(0x7000, 0xF_0000 | 7)
    assert not isinstance(guest.ask(3), int)


def test_requests_without_pasid_go_through_the_host_table_still(guest):
    """GIOV=0."""
    assert guest.ask(None, 0x2000) == guest.domain.table.find(0x2000)


def test_with_giov_requests_without_pasid_use_the_guests_pasid_0(bench, entry):
    """The guest's driver may want that."""
    guest = Guest(bench)
    guest.build(0)
    guest.bind(entry(root=TABLE, GIOV=1))
    assert guest.ask(None) == guest.domain.table.find(PAGE)
    assert not isinstance(guest.ask(None, 0x2000), int)


def test_page_requests_are_the_guests_choice_if_the_device_can(make_bench, entry):
    """PPR=1 in the guest's entry, on a device without PRI: 0 on the host."""
    bench = make_bench(ats=False)
    Guest(bench).bind(entry(root=TABLE, PPR=1))
    assert "PPR" not in bench.dte()


def test_a_table_takes_the_place_of_the_one_before(guest, entry):
    """The same DomainID, which is invalidated; what the old table gave is gone, in the device's TLB too."""
    did = guest.bench.driver.bound[RID].did
    guest.ask(3)
    guest.store(0x8000 + 3 * 8, 0x9000 | 1)
    guest.bench.function.told.clear()
    guest.bind(entry(root=0x8000))
    assert guest.bench.driver.bound[RID].did == did
    assert not isinstance(guest.ask(3), int)
    assert guest.bench.function.told == [InvalidateRequest(RID, None, 0, WHOLE)]


def test_two_devices_of_one_guest_never_share_tags(bench, entry):
    """The guest gives both tables one domain id: a PASID still means what the device's own table says."""
    first = Guest(bench)
    first.build(3)
    bench.plug(OTHER)
    second = Guest(bench, OTHER, domain=first.domain)
    first.bind(entry(root=TABLE, did=1))
    second.bind(entry(root=0x8000, did=1))
    assert isinstance(first.ask(3), int)
    assert not isinstance(second.ask(3), int)
    dids = {bench.dte(rid)["DomainID"] for rid in (RID, OTHER)}
    assert len(dids) == 2
    assert first.domain.did not in dids


def test_binding_is_told_with_the_domain_id(guest):
    """An event of the host's driver, and one of the end."""
    did = guest.bench.driver.bound[RID].did
    guest.bench.driver.unbind_table(guest.domain, RID)
    told = [event for event in guest.bench.time.events if event.verb in (Verb.BIND, Verb.UNBIND)]
    assert [(event.verb, event.fact("rid"), event.fact("did")) for event in told] == [
        (Verb.BIND, RID, did),
        (Verb.UNBIND, RID, did),
    ]


# --- the end ----------------------------------------------------------------------------------------------------------


def test_after_the_end_pasids_are_refused_and_the_vm_keeps_its_memory(guest):
    """As before the bind; nothing of the DomainID is cached, and it can be used again."""
    did = guest.bench.driver.bound[RID].did
    guest.ask(3)
    guest.ask(None, 0x2000)
    guest.bench.driver.unbind_table(guest.domain, RID)
    assert not guest.bench.driver.has_table(RID)
    assert not isinstance(guest.ask(3), int)
    assert guest.ask(None, 0x2000) == guest.domain.table.find(0x2000)
    assert not [key for key in guest.bench.unit.caches.tlb.keys() if key[0] == did]
    assert did not in guest.bench.driver.ids


def test_an_end_without_a_beginning_is_nothing(bench):
    """A guest that never had a table."""
    guest = Guest(bench)
    bench.watch()
    bench.driver.unbind_table(guest.domain, RID)
    assert bench.names == []


def test_page_requests_that_wait_are_answered_at_the_end(guest, entry):
    """The hypervisor has one that it did not answer: invalid, and nothing is pending."""

    class Sink:
        path = "sink"

        def page_requested(self, request):
            return None

    bench = guest.bench
    guest.bind(entry(root=TABLE, PPR=1))
    bench.driver.page_requests.sinks[RID, EVERY_PASID] = Sink()
    for pasid, group in ((3, 1), (None, 2)):
        bench.unit.page_request(PageRequest(RID, pasid, VIRTUAL, True, False, group=group))
    bench.driver.page_requests.serve()
    assert len(bench.driver.page_requests.pending) == 2
    bench.function.told.clear()
    bench.driver.unbind_table(guest.domain, RID)
    answers = [told for told in bench.function.told if not isinstance(told, InvalidateRequest)]
    assert sorted((answer.group, answer.code) for answer in answers) == [
        (1, ResponseCode.INVALID),
        (2, ResponseCode.INVALID),
    ]
    assert not bench.driver.page_requests.pending.keys()


# --- refusals ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "Mode, HostRoot": ({"Mode": 4}, {"HostRoot": 0x1000}),
    "V, TV, GV": ({"GV": 0}, {"TV": 0}, {"V": 0}),
    "GCR3 root": ({"root": 0},),
    "GPTMode": ({"GPTMode": 2}, {"GPTMode": 3}),
    "GLX": ({"GLX": 3},),
}


@pytest.mark.parametrize(("name", "fields"), [(name, fields) for name, asked in REFUSED.items() for fields in asked])
def test_what_a_guest_may_not_ask_for_is_refused_and_changes_nothing(bench, entry, name, fields):
    """-EINVAL with the rule (validate_gdte_nested); the device's entry stays."""
    guest = Guest(bench)
    before = bench.driver.table.read(RID), bench.driver.ids.count
    error = bench.refused(guest.bind, entry(**fields))
    assert error.name == {check.name: check.errno for check in TABLE_CHECKS}[name] == "EINVAL"
    assert error.reason == next(check for check in TABLE_CHECKS if check.name == name).broken(
        _asked(guest, entry(**fields))
    )
    assert (bench.driver.table.read(RID), bench.driver.ids.count) == before


def _asked(guest, words):
    driver = guest.bench.driver
    return TableBind(guest.domain, driver.devices[RID], words, driver.unit)


@pytest.mark.parametrize(
    ("card", "fields", "errno", "word"),
    [
        ({"gcr3trp": False}, {}, "EOPNOTSUPP", "GCR3TRPMode"),
        ({"gats": 0}, {"GPTMode": 1}, "EOPNOTSUPP", "five levels"),
        ({"glx": 1}, {"GLX": 2}, "EINVAL", "GCR3 levels"),
        ({"giosup": False}, {"GIOV": 1}, "EINVAL", "GIOV"),
    ],
)
def test_what_the_unit_cannot_do_is_refused(make_bench, entry, card, fields, errno, word):
    """The reason names what is missing."""
    bench = make_bench(AmdIdentity(**card))
    error = bench.refused(Guest(bench).bind, entry(**fields))
    assert error.name == errno
    assert word in error.reason


def test_without_gcr3trpmode_the_reason_says_what_would_happen(make_bench, entry):
    """A GCR3 table would be system-physical, and a guest's could name any memory."""
    bench = make_bench(AmdIdentity(gcr3trp=False))
    assert "system-physical" in bench.refused(Guest(bench).bind, entry()).reason


def test_a_domain_binds_tables_for_its_own_devices_only(bench, entry):
    """-ENODEV for a device of somebody else, and for one that nobody knows."""
    guest = Guest(bench)
    bench.plug(OTHER)
    for rid in (OTHER, 0x1234):
        assert bench.refused(bench.driver.bind_table, guest.domain, rid, entry()).name == "ENODEV"


def test_a_domain_that_does_not_nest_is_refused(bench, entry):
    """Nesting is asked for when the container is opened."""
    guest = Guest(bench)
    guest.domain.nesting = False
    assert "nesting mode" in bench.refused(guest.bind, entry()).reason


# --- forwarding -------------------------------------------------------------------------------------------------------


def test_a_guests_invalidation_names_the_hosts_domain_id(guest):
    """The range, PASID, PDE and GN are the guest's; only what it has forgotten is forgotten."""
    did, queue = guest.bench.driver.bound[RID].did, guest.bench.driver.queue
    guest.ask(3)
    guest.forward(queue.pasid_pages(9, 3, VIRTUAL, 4096))
    ((command,),) = guest.bench.unit.seen
    assert command.words == queue.pasid_pages(did, 3, VIRTUAL, 4096)
    assert not [key for key in guest.bench.unit.caches.tlb.keys() if key[1] == 3]


def test_a_domain_id_that_the_guest_has_not_bound_means_nothing(guest):
    """Not even if it is that of the host, or of another VM."""
    for did in range(12):
        if did != 9:
            guest.forward(guest.bench.driver.queue.pasid_pages(did, 3))
            guest.forward(guest.bench.driver.queue.domain_pages(did))
    assert guest.bench.names == []


def test_one_guest_id_for_two_tables_is_forwarded_to_both(bench, entry):
    """Each has a DomainID of its own on the host."""
    first = Guest(bench)
    bench.plug(OTHER)
    second = Guest(bench, OTHER, domain=first.domain)
    first.bind(entry(root=TABLE, did=1))
    second.bind(entry(root=0x8000, did=1))
    bench.watch()
    first.forward(bench.driver.queue.pasid_pages(1, 3), {GUEST: RID, 0x20: OTHER})
    assert {command.field("domid") for (command,) in bench.unit.seen} == {
        bench.driver.bound[rid].did for rid in (RID, OTHER)
    }


def test_a_guests_invalidation_of_its_device_names_the_hosts_device(guest):
    """Requester ID and queue; the guest's own are nobody's here."""
    guest.forward(guest.bench.driver.queue.device_pasid_pages(GUEST, 3, VIRTUAL, 4096))
    ((command,),) = guest.bench.unit.seen
    assert (command.field("devid"), command.field("queueid"), command.pasid) == (RID, RID, 3)
    assert guest.bench.function.told[-1] == InvalidateRequest(RID, 3, VIRTUAL, 4096)


def test_a_device_without_a_tlb_is_not_asked(make_bench, entry):
    """It would not answer."""
    bench = make_bench(ats=False)
    guest = Guest(bench)
    guest.bind(entry(root=TABLE))
    bench.watch()
    guest.forward(bench.driver.queue.device_pasid_pages(GUEST, 3))
    assert bench.names == []


def test_a_device_of_somebody_else_cannot_be_invalidated(guest):
    """-EINVAL for a requester ID that the guest does not have, even if its hypervisor would say it has."""
    queue = guest.bench.driver.queue
    guest.bench.plug(OTHER)
    guest.bench.watch()
    for devices, rid in (({GUEST: RID}, 0x20), ({GUEST: RID}, RID), ({GUEST: OTHER}, GUEST)):
        error = guest.bench.refused(guest.forward, queue.device_pages(rid), devices)
        assert error.name == "EINVAL"
    assert guest.bench.names == []


@pytest.mark.parametrize(
    "words",
    [
        CMD_COMPLETION_WAIT.encode(OPCODE=1, S=1, STORE_ADDR=0x1000, STORE_DATA=7),
        CMD_INV_DEVTAB.encode(OPCODE=2, devid=RID),
        CMD_INV_IRT.encode(OPCODE=5, devid=RID),
        CMD_PREFETCH.encode(OPCODE=6, devid=RID),
        CMD_COMPLETE_PPR.encode(OPCODE=7, devid=RID, tag=1),
        CMD_INV_ALL.encode(OPCODE=8),
        (0, 0),
        (0xF << 60, 0),
        (3 << 60 | 1 << 59, 0),
    ],
)
def test_no_other_command_is_forwarded(guest, words):
    """-EINVAL: a store to host memory, an answer, everything's end, garbage."""
    assert guest.bench.refused(guest.forward, words).name == "EINVAL"
    assert guest.bench.names == []
