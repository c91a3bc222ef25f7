"""Binding a guest's page table: what a failed bind leaves, devices, users, the default PASID, and clean-up."""

import pytest

from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.kernel.ioasid.notifier import IoasidEvent, Priority
from pasidlab.kernel.iommu.uapi import HPASID_DEF, GuestPasidBind
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


# --- errors (their order: test_guest_bind.py) -----------------------------------------------------------------------


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
    bench.plug(OTHER)
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


def test_users_are_counted_on_devices_with_auxiliary_domains_only(bench, guest):
    """1 there, 0 on a whole device, where the first unbind tears down."""
    bench.plug(OTHER)
    bench.driver.attach_aux(guest.domain, RID, bench.host_set)
    guest.bind()
    guest.bind(OTHER)
    assert bench.svm.binding_of(guest.pasid).devices.items() == [(RID, 1), (OTHER, 0)]


def test_a_second_bind_only_counts_a_user_whatever_it_asks_for(bench, guest):
    """The interfaces of one parent share its entry: row 12 stands before the contents are looked at."""
    bench.driver.attach_aux(guest.domain, RID, bench.host_set)
    guest.bind()
    words = bench.entry(guest.pasid)
    guest.bind(addr_width=39, gpgd=0x9000)
    assert bench.entry(guest.pasid) == words
    assert bench.svm.binding_of(guest.pasid).devices[RID] == 2


def test_when_the_domain_leaves_all_binds_of_the_device_end(bench, guest):
    """However often it was bound: nothing may point to a domain that is going."""
    bench.driver.attach_aux(guest.domain, RID, bench.host_set)
    for _ in range(3):
        guest.bind()
    guest.unbind(entirely=True)
    assert bench.entry(guest.pasid) == (0,) * 8
    assert guest.holders == ("vfio",)


# --- the default PASID ----------------------------------------------------------------------------------------------


@pytest.fixture
def interface(bench, guest):
    """The VM has an interface of the device, hence a default PASID."""
    guest.default = bench.driver.attach_aux(guest.domain, RID, bench.host_set)
    return guest


def test_hpasid_def_binds_the_domains_default_pasid(bench, interface):
    """Its second-level entry becomes a nested one, the driver takes a reference; no SPID, and nobody is told."""
    begin = bench.time.now
    interface.bind(flags=HPASID_DEF, hpasid=0)
    entry = PASID_ENTRY.decode(bench.entry(interface.default))
    assert (entry["PGTT"], entry["FLPTPTR"], entry["SLPTPTR"]) == (3, 0x6000, interface.domain.table.root)
    assert bench.core.ids[interface.default].holders == ("aux-domain:vm1", "iommu")
    assert bench.core.ids[interface.default].spid is None
    assert not any(event.verb in (Verb.NOTIFY, Verb.ATTACH_SPID) for event in bench.time.events[begin:])
    assert interface.holders == ("vfio",)


def test_the_entry_that_is_replaced_is_torn_down_first(bench, interface):
    """Hardware never sees half of either: P goes and the caches are told, then the new entry is written."""
    begin = bench.time.now
    bench.watch(interface.default)
    interface.bind(flags=HPASID_DEF)
    verbs = [event.verb for event in bench.time.events[begin:] if event.altitude == "host"]
    assert verbs == [Verb.CLEAR_ENTRY, Verb.WRITE_ENTRY, Verb.GET, Verb.BIND]
    assert bench.unit.seen
    assert all(not PASID_ENTRY["P"].get(words) for _, words in bench.unit.seen)


def test_the_default_pasid_is_unbound_without_telling_anybody(bench, interface):
    """Entry, data, reference; the second-level entry does not come back."""
    interface.bind(flags=HPASID_DEF)
    begin = bench.time.now
    bench.svm.unbind_default(RID, interface.domain)
    assert bench.entry(interface.default) == (0,) * 8
    assert bench.core.ids[interface.default].holders == ("aux-domain:vm1",)
    assert not any(event.verb in (Verb.NOTIFY, Verb.DETACH_SPID) for event in bench.time.events[begin:])
    assert bench.svm.binding_of(interface.default) is None


def test_the_default_pasid_cannot_be_bound_by_its_number(bench, interface):
    """It is the host's: -EACCES for whoever names it without HPASID_DEF."""
    assert bench.refused(interface.bind, hpasid=interface.default).name == "EACCES"


def test_unbinding_a_default_pasid_that_is_not_bound_has_no_effect(bench, interface):
    """As for any other PASID; without one it is -EINVAL."""
    before = bench.time.digest()
    bench.svm.unbind_default(RID, interface.domain)
    assert bench.time.digest() == before
    bench.driver.detach_aux(interface.domain, RID, bench.host_set)
    assert bench.refused(bench.svm.unbind_default, RID, interface.domain).name == "EINVAL"


def test_the_default_pasid_survives_its_domain_until_the_clean_up(bench, interface):
    """Detached while bound: freed with a reference out, cleaned up by the queued work, then reclaimed."""
    interface.bind(flags=HPASID_DEF)
    bench.driver.detach_aux(interface.domain, RID, bench.host_set)
    assert bench.core.ids[interface.default].holders == ("iommu",)
    bench.agenda.run_all()
    assert interface.default not in bench.core.ids
    assert not PASID_ENTRY["P"].get(bench.entry(interface.default))


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
    bench.plug(OTHER)
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
    bench.plug(OTHER)
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
