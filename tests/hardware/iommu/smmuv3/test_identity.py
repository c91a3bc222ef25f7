"""The identity card: what registers say, what is refused and why, what a guest is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.iommu.contract import Identity
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.hardware.iommu.smmuv3.identity import ADDRESS_WIDTHS, SmmuIdentity
from pasidlab.hardware.layouts.smmu import IDR0_REG, IDR1_REG, IDR5_REG

FLAGS = ("s2p", "ats", "asid16", "msi", "sev", "vmid16", "cd2l", "cohacc", "fwb", "ril", "gran16k", "gran64k")


@st.composite
def cards(draw):
    """Any card that can be."""
    values = {name: draw(st.booleans()) for name in FLAGS}
    values |= {"pri": values["ats"] and draw(st.booleans()), "stall_model": draw(st.integers(0, 2))}
    values |= {"sidsize": draw(st.integers(16, 32)), "ssidsize": draw(st.integers(0, 20))}
    values |= {name: draw(st.integers(0, 19)) for name in ("priqs", "evtqs", "cmdqs")}
    return SmmuIdentity(oas=draw(st.sampled_from(ADDRESS_WIDTHS)), stall_max=draw(st.integers(1, 0xFFFF)), **values)


@given(cards())
def test_a_card_survives_its_registers_and_its_expression(card):
    """What IDR0, 1, 3 and 5 say is the whole card; so is the Python that makes it."""
    assert SmmuIdentity.from_registers(card.idr0(), card.idr1(), card.idr3(), card.idr5()) == card
    assert eval(card.expression, {"SmmuIdentity": SmmuIdentity}) == card
    assert card.address_bits == card.oas
    for layout, word in ((IDR0_REG, card.idr0()), (IDR1_REG, card.idr1()), (IDR5_REG, card.idr5())):
        assert layout.reserved((word,)) == 0


@given(cards())
def test_a_guest_is_shown_stage_1_alone(card):
    """No stage 2, no stalls, 8-bit VMIDs; ATS, PRI and the width of SubstreamIDs are the host's."""
    shown = SmmuIdentity.guest(card)
    assert (shown.s1p, shown.s2p, shown.stalls, shown.vmid16) == (True, False, False, False)
    assert (shown.ats, shown.pri, shown.ssidsize) == (card.ats, card.pri, card.ssidsize)
    shown.check_silicon()


def test_a_guest_of_nothing_in_particular():
    """The default host's."""
    assert SmmuIdentity.guest() == SmmuIdentity.guest(SmmuIdentity())


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"ssidsize": 21}, "ssidsize must be between 0 and 20, not 21"),
        ({"sidsize": 15}, "sidsize must be between 16 and 32, not 15"),
        ({"stall_model": 3}, "stall_model must be between 0 and 2, not 3"),
        ({"st_level": 2}, "st_level must be between 0 and 1, not 2"),
        ({"cmdqs": 20}, "cmdqs must be between 0 and 19, not 20"),
        ({"evtqs": -1}, "evtqs must be between 0 and 19, not -1"),
        ({"stall_max": 1 << 16}, "stall_max must be between 0 and 65535, not 65536"),
        ({"oas": 47}, "oas must be one of"),
        ({"ttf": 3}, "AArch64 tables only"),
        ({"ttendian": 0}, "little-endian tables only"),
        ({"hyp": True}, "streams of EL2 are left out"),
        ({"rel": True}, "not part of the unit"),
        ({"queues_preset": True}, "not part of the unit"),
        ({"tables_preset": True}, "not part of the unit"),
        ({"s1p": False, "s2p": False, "ssidsize": 0}, "at least one stage"),
        ({"gran4k": False, "gran16k": False, "gran64k": False}, "names a granule"),
        ({"ats": False}, "page requests need ATS"),
        ({"stall_max": 0}, "a unit that holds transactions holds at least one"),
        ({"s1p": False}, "substreams choose a context of stage 1"),
    ],
)
def test_a_card_that_no_unit_can_have_is_refused(values, rule):
    """With the rule, and where to read it."""
    with pytest.raises(ValueError, match=rule):
        SmmuIdentity(**values)


@pytest.mark.parametrize("values", [{"ats": 1}, {"oas": True}, {"oas": "48"}, {"ssidsize": 20.0}])
def test_what_is_no_number_or_no_flag_is_refused(values):
    """``TypeError``, also for a flag in the place of a number."""
    with pytest.raises(TypeError, match="must be"):
        SmmuIdentity(**values)


@pytest.mark.parametrize("idr5", [0x57, 0x475])
def test_registers_of_a_unit_that_this_model_does_not_have_are_refused(idr5):
    """An unknown width, or 52-bit virtual addresses."""
    card = SmmuIdentity()
    with pytest.raises(ValueError, match="IDR5 must name"):
        SmmuIdentity.from_registers(card.idr0(), card.idr1(), card.idr3(), idr5)


def test_a_card_is_what_the_contract_asks_for():
    """And the family of this name makes units with it."""
    card: Identity = replace(SmmuIdentity(), ats=False, pri=False)
    family = FAMILIES["smmuv3"]
    family.check(card, 1 << 40)
    assert family.identity is SmmuIdentity
    with pytest.raises(ValueError, match="must cover the memory"):
        family.check(SmmuIdentity(oas=32), 1 << 33)
