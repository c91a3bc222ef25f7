"""Binding a guest's page table: the checks in their order, what a failed bind leaves, devices, users, and clean-up."""

import pytest

from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.kernel.ioasid.notifier import IoasidEvent, Priority
from pasidlab.kernel.iommu.uapi import VTD_FLAGS, GuestPasidBind
from pasidlab.timeline import Verb
from tests.kernel.iommu.vtd.conftest import RID

OTHER = 0x6A10


class Guest:
    """A VM's side: its set, its domain, one allocated PASID."""

    def __init__(self, bench, name="vm1", listener=None):
        self.bench = bench
        self.set, self.domain = bench.vm(name)
        if listener is not None:
            bench.core.notifiers.register(listener, self.set)
        self.pasid = bench.core.alloc(self.set, 1, 1000, "vfio")

    def bind(self, rid=RID, the_set=None, **change):
        """Bind guest PASID 1 with its page table at 0x6000, but for what is changed."""
        data = GuestPasidBind(self.pasid, 0x6000, 1)._replace(**change)
        self.bench.svm.bind_guest(rid, self.domain, data, the_set or self.set)

    def unbind(self, rid=RID, **more):
        """Undo it."""
        self.bench.svm.unbind_guest(rid, self.pasid, self.set, **more)

    @property
    def holders(self):
        """Who holds the PASID."""
        return self.bench.core.ids[self.pasid].holders


@pytest.fixture
def guest(bench):
    """One VM."""
    return Guest(bench)


def test_a_bind_writes_the_entry_takes_one_reference_and_attaches_the_spid(bench, guest):
    """In this order: who is told by BIND can rely on the entry."""
    begin = bench.time.now
    guest.bind()
    assert [event.verb for event in bench.time.events[begin:]] == [
        Verb.WRITE_ENTRY,
        Verb.GET,
        Verb.ATTACH_SPID,
        Verb.BIND,
    ]
    assert guest.holders == ("vfio", "iommu")
    assert bench.core.find_by_spid(guest.set, 1) == guest.pasid
    assert PASID_ENTRY["PGTT"].get(bench.entry(guest.pasid)) == 3


# --- errors ---------------------------------------------------------------------------------------------------------


def wrong(bench, guest):
    """Every way to be refused, in the documented order (facts 4.2): name, what to change, errno, reason."""
    stranger = Guest(bench, "vm2")
    return [
        ("format", {"format": 2}, "EINVAL", "VT-d format"),
        ("flags", {"vtd_flags": 1 << 7}, "EINVAL", "flags"),
        ("hpasid 0", {"hpasid": 0}, "EINVAL", "between 1 and"),
        ("hpasid 2^20", {"hpasid": 1 << 20}, "EINVAL", "between 1 and"),
        ("device", {"rid": 0x1234}, "EINVAL", "know the device"),
        ("unknown", {"hpasid": 999}, "ENOENT", "not allocated"),
        ("foreign", {"hpasid": stranger.pasid}, "EACCES", "belongs to vm2"),
        ("width", {"addr_width": 57}, "EINVAL", "4-level"),
        ("root", {"gpgd": 0x6001}, "EINVAL", "page below"),
        ("memory type", {"vtd_flags": VTD_FLAGS["CD"]}, "EINVAL", "must not ask for CD"),
        ("EAFE", {"vtd_flags": VTD_FLAGS["EAFE"]}, "EINVAL", "must not ask for EAFE"),
    ]


def test_each_error_has_its_errno_and_leaves_nothing(bench, guest):
    """One mistake at a time: same digest as before."""
    for name, change, errno, word in wrong(bench, guest):
        before = bench.time.digest()
        error = bench.refused(guest.bind, **change)
        assert (error.name, word in error.reason) == (errno, True), (name, error)
        assert bench.time.digest() == before, name


def test_of_two_mistakes_the_first_in_the_documented_order_is_reported(bench, guest):
    """Every pair of mistakes that can be made together."""
    rows = wrong(bench, guest)
    for at, (_, change, _, word) in enumerate(rows):
        for _, later, _, _ in rows[at + 1 :]:
            if not set(change) & set(later):
                assert word in bench.refused(guest.bind, **later, **change).reason, (change, later)


