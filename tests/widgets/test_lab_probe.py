"""The pane "Probe" of the lab: the first click shows a nested walk, steps move through it, bad input is refused."""

from __future__ import annotations

import asyncio

import pytest

from pasidlab import Machine
from pasidlab.handles import PhysicalFunction
from pasidlab_widgets import Lab
from pasidlab_widgets.lab.probe import ProbePane
from pasidlab_widgets.lab.probe_choices import addresses, number, optional_number, pasids
from tests.widgets.driver import entry, told
from tests.widgets.test_lab_wire import count_messages


@pytest.fixture
def probing(two_vms: Lab) -> Lab:
    """A lab with the pane in front."""
    two_vms.show_picture("probe")
    return two_vms


def pane(lab: Lab) -> ProbePane:
    """The pane itself."""
    found = lab._probe
    assert isinstance(found, ProbePane)
    return found


def state_of(lab: Lab, box: str) -> str:
    """The state of a box of the walk."""
    return str(entry(pane(lab).view, "states", box)).split(" ", 1)[0].removeprefix("s-")


def test_the_first_click_shows_a_full_nested_walk(probing: Lab) -> None:
    """A bound PASID and a mapped address stand in the fields; the line is that of the call, which changes nothing."""
    before = probing.machine.timeline.digest()
    probing.press("probe")
    assert probing.message.kind == "done"
    assert probing.message.lines[0].startswith('m.translate(m.device("dsa0").rid, pasid=')
    walk = eval(probing.message.lines[0], {"m": probing.machine})
    assert walk.address is not None
    assert sum(stop.stage != "mark" for stop in walk.stops) == 28
    assert state_of(probing, "result") == "live"
    assert "The translation is nested." in pane(probing)._verdict.value
    assert probing.machine.timeline.digest() == before


def test_the_choices_are_those_of_the_machine(two_vms: Lab) -> None:
    """Nested PASIDs first; addresses of the process that the PASID stands for."""
    machine = two_vms.machine
    offered = pasids(machine, "dsa0")
    assert [label.split(" ", 1)[1] for label in offered[:2]] == ["(vm1: app)", "(vm2: app)"]
    assert offered[-1] == "none"
    assert pasids(machine, "dsa9") == ["none"]
    host = machine.vm("vm1").pasids[1]
    buffer = machine.vm("vm1").apps[0].buffer(8)
    assert addresses(machine, host)[0] == f"{buffer:#x} (mapped)"
    assert addresses(machine, None)[0] == "0x1000"
    untouched = machine.vm("vm1").apps[0].buffer(8, populate=False)
    assert f"{untouched:#x} (not touched yet)" in addresses(machine, host)


def test_steps_go_from_stop_to_stop_and_over_rows(probing: Lab) -> None:
    """One message a widget and step; the fields beside are those of the stop."""
    probing.press("probe")
    bar = pane(probing).bar
    bar.move("start")
    assert (bar.state["step"], state_of(probing, "root")) == ("stop 0 of 44", "idle")
    bar.move("forward")
    assert (state_of(probing, "root"), state_of(probing, "context")) == ("now", "idle")
    assert entry(pane(probing).stops, "rows", "LP") == [
        "live",
        ["LP", "0", "0x1", "functions 0 to 127 of the bus have a context table"],
        [],
    ]
    bar.move("forward-over")
    assert state_of(probing, "second:4:4") == "now"
    bar.move("back-over")
    assert bar.now == 0
    bar.receive({"type": "go", "step": 9}, [])
    assert state_of(probing, "first:4") == "now"
    pane(probing).view._dispatch({"type": "pick", "key": "entry", "kind": "node"}, [])
    assert bar.now == 4
    pane(probing).view._dispatch({"type": "pick", "key": "result", "kind": "node"}, [])
    assert bar.now == bar.last


