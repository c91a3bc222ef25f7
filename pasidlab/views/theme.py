"""The one place for colours, and for the words and shapes that go with them.

Colours are the palette of Okabe and Ito ("Color Universal Design", 2008), which people with every common kind of colour
vision can tell apart. A colour never speaks alone: each state also has a glyph, a kind of outline and a word, and
all three are drawn. There are two modes, light and dark; every text colour keeps a contrast of 4.5:1 (WCAG 2.1,
1.4.3) against every surface that it can stand on: :func:`text_pairs` lists them and a test computes them.

What a thing *is* (its :class:`Kind`) is told by a word and by corners: silicon has square corners, software round ones.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeVar, get_args

__all__ = [
    "DARK",
    "KINDS",
    "LIGHT",
    "MONO_FONT",
    "ROW_KINDS",
    "STATES",
    "UI_FONT",
    "Colours",
    "Kind",
    "Mode",
    "RowKind",
    "State",
    "StateColours",
    "contrast",
    "kind",
    "row_kind",
    "state",
    "text_pairs",
    "variables",
]

Mode = Literal["light", "dark"]
_Entry = TypeVar("_Entry")

UI_FONT = '"Segoe UI", Roboto, "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
"""Fonts whose letters are about as wide as Helvetica's, which is what :mod:`pasidlab.views.measure` counts with."""
MONO_FONT = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono", monospace'
"""For numbers and bits only; every letter is 0.6 em wide."""


class Colours(NamedTuple):
    """Colours that do not depend on a state."""

    paper: str
    ink: str
    muted: str
    line: str
    rule: str
    cluster: str
    cluster_deep: str
    changed: str
    present: str
    focus: str


class StateColours(NamedTuple):
    """``fill`` of the box, ``accent`` of its bar (an Okabe-Ito colour or grey), ``ink`` of outline and word."""

    fill: str
    accent: str
    ink: str


class State(NamedTuple):
    """How a thing is doing: name, word and glyph, outline, and colours in both modes."""

    name: str
    word: str
    glyph: str
    dash: str
    weight: float
    light: StateColours
    dark: StateColours


class Kind(NamedTuple):
    """What a thing is: the word above its title (none for small rows), its corners, ``mono`` for numbers."""

    name: str
    word: str
    radius: int
    mono: bool = False


class RowKind(NamedTuple):
    """What a row of a ladder tells: word and glyph before its text, dash of its arrow, the state whose ink it has."""

    name: str
    word: str
    glyph: str
    dash: str
    weight: float
    state: str


LIGHT = Colours(
    paper="#ffffff",
    ink="#1b1f24",
    muted="#57606a",
    line="#6b7580",
    rule="#d0d7de",
    cluster="#f6f8fa",
    cluster_deep="#eceff3",
    changed="#cc79a7",
    present="#e3eefb",
    focus="#0072b2",
)
DARK = Colours(
    paper="#111418",
    ink="#e8edf2",
    muted="#a8b3bf",
    line="#8b96a2",
    rule="#3a424c",
    cluster="#191e24",
    cluster_deep="#20262e",
    changed="#cc79a7",
    present="#152c44",
    focus="#56b4e9",
)

STATES: dict[str, State] = {
    entry.name: entry
    for entry in (
        State(
            "idle",
            "",
            "",
            "",
            1.0,
            StateColours("#ffffff", "#8c959f", "#57606a"),
            StateColours("#1d232a", "#6e7a87", "#a8b3bf"),
        ),
        State(
            "live",
            "live",
            "●",
            "",
            1.25,
            StateColours("#eaf4fb", "#0072b2", "#00598c"),
            StateColours("#12293a", "#56b4e9", "#8fd0f7"),
        ),
        State(
            "new",
            "new",
            "◆",
            "",
            1.25,
            StateColours("#e6f5f0", "#009e73", "#00664b"),
            StateColours("#0f2b24", "#009e73", "#67d9b5"),
        ),
        State(
            "now",
            "now",
            "▶",
            "",
            3.0,
            StateColours("#fdfbe3", "#f0e442", "#665a00"),
            StateColours("#35320c", "#f0e442", "#f0e442"),
        ),
        State(
            "pending",
            "pending",
            "▼",
            "6 3",
            1.5,
            StateColours("#fdf4e0", "#e69f00", "#7a5200"),
            StateColours("#31270f", "#e69f00", "#f3c667"),
        ),
        State(
            "fault",
            "fault",
            "▲",
            "",
            2.5,
            StateColours("#fdece3", "#d55e00", "#a04400"),
            StateColours("#381f11", "#d55e00", "#ff9f63"),
        ),
        State(
            "cached",
            "cached",
            "■",
            "9 2",
            1.25,
            StateColours("#e6f6fd", "#56b4e9", "#17597f"),
            StateColours("#0e2734", "#0072b2", "#7fc4f0"),
        ),
        State(
            "off",
            "off",
            "○",
            "2 3",
            1.25,
            StateColours("#f5f6f8", "#9aa1a9", "#59626b"),
            StateColours("#171b20", "#6e7a87", "#9ca7b3"),
        ),
    )
}
"""How things can be doing, by name. ``idle`` (there, not in use) needs no word; ``live`` is in use; ``now`` acts at
this very step; ``cached`` comes from a cache, which may be out of date."""

