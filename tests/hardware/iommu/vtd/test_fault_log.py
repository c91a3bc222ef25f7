"""Fault recording: what a record says of each kind of request, the ring and its index, overflow, and the real logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.iommu.vtd.fault_log import FaultLog
from pasidlab.hardware.iommu.vtd.faults import FaultReason
from pasidlab.hardware.iommu.vtd.registers import FSTS, GCMD, GCMD_TE
from pasidlab.hardware.layouts.vtd import FSTS_REG
from pasidlab.hardware.layouts.vtd_control import GCMD_REG
from pasidlab.hardware.layouts.vtd_queue import FRCD
from pasidlab.hardware.pcie import Access, DmaRequest, RequestKind, format_rid, parse_rid
from tests.hardware.iommu.vtd.recorder import Recorder

DATA = Path(__file__).parents[3] / "data"
CODES = json.loads((DATA / "codes.json").read_text())["vtd_scalable_fault_reasons"]["rows"]
F = 1 << 31


def fault(step=0, **request):
    """A fault of some request, told apart by its page."""
    usual = {"rid": 0x6A08, "address": step << 12, "access": Access.WRITE, "pasid": 5}
    return Fault(0x59, "SPT.2", "", DmaRequest(**(usual | request)))


def status(unit):
    """FSTS by field."""
    return FSTS_REG.decode((unit.mmio_read(FSTS, 4),))


def pages(unit):
    """Which pages the pending records name, oldest first."""
    return [FRCD["FI"].get(words) >> 12 for words in unit.faults.records()]


def clear(unit, index):
    """Clear a record as a driver does."""
    unit.mmio_write(16 * (unit.identity.fro + index) + 12, F, 4)


# --- what a record says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "kind", "t1", "t2", "at", "exe"),
    [
        (Access.READ, RequestKind.MEMORY, 1, 0, 0, 0),
        (Access.WRITE, RequestKind.MEMORY, 0, 0, 0, 0),
        (Access.EXECUTE, RequestKind.MEMORY, 1, 0, 0, 1),
        (Access.ATOMIC, RequestKind.MEMORY, 1, 1, 0, 0),
        (Access.READ, RequestKind.TRANSLATION, 1, 0, 1, 0),
        (Access.WRITE, RequestKind.TRANSLATION, 0, 0, 1, 0),
        (Access.EXECUTE, RequestKind.TRANSLATION, 1, 0, 1, 1),
        (Access.WRITE, RequestKind.TRANSLATED, 0, 0, 2, 0),
        (Access.ATOMIC, RequestKind.TRANSLATED, 1, 1, 2, 0),
        (Access.READ, RequestKind.PAGE, 0, 1, 0, 0),
        (Access.WRITE, RequestKind.PAGE, 0, 1, 0, 0),
        (Access.EXECUTE, RequestKind.PAGE, 0, 1, 0, 0),
    ],
)
@pytest.mark.parametrize("pasid", [None, 0, 0xFFFFF])
@pytest.mark.parametrize("privileged", [False, True])
def test_a_record_tells_who_what_where_why(access, kind, t1, t2, at, exe, pasid, privileged):
    """Requester, PASID, page, reason, type, address type; privilege and execution only of requests with a PASID."""
    unit = Recorder()
    request = DmaRequest(0xFFF8, 0xFFFF_A93B_317B_37A0, access, pasid, privileged, kind)
    unit.faults.record(Fault(0x91, "SFS.10", "", request))
    tagged = int(pasid is not None)
    assert FRCD.decode(unit.faults.records()[0]) == {
        "FI": 0xFFFF_A93B_317B_3000,
        "SID": 0xFFF8,
        "T1": t1,
        "T2": t2,
        "PRIV": int(privileged) * tagged,
        "EXE": exe * tagged,
        "PP": tagged,
        "PV": pasid or 0,
        "FR": 0x91,
        "AT": at,
        "F": 1,
    }
    assert FRCD.reserved(unit.faults.records()[0]) == 0


def real_faults():
    """Lines that real kernels printed from fault records of units in scalable mode."""
    known = []
    for row in json.loads((DATA / "realdata" / "index.json").read_text()):
        for one in row["expect"] if isinstance(row["expect"], list) else [row["expect"]]:
            known += [one] if one.get("mode") == "scalable" else []
    return known


@pytest.mark.parametrize("line", real_faults(), ids=lambda line: f"{line['device']}-{line['reason_code']}")
def test_a_record_holds_what_a_real_kernel_printed(line):
    """Device, PASID, direction, page and reason of real logs survive the way through a record."""
    unit = Recorder()
    access, code = Access(line["access"]), int(line["reason_code"], 0)
    request = DmaRequest(parse_rid(line["device"]), int(line["address"], 0), access, line["pasid"])
    unit.faults.record(Fault(code, FaultReason.of(code).label, "", request))
    record = FRCD.decode(unit.faults.records()[0])
    assert (format_rid(record["SID"]), hex(record["FI"]), hex(record["FR"])) == (
        line["device"],
        line["address"],
        line["reason_code"],
    )
    assert (record["PV"] if record["PP"] else None) == line["pasid"]
    assert ("write", "read")[record["T1"]] == line["access"]


# --- the ring ---------------------------------------------------------------------------------------------------------


def test_the_first_pending_record_is_named_and_stays_named():
    """FRI is the record that made PPF rise; clearing records, in any order, moves it only when the last one goes."""
    unit = Recorder(nfr=4)
    assert status(unit)["PPF"] == 0
    unit.faults.record(fault(1))
    clear(unit, 0)
    for step in (2, 3, 4):
        unit.faults.record(fault(step))
    assert (status(unit)["PPF"], status(unit)["FRI"]) == (1, 1)
    for index in (2, 1):
        clear(unit, index)
        assert (status(unit)["PPF"], status(unit)["FRI"]) == (1, 1)
    clear(unit, 3)
    assert (status(unit)["PPF"], status(unit)["FRI"]) == (0, 0)
    unit.faults.record(fault(5))
    assert (status(unit)["PPF"], status(unit)["FRI"]) == (1, 0)


@pytest.mark.parametrize("count", [1, 2, 8, 256])
def test_a_full_ring_loses_faults_and_says_so(count):
    """PFO; the records that are there stay; nothing is recorded until PFO is cleared, then behind the last one."""
    unit = Recorder(nfr=count)
    assert [unit.faults.record(fault(step)) for step in range(count + 2)] == [True] * count + [False, False]
    assert pages(unit) == list(range(count))
    assert status(unit) | {"FRI": 0} == dict.fromkeys(status(unit), 0) | {"PFO": 1, "PPF": 1}
    clear(unit, 0)
    assert not unit.faults.record(fault(0x100))
    unit.mmio_write(FSTS, FSTS_REG["PFO"].mask, 4)
    assert unit.faults.record(fault(0x101))
    assert 0x101 in pages(unit)
    assert status(unit)["PFO"] == 0


def test_a_single_free_record_elsewhere_does_not_help():
    """The record that comes next decides: if it is in use the fault is lost, though others are free."""
    unit = Recorder(nfr=4)
    for step in range(4):
        unit.faults.record(fault(step))
    clear(unit, 2)
    assert not unit.faults.record(fault(9))
    assert (status(unit)["PFO"], pages(unit)) == (1, [0, 1, 3])


def test_a_driver_that_reads_from_fri_on_sees_every_record_in_order():
    """The loop of Linux: from FRI, circularly, until a record without F; then PFO and PPF are cleared."""
    unit, seen = Recorder(nfr=3), []
    for burst in ((0, 1), (2, 3, 4), (5,), (6, 7, 8, 9)):
        for step in burst:
            unit.faults.record(fault(step))
        index = status(unit)["FRI"]
        while unit.mmio_read(16 * (unit.identity.fro + index) + 12, 4) & F:
            seen.append(unit.mmio_read(16 * (unit.identity.fro + index)) >> 12)
            clear(unit, index)
            index = (index + 1) % 3
        unit.mmio_write(FSTS, 0x83, 4)
        assert unit.mmio_read(FSTS, 4) == 0
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_the_ring_begins_anew_when_nothing_is_translated_any_more():
    """The internal index returns to zero when TE and IRE are both clear, not while one of them is set."""
    unit, ire = Recorder(nfr=4), GCMD_REG["IRE"].mask
    unit.mmio_write(GCMD, GCMD_TE | ire, 4)
    unit.faults.record(fault(1))
    clear(unit, 0)
    unit.mmio_write(GCMD, ire, 4)
    unit.faults.record(fault(2))
    assert status(unit)["FRI"] == 1
    clear(unit, 1)
    unit.mmio_write(GCMD, 0, 4)
    unit.mmio_write(GCMD, GCMD_TE, 4)
    unit.faults.record(fault(3))
    assert (status(unit)["FRI"], pages(unit)) == (0, [3])


class PlainRing:
    """The specification's section 7.2.1, sentence by sentence."""

    def __init__(self, count):
        self.slots, self.index, self.fri, self.overflow = [None] * count, 0, 0, False

    def record(self, page):
        if self.overflow:
            return
        if self.slots[self.index] is not None:
            self.overflow = True
            return
        if not any(slot is not None for slot in self.slots):
            self.fri = self.index
        self.slots[self.index] = page
        self.index = (self.index + 1) % len(self.slots)

    def status(self):
        pending = any(slot is not None for slot in self.slots)
        return {"PFO": int(self.overflow), "PPF": int(pending), "FRI": self.fri if pending else 0}


