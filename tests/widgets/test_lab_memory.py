"""Memory, PASID tables and caches in the lab: whatever has an address can be opened, whatever has bits shows them."""

from __future__ import annotations

import pytest

from pasidlab import Machine
from pasidlab.stories.vtd import vtd_table
from pasidlab_widgets import Lab, PictureView
from pasidlab_widgets.lab.memory import MemoryPane
from tests.widgets.driver import entry, shown, told


@pytest.fixture
def looking(two_vms: Lab) -> Lab:
    """A lab with the memory pane in front."""
    two_vms.show_picture("memory")
    return two_vms


def pane(lab: Lab) -> MemoryPane:
    """The pane itself."""
    found = lab._memory
    assert isinstance(found, MemoryPane)
    return found


def structure(lab: Lab) -> str:
    """The structure that is shown."""
    return str(pane(lab)._structure.picture.state["label"])


def test_it_begins_at_the_root_table(looking: Lab) -> None:
    """The first entry that is in use; the rest of the frame is folded."""
    assert structure(looking) == "root entry of bus 0x6a"
    assert pane(looking).view.state["title"] == "Frame 0x1000: 1 of 512 words are not zero"


def test_pointers_lead_from_table_to_table(looking: Lab) -> None:
    """Clicking address fields one after the other walks by hand."""
    pane(looking)._structure.pick("LCTP")
    assert structure(looking).startswith("context entry of 6a:00.0")
    looking.open_memory(int(str(pane(looking).fields["memory-address"].value), 16) + 0x100)
    for field in ("PASIDDIRPTR", "SMPTBLPTR"):
        pane(looking)._structure.pick(field)
    assert structure(looking) == "PASID entry 0 of 6a:01.0 (dsa0)"
    pane(looking)._structure.pick("P")
    assert structure(looking) == "PASID entry 0 of 6a:01.0 (dsa0)"
    assert pane(looking)._structure.fields.selected == "P"


def test_an_address_can_be_typed_and_rows_can_be_picked(looking: Lab) -> None:
    """Of the machine, or of a VM."""
    looking.set(memory_address="0x16a0")
    looking.press("memory-open")
    assert structure(looking) == "root entry of bus 0x6a"
    pane(looking).view._dispatch({"type": "pick", "key": "word:0x16a8", "kind": "row"}, [])
    assert pane(looking).fields["memory-address"].value == "0x16a8"
    looking.set(memory_of="vm1")
    assert structure(looking) == "root entry of bus 0x0"
    assert "memory of vm1" in str(pane(looking).view.state["title"])


@pytest.mark.parametrize(("address", "errno"), [("nowhere", "EINVAL"), (hex(1 << 50), "EFAULT"), ("", "EINVAL")])
def test_bad_addresses_are_refused_in_words(looking: Lab, address: str, errno: str) -> None:
    """And nothing is broken."""
    looking.set(memory_address=address)
    looking.press("memory-open")
    assert looking.message.title == f"Refused: -{errno}"
    assert looking.state()["errors"] == []


def test_what_a_step_changes_is_marked(looking: Lab) -> None:
    """The bits of the entry that an unbind clears, in the picture and in the table of fields."""
    machine = looking.machine
    pasid = machine.vm("vm2").pasids[1]
    at = vtd_table(machine, machine.accelerators["dsa0"].rid).address(pasid)
    assert at is not None
    looking.open_memory(at)
    looking.press("unbind")
    picture = pane(looking)._structure.picture
    assert 'class="changed"' in str(entry(picture, "parts", "word 0"))
    assert entry(pane(looking)._structure.fields, "rows", "P") == [
        "idle",
        ["P", "0", "0x0", "present; teardown clears this bit first"],
        ["value"],
    ]


def test_a_vm_that_is_gone_has_no_memory(looking: Lab) -> None:
    """The menu goes back to the machine's."""
    looking.set(memory_of="vm2")
    looking.set(vm="vm2")
    looking.press("crash")
    assert told(looking, "chosen")["memory-of"] == ""
    assert looking.state()["errors"] == []


