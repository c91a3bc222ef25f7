"""Who owns how much of the 20-bit space, and who holds what."""

from __future__ import annotations

from pasidlab.views.holders import holders
from pasidlab.views.occupancy import PASIDS_PER_CELL, SIDE, cells, set_table, set_use
from tests.views.worlds import bound_vms, crowd


def test_the_cells_cover_the_space() -> None:
    """128 x 128 cells of 64 are 2^20."""
    assert SIDE * SIDE * PASIDS_PER_CELL == 1 << 20


def test_every_pasid_that_is_out_is_in_a_cell() -> None:
    """One box for 64 neighbours, owned by whoever has most of them."""
    found = cells(crowd())
    assert sum(cell.taken for cell in found) == 72
    assert [(cell.column, cell.row) for cell in found] == [(0, 0), (1, 0)]


def test_the_table_of_sets_says_the_same_in_words() -> None:
    """Used and quota of each set, and what nobody was promised."""
    machine = bound_vms()
    rows = {row.cells[1]: row.cells[2:] for row in set_table(machine).rows}
    assert rows["vm1"] == ("1", "64")
    assert [use.used for use in set_use(machine)] == [2, 1, 1]
    assert rows["not promised"] == ("", str(machine.kernel.ioasid.available))


def test_who_holds_what_names_every_holder() -> None:
    """With the guest's number beside the host's."""
    rows = {row.cells[0]: row.cells for row in holders(bound_vms(1)).rows}
    assert rows["2"] == ("2", "vm1", "active", "1", "3: vfio, iommu, kvm:vm1")
