"""Projection: the five users of one guest PASID, and where each keeps it: the talk's T14 as a table.

Every row is read where it takes effect: a register of the CPU, the list behind the VM's VFIO container, the entry in
the IOMMU's table, the word in KVM's table, the register of the device. A row without a place says that this user does
not know the number now.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.cpu import split_pasid
from pasidlab.hardware.layouts.cpu import IA32_PASID_MSR, VMX_PASID_DIR_ENTRY
from pasidlab.hardware.layouts.dsa import WQCFG
from pasidlab.hardware.pcie import format_rid
from pasidlab.views.table import Column, Line, Table
from pasidlab.views.tables import table_of
from pasidlab.views.unit_words import kind_of, terms_of

if TYPE_CHECKING:
    from pasidlab.handles import VirtualMachine
    from pasidlab.machine import Machine
    from pasidlab.virt.kvm import KvmVm

__all__ = ["USERS", "Kept", "kept", "users"]

USERS: Final = {
    "cpu": "CPU",
    "vfio": "VFIO",
    "iommu": "IOMMU driver",
    "kvm": "KVM",
    "device": "device driver",
}
"""The five users of the talk, in its order."""
_PASID_DWORD: Final = 2


class Kept(NamedTuple):
    """What one user keeps: ``user`` is a key of :data:`USERS`, ``place`` where, ``raw`` the word there (``None``: it is
    no word), ``number`` which PASID that is, ``words`` what it is for.
    """

    user: str
    place: str
    raw: int | None
    number: int
    words: str


def kept(machine: Machine, vm: VirtualMachine, guest_pasid: int) -> list[Kept]:
    """Everything that is kept of a guest PASID at the present step, user by user.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm1 = m.create_vm("vm1"); adi = m.assign_adi(dsa, vm1)
    >>> app = vm1.spawn("app"); guest = app.bind(adi)
    >>> [(one.user, one.number) for one in kept(m, vm1, guest)]
    [('cpu', 1), ('vfio', 2), ('iommu', 2), ('kvm', 2)]
    """
    host_pasid = vm.pasids.get(guest_pasid)
    found = list(_cpu(vm, guest_pasid))
    if host_pasid is not None:
        found += [*_vfio(vm, host_pasid), *_iommu(machine, vm, host_pasid)]
    found += _own_table(machine, vm, guest_pasid)
    return [*found, *_kvm(machine, vm, guest_pasid), *_device(machine, vm, guest_pasid, host_pasid)]


def users(machine: Machine, vm: VirtualMachine, guest_pasid: int) -> Table:
    """The same as a table: a row for each place, and one for each user that keeps nothing."""
    found = kept(machine, vm, guest_pasid)
    columns = (
        Column("user", "user"),
        Column("place", "where it keeps it"),
        Column("raw", "as it stands there", mono=True),
        Column("number", "PASID", mono=True),
        Column("words", "what for", wrap=True),
    )
    rows = []
    for user, name in USERS.items():
        own = [one for one in found if one.user == user]
        rows += [_line(f"{user}/{index}", name, one) for index, one in enumerate(own)]
        if not own:
            rows.append(Line(user, (name, "nowhere", "-", "-", "does not know it now")))
    return Table("users", f"Who uses guest PASID {guest_pasid} of {vm.name}", columns, tuple(rows))


def _line(key: str, name: str, one: Kept) -> Line:
    raw = "-" if one.raw is None else f"{one.raw:#x}"
    return Line(key, (name, one.place, raw, str(one.number), one.words), "live")


def _cpu(vm: VirtualMachine, guest_pasid: int) -> Iterator[Kept]:
    """The register that ENQCMD reads; while another process runs the kernel keeps its value."""
    register = vm.kernel.platform.cpu.ia32_pasid
    for app in vm.apps:
        value = app.process.ia32_pasid
        if app.pasid == guest_pasid and IA32_PASID_MSR["V"].get((value,)):
            loaded = register == value
            place = f"IA32_PASID of {vm.name}'s CPU" if loaded else f"saved state of {app.name}"
            words = "ENQCMD puts it into descriptors" if loaded else f"loaded when {app.name} runs"
            yield Kept("cpu", place, value, IA32_PASID_MSR["PASID"].get((value,)), words)


def _vfio(vm: VirtualMachine, host_pasid: int) -> Iterator[Kept]:
    """The list of what the VM's user space was given; kept by whichever file hands PASIDs out."""
    user = vm.vmm.container.user
    if host_pasid in user.pasids:
        words = "allocated for the VM, with the first reference"
        yield Kept("vfio", f"PASID list of {vm.name} ({user.holder})", None, host_pasid, words)


