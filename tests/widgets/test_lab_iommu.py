"""The IOMMU of the lab's machine: chosen when a machine is made; what is not there says why."""

from __future__ import annotations

from html import escape

import pytest

from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.views.mapping import guest_to_host
from pasidlab_widgets import Lab
from pasidlab_widgets.lab.hypervisor_words import OWN_IOASIDS, OWN_QUOTA
from pasidlab_widgets.lab.panels import VmPanel
from pasidlab_widgets.lab.words import IOMMUS, PANES

BINDING = [family.name for family in FAMILIES.values() if family.binds_tables]


def bound(lab: Lab, iommu: str) -> None:
    """By clicks: a machine with this IOMMU, a VM with the whole function, and a bound process in it."""
    lab.set(iommu=iommu)
    lab.press("new-machine")
    lab.press("create-vm")
    lab.press("assign-pf")
    lab.set(where="vm1")
    lab.press("spawn")
    lab.set(process="vm1/app", opened="dsa0")
    lab.press("bind")


def test_every_family_can_be_chosen() -> None:
    """By its name, in words."""
    lab = Lab()
    menu = lab._renewing.menus["iommu"]
    assert menu.labels == [IOMMUS[name] for name in FAMILIES]
    assert menu.value == lab.machine.iommu == "vtd"


@pytest.mark.parametrize("iommu", FAMILIES)
def test_a_machine_with_the_chosen_iommu_is_made_and_its_line_is_shown(lab: Lab, iommu: str) -> None:
    """The line runs; the menu shows what the machine has."""
    lab.set(iommu=iommu)
    lab.press("new-machine")
    assert lab.machine.iommu == iommu
    assert lab.message.lines[0] == f'm = Machine(iommu="{iommu}")'
    assert IOMMUS[iommu] in lab.message.sentences[0]
    assert lab._renewing.menus["iommu"].value == iommu


@pytest.mark.parametrize("iommu", FAMILIES)
def test_every_pane_can_be_opened_on_every_machine(lab: Lab, iommu: str) -> None:
    """With a bound process behind a whole function, and one step back; no error is shown."""
    bound(lab, iommu)
    lab.press("copy")
    for name in PANES:
        lab.show_picture(name)
    lab.probe("dsa0", 1, 0x1000)
    lab.travel(lambda time: time.back())
    assert lab.state()["errors"] == []


@pytest.mark.parametrize("iommu", BINDING)
def test_what_such_a_machine_has_not_rests_with_the_reason_of_the_model(lab: Lab, iommu: str) -> None:
    """Interfaces, policies, and giving a PASID back; a press that comes all the same is refused."""
    bound(lab, iommu)
    resting = lab.state()["resting"]
    assert isinstance(resting, dict)
    driver = lab.machine.kernel.iommu
    assert driver.why_no_aux in resting["assign-adi"]
    assert driver.why_whole_tables in resting["free-early"]
    assert lab._panels[1].menus["numbers"].labels == ["the guest's own"]


@pytest.mark.parametrize("iommu", FAMILIES)
def test_a_shared_queue_is_offered_where_the_processor_can_enqueue(lab: Lab, iommu: str) -> None:
    """Elsewhere the menu says why not, in the words of the model; on the way back nothing of that is left."""
    architecture, menu = FAMILIES[iommu].architecture, lab._menus["queue"]
    for name in (iommu, "vtd"):
        lab.set(iommu=name)
        lab.press("new-machine")
        enqueues = FAMILIES[name].architecture.enqueues
        assert menu.labels == (["shared", "dedicated"] if enqueues else ["dedicated"])
        assert lab._surface.resting.get(architecture.why_no_enqueue) == (None if enqueues else ["pick-queue"])


@pytest.mark.parametrize("iommu", FAMILIES)
def test_where_guests_own_their_tables_no_quota_is_counted_and_no_ioasid_is_missed(lab: Lab, iommu: str) -> None:
    """A short sentence in place of the quota, the model's reason under the pointer, a sentence above the IOASIDs."""
    bound(lab, iommu)
    lab.show_picture("ioasids")
    panel = lab._panels[1]
    assert isinstance(panel, VmPanel)
    driver, allowed = lab.machine.kernel.iommu, panel._allowed.value
    owned = iommu in BINDING
    assert (f">{escape(OWN_QUOTA)}<" in allowed) is owned
    assert (f'title="-EOPNOTSUPP: {escape(driver.why_no_aux)}' in allowed) is owned
    assert lab._ioasids.said == (OWN_IOASIDS if owned else "")


@pytest.mark.parametrize("iommu", BINDING)
def test_a_guests_bind_is_told_as_what_it_is(lab: Lab, iommu: str) -> None:
    """An entry of the guest's own table; one arrow for the whole of it, none for the PASID."""
    bound(lab, iommu)
    assert lab.message.sentences[0].endswith("The host was asked for none; it carried out invalidations.")
    lab.show_picture("mapping")
    figure = guest_to_host(lab.machine)
    assert figure.node("table:0:dsa0").lines[2] == "1 PASID"
    between = [edge for edge in figure.edges if edge.present and edge.head == "entry:dsa0"]
    assert [edge.tail for edge in between] == ["table:0:dsa0"]
    lab.press("unbind")
    assert "it took invalidations, no more" in " ".join(lab.message.sentences)


@pytest.mark.parametrize("iommu", BINDING)
def test_a_guests_own_table_is_opened_in_its_memory(lab: Lab, iommu: str) -> None:
    """The table, a part of it, and what an entry names; the device's entry lies in the machine's memory."""
    bound(lab, iommu)
    lab.show_picture("table")
    for key in ("directory", "leaf:0", "first:1"):
        lab._table.pick(key)
        assert lab._memory.menus["memory-of"].value == "vm1"
    lab._table.pick("device")
    assert lab._memory.menus["memory-of"].value == ""
    lab.pick_entry(1)
    assert lab._entry._structure.shown is not None
    assert lab.state()["errors"] == []


@pytest.mark.parametrize("iommu", FAMILIES)
def test_a_fault_is_told_in_the_words_of_the_unit(lab: Lab, iommu: str) -> None:
    """The code, its name, its meaning, and the line of the kernel that logged it, here the host's."""
    lab.set(iommu=iommu)
    lab.press("new-machine")
    lab.set(mistake="dma")
    lab.press("mistake")
    assert lab.message.title.startswith("DMA fault 0x")
    assert lab.message.sentences[1] == "The kernel of the host logged it."
    assert lab.message.output[0] in lab.machine.fault_log[-1]
