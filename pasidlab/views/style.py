"""Style sheets made from the theme: the same rules draw the still picture and the live one.

Rules name colours as ``var(--pl-NAME)``. A live picture defines these variables for light and dark pages and follows
a switch of the theme by itself (:func:`live`). A still picture cannot rely on variables (printing programs do not
know them), so :func:`still` writes the colours into the rules, light first and dark in a media query.
"""

from __future__ import annotations

import re

from pasidlab.views import theme
from pasidlab.views.box import BADGE, EYEBROW, LINE, TITLE, TOKEN
from pasidlab.views.topology import EDGE_LABEL, FRAME_LABEL

__all__ = ["bar_rules", "bits_rules", "cell_rules", "figure_rules", "live", "rules", "still"]

ROOT = ".pasidlab"
_VARIABLE = re.compile(r"var\(--pl-([a-z-]+)\)")

_COMMON = f"""
{ROOT} text {{ font-family: {theme.UI_FONT}; fill: var(--pl-ink); }}
{ROOT} .num {{ font-family: {theme.MONO_FONT}; }}
{ROOT} .paper {{ fill: var(--pl-paper); }}
{ROOT} .title {{ font-size: 14px; font-weight: 600; }}
{ROOT} .note {{ font-size: 12px; fill: var(--pl-muted); }}
"""
_FIGURE = f"""
{ROOT} .frame rect {{ fill: var(--pl-cluster); stroke: var(--pl-rule); stroke-width: 1; }}
{ROOT} .frame.deep rect {{ fill: var(--pl-cluster-deep); }}
{ROOT} .caption text {{ font-size: {FRAME_LABEL}px; font-weight: 600; fill: var(--pl-muted); paint-order: stroke;
  stroke: var(--pl-cluster); stroke-width: 4px; stroke-linejoin: round; }}
{ROOT} .node .e {{ font-size: {EYEBROW}px; font-weight: 600; letter-spacing: .04em; fill: var(--pl-muted); }}
{ROOT} .node .b {{ font-size: {BADGE}px; font-weight: 600; text-anchor: end; }}
{ROOT} .node .t {{ font-size: {TITLE}px; font-weight: 600; }}
{ROOT} .node .token {{ font-size: {TOKEN}px; text-anchor: middle; }}
{ROOT} .node .l {{ font-size: {LINE}px; fill: var(--pl-muted); }}
{ROOT} .node .ring {{ fill: none; stroke: var(--pl-changed); stroke-width: 2.5; opacity: 0; }}
{ROOT} .is-changed .ring {{ opacity: 1; }}
{ROOT} .edge .way {{ fill: none; stroke: var(--pl-line); stroke-width: 1.25; }}
{ROOT} .edge .tip {{ fill: var(--pl-line); stroke: none; }}
{ROOT} .edge text {{ font-size: {EDGE_LABEL}px; fill: var(--pl-muted); text-anchor: middle; paint-order: stroke;
  stroke: var(--pl-paper); stroke-width: 4px; stroke-linejoin: round; }}
{ROOT} .edge.flow .way {{ stroke-width: 3; }}
{ROOT} .edge.is-changed .way {{ stroke: var(--pl-changed); stroke-width: 3; }}
{ROOT} .edge.is-changed .tip {{ fill: var(--pl-changed); }}
{ROOT} .s-absent {{ opacity: 0; pointer-events: none; }}
"""
_LADDER = f"""
{ROOT} .lane {{ stroke: var(--pl-rule); stroke-width: 1; }}
{ROOT} .head rect {{ fill: var(--pl-cluster); stroke: var(--pl-rule); }}
{ROOT} .head text {{ font-size: 12px; font-weight: 600; text-anchor: middle; }}
{ROOT} .group rect {{ fill: var(--pl-cluster-deep); }}
{ROOT} .group text {{ font-size: 10.5px; font-weight: 600; fill: var(--pl-muted); text-anchor: middle; }}
{ROOT} .row .band {{ fill: transparent; }}
{ROOT} .row .no {{ font-size: 10px; fill: var(--pl-muted); text-anchor: end; }}
{ROOT} .row .tree {{ fill: none; stroke: var(--pl-rule); stroke-width: 1.5; }}
{ROOT} .row .knot {{ fill: var(--pl-line); }}
{ROOT} .row :is(.say, .more) {{ paint-order: stroke; stroke: var(--pl-paper); stroke-width: 4px;
  stroke-linejoin: round; }}
{ROOT} .row .say {{ font-size: 12px; }}
{ROOT} .row .more {{ font-size: 11px; fill: var(--pl-muted); }}
{ROOT} .row .way {{ fill: none; }}
{ROOT} .row .dot {{ stroke: none; }}
{ROOT} .row.is-present .band {{ fill: var(--pl-present); }}
{ROOT} .row.is-present :is(.say, .more) {{ stroke: var(--pl-present); }}
{ROOT} .row.is-present .say {{ font-weight: 600; }}
{ROOT} .row.is-future .say {{ fill: var(--pl-muted); font-style: italic; }}
{ROOT} .row.is-future :is(.way, .tip, .dot) {{ opacity: .45; }}
"""
_BARS = f"""
{ROOT} .who {{ font-size: 12px; font-weight: 600; }}
{ROOT} .said {{ font-size: 12px; fill: var(--pl-muted); text-anchor: end; }}
{ROOT} .room {{ fill: var(--pl-cluster); stroke: var(--pl-rule); stroke-width: 1; }}
{ROOT} .room.open {{ stroke-dasharray: 6 3; }}
"""
_BITS = f"""
{ROOT} .word {{ font-size: 10.5px; fill: var(--pl-muted); text-anchor: end; }}
{ROOT} .ruler {{ font-size: 8.5px; fill: var(--pl-muted); text-anchor: middle; }}
{ROOT} .field .cell {{ fill: var(--pl-paper); stroke: var(--pl-line); stroke-width: .75; }}
{ROOT} .field.k-pointer .cell {{ fill: var(--pl-live-fill); }}
{ROOT} .field.k-number .cell {{ fill: var(--pl-new-fill); }}
{ROOT} .field.k-flag .cell {{ fill: var(--pl-now-fill); }}
{ROOT} .field.k-ignored .cell {{ fill: var(--pl-cluster); stroke-dasharray: 2 2; }}
{ROOT} .field .hatch {{ fill: none; stroke: var(--pl-rule); stroke-width: 1; }}
{ROOT} .field.is-wrong .cell {{ fill: var(--pl-fault-fill); stroke: var(--pl-fault-ink); stroke-width: 2.5; }}
{ROOT} .field.is-wrong .one {{ stroke: var(--pl-fault-ink); stroke-width: 4; }}
{ROOT} .field .digit {{ font-size: 10px; fill: var(--pl-muted); text-anchor: middle; }}
{ROOT} .field.is-set .digit {{ fill: var(--pl-ink); }}
{ROOT} .field .one {{ fill: none; stroke: var(--pl-ink); stroke-width: 2.5; }}
{ROOT} .field .changed {{ fill: none; stroke: var(--pl-changed); stroke-width: 3; }}
{ROOT} .field .leader {{ fill: none; stroke: var(--pl-line); stroke-width: .75; }}
{ROOT} .field .name {{ font-size: 9.5px; fill: var(--pl-muted); text-anchor: middle; }}
{ROOT} .field.is-set .name {{ fill: var(--pl-ink); font-weight: 600; }}
{ROOT} .field.is-wrong .name {{ fill: var(--pl-fault-ink); font-weight: 600; }}
"""
_CELLS = f"""
{ROOT} .place .slot {{ fill: var(--pl-paper); stroke: var(--pl-rule); stroke-width: 1; }}
{ROOT} .place.is-empty .slot {{ fill: var(--pl-cluster); stroke-dasharray: 1.5 2; }}
{ROOT} .place .fill {{ fill: var(--pl-live-accent); }}
{ROOT} .place .mark {{ font-size: 10px; font-weight: 600; text-anchor: middle; fill: var(--pl-live-ink);
  paint-order: stroke; stroke: var(--pl-live-fill); stroke-width: 2px; }}
{ROOT} .place:has(.mark) .fill {{ fill: var(--pl-live-fill); stroke: var(--pl-live-accent); stroke-width: 1.5; }}
{ROOT} .halo {{ fill: none; stroke: var(--pl-paper); stroke-width: 5; }}
{ROOT} .chosen {{ fill: none; stroke: var(--pl-ink); stroke-width: 2.5; }}
"""
# The root twice: JupyterLab sets the text of cells to the right with two classes.
_TABLE = f"""
{ROOT} table {{ border-collapse: collapse; color: var(--pl-ink); font: 12.5px {theme.UI_FONT};
  font-variant-numeric: tabular-nums; }}
{ROOT} caption {{ text-align: left; font-weight: 600; padding: 2px 8px 6px 8px; }}
{ROOT} th {{ text-align: left; font-weight: 600; color: var(--pl-muted); background: var(--pl-cluster); }}
{ROOT}{ROOT} :is(td, th) {{ padding: 4px 10px; border-bottom: 1px solid var(--pl-rule); white-space: nowrap;
  text-align: left; }}
{ROOT}{ROOT} td.prose {{ white-space: normal; min-width: 9em; max-width: 26em; vertical-align: top; }}
{ROOT} td.num {{ font-family: {theme.MONO_FONT}; font-size: 12px; }}
{ROOT} td.is-changed {{ box-shadow: inset 0 -3px 0 var(--pl-changed); }}
{ROOT} tbody tr td:first-child {{ border-left: 4px solid transparent; }}
{ROOT} summary {{ color: var(--pl-muted); font: 12.5px {theme.UI_FONT}; cursor: pointer; padding: 2px 8px; }}
{ROOT} .pl-title {{ color: var(--pl-ink); font: 600 12.5px {theme.UI_FONT}; }}
"""


