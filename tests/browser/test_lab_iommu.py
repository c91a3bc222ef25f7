"""The IOMMU of the lab's machine, in JupyterLab: chosen in a menu; a guest that owns its table, by clicks alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.lab_page import LabPage, opened
from tests.browser.notebook import Notebook

pytestmark = pytest.mark.browser

CELL = """
from pasidlab_widgets import Lab
Lab()
"""


@pytest.fixture
def lab(notebook: Notebook) -> Iterator[LabPage]:
    """A fresh lab."""
    with opened(notebook, notebook.write("iommu.ipynb", [CELL])) as shown:
        yield shown


@pytest.mark.parametrize(
    ("label", "iommu", "step"), [("Arm SMMUv3", "smmuv3", "cd"), ("AMD", "amdvi", "gcr3-1")], ids=["smmuv3", "amdvi"]
)
def test_a_guest_owns_its_table(lab: LabPage, notebook: Notebook, label: str, iommu: str, step: str) -> None:
    """A new machine, a VM with the function, a bind: one arrow to the host; the walk finds the table through the VM."""
    lab.choose("iommu", label)
    lab.root.locator(".pl-do-new-machine").click()
    lab.says(f'm = Machine(iommu="{iommu}")')
    lab.press("create-vm")
    assert lab.root.locator(".pl-pick-queue option").all_inner_texts() == ["dedicated"]
    assert "no ENQCMD" in (lab.root.locator(".pl-pick-queue").get_attribute("title") or "")
    assert "EOPNOTSUPP" in (lab.root.locator(".pl-do-assign-adi").get_attribute("title") or "")
    lab.press("assign-pf")
    lab.says("The guest owns its table of PASIDs")
    lab.choose("where", "vm1")
    lab.press("spawn")
    lab.press("bind")
    lab.says("The host was asked for none")
    lab.tab("Guest → host")
    expect(lab.node("entry:dsa0")).to_contain_text("table bound")
    expect(lab.node("pasid:0:dsa0:1")).to_contain_text("app")
    assert lab.cut(".pl-graph") == []
    for mode in ("light", "dark"):
        notebook.set_theme(mode)
        for width in (1280, 1920):
            notebook.screenshot(f"lab-{iommu}-whole-{mode}", width, of=".pl-lab")
            assert lab.too_wide() == []
    lab.tab("Machine map")
    expect(lab.node("vm:0:device:0")).to_contain_text("DEVICE")
    notebook.screenshot(f"lab-{iommu}-map", 1280, of=".pl-lab")
    assert lab.too_wide() == []
    lab.page.set_viewport_size({"width": 1600, "height": 1000})
    lab.tab("PASID table")
    expect(lab.node("entry:1")).to_contain_text("app of vm1")
    notebook.screenshot(f"lab-{iommu}-table", 1600, of=".pl-lab")
    lab.tab("Probe")
    lab.root.locator(".pl-do-probe").click()
    lab.root.locator(".pl-probe .pl-go-end").click()
    expect(lab.node(step)).to_have_class(re.compile("s-live"))
    expect(lab.root.locator(".pl-said")).to_contain_text("The translation is nested")
    notebook.screenshot(f"lab-{iommu}-probe", 1600, of=".pl-lab")
