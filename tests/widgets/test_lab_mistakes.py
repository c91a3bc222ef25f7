"""Bad input in the lab: each gets the errno or fault that the modelled world gives, in words, and changes nothing."""

from __future__ import annotations

import pytest

from pasidlab import Machine
from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.views.unit_words import terms_of
from pasidlab_widgets import Lab
from pasidlab_widgets.lab.mistake_words import MISTAKES, NEVER
from pasidlab_widgets.lab.mistakes import attempt, description, never, offered, stage_of, words_of
from tests.widgets.driver import add_vm, told, world

TITLES = {
    "quota-vm": "Refused: -ENOSPC",
    "quota-system": "Refused: -ENOSPC",
    "unknown": "Refused: -ENOENT",
    "unknown-free": "Refused: -EINVAL",
    "foreign": "Refused: -EACCES",
    "double-bind": "Refused: -EBUSY",
    "unbind": "Refused: -EINVAL",
    "dma": "DMA fault 0x59: SPT.2",
    "enqcmd": "Refused: -EFAULT",
    "page": "The copy stopped after 0 bytes",
    "name-empty": "Refused: -EINVAL",
    "name-taken": "Refused: -EEXIST",
    "name-hostile": "Refused: -EINVAL",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_and_changes_nothing(two_vms: Lab, mistake: str) -> None:
    """The message names errno or reason code and says what it means; VMs, PASIDs and KVM's entries stay."""
    add_vm(two_vms, "tiny", quota=1)
    two_vms.set(process="tiny/app")
    two_vms.press("bind")
    two_vms.set(process_name="late")
    two_vms.press("spawn")
    before = world(two_vms.machine)
    two_vms.set(mistake=mistake)
    two_vms.press("mistake")
    assert two_vms.message.title == TITLES[mistake]
    assert words_of(two_vms.machine, mistake).lesson in two_vms.message.sentences
    assert world(two_vms.machine) == before
    assert two_vms.machine.check().ok
    assert two_vms.state()["errors"] == []


@pytest.mark.parametrize("mistake", [key for key, words in MISTAKES.items() if words[2] and key != "quota-system"])
def test_a_mistake_without_a_stage_says_what_it_needs(mistake: str) -> None:
    """On an empty machine it cannot be made."""
    lab = Lab(Machine())
    lab.set(mistake=mistake)
    assert told(lab, "resting")["mistake"] == MISTAKES[mistake][2]


@pytest.mark.parametrize("name", ["", "vm1", '"><script>alert(1)</script>', "a b", "x" * 33])
def test_a_bad_vm_name_is_refused_visibly(lab: Lab, name: str) -> None:
    """The field takes anything; the machine refuses, and the page shows it as text."""
    lab.press("create-vm")
    lab.set(vm_name=name)
    lab.press("create-vm")
    assert lab.message.kind == "refused"
    assert len(lab.machine.vms) == 1
    assert "<script>" not in lab._box.widget.value


# --- on every machine -------------------------------------------------------------------------------------------------

WHOLE = [name for name, family in FAMILIES.items() if family.binds_tables]
NO_ENQUEUE = [name for name, family in FAMILIES.items() if not family.architecture.enqueues]
NOT_WHOLE = ("virtual command", "VFIO only binds")
NOT_ENQUEUED = ("ENQCMD", "IA32_PASID", "#GP")


def stage_for_all(iommu: str) -> Machine:
    """Two VMs with a function and a bound process each; the first has used up its quota, and has another process."""
    machine = Machine(iommu=iommu)
    for number, quota in enumerate((1, 64)):
        device, vm = machine.plug_accelerator(f"dsa{number}"), machine.create_vm(f"vm{number}", quota=quota)
        vm.spawn("app").bind(machine.assign_pf(device, vm))
        vm.spawn("late")
    return machine


def all_words(machine: Machine, mistake: str) -> str:
    """Everything that the lab says about a mistake, before and after it."""
    parts = [*words_of(machine, mistake), description(machine, mistake)]
    if stage_of(machine, mistake) is not None:
        said = attempt(machine, mistake)
        parts += [said.title, *said.sentences, *said.output]
    return " ".join(parts)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("iommu", FAMILIES)
def test_on_every_machine_a_mistake_can_be_made_or_never(iommu: str, mistake: str) -> None:
    """Either the model refuses the call and everything stays, or the mistake is off with the model's own reason."""
    machine = stage_for_all(iommu)
    before, why = world(machine), never(machine, mistake)
    said = attempt(machine, mistake)
    if why:
        assert machine.kernel.iommu.why_whole_tables in why
        assert (said.kind, said.title) == ("info", why)
    else:
        assert said.kind in ("refused", "fault")
        assert words_of(machine, mistake).lesson in said.sentences
    assert world(machine) == before
    assert machine.check().ok


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("iommu", WHOLE)
def test_where_guests_own_their_tables_nothing_is_said_of_virtual_commands(iommu: str, mistake: str) -> None:
    """Neither in the menu, nor in the reason, the answer or the lesson."""
    said = all_words(stage_for_all(iommu), mistake)
    assert [word for word in NOT_WHOLE if word in said] == []
    assert "PASID entry" not in said
    assert "{" not in words_of(Machine(iommu=iommu), mistake).lesson


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("iommu", NO_ENQUEUE)
def test_without_an_enqueue_instruction_none_is_named(iommu: str, mistake: str) -> None:
    """The mistake with ENQCMD is one with a queue that is not open."""
    said = all_words(stage_for_all(iommu), mistake)
    assert [word for word in NOT_ENQUEUED if word in said] == []


@pytest.mark.parametrize("iommu", FAMILIES)
def test_what_nobody_can_make_is_last_in_the_menu_and_never_chosen(lab: Lab, iommu: str) -> None:
    """Not on a machine to begin with, nor on a new one in whose place it was chosen; it can be looked at."""
    assert Lab(Machine(iommu=iommu))._panels[-1].menus["mistake"].value not in _nevers(iommu)
    lab.set(mistake="quota-vm", iommu=iommu)
    lab.press("new-machine")
    menu = lab._panels[-1].menus["mistake"]
    assert menu.value not in _nevers(iommu)
    keys = [key for _, key in offered(lab.machine)]
    assert sorted(keys[len(keys) - len(_nevers(iommu)) :]) == sorted(_nevers(iommu))
    for key in _nevers(iommu):
        lab.set(mistake=key)
        assert told(lab, "resting")["mistake"] == never(lab.machine, key)


def _nevers(iommu: str) -> list[str]:
    return list(NEVER) if FAMILIES[iommu].binds_tables else []


@pytest.mark.parametrize("iommu", WHOLE)
def test_a_fault_of_a_guests_device_is_logged_by_the_guest(iommu: str) -> None:
    """It is the guest's affair: the line is one of its kernel's log, and the host's log stays empty."""
    machine = stage_for_all(iommu)
    said = attempt(machine, "dma")
    assert said.sentences[1] == "The kernel of vm0 logged it."
    assert said.output[0] in machine.vm("vm0").kernel.faults.log.values()[-1]
    assert machine.fault_log == []


def test_a_fault_that_no_kernel_has_read_is_recorded_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the handler does not run, there is no line to show, and nobody is said to have logged it."""
    machine = stage_for_all("vtd")
    monkeypatch.setattr(machine.kernel.faults, "service", lambda: None)
    said = attempt(machine, "dma")
    assert said.output == ()
    assert "logged" not in " ".join(said.sentences)


@pytest.mark.parametrize("iommu", FAMILIES)
def test_a_pasid_that_no_hypervisor_gave_cannot_be_given_back(iommu: str) -> None:
    """The kernel of the host has no hypervisor: -EOPNOTSUPP, with where to read why."""
    with pytest.raises(KernelError, match=r"must get its PASIDs from a hypervisor.*docs/iommus\.md") as caught:
        Machine(iommu=iommu).kernel.iommu.free_by_command(1)
    assert caught.value.name == "EOPNOTSUPP"


@pytest.mark.parametrize("iommu", FAMILIES)
def test_bit_by_bit_waits_in_the_words_of_the_machine(iommu: str) -> None:
    """Before an entry is clicked: its name, the name of its table, and no number of bits."""
    lab = Lab(Machine(iommu=iommu))
    lab.show_picture("entry")
    terms = terms_of(lab.machine.unit)
    picture, table = lab._entry._structure.picture, lab._entry._structure.fields.table
    assert table is not None
    hint = f"Click an entry of a device's {terms.table} to see its bits, field by field."
    assert (picture.state["empty"], table.empty) == (hint, hint)
    assert table.title == terms.entry[:1].upper() + terms.entry[1:]
