"""Lesson 00 as a newcomer uses it: JupyterLab in a real browser, all cells run, and then only clicks."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.lab_page import LabPage, opened
from tests.browser.notebook import Notebook
from tests.browser.server import ROOT

pytestmark = pytest.mark.browser

LESSON = ROOT / "notebooks" / "00_what_is_a_pasid.ipynb"
HOSTILE = '"><script>document.title = "executed"</script><img src=x onerror=alert(1)>'


@pytest.fixture
def lesson(notebook: Notebook) -> Iterator[LabPage]:
    """The lab at the end of lesson 00."""
    with opened(notebook, LESSON) as shown:
        yield shown


@pytest.fixture
def lab(notebook: Notebook) -> Iterator[LabPage]:
    """A lab alone in a notebook."""
    with opened(notebook, notebook.write("lab.ipynb", ["from pasidlab_widgets import Lab", "Lab()"])) as shown:
        yield shown


def build_two_vms(lab: LabPage) -> None:
    """By clicks: two VMs, an ADI and a bound process in each."""
    for number in (1, 2):
        vm = f"vm{number}"
        lab.write("vm-name", vm)
        lab.press("create-vm")
        lab.says(f"{vm} is running")
        lab.choose("vm", vm)
        lab.press("assign-adi")
        lab.choose("where", vm)
        lab.press("spawn")
        lab.choose("process", f"{vm}: app")
        lab.press("bind")
        lab.says("guest PASID 1")


def test_the_two_vm_story_by_clicking(lesson: LabPage, notebook: Notebook) -> None:
    """Both guests have PASID 1, backed by different host PASIDs; unbind clears KVM's entries, going back shows them."""
    lab = lesson
    build_two_vms(lab)
    lab.tab("Guest → host")
    entries = [lab.node("kvm:0:1"), lab.node("kvm:1:1")]
    hosts = [entry.locator("text.t").text_content() or "" for entry in entries]
    assert [host.split(" → ")[0] for host in hosts] == ["1", "1"]
    assert len({host.split(" → ")[1] for host in hosts}) == 2
    expect(lab.node("guest:0:1")).to_have_class(re.compile("s-live"))
    notebook.screenshot("lab-two-vms", 1600, 1000)

    lab.press("copy")
    lab.says("hello, device")
    for vm in ("vm1", "vm2"):
        lab.choose("process", f"{vm}: app")
        lab.press("unbind")
    for entry in entries:
        expect(entry).to_have_class(re.compile("s-off"))
        expect(entry.locator("text.t")).to_have_text("1 → none")

    for _ in range(2):
        lab.time.locator(".pl-go-back-over").click()
    for entry, host in zip(entries, hosts, strict=True):
        expect(entry).to_have_class(re.compile("s-live"))
        expect(entry.locator("text.t")).to_have_text(host)
    expect(lab.time.locator(".pl-banner")).to_contain_text("You are in the past")
    notebook.screenshot("lab-in-the-past", 1600, 1000)


def test_a_hostile_vm_name_is_text(lab: LabPage, notebook: Notebook) -> None:
    """A name with quotes and <script> is refused with a visible message, and nothing in it runs."""
    title = notebook.page.title()
    lab.write("vm-name", HOSTILE)
    lab.press("create-vm")
    lab.says("Refused: -EINVAL")
    lab.says("<script>")
    expect(lab.message).to_be_visible()
    assert notebook.page.locator("img[src=x], .pl-lab script").count() == 0
    assert notebook.page.title() == title
    notebook.screenshot("lab-hostile-name", 1280, 900)


def test_a_reload_shows_the_present(lab: LabPage, notebook: Notebook) -> None:
    """After a reload of the page the widgets show what they showed, and clicks go on; both themes can be read."""
    lab.press("create-vm")
    notebook.reload()
    lab.root.scroll_into_view_if_needed()
    expect(lab.node("vm:0:memory")).to_be_visible()
    lab.press("assign-adi")
    expect(lab.node("vm:0:device:0")).to_contain_text("adi0")
    notebook.set_theme("dark")
    notebook.screenshot("lab-dark", 1600, 1000)
    notebook.set_theme("light")
