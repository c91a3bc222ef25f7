"""Intel VT-d scalable mode: tables, paging entries and registers, bit by bit.

Models the structures that a remapping unit reads from memory and the registers whose fields the model uses. Follows
Linux 6.1 ``drivers/iommu/intel/{iommu.h,pasid.h}``, with newer fields from Linux 6.19, the VirtualBox and OpenVMM
headers (VT-d revision 4.1). Left out: legacy-mode root and context entries, interrupt-remapping tables, and the
second word of the "extended root" that scalable mode replaced.

``Layout.reserved`` is exact for root, context and directory entries. It is not the whole truth for the other
structures: which PASID-entry fields exist depends on the revision, paging entries have ignored bits, and address bits
at or above the host address width are reserved everywhere. :mod:`pasidlab.hardware.iommu.vtd.rules` derives those
masks.
"""

from __future__ import annotations

from typing import Final

from pasidlab.hardware.bits import Field, Layout

__all__ = [
    "CAP_REG",
    "CONTEXT_ENTRY",
    "ECAP_REG",
    "FL_ENTRY",
    "FSTS_REG",
    "IQA_REG",
    "IQERR_REG",
    "PASID_DIR_ENTRY",
    "PASID_ENTRY",
    "PGTT",
    "ROOT_ENTRY",
    "RTADDR_REG",
    "SL_ENTRY",
    "VCCAP_REG",
    "VCMD_LEGACY",
    "VCMD_REV33",
    "VCRSP_LEGACY",
    "VCRSP_REV33",
]

_IOMMU_H = "Linux 6.1 drivers/iommu/intel/iommu.h"
_PASID = "Linux 6.1 and 6.19 drivers/iommu/intel/pasid.h"
_OLD_VCMD = "intel/qemu-dcp hw/i386/intel_iommu_internal.h; Linux before commit 4d99efb229e6"

# --- tables in memory -------------------------------------------------------------------------------------------------

ROOT_ENTRY = Layout(
    "vtd_sm_root_entry",
    16,
    (
        Field("LP", 0, 0, "functions 0 to 127 of the bus have a context table"),
        Field("LCTP", 12, 63, "where the lower context table is", 12),
        Field("UP", 64, 64, "functions 128 to 255 of the bus have a context table"),
        Field("UCTP", 76, 127, "where the upper context table is", 12),
    ),
    "Linux 6.1 drivers/iommu/intel/iommu.c iommu_context_addr; microsoft/openvmm VT-d crate",
    "256 entries, index = bus number",
)

CONTEXT_ENTRY = Layout(
    "vtd_sm_context_entry",
    32,
    (
        Field("P", 0, 0, "present"),
        Field("FPD", 1, 1, "do not record qualified faults; counts even when P=0"),
        Field("DTE", 2, 2, "the device may keep a TLB: ATS requests are allowed"),
        Field("PASIDE", 3, 3, "requests that carry a PASID are allowed"),
        Field("PRE", 4, 4, "page requests are allowed"),
        Field("PDTS", 9, 11, "directory size: it covers 2^(PDTS+13) PASIDs"),
        Field("PASIDDIRPTR", 12, 63, "where the PASID directory is", 12),
        Field("RID_PASID", 64, 83, "the PASID of requests that carry none"),
        Field("RID_PRIV", 84, 84, "requests without a PASID are privileged (needs ECAP.RPRIVS)"),
    ),
    "Linux 6.1 drivers/iommu/intel/iommu.c context_set_sm_*; microsoft/openvmm VT-d crate",
    "128 entries a table, index = low 7 bits of device and function",
)

PASID_DIR_ENTRY = Layout(
    "vtd_pasid_dir_entry",
    8,
    (
        Field("P", 0, 0, "present"),
        Field("FPD", 1, 1, "do not record qualified faults; counts even when P=0"),
        Field("SMPTBLPTR", 12, 63, "where the PASID table of 64 entries is", 12),
    ),
    f"{_PASID}; microsoft/openvmm VT-d crate",
    "index = PASID bits 19:6",
)

