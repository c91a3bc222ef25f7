"""Bad input in the lab: each gets the errno or fault that the modelled world gives, in words, and changes nothing."""

from __future__ import annotations

import pytest

from pasidlab import Machine
from pasidlab_widgets import Lab
from pasidlab_widgets.lab.mistake_words import MISTAKES
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
    assert MISTAKES[mistake][3] in two_vms.message.sentences
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
