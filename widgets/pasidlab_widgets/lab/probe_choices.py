"""What can be probed now: PASIDs of a device and addresses behind them, read from the machine. No widgets.

A choice is text that begins with the number, "2 (vm1: app)": a person may also write any number. The first PASID
offered is one that is translated at two levels, and the first address one that is mapped, if there is such.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.views.tables import device_entries, owner_of_table
from pasidlab_widgets.lab.probe_words import PROBE

if TYPE_CHECKING:
    from pasidlab.kernel.process import Process
    from pasidlab.machine import Machine

__all__ = ["addresses", "number", "optional_number", "pasids"]

_MOST: Final = 60
_RANK: Final = (EntryKind.NESTED, EntryKind.FIRST, EntryKind.SECOND, EntryKind.PASS_THROUGH)
_AREAS: Final = 6
_GUEST_PHYSICAL: Final = (0x1000, 0x5000)
_NOWHERE: Final = 0x7FFF_0000_0000


def pasids(machine: Machine, device: str) -> list[str]:
    """The PASIDs with a present entry on ``device``, nested ones first; then "none".

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); app = m.spawn("app"); _ = app.bind(dsa)
    >>> pasids(m, "dsa0")
    ['1 (app)', '0 (pass-through)', 'none']
    """
    if device not in machine.functions:
        return [PROBE["none"]]
    owner = owner_of_table(machine, machine.functions[device].rid)
    found = []
    for pasid, entry in islice(device_entries(machine, device).items(), _MOST):
        label = f"{pasid} ({_whose(machine, pasid, owner)})"
        if pasid or entry.layout is machine.unit.reading.entry_layout:
            found.append((_RANK.index(entry.kind), pasid, label))
    return [label for _, _, label in sorted(found)] + [PROBE["none"]]


def _whose(machine: Machine, pasid: int, owner: str) -> str:
    process = _process(machine, pasid, owner)
    if process is not None:
        return process[0]
    for vmm in machine.vmms.values():
        if vmm.container.domain.default_pasid == pasid:
            return PROBE["default"].format(vm=vmm.name)
    return PROBE["pass-through"] if not pasid else PROBE["nobody"]


def _process(machine: Machine, pasid: int, owner: str) -> tuple[str, Process] | None:
    """The process that a PASID on the wire stands for, and how it is called. ``owner``: the VM whose own table counts,
    so that the number is its guest's.
    """
    if owner:
        inside = machine.vm(owner).kernel.processes.values()
        return next(((f"{owner}: {one.name}", one) for one in inside if one.mm.pasid == pasid), None)
    for process in machine.natives:
        if process.mm.pasid == pasid:
            return process.name, process
    for vm in machine.vms:
        for guest, host in vm.pasids.items():
            if host == pasid:
                for process in vm.kernel.processes.values():
                    if process.mm.pasid == guest:
                        return f"{vm.name}: {process.name}", process
    return None


def addresses(machine: Machine, pasid: int | None, device: str = "") -> list[str]:
    """Addresses worth asking for under a PASID: those of its process, newest buffers first, else some pages.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); app = m.spawn("app"); pasid = app.bind(dsa)
    >>> addresses(m, pasid)[-1]
    '0x7fff00000000 (not mapped)'
    """
    owner = owner_of_table(machine, machine.functions[device].rid) if device in machine.functions else ""
    found = None if pasid is None else _process(machine, pasid, owner)
    if found is None:
        return [f"{address:#x}" for address in _GUEST_PHYSICAL]
    mm = found[1].mm
    offered = []
    for start in list(reversed(mm.areas.keys()))[:_AREAS]:
        there = PROBE["mapped" if mm.table.find(start) is not None else "not-there"]
        offered.append(f"{start:#x} ({there})")
    mapped = [label for label in offered if PROBE["mapped"] in label]
    return [*mapped, *(label for label in offered if label not in mapped), f"{_NOWHERE:#x} ({PROBE['unmapped']})"]


def number(text: str, what: str) -> int:
    """The number at the beginning of a choice; ``-EINVAL`` if there is none.

    >>> number("0x1000 (mapped)", "address"), number("5", "PASID")
    (4096, 5)
    """
    first = text.strip().split(" ", 1)[0]
    try:
        return int(first, 0)
    except ValueError:
        raise KernelError("EINVAL", PROBE["no-number"].format(what=what, text=text)) from None


def optional_number(text: str, what: str) -> int | None:
    """The same; "none", or nothing at all, is ``None``."""
    return None if text.strip().lower() in ("", PROBE["none"]) else number(text, what)