PASID_ENTRY = Layout(
    "vtd_pasid_entry",
    64,
    (
        Field("P", 0, 0, "present; teardown clears this bit first"),
        Field("FPD", 1, 1, "do not record qualified faults; counts even when P=0"),
        Field("AW", 2, 4, "second-level depth: 1 = 3 levels, 2 = 4 levels, 3 = 5 levels"),
        Field("SLEE", 5, 5, "second-level execute enable (old revisions)"),
        Field("PGTT", 6, 8, "translation: 1 first-level, 2 second-level, 3 nested, 4 pass-through"),
        Field("SSADE", 9, 9, "set accessed and dirty in second-level entries"),
        Field("SLPTPTR", 12, 63, "second-level root, host physical", 12),
        Field("DID", 64, 79, "domain id, a tag of cached translations"),
        Field("PWSNP", 87, 87, "reads of page tables snoop the CPU caches"),
        Field("PGSNP", 88, 88, "the access to the page itself snoops the CPU caches"),
        Field("CD", 89, 89, "cache disable (reserved in 4.1)"),
        Field("EMTE", 90, 90, "extended memory type enable (reserved in 4.1)"),
        Field("EMT", 91, 93, "extended memory type (reserved in 4.1)"),
        Field("PWT", 94, 94, "write-through (reserved in 4.1)"),
        Field("PCD", 95, 95, "page cache disable (reserved in 4.1)"),
        Field("PAT", 96, 127, "copy of the page attribute table (reserved in 4.1)"),
        Field("SRE", 128, 128, "privileged requests are allowed"),
        Field("ERE", 129, 129, "execute requests are allowed (reserved in 4.1)"),
        Field("FLPM", 130, 131, "first-level depth: 0 = 4 levels, 1 = 5 levels"),
        Field("WPE", 132, 132, "read-only pages bind privileged writes too, like CR0.WP"),
        Field("NXE", 133, 133, "execute-disable bits count (deprecated in 4.1; Linux 6.1 sets it)"),
        Field("SMEP", 134, 134, "no privileged execution of user pages (deprecated in 4.1)"),
        Field("EAFE", 135, 135, "set the extended accessed bit in first-level entries"),
        Field("FLPTPTR", 140, 191, "first-level root: guest physical when nested, else host physical", 12),
    ),
    f"{_PASID}, pasid.c pasid_set_*; VBox/iommu-intel.h; microsoft/openvmm VT-d crate",
    "64 entries a table, index = PASID bits 5:0",
)

# --- paging entries ---------------------------------------------------------------------------------------------------


class PGTT:
    """Translation types of a PASID entry; every other value is invalid."""

    FIRST: Final = 1
    SECOND: Final = 2
    NESTED: Final = 3
    PASS_THROUGH: Final = 4


FL_ENTRY = Layout(
    "vtd_fl_entry",
    8,
    (
        Field("P", 0, 0, "present"),
        Field("RW", 1, 1, "writes are allowed"),
        Field("US", 2, 2, "user requests are allowed"),
        Field("PWT", 3, 3, "write-through hint"),
        Field("PCD", 4, 4, "cache-disable hint"),
        Field("A", 5, 5, "accessed, set by hardware"),
        Field("D", 6, 6, "dirty, set by hardware in a leaf"),
        Field("PS", 7, 7, "this is a large page (a PAT bit in a 4 KiB leaf)"),
        Field("EA", 10, 10, "extended accessed, set by hardware when EAFE=1"),
        Field("ADDR", 12, 51, "next table, or page", 12),
        Field("XD", 63, 63, "no execution"),
    ),
    f"{_IOMMU_H} DMA_FL_PTE_*; qemu hw/i386/intel_iommu_internal.h; VBox/iommu-intel.h",
    "the CPU's own format; bits 8, 9, 11 and 62:52 are ignored",
)

SL_ENTRY = Layout(
    "vtd_sl_entry",
    8,
    (
        Field("R", 0, 0, "reads are allowed"),
        Field("W", 1, 1, "writes are allowed"),
        Field("X", 2, 2, "execution is allowed (old revisions)"),
        Field("EMT", 3, 5, "extended memory type (old revisions)"),
        Field("IPAT", 6, 6, "ignore the page attribute table (old revisions)"),
        Field("PS", 7, 7, "this is a large page"),
        Field("A", 8, 8, "accessed, set by hardware when SSADE=1"),
        Field("D", 9, 9, "dirty, set by hardware in a leaf when SSADE=1"),
        Field("SNP", 11, 11, "snoop, in a leaf"),
        Field("ADDR", 12, 51, "next table, or page", 12),
        Field("TM", 62, 62, "transient mapping, a hint to device TLBs"),
    ),
    f"{_IOMMU_H} DMA_PTE_*; VBox/iommu-intel.h; microsoft/openvmm VT-d crate",
    "R=W=0 means absent; bits 61:52 and 63 belong to software",
)