def _iommu(machine: Machine, vm: VirtualMachine, host_pasid: int) -> Iterator[Kept]:
    """The entry in the table of each device on which it is bound, under the number that the device sends."""
    binding = machine.kernel.svm.binding_of(host_pasid)
    for rid in binding.devices.keys() if binding is not None else ():
        number = machine.kernel.svm.number_on(rid, host_pasid)
        yield from _entries(machine, vm, rid, number)


def _own_table(machine: Machine, vm: VirtualMachine, guest_pasid: int) -> Iterator[Kept]:
    """The entry in each table that is the guest's own: the guest's number, which devices send as it is."""
    for name in vm.vmm.functions.keys():
        found = table_of(machine, name)
        if found is not None and found.vm == vm.name:
            yield from _entries(machine, vm, machine.functions[name].rid, guest_pasid)


def _entries(machine: Machine, vm: VirtualMachine, rid: int, number: int) -> Iterator[Kept]:
    """What the silicon finds under a number."""
    terms = terms_of(machine.unit)
    for entry in machine.unit.entries(rid):
        if entry.pasid == number and number:
            place = f"{terms.entry} at {entry.address:#x}, table of {format_rid(rid)}"
            place += f" (in the guest at {entry.guest_address:#x})" if entry.guest_address is not None else ""
            kind = kind_of(machine.unit, entry.kind)
            yield Kept("iommu", place, entry.words[0], number, f"{kind}, over the memory of {vm.name}")


def _kvm(machine: Machine, vm: VirtualMachine, guest_pasid: int) -> Iterator[Kept]:
    """The word by which the CPU converts the number."""
    kvm = vm.vmm.kvm
    host_pasid = kvm.entry(guest_pasid)
    if host_pasid is not None:
        address = _slot(machine, kvm, guest_pasid)
        place = f"translation table entry at {address:#x}"
        yield Kept("kvm", place, machine.memory.load32(address), host_pasid, "the CPU replaces the number of ENQCMD")


def _slot(machine: Machine, kvm: KvmVm, guest_pasid: int) -> int:
    """Where the CPU looks a guest PASID up, provided that its table is there."""
    index = split_pasid(guest_pasid)
    directory = kvm.high if index.high else kvm.low
    entry = machine.memory.load(directory + 8 * index.directory)
    return VMX_PASID_DIR_ENTRY["TABLE"].get((entry,)) + 4 * index.table


def _device(machine: Machine, vm: VirtualMachine, guest_pasid: int, host_pasid: int | None) -> Iterator[Kept]:
    """The registers of dedicated queues: real ones, and of an interface also the emulated one that the guest sees."""
    for device in vm.devices:
        mdev = vm.vmm.mdevs.get(device.name)
        if mdev is None:
            yield from _registers(machine, device.parent.name, guest_pasid, host_pasid)
        elif mdev.queue.dedicated and mdev.wq_pasid(0) == guest_pasid:
            words = "what the guest's driver has written, and reads back"
            yield Kept("device", f"WQCFG of {device.name}, emulated", _dword(mdev.wqcfg(0)), guest_pasid, words)
            if mdev.programmed is not None:
                yield _register(machine, device.parent.name, mdev.queue.index, mdev.programmed)


def _registers(machine: Machine, name: str, guest_pasid: int, host_pasid: int | None) -> Iterator[Kept]:
    """Of a whole function: whatever queue holds the number that its requests are to carry."""
    hardware = machine.accelerators.get(name)
    if hardware is None:
        return
    binding = machine.kernel.svm.binding_of(host_pasid) if host_pasid is not None else None
    number = guest_pasid if binding is None else binding.number_on(hardware.rid)
    for wq in range(hardware.num_wqs):
        if hardware.wq_pasid(wq) == number:
            yield _register(machine, name, wq, number)


def _register(machine: Machine, name: str, wq: int, number: int) -> Kept:
    words = machine.accelerators[name].wqcfg(wq)
    place = f"WQCFG of {name} wq{wq} (BAR0 + {at.wqcfg_offset(wq, _PASID_DWORD):#x})"
    return Kept("device", place, _dword(words), number, "every request of this queue carries it")


def _dword(words: tuple[int, ...]) -> int:
    """The dword of WQCFG with the PASID."""
    return words[WQCFG["pasid"].lsb // 64] >> 32 * (_PASID_DWORD % 2) & 0xFFFF_FFFF
