"""The sentences for SMMUv3 events, a volume of the catalogue (:mod:`pasidlab.views.words`): for each event what was
looked for, what was found, and what a driver would have to do.

Templates over the facts that :mod:`pasidlab.views.fault_facts_smmuv3` reads from a walk. An event of a translation has
two entries: stage 1, and (with ``S2``) stage 2. What an event means is that of
:class:`~pasidlab.hardware.iommu.smmuv3.faults.SmmuEvent`. "The driver" is the SMMU's driver in the kernel that owns the
structure in question, or the hypervisor on a guest's behalf.
"""

from __future__ import annotations

from typing import Final

from pasidlab.views.fault_book import FaultWords

__all__ = ["CASES", "FATES", "FAULTS"]

_STE: Final = "The unit looked for the stream table entry of {rid} (StreamID {sid}), which says which stages translate."
_CD: Final = "The unit looked for the context descriptor of SubstreamID {pasid}, which names a process's page table."
_FIRST: Final = "The unit looked {address} up in stage 1, the page table of the process."
_SECOND: Final = "The unit asked stage 2, the memory of the VM, {errand}."
_NO_MEMORY: Final = "No memory answers at the address that the structure before names ({pointer})."
_NEVER: Final = "This model never raises it."
_INVALIDATE: Final = "then send the CFGI command for it: what is not valid may be cached, too"

FAULTS: Final[dict[str, FaultWords]] = {
    "ABORT": FaultWords(
        "The unit asked whether requests of {rid} may pass at all.",
        "{abort}",
        "The driver must give the stream a Config that translates or bypasses; a kernel blocks a device on purpose.",
    ),
    "F_UUT": FaultWords(
        "The unit was asked for a kind of transaction.",
        "It does not support this kind in this place: page requests go to the PRI queue, not through a translation.",
        "Nothing: the device must not send it.",
    ),
    "C_BAD_STREAMID": FaultWords(
        "The unit looked for StreamID {sid} ({rid}) in the stream table.",
        "{beyond}",
        "The driver must give the stream table an entry for the device before the device works: a larger table"
        " (STRTAB_BASE_CFG), or a second level with enough entries (span).",
    ),
    "F_STE_FETCH": FaultWords(
        _STE,
        "No memory answers where STRTAB_BASE, or L2Ptr of the first level, says.",
        "The driver must put the stream table into memory that exists.",
    ),
    "C_BAD_STE": FaultWords(
        _STE,
        "{bad_ste}",
        f"The driver must write the entry, its first word with V last, {_INVALIDATE}.",
    ),
    "F_BAD_ATS_TREQ": FaultWords(
        "The unit asked the stream table entry of {rid} whether it may ask for translations (ATS).",
        "EATS does not allow it, or the unit is switched off.",
        "The driver must set EATS before it switches ATS on in the device.",
    ),
    "F_STREAM_DISABLED": FaultWords(
        "The unit asked the stream table entry at {at} what to do with a transaction without SubstreamID, or with 0.",
        "S1DSS={dss}: {dss_meaning}.",
        "The driver must choose S1DSS for what the device sends: 1 bypasses stage 1, 2 uses context descriptor 0.",
    ),
    "F_TRANSL_FORBIDDEN": FaultWords(
        "The unit asked the stream table entry of {rid} whether it may send addresses that it was given before (ATS).",
        "EATS does not allow it, or the unit is switched off.",
        "The driver must not clear EATS before ATS is switched off in the device and its TLB is empty.",
    ),
    "C_BAD_SUBSTREAMID": FaultWords(
        "The unit compared SubstreamID {pasid} with what the stream table entry at {ste_at} offers.",
        "{no_context}",
        "The driver must bind a process under this number, in a table that reaches so far (S1CDMax), with stage 1 on.",
    ),
    "F_CD_FETCH": FaultWords(
        _CD,
        _NO_MEMORY,
        "The driver must put the table of context descriptors into memory that exists, then send CFGI_CD.",
    ),
    "C_BAD_CD": FaultWords(
        _CD,
        "{bad_cd}",
        f"The driver must write the descriptor (a bind), its first word with V last, {_INVALIDATE}.",
    ),
    "F_WALK_EABT": FaultWords(
        _FIRST, _NO_MEMORY, "Whoever keeps the page table of the process has written a wrong address."
    ),
    "F_WALK_EABT S2": FaultWords(_SECOND, _NO_MEMORY, "The driver must put the tables of stage 2 into memory."),
    "F_TRANSLATION": FaultWords(
        _FIRST,
        "{untranslated}",
        "The kernel of the process must map the page first; with page requests (PRI) or stalls the device could wait"
        " for it.",
    ),
    "F_TRANSLATION S2": FaultWords(
        _SECOND,
        "{untranslated}",
        "The hypervisor must map that memory into the domain (VFIO); otherwise the guest has named an address that it"
        " does not have.",
    ),
    "F_ADDR_SIZE": FaultWords(
        _FIRST,
        "{too_wide}",
        "The kernel must name addresses within the output size (IPS) of the context descriptor.",
    ),
    "F_ADDR_SIZE S2": FaultWords(_SECOND, "{too_wide}", "The driver must name addresses within S2PS."),
    "F_ACCESS": FaultWords(
        _FIRST,
        "AF (bit 10) of {entry} is 0 ({word}): nobody has touched the page, and this unit sets no flags itself.",
        "The kernel must set AF when it makes the mapping, or handle the fault and set it then.",
    ),
    "F_ACCESS S2": FaultWords(
        _SECOND,
        "AF (bit 10) of {entry} is 0 ({word}).",
        "The hypervisor's kernel must set AF in every entry of stage 2, since this unit sets no flags itself.",
    ),
    "F_PERMISSION": FaultWords(
        _FIRST,
        "It read {entry} ({word}), which, with the entries above it, does not grant this: {access}.",
        "Whoever keeps the page table must allow it, or resolve the access first (copy on write).",
    ),
    "F_PERMISSION S2": FaultWords(
        _SECOND,
        "It read {entry} ({word}), which does not grant this: {access}.",
        "The hypervisor must map that memory with the rights that the guest needs.",
    ),
    "F_TLB_CONFLICT": FaultWords("The unit looked into its TLB.", "Two lines match the address.", _NEVER),
    "F_CFG_CONFLICT": FaultWords("The unit looked into its caches.", "Two lines match the stream.", _NEVER),
    "E_PAGE_REQUEST": FaultWords("The unit foresaw a page request.", "It is a hint, no fault.", _NEVER),
    "F_VMS_FETCH": FaultWords("The unit looked for the VMS structure.", "It cannot be read.", _NEVER),
}
"""Every event, and stage 2 of those that both stages have; a test proves that none is missing."""

