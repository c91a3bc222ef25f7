"""What a guest believes of its PASIDs, compared with what the host and the hardware have: each difference a sentence.

A guest believes what its own kernel remembers: which numbers its processes have, and which devices they have open. What
there is stands in the host's IOASIDs, in the CPU's tables and in the PASID entries. A hypervisor that refuses or alters
what a guest asks for, in a way that the guest cannot be told, lets the two drift apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pasidlab.kernel.idxd import Idxd
from pasidlab.views.table import Column, Line, Table
from pasidlab.views.tables import device_entries
from pasidlab.views.wire import wire_lines
from pasidlab.views.wire_words import TRAPS
from pasidlab.virt.traps import Answer

if TYPE_CHECKING:
    from pasidlab.handles import VirtualMachine
    from pasidlab.handles.hypervisor import WaitingTrap
    from pasidlab.machine import Machine
    from pasidlab.views.wire import WireLine
    from pasidlab.virt.traps import Decision, Trap

__all__ = ["beliefs", "told", "trap_table"]


def trap_table(machine: Machine) -> Table:
    """The traps that wait, as a table; the one at which the timeline stands is marked.

    >>> from pasidlab import Machine
    >>> trap_table(Machine()).rows
    ()
    """
    columns = (
        Column("vm", "VM"),
        Column("kind", "trap"),
        Column("words", "what the guest did", wrap=True),
        Column("number", "what can be altered", wrap=True),
        Column("answers", "answers so far"),
        Column("call", "call", wrap=True),
    )
    now = machine.trap_now
    rows = tuple(_row(one, at_it=one == now) for one in machine.traps)
    return Table("traps", TRAPS["title"], columns, rows, TRAPS["empty"])


def _row(one: WaitingTrap, *, at_it: bool) -> Line:
    trap = one.trap
    answers = ", ".join(map(str, one.answers)) or TRAPS["none"]
    cells = (trap.vm, str(trap.kind), trap.words, trap.number or "-", answers, one.call.line)
    return Line(f"trap:{one.number}", cells, "now" if at_it else "pending")


def told(trap: Trap, decision: Decision) -> str:
    """What a guest is told when its trap is decided.

    >>> from pasidlab.virt.traps import Decision, Trap, TrapKind
    >>> told(Trap("vm1", TrapKind.INVALIDATION, "flush PASID 1"), Decision.parse("refuse"))
    'Refused. vm1 was told: nothing; it believes that it was done.'
    """
    words = TRAPS[f"told-{decision.answer.value}"]
    if decision.answer is Answer.ALTER:
        return words.format(vm=trap.vm, number=trap.number, value=decision.value)
    return words.format(vm=trap.vm, words=trap.words, refusal=trap.refusal)


def beliefs(machine: Machine, vm: VirtualMachine) -> list[str]:
    """Each point in which a guest is wrong about its PASIDs, as a sentence; none if it is right.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm = m.create_vm("vm1")
    >>> adi, app = m.assign_adi(dsa, vm), vm.spawn("app")
    >>> with m.hypervisor("serve", "refuse"):
    ...     _ = app.bind(adi)
    >>> beliefs(m, vm)[0].split(";")[0]
    'vm1 believes PASID 1 is bound on adi0'
    """
    return [*_numbers(vm), *_bindings(machine, vm), *_leftovers(machine, vm)]


def _numbers(vm: VirtualMachine) -> Iterator[str]:
    """Numbers that only one of the two knows."""
    known = set(vm.kernel.ioasid.ids.keys())
    backed = vm.pasids
    for guest in sorted(known - backed.keys()):
        yield TRAPS["unbacked"].format(vm=vm.name, guest=guest)
    for guest in sorted(backed.keys() - known):
        yield TRAPS["kept"].format(vm=vm.name, guest=guest, host=backed[guest])


def _bindings(machine: Machine, vm: VirtualMachine) -> Iterator[str]:
    """Devices that a process has open, and whose work would not reach its memory."""
    for app in vm.apps:
        for line in wire_lines(machine, app):
            if line.conflict and line.guest is not None:
                yield _missing(vm.name, line)


def _missing(vm: str, line: WireLine) -> str:
    facts = {"vm": vm, "guest": line.guest, "device": line.device}
    if line.reached is None:
        return TRAPS["no-number" if line.dedicated else "no-way"].format(**facts)
    if line.reached.present:
        return TRAPS["foreign"].format(whose=line.reached.whose, **facts)
    return TRAPS["no-entry"].format(code=f"{line.reached.fault:#x}", **facts)


def _leftovers(machine: Machine, vm: VirtualMachine) -> Iterator[str]:
    """Entries of the host for what no process of the guest has open any more."""
    opened = {(line.parent, line.host) for app in vm.apps for line in wire_lines(machine, app) if line.opened}
    for guest, host in vm.pasids.items():
        for device in vm.devices:
            if (device.parent.name, host) in opened or not isinstance(vm.kernel.drivers.get(device.name), Idxd):
                continue
            if machine.kernel.svm.number_on(device.rid, host) in device_entries(machine, device.parent.name):
                yield TRAPS["left"].format(vm=vm.name, guest=guest, device=device.name)
