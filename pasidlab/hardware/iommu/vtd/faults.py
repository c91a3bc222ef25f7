"""Why a VT-d unit in scalable mode blocks a request: the fault reasons, as a table.

Models the reason codes of the fault recording registers. Follows Linux 6.1 ``drivers/iommu/intel/dmar.c``
(``dma_remap_sm_fault_reasons``), VBox/iommu-intel.h, QEMU's intel_iommu_internal.h and, where these disagree or are
silent, table 30 of the specification (revision 5.10). A *qualified* fault is not recorded when a table entry on its way
asks for that (FPD). Rows whose ``status`` is not ``confirmed`` rest on one source, on sources that disagree, or on
nothing but the name (UNVERIFIED). Left out: legacy-mode and interrupt faults.

Which faults are qualified: the notes say "0x40 and later" and mark 0x50 and 0x58 as UNVERIFIED. The specification's
table and QEMU agree that an entry which cannot be read (0x40, 0x50, 0x58) is always reported; that is followed here.

Meanings that later revisions changed, and that are *not* followed, because the facts describe the older ones: 0x48 (in
5.10: a request carries the very PASID that is RID_PASID), 0x74 (in 5.10 also for the page itself, 0x84 then is for
second-level-only translation), 0x89 (in 5.10: the PASID is wider than ECAP.PSS; not raised here).
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["FaultReason"]

_CONFIRMED = "confirmed"
_DISAGREE = "sources disagree"
_ONE_SOURCE = "one source"
_UNVERIFIED = "UNVERIFIED"
_SPECIFICATION = "UNVERIFIED in the facts; so in table 30 of the specification, revision 5.10"
_FIRST_BEHIND_THE_ROOT = 0x40
_ALWAYS_REPORTED = False


class FaultReason(IntEnum):
    """One reason: its number is the value, ``label`` the specification's name, ``meaning`` says it in words.

    >>> reason = FaultReason.of(0x59)
    >>> reason.label, reason.qualified, reason.meaning
    ('SPT.2', True, 'the PASID entry is not present')
    """

    meaning: str
    status: str
    qualified: bool
    """Whether FPD in a context, directory or PASID entry keeps this fault from being recorded."""

    def __new__(cls, code: int, meaning: str, status: str = _CONFIRMED, qualified: bool = True) -> FaultReason:
        """A row of the table below; what happens before the context entry is never qualified."""
        reason = int.__new__(cls, code)
        reason._value_ = code
        reason.meaning = meaning
        reason.status = status
        reason.qualified = qualified and code >= _FIRST_BEHIND_THE_ROOT
        return reason

    @classmethod
    def of(cls, code: int) -> FaultReason:
        """The reason with this number; a number that is in no table is a ``KeyError``."""
        return _BY_CODE[code]

    @property
    def label(self) -> str:
        """The name that specification and kernel print: ``SPT.2``."""
        return self.name.replace("_", ".")

    RTA_1 = 0x30, "the root pointer register holds a table mode or bits that it must not"
    RTA_2 = 0x31, "the unit is in legacy mode and the request carries a PASID"
    RTA_3 = 0x32, "the unit is in legacy mode and the request is a page request"
    RTA_4 = 0x33, "the unit was told to abort all DMA", _SPECIFICATION

    SRT_1 = 0x38, "the root entry cannot be read"
    SRT_2 = 0x39, "the root entry has no context table for this half of the bus"
    SRT_3 = 0x3A, "the root entry has a reserved bit set"

    SCT_1 = 0x40, "the context entry cannot be read", _CONFIRMED, _ALWAYS_REPORTED
    SCT_2 = 0x41, "the context entry is not present"
    SCT_3 = 0x42, "the context entry has a reserved bit set"
    SCT_4 = 0x43, "the context entry contradicts itself (RID_PASID beyond its directory, in later revisions)"
    SCT_5 = 0x44, "the device may not use address translation services (DTE=0)"
    SCT_6 = 0x45, "the device may not send requests with a PASID (PASIDE=0)"
    SCT_7 = 0x46, "the PASID lies beyond the directory (PDTS)"
    SCT_8 = 0x47, "the device may not send page requests (PRE=0)"
    SCT_9 = 0x48, "the PASID for requests without one (RID_PASID) cannot be used"

    SPD_1 = 0x50, "the PASID directory entry cannot be read", _CONFIRMED, _ALWAYS_REPORTED
    SPD_2 = 0x51, "the PASID directory entry is not present"
    SPD_3 = 0x52, "the PASID directory entry has a reserved bit set"

    SPT_1 = 0x58, "the PASID entry cannot be read", _CONFIRMED, _ALWAYS_REPORTED
    SPT_2 = 0x59, "the PASID entry is not present"
    SPT_3 = 0x5A, "the PASID entry has a reserved bit set"
    SPT_4 = 0x5B, "the PASID entry asks for a translation (PGTT, AW, FLPM) that the unit does not have"
    SPT_5 = 0x5C, "the PASID entry does not allow execute requests (ERE=0)"
    SPT_6 = 0x5D, "the PASID entry does not allow privileged requests (SRE=0)"

    SFS_1 = 0x70, "a first-level entry cannot be read"
    SFS_2 = 0x71, "a first-level entry is not present"
    SFS_3 = 0x72, "a first-level entry has a reserved bit set"
    SFS_4 = 0x73, "the top first-level entry (FLPTPTR) cannot be read"
    SFS_5 = 0x74, "a first-level table lies beyond the guest address width"
    SFS_6 = 0x75, "the second level denies reading the top first-level table"
    SFS_7 = 0x76, "the second level denies reading a lower first-level table"
    SFS_8 = 0x77, "the second level denies setting accessed or dirty in a first-level table"

    SSS_1 = 0x78, "a second-level entry cannot be read"
    SSS_2 = 0x79, "a second-level entry allows neither reading nor writing: not present"
    SSS_3 = 0x7A, "a second-level entry has a reserved bit set"
    SSS_4 = 0x7B, "the top second-level entry (SLPTPTR) cannot be read", _DISAGREE
    SSS_5 = 0x7C, "accessed or dirty must be set in a second-level entry, but walks do not snoop"
    SSS_6 = 0x7D, "accessed or dirty could not be set in a second-level entry", _ONE_SOURCE

    SGN_1 = 0x80, "the address is not canonical for the first level"
    SGN_2 = 0x81, "a user request reached a supervisor page (U/S=0)"
    SGN_3 = 0x82, "an execute request reached a page that forbids execution (XD)"
    SGN_4 = 0x83, "the result lies beyond the host address width"
    SGN_5 = 0x84, "the address lies beyond what the second level translates", _DISAGREE
    SGN_6 = 0x85, "the page may not be written"
    SGN_7 = 0x86, "the page may not be read"
    SGN_8 = 0x87, "the result lies in the interrupt range 0xFEExxxxx"
    SGN_9 = 0x88, "named in recent headers; meaning not found", _UNVERIFIED
    SGN_10 = 0x89, "the PASID has more bits than the unit supports (ECAP.PSS)", _SPECIFICATION

    SFS_9 = 0x90, "accessed or dirty must be set in a first-level entry, but walks do not snoop"
    SFS_10 = 0x91, "accessed or dirty could not be set in a first-level entry", _ONE_SOURCE


_BY_CODE = {int(reason): reason for reason in FaultReason}
