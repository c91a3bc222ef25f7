"""Text is never wider than its room."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.views.measure import fit, text_width, wrap
from tests.views.hostile import names

rooms = st.floats(20, 400)


@settings(deadline=None)
@given(names, rooms, st.booleans(), st.booleans())
def test_what_fits_fits(text: str, room: float, mono: bool, bold: bool) -> None:
    """The result fits, is the text itself if that does, and else is a beginning of it with an ellipsis."""
    result = fit(text, room, 12, mono=mono, bold=bold)
    assert text_width(result, 12, mono=mono, bold=bold) <= room
    assert result == text or (result.endswith("…") and text.startswith(result[:-1]))


@settings(deadline=None)
@given(names, rooms)
def test_wrapping_loses_nothing(text: str, room: float) -> None:
    """All letters are there in their order, each line fits unless it is a single letter."""
    lines = wrap(text, room, 12)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(text_width(line, 12) <= room or len(line) == 1 for line in lines)
