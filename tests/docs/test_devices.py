"""The page about devices of one's own: its example is a file of the tests, short, and does what the page shows."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from pasidlab.hardware.function import Function
from pasidlab.kernel.driver import Driver
from tests import third_party

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "devices.md"
EXAMPLE = ROOT / "tests" / "third_party.py"
MOST = 60


def blocks():
    """The Python blocks of the page."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_page_shows_the_file():
    """One source: the first block is tests/third_party.py, to the letter."""
    assert blocks()[0] == EXAMPLE.read_text()


def test_function_driver_and_use_have_sixty_lines_at_most():
    """Blank lines and imports counted, what the session answers not."""
    example, use = blocks()[:2]
    typed = [line for line in use.splitlines() if line.startswith(">>>")]
    assert len(example.splitlines()) + len(typed) <= MOST


def test_every_command_of_the_page_gives_what_it_shows():
    """One session from top to bottom, with the names of the example."""
    session = "\n".join(blocks()[1:])
    examples = doctest.DocTestParser().get_doctest(session, vars(third_party).copy(), "devices.md", str(PAGE), 0)
    outcome = doctest.DocTestRunner().run(examples)
    assert outcome.attempted > 10
    assert outcome.failed == 0


def test_every_name_of_the_tables_exists():
    """What the page calls a method or attribute of the two base classes is one."""
    text = PAGE.read_text()
    for heading, base in (("## The hardware", Function), ("## The driver", Driver)):
        table = text.split(heading, 1)[1].split("\n## ", 1)[0]
        rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        names = [name for row in rows for name in re.findall(r"`(\w+)", row)]
        known = {*dir(base), *base.__annotations__}
        assert len(names) > 8
        assert [name for name in names if name not in known] == []


def test_every_link_and_file_of_the_page_exists():
    """Files by their path."""
    paths = re.findall(r"`((?:tests|pasidlab)/[\w/.]+)`", PAGE.read_text())
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
