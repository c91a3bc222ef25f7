"""Every row of a guest bind's checks, in the documented order: its errno, that it leaves nothing, and who answers when
two rows are broken at once (facts 4.2 and 4.3).
"""

from dataclasses import replace
from itertools import combinations

import pytest

from pasidlab.hardware.config_space import PASID_CAPABILITY, ConfigSpace
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.layouts.pcie import PASID_CAP
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.kernel.iommu.uapi import HPASID_DEF, VTD_FLAGS, GuestPasidBind
from pasidlab.kernel.iommu.vtd.guest_bind import DEVICE_CHECKS, PASID_CHECKS
from pasidlab.kernel.iommu.vtd.nested import NESTED_CHECKS
from tests.kernel.iommu.vtd.conftest import RID, Bench, Function

PASID_ENABLE = PASID_CAP["EN"].mask >> 32
UNKNOWN = 0x1234
ANOTHER = 0x6A10


class Attempt:
    """A bind that is about to be made on a bench of its own. Faults change the bench or the request."""

    def __init__(self, monkeypatch, identity, la57=False):
        self.monkeypatch = monkeypatch
        self.bench = Bench(identity, la57=la57)
        self.set, self.domain = self.bench.vm()
        self.domain.map(0, 0x4000)
        self.bench.plug(ANOTHER)
        self.pasid = self.bench.core.alloc(self.set, 1, 1000, "vfio")
        self.rid = RID
        self.fields = {"hpasid": self.pasid, "gpgd": 0x6000, "gpasid": 1}
        self.data = True

    def change(self, **fields):
        """Other values in the bind data; VT-d flags add up."""
        flags = self.fields.get("vtd_flags", 0) | fields.get("vtd_flags", 0)
        self.fields |= fields | {"vtd_flags": flags}

    def known(self, **facts):
        """The driver knows something else of the device."""
        devices = self.bench.driver.devices
        devices[RID] = devices[RID]._replace(**facts)

    def go(self):
        """Bind."""
        data = GuestPasidBind(**self.fields) if self.data else None
        self.bench.svm.bind_guest(self.rid, self.domain, data, self.set)


def no_data(attempt):
    attempt.data = False


def another_format(attempt):
    attempt.change(format=0)


def short(attempt):
    attempt.change(argsz=71)


def undefined_flags(attempt):
    attempt.change(vtd_flags=1 << 7)


def no_pci(attempt):
    attempt.known(pci=False)


def narrow(attempt):
    attempt.known(pasid_bits=19)


def no_default(attempt):
    attempt.change(flags=HPASID_DEF)


def zero(attempt):
    attempt.change(hpasid=0)


def unknown_device(attempt):
    attempt.rid = UNKNOWN


def not_allocated(attempt):
    attempt.change(hpasid=999)


def foreign(attempt):
    other, _ = attempt.bench.vm("vm2")
    attempt.change(hpasid=attempt.bench.core.alloc(other, 1, 1000, "vfio"))


def on_no_device(attempt):
    attempt.bench.svm._attach(attempt.pasid, guest=True)


def bound(attempt):
    data = GuestPasidBind(attempt.pasid, 0x6000, 1)
    attempt.bench.svm.bind_guest(RID, attempt.domain, data, attempt.set)


def no_memory(attempt):
    attempt.bench.core.slab.fail_nth = 1


def cannot_be_enabled(attempt):
    for rid in (RID, ANOTHER):
        attempt.bench.bus.endpoints[rid].config.words[PASID_CAPABILITY + 4] &= ~PASID_ENABLE
    attempt.monkeypatch.setattr(ConfigSpace, "write", lambda config, offset, value: None)


def no_nesting(attempt):
    pass


def not_nesting_mode(attempt):
    attempt.domain.nesting = False


def nested_already(attempt):
    attempt.bench.driver.tables[RID].write(attempt.pasid, PASID_ENTRY.encode(P=1, PGTT=3))


def five_levels(attempt):
    attempt.change(addr_width=57)


def width(attempt):
    attempt.change(addr_width=39)


def root(attempt):
    attempt.change(gpgd=1 << 48)


def supervisor(attempt):
    attempt.change(vtd_flags=VTD_FLAGS["SRE"])


def extended_accessed(attempt):
    attempt.change(vtd_flags=VTD_FLAGS["EAFE"])


