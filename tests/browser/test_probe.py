"""The lookup in JupyterLab: a walk is played and explained, an entry shows its bits, memory is opened by clicking."""

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
adi1, adi2 = m.assign_adi(dsa, vm1), m.assign_adi(dsa, vm2)
for vm, adi in ((vm1, adi1), (vm2, adi2)):
    vm.spawn("app").bind(adi)
Lab(m)
"""
PLACES = """() => Object.fromEntries([...document.querySelectorAll('.pl-probe g.node')].map(
  (g) => [g.dataset.key, g.getAttribute('transform')]))"""


@pytest.fixture
def lab(notebook: Notebook) -> Iterator[LabPage]:
    """A lab with a bound process in each of two VMs."""
    with opened(notebook, notebook.write("probe.ipynb", [CELL])) as shown:
        yield shown


def step(lab: LabPage, move: str) -> None:
    """Press a button of the walk's bar, and wait until it has moved."""
    place = lab.root.locator(".pl-probe .pl-step")
    before = place.inner_text()
    lab.root.locator(f".pl-probe .pl-go-{move}").click()
    expect(place).not_to_have_text(before)


def test_a_walk_is_played_stepped_and_explained(lab: LabPage, notebook: Notebook) -> None:
    """The first click plays a nested walk; nothing moves in it; a wrong PASID ends in a fault, in words."""
    lab.tab("Probe")
    probe, verdict = lab.root.locator(".pl-do-probe"), lab.root.locator(".pl-said")
    expect(probe).to_be_enabled()
    probe.click()
    expect(lab.node("root")).to_have_class(re.compile("s-live"))
    expect(lab.node("result")).to_have_class(re.compile("s-idle"))
    expect(lab.root.locator('.pl-probe g.node[data-key="none"]')).to_have_count(0)
    places = lab.page.evaluate(PLACES)
    lab.says("m.translate(")
    lab.root.locator(".pl-probe .pl-go-end").click()
    expect(lab.node("result")).to_have_class(re.compile("s-live"))
    expect(verdict).to_contain_text("The translation is nested.")
    assert lab.page.evaluate(PLACES) == places
    assert lab.cut(".pl-probe") == []

    step(lab, "start")
    notebook.received.clear()
    step(lab, "forward-over")
    expect(lab.node("second:4:4")).to_have_class(re.compile("s-now"))
    assert sum(notebook.received) < 10_000
    for width in (1280, 1920):
        notebook.screenshot("probe", width, 1200)

    lab.root.locator(".pl-write-probe-pasid input").fill("50")
    lab.root.locator(".pl-write-probe-pasid input").blur()
    probe.click()
    lab.says("Fault 0x59 SPT.2")
    lab.root.locator(".pl-probe .pl-go-end").click()
    expect(verdict).to_contain_text("nobody has bound PASID 50 on this device")
    expect(lab.node("entry")).to_have_class(re.compile("s-fault"))
    notebook.set_theme("dark")
    notebook.screenshot("probe-fault-dark", 1280, 1200)
    notebook.set_theme("light")
    lab.root.locator(".pl-write-probe-address input").fill("somewhere")
    lab.root.locator(".pl-write-probe-address input").blur()
    probe.click()
    lab.says("Refused: -EINVAL")


def test_motion_is_left_out_where_it_is_not_wanted(notebook: Notebook) -> None:
    """With prefers-reduced-motion the outcome is there at once; steps can still be made."""
    notebook.page.emulate_media(reduced_motion="reduce")
    with opened(notebook, notebook.write("calm-probe.ipynb", [CELL])) as lab:
        lab.tab("Probe")
        lab.root.locator(".pl-do-probe").click()
        expect(lab.root.locator(".pl-probe .pl-step")).to_contain_text("outcome")
        step(lab, "back-over")
        expect(lab.root.locator(".pl-probe .pl-step")).to_contain_text("stop")


def test_an_entry_shows_its_bits_and_leads_to_memory(lab: LabPage, notebook: Notebook) -> None:
    """From the directory to an entry, its 512 bits, a field by the keyboard, and the table that a field names."""
    lab.tab("PASID table")
    lab.root.locator('.pl-picture [data-key="entry:3"]').locator("visible=true").click()
    bits = lab.root.locator(".pl-structure .pl-picture").locator("visible=true")
    expect(bits.locator(".pl-title")).to_have_text("PASID entry 3 of dsa0: 512 bits, field by field")
    assert bits.locator(".field[data-key=P]").get_attribute("aria-label") == (
        "P, bit 0: 0x1, present; teardown clears this bit first"
    )
    for width in (1280, 1920):
        notebook.screenshot("entry-bits", width, 1500)
    cells = lab.page.locator(".jp-Cell").count()
    bits.locator(".field[data-key=P]").focus()
    lab.page.keyboard.press("b")
    lab.page.keyboard.press("Enter")
    expect(lab.root.locator(".pl-structure tr[data-key=P]")).to_have_attribute("aria-selected", "true")
    assert lab.page.locator(".jp-Cell").count() == cells

    bits.locator(".field[data-key=SLPTPTR]").click()
    memory = lab.root.locator(".pl-memory")
    expect(memory.locator(".pl-title")).to_contain_text("second-level entry, level 4")
    memory.locator("tr[data-key^='word:']").first.click()
    memory.locator(".field[data-key=ADDR]").click()
    expect(memory.locator(".pl-title")).to_contain_text("second-level entry, level 3")
    notebook.screenshot("memory", 1280, 1500)


def test_an_unbind_is_seen_bit_by_bit(lab: LabPage, notebook: Notebook) -> None:
    """P goes, what changed is marked, and going back sets it again."""
    lab.tab("PASID table")
    lab.root.locator('.pl-picture [data-key="entry:3"]').locator("visible=true").click()
    flag = lab.root.locator(".pl-structure .field[data-key=P]").locator("visible=true")
    expect(flag).to_have_class(re.compile("is-set"))
    lab.choose("process", "vm1: app")
    lab.press("unbind")
    expect(flag).not_to_have_class(re.compile("is-set"))
    expect(flag.locator(".changed")).to_have_count(1)
    lab.go("back-over")
    expect(flag).to_have_class(re.compile("is-set"))
