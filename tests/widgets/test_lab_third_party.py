"""The lab with a device of a third party: it can be chosen, bound and given away, and what needs queues is refused."""

from __future__ import annotations

import pytest

from pasidlab import Machine
from pasidlab_widgets import Lab
from pasidlab_widgets.lab.mistake_words import MISTAKES
from tests.third_party import Card, CardDriver
from tests.widgets.driver import told


@pytest.fixture(params=[True, False], ids=["card first", "accelerator first"])
def lab(request: pytest.FixtureRequest) -> Lab:
    """A lab of a machine with a card and an accelerator, each in either place."""
    machine = Machine()
    if not request.param:
        machine.plug_accelerator("dsa0")
    machine.plug("nic0", Card, CardDriver)
    if request.param:
        machine.plug_accelerator("dsa0")
    return Lab(machine)


def calm(lab: Lab) -> bool:
    """Whether no pane has failed."""
    return lab.state()["errors"] == [] and lab.machine.check().ok


def test_a_process_binds_and_unbinds_by_clicks(lab: Lab) -> None:
    """The device menu has the card; every pane draws it."""
    lab.set(where="host", process_name="app")
    lab.press("spawn")
    lab.set(process="host/app", opened="nic0")
    lab.press("bind")
    app = lab.machine.app("app")
    assert app.pasid == 1
    assert lab.machine.kernel.drivers["nic0"].channel_of(app.process) == 0
    lab.press("copy")
    assert lab.message.title == "Refused: -EOPNOTSUPP"
    lab.press("unbind")
    assert app.pasid is None
    assert calm(lab)


def test_a_vm_gets_the_card_as_a_whole_and_no_interface_of_it(lab: Lab) -> None:
    """-EOPNOTSUPP for an interface; as a whole it works, and comes back when the VM ends."""
    lab.set(vm_name="vm1")
    lab.press("create-vm")
    lab.set(vm="vm1", device="nic0")
    lab.press("assign-adi")
    assert lab.message.title == "Refused: -EOPNOTSUPP"
    lab.press("assign-pf")
    lab.set(where="vm1", process_name="app")
    lab.press("spawn")
    lab.set(process="vm1/app", opened="nic0")
    lab.press("bind")
    assert lab.machine.vm("vm1").app("app").pasid == 1
    assert calm(lab)
    lab.press("crash")
    assert calm(lab)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_no_mistake_stumbles_over_the_card(lab: Lab, mistake: str) -> None:
    """Each can be made or rests with its reason; whatever happens is told."""
    lab.set(where="host", process_name="app")
    lab.press("spawn")
    lab.set(process="host/app", opened="nic0")
    lab.press("bind")
    lab.set(process_name="late")
    lab.press("spawn")
    lab.set(mistake=mistake)
    if not told(lab, "resting").get("mistake"):
        lab.press("mistake")
        assert lab.message.title
    assert calm(lab)