def memory_type(attempt):
    attempt.change(vtd_flags=VTD_FLAGS["PCD"])


def does_not_fit(attempt):
    attempt.domain.table.clear()


ROWS = [
    ("1", no_data, "EINVAL", "bind data"),
    ("2", another_format, "EINVAL", "VT-d format"),
    ("3", short, "EINVAL", "argsz"),
    ("4", undefined_flags, "EINVAL", "flags"),
    ("5", no_pci, "ENOTSUPP", "PCI function"),
    ("6", narrow, "EINVAL", "20 bits, not 19"),
    ("7", no_default, "EINVAL", "default PASID"),
    ("8", zero, "EINVAL", "between 1 and"),
    ("9", unknown_device, "EINVAL", "know the device"),
    ("10", not_allocated, "ENOENT", "not allocated"),
    ("10", foreign, "EACCES", "belongs to vm2"),
    ("11", on_no_device, "EINVAL", "on some device"),
    ("12", bound, "EBUSY", "already bound"),
    ("13", no_memory, "ENOMEM", "no memory"),
    ("14", cannot_be_enabled, "EINVAL", "cannot be enabled"),
    ("nested translation", no_nesting, "EINVAL", "nested translation"),
    ("nesting mode", not_nesting_mode, "EINVAL", "nesting mode"),
    ("in use", nested_already, "EBUSY", "nested already"),
    ("5-level", five_levels, "EINVAL", "5-level page tables"),
    ("width", width, "EINVAL", "not 39 bits"),
    ("root", root, "EINVAL", "a page below"),
    ("SRE", supervisor, "EINVAL", "ask for SRE"),
    ("EAFE", extended_accessed, "EINVAL", "ask for EAFE"),
    ("memory type", memory_type, "EINVAL", "memory types"),
    ("second level", does_not_fit, "EINVAL", "must fit into"),
]
"""Row 15 is 4.3, by name: the row, how it is broken, its errno, and a word of the reason."""

OF_THE_PASID = {on_no_device, bound, nested_already}
NOT_TOGETHER = {
    no_pci: {unknown_device},
    narrow: {unknown_device},
    no_default: {zero, not_allocated, foreign, *OF_THE_PASID},
    zero: {not_allocated, foreign, *OF_THE_PASID},
    unknown_device: {bound, nested_already},
    not_allocated: {foreign, *OF_THE_PASID},
    foreign: OF_THE_PASID,
    on_no_device: {bound},
    bound: {no_nesting, does_not_fit},
    five_levels: {width},
}
"""What cannot be broken at once: two values for one field, or a state that the other row does not let come about."""
FIRST = (on_no_device, bound, foreign)
"""Faults that use driver or core themselves: they are made before the others."""


def cannot_meet(first, second):
    """Whether two faults exclude each other."""
    return second in NOT_TOGETHER.get(first, ())


@pytest.fixture
def attempt(monkeypatch):
    """Makes an attempt with some rows broken, in any number."""

    def make(*faults):
        identity = VtdIdentity(eafs=False, srs=supervisor not in faults, nest=no_nesting not in faults)
        if does_not_fit in faults:
            identity = replace(identity, sagaw=0b00010, mgaw=39)
        made = Attempt(monkeypatch, identity)
        for fault in sorted(faults, key=lambda fault: fault not in FIRST):
            fault(made)
        return made

    return make


def test_the_rows_are_those_of_the_driver():
    """The lists in the driver, in their order and with their errno, are rows of this table."""
    names = [(check.name, check.errno) for check in (*DEVICE_CHECKS, *PASID_CHECKS, *NESTED_CHECKS)]
    known = [(row, errno) for row, _, errno, _ in ROWS]
    assert [row for row in known if row in names] == names


def test_without_a_fault_the_bind_succeeds(attempt):
    """The attempt itself is well-formed."""
    made = attempt()
    made.go()
    assert PASID_ENTRY["PGTT"].get(made.bench.entry(made.pasid)) == 3


