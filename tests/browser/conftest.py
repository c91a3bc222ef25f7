"""Fixtures of the browser tests: one JupyterLab and one browser a file, a page and kernels for each test.

The browser ends with its file: while it runs, its driver keeps an event loop in the main thread, in which other tests
that use asyncio could not work.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from tests.browser.chromium import browser
from tests.browser.notebook import Notebook
from tests.browser.server import ROOT, Server, jupyterlab


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running JupyterLab."""
    with jupyterlab(tmp_path_factory.mktemp("jupyterlab")) as running:
        yield running


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """A running browser."""
    with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def notebook(server: Server, context: BrowserContext) -> Iterator[Notebook]:
    """An empty page; pictures go to ``test-results`` (or ``PASIDLAB_PICTURES``)."""
    pictures = Path(os.environ.get("PASIDLAB_PICTURES", str(ROOT / "test-results")))
    pictures.mkdir(parents=True, exist_ok=True)
    opened = Notebook(context.new_page(), server, pictures)
    yield opened
    opened.close()
