"""The sentences for VT-d faults, the second volume of the catalogue (:mod:`pasidlab.views.words`): for each reason what
was looked for, what was found, and what a driver would have to do.

Templates over the facts that :mod:`pasidlab.views.fault_facts_vtd` reads from a walk. What a reason means is that of
:class:`~pasidlab.hardware.iommu.vtd.faults.FaultReason`; where a source is missing or sources disagree the sentence
says so. "The driver" is the IOMMU's driver in the kernel that owns the tables, or the hypervisor on a guest's behalf.
"""

from __future__ import annotations

from typing import Final

from pasidlab.hardware.iommu.vtd.faults import FaultReason as Reason
from pasidlab.views.fault_book import FaultWords

__all__ = ["FAULTS"]

_ROOT: Final = "The unit took the table mode and the root table from RTADDR."
_ROOT_ENTRY: Final = "The unit looked for the root entry of bus {bus}, which names the context tables of that bus."
_CONTEXT: Final = "The unit looked for the context entry of {rid}, which names the device's PASID directory."
_ALLOWED: Final = "The unit asked the context entry of {rid} at {at} whether it may send such a request."
_RANGE: Final = "The unit compared the PASID with the size of the directory (PDTS in the context entry at {at})."
_DIRECTORY: Final = "The unit looked for the directory entry of PASID {pasid} (bits 19:6), which names a PASID table."
_ENTRY: Final = "The unit looked for the PASID entry of PASID {pasid}, which says how to translate."
_FIRST: Final = "The unit looked {address} up in the first level, the page table of the process."
_TABLE: Final = (
    "In a nested walk the first level lies in guest memory: the unit asked the second level where its table is."
)
_MARK: Final = "The unit wanted to set accessed or dirty in {marked}, as the CPU does in its page tables."
_SECOND: Final = "The unit looked a guest-physical address up in the second level, the memory of the VM."
_MARK_SECOND: Final = "The unit wanted to set accessed or dirty in {entry}, as SSADE asks."
_PAGE: Final = "The unit checked the access against {entry}."
_RESULT: Final = "The walk was done, and the unit looked at the address that came out of it."

_NO_MEMORY: Final = "No memory answers at the address that the structure before names ({pointer})."
_RESERVED: Final = "{bits} set in {entry} ({word}), and this unit demands zero there."
_FIX_POINTER: Final = "The driver has written a wrong pointer: it must name memory that exists."
_FIX_BITS: Final = "The driver must write only fields that this unit's capabilities offer, and zero elsewhere."
_NOT_SNOOPED: Final = (
    "The walk does not snoop the CPU's caches (PWSNP=0, or the unit cannot: ECAP.SMPWCS=0), and a write that does not"
    " snoop could be lost."
)
_SET_SNOOP: Final = "The driver must set PWSNP in the PASID entry on a unit that can snoop, or set the bits beforehand."
_UNKNOWN_MEANING: Final = "Recent headers name this code; what it means is in no source of this model (UNVERIFIED)."

