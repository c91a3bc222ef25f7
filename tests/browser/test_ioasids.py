"""The pictures of IOASIDs in JupyterLab: a guest frees too early, and a person looks who keeps the number alive."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.lab_page import LabPage, opened
from tests.browser.notebook import Notebook

pytestmark = pytest.mark.browser

CELL = """
from pasidlab import Machine
from pasidlab_widgets import Lab
m = Machine()
dsa = m.plug_accelerator("dsa0")
vm1, vm2 = m.create_vm("vm1", quota=8), m.create_vm("vm2", quota=4)
adi1, adi2 = m.assign_adi(dsa, vm1, queue="dedicated"), m.assign_adi(dsa, vm2)
for vm, adi in ((vm1, adi1), (vm2, adi2)):
    vm.spawn("app").bind(adi)
Lab(m)
"""
DYING = "ioasid:3"
BOARDS = """() => Object.fromEntries([...document.querySelectorAll('.pl-inner g.node[data-key^="state:"]')].map(
  (g) => [g.dataset.key, g.getAttribute('transform')]))"""


@pytest.fixture
def lab(notebook: Notebook) -> Iterator[LabPage]:
    """A lab with a bound process in each of two VMs, the IOASIDs in front."""
    with opened(notebook, notebook.write("ioasids.ipynb", [CELL])) as shown:
        shown.tab("IOASIDs")
        expect(shown.node("state:active")).to_be_visible()
        yield shown


def is_on(lab: LabPage, token: str, board: str) -> bool:
    """Whether a token lies within a board on the screen."""
    lab.page.wait_for_timeout(500)
    inner, outer = lab.node(token).bounding_box(), lab.node(f"state:{board}").bounding_box()
    assert inner is not None
    assert outer is not None
    return (
        outer["x"] < inner["x"] < outer["x"] + outer["width"] and outer["y"] < inner["y"] < outer["y"] + outer["height"]
    )


def test_who_keeps_a_number_alive_by_clicking(lab: LabPage, notebook: Notebook) -> None:
    """Freed early, its token stands on FREE_PENDING; a click on it shows its holders, and running the work frees it."""
    lab.choose("process", "vm1: app")
    assert is_on(lab, DYING, "active")
    boards = lab.page.evaluate(BOARDS)
    notebook.received.clear()
    lab.press("free-early")
    lab.says("still held by iommu and vdcm:adi0")
    assert is_on(lab, DYING, "free-pending")
    assert lab.page.evaluate(BOARDS) == boards
    assert sum(notebook.received) < 10_000

    lab.node(DYING).click()
    holder, work = lab.node("holder:vdcm:adi0"), lab.node("work:host.mdev%5Badi0%5D")
    expect(holder).to_contain_text("work queued")
    expect(work).to_contain_text("next to run")
    expect(lab.node("work:host.iommu.svm")).to_contain_text("1 ahead of it")
    assert lab.cut(".pl-inner") == []
    for width in (1280, 1920):
        notebook.screenshot("ioasid-keepers", width, 1000)
    lab.press("run-next")
    expect(holder).to_have_count(0)
    expect(lab.node("work:host.iommu.svm")).to_contain_text("next to run")
    lab.press("run-next")
    expect(lab.node(DYING)).to_contain_text("not allocated")
    lab.inner("Life cycle")
    assert is_on(lab, DYING, "free")


def test_the_delivery_is_followed_step_by_step(lab: LabPage, notebook: Notebook) -> None:
    """Back in time to the notification: KVM runs, the device is next, the IOMMU driver later; then the next."""
    lab.choose("process", "vm1: app")
    lab.press("free-early")
    lab.inner("Notifier chains")
    kvm, vdcm, iommu = (
        lab.node(f"set:1:{path}") for path in ("host.kvm%5Bvm1%5D", "host.mdev%5Badi0%5D", "host.iommu.svm")
    )
    expect(kvm).to_have_class(re.compile("s-idle"))
    for _ in range(12):
        lab.go("back")
        if "running" in (kvm.text_content() or ""):
            break
    expect(vdcm).to_contain_text("next")
    expect(iommu).to_contain_text("later")
    assert lab.cut(".pl-inner") == []
    for mode in ("dark", "light"):
        notebook.set_theme("dark" if mode == "dark" else "light")
        notebook.screenshot(f"ioasid-chains-{mode}", 1280, 1000)
    for _ in range(12):
        lab.go("forward")
        if "running" in (vdcm.text_content() or ""):
            break
    expect(kvm).to_contain_text("told")
    expect(iommu).to_contain_text("next")


def test_quotas_and_the_tables_lead_to_an_id(lab: LabPage, notebook: Notebook) -> None:
    """The chart is drawn; a row of the table below, the menu and a square of the chart open the holders of an ID."""
    lab.inner("Quotas")
    chart = lab.root.locator(".bk-Figure").locator("visible=true").nth(1)
    expect(chart).to_be_visible()
    lab.page.wait_for_timeout(800)
    notebook.screenshot("ioasid-quotas", 1280, 1000)
    lab.tab("Who holds what")
    lab.root.locator('tr[data-key="ioasid:4"]').click()
    expect(lab.node("ioasid:4")).to_contain_text("active")
    lab.choose("ioasid", "2 (host)")
    expect(lab.node("holder:aux-domain:vm2")).to_be_visible()


def test_the_keyboard_reaches_an_id(lab: LabPage, notebook: Notebook) -> None:
    """Tab to the picture, arrows from token to token, Enter to choose; no letter reaches the notebook."""
    cells = lab.page.locator(".jp-Cell").count()
    lab.node("ioasid:1").focus()
    lab.page.keyboard.press("b")
    lab.page.keyboard.press("ArrowRight")
    lab.page.keyboard.press("Enter")
    expect(lab.node("ioasid:2")).to_contain_text("idle")
    assert lab.page.locator(".jp-Cell").count() == cells


def test_who_runs_is_brought_into_sight(notebook: Notebook) -> None:
    """With more rows than there is room, inside the picture's own room; the page stays where it is."""
    more = CELL.replace("(vm2, adi2)):", "(vm2, adi2), *rest):")
    more = more.replace(
        "for vm, adi in", "rest = [(vm, m.assign_adi(dsa, vm)) for vm in map(m.create_vm, names)]\nfor vm, adi in"
    )
    more = more.replace("m = Machine()", "m, names = Machine(), [f'vm{at}' for at in range(3, 9)]")
    with opened(notebook, notebook.write("many.ipynb", [more])) as lab:
        lab.tab("IOASIDs")
        lab.inner("Notifier chains")
        lab.choose("process", "vm8: app")
        lab.press("free-early")
        lab.go("back")
        scrolled = lab.page.evaluate("() => document.querySelector('.jp-WindowedPanel-outer').scrollTop")
        running = lab.node("set:8:host.kvm%5Bvm8%5D")
        for _ in range(12):
            lab.go("back")
            if "running" in (running.text_content() or ""):
                break
        lab.page.wait_for_timeout(300)
        box, room = (
            running.bounding_box(),
            lab.root.locator(".pl-inner .pl-scroll").locator("visible=true").bounding_box(),
        )
        assert box is not None
        assert room is not None
        assert room["y"] <= box["y"]
        assert box["y"] + box["height"] <= room["y"] + room["height"]
        assert lab.page.evaluate("() => document.querySelector('.jp-WindowedPanel-outer').scrollTop") == scrolled
