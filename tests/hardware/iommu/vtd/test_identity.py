"""The identity card: every register field an attribute and back, impossible cards refused, rows for people."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.iommu.vtd.identity import Revision, VtdIdentity
from pasidlab.hardware.iommu.vtd.registers import CAP, ECAP, VER
from pasidlab.hardware.iommu.vtd.unit import VtdUnit
from pasidlab.hardware.iommu.vtd.virtual_command import VCMD_AT_E00, VCMD_AT_E10
from pasidlab.hardware.layouts.vtd import CAP_REG, ECAP_REG
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.timeline import HARDWARE, Timeline

REAL = Path(__file__).parents[3] / "data" / "realdata"
ELSEWHERE = {"ver", "haw", "revision", "vcmd", "caches"}
STORED_MINUS_1 = {"mgaw", "nfr"}
REGISTER_FIELDS = [(layout, field) for layout in (CAP_REG, ECAP_REG) for field in layout]


def named(field):
    """The attribute of a register field."""
    return field.name.lower()


@st.composite
def cards(draw):
    """Any card that is possible."""
    values: dict = {}
    for _, field in REGISTER_FIELDS:
        least = int(named(field) in STORED_MINUS_1)
        number = draw(st.integers(least, (1 << field.width) - 1 + least))
        values[named(field)] = bool(number) if field.width == 1 else number
    values["fro"] = draw(st.integers(0x100, 0x3FF))  # behind all other registers
    values["sagaw"] |= 0b00100
    return replace(VtdIdentity(), **values, haw=draw(st.integers(13, 52)), ver=draw(st.integers(0, 255)))


def test_every_register_field_is_an_attribute_and_nothing_else_but_four_and_the_version():
    """No field of CAP and ECAP is forgotten, and each has one attribute."""
    attributes = {field.name for field in fields(VtdIdentity)}
    assert attributes - ELSEWHERE == {named(field) for _, field in REGISTER_FIELDS}
    assert attributes >= ELSEWHERE


@given(cards())
def test_a_card_survives_its_registers(card):
    """Every attribute goes into CAP or ECAP and comes back; what stands elsewhere is given beside them."""
    again = VtdIdentity.from_registers(card.cap(), card.ecap(), card.haw, card.ver)
    assert again == card
    assert CAP_REG.reserved((card.cap(),)) == ECAP_REG.reserved((card.ecap(),)) == 0


@pytest.mark.parametrize(("layout", "field"), REGISTER_FIELDS, ids=[field.name for _, field in REGISTER_FIELDS])
def test_an_attribute_changes_its_own_bits_only(layout, field):
    """Toggling one attribute of the usual card changes that field of that register and no other bit."""
    card, name = VtdIdentity(), named(field)
    value = {"fro": 0x41, "sagaw": 0b01100, "nfr": 9}.get(name, int(getattr(card, name)) ^ 1)
    changes: dict = {name: bool(value) if field.width == 1 else value}
    other = replace(card, **changes)
    words = (card.cap() ^ other.cap(), card.ecap() ^ other.ecap())
    changed = words[0] if layout is CAP_REG else words[1]
    assert sum(map(bool, words)) == 1
    assert changed & ~field.mask == 0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"nd": 8}, "nd must be between 0 and 7, not 8"),
        ({"mgaw": 0}, "mgaw must be between 1 and 64, not 0"),
        ({"mgaw": 65}, "mgaw must be between 1 and 64, not 65"),
        ({"nfr": 0}, "nfr must be between 1 and 256, not 0"),
        ({"nfr": 257}, "nfr must be between 1 and 256, not 257"),
        ({"pss": 32}, "pss must be between 0 and 31, not 32"),
        ({"fro": 1 << 10}, "fro must be between 0 and 1023"),
        ({"sllps": -1}, "sllps must be between 0 and 15"),
        ({"ver": 256}, "ver must be between 0 and 255"),
        ({"haw": 53}, "haw must be between 13 and 52"),
        ({"sagaw": 0}, "sagaw must have a bit of 0b01110 when ssts is set"),
        ({"sagaw": 0b10001}, "sagaw must have a bit of 0b01110 when ssts is set"),
        ({"fro": 0x2}, "the fault records must lie outside the fixed registers"),
        ({"fro": 0xE0, "vcs": True}, "the fault records must lie outside the virtual command registers"),
        ({"fro": 0xE3, "vcs": True, "vcmd": VCMD_AT_E00}, "the fault records must lie outside the virtual command"),
        ({"fro": 0x40, "nfr": 256, "vcs": True}, "the fault records must lie outside the virtual command registers"),
    ],
)
def test_impossible_cards_are_refused(values, says):
    """With the field, what it may be, what it was, and where that is written down."""
    with pytest.raises(ValueError, match=says) as error:
        replace(VtdIdentity(), **values)
    assert "facts/hardware.md" in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"nest": True, "fsts": False},
        {"sagaw": 0, "ssts": False},
        {"fro": 0xE3, "vcs": True, "vcmd": VCMD_AT_E10},
        {"fro": 0xE4, "vcs": True, "vcmd": VCMD_AT_E00},
        {"fro": 0xE0, "nfr": 256},
        {"fl5lp": True, "fsts": False},
    ],
)
def test_unusual_cards_are_accepted(values):
    """What the specification advises against but real units report, and what only looks tight."""
    replace(VtdIdentity(), **values)


def test_the_usual_cards_have_what_their_kernels_need():
    """The host: nesting and page requests; the guest: caching mode, virtual commands, page requests, no nesting."""
    host, guest = VtdIdentity(), VtdIdentity.guest()
    wanted = ("nest", "fsts", "ssts", "smts", "pasid", "pt", "dt", "prs", "pds", "srs", "smpwcs", "rps", "caches")
    assert all(getattr(host, name) for name in wanted)
    assert not host.cm
    assert all(getattr(guest, name) for name in ("cm", "vcs", "prs", "dt", "pds", "fsts", "smts", "pasid"))
    assert (guest.nest, guest.ssts) == (False, False)


def caps():
    """The real CAP and ECAP pairs, and what each is known to say."""
    known = []
    for row in json.loads((REAL / "index.json").read_text()):
        expected = row["expect"] if isinstance(row["expect"], list) else [row["expect"]]
        known += [(row["file"], one) for one in expected if row["kind"] == "vtd_caps"]
    return known


@pytest.mark.parametrize(("name", "expect"), caps(), ids=[one["cap"] for _, one in caps()])
def test_real_units_decode_to_what_is_known_of_them(name, expect):
    """Widths, depths, offsets and flags; and each bit that the layouts name comes back."""
    cap, ecap = int(expect["cap"], 0), int(expect["ecap"], 0)
    text = (REAL / name).read_text()
    assert f"{cap:x}" in text
    assert f"{ecap:x}" in text
    card = VtdIdentity.from_registers(cap, ecap)
    said = {
        "cap": hex(card.cap() | CAP_REG.reserved((cap,))),
        "ecap": hex(card.ecap() | ECAP_REG.reserved((ecap,))),
        "mgaw": card.mgaw,
        "sagaw": card.sagaw,
        "levels": [bit + 2 for bit in (1, 2, 3) if card.sagaw >> bit & 1],
        "fault_records": card.nfr,
        "fault_offset": hex(16 * card.fro),
        "iotlb_offset": hex(16 * card.iro),
        "domains": 1 << 4 + 2 * card.nd,
        "caching_mode": card.cm,
        "device_tlb": card.dt,
        "pass_through": card.pt,
        "pasid_bits": card.pss + 1 if card.pasid else None,
        "slts": card.ssts,
        "flts": card.fsts,
        "coherent": card.c,
    }
    same = ("fl5lp", "fl1gp", "prs", "ers", "srs", "nest", "pasid", "vcs", "smts", "dit", "pds")
    assert said | {key: getattr(card, key) for key in same} == expect


def test_the_identity_registers_show_the_card():
    """VER, CAP and ECAP of a unit with a real card; what is not given is the usual."""
    timeline = Timeline()
    card = VtdIdentity.from_registers(0x19ED008C40780C66, 0x3EE9E86F050DF, haw=52, ver=0x60)
    unit = VtdUnit(timeline, "unit", HARDWARE, PhysicalMemory(timeline, "ram", 1 << 20), card)
    assert (unit.mmio_read(VER, 4), unit.mmio_read(CAP), unit.mmio_read(ECAP)) == (0x60, card.cap(), card.ecap())
    assert (card.revision, card.vcmd, card.caches) == (Revision.V3, VCMD_AT_E10, True)


def test_the_host_width_is_the_guest_width_as_far_as_entries_reach():
    """Without ``haw``: MGAW, but never more than the 52 bits that a paging entry can hold."""
    assert VtdIdentity.from_registers(0x1C0000C40660462, 0x29A00F0505E).haw == 39
    assert VtdIdentity.from_registers(0x19ED008C40780C66, 0x3EE9E86F050DF).haw == 52


def test_a_card_can_be_read_by_people():
    """A row for each field with value and words; the numbers that the registers store minus 1 are whole again."""
    rows = {row.name: row for row in VtdIdentity(sllps=1, nfr=1, sagaw=0b01010, vcs=True).describe()}
    assert {field.name for _, field in REGISTER_FIELDS} <= rows.keys()
    says = {
        name: rows[name].says for name in ("SLLPS", "NFR", "SAGAW", "MGAW", "FRO", "VCS", "CM", "PSS", "VER", "HAW")
    }
    assert says == {
        "SLLPS": "2 MiB",
        "NFR": "1 fault record",
        "SAGAW": "3 or 5 levels",
        "MGAW": "48 bits",
        "FRO": "at offset 0x400",
        "VCS": "yes",
        "CM": "no",
        "PSS": "20 bits",
        "VER": "version 4.0",
        "HAW": "48 bits",
    }
    assert rows["MGAW"].value == 47
    assert all(row.meaning for row in rows.values())


@pytest.mark.parametrize("wrong", [{"revision": "4.1"}, {"vcmd": "x"}, {"pss": 19.5}, {"nest": 1}, {"sagaw": "4"}])
def test_a_card_holds_numbers_flags_and_a_revision(wrong):
    """A value of another kind is refused by its name, and never taken for something like it."""
    with pytest.raises(TypeError, match=next(iter(wrong))):
        VtdIdentity(**wrong)
