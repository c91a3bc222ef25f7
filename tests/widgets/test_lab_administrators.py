"""Administrators in the lab: another machine with another policy, quotas of running VMs, and the pane that compares."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from bokeh.models import ColumnDataSource

from pasidlab import Machine
from pasidlab.kernel.ioasid.quota import QUOTA_POLICIES
from pasidlab.machine import PASID_APIS
from pasidlab.stories.comparison import compare_administrators
from pasidlab.views.administrators import Administration
from pasidlab_widgets import BokehView, Lab, TableView, View
from pasidlab_widgets.lab import administrators as module
from pasidlab_widgets.lab.administrators import AdministratorsPane
from pasidlab_widgets.lab.ioasids import IoasidsPane
from pasidlab_widgets.lab.panels import MachinePanel
from pasidlab_widgets.lab.script import script
from pasidlab_widgets.lab.words import APIS, POLICIES, QUOTA
from tests.views.worlds import freed_early
from tests.widgets.driver import add_vm, bound_lab, entry, told

OVER = "What is out already is not taken away: more is refused until enough is back."


def pane(lab: Lab) -> AdministratorsPane:
    """The pane of administrators, brought to the front."""
    lab.show_picture("administrators")
    ioasids = lab._stacks[0].shown
    assert isinstance(ioasids, IoasidsPane)
    found = ioasids.inner.shown
    assert isinstance(found, AdministratorsPane)
    return found


def row(view: TableView, key: str) -> list[object]:
    """A row as the page gets it: state, cells, changed columns."""
    found = entry(view, "rows", key)
    assert isinstance(found, list)
    return found


def new_machine(lab: Lab, policy: str, api: str = "vfio") -> None:
    """By clicks: another administrator, whatever there is to lose."""
    lab.set(policy=policy, api=api)
    lab.press("new-machine")
    if lab.message.title == "Leave this machine?":
        lab.press("new-machine")


def third_bind(lab: Lab) -> None:
    """By clicks: a VM that may have 2 PASIDs, and in it three processes that bind."""
    add_vm(lab, "vm1", quota=2)
    for name in ("two", "three"):
        lab.set(process_name=name)
        lab.press("spawn")
    for name in ("app", "two", "three"):
        lab.set(process=f"vm1/{name}")
        lab.press("bind")


# --- another machine ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", PASID_APIS)
@pytest.mark.parametrize("policy", QUOTA_POLICIES)
def test_a_machine_with_another_administrator_by_clicking(lab: Lab, policy: str, api: str) -> None:
    """At once while there is nothing to lose; its lines can be repeated, and the menus say which it is."""
    before = lab.machine
    new_machine(lab, policy, api)
    assert lab.machine is not before
    assert (lab.machine.quota_policy, lab.machine.pasid_api) == (policy, api)
    assert list(lab.machine.accelerators.keys()) == ["dsa0"]
    assert lab.message.title == f"A new machine: {policy}, PASIDs through {APIS[api]}"
    assert [line.split("(")[0] for line in lab.message.lines] == ["m = Machine", "m.plug_accelerator"]
    assert (told(lab, "chosen")["policy"], told(lab, "chosen")["api"]) == (policy, api)
    space: dict[str, Machine] = {}
    exec(script(lab.machine.timeline), space)
    assert space["m"].timeline.digest() == lab.machine.timeline.digest()


def test_what_somebody_has_made_is_left_by_a_second_press_only(two_vms: Lab) -> None:
    """The button asks; whatever else is done then, it asks again."""
    before = two_vms.machine
    two_vms.press("new-machine")
    assert two_vms.machine is before
    assert two_vms.message.title == "Leave this machine?"
    assert "the 8 calls made on this one" in two_vms.message.sentences[0]
    assert label(two_vms, "new-machine") == "Really?"
    two_vms.press("check")
    assert label(two_vms, "new-machine") == "New machine"
    two_vms.press("new-machine")
    assert two_vms.machine is before
    two_vms.press("new-machine")
    assert two_vms.machine is not before
    assert label(two_vms, "new-machine") == "New machine"
    assert "a variable of your cells, such as m, still means it" in two_vms.message.sentences[0]


def label(lab: Lab, button: str) -> object:
    """What stands on a button."""
    return told(lab, "labels")[button]


def test_what_was_undone_can_be_lost_too(lab: Lab) -> None:
    """A future that is not the present one is somebody's work."""
    lab.press("create-vm")
    lab._travel.move("start")
    lab.press("new-machine")
    assert label(lab, "new-machine") == "Really?"