# --- registers --------------------------------------------------------------------------------------------------------

RTADDR_REG = Layout(
    "vtd_rtaddr_reg",
    8,
    (
        Field("TTM", 10, 11, "table mode: 0 legacy, 1 scalable, 2 reserved, 3 abort all DMA"),
        Field("RTA", 12, 63, "where the root table is", 12),
    ),
    "Linux 6.1 drivers/iommu/intel/iommu.c iommu_set_root_entry; microsoft/openvmm VT-d crate",
    "offset 0x20; takes effect when GCMD.SRTP is written",
)

CAP_REG = Layout(
    "vtd_cap_reg",
    8,
    (
        Field("ND", 0, 2, "domain ids: 2^(4+2*ND)"),
        Field("AFL", 3, 3, "advanced fault log"),
        Field("RWBF", 4, 4, "software must flush write buffers"),
        Field("PLMR", 5, 5, "protected low memory region"),
        Field("PHMR", 6, 6, "protected high memory region"),
        Field("CM", 7, 7, "caching mode: absent entries may be cached"),
        Field("SAGAW", 8, 12, "second-level depths: bit 1 = 3, bit 2 = 4, bit 3 = 5 levels"),
        Field("MGAW", 16, 21, "guest address width minus 1"),
        Field("ZLR", 22, 22, "zero-length reads"),
        Field("FRO", 24, 33, "offset of the fault records / 16"),
        Field("SLLPS", 34, 37, "second-level large pages: bit 0 = 2 MiB, bit 1 = 1 GiB"),
        Field("PSI", 39, 39, "invalidation of single pages"),
        Field("NFR", 40, 47, "number of fault records minus 1"),
        Field("MAMV", 48, 53, "largest address mask of an invalidation"),
        Field("DWD", 54, 54, "drains writes"),
        Field("DRD", 55, 55, "drains reads"),
        Field("FL1GP", 56, 56, "first-level pages of 1 GiB"),
        Field("PI", 59, 59, "posted interrupts"),
        Field("FL5LP", 60, 60, "first level with 5 levels"),
        Field("ESIRTPS", 62, 62, "setting the interrupt table invalidates caches"),
        Field("ESRTPS", 63, 63, "setting the root table invalidates caches"),
    ),
    f"{_IOMMU_H} cap_*",
    "offset 0x08",
)

ECAP_REG = Layout(
    "vtd_ecap_reg",
    8,
    (
        Field("C", 0, 0, "table reads snoop the CPU caches"),
        Field("QI", 1, 1, "queued invalidation"),
        Field("DT", 2, 2, "device TLBs"),
        Field("IR", 3, 3, "interrupt remapping"),
        Field("EIM", 4, 4, "x2APIC ids"),
        Field("PT", 6, 6, "pass-through"),
        Field("SC", 7, 7, "snoop control in second-level leaves"),
        Field("IRO", 8, 17, "offset of the IOTLB registers / 16"),
        Field("MHMV", 20, 23, "largest handle mask of an interrupt invalidation"),
        Field("MTS", 25, 25, "memory types (old revisions)"),
        Field("NEST", 26, 26, "nested translation"),
        Field("DIS", 27, 27, "deferred invalidation (old revisions)"),
        Field("OLD_PASID", 28, 28, "first, broken PASID bit"),
        Field("PRS", 29, 29, "page requests"),
        Field("ERS", 30, 30, "execute requests"),
        Field("SRS", 31, 31, "privileged requests"),
        Field("NWFS", 33, 33, "no-write flag of ATS requests"),
        Field("EAFS", 34, 34, "extended accessed flag"),
        Field("PSS", 35, 39, "PASID width minus 1"),
        Field("PASID", 40, 40, "requests may carry a PASID"),
        Field("DIT", 41, 41, "throttles device-TLB invalidations"),
        Field("PDS", 42, 42, "drains page requests"),
        Field("SMTS", 43, 43, "scalable mode"),
        Field("VCS", 44, 44, "virtual command registers"),
        Field("SSADS", 45, 45, "second-level accessed and dirty bits"),
        Field("SSTS", 46, 46, "second-level translation"),
        Field("FSTS", 47, 47, "first-level translation"),
        Field("SMPWCS", 48, 48, "page-table reads can snoop the CPU caches"),
        Field("RPS", 49, 49, "RID_PASID exists"),
        Field("PMS", 51, 51, "performance monitoring"),
        Field("ADMS", 52, 52, "abort-DMA mode"),
        Field("RPRIVS", 53, 53, "RID_PRIV exists"),
        Field("SMS", 58, 58, "stop markers"),
    ),
    f"{_IOMMU_H} ecap_*; microsoft/openvmm VT-d crate",
    "offset 0x10",
)

