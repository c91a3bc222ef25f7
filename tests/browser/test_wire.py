"""A PF and an ADI side by side, a shared queue and the hypervisor's desk in JupyterLab: by clicks, in one page."""

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
whole, parent = m.plug_accelerator("dsa0"), m.plug_accelerator("dsa1")
vm1, vm2, vm3 = m.create_vm("vm1", policy="unenforced"), m.create_vm("vm2"), m.create_vm("vm3")
pf, adis = m.assign_pf(whole, vm1), [m.assign_adi(parent, vm) for vm in (vm1, vm2, vm3)]
app = vm1.spawn("app")
app.bind(pf, queue="dedicated")
apps, late = [app, vm2.spawn("app"), vm3.spawn("app")], vm2.spawn("late")
for one, adi in zip(apps, adis):
    one.bind(adi)
Lab(m)
"""
PLACES = """() => Object.fromEntries([...document.querySelectorAll('.pl-tables g.node')].filter(
  (g) => g.getClientRects().length).map((g) => [g.dataset.key, g.getAttribute('transform')]))"""
TABS = """() => [...document.querySelectorAll('.pl-stack > .lm-TabBar')].map((bar) => {
  const labels = [...bar.querySelectorAll('.lm-TabBar-tabLabel')];
  return labels.filter((label) => label.scrollWidth > label.clientWidth + 1).map((label) => label.textContent);
}).flat()"""

PRESENT = """() => {
  const seen = [...document.querySelectorAll('.pl-ladder')].find((box) => box.getClientRects().length);
  const row = seen.querySelector('.row.is-present').getBoundingClientRect();
  const head = seen.querySelector('.pl-head').getBoundingClientRect(), box = seen.getBoundingClientRect();
  return row.top >= head.bottom - 1 && row.bottom <= box.bottom + 1;
}"""
MOVED = """() => [...document.querySelectorAll('.pl-ladder .row .say')].filter((text) =>
  text.getClientRects().length && Math.abs(text.getBBox().x - Number(text.getAttribute('x'))) > 4
).map((text) => text.textContent)"""


@pytest.fixture
def lab(notebook: Notebook) -> Iterator[LabPage]:
    """A lab with a PF and an ADI for one process, and three VMs on one shared queue."""
    with opened(notebook, notebook.write("wire.ipynb", [CELL])) as shown:
        yield shown


def test_wire_queue_and_hypervisor(lab: LabPage, notebook: Notebook) -> None:
    """Two numbers for one process; a queue with three VMs' descriptors; a trap that is refused, and what it leads to.

    Nothing moves when work is done, a click costs less than 10 kB, and no word is cut, in light and in dark.
    """
    lab.tab("On the wire")
    expect(lab.node("wire:0")).to_contain_text("PASID 1")
    expect(lab.node("wire:0")).to_contain_text("◆ guest")
    expect(lab.node("wire:1")).to_contain_text("● host")
    expect(lab.node("conflict")).to_contain_text("has two meanings on 6a:01.0")
    assert lab.cut(".pl-tables") == []
    for width in (1280, 1920):
        notebook.screenshot("wire", width, 1000, of=".pl-stack")
        assert lab.page.evaluate(TABS) == []

    lab.tab("Queue")
    lab.choose("queue-device", "dsa1")
    for number in (1, 2, 3, 1, 2):
        lab.choose("process", f"vm{number}: app")
        lab.choose("opened", f"adi{number - 1}")
        lab.press("submit")
    expect(lab.node("slot:4")).to_contain_text("◆ vm2")
    expect(lab.node("slot:2")).to_contain_text("■ vm3")
    places = lab.page.evaluate(PLACES)
    notebook.received.clear()
    lab.press("run-step")
    expect(lab.node("slot:0")).to_have_class(re.compile("s-off"))
    expect(lab.node("slot:1")).to_contain_text("◆ vm2")
    assert sum(notebook.received) < 10_000
    assert lab.page.evaluate(PLACES) == places
    assert lab.cut(".pl-tables") == []
    notebook.screenshot("queue", 1280, 1000, of=".pl-stack")
    lab.press("run-all")
    expect(lab.node("slot:1")).to_have_class(re.compile("s-off"))

    lab.tab("Hypervisor")
    said = lab.root.locator(".pl-hypervisor .pl-said")
    lab.root.locator(".pl-do-hold").click()
    expect(said).to_contain_text("You are the hypervisor")
    lab.choose("process", "vm2: app")
    lab.choose("opened", "adi1")
    lab.press("unbind")
    expect(lab.time.locator(".pl-banner")).to_contain_text("A call waits at a trap")
    expect(lab.root.locator(".pl-hypervisor tr[data-key='trap:0']")).to_contain_text("DRAIN_PASID")
    lab.press("serve")
    expect(said).to_contain_text("PASID cache")
    notebook.screenshot("hypervisor", 1280, 1000, of=".pl-stack")
    lab.root.locator(".pl-do-refuse").click()
    expect(said).to_contain_text("vm2 believes nobody uses PASID 1 on adi1; the host still has an entry for it.")
    lab.says('m.decide("refuse", number=0)')
    notebook.screenshot("hypervisor-refused", 1920, 1000)

    notebook.set_theme("dark")
    notebook.screenshot("hypervisor-dark", 1280, 1000, of=".pl-stack")
    lab.tab("On the wire")
    notebook.screenshot("wire-dark", 1920, 1000)
    lab.tab("Queue")
    notebook.screenshot("queue-dark", 1280, 1000, of=".pl-stack")
    notebook.set_theme("light")


def test_the_row_of_a_trap_is_seen_at_any_width_and_a_refusal_from_its_beginning(
    lab: LabPage, notebook: Notebook
) -> None:
    """The ladder follows when it is made narrower, and no rule of another picture moves its words."""
    notebook.screenshot("before", 1920, 1000)
    lab.tab("Hypervisor")
    lab.root.locator(".pl-do-hold").click()
    lab.choose("process", "vm2: late")
    lab.choose("opened", "adi1")
    lab.press("bind")
    expect(lab.time.locator(".pl-banner")).to_contain_text("A call waits at a trap")
    for width in (1280, 1920):
        notebook.screenshot("trap-row", width, 1000)
        assert lab.page.evaluate(PRESENT)
    lab.root.locator(".pl-do-refuse").click()
    lab.says("Refused: -ENOSPC")
    expect(lab.root.locator(".pl-ladder .row.r-refuse").first).to_contain_text("✕ refused")
    assert lab.page.evaluate(MOVED) == []