def test_boxes_of_the_pasid_table_open_memory(two_vms: Lab) -> None:
    """The directory, a table, and page tables, where they lie."""
    two_vms.show_picture("table")
    table = two_vms._table
    pasid = two_vms.machine.vm("vm1").pasids[1]
    for key, name in (
        ("directory", "directory entry of 6a:01.0 (dsa0) for PASIDs 0 to 63"),
        ("leaf:0", "PASID entry 0 of 6a:01.0 (dsa0)"),
        (f"first:{pasid}", "first-level entry, level 4"),
        ("second:0", "second-level entry, level 4, of vm1"),
    ):
        table.pick(key)
        assert structure(two_vms).startswith(name)


def test_the_directory_leads_to_a_table_and_to_an_entry(two_vms: Lab) -> None:
    """A cell of 64 slots, a slot, an entry: the next row follows, the last shows its bits below."""
    two_vms.show_picture("table")
    cells = two_vms._table.cells
    assert isinstance(cells, PictureView)
    two_vms._table.pick("block:3")
    assert "Slots 192 to 255 of the directory" in str(entry(cells, "parts", "title slots"))
    two_vms._table.pick("slot:200")
    assert "Slot 200 has no PASID table" in str(entry(cells, "parts", "title entries"))
    two_vms._table.pick("entry:2")
    assert two_vms.state()["shown"] == ["table", "entry"]
    assert "The PASID table of slot 0" in str(entry(cells, "parts", "title entries"))
    assert two_vms._entry._structure.picture.state["label"] == "PASID entry 2 of dsa0: 512 bits, field by field"
    two_vms._entry._structure.pick("SLPTPTR")
    assert structure(two_vms).startswith("second-level entry, level 4, of vm")


def test_the_caches_are_listed_and_lead_to_memory(two_vms: Lab) -> None:
    """After a copy there are lines, none stale; a line opens where its entry lies."""
    two_vms.press("copy")
    two_vms.show_picture("caches")
    view = shown(two_vms, 1)
    assert "none is stale" in str(view.state["title"])
    rows = view.state["rows"]
    assert isinstance(rows, dict)
    view._dispatch({"type": "pick", "key": next(iter(rows)), "kind": "row"}, [])
    assert two_vms.state()["shown"] == ["map", "memory"]
    assert structure(two_vms).startswith("context entry of 6a:01.0")


def test_a_stale_line_is_marked_by_word_and_shape() -> None:
    """A teardown that leaves the PASID cache out."""
    machine = Machine()
    dsa, app = machine.plug_accelerator("dsa0", ats=False), machine.spawn("app")
    machine.leave_out("pasid-cache")
    pasid = app.bind(dsa)
    machine.dma(dsa, pasid, app.buffer(b"x"))
    app.unbind(dsa)
    lab = Lab(machine)
    lab.show_picture("caches")
    rows = shown(lab, 1).state["rows"]
    assert isinstance(rows, dict)
    stale = [row for row in rows.values() if "stale" in row[1][2]]
    assert stale
    assert all(row[0] in {"pending", "fault"} and row[1][2][0] in "▼▲" for row in stale)


def test_a_picture_that_is_not_seen_is_not_drawn(two_vms: Lab) -> None:
    """Memory is surveyed when its pane is opened, not before."""
    assert pane(two_vms).view.table is None
    two_vms.press("copy")
    assert pane(two_vms).view.table is None


@pytest.mark.parametrize("above", ["table", "probe"])
@pytest.mark.parametrize("below", ["entry", "memory", "caches"])
def test_every_pane_can_be_seen_at_every_step(above: str, below: str) -> None:
    """From the machine's first moment, when the IOMMU's driver does not know the device yet."""
    lab = Lab()
    app = lab.machine.spawn("app")
    pasid = app.bind("dsa0")
    source, target = app.buffer(b"text"), app.buffer(4)
    app.copy("dsa0", source, target, 4)
    app.unbind("dsa0")
    lab.refresh()
    lab.pick_entry(pasid)
    lab.probe("dsa0", pasid, source)
    lab.show_picture(above)
    lab.show_picture(below)
    lab._travel.move("start")
    while lab.machine.timeline.now < lab.machine.timeline.last:
        lab._travel.move("forward")
    assert lab.state()["errors"] == []
