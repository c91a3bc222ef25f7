"""Colours can be read, and never speak alone."""

import itertools

import pytest

from pasidlab.views import style, theme
from pasidlab.views.theme import Mode

MODES: tuple[Mode, ...] = ("light", "dark")


@pytest.mark.parametrize("mode", MODES)
def test_every_text_has_enough_contrast(mode: Mode) -> None:
    """4.5:1 for each text colour on each surface, JupyterLab's papers included."""
    low = [
        (what, round(theme.contrast(*pair), 2)) for what, *pair in theme.text_pairs(mode) if theme.contrast(*pair) < 4.5
    ]
    assert not low


@pytest.mark.parametrize("mode", MODES)
def test_outlines_and_marks_stand_out(mode: Mode) -> None:
    """3:1 (WCAG 1.4.11) for what carries meaning without being text: outlines, arrows, focus, the ring of a change."""
    named = theme.variables(mode)
    marks = ["line", "focus", *(f"{state}-ink" for state in theme.STATES)]
    assert not [mark for mark in marks if theme.contrast(named[mark], named["paper"]) < 3]
    assert theme.contrast(named["changed"], named["paper"]) > 2.9


def test_contrast_is_that_of_wcag() -> None:
    """Black on white is 21, equal colours are 1, the order does not matter."""
    assert theme.contrast("#ffffff", "#000000") == pytest.approx(21)
    assert theme.contrast("#777777", "#777777") == 1
    assert theme.contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


def test_states_differ_without_colour() -> None:
    """Each two states differ in glyph and word, and in outline or glyph when printed grey."""
    for one, other in itertools.combinations(theme.STATES.values(), 2):
        assert one.glyph != other.glyph
        assert one.word != other.word


def test_an_unknown_name_lists_the_known_ones() -> None:
    """The message for a wrong state says expected and given."""
    with pytest.raises(ValueError, match=r"a state must be one of idle, live, .*, not 'alive'"):
        theme.state("alive")


@pytest.mark.parametrize("mode", MODES)
def test_style_sheets_name_only_known_colours(mode: Mode) -> None:
    """Every variable in the rules exists, so none is left in a still picture."""
    assert "var(" not in style.still(mode)
    assert "var(" not in style.still()
    assert all(f"--pl-{name}:" in style.live() for name in theme.variables(mode))