STEPS = st.lists(st.one_of(st.just("fault"), st.just("no overflow"), st.integers(0, 3)), max_size=40)


@given(st.integers(1, 4), STEPS)
def test_the_ring_is_the_specifications(count, steps):
    """Faults, clears in any order and cleared overflows: same status and same records as the plain ring."""
    unit, plain = Recorder(nfr=count), PlainRing(count)
    unit.mmio_write(GCMD, GCMD_TE, 4)
    for number, step in enumerate(steps, 1):
        if step == "fault":
            unit.faults.record(fault(number))
            plain.record(number)
        elif step == "no overflow":
            unit.mmio_write(FSTS, FSTS_REG["PFO"].mask, 4)
            plain.overflow = False
        else:
            clear(unit, step % count)
            plain.slots[step % count] = None
        held = [unit.mmio_read(offset) >> 12 for offset in sorted(FaultLog.rows(unit.identity))[::2]]
        used = [unit.mmio_read(offset) >> 63 for offset in sorted(FaultLog.rows(unit.identity))[1::2]]
        assert [page if flag else None for page, flag in zip(held, used, strict=True)] == plain.slots
        assert {name: status(unit)[name] for name in plain.status()} == plain.status()


# --- the table of reasons ---------------------------------------------------------------------------------------------


def test_the_reasons_are_those_of_the_facts():
    """Number and name of each, none missing, none beyond."""
    assert {reason.value: reason.label for reason in FaultReason} == {int(row["code"], 0): row["name"] for row in CODES}


def test_entries_that_cannot_be_read_are_reported_whatever_fpd_says():
    """Else the facts' column holds; for 0x40, 0x50 and 0x58 they say yes, the specification and QEMU say no."""
    ours = {reason.value for reason in FaultReason if reason.qualified}
    facts = {int(row["code"], 0) for row in CODES if row["qualified"]}
    assert facts - ours == {0x40, 0x50, 0x58}
    assert ours <= facts


def test_what_rests_on_too_little_says_so():
    """The rows that no source or only one decides."""
    by_status = {status: {reason.value for reason in FaultReason if reason.status == status} for status in STATUSES}
    assert by_status == STATUSES


STATUSES = {
    "UNVERIFIED": {0x88},
    "UNVERIFIED in the facts; so in table 30 of the specification, revision 5.10": {0x33, 0x89},
    "sources disagree": {0x7B, 0x84},
    "one source": {0x7D, 0x91},
}
