"""T2: who owns the table of PASIDs when a guest uses SVA: looked up in memory, on a machine of each kind.

The story is the same for all of them; it asks the unit for the entry that it uses, and looks whose page the words lie
in. Then it does what only an owner can do: it changes them there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect
from pasidlab.views.price import price

if TYPE_CHECKING:
    from pasidlab.handles import VirtualMachine
    from pasidlab.hardware.iommu.contract import TableEntry

__all__ = ["TABLE_OWNER", "device_words", "entry_of", "in_guest_memory", "looked_up_in"]

_TEXT: Final = b"whose table is it?"
_SIZE: Final = len(_TEXT)


def entry_of(m: Machine, rid: int, pasid: int) -> TableEntry:
    """The entry that the unit uses for a PASID of a device."""
    found = [entry for entry in m.unit.entries(rid) if entry.pasid == pasid]
    expect(len(found) == 1, f"there is one entry for PASID {pasid}")
    return found[0]


def in_guest_memory(vm: VirtualMachine, address: int) -> bool:
    """Whether a host-physical address belongs to the memory of a VM."""
    return address & ~0xFFF in vm.vmm.container.pinned


def looked_up_in(m: Machine, vm: VirtualMachine, rid: int, pasid: int, address: int) -> list[bool]:
    """For each structure between the request and the page tables: whether it lies in the memory of the VM."""
    stops = m.translate(rid, pasid, address, caches=False).stops
    return [in_guest_memory(vm, stop.address) for stop in stops if stop.stage == "lookup"]


def device_words(m: Machine, vm: VirtualMachine, rid: int) -> tuple[int, ...]:
    """The words of a guest's own entry of its only device; ``rid`` is that of the host, whose entry is as long."""
    driver, place = vm.kernel.iommu, m.kernel.iommu.device_entry(rid)
    (guest_rid,) = driver.devices.keys()
    at = driver.device_entry(guest_rid)
    stops = m.translate(rid, caches=False).stops
    (count,) = {len(stop.words) for stop in stops if stop.stage == "lookup" and stop.address == place}
    expect(at is not None, "the guest's kernel has an entry for it")
    return vm.vmm.memory.load_words(at or 0, count)


def _tell(m: Machine) -> Iterator[str]:
    family = FAMILIES[m.iommu]
    terms, guests = family.terms, family.binds_tables
    yield f"{family.title}. A process of the host binds: its kernel writes the {terms.entry}, into its own memory."
    dsa, spare = m.plug_accelerator("dsa0"), m.plug_accelerator("dsa1")
    editor = m.spawn("editor")
    native = editor.bind(spare, queue="dedicated" if guests else None)
    entry = entry_of(m, spare.rid, native)
    expect(entry.kind is EntryKind.FIRST and entry.guest_address is None, "it leads to a page table of the host's")
    expect(entry.words == m.kernel.iommu.read_entry(spare.rid, native), "the host's kernel finds the same words there")

    yield "A VM gets a whole function, and a process in it binds. The guest's kernel writes an entry, as always."
    vm = m.create_vm("vm1", quota=4)
    function = m.assign_pf(dsa, vm)
    app, start = vm.spawn("app"), m.timeline.now
    guest_pasid = app.bind(function, queue="dedicated")
    cost = price(m, start)
    expect(cost.guest_words > 0, "words of a table in the guest's memory have changed")

    owner = "the guest" if guests else "the host"
    yield f"Which entry does silicon read? Its words lie in the memory of {owner}."
    number = vm.pasids.get(guest_pasid, guest_pasid)
    entry = entry_of(m, dsa.rid, number)
    expect(entry.kind is EntryKind.NESTED and entry.bounded, "nested over the VM's memory, in either case")
    expect(in_guest_memory(vm, entry.address) is guests, f"the page belongs to {owner}")
    src, dst = app.buffer(_TEXT), app.buffer(_SIZE)
    way = looked_up_in(m, vm, dsa.rid, number, src)
    expect(
        way[-1] is guests and way[0] is False, f"first a {terms.device_entry} of the host's, at last the {terms.entry}"
    )
    if guests:
        expect(entry.guest_address is not None, "the unit says where the guest has it")
        words = vm.vmm.memory.load_words(entry.guest_address or 0, len(entry.words))
        expect(words == entry.words == vm.kernel.iommu.read_entry(_guest_rid(vm), guest_pasid), "the guest's own words")
        expect(cost.host_words == 0, "the host has written nothing for it")
    else:
        expect(entry.words == m.kernel.iommu.read_entry(dsa.rid, number), "the host's kernel has written them")
        expect(cost.host_words > 0, "beside those of the guest, which nobody but the hypervisor reads")

    yield "The owner alone can take it away by a store. The guest zeroes its entry: what do the tables say now?"
    driver = vm.kernel.iommu
    table = driver.entry_table(_guest_rid(vm))
    at = table.address(guest_pasid) if table is not None else None
    expect(at is not None, "the guest's kernel knows where its entry is")
    with m.timeline.operation("the guest zeroes its entry, and writes it again"):
        before = vm.vmm.memory.load(at or 0)
        vm.vmm.memory.store(at or 0, 0)
        blocked = m.translate(dsa.rid, number, src, caches=False).fault is not None
        vm.vmm.memory.store(at or 0, before)
    expect(blocked is guests, "the tables block the number" if guests else "nothing has changed for the device")

    yield "The way of the other kind is refused, with the reason."
    reason = _other_way(m, vm, guests)
    expect("T2" in reason, "and where to read it")

    yield f"{reason[0].upper()}{reason[1:]}. Whoever owns it: the bytes arrive."
    expect(app.copy(function, src, dst, _SIZE).ok, "the copy succeeds")
    expect(app.read(dst, _SIZE) == _TEXT, "in the memory of the process")


def _guest_rid(vm: VirtualMachine) -> int:
    (rid,) = vm.kernel.iommu.devices.keys()
    return rid


def _other_way(m: Machine, vm: VirtualMachine, guests: bool) -> str:
    """Bind one PASID where tables are bound as a whole, or the other way round: the reason for the refusal."""
    try:
        if guests:
            vm.bind_raw(vm.device("dsa0"), vm.request_pasid(), vm.app("app"))
        else:
            words = device_words(m, vm, vm.device("dsa0").rid)
            with m.timeline.operation("the hypervisor asks VFIO to bind the guest's table"):
                vm.vmm.container.bind_table("dsa0", words)
    except KernelError as error:
        expect(error.name == "EOPNOTSUPP", "this kind of IOMMU cannot do that")
        return error.reason
    expect(False, "it is refused")
    return ""


TABLE_OWNER: Final = tuple(
    Story(
        f"table-owner-{family.name}",
        f"Who owns the table of PASIDs: {family.title}",
        ("T1", "T2"),
        _tell,
        make=partial(Machine, iommu=family.name),
    )
    for family in FAMILIES.values()
)
"""One for each kind of IOMMU."""
