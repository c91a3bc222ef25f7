"""The lab on a page, as a person uses it: press, choose, write, bring to the front, read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.browser.notebook import Notebook

_CUT = """(boxes) => [...document.querySelectorAll(boxes)].filter((g) => {
  const box = g.querySelector('rect.box').getBoundingClientRect();
  return box.width && [...g.querySelectorAll('text')].some((t) => {
    const at = t.getBoundingClientRect();
    return at.width && (at.left < box.left - 1 || at.right > box.right + 1 || at.bottom > box.bottom + 1);
  });
}).map((g) => g.textContent)"""

_TOO_WIDE = """() => [...document.querySelectorAll('.pl-graph .pl-scroll')].filter(
  (e) => e.clientWidth && e.scrollWidth > e.clientWidth
).map((e) => e.querySelector('svg').getAttribute('aria-label'))"""


class LabPage:
    """The lab on the page, by what a person sees of it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.root = page.locator(".pl-lab").last
        self.message = self.root.locator(".pl-message")
        self.time = self.root.locator(".pl-time").first

    def press(self, name: str) -> None:
        """Press a button of the control panel, and wait until the lab has answered."""
        before = self.time.locator(".pl-step").inner_text()
        self.root.locator(f".pl-do-{name}").click()
        expect(self.time.locator(".pl-step")).not_to_have_text(before)

    def choose(self, menu: str, label: str) -> None:
        """Choose in a menu the only entry with these words."""
        option = self.root.locator(
            f".pl-pick-{menu} option", has_text=re.compile(re.escape(label).replace(r"\ ", r"\s"))
        )
        expect(option).to_have_count(1)
        self.root.locator(f".pl-pick-{menu} select").select_option(value=option.get_attribute("value"))

    def write(self, field: str, text: str) -> None:
        """Write into a field."""
        box = self.root.locator(f".pl-write-{field} input")
        box.fill(text)
        box.blur()

    def tab(self, name: str) -> None:
        """Bring a picture to the front."""
        self.root.locator(".lm-TabBar-tab", has_text=name).click()

    def inner(self, name: str) -> None:
        """Bring a picture of the pane of IOASIDs to the front."""
        self.root.locator(".pl-inner .lm-TabBar-tab", has_text=name).click()

    def go(self, move: str) -> None:
        """Press a button of the time bar, and wait until the lab has moved."""
        before = self.time.locator(".pl-step").inner_text()
        self.time.locator(f".pl-go-{move}").click()
        expect(self.time.locator(".pl-step")).not_to_have_text(before)

    def node(self, key: str) -> Locator:
        """A box of the graph that can be seen."""
        return self.root.locator(f'.pl-graph g.node[data-key="{key}"]:not(.s-absent)').locator("visible=true")

    def cut(self, pane: str) -> list[str]:
        """The boxes of a pane's graph whose words do not fit into them."""
        words: list[str] = self.page.evaluate(_CUT, f"{pane} .pl-graph g.node:not(.s-absent)")
        return words

    def too_wide(self) -> list[str]:
        """The graphs that can be seen of which a part is cut at the right."""
        names: list[str] = self.page.evaluate(_TOO_WIDE)
        return names

    def says(self, text: str) -> None:
        """The message says this."""
        expect(self.message).to_contain_text(text)


@contextmanager
def opened(notebook: Notebook, file: Path) -> Iterator[LabPage]:
    """The last lab of a notebook, all cells run; at the end nothing must have gone wrong."""
    notebook.page.set_viewport_size({"width": 1600, "height": 1000})
    notebook.open_notebook(file)
    notebook.run_all(timeout=90_000)
    shown = LabPage(notebook.page)
    shown.root.scroll_into_view_if_needed()
    expect(shown.node("iommu")).to_be_visible()
    yield shown
    assert notebook.complaints() == []