def _of_states() -> str:
    lines = []
    for state in theme.STATES.values():
        node, edge = f"{ROOT} .node.s-{state.name}", f"{ROOT} .edge.s-{state.name}"
        dash = f" stroke-dasharray: {state.dash};" if state.dash else ""
        ink, wide = f"var(--pl-{state.name}-ink)", f"stroke-width: {state.weight};"
        outline = "var(--pl-line)" if state.name == "idle" else ink
        lines += [
            f"{node} .box {{ fill: var(--pl-{state.name}-fill); stroke: {outline}; {wide}{dash} }}",
            f"{node} .bar {{ fill: var(--pl-{state.name}-accent); }}",
            f"{node} .b {{ fill: {ink}; }}",
            f"{ROOT} tbody tr.s-{state.name} td:first-child {{ border-left-color: var(--pl-{state.name}-accent); }}",
        ]
        if state.name != "idle":
            lines += [
                f"{edge} .way {{ stroke: {ink}; stroke-width: {state.weight + 0.5};{dash} }}",
                f"{edge} .tip {{ fill: {ink}; }}",
                f"{edge} text {{ fill: {ink}; font-weight: 600; }}",
                f"{ROOT} tbody tr.s-{state.name} .state {{ color: {ink}; font-weight: 600; }}",
            ]
    return "\n".join(lines)


