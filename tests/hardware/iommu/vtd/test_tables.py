"""From requester ID and PASID to the PASID entry: each fault reason at its step."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.vtd.identity import Revision
from pasidlab.hardware.iommu.vtd.tables import Lookup, find_pasid_entry
from pasidlab.hardware.layouts.vtd import PASID_DIR_ENTRY, PASID_ENTRY
from pasidlab.hardware.pcie import RequestKind
from tests.hardware.iommu.vtd.by_hand import (
    BEYOND,
    CONTEXT,
    CONTEXT_AT,
    DIRECTORY_AT,
    ENTRY_AT,
    IOVA,
    PASID,
    RID,
    ROOT,
    ROOT_AT,
    TABLE,
    Bench,
)


@pytest.fixture
def bench():
    """A unit with an empty first level behind its PASID entry."""
    bench = Bench()
    bench.entry(PGTT=1)
    bench.first_level()
    return bench


def test_everything_in_order_translates(bench):
    """The undisturbed bench reaches its page."""
    assert bench.ask() == 0x200890


@pytest.mark.parametrize(
    ("rtaddr", "pasid", "code"),
    [
        (ROOT | 2 << 10, PASID, 0x30),
        (ROOT | 1 << 10 | 1, PASID, 0x30),
        (1 << 50 | 1 << 10, PASID, 0x30),
        (ROOT, PASID, 0x31),
        (ROOT, None, 0x30),
        (ROOT | 3 << 10, PASID, 0x30),
        (BEYOND | 1 << 10, PASID, 0x38),
    ],
)
def test_the_root_pointer_is_checked_first(bench, rtaddr, pasid, code):
    """Table modes that the unit does not have, reserved bits, a root table without memory."""
    bench.unit.root_pointer = rtaddr
    assert bench.ask(pasid=pasid) == code


def test_abort_mode_has_its_own_reason():
    """A unit with ECAP.ADMS aborts with 0x33."""
    bench = Bench(adms=True)
    bench.unit.root_pointer = ROOT | 3 << 10
    assert bench.ask() == 0x33


@pytest.mark.parametrize(
    ("low", "high", "code"),
    [
        (0, CONTEXT | 1, 0x39),
        (CONTEXT | 1 | 1 << 5, 0, 0x3A),
        (CONTEXT | 1 | 1 << 52, 0, 0x3A),
        (CONTEXT | 1, 1 << 5, 0x200890),
        (BEYOND | 1, 0, 0x40),
    ],
)
def test_only_the_half_of_the_root_entry_in_use_counts(bench, low, high, code):
    """Presence and reserved bits of the lower half, for a device below 80; the other half may hold anything."""
    bench.memory.store_words(ROOT_AT, (low, high))
    assert bench.ask() == code


@pytest.mark.parametrize(
    ("values", "pasid", "code"),
    [
        ({"P": 0}, PASID, 0x41),
        ({"PASIDE": 0}, PASID, 0x45),
        ({"PASIDE": 0}, None, 0x200890),
        ({"PDTS": 0, "RID_PASID": 0}, 0x2000, 0x46),
        ({"PDTS": 0, "RID_PASID": 0x2000}, None, 0x48),
        ({"PDTS": 0, "RID_PASID": 0x2000}, PASID, 0x200890),
        ({"PASIDDIRPTR": BEYOND}, PASID, 0x50),
        ({"PASIDDIRPTR": 1 << 50}, PASID, 0x42),
    ],
)
def test_the_context_entry_decides_about_pasids(bench, values, pasid, code):
    """Presence, PASIDE, the directory's size, RID_PASID, the directory pointer."""
    bench.context(**values)
    assert bench.ask(pasid=pasid) == code


@pytest.mark.parametrize("bit", [5, 8, 85, 127, 128, 255])
def test_reserved_bits_of_a_context_entry_are_refused(bench, bit):
    """Bits 8:5 and 255:85, in a present entry only."""
    at, mask = CONTEXT_AT + bit // 64 * 8, 1 << bit % 64
    bench.memory.store(at, bench.memory.load(at) | mask)
    assert bench.ask() == 0x42
    bench.memory.store(CONTEXT_AT, bench.memory.load(CONTEXT_AT) & ~1)
    assert bench.ask() == 0x41


