"""The sentences for the faults of an AMD IOMMU, a volume of the catalogue (:mod:`pasidlab.views.words`): for each
reason what was looked for, what was found, and what a driver would have to do.

Templates over the facts that :mod:`pasidlab.views.fault_facts_amdvi` reads from a walk. One event code stands for many
reasons; they are those of :class:`~pasidlab.hardware.iommu.amdvi.faults.Reason`, which says where the choice of the
event is UNVERIFIED. "The driver" is the IOMMU's driver in the kernel that owns the table in question, or the hypervisor
on a guest's behalf.
"""

from __future__ import annotations

from typing import Final

from pasidlab.hardware.iommu.amdvi.faults import Reason
from pasidlab.views.fault_book import FaultWords

__all__ = ["ERRANDS", "FATES", "FAULTS"]

_DTE: Final = "The unit looked for the device table entry of {rid}, which says how its requests are translated."
_ALLOWED: Final = "The unit asked the device table entry of {rid} whether it may send such a request."
_GCR3: Final = "The unit looked for the GCR3 entry of PASID {pasid}, which names the guest page table of a process."
_GUEST: Final = "The unit looked {address} up in the guest page table, that of the process."
_HOST: Final = "The unit asked the host page table, the memory of the VM, {errand}."
_NO_MEMORY: Final = "No memory answers at the address that the structure before names ({pointer})."
_RESERVED: Final = "{bits} set in {entry} ({word}), and this unit demands zero there."
_FIX_BITS: Final = "The driver must write only fields that this unit's features offer, and zero elsewhere."
_FIX_POINTER: Final = "The driver must name memory that exists."
_INTERRUPTS: Final = "It lies in 0xFEE00000 to 0xFEEFFFFF, where a write is an interrupt and not memory."
_NO_MAPPING: Final = "The driver must never map that range: interrupts have a path of their own."