def test_the_machine_before_is_untouched_and_no_longer_watched(two_vms: Lab) -> None:
    """A cell that holds it goes on with it, and the lab does not care."""
    before = two_vms.machine
    digest, watch = before.timeline.digest(), two_vms._watch
    new_machine(two_vms, "cgroup")
    assert before.timeline.digest() == digest
    assert watch is not None
    revision = two_vms.revision
    before.create_vm("late")
    watch.look()
    assert two_vms.revision == revision
    assert two_vms.machine.vms == []


def test_a_look_that_is_under_way_does_not_follow_the_machine_before(lab: Lab) -> None:
    """The same callback may change a machine and leave it; what is said last is said of the new one."""

    async def both() -> None:
        lab.machine.create_vm("late")
        lab.new_machine("rlimit")
        await asyncio.sleep(0)

    asyncio.run(both())
    assert lab.message.title == "A new machine: rlimit, PASIDs through VFIO"


def test_calls_in_cells_on_the_new_machine_are_noticed(lab: Lab) -> None:
    """As on the first one."""
    lab.new_machine("rlimit")
    assert lab._watch is not None
    lab.machine.create_vm("vm9")
    lab._watch.look()
    assert lab.message.lines == ('m.create_vm("vm9")',)


def test_every_picture_starts_afresh() -> None:
    """Whatever was in front, chosen, marked or reserved for the old machine: the lab shows what a new one shows."""
    names = ("map", "mapping", "table", "life", "keepers", "chains", "space", "administrators")
    below = ("flow", "entry", "holders", "lines")
    old = Lab(freed_early())
    for name in (*names, *below):
        old.show_picture(name)
    old.show_picture("table")
    old.pick_entry(3)
    old.pick_ioasid(3)
    old._errors.add(ValueError("an old one"))
    new_machine(old, "fixed")
    fresh = Lab()
    for name in (*names, *below):
        old.show_picture(name)
        fresh.show_picture(name)
        assert picture(old, name) == picture(fresh, name), name
    assert old.state()["errors"] == []
    assert old._travel.state["banner"] == fresh._travel.state["banner"]
    for what in ("chosen", "menus", "resting", "step", "last", "shown"):
        assert old.state()[what] == fresh.state()[what]
    assert [field.value for panel in old._panels for field in panel.fields.values()] == [
        field.value for panel in fresh._panels for field in panel.fields.values()
    ]


def picture(lab: Lab, name: str) -> object:
    """What a picture shows, as plain data, but how often it was redrawn."""
    panes = {known.name: known for stack in lab._stacks for known in stack.panes}
    ioasids = panes["ioasids"]
    assert isinstance(ioasids, IoasidsPane)
    panes |= {known.name: known for known in ioasids.inner.panes}
    shown = panes[name]
    if isinstance(shown, AdministratorsPane):
        return [contents(view) for view in (shown.allowed, shown.compared, shown.refused)]
    return contents(shown.view)


def contents(view: object) -> object:
    """The state of a view without its counter; of a chart, its data."""
    if isinstance(view, View):
        return {key: value for key, value in view.state.items() if key not in ("revision", "plan")}
    assert isinstance(view, BokehView)
    sources = view.figure.select({"type": ColumnDataSource})
    data = [source.data for source in sources if isinstance(source, ColumnDataSource)]
    return sorted(json.dumps({key: list(column) for key, column in columns.items()}) for columns in data)


def test_a_hidden_picture_is_not_drawn_of_the_machine_before(two_vms: Lab) -> None:
    """A picture that comes to the front on the way to another one shows the new machine only."""
    two_vms.pick_ioasid(3)
    two_vms.show_picture("map")
    new_machine(two_vms, "fixed")
    two_vms.pick_ioasid(7)
    keepers = two_vms._stacks[0].shown
    assert isinstance(keepers, IoasidsPane)
    assert "7" in str(picture(two_vms, "keepers"))
    assert "vm1" not in str(picture(two_vms, "keepers"))


def test_an_adopted_machine_says_who_administers_it() -> None:
    """The menus begin with its policy and interface; a choice that was not pressed yet stays."""
    lab = Lab(Machine(quota_policy="rlimit", pasid_api="dev-ioasid"))
    assert (told(lab, "chosen")["policy"], told(lab, "chosen")["api"]) == ("rlimit", "dev-ioasid")
    lab.set(policy="cgroup")
    lab.press("plug")
    assert told(lab, "chosen")["policy"] == "cgroup"


def test_every_policy_and_interface_has_its_words() -> None:
    """No key is shown to people."""
    assert POLICIES.keys() == QUOTA_POLICIES.keys()
    assert QUOTA.keys() == {*QUOTA_POLICIES, "root"}
    assert tuple(APIS) == PASID_APIS


