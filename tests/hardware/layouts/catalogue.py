"""Every layout of the model, found by looking into every module; nothing is listed by hand that could be forgotten."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path

from pasidlab.hardware import layouts
from pasidlab.hardware.bits import Layout

DATA = Path(__file__).parents[2] / "data"


def all_layouts() -> dict[str, Layout]:
    """By name."""
    found: dict[str, Layout] = {}
    for module in pkgutil.iter_modules(layouts.__path__):
        members = vars(importlib.import_module(f"{layouts.__name__}.{module.name}"))
        for layout in (one for one in members.values() if isinstance(one, Layout)):
            assert found.setdefault(layout.name, layout) is layout, f"two layouts are called {layout.name}"
    return found


LAYOUTS = all_layouts()
FIELDS = json.loads((DATA / "fields.json").read_text())
"""The facts' own declaration of each structure."""
VECTORS = json.loads((DATA / "golden_vectors.json").read_text())["vectors"]
