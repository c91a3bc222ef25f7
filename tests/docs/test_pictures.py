"""The committed pictures say what the model says now."""

from __future__ import annotations

import importlib.util
import re
from html import unescape
from pathlib import Path
from types import ModuleType

import pytest

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


def _drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw", PICTURES / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _words(picture: str) -> list[str]:
    return [unescape(text) for text in re.findall(r"<text[^>]*>([^<]+)</text>", picture)]


SAID = {
    "two-vms.svg": "PASID 1",
    "guest-to-host.svg": "PASID 1",
    "ioasid-keepers.svg": "▼ free-pending",
    "ioasid-quotas.svg": "1 of 8, 1 free-pending, 7 left",
    "ioasid-notifiers.svg": "▶ running",
    "ioasid-life.svg": "FREE_PENDING",
    "walk.svg": "first L4",
    "walk-fault.svg": "fault 0x71",
    "pasid-entry.svg": "PGTT",
    "two-numbers.svg": "host's 4",
    "shared-queue.svg": "4096 of 8000 bytes",
    "three-iommus.svg": "bind: the whole table",
}


@pytest.fixture(scope="module")
def fresh() -> dict[str, str]:
    """Every picture, drawn now."""
    drawn: dict[str, str] = _drawing().pictures()
    return drawn


@pytest.mark.parametrize("name", SAID)
def test_a_picture_says_what_the_model_says(name: str, fresh: dict[str, str]) -> None:
    """The words in the file are those of a fresh drawing (places may differ with the version of Graphviz)."""
    assert _words((PICTURES / name).read_text()) == _words(fresh[name])
    assert SAID[name] in _words(fresh[name])


def test_no_other_picture_is_drawn_or_kept(fresh: dict[str, str]) -> None:
    """Every file has its test."""
    assert fresh.keys() == SAID.keys() == {path.name for path in PICTURES.glob("*.svg")}


def test_every_picture_that_a_page_shows_exists() -> None:
    """No broken image in README or docs."""
    root = PICTURES.parents[1]
    for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        for target in re.findall(r"!\[[^\]]*\]\((?!http)([^)]+)\)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name} shows {target}"