# --- quotas of running VMs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", PASID_APIS)
@pytest.mark.parametrize(
    ("policy", "why", "title"),
    [
        ("fixed", "vm1 has used its quota of 2 PASIDs", "vm1 may have 3 of the PASIDs"),
        ("rlimit", "vm1 has reached its soft limit of 2 PASIDs", "vm1 may have 3 of the PASIDs"),
        ("cgroup", "group vm1 has 2 PASIDs in use and a max of 2 (-EAGAIN)", "Group vm1 may have 3 of the PASIDs"),
    ],
)
def test_who_is_refused_gets_more_by_a_click(lab: Lab, policy: str, api: str, why: str, title: str) -> None:
    """Under each policy: the guest's answer, behind it the host's with its errno; then a larger quota, and a PASID."""
    new_machine(lab, policy, api)
    third_bind(lab)
    assert lab.message.title == "Refused: -ENOSPC"
    errno = "-ENOSPC" if api == "vfio" else "-EINVAL"
    assert lab.message.sentences[1].startswith(f"Before that the host refused {errno}: ")
    assert why in lab.message.sentences[1]
    assert label(lab, "set-quota") == "Set quota of vm1"
    lab.set(quota=3)
    lab.press("set-quota")
    assert lab.message.title == title
    assert lab.message.lines == ('m.vm("vm1").set_quota(3)',)
    lab.press("bind")
    assert lab.message.title.startswith("three in vm1 is bound")
    assert lab.machine.check().ok


@pytest.mark.parametrize("policy", ["rlimit", "cgroup"])
def test_less_than_is_out_is_allowed_where_it_is_no_promise(lab: Lab, policy: str) -> None:
    """And the message says what that means."""
    new_machine(lab, policy)
    third_bind(lab)
    lab.set(quota=1)
    lab.press("set-quota")
    assert lab.message.sentences[-1] == OVER


def test_a_quota_can_be_refused(lab: Lab) -> None:
    """By fixed quotas less than is out, and more than there is: an answer like every other."""
    third_bind(lab)
    for quota, name in ((1, "EINVAL"), (1 << 20, "ENOSPC")):
        lab.set(quota=quota)
        lab.press("set-quota")
        assert lab.message.title == f"Refused: -{name}"
        assert lab.message.lines[0].startswith('m.vm("vm1").set_quota(')
    assert lab.machine.vm("vm1").quota == 2


def test_a_group_is_named_with_all_who_share_it() -> None:
    """The max that is written is that of the group."""
    m = Machine(quota_policy="cgroup")
    m.cgroup("tenant", max=4)
    for name in ("vm1", "vm2"):
        m.create_vm(name, cgroup="tenant").request_pasid()
    m.create_vm("free").move_to("/")
    lab = Lab(m)
    lab.set(vm="vm2", quota=6)
    lab.press("set-quota")
    assert lab.message.title == "Group tenant may have 6 of the PASIDs"
    assert "(vm1, vm2); they have 2" in lab.message.sentences[0]
    assert "vm2 is in group tenant: 2 of 6 PASIDs used." in allowed_words(lab)
    lab.set(vm="free")
    assert "root of all groups" in allowed_words(lab)
    lab.press("set-quota")
    assert lab.message.title == "Refused: -ENOENT"


def allowed_words(lab: Lab) -> str:
    """What the group of controls says of the chosen VM's quota."""
    panel: Any = lab._panels[1]
    return str(panel._allowed.value)


def test_the_button_and_the_hint_follow_the_chosen_vm(two_vms: Lab) -> None:
    """In the menu, and when the VM has gone."""
    two_vms.set(vm="vm2")
    assert label(two_vms, "set-quota") == "Set quota of vm2"
    assert "vm2 uses 1 of 64 PASIDs" in allowed_words(two_vms)
    for vm in ("vm2", "vm1"):
        two_vms.set(vm=vm)
        two_vms.press("crash")
    assert label(two_vms, "set-quota") == "Set quota"
    assert told(two_vms, "resting")["set-quota"] == "Create a VM first."
    assert QUOTA["fixed"][0] in allowed_words(two_vms)


@pytest.mark.parametrize("policy", QUOTA_POLICIES)
def test_the_mistakes_of_quotas_know_the_policy(lab: Lab, policy: str) -> None:
    """A limit is reached under each; more than there is cannot even be asked for where nothing is promised."""
    new_machine(lab, policy)
    third_bind(lab)
    lab.set(mistake="quota-vm")
    lab.press("mistake")
    assert lab.message.title == "Refused: -ENOSPC"
    assert lab.message.sentences[1].startswith("Before that the host refused")
    lab.set(mistake="quota-system")
    if policy == "rlimit":
        assert "no promise" in str(told(lab, "resting")["mistake"])
    else:
        lab.press("mistake")
        assert lab.message.title == "Refused: -ENOSPC"


