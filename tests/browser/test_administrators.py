"""Administrators in JupyterLab: a person switches the policy, meets its limit, raises it, and compares."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.lab_page import LabPage, opened
from tests.browser.notebook import Notebook

pytestmark = pytest.mark.browser

PLACES = """() => [...document.querySelectorAll('.pl-lab .pl-group, .pl-lab .pl-stack')].map((part) => {
  const box = part.getBoundingClientRect(), lab = part.closest('.pl-lab').getBoundingClientRect();
  return [part.className, ...[box.x - lab.x, box.y - lab.y, box.width, box.height].map(Math.round)].join(' ');
})"""
CUT = """() => {
  const high = '.pl-controls .pl-hint, .pl-message';
  const wide = `${high}, .pl-controls button, .pl-administrators .pl-scroll`;
  const parts = (kind) => [...document.querySelectorAll(`.pl-lab :is(${kind})`)];
  return [...parts(wide).filter((part) => part.scrollWidth > part.clientWidth + 1),
    ...parts(high).filter((part) => part.scrollHeight > part.clientHeight + 1)].map((part) => part.textContent);
}"""


@pytest.fixture
def lab(notebook: Notebook) -> Iterator[LabPage]:
    """A lab alone in a notebook."""
    with opened(
        notebook, notebook.write("lab.ipynb", ["from pasidlab_widgets import Lab", "lab = Lab()\nlab"])
    ) as shown:
        yield shown


def row(lab: LabPage, table: int, key: str) -> Locator:
    """A row of one of the pane's three tables."""
    return lab.root.locator(".pl-administrators .pl-table").nth(table).locator(f'tr[data-key="{key}"]')


def start_over(lab: LabPage, policy: str, api: str, twice: bool, received: list[int]) -> None:
    """Choose another administrator and press the button, a second time if it asks."""
    lab.choose("policy", policy)
    lab.choose("api", api)
    button = lab.root.locator(".pl-do-new-machine")
    button.click()
    if twice:
        expect(button).to_have_text("Really?")
        lab.says("Leave this machine?")
        lab.page.wait_for_timeout(300)
        received.clear()
        button.click()
    expect(button).to_have_text("New machine")
    lab.says(f"A new machine: {policy}, PASIDs through {api}")


def bind(lab: LabPage, process: str) -> None:
    """Let a process in vm1 bind."""
    lab.choose("process", f"vm1: {process}")
    lab.press("bind")


def test_another_administrator_by_clicking(lab: LabPage, notebook: Notebook) -> None:
    """Under cgroup the third bind is refused, by the group; with a larger max it works, and time travel shows both."""
    lab.press("create-vm")
    lab.tab("IOASIDs")
    lab.inner("Administrators")
    lab.choose("device", "dsa0")
    start_over(lab, "cgroup", "VFIO", True, notebook.received)
    lab.page.wait_for_timeout(500)
    assert sum(notebook.received) < 10_000
    expect(lab.time.locator(".pl-banner")).to_contain_text("newest step")
    expect(lab.root.locator(".pl-administrators")).to_contain_text("on this machine: cgroup, through VFIO")

    lab.write("quota", "2")
    lab.press("create-vm")
    lab.press("assign-adi")
    lab.choose("where", "vm1")
    for name in ("one", "two", "three"):
        lab.write("process-name", name)
        lab.press("spawn")
    for name in ("one", "two", "three"):
        bind(lab, name)
    lab.says("Refused: -ENOSPC")
    lab.says("group vm1 has 2 PASIDs in use and a max of 2")
    for width in (1280, 1600, 1920):
        notebook.screenshot("administrators-refused", width, 1000)
        assert lab.page.evaluate(CUT) == []
    lab.page.set_viewport_size({"width": 1600, "height": 1000})
    lab.page.wait_for_timeout(500)
    places = lab.page.evaluate(PLACES)
    expect(row(lab, 0, "vm1").locator("td")).to_have_text(["vm1", "2", "2", "2", "1", "vm1"])

    lab.write("quota", "3")
    lab.page.wait_for_timeout(300)
    notebook.received.clear()
    lab.press("set-quota")
    lab.page.wait_for_timeout(500)
    assert sum(notebook.received) < 10_000
    lab.says("Group vm1 may have 3 of the PASIDs")
    lab.says('m.vm("vm1").set_quota(3)')
    expect(row(lab, 0, "vm1").locator("td.is-changed")).to_have_text(["3", "3"])
    bind(lab, "three")
    lab.says("three in vm1 is bound")
    expect(row(lab, 0, "vm1").locator("td")).to_have_text(["vm1", "3", "3", "3", "1", "vm1"])
    assert lab.page.evaluate(PLACES) == places
    for _ in range(2):
        lab.go("back-over")
    expect(row(lab, 0, "vm1").locator("td")).to_have_text(["vm1", "2", "2", "2", "1", "vm1"])
    for mode in ("light", "dark"):
        notebook.set_theme("dark" if mode == "dark" else "light")
        for width in (1280, 1920):
            notebook.screenshot(f"administrators-{mode}", width, 1200)
            assert lab.page.evaluate(CUT) == []
    notebook.set_theme("light")


def test_a_row_shows_why(lab: LabPage, notebook: Notebook) -> None:
    """By a click, and by the keyboard; sentences wrap, so nothing is cut at 1280 pixels with the file browser open."""
    lab.tab("IOASIDs")
    lab.inner("Administrators")
    lab.page.set_viewport_size({"width": 1280, "height": 1000})
    row(lab, 1, "move").click()
    why = lab.root.locator(".pl-administrators .pl-table").nth(2)
    expect(why.locator("tbody tr")).to_have_count(6)
    expect(why).to_contain_text("group spare has 10 PASIDs in use and a max of 1")
    expect(row(lab, 1, "move")).to_have_attribute("aria-selected", "true")
    for mode in ("light", "dark"):
        notebook.set_theme("dark" if mode == "dark" else "light")
        for width in (1280, 1920):
            notebook.screenshot(f"administrators-why-{mode}", width, 1200)
            assert lab.page.evaluate(CUT) == []
    notebook.set_theme("light")
    row(lab, 1, "move").press("ArrowDown")
    lab.page.keyboard.press("Enter")
    expect(why).to_contain_text("Nobody was refused")
    expect(why.locator("caption")).to_have_text(re.compile("missing when all have gone"))


def test_a_double_click_is_one_press(lab: LabPage) -> None:
    """Nobody loses a machine by a nervous finger."""
    lab.press("create-vm")
    button = lab.root.locator(".pl-do-new-machine")
    button.dblclick()
    expect(button).to_have_text("Really?")
    lab.page.wait_for_timeout(300)
    expect(button).to_have_text("Really?")
    lab.press("create-vm")
    expect(button).to_have_text("New machine")
    lab.says("vm2 is running")
