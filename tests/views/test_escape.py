"""Whatever somebody types as a name, it stays text."""

import re

import pytest
from hypothesis import given, settings

from pasidlab.views.escape import address, clean, dot_string, html, key_of
from tests.views.hostile import NAMES, names


@settings(deadline=None)
@given(names)
def test_html_holds_no_markup(text: str) -> None:
    """The result opens no element, ends no attribute, and holds only known entities."""
    result = html(text)
    assert not set(result) & set("<>\"'")
    assert not re.sub(r"&(amp|lt|gt|quot|#39);", "", result).count("&")


@settings(deadline=None)
@given(names)
def test_clean_is_visible_and_idempotent(text: str) -> None:
    """One line without controls and direction marks; cleaning twice changes nothing; length is kept."""
    result = clean(text)
    assert len(result) == len(text)
    assert result.isprintable() or all(letter.isprintable() or letter.isspace() for letter in result)
    assert clean(result) == result
    assert len(result.splitlines() or [""]) == 1


@settings(deadline=None)
@given(names)
def test_dot_string_ends_where_it_should(text: str) -> None:
    """A DOT label is one quoted string: no quote inside is bare, and no backslash is left to start an escape."""
    inner = dot_string(text)[1:-1]
    assert re.fullmatch(r'(?:[^"\\]|\\\\|\\")*', inner)


@settings(deadline=None)
@given(names, names)
def test_addresses_are_one_to_one(one: str, other: str) -> None:
    """Different keys have different addresses, addresses are plain ASCII, and keys come back."""
    assert re.fullmatch(r"[A-Za-z0-9/:@._~+,%-]*", address(one))
    assert key_of(address(one)) == one
    assert (address(one) == address(other)) == (one == other)


@pytest.mark.parametrize("key", ["vm:vm1", "pasid:101", "host/kvm", "adi@2", "a-b.c_d~e"])
def test_plain_keys_are_their_own_address(key: str) -> None:
    """What the projections use as keys is readable in the page."""
    assert address(key) == key


def test_hostile_names_are_really_hostile() -> None:
    """The samples contain every character that has a meaning somewhere."""
    assert set("<>&\"'\\\n\x00\u202e") - {"'"} <= set("".join(NAMES))
