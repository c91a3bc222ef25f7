"""How many places a picture keeps, so that nothing has to move when something new appears.

A picture is laid out for everything that has been seen so far (and some more); what is not there at the present step is
hidden. Room only grows, and it grows by doubling, so new layouts are rare. Going back in time never shrinks it: the
same thing stands in the same place at every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pasidlab.views.figure import slots

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["Room"]


@dataclass(frozen=True, slots=True)
class Room:
    """Places for VMs, for the processes and devices of each, for host processes, and the PASIDs seen so far.

    ``entries`` are the PASIDs seen in each device's PASID table, ``mappings`` the pairs (VM, guest PASID, host PASID)
    seen, where a VM is known by its slot.
    """

    vms: int = 2
    processes: int = 1
    devices: int = 1
    natives: int = 0
    entries: frozenset[tuple[str, int]] = field(default=frozenset())
    mappings: frozenset[tuple[int, int, int]] = field(default=frozenset())
    host_pasids: frozenset[int] = field(default=frozenset())

    @classmethod
    def of(cls, machine: Machine) -> Room:
        """What a machine needs at its present step.

        >>> from pasidlab import Machine
        >>> Room.of(Machine()).vms
        2
        """
        vms = machine.vms
        numbers = machine.numbers
        return cls(
            slots(max([numbers[vm.name] + 1 for vm in vms], default=0), least=2),
            slots(max([len(vm.kernel.processes) for vm in vms], default=0), least=1),
            slots(max([len(vm.devices) for vm in vms], default=0), least=1),
            slots(len(machine.natives), least=1) if machine.natives else 0,
            frozenset(
                (name, pasid)
                for name, driver in machine.kernel.accelerators.items()
                for pasid in machine.kernel.iommu.tables[driver.rid].present()
            ),
            frozenset((numbers[vm.name], guest, host) for vm in vms for guest, host in vm.pasids.items()),
            frozenset(machine.kernel.ioasid.ids.keys()),
        )

    def grown(self, other: Room) -> Room:
        """Room for both."""
        return replace(
            self,
            vms=max(self.vms, other.vms),
            processes=max(self.processes, other.processes),
            devices=max(self.devices, other.devices),
            natives=max(self.natives, other.natives),
            entries=self.entries | other.entries,
            mappings=self.mappings | other.mappings,
            host_pasids=self.host_pasids | other.host_pasids,
        )
