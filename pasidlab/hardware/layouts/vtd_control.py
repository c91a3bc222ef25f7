"""Intel VT-d registers that control the unit: version, commands, status, events, bit by bit.

Models the registers beside CAP, ECAP, RTADDR and the queues (those are in :mod:`pasidlab.hardware.layouts.vtd`).
Follows Linux 6.1 ``drivers/iommu/intel/iommu.h`` (DMA_GCMD_*, DMA_CCMD_*, DMA_FECTL_*, DMA_PRS_*) and chapter 11.4 of
the specification. GSTS has the bits of GCMD under names with an S. The three event controls (FECTL, IECTL, PECTL) are
alike. Left out: protected memory, the interrupt remapping table, MTRRs, performance monitoring.
"""

from __future__ import annotations

from pasidlab.hardware.bits import Field, Layout

__all__ = ["CCMD_REG", "EVENT_CONTROL_REG", "GCMD_REG", "GSTS_REG", "ICS_REG", "PRS_REG", "VER_REG"]

_IOMMU_H = "Linux 6.1 drivers/iommu/intel/iommu.h"
_SPEC = "Intel VT-d specification, revision 5.10"

VER_REG = Layout(
    "vtd_ver_reg",
    4,
    (Field("VER", 0, 7, "architecture version: major in bits 7:4, minor in bits 3:0"),),
    f"{_IOMMU_H} DMAR_VER_MAJOR, DMAR_VER_MINOR",
    "offset 0x00",
)

GCMD_REG = Layout(
    "vtd_gcmd_reg",
    4,
    (
        Field("CFI", 23, 23, "let interrupts in the old format pass"),
        Field("SIRTP", 24, 24, "take the interrupt table's address (one-shot)"),
        Field("IRE", 25, 25, "remap interrupts"),
        Field("QIE", 26, 26, "run the invalidation queue"),
        Field("WBF", 27, 27, "flush write buffers (one-shot; only with CAP.RWBF)"),
        Field("SRTP", 30, 30, "take the root table's address (one-shot)"),
        Field("TE", 31, 31, "translate requests"),
    ),
    f"{_IOMMU_H} DMA_GCMD_*",
    "offset 0x18; reads as zero",
)

GSTS_REG = Layout(
    "vtd_gsts_reg",
    4,
    (
        Field("CFIS", 23, 23, "interrupts in the old format pass"),
        Field("IRTPS", 24, 24, "the interrupt table's address was taken"),
        Field("IRES", 25, 25, "interrupts are remapped"),
        Field("QIES", 26, 26, "the invalidation queue runs"),
        Field("WBFS", 27, 27, "write buffers are being flushed"),
        Field("RTPS", 30, 30, "the root table's address was taken"),
        Field("TES", 31, 31, "requests are translated"),
    ),
    f"{_IOMMU_H} DMA_GSTS_*",
    "offset 0x1c; read-only",
)

CCMD_REG = Layout(
    "vtd_ccmd_reg",
    8,
    (
        Field("DID", 0, 15, "domain id"),
        Field("SID", 16, 31, "requester id"),
        Field("FM", 32, 33, "mask over the function number"),
        Field("CAIG", 59, 60, "what was invalidated: 0 nothing (the request was wrong), else as CIRG"),
        Field("CIRG", 61, 62, "what to invalidate: 1 everything, 2 a domain, 3 a device"),
        Field("ICC", 63, 63, "software sets it to start, hardware clears it when done"),
    ),
    f"{_IOMMU_H} DMA_CCMD_*; VBox/iommu-intel.h; {_SPEC} 11.4.6.1",
    "offset 0x28; writing the upper half starts the command",
)

EVENT_CONTROL_REG = Layout(
    "vtd_event_control_reg",
    4,
    (
        Field("IP", 30, 30, "an interrupt waits (read-only)"),
        Field("IM", 31, 31, "send no interrupt; 1 after reset"),
    ),
    f"{_IOMMU_H} DMA_FECTL_IM; {_SPEC} 11.4.7.2, 11.4.11.5",
    "FECTL 0x38, IECTL 0xa0, PECTL 0xe0; behind each: data, address, upper address",
)

ICS_REG = Layout(
    "vtd_ics_reg",
    4,
    (Field("IWC", 0, 0, "a wait descriptor with IF=1 is complete; write 1 to clear"),),
    f"{_IOMMU_H} DMAR_ICS_REG; {_SPEC} 11.4.9.4",
    "offset 0x9c",
)

PRS_REG = Layout(
    "vtd_prs_reg",
    4,
    (
        Field("PPR", 0, 0, "a page request was queued; write 1 to clear"),
        Field("PRO", 1, 1, "a page request was lost, the queue was full; write 1 to clear"),
    ),
    f"{_IOMMU_H} DMA_PRS_PPR, DMA_PRS_PRO",
    "offset 0xdc",
)