FAULTS: Final[dict[Reason, FaultWords]] = {
    Reason.RTA_1: FaultWords(
        _ROOT,
        "Its table mode (TTM) is not scalable mode, or bits are set that must be zero.",
        "The driver must write RTADDR with TTM=1 and the root table's address, then set GCMD.SRTP.",
    ),
    Reason.RTA_2: FaultWords(
        _ROOT,
        "The unit is in legacy mode (TTM=0), which has no PASID tables, and the request carries PASID {pasid}.",
        "The driver must switch the unit to scalable mode before any device uses PASIDs.",
    ),
    Reason.RTA_3: FaultWords(
        _ROOT,
        "The unit is in legacy mode (TTM=0), which takes no page requests.",
        "The driver must switch the unit to scalable mode before it lets devices send page requests.",
    ),
    Reason.RTA_4: FaultWords(
        _ROOT,
        "The unit was told to abort all DMA (TTM=3; the code is UNVERIFIED in the facts of this model).",
        "The driver must set TTM=1 when its tables are ready.",
    ),
    Reason.SRT_1: FaultWords(
        _ROOT_ENTRY,
        "No memory answers at the root table that RTADDR names.",
        "The driver must put the root table into memory that exists, and set it anew (GCMD.SRTP).",
    ),
    Reason.SRT_2: FaultWords(
        _ROOT_ENTRY,
        "{half} (bit {half_bit}) is 0 at {at}: this half of bus {bus} has no context table.",
        "The driver must know the device: allocate a context table, write its address and set {half}.",
    ),
    Reason.SRT_3: FaultWords(_ROOT_ENTRY, _RESERVED, _FIX_BITS),
    Reason.SCT_1: FaultWords(_CONTEXT, _NO_MEMORY, _FIX_POINTER),
    Reason.SCT_2: FaultWords(
        _CONTEXT,
        "P (bit 0) is 0 at {at}: no driver has put this device behind the unit.",
        "The driver must write the context entry, P last; in caching mode it must then invalidate the context cache.",
    ),
    Reason.SCT_3: FaultWords(_CONTEXT, _RESERVED, _FIX_BITS),
    Reason.SCT_4: FaultWords(
        _CONTEXT,
        "RID_PASID is {rid_pasid}, beyond the {reach} PASIDs of the directory (PDTS={pdts}).",
        "The driver must choose a RID_PASID inside the directory, or a larger directory.",
    ),
    Reason.SCT_5: FaultWords(
        _ALLOWED,
        "DTE (bit 2) is 0: the device may not use address translation services.",
        "The driver must set DTE before it switches ATS on in the device.",
    ),
    Reason.SCT_6: FaultWords(
        _ALLOWED,
        "PASIDE (bit 3) is 0: the device may not send requests with a PASID.",
        "The driver must set PASIDE before it switches PASIDs on in the device.",
    ),
    Reason.SCT_7: FaultWords(
        _RANGE,
        "PASID {pasid} is beyond the {reach} PASIDs of the directory (PDTS={pdts}).",
        "The driver must hand out PASIDs inside the directory only, or give the device a larger one.",
    ),
    Reason.SCT_8: FaultWords(
        _ALLOWED,
        "PRE (bit 4) is 0: the device may not send page requests.",
        "The driver must set PRE, and serve the page request queue, before it switches PRI on in the device.",
    ),
    Reason.SCT_9: FaultWords(
        "The request carries no PASID, so that RID_PASID of the context entry at {at} stands in for it.",
        "RID_PASID is {rid_pasid}, beyond the {reach} PASIDs of the directory (PDTS={pdts}).",
        "The driver must choose a RID_PASID inside the directory.",
    ),
    Reason.SPD_1: FaultWords(_DIRECTORY, _NO_MEMORY, _FIX_POINTER),
    Reason.SPD_2: FaultWords(
        _DIRECTORY,
        "P (bit 0) is 0 at {at}: none of the 64 PASIDs around {pasid} has ever been used on this device.",
        "The driver must allocate a PASID table, write its address here, and then the entry of the PASID (a bind).",
    ),
    Reason.SPD_3: FaultWords(_DIRECTORY, _RESERVED, _FIX_BITS),
    Reason.SPT_1: FaultWords(_ENTRY, _NO_MEMORY, _FIX_POINTER),
    Reason.SPT_2: FaultWords(
        _ENTRY,
        "P (bit 0) is 0 at {at}: nobody has bound PASID {pasid} on this device, or it was unbound.",
        "The driver must write the entry (a bind), its first word with P last; in caching mode it must then"
        " invalidate the PASID cache.",
    ),
    Reason.SPT_3: FaultWords(_ENTRY, _RESERVED, _FIX_BITS),
    Reason.SPT_4: FaultWords(
        _ENTRY,
        "It asks for PGTT={pgtt}, AW={aw}, FLPM={flpm}, which this unit cannot do ({able}).",
        "The driver must choose a translation that CAP and ECAP of this unit offer.",
    ),
    Reason.SPT_5: FaultWords(
        "The unit asked the PASID entry at {entry_at} whether execute requests are allowed.",
        "ERE (bit 129) is 0.",
        "The driver must set ERE, on a unit that still has it (reserved in revision 4.1).",
    ),
    Reason.SPT_6: FaultWords(
        "The unit asked the PASID entry at {entry_at} whether privileged requests are allowed.",
        "SRE (bit 128) is 0: this address space is a process's, not a kernel's.",
        "The driver must set SRE for an address space that is meant for the kernel, and for no other.",
    ),
    Reason.SFS_1: FaultWords(_FIRST, _NO_MEMORY, "Whoever keeps the page table of the process has written nonsense."),
    Reason.SFS_2: FaultWords(
        _FIRST,
        "P (bit 0) of {entry} is 0: the process has no page there ({word}).",
        "The kernel of the process must map the page first; with page requests (PRI) the device could ask for it.",
    ),
    Reason.SFS_3: FaultWords(_FIRST, _RESERVED, "The kernel must write page-table entries that this unit understands."),
    Reason.SFS_4: FaultWords(
        _FIRST, _NO_MEMORY, "FLPTPTR must name the page table of the process: the driver must bind it anew."
    ),
    Reason.SFS_5: FaultWords(
        _TABLE,
        "Its guest-physical address, named by {pointer}, is beyond what the second level translates ({mgaw} bits).",
        "The guest must keep its page tables in its own memory; the hypervisor must refuse such a root at bind.",
    ),
    Reason.SFS_6: FaultWords(
        _TABLE,
        "{missing} of {entry} is 0: the VM has no readable memory where FLPTPTR says ({word}).",
        "The hypervisor must map the guest's memory into the domain (VFIO) before it binds a page table in it.",
    ),
    Reason.SFS_7: FaultWords(
        _TABLE,
        "{missing} of {entry} is 0: the VM has no readable memory where the first level continues ({word}).",
        "The hypervisor must keep all memory of the guest mapped in the domain as long as a page table is bound.",
    ),
    Reason.SFS_8: FaultWords(
        _MARK,
        "The second level does not let it write there: {missing} of {second} is 0.",
        "The hypervisor must map the guest's page tables writable, or nothing may need to be set in them.",
    ),
    Reason.SSS_1: FaultWords(_SECOND, _NO_MEMORY, _FIX_POINTER),
    Reason.SSS_2: FaultWords(
        _SECOND,
        "R and W (bits 0 and 1) of {entry} are 0: the VM has no memory there ({word}).",
        "The hypervisor must map that memory into the domain (VFIO); otherwise the guest has named an address that"
        " it does not have.",
    ),
    Reason.SSS_3: FaultWords(_SECOND, _RESERVED, _FIX_BITS),
    Reason.SSS_4: FaultWords(
        _SECOND,
        "The top table cannot be read: no memory answers where SLPTPTR says ({pointer}). Sources disagree on this"
        " code.",
        "The driver must write the domain's root into SLPTPTR.",
    ),
    Reason.SSS_5: FaultWords(_MARK_SECOND, _NOT_SNOOPED, _SET_SNOOP),
    Reason.SSS_6: FaultWords(
        _MARK_SECOND,
        "The write to memory failed (one source only names this code).",
        "The driver must keep its tables in memory that can be written.",
    ),
    Reason.SGN_1: FaultWords(
        _FIRST,
        "The upper bits of {address} do not repeat its highest used bit: no page table can hold it.",
        "Nothing in the tables helps: whoever gave the device this address must give it a canonical one.",
    ),
    Reason.SGN_2: FaultWords(
        _PAGE,
        "US (bit 2) is 0: the page is for the kernel, and the request is a user's ({word}).",
        "Nothing, if the page is the kernel's. Else the kernel must set US, or the device must ask as privileged.",
    ),
    Reason.SGN_3: FaultWords(
        _PAGE,
        "XD (bit 63) is 1: nothing may be executed there ({word}).",
        "The kernel must clear XD if the page holds code.",
    ),
    Reason.SGN_4: FaultWords(
        _RESULT,
        "{address} is beyond the host's address width ({haw} bits).",
        "The device must be given an address that the host has, or a translation in place of pass-through.",
    ),
    Reason.SGN_5: FaultWords(
        _SECOND,
        "The address is beyond the smaller of MGAW ({mgaw} bits) and the depth of the tables. Sources disagree on"
        " this code.",
        "The driver must not hand out addresses beyond the domain's width.",
    ),
    Reason.SGN_6: FaultWords(
        _PAGE,
        "{missing} is 0: the page may be read, not written ({word}).",
        "Whoever keeps these tables must allow writing, or resolve the write first (copy on write, dirty tracking).",
    ),
    Reason.SGN_7: FaultWords(
        _PAGE,
        "{missing} is 0: the page may not be read ({word}).",
        "The driver must map the page readable.",
    ),
    Reason.SGN_8: FaultWords(
        _RESULT,
        "It lies in 0xFEE00000 to 0xFEEFFFFF, where writes are interrupts and not memory.",
        "The driver must never map that range: interrupts have a path of their own.",
    ),
    Reason.SGN_9: FaultWords(_RESULT, _UNKNOWN_MEANING, "Nothing is known."),
    Reason.SGN_10: FaultWords(
        "The unit compared the PASID with the width that it supports (ECAP.PSS).",
        "PASID {pasid} has more bits (so the specification, revision 5.10; UNVERIFIED in the facts of this model).",
        "The driver must not let the device use wider PASIDs than the unit supports.",
    ),
    Reason.SFS_9: FaultWords(_MARK, _NOT_SNOOPED, _SET_SNOOP),
    Reason.SFS_10: FaultWords(
        _MARK,
        "The write to memory failed (a third-party header and QEMU name this code).",
        "The kernel must keep its page tables in memory that can be written.",
    ),
}
"""Every reason of the unit; a test proves that none is missing."""
