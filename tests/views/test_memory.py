"""Any word of memory can be opened: what lies there, in words and in bits; frames; pages and whose they are."""

from __future__ import annotations

import pytest

from pasidlab import KernelError, Machine
from pasidlab.hardware.layouts.cpu import VMX_PASID_TABLE_ENTRY
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.stories.vtd import vtd_table
from pasidlab.views.memory_map import MemoryMap, plain_word
from pasidlab.views.memory_view import frame, memory_word
from tests.views.worlds import bound_vms


def entry_at(machine: Machine, pasid: int) -> int:
    """Where a PASID entry of the only device lies."""
    at = vtd_table(machine, machine.device("dsa0").rid).address(pasid)
    assert at is not None
    return at


@pytest.fixture(scope="module")
def machine() -> Machine:
    """Two VMs with a bound process each; the first one has a buffer."""
    made = bound_vms()
    made.vm("vm1").apps[0].buffer(b"hello, memory")
    return made


def test_every_word_of_an_entry_opens_the_whole_entry(machine: Machine) -> None:
    """64 bytes, wherever one clicks."""
    at, host = entry_at(machine, machine.vm("vm1").pasids[1]), machine.vm("vm1").pasids[1]
    for offset in range(0, 64, 8):
        found = MemoryMap(machine).word(at + offset)
        assert (found.name, found.address, found.layout) == (f"PASID entry {host} of 6a:01.0 (dsa0)", at, PASID_ENTRY)
    values = {row.key: row.cells[2] for row in memory_word(machine, at).rows}
    assert (values["P"], values["PGTT"]) == ("0x1", "0x3")


def test_every_stop_of_a_walk_has_a_name(machine: Machine) -> None:
    """From the root entry to the last page-table entry, and the page at the end."""
    vm = machine.vm("vm1")
    mm = vm.apps[0].process.mm
    address = max(mm.areas.keys())
    walk = machine.translate(vm.devices[0].rid, vm.pasids[1], address, caches=False)
    known = MemoryMap(machine)
    names = [known.word(stop.address).name for stop in walk.stops]
    assert names[:4] == [
        "root entry of bus 0x6a",
        "context entry of 6a:01.0 (dsa0)",
        "directory entry of 6a:01.0 (dsa0) for PASIDs 0 to 63",
        f"PASID entry {vm.pasids[1]} of 6a:01.0 (dsa0)",
    ]
    assert names[-1].startswith("second-level entry, level 1, of vm1: guest-physical ")
    first = next(known.word(stop.address).name for stop in walk.stops if (stop.stage, stop.level) == ("first", 1))
    wanted = f"first-level entry, level 1, of PASID {vm.pasids[1]} (vm1: app): virtual {address:#x}, in the guest at 0x"
    assert first.startswith(wanted)
    assert walk.address is not None
    assert known.owners(walk.address)[1] == f"vm1: app, PASID {vm.pasids[1]}, virtual {address:#x}"
    assert plain_word(known.word(walk.address))


def test_a_frame_shows_what_is_not_zero(machine: Machine) -> None:
    """512 words, the rest folded; data as text, and whose page it is."""
    vm = machine.vm("vm1")
    address = max(vm.apps[0].process.mm.areas.keys())
    page = machine.translate(vm.devices[0].rid, vm.pasids[1], address, caches=False).address
    assert page is not None
    table = frame(machine, page)
    assert "vm1: app, PASID" in table.title
    assert [row.cells[3] for row in table.rows] == ["hello, m", "emory...", ""]
    assert table.rows[-1].cells[2] == "510 words, all zero"
    assert sum(_count(row.cells[2]) for row in table.rows) == 512


def _count(what: str) -> int:
    """How many words a row of a frame stands for."""
    words = what.split(" ", 1)[0]
    return int(words) if words.isdigit() and "word" in what else 1