@pytest.mark.parametrize(
    ("kind", "values", "code"),
    [
        (RequestKind.TRANSLATION, {"DTE": 0}, 0x44),
        (RequestKind.TRANSLATED, {"DTE": 0}, 0x44),
        (RequestKind.TRANSLATION, {"DTE": 1}, None),
        (RequestKind.PAGE, {"PRE": 0}, 0x47),
        (RequestKind.PAGE, {"PRE": 1}, None),
    ],
)
def test_address_translation_services_need_their_permission(bench, kind, values, code):
    """DTE for translation and translated requests, PRE for page requests."""
    bench.context(**values)
    unit = bench.unit
    assert find_pasid_entry(Lookup(bench.memory, unit.root_pointer, unit.rules), RID, PASID, kind).reason == code


def test_a_page_request_in_legacy_mode_has_its_own_reason(bench):
    """0x32, where other requests get 0x31 or 0x30."""
    assert find_pasid_entry(Lookup(bench.memory, ROOT, bench.unit.rules), RID, None, RequestKind.PAGE).reason == 0x32


def test_rid_pasid_serves_requests_without_a_pasid_if_the_unit_has_it(bench):
    """Without ECAP.RPS the number is 0."""
    assert bench.unit.find_pasid_entry(RID, None).pasid == PASID
    assert Bench(rps=False).unit.find_pasid_entry(RID, None).pasid == 0


def test_rid_priv_counts_only_on_a_unit_that_has_it():
    """With ECAP.RPRIVS a request without PASID is privileged, which SRE=0 forbids."""
    for rprivs, answer in ((False, 0x200890), (True, 0x5D)):
        bench = Bench(rprivs=rprivs)
        bench.entry(PGTT=1)
        bench.first_level()
        bench.context(RID_PRIV=1)
        assert bench.ask(pasid=None) == answer


@pytest.mark.parametrize(
    ("word", "code"),
    [
        (0, 0x51),
        (TABLE | 1 | 1 << 2, 0x52),
        (TABLE | 1 | 1 << 11, 0x52),
        (TABLE | 1 | 1 << 50, 0x52),
        (TABLE | 1 << 5, 0x51),
        (BEYOND | 1, 0x58),
    ],
)
def test_the_directory_entry_is_checked(bench, word, code):
    """Presence before reserved bits; a pointer without memory shows at the next read."""
    bench.memory.store(DIRECTORY_AT, word)
    assert bench.ask() == code


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"P": 0, "PGTT": 1}, 0x59),
        ({"P": 0, "PGTT": 7}, 0x59),
        ({"PGTT": 0}, 0x5B),
        ({"PGTT": 5}, 0x5B),
        ({"PGTT": 2, "AW": 1}, 0x5B),
        ({"PGTT": 2, "AW": 3}, 0x5B),
        ({"PGTT": 1, "AW": 7}, 0x200890),
        ({"PGTT": 1, "FLPM": 1}, 0x5B),
        ({"PGTT": 1, "FLPM": 2}, 0x5B),
        ({"PGTT": 1, "FLPTPTR": 1 << 48}, 0x5A),
        ({"PGTT": 2, "FLPTPTR": 1 << 48, "SLPTPTR": BEYOND, "AW": 2}, 0x7B),
        ({"PGTT": 2, "SLPTPTR": 1 << 48}, 0x5A),
        ({"PGTT": 3, "FLPTPTR": 1 << 48}, 0x5A),
        ({"PGTT": 1, "NXE": 1, "ERE": 1, "CD": 1, "PAT": 1}, 0x200890),
    ],
)
def test_the_pasid_entry_is_checked(bench, values, code):
    """Absent before reserved before unsupported; only the pointers that the translation uses count."""
    bench.entry(**values)
    assert bench.ask() == code


@pytest.mark.parametrize("bit", [10, 11, 80, 86, 136, 139, 192, 511])
def test_reserved_bits_of_a_pasid_entry_are_refused(bench, bit):
    """In a present entry; an absent one may hold what software likes."""
    at = ENTRY_AT + bit // 64 * 8
    bench.memory.store(at, bench.memory.load(at) | 1 << bit % 64)
    assert bench.ask() == 0x5A
    bench.memory.store(ENTRY_AT, bench.memory.load(ENTRY_AT) & ~1)
    assert bench.ask() == 0x59


