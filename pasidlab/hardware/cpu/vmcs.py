"""The virtual-machine control structure: the fields that decide how ENQCMD behaves in a guest.

Sources: public VMCS encoding tables (secondary processor-based controls 0x401E with bit 21 "PASID translation", low
and high PASID directory address 0x2038 and 0x203A), KVM code of the public linux-dsa-siov tree. A VMCS belongs to one
vCPU. Left out: every other field, and VM entry itself (a processor whose ``vmcs`` is set runs the guest).

UNVERIFIED: what the exit qualification says. The hypervisor is given the failed :class:`PasidTranslation` instead; KVM
looks at none of it.
"""

from __future__ import annotations

from enum import Enum, IntEnum, unique
from typing import TYPE_CHECKING, Final, Protocol

from pasidlab.hardware.cpu.pasid_translation import PasidTranslation, translate_pasid
from pasidlab.hardware.memory import PAGE_SIZE, Memory
from pasidlab.timeline import Part, Table

if TYPE_CHECKING:
    from pasidlab.hardware.cpu.processor import Cpu
    from pasidlab.timeline import Timeline

__all__ = ["PASID_TRANSLATION", "ExitReason", "Resume", "VmEntryBlocked", "Vmcs", "VmcsField", "VmxHost"]

PASID_TRANSLATION: Final = 1 << 21
"""The bit of the secondary processor-based controls that switches PASID translation on."""


@unique
class VmcsField(IntEnum):
    """Encodings of the modelled fields. The high half of a 64-bit field is its encoding plus one."""

    LOW_PASID_DIRECTORY = 0x2038
    HIGH_PASID_DIRECTORY = 0x203A
    SECONDARY_CONTROLS = 0x401E


@unique
class ExitReason(IntEnum):
    """Basic VM exit reasons that a failed PASID translation causes (one public tree numbers them 71 and 72)."""

    ENQCMD_PASID_TRANSLATION = 72
    ENQCMDS_PASID_TRANSLATION = 73


@unique
class Resume(Enum):
    """How the hypervisor resumes the guest after a VM exit."""

    SKIP = "after the instruction"
    """The hypervisor has emulated the instruction: the guest sees the flags that it left (``cpu.zf``)."""
    RETRY = "at the instruction"
    """The guest executes the same instruction again, for instance because a table was repaired."""
    FAULT = "with #GP"
    """The guest gets a general protection fault from this instruction."""


class VmxHost(Protocol):
    """The hypervisor as the processor sees it: where VM exits go."""

    path: str

    def vm_exit(self, cpu: Cpu, reason: ExitReason, translation: PasidTranslation) -> Resume:
        """Handle an exit; may set ``cpu.zf`` and change tables, and says where the guest goes on."""


class VmEntryBlocked(RuntimeError):
    """A guest's instruction was tried while its hypervisor keeps the vCPU out of the guest. It has changed nothing.

    No guest can bring this about: its instructions run when no handler of the host does.

    >>> str(VmEntryBlocked("vm1.vcpu0", "ENQCMD"))
    'vm1.vcpu0 must be let into the guest before ENQCMD: its hypervisor keeps it out'
    """

    def __init__(self, cpu: str, instruction: str) -> None:
        super().__init__(f"{cpu} must be let into the guest before {instruction}: its hypervisor keeps it out")


class Vmcs(Part, state=("entry_blocked",)):
    """One vCPU's control structure; ``memory`` is host-physical, ``host`` gets the VM exits.

    ``entry_blocked`` is no field of the real structure: a request to the vCPU, which its hypervisor looks at before
    each VM entry.

    >>> from pasidlab.hardware.memory import PhysicalMemory
    >>> from pasidlab.timeline import Timeline
    >>> time = Timeline()
    >>> vmcs = Vmcs(time, "vm1.vcpu0.vmcs", PhysicalMemory(time, "ram", 1 << 16))
    >>> vmcs.translates_pasids
    False
    >>> vmcs.vmwrite(VmcsField.LOW_PASID_DIRECTORY, 0x1000)
    >>> vmcs.vmwrite(VmcsField.HIGH_PASID_DIRECTORY, 0x2000)
    >>> vmcs.vmwrite(VmcsField.SECONDARY_CONTROLS, PASID_TRANSLATION)
    >>> vmcs.translates_pasids, hex(vmcs.low_pasid_directory)
    (True, '0x1000')
    """

    entry_blocked: bool

    def __init__(self, timeline: Timeline, path: str, memory: Memory, host: VmxHost | None = None) -> None:
        super().__init__(timeline, path)
        self.memory = memory
        self.host = host
        self.fields = Table[int, int](timeline, f"{path}.fields")
        self.entry_blocked = False

    def vmread(self, encoding: int) -> int:
        """The field's value; an odd encoding is the high half of the 64-bit field before it."""
        value = self.fields.get(_known(encoding), 0)
        return value >> 32 if encoding & 1 else value

    def vmwrite(self, encoding: int, value: int) -> None:
        """Write a field. A PASID directory is one page: its address must be 4 KiB aligned (checked at VM entry)."""
        field = _known(encoding)
        if encoding & 1:
            value = value << 32 | self.fields.get(field, 0) & 0xFFFF_FFFF
        if field != VmcsField.SECONDARY_CONTROLS and value % PAGE_SIZE:
            raise ValueError(f"a PASID directory address must be a multiple of {PAGE_SIZE:#x}, not {value:#x}")
        self.fields[field] = value

    @property
    def translates_pasids(self) -> bool:
        """Whether ENQCMD and ENQCMDS in this guest go through the tables."""
        return bool(self.vmread(VmcsField.SECONDARY_CONTROLS) & PASID_TRANSLATION)

    @property
    def low_pasid_directory(self) -> int:
        """Host-physical address of the directory for guest PASIDs below 2^19."""
        return self.vmread(VmcsField.LOW_PASID_DIRECTORY)

    @property
    def high_pasid_directory(self) -> int:
        """Host-physical address of the directory for guest PASIDs from 2^19 on."""
        return self.vmread(VmcsField.HIGH_PASID_DIRECTORY)

    def translate(self, guest_pasid: int) -> PasidTranslation:
        """What the processor would make of a guest PASID now. Changes nothing."""
        return translate_pasid(self.memory, self.low_pasid_directory, self.high_pasid_directory, guest_pasid)


def _known(encoding: int) -> int:
    """The field that an encoding names; others are not modelled."""
    field = encoding & ~1 if encoding & ~1 in (0x2038, 0x203A) else encoding
    try:
        return VmcsField(field).value
    except ValueError:
        known = ", ".join(f"{one.value:#x} {one.name}" for one in VmcsField)
        raise ValueError(f"a VMCS field must be one of {known}, not {encoding:#x}") from None