def test_a_bound_pasid_on_the_same_device_is_ebusy_before_its_contents_are_looked_at(bench, guest):
    """Check 12 comes before check 15."""
    guest.bind()
    before = bench.time.digest()
    assert bench.refused(guest.bind).name == "EBUSY"
    assert bench.refused(guest.bind, addr_width=57).name == "EBUSY"
    assert bench.time.digest() == before


def test_a_unit_without_nesting_is_einval(make_bench):
    """The host's unit must support nested translation."""
    bench = make_bench(VtdIdentity(nest=False))
    guest = Guest(bench)
    error = bench.refused(guest.bind)
    assert (error.name, "nested translation" in error.reason) == ("EINVAL", True)


def test_a_dying_pasid_cannot_be_bound(bench, guest):
    """-ENOENT: no new use between free and reclaim."""
    bench.core.get(guest.pasid, "kvm")
    bench.core.free(guest.set, guest.pasid)
    assert bench.refused(guest.bind).name == "ENOENT"


def test_a_duplicate_spid_takes_everything_back(bench, guest):
    """The only refusal after the entry was written: entry cleared, reference dropped, record gone (bugs 6 and 8)."""
    guest.bind()
    twin = Guest.__new__(Guest)
    twin.bench, twin.set, twin.domain = bench, guest.set, guest.domain
    twin.pasid = bench.core.alloc(guest.set, 1, 1000, "vfio")
    begin = bench.time.now
    error = bench.refused(twin.bind)
    assert (error.name, "guest PASID 1" in error.reason) == ("EINVAL", True)
    assert bench.entry(twin.pasid) == (0,) * 8
    assert twin.holders == ("vfio",)
    assert bench.svm.binding_of(twin.pasid) is None
    assert bench.core.ids[twin.pasid].private is None
    assert not any(event.verb is Verb.NOTIFY for event in bench.time.events[begin:])
    twin.bind(gpasid=2)
    assert twin.holders == ("vfio", "iommu")


# --- several devices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_to_go", [RID, OTHER], ids=["first", "second"])
def test_further_devices_add_an_entry_and_nothing_else(bench, guest, first_to_go):
    """No reference, no event; whichever goes first, only the last unbind detaches (facts 4.2, 4.4)."""
    bench.driver.add_device(OTHER)
    guest.bind()
    begin = bench.time.now
    guest.bind(OTHER)
    assert [event.verb for event in bench.time.events[begin:]] == [Verb.WRITE_ENTRY, Verb.BIND]
    last = OTHER if first_to_go == RID else RID
    guest.unbind(first_to_go)
    assert guest.holders == ("vfio", "iommu")
    assert bench.entry(guest.pasid, first_to_go) == (0,) * 8
    assert bench.entry(guest.pasid, last) != (0,) * 8
    guest.unbind(last)
    assert guest.holders == ("vfio",)
    assert bench.core.find_by_spid(guest.set, 1) is None


def test_on_a_device_with_auxiliary_domains_binds_are_counted(bench, guest):
    """Several interfaces of one parent share its entry; the last unbind clears it."""
    bench.driver.attach_aux(guest.domain, RID, bench.host_set)
    guest.bind()
    guest.bind()
    guest.unbind()
    assert bench.entry(guest.pasid) != (0,) * 8
    guest.unbind()
    assert bench.entry(guest.pasid) == (0,) * 8


def test_when_the_domain_leaves_all_binds_of_the_device_end(bench, guest):
    """However often it was bound: nothing may point to a domain that is going."""
    bench.driver.attach_aux(guest.domain, RID, bench.host_set)
    for _ in range(3):
        guest.bind()
    guest.unbind(entirely=True)
    assert bench.entry(guest.pasid) == (0,) * 8
    assert guest.holders == ("vfio",)


# --- unbind ---------------------------------------------------------------------------------------------------------


def test_unbind_clears_the_entry_before_anybody_is_told(bench, guest):
    """Entry, then SPID (which tells UNBIND), then the reference."""
    guest.bind()
    begin = bench.time.now
    guest.unbind()
    verbs = [event.verb for event in bench.time.events[begin:] if event.altitude == "host"]
    assert verbs == [Verb.CLEAR_ENTRY, Verb.UNBIND, Verb.DETACH_SPID, Verb.PUT]


