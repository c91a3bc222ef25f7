"""The page about the three IOMMUs: its commands say what it shows, and what it names exists."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from pasidlab.hardware.iommu.families import FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "iommus.md"


def test_every_command_of_the_page_gives_what_it_shows() -> None:
    """One session from top to bottom."""
    session = PAGE.read_text().replace("```python\n", "").replace("```\n", "")
    examples = doctest.DocTestParser().get_doctest(session, {}, "docs/iommus.md", str(PAGE), 0)
    outcome = doctest.DocTestRunner().run(examples)
    assert outcome.attempted > 15
    assert outcome.failed == 0


def test_every_place_that_the_page_names_exists() -> None:
    """Folders and files of the tree by their path, links by their target."""
    text = PAGE.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    paths = re.findall(r"`((?:tests|hardware|kernel|virt|views|stories)/[\w/.]+)`", text)
    assert links
    assert paths
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
    assert [path for path in paths if not ((ROOT / path).exists() or (ROOT / "pasidlab" / path).exists())] == []


def test_every_kind_of_iommu_is_in_its_first_table() -> None:
    """By the name that a machine takes."""
    line = next(line for line in PAGE.read_text().splitlines() if "`Machine(iommu=...)`" in line)
    assert re.findall(r"`(\w+)` \|", line) == sorted(FAMILIES, key=["vtd", "smmuv3", "amdvi"].index)
