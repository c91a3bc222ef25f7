"""The page about VT-d: its commands say what it shows, and what it names exists."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "vtd.md"


def test_every_command_of_the_page_gives_what_it_shows() -> None:
    """One session from top to bottom."""
    session = PAGE.read_text().replace("```python\n", "").replace("```\n", "")
    examples = doctest.DocTestParser().get_doctest(session, {}, "docs/vtd.md", str(PAGE), 0)
    outcome = doctest.DocTestRunner().run(examples)
    assert outcome.attempted > 20
    assert outcome.failed == 0


def test_every_file_and_link_of_the_page_exists() -> None:
    """Files of the tree by their path, modules of the unit by their name, links by their target."""
    text = PAGE.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    paths = re.findall(r"`((?:tests|hardware|kernel)/[\w/.]+)`", text)
    assert links
    assert paths
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
    assert [path for path in paths if not ((ROOT / path).exists() or (ROOT / "pasidlab" / path).exists())] == []
