"""Slots: where a function is plugged in, which addresses its BARs get, and how the host learns of it.

What firmware and PCI enumeration do on a real machine: each function gets a bus of its own, a window of the address map
for its BARs, and then the kernel probes it. Functions are never taken out again (:meth:`.Kernel.remove` is a driver's
end, not a device's).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.handles.names import check_name
from pasidlab.hardware.accelerator.device import Accelerator
from pasidlab.hardware.config_space import PciIdentity
from pasidlab.hardware.function import Function, Slot
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.kernel.driver import Driver

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["check_kind", "check_stall", "plug_in", "taken_names"]

_SLOTS: Final = 16
_FIRST_BUS: Final = 0x6A
_BAR_BASE: Final = 0xC000_0000
_BAR_STEP: Final = 0x100_0000
_BAR2_OFFSET: Final = 0x80_0000


def taken_names(machine: Machine) -> set[str]:
    """The names of all devices, mediated ones included, and VMs: they share one space."""
    mediated = {name for vmm in machine.vmms.values() for name in vmm.mdevs}
    return {*machine.functions.keys(), *machine.vmms.keys(), *mediated}


def check_kind(function: type[Function], driver: type[Driver]) -> None:
    """``-EINVAL`` unless these are classes of a function and of a driver, and the driver is for that function."""
    for kind, base in ((function, Function), (driver, Driver)):
        if base not in getattr(kind, "__mro__", ()):
            raise KernelError("EINVAL", f"a device needs a class that derives from {base.__name__}, not {kind!r}")
    if issubclass(function, Accelerator):
        raise KernelError("EINVAL", f"{function.__name__} has work queues: plug_accelerator says how many")
    identity = getattr(function, "identity", None)
    if not isinstance(identity, PciIdentity):
        raise KernelError("EINVAL", f"{function.__name__}.identity must be a PciIdentity, not {identity!r}")
    if getattr(driver, "identity", None) != identity:
        raise KernelError("EINVAL", f"{driver.__name__} must have the identity of {function.__name__}")
    size = function.bar0_size
    if size % PAGE_SIZE or not PAGE_SIZE <= size <= _BAR2_OFFSET:
        raise KernelError("EINVAL", f"bar0_size must be whole pages up to {_BAR2_OFFSET:#x} bytes, not {size:#x}")


def check_stall(machine: Machine, ats: bool, stall: bool) -> None:
    """``-EOPNOTSUPP`` for a device that is to be held by an IOMMU that cannot; ``-EINVAL`` for one with ATS, whose
    requests must not be held (SMMUv3 specification, 3.12).
    """
    if stall and machine.kernel.iommu.why_no_stalls:
        raise KernelError("EOPNOTSUPP", machine.kernel.iommu.why_no_stalls)
    if stall and ats:
        raise KernelError(
            "EINVAL", "a device whose requests the IOMMU may hold must have no ATS: ats=False, stall=True"
        )


def plug_in(machine: Machine, name: str, make: Callable[[Slot], Function], ats: bool, stall: bool = False) -> None:
    """Put the function that ``make`` builds into the next slot, and let the host probe it.

    ``stall``: the firmware says that the IOMMU may hold its requests (``dma-can-stall`` in a device tree, a flag of the
    node in IORT).

    Errors: ``-EINVAL`` name, ``-EEXIST`` it is taken, ``-ENOSPC`` no slot is free, those of :meth:`.Kernel.probe`.
    """
    check_name("device", name, taken_names(machine))
    slot = len(machine.functions)
    if slot >= _SLOTS:
        raise KernelError("ENOSPC", f"the machine must have at most {_SLOTS} devices")
    rid = (_FIRST_BUS + slot) << 8 | 0x08
    device = make(Slot(machine.timeline, machine.agenda, machine.fabric, name, rid, ats))
    bar0 = _BAR_BASE + slot * _BAR_STEP
    bar2 = 0
    machine.mmio.add(bar0, device.bar0_size, device, f"{name} BAR0")
    hidden = device.host_pages()
    if hidden is not None:
        machine.mmio.add(bar0 + device.bar0_size, hidden.size, hidden.target, f"{name} host's pages of BAR0")
    second = device.second_bar()
    if second is not None:
        bar2 = bar0 + _BAR2_OFFSET
        machine.mmio.add(bar2, second.size, second.target, f"{name} BAR2")
    machine.functions[name] = device
    machine.bus.endpoints[rid] = device
    if stall:
        machine.kernel.iommu.stall_capable[rid] = True
    machine.kernel.probe(name, rid, bar0, bar2)