FSTS_REG = Layout(
    "vtd_fsts_reg",
    4,
    (
        Field("PFO", 0, 0, "a fault was lost because the records were full"),
        Field("PPF", 1, 1, "at least one fault record is pending"),
        Field("IQE", 4, 4, "the invalidation queue stopped at a bad descriptor"),
        Field("ICE", 5, 5, "a device answered an invalidation with an error"),
        Field("ITE", 6, 6, "a device did not answer an invalidation"),
        Field("PRO", 7, 7, "page request overflow (deprecated)"),
        Field("FRI", 8, 15, "index of the first pending fault record"),
    ),
    f"{_IOMMU_H} DMA_FSTS_*",
    "offset 0x34",
)

IQA_REG = Layout(
    "vtd_iqa_reg",
    8,
    (
        Field("QS", 0, 2, "queue size: 2^QS pages of 4 KiB"),
        Field("DW", 11, 11, "descriptors have 256 bits, not 128"),
        Field("IQA", 12, 63, "where the queue is", 12),
    ),
    f"{_IOMMU_H}, dmar.c",
    "offset 0x90",
)

IQERR_REG = Layout(
    "vtd_iqerr_reg",
    8,
    (
        Field("IQEI", 0, 3, "why the queue stopped"),
        Field("ITESID", 32, 47, "device that did not answer"),
        Field("ICESID", 48, 63, "device that answered with an error"),
    ),
    f"{_IOMMU_H} DMAR_IQER_REG_*",
    "offset 0xb0",
)

# --- virtual command registers ----------------------------------------------------------------------------------------

VCCAP_REG = Layout(
    "vtd_vccap_reg",
    8,
    (Field("PAS", 0, 0, "PASIDs can be allocated and freed"),),
    f"{_IOMMU_H} vccap_pasid",
    "offset 0xe30 from revision 3.3 on, 0xe00 before",
)

VCMD_REV33 = Layout(
    "vtd_vcmd_rev33",
    8,
    (
        Field("CMD", 0, 7, "1 allocates a PASID, 2 frees one"),
        Field("PASID", 16, 35, "the PASID to free"),
    ),
    f"{_PASID} VCMD_*",
    "offset 0xe00; the write starts the command",
)

VCRSP_REV33 = Layout(
    "vtd_vcrsp_rev33",
    8,
    (
        Field("IP", 0, 0, "in progress"),
        Field("SC", 1, 7, "status: 0 success, 16 no PASID left, or not a PASID of yours"),
        Field("PASID", 16, 35, "the allocated PASID"),
    ),
    f"{_PASID} VCMD_VRSP_*",
    "offset 0xe10",
)

VCMD_LEGACY = Layout(
    "vtd_vcmd_legacy",
    8,
    (
        Field("CMD", 0, 7, "1 allocates a PASID, 2 frees one"),
        Field("PASID", 8, 27, "the PASID to free"),
    ),
    _OLD_VCMD,
    "offset 0xe10; the write starts the command",
)

VCRSP_LEGACY = Layout(
    "vtd_vcrsp_legacy",
    8,
    (
        Field("IP", 0, 0, "in progress"),
        Field("SC", 1, 2, "status: 0 success, 1 unknown command, 2 no PASID left, or not a PASID of yours"),
        Field("PASID", 8, 27, "the allocated PASID"),
    ),
    _OLD_VCMD,
    "offset 0xe20",
)
