"""The page about Scalable IOV: its commands say what it shows, and what it names exists."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from pasidlab.virt.policies import POLICIES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "siov.md"


def test_every_command_of_the_page_gives_what_it_shows() -> None:
    """One session from top to bottom."""
    session = PAGE.read_text().replace("```python\n", "").replace("```\n", "")
    examples = doctest.DocTestParser().get_doctest(session, {}, "docs/siov.md", str(PAGE), 0)
    outcome = doctest.DocTestRunner().run(examples)
    assert outcome.attempted > 30
    assert outcome.failed == 0


def test_every_place_that_the_page_names_exists() -> None:
    """Folders and files of the tree by their path, modules by their name, links by their target."""
    text = PAGE.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    paths = re.findall(r"`((?:tests|hardware|kernel|virt)/[\w/.]+)`", text)
    assert links
    assert paths
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
    assert [path for path in paths if not ((ROOT / path).exists() or (ROOT / "pasidlab" / path).exists())] == []


def test_every_policy_is_in_its_table() -> None:
    """By name, in the first column."""
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(POLICIES)