FAULTS: Final[dict[Reason, FaultWords]] = {
    Reason.DTE_UNREADABLE: FaultWords(
        _DTE, "No memory answers where DEV_TAB says.", "The driver must put the device table into memory that exists."
    ),
    Reason.DTE_OUTSIDE: FaultWords(
        _DTE,
        "The device table ends before this device (Size in DEV_TAB).",
        "The driver must allocate a table for every requester ID that the IVRS lists.",
    ),
    Reason.DTE_RESERVED: FaultWords(_DTE, _RESERVED, _FIX_BITS),
    Reason.DTE_LEVEL: FaultWords(
        _DTE,
        "It asks for Mode={mode}, GLX={glx}, GPTMode={gptmode}, which this unit does not have (EFR: HATS, GLX, GATS).",
        "The driver must choose levels that EFR offers.",
    ),
    Reason.NOT_TRANSLATED: FaultWords(
        _DTE,
        "TV (bit 1) is 0 at {at}: the entry is valid, and its translation fields are not; nothing passes.",
        "The driver must set TV with the tables of a domain, then send INVALIDATE_DEVTAB_ENTRY.",
    ),
    Reason.DTE_DENIED: FaultWords(
        _ALLOWED,
        "IR and IW (bits 61 and 62) at {at} do not allow this access: {access}.",
        "The driver must set IR and IW of a device that may read and write.",
    ),
    Reason.BEYOND: FaultWords(
        "The unit looked at the address that came out.",
        "It has more bits than a physical address of this machine ({bits_wide}).",
        "The device must be given an address that the machine has; tables must name such ones only.",
    ),
    Reason.NO_PASIDS: FaultWords(
        _ALLOWED,
        "GV (bit 55) at {at} is 0, or guest translation is switched off (GTEn): the device may not use PASIDs.",
        "The driver must set GV with a GCR3 table; of a guest's device the hypervisor does that when it binds the"
        " guest's table.",
    ),
    Reason.PASID_BEYOND: FaultWords(
        "The unit compared PASID {pasid} with the levels of the GCR3 table (GLX={glx}) and with EFR.PASmax.",
        "The table ends below it: {levels} of 9 bits.",
        "The driver must hand out PASIDs inside the table only, or give the device more levels.",
    ),
    Reason.GCR3_ABSENT: FaultWords(
        _GCR3,
        "V (bit 0) of {entry} is 0: nobody has bound PASID {pasid} on this device, or it was unbound.",
        "The driver must write the entry (a bind), then send INVALIDATE_IOMMU_PAGES for the PASID.",
    ),
    Reason.GCR3_RESERVED: FaultWords(_GCR3, _RESERVED, _FIX_BITS),
    Reason.GCR3_UNREADABLE: FaultWords(_GCR3, _NO_MEMORY, _FIX_POINTER),
    Reason.GUEST_NOT_CANONICAL: FaultWords(
        _GUEST,
        "The upper bits of {address} do not repeat its highest used bit: no page table can hold it.",
        "Nothing in the tables helps: whoever gave the device this address must give it a canonical one.",
    ),
    Reason.GUEST_ABSENT: FaultWords(
        _GUEST,
        "P (bit 0) of {entry} is 0: the process has no page there ({word}).",
        "The kernel of the process must map the page first; with page requests (PPR) the device could ask for it.",
    ),
    Reason.GUEST_DENIED: FaultWords(
        _GUEST,
        "It read {entry} ({word}), which, with the entries above it, does not grant this: {access}.",
        "Whoever keeps the page table must allow it, or resolve the access first (copy on write).",
    ),
    Reason.GUEST_RESERVED: FaultWords(_GUEST, _RESERVED, "The kernel must write entries that this unit understands."),
    Reason.GUEST_UNREADABLE: FaultWords(
        _GUEST, _NO_MEMORY, "Whoever keeps the page table of the process has written a wrong address."
    ),
    Reason.HOST_BEYOND: FaultWords(
        _HOST,
        "The address has more bits than the table translates (Mode={mode}).",
        "The guest must name its own memory; a driver must not hand out addresses beyond the domain's width.",
    ),
    Reason.HOST_ABSENT: FaultWords(
        _HOST,
        "PR (bit 0) of {entry} is 0, or the address has bits that a skipped level does not translate ({word}).",
        "The hypervisor must map that memory into the domain (VFIO); otherwise the guest has named an address that it"
        " does not have.",
    ),
    Reason.HOST_DENIED: FaultWords(
        _HOST,
        "IR and IW of {entry} ({word}), with the entries above it, do not grant this.",
        "The hypervisor must map that memory with the rights that are needed; page tables of guests must be writable.",
    ),
    Reason.HOST_LEVEL: FaultWords(
        _HOST,
        "It read {entry} ({word}), which names a level that is not below its own, or a page size that does not fit.",
        "The driver must write NextLevel as the table is built.",
    ),
    Reason.HOST_RESERVED: FaultWords(_HOST, _RESERVED, _FIX_BITS),
    Reason.HOST_UNREADABLE: FaultWords(_HOST, _NO_MEMORY, _FIX_POINTER),
    Reason.INTERRUPT_READ: FaultWords("The unit looked at the address {address}.", _INTERRUPTS, _NO_MAPPING),
    Reason.NOT_ALLOWED_TRANSLATED: FaultWords(
        _ALLOWED,
        "I (bit 96) is 0, or the entry is not valid: the device may not send addresses that it was given before.",
        "The driver must switch ATS off in the device, and empty its TLB, before it clears I.",
    ),
    Reason.INTERRUPT_WRITE: FaultWords("The unit looked at the address {address}.", _INTERRUPTS, _NO_MAPPING),
    Reason.NO_ATS: FaultWords(
        _ALLOWED,
        "I (bit 96) is 0, or the entry is not valid: the device may not ask for translations.",
        "The driver must set I before it switches ATS on in the device.",
    ),
    Reason.SWITCHED_OFF: FaultWords(
        _ALLOWED,
        "The unit translates nothing (IommuEn=0).",
        "The driver must enable the unit before it switches ATS on in any device.",
    ),
    Reason.NO_PAGE_REQUESTS: FaultWords(
        _ALLOWED,
        "PPR (bit 52) is 0, or GV is: the device may not ask for pages.",
        "The driver must set PPR, and serve the PPR log, before it switches PRI on in the device.",
    ),
}
"""Every reason of the unit; a test proves that none is missing."""

FATES: Final = {
    "silent": "A real DMA would be blocked without an entry in the log: SE or SA of the device table entry asks for"
    " that.",
}
"""What becomes of a real request, where that is particular to this unit."""

ERRANDS: Final = {
    "gcr3": "where the next GCR3 table is",
    "table": "where the next guest table is",
    "page": "where the page is",
    "mark": "whether accessed or dirty may be set in the guest's table",
}
"""What the host table is asked for in a nested walk."""
