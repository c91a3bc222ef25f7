"""Who owns how much of the 20-bit space, and who holds what."""

from __future__ import annotations

import pytest

from pasidlab import KernelError
from pasidlab.views.bars_svg import bars_svg
from pasidlab.views.holders import holders
from pasidlab.views.occupancy import PASIDS_PER_CELL, SIDE, cells, set_table, set_use, set_words, space_use
from pasidlab.views.quota_bars import quota_bars
from tests.views.worlds import bound_vms, crowd, freed_early


def test_the_cells_cover_the_space() -> None:
    """128 x 128 cells of 64 are 2^20."""
    assert SIDE * SIDE * PASIDS_PER_CELL == 1 << 20


def test_every_pasid_that_is_out_is_in_a_cell() -> None:
    """One box for 64 neighbours, owned by whoever has most of them."""
    found = cells(crowd())
    assert sum(cell.taken for cell in found) == 72
    assert [(cell.column, cell.row) for cell in found] == [(0, 0), (1, 0)]


def test_the_table_of_sets_says_the_same_in_words() -> None:
    """Used, free-pending, left and quota of each set, what was reserved, and what nobody was promised."""
    machine = freed_early()
    machine.kernel.ioasid.capacity.reserve(1000)
    rows = {row.cells[1]: row.cells[2:] for row in set_table(machine).rows}
    assert rows["vm1"] == ("1", "1", "7", "8", "")
    assert rows["vm2"] == ("1", "0", "3", "4", "")
    assert rows["reserved by the administrator"][3] == "1000"
    assert rows["not promised"][2] == str(machine.kernel.ioasid.capacity.available)


def test_what_is_promised_reserved_kept_and_left_is_all_there_is() -> None:
    """The bar of the whole has no gap."""
    machine = freed_early()
    machine.kernel.ioasid.capacity.reserve(1000)
    use = space_use(machine)
    assert use.promised == 32768 + 8 + 4
    assert use.promised + use.policy + use.reserved + use.left == use.total == 1 << 20


def test_a_set_without_a_quota_of_its_own_says_so() -> None:
    """An administrator's policy limits it; its bar is open, and nothing is divided by it."""
    machine = freed_early()
    core = machine.kernel.ioasid
    free = core.sets.alloc("free", None, None)
    core.alloc(free, 1, 100, "tester")
    use = set_use(machine)[-1]
    assert (use.quota, use.left, set_words(use)) == (None, None, "1, no quota of its own")
    assert quota_bars(machine).bars[-1].whole is None
    assert "open" in bars_svg(quota_bars(machine))
    assert set_table(machine).rows[3].cells[4:] == ("", "", "no quota of its own")


def test_a_set_that_ends_says_with_what() -> None:
    """Freed with IDs out, it goes with its last ID."""
    machine = freed_early()
    core = machine.kernel.ioasid
    with pytest.raises(KernelError):
        core.sets.free(core.sets[1])
    assert set_words(set_use(machine)[1]) == "1 of 8, 1 free-pending, ends with its last ID"
    assert set_table(machine).rows[1].state == "pending"


def test_the_bars_say_what_the_table_says() -> None:
    """One bar for the capacity, one for each set; what is free-pending has its own share."""
    bars = {bar.key: bar for bar in quota_bars(freed_early()).bars}
    assert [share.amount for share in bars["set:1"].shares] == [0, 1]
    assert bars["set:1"].said == "1 of 8, 1 free-pending, 7 left"
    assert bars["space"].whole == 1 << 20


def test_a_vm_in_a_notebook_shows_its_quota() -> None:
    """Its table, and below it the bar of its set."""
    vm = freed_early().vm("vm1")
    page = vm._repr_mimebundle_()["text/html"]
    assert "1 of 8, 1 free-pending (ioasid_set 1)" in page
    assert "The quota of vm1" in page
    vm.crash()
    assert "text/html" not in vm._repr_mimebundle_()


def test_who_holds_what_names_every_holder() -> None:
    """With the guest's number beside the host's."""
    rows = {row.cells[0]: row.cells for row in holders(bound_vms(1)).rows}
    assert rows["2"] == ("2", "vm1", "active", "1", "3: vfio, iommu, kvm:vm1")