@pytest.mark.parametrize(("row", "fault", "errno", "word"), ROWS, ids=[row[1].__name__ for row in ROWS])
def test_each_row_has_its_errno_and_leaves_nothing(attempt, row, fault, errno, word):
    """One mistake: the same state as before, but for the request for memory that was used up."""
    made = attempt(fault)
    before = made.bench.time.digest()
    error = made.bench.refused(made.go)
    assert (error.name, word in error.reason) == (errno, True), error
    if fault is no_memory:
        assert made.bench.core.slab.fail_nth == 0
        made.bench.core.slab.fail_nth = 1
    assert made.bench.time.digest() == before


PAIRS = [
    pytest.param(first, second, id=f"{first[1].__name__} before {second[1].__name__}")
    for first, second in combinations(ROWS, 2)
    if not cannot_meet(first[1], second[1])
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_of_two_broken_rows_the_earlier_one_answers(attempt, first, second):
    """Every pair that can be broken at once."""
    made = attempt(second[1], first[1])
    error = made.bench.refused(made.go)
    assert (error.name, first[3] in error.reason) == (first[2], True), error


@pytest.mark.parametrize(("others", "nth"), [((), 2), ((bound,), 1)], ids=["first device", "further device"])
def test_memory_for_the_devices_record_comes_before_the_device_and_the_entry(attempt, others, nth):
    """Row 13 is two requests for the first device of a PASID, one for a further device."""
    made = attempt(cannot_be_enabled, *others)
    made.rid = ANOTHER
    made.bench.core.slab.fail_nth = nth
    assert "struct intel_svm_dev" in made.bench.refused(made.go).reason


@pytest.mark.parametrize(
    "fault",
    [cannot_be_enabled, not_nesting_mode, five_levels, width, root, extended_accessed, memory_type],
    ids=lambda fault: fault.__name__,
)
def test_a_further_device_is_refused_for_the_same_and_leaves_the_first_one(attempt, fault):
    """Rows 14 and 15 on a second device: the first one's binding and entry stay as they are."""
    made = attempt(bound, fault)
    made.rid = ANOTHER
    before = made.bench.time.digest()
    row = next(row for row in ROWS if row[1] is fault)
    error = made.bench.refused(made.go)
    assert (error.name, row[3] in error.reason) == (row[2], True), error
    assert made.bench.time.digest() == before


@pytest.mark.parametrize("gpasid", [0, 1 << 20, 0xFFFF_FFFE])
def test_the_guests_number_is_not_checked(attempt, gpasid):
    """The driver has no knowledge of the guest's range."""
    made = attempt()
    made.change(gpasid=gpasid)
    made.go()
    assert made.bench.core.ids[made.pasid].spid == gpasid


@pytest.mark.parametrize(("la57", "fl5lp"), [(True, True), (True, False), (False, True)])
def test_five_levels_are_programmed_where_cpu_and_unit_have_them(monkeypatch, la57, fl5lp):
    """FLPM=1 in the entry; one of the two alone is -EINVAL."""
    made = Attempt(monkeypatch, VtdIdentity(fl5lp=fl5lp), la57=la57)
    made.change(addr_width=57)
    if la57 and fl5lp:
        made.go()
        assert PASID_ENTRY["FLPM"].get(made.bench.entry(made.pasid)) == 1
    else:
        assert "5-level" in made.bench.refused(made.go).reason


def test_pasids_are_switched_on_for_a_device_that_does_not_send_them_yet(attempt):
    """Row 14 is an attempt before it is a refusal."""
    made = attempt()
    config = made.bench.bus.endpoints[RID].config
    config.write(PASID_CAPABILITY + 4, 0)
    assert not config.pasid_enabled
    made.go()
    assert config.pasid_enabled


@pytest.mark.parametrize(("width", "errno"), [(16, "EINVAL"), (0, "EINVAL"), (None, "ENOTSUPP")])
def test_rows_5_and_6_are_what_the_configuration_space_says(attempt, width, errno):
    """A capability of 16 bits, no capability, and a requester ID where no PCI function answers."""
    made = attempt()
    made.rid = 0x6B00
    if width is not None:
        function = made.bench.bus.endpoints[made.rid] = Function(made.bench.time, False, made.rid)
        words = function.config.words
        words[PASID_CAPABILITY + 4] = PASID_CAP.encode(WIDTH=width, PRIV=1)[0] >> 32
        if not width:
            words[PASID_CAPABILITY] = words[PASID_CAPABILITY + 4] = 0
    made.bench.driver.add_device(made.rid)
    assert made.bench.refused(made.go).name == errno
