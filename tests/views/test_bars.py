"""Bars: every share can be seen, nothing that a name holds becomes markup, and text says what the picture shows."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from pasidlab.views.bars import Bar, Bars, Share, bars_text
from pasidlab.views.bars_svg import bars_svg
from tests.views.hostile import NAMES


def bars(name: str = "vm1", amount: int = 1, whole: int | None = 1 << 20) -> Bars:
    """One bar with one share."""
    return Bars("b", name, (Bar("k", name, name, (Share("s", name, amount, "live"),), whole),), name, name)


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_are_text(name: str) -> None:
    """The picture is XML, holds no element that a name brought, and the text is one line for each bar."""
    drawn = bars_svg(bars(name))
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(drawn).iter()}
    assert tags <= {"svg", "style", "rect", "g", "path", "text", "title"}
    assert "\x1b" not in bars_text(bars(name))


def test_one_of_a_million_can_be_seen() -> None:
    """And a full bar does not grow beyond its room."""
    widths = [
        [float(found) for found in re.findall(r'class="share s-live" x="0" y="[^"]*" width="([^"]*)"', bars_svg(drawn))]
        for drawn in (bars(amount=1), bars(amount=1 << 20))
    ]
    assert widths[0][0] == 4
    assert widths[1][0] == 640


def test_an_open_bar_has_no_end() -> None:
    """However much it holds."""
    assert 'class="room open"' in bars_svg(bars(amount=7, whole=None))


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_colours_are_those_of_the_theme(mode: str) -> None:
    """No variable is left in a still picture."""
    assert "var(" not in bars_svg(bars(), "light" if mode == "light" else "dark")


def test_wrong_bars_are_refused() -> None:
    """More than the whole, less than nothing, two bars of one key."""
    with pytest.raises(ValueError, match="must fit into 3"):
        Bar("k", "t", "s", (Share("s", "in use", 4),), 3)
    with pytest.raises(ValueError, match="must be 0 or more, not -1"):
        Share("s", "in use", -1)
    with pytest.raises(ValueError, match="must be unique"):
        Bars("b", "t", bars().bars * 2)


def test_a_notebook_shows_picture_and_text() -> None:
    """Both twins."""
    shown = bars()._repr_mimebundle_()
    assert shown["image/svg+xml"].startswith("<svg")
    assert shown["text/plain"].splitlines()[-2] == "vm1: vm1 (● vm1 1)"
