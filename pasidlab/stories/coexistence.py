"""T6: guest SVA on an assigned interface, and on a whole function: the same steps in the guest, other ones below.

The guest's driver does not know what it drives. On a function its register writes reach hardware. On an interface
they reach the host's composition module (VDCM), which puts the host's number where the guest wrote its own. With
ENQCMD no register holds a number: it comes with each descriptor, and the CPU converts it, by tables that KVM keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.cpu import split_pasid
from pasidlab.hardware.layouts.cpu import VMX_PASID_DIR_ENTRY, VMX_PASID_TABLE_ENTRY
from pasidlab.hardware.layouts.dsa import WQCFG
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect
from pasidlab.stories.wire import accepted, wire_numbers
from pasidlab.timeline import Event, Verb

if TYPE_CHECKING:
    from pasidlab.handles import App, AssignedDevice, VirtualMachine

__all__ = ["COEXISTENCE"]

_TEXT: Final = b"the same steps above"
_SIZE: Final = len(_TEXT)
_VALID: Final = 1 << 31
_NOBODYS: Final = 9
"""A number that the guest was never given."""


def _tell(m: Machine) -> Iterator[str]:
    yield "One accelerator. Its VM gets two interfaces, one of a dedicated queue and one of a shared queue."
    dsa = m.plug_accelerator("dsa0")
    vm1 = m.create_vm("vm1", quota=8)
    dedicated, shared = m.assign_adi(dsa, vm1, queue="dedicated"), m.assign_adi(dsa, vm1, queue="shared")
    mdev = vm1.vmm.mdevs[dedicated.name]

    yield "Dedicated: the guest programs its number into its register and enables. Hardware gets the host's number."
    start = m.timeline.now
    writer = vm1.spawn("writer")
    guest_pasid = writer.bind(dedicated)
    host_pasid = vm1.pasids[guest_pasid]
    written = [event for event in m.timeline.since(start) if event.verb is Verb.PROGRAM]
    converted = next(event for event in m.timeline.since(start) if event.verb is Verb.TRANSLATE)
    expect([event.after for event in written] == [guest_pasid, host_pasid], "first the emulated register, then silicon")
    expect(converted.actor == "vdcm", "in between the composition module has looked the number up")
    expect(len(_register_traps(m, start)) == 2, "the guest has trapped twice for it: the register, and the command")
    expect((converted.before, converted.after) == (guest_pasid, host_pasid), "in the VM's own set, by its SPID")

    yield "As bits: 20 bits of the third dword of WQCFG. The guest reads its own number back."
    registers = [_wqcfg(vm1, dedicated), dsa.hardware.wqcfg(mdev.queue.index)]
    numbers = [WQCFG["pasid"].get(words) for words in registers]
    expect(numbers == [guest_pasid, host_pasid], "the guest's register and the real one")
    expect(all(WQCFG["pasid_en"].get(words) for words in registers), "PASIDs are enabled in both")
    holder = f"vdcm:{dedicated.name}"
    expect(holder in m.kernel.ioasid.ids[host_pasid].holders, "while it is in the register, a reference is held")

    yield "The device copies. On the wire is the host's number; the bytes arrive in the guest's process."
    start = m.timeline.now
    _copy(writer, dedicated)
    expect(wire_numbers(m, start, dsa) == {host_pasid}, "the guest's number never leaves the VM")

    yield "A number that the guest does not own ends in the module: PASID_EN, and the real register stays as it was."
    writer.unbind(dedicated)
    page, start = vm1.page(_TEXT), m.timeline.now
    try:
        vm1.copy(dedicated, page, page + 0x800, _SIZE, pasid=_NOBODYS)
    except KernelError as error:
        expect(error.name == "ENXIO" and "PASID_EN" in error.reason, "the command is refused with PASID_EN")
    else:
        expect(False, "the guest's driver is refused")
    told = m.timeline.since(start)
    expect({event.actor for event in told if event.verb is Verb.PROGRAM} == {"vdcm"}, "only the emulated register")
    expect({event.actor for event in told if event.verb is Verb.COMMAND} == {"vdcm"}, "silicon was not asked")
    expect(dsa.hardware.wq_pasid(mdev.queue.index) is None, "nothing is in the real register")

    yield "Shared: nothing is programmed. The number lies in IA32_PASID, where the guest's kernel has put it."
    sender = vm1.spawn("sender")
    start = m.timeline.now
    guest_pasid = sender.bind(shared)
    host_pasid = vm1.pasids[guest_pasid]
    wq = vm1.vmm.mdevs[shared.name].queue.index
    expect(guest_pasid != host_pasid, "the two numbers differ")
    expect(WQCFG["pasid"].get(dsa.hardware.wqcfg(wq)) == 0, "the register of a shared queue holds no number")

    yield "The CPU's tables, as KVM keeps them: a directory, a table, and one word with the host's number and V."
    index, kvm = split_pasid(guest_pasid), vm1.vmm.kvm
    entry = m.memory.load((kvm.high if index.high else kvm.low) + 8 * index.directory)
    expect(VMX_PASID_DIR_ENTRY["P"].get((entry,)) == 1, "the directory entry is present")
    table = VMX_PASID_DIR_ENTRY["TABLE"].get((entry,))
    word = m.memory.load32(table + 4 * index.table)
    expect(word == _VALID | host_pasid, f"the word is {_VALID | host_pasid:#x}: bit 31, and the host's number")
    expect(VMX_PASID_TABLE_ENTRY["HOST_PASID"].get((word,)) == host_pasid, "so the layout reads it as well")
    wrote = [event for event in m.timeline.since(start) if event.actor == "kvm" and event.verb is Verb.WRITE_ENTRY]
    expect(len(wrote) == 1 and wrote[0].fact("pasid") == host_pasid, "KVM wrote it when it was told BIND")

    yield "ENQCMD: the number of the MSR goes into the descriptor, the table replaces it, the queue accepts it."
    start = m.timeline.now
    _copy(sender, shared)
    expect(vm1.kernel.platform.cpu.ia32_pasid == _VALID | guest_pasid, "the MSR holds the guest's number")
    left, came = _enqueued(m, start)
    expect(left.fact("pasid") == guest_pasid, "the instruction begins with the guest's number")
    expect((came.actor, came.before, came.after) == ("cpu", guest_pasid, host_pasid), "the CPU replaces it")
    expect(accepted(m, start) == [host_pasid], "what the queue accepts carries the host's")
    expect(wire_numbers(m, start, dsa) == {host_pasid}, "and so does every request on the wire")
    expect(not [event for event in m.timeline.since(start) if event.verb is Verb.TRAP], "without any trap")

    yield "While an entry is taken away the vCPUs are kept out of the guest, so that none can still use it."
    start = m.timeline.now
    sender.unbind(shared)
    wanted = [Verb.BLOCK_ENTRY, Verb.CLEAR_ENTRY, Verb.ALLOW_ENTRY]
    expect(
        [event.verb for event in m.timeline.since(start) if event.actor == "kvm" and event.verb in wanted] == wanted,
        "kept out, cleared, let in again",
    )

    yield "A number without an entry, for the hypervisor ignored the flush: exit 72. KVM sets ZF and skips the ENQCMD."
    with m.hypervisor("serve", "refuse"):
        expect(sender.bind(shared) == guest_pasid, "the guest believes that it is bound")
    start = m.timeline.now
    try:
        _copy(sender, shared)
    except KernelError as error:
        expect(error.name == "EAGAIN", "the process reads 'queue full', tries again, and gives up")
    else:
        expect(False, "the descriptor is not accepted")
    exits = {event.fact("reason") for event in m.timeline.since(start) if event.verb is Verb.EXIT_VMX}
    expect(exits == {72} and accepted(m, start) == [], "every try was an exit, and nothing has reached the device")

    yield "A whole function in another VM: the guest's write reaches the register itself, and nobody converts it."
    other, vm2 = m.plug_accelerator("dsa1"), m.create_vm("vm2", quota=8)
    function = m.assign_pf(other, vm2)
    app = vm2.spawn("app")
    start = m.timeline.now
    pasid = app.bind(function, queue="dedicated")
    told = m.timeline.since(start)
    programmed = [event.altitude for event in told if event.verb is Verb.PROGRAM and event.after == pasid]
    expect(programmed == ["hardware"], "there is one register only, the real one")
    expect(not [event for event in told if event.verb is Verb.TRANSLATE], "and no conversion on the way")
    expect(_register_traps(m, start) == [], "nor a trap of the device: it was trapped for PASID and entry only")
    start = m.timeline.now
    _copy(app, function)
    expect(wire_numbers(m, start, other) == {pasid}, "what the guest wrote is on the wire")
    expect(vm2.pasids == {pasid: pasid}, "which goes well here because the guest was given the host's own number")

    yield "All unbind: registers, tables and references are empty again."
    sender.unbind(shared)
    app.unbind(function)
    expect(vm1.vmm.kvm.entries() == vm2.vmm.kvm.entries() == [], "KVM's tables have no valid entry")
    expect(m.memory.load32(table + 4 * index.table) == 0, "the word is zero; its table stays until the VM ends")
    expect(vm1.pasids == vm2.pasids == {}, "the guests own no PASID")


def _copy(app: App, device: AssignedDevice) -> None:
    """Let the device copy the text between two new buffers of a process."""
    src, dst = app.buffer(_TEXT), app.buffer(_SIZE)
    expect(app.copy(device, src, dst, _SIZE).ok, f"{device.name} copies for {app.name} of {app.altitude}")
    expect(app.read(dst, _SIZE) == _TEXT, "the bytes arrived")


def _enqueued(m: Machine, start: int) -> tuple[Event, Event]:
    """The instruction and its translation."""
    told = [event for event in m.timeline.since(start) if event.verb in (Verb.ENQCMD, Verb.TRANSLATE)]
    expect(len(told) == 2, "one ENQCMD, one translation")
    return told[0], told[1]


def _register_traps(m: Machine, start: int) -> list[Event]:
    """The traps since a step that a store to a register of an interface has caused."""
    return [event for event in m.timeline.since(start) if event.verb is Verb.TRAP and event.actor == "vdcm"]


def _wqcfg(vm: VirtualMachine, device: AssignedDevice) -> tuple[int, ...]:
    """WQCFG of queue 0, as the guest reads it."""
    mmio, base = vm.kernel.platform.mmio, vm.kernel.accelerators[device.name].bar0 + at.wqcfg_offset(0)
    return tuple(mmio.read(base + 8 * word) for word in range(WQCFG.word_count))


COEXISTENCE: Final = Story("coexistence", "Guest SVA on an interface and on a function", ("T6", "T9"), _tell)