KINDS: dict[str, Kind] = {
    entry.name: entry
    for entry in (
        Kind("thing", "", 7),
        Kind("more", "", 12),
        Kind("vm", "VM", 9),
        Kind("process", "process", 9),
        Kind("vmm", "hypervisor", 9),
        Kind("guest-kernel", "guest kernel", 9),
        Kind("kernel", "host kernel", 9),
        Kind("set", "IOASID set", 9),
        Kind("ioasid", "IOASID", 9, mono=True),
        Kind("pasid", "PASID", 9, mono=True),
        Kind("allocator", "allocator", 9),
        Kind("aux", "aux domain", 9),
        Kind("binding", "IOMMU binding", 9),
        Kind("kvm-entry", "KVM entry", 9),
        Kind("programming", "VDCM queue", 9),
        Kind("holder", "holder", 9),
        Kind("work", "queued work", 12),
        Kind("state", "state", 9),
        Kind("token", "", 11, mono=True),
        Kind("listener", "listener", 9),
        Kind("cpu", "CPU", 2, mono=True),
        Kind("iommu", "IOMMU", 2),
        Kind("device", "device", 2),
        Kind("queue", "work queue", 2),
        Kind("adi", "ADI", 2),
        Kind("directory", "directory", 2, mono=True),
        Kind("table", "table", 2, mono=True),
        Kind("structure", "table", 2),
        Kind("entry", "", 2, mono=True),
        Kind("paging", "page table", 2, mono=True),
        Kind("memory", "memory", 2, mono=True),
    )
}
"""What things can be, by name. Square corners are silicon and what silicon reads; round corners are software."""

ROW_KINDS: dict[str, RowKind] = {
    entry.name: entry
    for entry in (
        RowKind("normal", "", "", "", 1.5, "idle"),
        RowKind("answer", "", "", "5 3", 1.25, "idle"),
        RowKind("notify", "notify", "◆", "", 1.75, "live"),
        RowKind("refuse", "refused", "✕", "6 3", 2.0, "pending"),
        RowKind("fault", "fault", "▲", "", 2.5, "fault"),
    )
}
"""What a row of a ladder can tell, by name."""


def state(name: str) -> State:
    """The state called ``name``.

    >>> state("pending").word, state("pending").glyph
    ('pending', '▼')
    """
    return _named(STATES, "state", name)


def kind(name: str) -> Kind:
    """The kind called ``name``.

    >>> kind("queue").word
    'work queue'
    """
    return _named(KINDS, "kind", name)


def row_kind(name: str) -> RowKind:
    """The kind of ladder row called ``name``.

    >>> row_kind("refuse").word
    'refused'
    """
    return _named(ROW_KINDS, "kind of row", name)


def _named(table: dict[str, _Entry], what: str, name: str) -> _Entry:
    found = table.get(name)
    if found is None:
        raise ValueError(f"a {what} must be one of {', '.join(table)}, not {name!r}")
    return found


def variables(mode: Mode) -> dict[str, str]:
    """Every colour of a mode by the name that style sheets use.

    >>> variables("light")["paper"], variables("dark")["live-accent"]
    ('#ffffff', '#56b4e9')
    """
    if mode not in get_args(Mode):
        raise ValueError(f"a mode must be light or dark, not {mode!r}")
    plain = LIGHT if mode == "light" else DARK
    named = {name.replace("_", "-"): colour for name, colour in plain._asdict().items()}
    for entry in STATES.values():
        own = entry.light if mode == "light" else entry.dark
        named |= {f"{entry.name}-{part}": colour for part, colour in own._asdict().items()}
    return named


def contrast(one: str, other: str) -> float:
    """How far two ``#rrggbb`` colours stand apart, 1 (equal) to 21 (black on white), as WCAG 2.1 computes it.

    >>> round(contrast("#000000", "#ffffff"), 1)
    21.0
    """
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def text_pairs(mode: Mode) -> list[tuple[str, str, str]]:
    """Every pair (what, text colour, surface) that is drawn; JupyterLab's own papers are among the surfaces."""
    named = variables(mode)
    papers = ("#ffffff",) if mode == "light" else ("#111111", "#212121")
    surfaces = {name: named[name] for name in ("paper", "cluster", "cluster-deep", "present")}
    surfaces |= {f"JupyterLab {paper}": paper for paper in papers}
    pairs = [
        (f"{text} on {name}", named[text], surface)
        for name, surface in surfaces.items()
        for text in ("ink", "muted", *(f"{entry}-ink" for entry in STATES))
    ]
    for entry in STATES:
        pairs += [
            (f"{text} on {entry}-fill", named[text], named[f"{entry}-fill"])
            for text in ("ink", "muted", f"{entry}-ink")
        ]
    return pairs
