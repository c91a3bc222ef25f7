"""How wide text is, without a font: boxes are sized before any browser has seen them.

Counts with the widths of Helvetica (Adobe's font metrics, thousandths of an em), which Arial, Liberation Sans and the
other fonts of :data:`pasidlab.views.theme.UI_FONT` share closely; a margin of 6 % takes up the rest. Letters that are
not ASCII count as wide. Everything that is drawn goes through :func:`fit` or :func:`wrap`, so no name is long enough
to leave its box.
"""

from __future__ import annotations

import unicodedata

__all__ = ["fit", "text_width", "wrap"]

# fmt: off
_HELVETICA = (
    278, 278, 355, 556, 556, 889, 667, 222, 333, 333, 389, 584, 278, 333, 278, 278,  # space to /
    556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556,  # 0-9 : ; < = > ?
    1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778,  # @ A-O
    667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556,  # P-Z [ \ ] ^ _
    333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556,  # ` a-o
    556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,  # p-z { | } ~
)
# fmt: on
_MONO = 602
_OTHER = 750
_FULL = 1050
_BOLD = 1.09
_MARGIN = 1.06


def text_width(text: str, size: float, *, mono: bool = False, bold: bool = False) -> float:
    """About how many pixels ``text`` takes at font size ``size``, rather too many than too few.

    >>> round(text_width("PASID 101", 12)), round(text_width("PASID 101", 12, mono=True))
    (63, 69)
    """
    total = sum(_letter(letter, mono) for letter in text)
    return total / 1000 * size * _MARGIN * (_BOLD if bold and not mono else 1.0)


def _letter(letter: str, mono: bool) -> int:
    if unicodedata.combining(letter):
        return 0
    if not letter.isascii():
        return _FULL if unicodedata.east_asian_width(letter) in "WF" or ord(letter) > 0xFFFF else _OTHER
    if mono:
        return _MONO
    code = ord(letter) - 32
    return _HELVETICA[code] if 0 <= code < len(_HELVETICA) else _OTHER


def fit(text: str, room: float, size: float, *, mono: bool = False, bold: bool = False) -> str:
    """``text`` if ``room`` pixels hold it, else as much of its beginning as they hold, and an ellipsis.

    >>> fit("a virtual machine with a long name", 90, 12)
    'a virtual mach…'
    """
    if text_width(text, size, mono=mono, bold=bold) <= room:
        return text
    kept = text
    while kept and text_width(kept + "…", size, mono=mono, bold=bold) > room:
        kept = kept[:-1]
    return kept.rstrip() + "…"


def wrap(text: str, room: float, size: float, *, mono: bool = False) -> tuple[str, ...]:
    """``text`` in lines that ``room`` pixels hold; broken at spaces where there are some, else inside the word.

    >>> wrap("unbind: KVM clears its entry first", 100, 12)
    ('unbind: KVM', 'clears its entry', 'first')
    """
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if text_width(longer, size, mono=mono) <= room:
            line = longer
            continue
        if line:
            lines.append(line)
        *full, line = _pieces(word, room, size, mono)
        lines += full
    return (*lines, line)


def _pieces(word: str, room: float, size: float, mono: bool) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and text_width(pieces[-1] + letter, size, mono=mono) > room:
            pieces.append("")
        pieces[-1] += letter
    return pieces