def test_a_step_is_one_message_a_widget(probing: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is laid out anew."""
    probing.press("probe")
    pane(probing).bar.move("start")
    drawing = pane(probing).view.state["drawing"]
    sent = count_messages(probing, monkeypatch)
    pane(probing).bar.move("forward")
    assert sent
    assert {name: count for name, count in sent.items() if count > 1} == {}
    pane(probing).bar.move("end")
    assert pane(probing).view.state["drawing"] == drawing


def test_a_fault_is_explained(probing: Lab) -> None:
    """What was looked for, what was found, what would have to be done."""
    probing.probe("dsa0", 50, 0x1000)
    assert probing.message.kind == "fault"
    assert probing.message.title.startswith("Fault 0x59 SPT.2")
    assert "The driver must write the entry" in pane(probing)._verdict.value
    assert state_of(probing, "entry") == "fault"


@pytest.mark.parametrize(
    ("pasid", "address", "words"),
    [
        ("many", "0x1000", "a PASID must be a number such as 5 or 0x1000, not 'many'"),
        ("5", "here", "an address must be a number"),
        ("5", "", "an address must be a number"),
        (str(1 << 20), "0x1000", "a PASID must be between 0 and"),
        ("5", hex(1 << 64), "an address must have at most 64 bits"),
        ("-1", "0x1000", "a PASID must be between 0 and"),
        ('"><script>', "0x1000", "not '\"><script>'"),
    ],
)
def test_bad_input_is_refused_in_words(probing: Lab, pasid: str, address: str, words: str) -> None:
    """As everything else is: -EINVAL, the reason, nothing shown of a walk, nothing broken."""
    probing.set(probe_pasid=pasid, probe_address=address)
    probing.press("probe")
    assert probing.message.title == "Refused: -EINVAL"
    assert words in probing.message.sentences[0]
    assert pane(probing).table() is None
    assert probing.state()["errors"] == []
    assert "<script>" not in probing._box.widget.value


@pytest.mark.parametrize(("access", "privileged"), [("execute", False), ("read", True)])
def test_what_needs_a_pasid_is_refused_without_one(probing: Lab, access: str, privileged: bool) -> None:
    """Execute and privileged requests exist only with a PASID on the bus."""
    probing.probe("dsa0", None, 0x1000, access, privileged=privileged)
    assert probing.message.title == "Refused: -EINVAL"
    assert pane(probing).table() is None
    assert probing.state()["errors"] == []


def test_numbers_are_read_from_the_beginning_of_a_choice() -> None:
    """Decimal or hexadecimal; no PASID is a choice, too."""
    assert (number("17 (vm1: app)", "n"), number(" 0x10 ", "n")) == (17, 16)
    assert (optional_number("none", "n"), optional_number(" ", "n"), optional_number("3", "n")) == (None, None, 3)


def test_the_question_is_asked_again_at_every_step(probing: Lab) -> None:
    """Unbound, the walk ends at the PASID entry; one call back, it leads to the page again."""
    probing.press("probe")
    probing.set(process="vm1/app", opened="adi0")
    probing.press("unbind")
    assert state_of(probing, "entry") == "fault"
    probing._travel.move("back-over")
    assert state_of(probing, "result") == "live"


def test_caches_and_tables_are_compared(probing: Lab) -> None:
    """After a teardown that forgets the PASID cache, the caches still lead to the page: that is said, both ways."""
    machine = probing.machine
    machine.leave_out("pasid-cache", "iotlb", "device-tlb", "drain")
    app = machine.spawn("old")
    pasid = app.bind("dsa0")
    buffer = app.buffer(b"text")
    machine.dma(PhysicalFunction(machine, "dsa0"), pasid, buffer, tlb=False)
    app.unbind("dsa0")
    probing.probe("dsa0", pasid, buffer, caches=True)
    assert "Stale: the caches answer address 0x" in " ".join(probing.message.sentences)
    assert state_of(probing, "entry") == "pending"
    probing.probe("dsa0", pasid, buffer)
    assert probing.message.kind == "fault"
    assert "the tables fault 0x59 SPT.2" in " ".join(probing.message.sentences)


def test_play_goes_through_the_walk(probing: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop by stop where somebody can play; at once where motion is not wanted."""
    monkeypatch.setattr("pasidlab_widgets.lab.stepping.StepBar.pace", 0)
    seen: list[int] = []

    async def play(calm: bool) -> None:
        bar = pane(probing).bar
        bar.receive({"type": "motion", "reduced": calm}, [])
        probing.press("probe")
        while bar.now < bar.last:
            seen.append(bar.now)
            await asyncio.sleep(0)

    asyncio.run(play(False))
    assert len(set(seen)) > 20
    seen.clear()
    asyncio.run(play(True))
    assert seen == []


def test_without_a_device_there_is_nothing_to_ask() -> None:
    """The button says why it rests; a new machine asks nothing."""
    lab = Lab(Machine())
    lab.show_picture("probe")
    assert told(lab, "resting")["probe"] == "Plug in an accelerator first."


def test_another_machine_has_been_asked_nothing(probing: Lab) -> None:
    """The walk of the old one is gone."""
    probing.press("probe")
    probing.new_machine()
    assert pane(probing).table() is None
    assert pane(probing).bar.state["last"] == 0


def test_the_stop_can_be_opened_in_memory(probing: Lab) -> None:
    """The frame in which the structure lies, and the structure itself."""
    probing.press("probe-memory")
    assert probing.message.title == "No structure has been read yet."
    probing.press("probe")
    pane(probing).bar.receive({"type": "go", "step": 4}, [])
    probing.press("probe-memory")
    assert probing.state()["shown"] == ["probe", "memory"]
    assert "PASID entry" in str(probing._memory._structure.picture.state["label"])
