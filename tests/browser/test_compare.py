"""The pane "Compare" in JupyterLab: three machines on one slider, with the counts of the model."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.stories.compare import compare_machines
from pasidlab.views.compare import Comparison, tags, tries
from pasidlab.views.compare_words import COMPARE, STEPS
from tests.browser.lab_page import LabPage, opened
from tests.browser.notebook import Notebook

pytestmark = pytest.mark.browser

CELL = """
from pasidlab_widgets import Lab
Lab()
"""
PLACES = """() => Object.fromEntries([...document.querySelectorAll('.pl-compare g.node')].filter(
  (g) => g.getClientRects().length).map((g) => [g.dataset.key, g.getAttribute('transform')]))"""


@pytest.fixture
def lab(notebook: Notebook) -> Iterator[LabPage]:
    """A lab, the pane not yet seen."""
    with opened(notebook, notebook.write("compare.ipynb", [CELL])) as shown:
        yield shown


def bar(lab: LabPage) -> Locator:
    """The bar of the pane."""
    return lab.root.locator(".pl-compare .pl-time")


def go(lab: LabPage, move: str) -> None:
    """Press a button of that bar, and wait until it has moved."""
    before = bar(lab).locator("input").input_value()
    bar(lab).locator(f".pl-go-{move}").click()
    expect(bar(lab).locator("input")).not_to_have_value(before)


def counted(lab: LabPage, found: Comparison) -> None:
    """The price tag on the page is the one of the model, at the place of the slider."""
    table = tags(found, found.go(int(bar(lab).locator("input").input_value())))
    for row in table.rows:
        cells = lab.root.locator(f".pl-compared tr[data-key='{row.key}'] :is(td, th)")
        expect(cells).to_have_text(list(row.cells))
        for column, cell in zip(table.columns, cells.all(), strict=True):
            marked = re.compile("is-changed") if column.key in row.changed else re.compile("^((?!is-changed).)*$")
            expect(cell).to_have_class(marked)


def test_three_machines_step_together(lab: LabPage, notebook: Notebook) -> None:
    """Steps are linked, counts and reasons are the model's, nothing moves, no word is cut; in any light and width."""
    found = compare_machines()
    lab.tab("Compare")
    expect(bar(lab).locator(".pl-step")).to_have_text(f"step 3 of {len(STEPS)}")
    for kind, family in FAMILIES.items():
        expect(lab.node(f"{kind}:unit")).to_contain_text(family.title.partition(", ")[0])
        expect(lab.node(f"{kind}:guest-table")).to_contain_text("PASID 1")
    counted(lab, found)
    places = lab.page.evaluate(PLACES)

    notebook.received.clear()
    go(lab, "forward-over")
    expect(bar(lab).locator(".pl-step")).to_have_text(f"step 4 of {len(STEPS)}")
    for kind in FAMILIES:
        expect(lab.node(f"{kind}:device")).to_contain_text("sends PASID 1")
    assert sum(notebook.received) < 20_000
    go(lab, "forward-over")
    for kind in FAMILIES:
        expect(lab.node(f"{kind}:guest-table")).to_contain_text("PASIDs 1, 2")
        expect(lab.node(f"{kind}:guest-table")).to_have_class(re.compile("is-changed"))
    counted(lab, found)
    assert lab.cut(".pl-compare") == []
    for width in (1280, 1920):
        notebook.screenshot("compare", width, 1300, of=".pl-stack")
    notebook.set_theme("dark")
    for width in (1280, 1920):
        notebook.screenshot("compare-dark", width, 1300, of=".pl-stack")
    notebook.set_theme("light")

    go(lab, "back")
    counted(lab, found)
    go(lab, "back-over")
    go(lab, "end")
    expect(bar(lab).locator(".pl-banner")).to_contain_text("the VM ends: done")
    for kind in FAMILIES:
        expect(lab.node(f"{kind}:guest-table")).to_contain_text(COMPARE["absent"])
    counted(lab, found)
    go(lab, "start")
    expect(bar(lab).locator(".pl-step")).to_have_text("before it begins")
    counted(lab, found)
    for _ in range(2):
        go(lab, "forward-over")
        counted(lab, found)
    assert lab.page.evaluate(PLACES) == places
    for row in tries(found).rows:
        cells = lab.root.locator(f".pl-compared tr[data-key='{row.key}'] :is(td, th)")
        expect(cells).to_have_text(list(row.cells))


def test_the_bar_plays_by_itself(lab: LabPage) -> None:
    """Step by step to the end."""
    lab.tab("Compare")
    expect(bar(lab).locator(".pl-step")).to_have_text(f"step 3 of {len(STEPS)}")
    for _ in range(4):
        go(lab, "forward-over")
    bar(lab).locator(".pl-go-play").click()
    expect(bar(lab).locator(".pl-step")).to_have_text(f"step {len(STEPS)} of {len(STEPS)}", timeout=10_000)