# --- the pane ---------------------------------------------------------------------------------------------------------


def test_the_pane_shows_the_present_allowances_and_marks_what_changed(lab: Lab) -> None:
    """Forwards by a call, backwards by time travel."""
    new_machine(lab, "cgroup")
    shown = pane(lab).allowed
    third_bind(lab)
    assert row(shown, "vm1")[1] == ["vm1", "2", "2", "2", "1", "vm1"]
    lab.set(quota=3)
    lab.press("set-quota")
    assert row(shown, "vm1")[1:] == [["vm1", "3", "2", "3", "1", "vm1"], ["limit", "reserved"]]
    lab.press("bind")
    assert row(shown, "vm1")[1:] == [["vm1", "3", "3", "3", "1", "vm1"], ["used"]]
    lab._travel.move("back-over")
    lab._travel.move("back-over")
    assert row(shown, "vm1")[1:] == [["vm1", "2", "2", "2", "1", "vm1"], ["limit", "reserved"]]


def test_another_policy_has_other_columns(lab: Lab) -> None:
    """And nothing of the new machine is marked as changed."""
    shown = pane(lab).allowed
    add_vm(lab, "vm1")
    new_machine(lab, "rlimit", "dev-ioasid")
    assert shown.state["title"] == "Who may have how many PASIDs on this machine: rlimit, through /dev/ioasid"
    assert shown.state["rows"] == {}
    new_machine(lab, "cgroup")
    columns: Any = shown.state["columns"]
    assert [column[1] for column in columns][-2:] == ["refused", "members"]


def test_the_comparison_is_made_once_when_it_is_first_seen(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a tenth of a second, and does not depend on the machine."""
    made: list[object] = []

    def compare() -> list[Administration]:
        made.append(0)
        return compare_administrators()

    monkeypatch.setattr(module, "compare_administrators", compare)
    lab.show_picture("life")
    assert made == []
    shown = pane(lab)
    new_machine(lab, "cgroup")
    lab.press("create-vm")
    assert made == [0]
    move: Any = row(shown.compared, "move")
    assert move[1][0] == "a move of greedy"


def test_a_row_of_the_comparison_shows_why(lab: Lab) -> None:
    """Only the refusals behind it, with their reasons; picked again, all; a row without any says so."""
    shown = pane(lab)
    everything = shown.refused.state["order"]
    shown.compared._dispatch({"type": "pick", "key": "asked-3"}, [])
    assert shown.refused.state["title"] == "Who was refused, and why: quiet asks again"
    rows = shown.refused.state["rows"]
    assert isinstance(rows, dict)
    assert [cells[:2] + cells[3:] for _, cells, _ in rows.values()][:2] == [
        ["rlimit", "VFIO", "-ENOSPC", "no PASID is left for quiet: a limit is no promise"],
        ["rlimit", "/dev/ioasid", "-EINVAL", "no PASID is left for quiet: a limit is no promise"],
    ]
    assert shown.compared.selected == "asked-3"
    shown.compared._dispatch({"type": "pick", "key": "idle"}, [])
    assert shown.refused.state["order"] == []
    assert shown.refused.state["empty"] == "Nobody was refused."
    shown.compared._dispatch({"type": "pick", "key": "idle"}, [])
    assert shown.refused.state["order"] == everything
    assert shown.compared.selected == ""


def test_its_tables_report_their_errors_to_the_lab(lab: Lab) -> None:
    """As every picture does."""
    for view in (pane(lab).allowed, pane(lab).compared, pane(lab).refused):
        view._receive(view, {"type": "error", "text": "from the page"}, [])
    assert lab.state()["errors"] == ["PageError: TableView: from the page"] * 3


def test_a_click_is_small_with_the_pane_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only cells travel: the comparison is sent once."""
    lab = bound_lab()
    shown = pane(lab)
    sent: list[int] = []
    for view in (shown.allowed, shown.compared, shown.refused):
        monkeypatch.setattr(view, "send", lambda content, buffers=(): sent.append(len(json.dumps(content))))
    lab.set(quota=7)
    lab.press("set-quota")
    lab._travel.move("back-over")
    assert len(sent) == 2
    assert max(sent) < 400


def test_the_panel_of_the_machine_is_asked_by_the_lab_only() -> None:
    """A panel without a lab can be made and asked, as the lab does."""
    wishes: list[tuple[str, ...]] = []
    panel = MachinePanel(lambda call: None, lambda *wish: wishes.append(wish))
    panel.menus["policy"].value = "cgroup"
    panel.buttons["new-machine"].widget.click()
    assert wishes == [("cgroup", "vfio", "vtd")]