CASES: Final = {
    "abort-off": "The unit does not translate (SMMUEN=0), and GBPA.ABORT is set, or the address is too wide.",
    "abort-ste": "Config={config} in the stream table entry at {at}: everything is blocked without a record.",
    "beyond-table": "The table has 2^{bits} entries at most, and none for this number.",
    "beyond-span": "The first level at {at} has span={span}: its second level has no entry for this number.",
    "ste-absent": "V (bit 0) is 0 at {at}: no driver has put this device behind the unit.",
    "ste-illegal": "Its fields contradict each other, or this unit (ILLEGAL): Config={config}, S1Fmt={fmt},"
    " S1CDMax={cdmax}, S1STALLD={stalld} ({word}).",
    "dss-0": "it is aborted",
    "dss-1": "it bypasses stage 1",
    "dss-2": "context descriptor 0 is for those without SubstreamID, so that SubstreamID 0 is refused",
    "dss-3": "a reserved value",
    "no-stage-1": "Config={config}: stage 1 does not translate, so that no SubstreamID is taken.",
    "no-substreams": "S1CDMax=0: the stream has one context descriptor and takes no SubstreamID.",
    "too-large": "S1CDMax={cdmax}: the table ends below 2^{cdmax}.",
    "no-leaf": "V (bit 0) is 0 in the table entry at {at}: no leaf of the table reaches this number.",
    "cd-absent": "V (bit 31) is 0 at {at}: nobody has bound SubstreamID {pasid} on this device, or it was unbound.",
    "cd-illegal": "Its fields contradict each other, the stream table entry, or this unit (ILLEGAL): AA64={aa64},"
    " T0SZ={t0sz}, TG0={tg0}, S={stall} ({word}).",
    "invalid": "It read {entry}, which is not valid ({word}).",
    "out-of-reach": "No entry was read: the address lies beyond what the tables translate, or the walk is disabled"
    " (EPD).",
    "wide-entry": "The address in {entry} ({word}) has more bits than the stage may put out.",
    "wide-input": "{address} has more bits than the unit's addresses (OAS).",
    "errand-l1cd": "where the first level of the table of context descriptors is",
    "errand-cd": "where the context descriptor is",
    "errand-table": "where the next table of stage 1 is",
    "errand-page": "where the page is",
}
"""What is told apart within one event."""

FATES: Final = {
    "none": "Nothing is recorded of it.",
    "silent": "A real transaction would be blocked without a record: R of the context descriptor (stage 1), S2R of the"
    " stream table entry (stage 2), or CR2 asks for that.",
    "stall": "A real transaction would be held (S=1 in the context descriptor) until software answers with CMD_RESUME.",
}
"""What becomes of a real request, where that is particular to this unit."""