def _of_rows() -> str:
    lines = []
    for kind in theme.ROW_KINDS.values():
        row = f"{ROOT} .row.r-{kind.name}"
        ink = "var(--pl-line)" if kind.state == "idle" else f"var(--pl-{kind.state}-ink)"
        dash = f" stroke-dasharray: {kind.dash};" if kind.dash else ""
        lines += [
            f"{row} .way {{ stroke: {ink}; stroke-width: {kind.weight};{dash} }}",
            f"{row} :is(.tip, .dot) {{ fill: {ink}; }}",
        ]
        if kind.word:
            lines.append(f"{row} .sign {{ fill: {ink}; font-weight: 600; }}")
    return "\n".join(lines)


def _of_shares() -> str:
    lines = []
    for state in theme.STATES.values():
        dash = f" stroke-dasharray: {state.dash};" if state.dash else ""
        name = f"{ROOT} .share.s-{state.name}"
        lines.append(f"{name} {{ fill: var(--pl-{state.name}-accent); stroke: var(--pl-{state.name}-ink);{dash} }}")
    return "\n".join(lines)


def rules() -> str:
    """Every rule of live pictures, with colours as variables."""
    return "\n".join((figure_rules(), _BITS, _CELLS))


def figure_rules() -> str:
    """The rules of figures, ladders and tables."""
    return "\n".join((_COMMON, _FIGURE, _of_states(), _LADDER, _of_rows(), _TABLE))


def bar_rules() -> str:
    """The rules of bars, which are still pictures only."""
    return "\n".join((_COMMON, _BARS, _of_shares()))


def cell_rules() -> str:
    """The rules of rows of cells."""
    return "\n".join((_COMMON, _CELLS))


def bits_rules() -> str:
    """The rules of structures, bit by bit."""
    return "\n".join((_COMMON, _BITS))


def live() -> str:
    """The style sheet of live pictures: variables for light and dark pages, then the rules.

    >>> "--pl-paper: #ffffff" in live() and "data-jp-theme-light" in live()
    True
    """
    light, dark = (
        "; ".join(f"--pl-{name}: {colour}" for name, colour in theme.variables(mode).items())
        for mode in ("light", "dark")
    )
    page = "body:not([data-jp-theme-light])"
    return (
        f"{ROOT} {{ {light}; --pl-paper: var(--jp-layout-color0, #ffffff); }}\n"
        f'body[data-jp-theme-light="false"] {ROOT} {{ {dark}; --pl-paper: var(--jp-layout-color0, #111418); }}\n'
        f"@media (prefers-color-scheme: dark) {{ {page} {ROOT} {{ {dark} }} }}\n{rules()}"
    )


def still(mode: theme.Mode | None = None, sheet: str = "") -> str:
    """The style sheet inside a still picture; without ``mode`` it follows the reader's preference, light by default.

    ``sheet`` are its rules (default: those of :func:`figure_rules`).

    >>> "var(" in still(), "prefers-color-scheme" in still(), "prefers-color-scheme" in still("dark")
    (False, True, False)
    """
    sheet = sheet or figure_rules()
    if mode:
        return _coloured(sheet, mode)
    dark = _coloured(_only_colours(sheet), "dark")
    return f"{_coloured(sheet, 'light')}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def _coloured(text: str, mode: theme.Mode) -> str:
    colours = theme.variables(mode)
    return _VARIABLE.sub(lambda found: colours[found[1]], text)


def _only_colours(sheet: str) -> str:
    """The rules with nothing but their coloured declarations: all that a second mode has to say."""
    kept = []
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", sheet):
        coloured = [part.strip() for part in body.split(";") if "var(" in part]
        if coloured:
            kept.append(f"{selector.strip()} {{ {'; '.join(coloured)} }}")
    return "\n".join(kept)
