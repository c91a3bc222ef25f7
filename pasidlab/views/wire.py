"""What one process's devices put on the wire: one line for each, read where hardware reads it.

A line follows the number of the process: who programs it (or that ENQCMD carries it), what leaves for the IOMMU, which
PASID entry that selects, and whose memory is behind. Nothing is concluded from a policy: the register of the queue, the
CPU's tables, the entry and the walk say it. So a conflict shows as what it is: a number whose entry is somebody else's,
or nobody's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.pcie import format_rid
from pasidlab.invariants import RULES
from pasidlab.invariants.evidence import Evidence
from pasidlab.kernel.idxd import Idxd
from pasidlab.timeline import HOST
from pasidlab.views.tables import device_entries, domain_at, space_at
from pasidlab.views.wire_words import WIRE

if TYPE_CHECKING:
    from pasidlab.handles import App
    from pasidlab.hardware.cpu import PasidTranslation
    from pasidlab.hardware.iommu.contract import TableEntry
    from pasidlab.kernel.driver import Driver
    from pasidlab.machine import Machine

__all__ = ["Reached", "WireLine", "ambiguities", "fault_of", "translation_of", "wire_lines"]

_MEANINGS = 14


class Reached(NamedTuple):
    """What a number selects: the ``entry`` (``None``: there is none that hardware could use), ``kind`` of its
    translation, and ``whose`` memory it leads to; ``mine`` is whether that is the memory of the process in question.
    ``fault`` is the code with which a request is refused for want of an entry (0: none).
    """

    entry: TableEntry | None
    kind: str
    whose: str
    mine: bool
    fault: int

    @property
    def present(self) -> bool:
        """Whether there is an entry."""
        return self.entry is not None


class WireLine(NamedTuple):
    """One device of a process. ``kind`` is ``"PF"``, ``"ADI"`` or ``"device"``; ``parent`` is the function on the bus.

    ``opened``: the process has a channel ``at`` it. ``way`` names how its number gets there
    (:data:`~pasidlab.views.wire_words.WAYS`). ``host`` is the host's PASID that the process stands for, ``wire`` the
    number on the wire, ``None`` if there is none; ``reached`` what that selects.
    """

    device: str
    kind: str
    parent: str
    rid: int
    opened: bool
    at: str
    dedicated: bool
    way: str
    guest: int | None
    host: int | None
    wire: int | None
    reached: Reached | None

    @property
    def conflict(self) -> bool:
        """Whether work of the process goes somewhere else than to its memory."""
        return self.opened and (self.reached is None or not self.reached.mine)


def wire_lines(machine: Machine, app: App) -> list[WireLine]:
    """The devices that a process can open, in the order in which its kernel found them.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm = m.create_vm("vm1"); adi = m.assign_adi(dsa, vm)
    >>> app = vm.spawn("app"); _ = app.bind(adi)
    >>> [(line.device, line.way, line.guest, line.wire, line.conflict) for line in wire_lines(m, app)]
    [('adi0', 'translated', 1, 2, False)]
    """
    guest = app.pasid
    if app.altitude == HOST:
        given = {name for vm in machine.vms for name in vm.vmm.functions}
        own = [(name, driver) for name, driver in machine.kernel.drivers.items() if name not in given]
        return [_line(machine, app, name, name, driver, guest) for name, driver in own]
    vm = machine.vm(app.altitude)
    host = vm.pasids.get(guest) if guest is not None else None
    drivers = vm.kernel.drivers
    found = [(device.name, device.parent.name) for device in vm.devices if device.name in drivers]
    return [_line(machine, app, name, parent, drivers[name], host) for name, parent in found]


def _line(machine: Machine, app: App, name: str, parent: str, driver: Driver, host: int | None) -> WireLine:
    rid, guest = machine.functions[parent].rid, app.pasid
    opened = driver.channel_of(app.process) is not None
    at, dedicated, wire = _queue(machine, app, name, parent, driver)
    way = _way(machine, app, name, dedicated, isinstance(driver, Idxd))
    if not isinstance(driver, Idxd) and opened and host is not None:
        wire = machine.kernel.svm.number_on(rid, host)
    if not opened or guest is None:
        wire = None
    kind = WIRE["adi"] if _mediated(machine, app, name) else WIRE["pf"] if app.altitude != HOST else WIRE["native"]
    reached = None if wire is None else _reached(machine, app, parent, rid, wire)
    return WireLine(name, kind, parent, rid, opened, at, dedicated, way, guest, host, wire, reached)


def _mediated(machine: Machine, app: App, name: str) -> bool:
    return app.altitude != HOST and name in machine.vm(app.altitude).vmm.mdevs


def _queue(machine: Machine, app: App, name: str, parent: str, driver: Driver) -> tuple[str, bool, int | None]:
    """Where the process's work goes in: a name for it, whether its number stands in a register, and that number.

    A shared queue has none: there it is what ENQCMD carries.
    """
    if not isinstance(driver, Idxd):
        return WIRE["channel"], True, None
    queue = driver.queue_of(app.process)
    if queue is None:
        if not len(driver.queues):
            return WIRE["stopped"], False, None
        queue = driver.first_queue()
    index = queue.index
    if _mediated(machine, app, name):
        index = machine.vm(app.altitude).vmm.mdevs[name].queue.index
    if queue.dedicated:
        return f"wq{index}", True, machine.accelerators[parent].wq_pasid(index)
    return f"wq{index}", False, _enqcmd(machine, app)


def _enqcmd(machine: Machine, app: App) -> int | None:
    """What ENQCMD of the process carries when it leaves the CPU; ``None`` if it does not leave it."""
    if app.pasid is None:
        return None
    found = translation_of(machine, app)
    return app.pasid if found is None else found.host_pasid


def translation_of(machine: Machine, app: App) -> PasidTranslation | None:
    """The way of the process's number through the CPU's tables; ``None`` where ENQCMD is not translated."""
    if app.altitude == HOST or app.pasid is None:
        return None
    vmcs = machine.vm(app.altitude).vmm.kvm.vmcs
    return vmcs.translate(app.pasid) if vmcs.translates_pasids else None


def _way(machine: Machine, app: App, name: str, dedicated: bool, queues: bool) -> str:
    """How the number gets to the device: a name of the catalogue."""
    if dedicated:
        way = "trapped" if _mediated(machine, app, name) else "stored" if queues else "programmed"
        return f"native-{way}" if app.altitude == HOST else way
    if app.altitude == HOST:
        return "native-enqcmd"
    return "translated" if machine.vm(app.altitude).vmm.kvm.vmcs.translates_pasids else "enqcmd"


# --- behind the wire --------------------------------------------------------------------------------------------------


def _reached(machine: Machine, app: App, parent: str, rid: int, wire: int) -> Reached:
    entry = device_entries(machine, parent).get(wire)
    if entry is None:
        return Reached(None, WIRE["absent"], WIRE["nobody"], mine=False, fault=fault_of(machine, rid, wire))
    if entry.kind is EntryKind.PASS_THROUGH:
        return Reached(entry, WIRE["pass"], WIRE["machine"], mine=False, fault=0)
    domain = _domain(machine, entry.second) if entry.bounded else HOST
    if entry.kind is EntryKind.SECOND:
        return Reached(entry, WIRE["second"], WIRE["whole"].format(vm=domain), mine=False, fault=0)
    owner = space_at(machine, "" if domain == HOST else domain, entry.first)
    whose = WIRE["unknown"].format(domain=domain) if owner is None else owner.name
    mine = domain == app.altitude and owner is app.process
    return Reached(entry, WIRE["nested" if entry.bounded else "first"], whose, mine=mine, fault=0)


def _domain(machine: Machine, root: int) -> str:
    """The VM whose second-level table starts at ``root``."""
    domain = domain_at(machine, root)
    return domain.name if domain is not None else WIRE["nobody"]


def fault_of(machine: Machine, rid: int, pasid: int) -> int:
    """The code with which the IOMMU would refuse a request of this number; 0 if it would not."""
    try:
        fault = machine.translate(rid, pasid, 0x1000, caches=False).fault
    except KernelError:
        return 0
    return 0 if fault is None else fault.code


def ambiguities(machine: Machine, app: App | None = None, lines: list[WireLine] | None = None) -> list[str]:
    """What :meth:`~pasidlab.machine.Machine.check` says of numbers with two meanings; of one process, what concerns it.

    >>> from pasidlab import Machine
    >>> ambiguities(Machine())
    []
    """
    rule = next(rule for rule in RULES if rule.number == _MEANINGS)
    found = list(rule.find(Evidence(machine)))
    if app is None or lines is None:
        return found
    marks = [f"PASID {line.wire} of {format_rid(line.rid)}" for line in lines if line.wire is not None]
    marks += [
        f"PASID {line.guest} of {format_rid(line.rid)}" for line in lines if line.opened and line.kind == WIRE["pf"]
    ]
    marks.append(f"guest PASID {app.pasid} of {app.altitude} has")
    return [one for one in found if any(mark in one for mark in marks)]
