"""Fixtures of the browser tests: one JupyterLab for the whole run, one browser with an empty profile for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import browser
from tests.browser.notebook import Notebook
from tests.browser.server import ROOT, Server, jupyterlab


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running JupyterLab."""
    with jupyterlab(tmp_path_factory.mktemp("jupyterlab")) as running:
        yield running


@pytest.fixture
def notebook(server: Server, tmp_path: Path) -> Iterator[Notebook]:
    """An empty browser page; pictures go to ``test-results`` (or ``PASIDLAB_PICTURES``)."""
    pictures = Path(os.environ.get("PASIDLAB_PICTURES", str(ROOT / "test-results")))
    pictures.mkdir(parents=True, exist_ok=True)
    with browser(tmp_path / "profile") as context:
        yield Notebook(context.new_page(), server, pictures)