def test_unbind_of_what_is_not_bound_has_no_effect(bench, guest):
    """Known but never bound, bound on another device only: success; unknown and foreign: the errors of find."""
    bench.driver.add_device(OTHER)
    before = bench.time.digest()
    guest.unbind()
    assert bench.time.digest() == before
    guest.bind()
    before = bench.time.digest()
    guest.unbind(OTHER)
    assert bench.time.digest() == before
    stranger = Guest(bench, "vm2")
    assert bench.refused(bench.svm.unbind_guest, RID, 999, guest.set).name == "ENOENT"
    assert bench.refused(bench.svm.unbind_guest, RID, stranger.pasid, guest.set).name == "EACCES"


def test_a_bind_that_was_undone_left_only_a_leaf_table(bench, guest):
    """Set and pool as before; one page, kept for the next PASID in its range."""
    used = bench.pages.used
    guest.bind()
    guest.unbind()
    assert bench.pages.used <= used + 1
    assert guest.holders == ("vfio",)


# --- FREE before unbind ---------------------------------------------------------------------------------------------


def test_free_of_a_bound_pasid_queues_the_clean_up(bench, guest):
    """Nothing is torn down in the handler: it is atomic and must not wait for hardware."""
    guest.bind()
    words = bench.entry(guest.pasid)
    bench.core.free(guest.set, guest.pasid)
    assert bench.entry(guest.pasid) == words
    assert [action.what for action in bench.agenda.actions()] == [str(guest.pasid)]


def test_the_clean_up_clears_every_device_in_silence_and_lets_go(bench, guest):
    """Faults stay disabled (FPD), the last reference goes, the number can be reused."""
    bench.driver.add_device(OTHER)
    guest.bind()
    guest.bind(OTHER)
    pasid = guest.pasid
    bench.core.free(guest.set, pasid)
    bench.agenda.run_all()
    for rid in (RID, OTHER):
        assert bench.entry(pasid, rid) == PASID_ENTRY.encode(FPD=1)
    assert pasid not in bench.core.ids
    assert bench.core.alloc(guest.set, 1, 1000, "vfio") == pasid


def test_free_of_an_unbound_pasid_needs_no_clean_up(bench, guest):
    """No private data: the handler ignores it."""
    bench.core.get(guest.pasid, "somebody")
    bench.core.free(guest.set, guest.pasid)
    assert bench.agenda.actions() == []


def test_clean_up_runs_in_the_order_in_which_it_was_queued(bench, guest):
    """One ordered queue for all sets: only the oldest item is an enabled action."""
    stranger = Guest(bench, "vm2")
    guest.bind()
    stranger.bind()
    for one in (stranger, guest):
        bench.core.free(one.set, one.pasid)
    assert [action.what for action in bench.agenda.actions()] == [str(stranger.pasid)]
    bench.agenda.run(bench.agenda.actions()[0].number)
    assert (stranger.set.count, guest.set.count) == (0, 1)
    assert [action.what for action in bench.agenda.actions()] == [str(guest.pasid)]


class Late:
    """A subscriber that queues work when it is told UNBIND."""

    path = notifier_name = "late"
    notifier_priority = Priority.DEVICE

    def __init__(self, core):
        self.core = core
        self.found = []

    def ioasid_notified(self, event, payload):
        """Queue work for UNBIND."""
        if event is IoasidEvent.UNBIND:
            self.core.work.queue(self, str(payload.ioasid), "late work")
        return True

    def run_work(self, what):
        """Note who holds the PASID at this moment."""
        self.found.append(self.core.ids[int(what)].holders)


def test_what_unbind_queued_has_run_before_the_reference_is_dropped(bench):
    """A drain that a handler queued must not find the number in other hands: who unbinds waits for it."""
    late = Late(bench.core)
    guest = Guest(bench, listener=late)
    guest.bind()
    guest.unbind()
    assert late.found == [("vfio", "iommu")]
    assert bench.core.work.waiting() == []