@pytest.mark.parametrize(("field", "capability"), [("SRE", "srs"), ("PGSNP", "sc")])
def test_what_switches_on_a_missing_capability_is_reserved(field, capability):
    """SRE without ECAP.SRS answered 0x5a on real hardware (Linux commit 7fc961cf7ffc); PGSNP without ECAP.SC alike."""
    for has, answer in ((True, 0x200890), (False, 0x5A)):
        for pgtt in (1, 4):
            bench = Bench(**{capability: has})
            bench.entry(PGTT=pgtt, **{field: 1})
            bench.first_level()
            assert bench.ask(address=0x200890 if pgtt == 4 and has else IOVA) == answer


@pytest.mark.parametrize(
    ("fields", "card"),
    [({"SSADE": 1}, {"ssads": False}), ({"EAFE": 1}, {"eafs": False}), ({"AW": 2}, {"ssts": False, "nest": False})],
)
def test_what_means_nothing_to_a_unit_is_ignored(fields, card):
    """UNVERIFIED for the first two; AW is set by Linux for first-level entries of every unit."""
    bench = Bench(**card)
    bench.entry(PGTT=1, **fields)
    bench.first_level()
    assert bench.ask() == 0x200890


@pytest.mark.parametrize("name", ["SLEE", "ERE", "CD", "EMTE", "EMT", "PWT", "PCD", "PAT"])
def test_revision_4_1_reserves_what_3_accepts(name):
    """The same entry is fine for one revision and refused by the other."""
    for revision, answer in ((Revision.V3, 0x200890), (Revision.V4_1, 0x5A)):
        bench = Bench(revision=revision)
        bench.entry(PGTT=1, **{name: 1})
        bench.first_level()
        assert bench.ask() == answer


def test_revision_4_1_sees_a_contradiction_where_3_sees_a_bad_rid_pasid():
    """RID_PASID beyond the directory: 0x48 when it is used, or 0x43 at once."""
    for revision, answer in ((Revision.V3, 0x48), (Revision.V4_1, 0x43)):
        bench = Bench(revision=revision)
        bench.context(PDTS=0, RID_PASID=0x2000)
        assert bench.ask(pasid=None) == answer


@pytest.mark.parametrize(
    ("identity", "pgtt"),
    [({"fsts": False}, 1), ({"ssts": False}, 2), ({"nest": False}, 3), ({"ssts": False}, 3), ({"pt": False}, 4)],
)
def test_a_unit_refuses_translations_that_it_does_not_have(identity, pgtt):
    """PGTT is checked against ECAP."""
    bench = Bench(**identity)
    bench.entry(PGTT=pgtt)
    assert bench.ask() == 0x5B


@pytest.mark.parametrize("where", ["context", "directory", "entry"])
def test_fpd_anywhere_on_the_way_suppresses_the_record(bench, where):
    """Even in an entry that is not present."""
    if where == "context":
        bench.context(P=0, FPD=1)
    elif where == "directory":
        bench.memory.store_words(DIRECTORY_AT, PASID_DIR_ENTRY.encode(FPD=1))
    else:
        bench.memory.store_words(ENTRY_AT, PASID_ENTRY.encode(FPD=1))
    answer = bench.unit.translate(bench.request())
    assert answer.suppressed
    assert bench.unit.faults.records() == []


def test_fpd_of_a_context_entry_does_not_hide_faults_before_it(bench):
    """Root faults are not qualified, and come before any FPD is seen."""
    bench.context(FPD=1)
    bench.memory.store_words(ROOT_AT, (0, 0))
    assert not bench.unit.translate(bench.request()).suppressed
    assert len(bench.unit.faults.records()) == 1


def test_the_entry_can_be_found_without_a_request(bench):
    """What a hypervisor does on a PASID-cache invalidation: words and place, or the first reason."""
    found = bench.unit.find_pasid_entry(RID, PASID)
    assert found.reason is None
    assert PASID_ENTRY["DID"].get(found.words) == 7
    assert found.address == ENTRY_AT
    assert bench.unit.find_pasid_entry(RID, PASID + 1).reason == 0x59
