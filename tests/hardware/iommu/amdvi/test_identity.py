"""The identity card: what cannot be, what registers say, and what only an emulated unit may be."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.layouts.amd import EFR, EFR2


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"hats": 4}, "EFR.HATS"),
        ({"gats": 3}, "EFR.GATS"),
        ({"glx": 3}, "EFR.GLX"),
        ({"gam": 8}, "EFR.GAM"),
        ({"pasmax": 20}, "EFR.PASmax"),
        ({"address_bits": 53}, "address bits"),
        ({"address_bits": 12}, "address bits"),
        ({"gt": False}, "giosup must be False when gt is False"),
        ({"gt": False, "giosup": False}, "gcr3trp must be False when gt is False"),
        ({"hasup": False}, "hdsup must be False when hasup is False"),
        ({"ppr": False}, "pprautorsp must be False when ppr is False"),
        ({"hats": 3}, "gcr3trp must be False when hats is 3"),
    ],
)
def test_a_card_that_no_unit_can_have_is_refused(values, rule):
    """The sentence names the field and the rule."""
    with pytest.raises(ValueError, match=rule):
        AmdIdentity(**values)


@pytest.mark.parametrize("values", [{"ppr": 1}, {"pasmax": True}, {"hats": "2"}])
def test_values_must_be_of_the_fields_type(values):
    """A flag is no number, a number no flag."""
    with pytest.raises(TypeError, match="must be"):
        AmdIdentity(**values)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_registers_make_the_card_that_makes_them(efr, efr2):
    """Any registers, unless they are impossible; unknown bits are dropped."""
    known = EFR.join((efr,)) & ~EFR.reserved_mask, efr2 & ~EFR2.reserved_mask
    try:
        card = AmdIdentity.from_registers(efr, efr2)
    except ValueError:
        return
    assert (card.efr(), card.efr2()) == known


def test_every_field_of_the_registers_is_on_the_card():
    """By its name in lower case, and described."""
    names = {field.name for field in fields(AmdIdentity)}
    known = {field.name.lower() for layout in (EFR, EFR2) for field in layout}
    assert names == known | {"address_bits", "caches"}
    assert len(AmdIdentity().describe()) == len(names)


def test_an_expression_makes_the_card_again():
    """Only what differs from the usual one is named."""
    card = AmdIdentity(hats=0, pasmax=8, caches=False)
    assert eval(card.expression) == card
    assert AmdIdentity().expression == "AmdIdentity()"


def test_levels_and_widths_in_numbers():
    """HATS, GATS, PASmax."""
    assert [AmdIdentity(hats=code).host_levels for code in range(3)] == [4, 5, 6]
    assert AmdIdentity.guest().host_levels == 0
    assert [AmdIdentity(gats=code).guest_levels for code in range(3)] == [4, 5, 5]
    assert AmdIdentity(pasmax=19).pasid_bits == 20


def test_silicon_has_host_translation():
    """A unit without it can only be emulated."""
    AmdIdentity().check_silicon()
    with pytest.raises(ValueError, match="hats must be 0, 1 or 2"):
        AmdIdentity.guest().check_silicon()
