"""The 2^20 entries of a PASID table in three rows of cells, for 3 entries and for a million."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from itertools import islice

import pytest

from pasidlab import Machine
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.stories.vtd import vtd_table
from pasidlab.views import text
from pasidlab.views.cells import Cell, CellRow, Cells, cells_text
from pasidlab.views.cells_svg import cells_body, cells_svg
from pasidlab.views.directory import directory, present_count, slots_of
from pasidlab.views.pasid_table import pasid_table
from pasidlab.views.room import Room
from pasidlab.views.tables import present_in, table_of
from tests.views.hostile import NAMES
from tests.views.worlds import bound_vms

NS = "{http://www.w3.org/2000/svg}"


def filled(count: int, step: int = 1, slots: int | None = None) -> Machine:
    """A machine whose device has that many present entries, written as its driver would; a slot may be left out."""
    machine = Machine(memory=1 << 32)
    dsa = machine.plug_accelerator("dsa0")
    table = vtd_table(machine, dsa.rid)
    words = PASID_ENTRY.encode(P=1, PGTT=1, FLPTPTR=0x5000, DID=1)
    for pasid in range(0, count * step, step):
        if slots is None or pasid >> 6 != slots:
            table.write(pasid, words)
    return machine


def shares(cells: Cells, row: int) -> dict[str, float]:
    """The cells of a row that are filled, and how far."""
    return {cell.key: round(cell.share, 3) for cell in cells.rows[row].cells if cell.share}


def test_three_rows_lead_to_every_entry() -> None:
    """256 cells of 64 slots, 64 slots, 64 entries; the chosen one in each row is marked."""
    cells = directory(bound_vms(), "dsa0", pasid=2)
    assert [len(row.cells) for row in cells.rows] == [256, 64, 64]
    assert [cell.key for row in cells.rows for cell in row.cells if cell.chosen] == ["block:0", "slot:0", "entry:2"]
    assert "".join(cell.mark for cell in cells.rows[2].cells) == "PSNSN"


@pytest.mark.parametrize(("count", "step"), [(3, 1), (5000, 1), (3000, 300)])
def test_the_cells_count_what_the_table_says(count: int, step: int) -> None:
    """Naively: entry by entry, as the driver lists them."""
    machine = filled(count, step)
    shown = table_of(machine, "dsa0")
    assert shown is not None
    present = shown.table.present()
    assert list(present_in(shown)) == present
    assert present_count(machine, machine.accelerators["dsa0"].rid) == len(present)
    found = slots_of(shown.table)
    assert [(leaf.slot, leaf.present) for leaf in found] == [
        (slot, sum(pasid >> 6 == slot for pasid in present)) for slot in sorted({pasid >> 6 for pasid in present})
    ]
    blocks = Counter(pasid >> 12 for pasid in present)
    wanted = {f"block:{block}": round(blocks[block] / 4096, 3) for block in sorted(blocks)}
    assert shares(directory(machine, "dsa0"), 0) == wanted


def test_a_slot_without_a_table_is_told_apart_from_an_empty_table() -> None:
    """Dotted and without a share; the row of its entries says so."""
    machine = filled(256, slots=2)
    cells = directory(machine, "dsa0", 2)
    by_key = {cell.key: cell for cell in cells.rows[1].cells}
    assert (by_key["slot:1"].share, by_key["slot:2"].present) == (1.0, False)
    assert cells.rows[2].title == "Slot 2 has no PASID table: PASIDs 128 to 191 were never used"
    assert "is-empty" in cells_svg(cells)


def test_an_entry_that_is_gone_says_whether_its_faults_are_recorded() -> None:
    """P=0 with FPD left behind is not the same as never used."""
    machine = bound_vms(1)
    rid = machine.accelerators["dsa0"].rid
    vtd_table(machine, rid).zero(2, fault_disable=True)
    hints = {cell.key: cell.hint for cell in directory(machine, "dsa0").rows[2].cells}
    assert hints["entry:2"] == "PASID 2: not present, faults are not recorded (FPD)"
    assert hints["entry:9"] == "PASID 9: not present"


def test_the_figure_below_shows_the_entries_of_one_slot() -> None:
    """The others are counted; the room keeps the places of each slot for itself."""
    machine, room = filled(200), Room()
    first, third = (pasid_table(machine, "dsa0", room, slot) for slot in (0, 3))
    assert first.node("entry:0").present
    assert first.node("more").lines == ("+187 more", "entries")
    assert {node.key for node in third.nodes if node.key.startswith("entry") and node.present} == {
        f"entry:{pasid}" for pasid in (192, 193, 194, 195, 196, 197, 198, 199)
    }
    assert "PASIDs 192-255" in text(third)


@pytest.mark.parametrize("count", [3, 14, 40])
def test_entries_that_are_far_apart_can_be_drawn(count: int) -> None:
    """Each in a table of its own."""
    figure = pasid_table(filled(count, 5000), "dsa0")
    tables = [node for node in figure.nodes if node.key.startswith("leaf:")]
    assert len(tables) == min(count, 14 if count <= 14 else 13)
    assert len(figure.nodes) <= 60


def test_the_picture_has_the_same_size_for_any_table() -> None:
    """And no more than a few hundred cells."""
    few, many = (directory(machine, "dsa0") for machine in (filled(3), filled(9000, 100)))
    drawn = [cells_body(cells) for cells in (few, many)]
    assert (drawn[0].width, drawn[0].height) == (drawn[1].width, drawn[1].height)
    parsed = ET.fromstring(cells_svg(many))
    assert len([g for g in parsed.iter(f"{NS}g") if g.get("data-key")]) == 256 + 64 + 64


def test_entries_are_read_only_as_far_as_they_are_asked_for() -> None:
    """The first ones of a large table need no walk over all of it."""
    machine = filled(20_000)
    shown = table_of(machine, "dsa0")
    assert shown is not None
    assert list(islice(present_in(shown), 3)) == [0, 1, 2]


def test_cells_that_cannot_be_are_refused() -> None:
    """Keys are unique, shares lie between 0 and 1."""
    with pytest.raises(ValueError, match="between 0 and 1, not 2"):
        Cell("a", "", 2)
    with pytest.raises(ValueError, match="must be unique"):
        Cells("c", "C", (CellRow("r", "R", (Cell("a", ""), Cell("a", ""))),))


@pytest.mark.parametrize("name", NAMES)
def test_hostile_hints_are_only_hints(name: str) -> None:
    """No element comes of them."""
    cells = Cells("c", name, (CellRow("r", name, (Cell("a", name, 0.5, name[:1]),)),), name, (name,) * 4)
    parsed = ET.fromstring(cells_svg(cells))
    assert {element.tag.removeprefix(NS) for element in parsed.iter()} <= {
        "svg",
        "style",
        "rect",
        "g",
        "path",
        "text",
        "title",
    }
    assert cells_text(cells)
