"""The browser of the tests: the system's Chromium or Chrome, else Playwright's own. None at all is an error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import BrowserContext, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MISSING = """
No browser to test with. Install one of
    apt-get install chromium        (Debian, Ubuntu)
    brew install --cask chromium    (macOS)
    python -m playwright install chromium
or name one in the environment variable PASIDLAB_CHROME.
"""


def find(playwright: Playwright) -> str:
    """The browser's program."""
    named = os.environ.get("PASIDLAB_CHROME")
    found = [named] if named else [path for name in NAMES if (path := shutil.which(name))]
    found += [str(path) for path in (_MAC, Path(playwright.chromium.executable_path)) if path.exists()]
    if not found:
        raise RuntimeError(MISSING)
    return found[0]


@contextmanager
def browser(profile: Path, width: int = 1280, height: int = 900) -> Iterator[BrowserContext]:
    """A headless browser with a fresh profile."""
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=find(playwright),
            args=list(FLAGS),
            viewport={"width": width, "height": height},
        )
        try:
            yield context
        finally:
            context.close()