def test_a_full_frame_is_folded_around_the_address(machine: Machine) -> None:
    """A table of 512 mappings: those near the address are shown, wherever it is."""
    root = machine.vm("vm1").vmm.container.domain.table.root
    words = machine.memory
    table = words.load(words.load(words.load(root) & ~0xFFF) & ~0xFFF) & ~0xFFF
    for index in (0, 200, 511):
        shown = frame(machine, table + index * 8)
        assert len(shown.rows) <= 52
        assert f"word:{table + index * 8:#x}" in {row.key for row in shown.rows}
        assert sum(_count(row.cells[2]) for row in shown.rows) == 512


def test_tables_in_a_guest_are_its_own(machine: Machine) -> None:
    """Guest-physical addresses, the guest's devices and numbers: walked by the emulated unit."""
    vm = machine.vm("vm1")
    guest_table = vm.kernel.iommu.entry_table(0x18)
    assert guest_table is not None
    at = guest_table.address(1)
    assert at is not None
    assert memory_word(machine, at, "vm1").title == "PASID entry 1 of 00:03.0 (adi0)"
    root = PASID_ENTRY["FLPTPTR"].get(guest_table.read(1))
    assert MemoryMap(machine, "vm1").word(root).name.startswith("first-level entry, level 4, of PASID 1 (app)")
    assert ", memory of vm1" in frame(machine, at, "vm1").title


def test_the_queue_and_kvms_tables_have_names(machine: Machine) -> None:
    """Descriptors say what they ask for; KVM's entries, of which two share a word, are told apart."""
    queue = machine.unit.reading.queues["invalidation queue"]
    known = MemoryMap(machine)
    assert known.word(queue).name.startswith("invalidation queue, descriptor 0 (carried out): ")
    kvm = machine.vm("vm1").vmm.kvm
    assert known.word(kvm.low).name == "KVM's PASID directory of vm1: guest PASIDs 0 to 1023"
    slot = kvm._slot(1, build=False)
    assert slot is not None
    found = known.word(slot)
    assert (found.name, found.layout) == ("KVM's PASID entry of vm1: guest PASID 1", VMX_PASID_TABLE_ENTRY)


def test_pointers_lead_on(machine: Machine) -> None:
    """Each address field leads to the next table; a nested FLPTPTR to where the guest's table really is."""
    known = MemoryMap(machine)
    at = machine.unit.reading.root | 0x6A0
    for field in ("LCTP", "PASIDDIRPTR", "SMPTBLPTR"):
        target = known.behind(known.word(at), field)
        assert target is not None
        at = target + {"LCTP": 0x100, "PASIDDIRPTR": 0, "SMPTBLPTR": 0}[field]
    entry = known.word(entry_at(machine, machine.vm("vm1").pasids[1]))
    first = known.behind(entry, "FLPTPTR")
    assert first is not None
    assert known.word(first).name.startswith("first-level entry, level 4")
    assert known.behind(entry, "DID") is None
    top = known.word(first + 254 * 8)
    assert known.behind(top, "ADDR") is not None


def test_where_no_memory_is_that_is_said() -> None:
    """-EFAULT beyond the end, -ESRCH for a VM that does not run; a word that nobody uses is nobody's."""
    machine = Machine()
    for view in (memory_word, frame):
        with pytest.raises(KernelError, match="EFAULT"):
            view(machine, 1 << 40)
        with pytest.raises(KernelError, match="ESRCH"):
            view(machine, 0, "vm9")
    assert memory_word(machine, 0x500_0000).title == "the word at 0x5000000, memory of nobody"
    assert frame(machine, 0x500_0000).rows[0].cells[2] == "512 words, all zero"


def test_looking_at_memory_changes_nothing(machine: Machine) -> None:
    """Not one event, not one word."""
    before, now = machine.timeline.digest(), machine.timeline.now
    known = MemoryMap(machine)
    for at in known.survey.frames()[:60]:
        frame(machine, at)
    assert (machine.timeline.digest(), machine.timeline.now) == (before, now)
