"""Arm SMMUv3: stream table, context descriptors, page-table entries and registers, bit by bit.

Models the structures that the unit reads from memory and the registers whose fields the model uses. Follows Linux 6.1
``drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.h`` and ``drivers/iommu/io-pgtable-arm.c``; where those name fewer bits (the
upper half's T1SZ, TG1, TBI1, and AFFD in a context descriptor; IDR3, IDR5 and the control registers) chapters 5 and 6
of the specification (IHI 0070). Left out: the secure and realm halves, AArch32 tables, hardware update of access flags.

``Layout.reserved`` is what no field owns. The unit itself ignores those bits, as the specification allows (RES0).
"""

from __future__ import annotations

from pasidlab.hardware.bits import Field, Layout

__all__ = [
    "CD",
    "CD_TABLE_DESC",
    "CR0_REG",
    "CR2_REG",
    "GBPA_REG",
    "GERROR_REG",
    "IDR0_REG",
    "IDR1_REG",
    "IDR3_REG",
    "IDR5_REG",
    "IRQ_CTRL_REG",
    "QUEUE_BASE_REG",
    "S1_ENTRY",
    "S2_ENTRY",
    "STE",
    "STREAM_TABLE_DESC",
    "STRTAB_BASE_CFG_REG",
    "STRTAB_BASE_REG",
]

_HEADER = "Linux 6.1 drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.h"
_LPAE = "Linux 6.1 drivers/iommu/io-pgtable-arm.c"

IDR0_REG = Layout(
    "smmu_idr0",
    4,
    (
        Field("S2P", 0, 0, "stage 2"),
        Field("S1P", 1, 1, "stage 1"),
        Field("TTF", 2, 3, "table formats"),
        Field("COHACC", 4, 4, "coherent"),
        Field("HYP", 9, 9, "EL2 streams"),
        Field("ATS", 10, 10, "ATS"),
        Field("ASID16", 12, 12, "16-bit ASID"),
        Field("MSI", 13, 13, "msi"),
        Field("SEV", 14, 14, "event wakeup"),
        Field("PRI", 16, 16, "page requests"),
        Field("VMID16", 18, 18, "16-bit VMID"),
        Field("CD2L", 19, 19, "two-level CD tables"),
        Field("TTENDIAN", 21, 22, "endian"),
        Field("STALL_MODEL", 24, 25, "stall model"),
        Field("ST_LEVEL", 27, 28, "1 = two-level stream table"),
    ),
    _HEADER,
)

IDR1_REG = Layout(
    "smmu_idr1",
    4,
    (
        Field("SIDSIZE", 0, 5, "stream id width"),
        Field("SSIDSIZE", 6, 10, "substream id width (0 = none)"),
        Field("PRIQS", 11, 15, "log2 PRI queue entries"),
        Field("EVTQS", 16, 20, "log2 event queue entries"),
        Field("CMDQS", 21, 25, "log2 command queue entries"),
        Field("REL", 28, 28, "base relative to SMMU"),
        Field("QUEUES_PRESET", 29, 29, "queues fixed"),
        Field("TABLES_PRESET", 30, 30, "tables fixed"),
    ),
    _HEADER,
)

STREAM_TABLE_DESC = Layout(
    "smmu_l1std",
    8,
    (
        Field("span", 0, 4, "L2 table has 2^(span-1) STEs; 0 = invalid"),
        Field("L2Ptr", 6, 51, "L2 array of STEs", 6),
    ),
    _HEADER,
    "SPLIT of the register STRTAB_BASE_CFG says which bits of a StreamID choose it",
)

STE = Layout(
    "smmu_ste",
    64,
    (
        Field("V", 0, 0, "entry valid"),
        Field("Config", 1, 3, "0 abort silently, 4 bypass both, 5 stage 1 only, 6 stage 2 only, 7 nested"),
        Field(
            "S1Fmt",
            4,
            5,
            "0 linear CD table, 1 two-level with 4 KiB leaves (64 CDs), 2 two-level with 64 KiB leaves (1024 CDs)",
        ),
        Field("S1ContextPtr", 6, 51, "CD table base; an IPA when stage 2 is on", 6),
        Field("S1CDMax", 59, 63, "log2 of the number of CDs (0 = only CD 0, no substreams)"),
        Field(
            "S1DSS",
            64,
            65,
            "a transaction without SubstreamID, if S1CDMax>0: 0 is aborted, 1 bypasses stage 1, 2 uses CD 0",
        ),
        Field("S1CIR", 66, 67, "inner cacheability of CD fetch"),
        Field("S1COR", 68, 69, "outer cacheability"),
        Field("S1CSH", 70, 71, "shareability"),
        Field("S1STALLD", 91, 91, "disable stall model for stage 1"),
        Field("EATS", 92, 93, "ATS: 0 abort, 1 full, 2 split-stage"),
        Field("STRW", 94, 95, "stream world: 0 NS-EL1, 2 EL2"),
        Field("SHCFG", 108, 109, "shareability override for bypass (1 = use incoming)"),
        Field("S2VMID", 128, 143, "vmid for stage-2/stage-1 tags"),
        Field("S2T0SZ", 160, 165, "stage-2 input size"),
        Field("S2SL0", 166, 167, "start level"),
        Field("S2IR0", 168, 169, "inner cacheability"),
        Field("S2OR0", 170, 171, "outer cacheability"),
        Field("S2SH0", 172, 173, "shareability"),
        Field("S2TG", 174, 175, "granule"),
        Field("S2PS", 176, 178, "output size"),
        Field("S2AA64", 179, 179, "AArch64 stage 2"),
        Field("S2ENDI", 180, 180, "big-endian stage 2"),
        Field("S2PTW", 182, 182, "protect stage-1 walks through Device memory"),
        Field("S2R", 186, 186, "record stage-2 faults"),
        Field("S2TTB", 196, 243, "stage-2 root", 4),
    ),
    f"{_HEADER}; SMMUv3 specification 5.2",
    "V=0: C_BAD_STE",
)

CD_TABLE_DESC = Layout(
    "smmu_l1cd",
    8,
    (
        Field("V", 0, 0, "valid"),
        Field("L2Ptr", 12, 51, "leaf CD table", 12),
    ),
    _HEADER,
    "chosen by SSID >> 10 with S1Fmt 2, SSID >> 6 with S1Fmt 1",
)

CD = Layout(
    "smmu_cd",
    64,
    (
        Field("T0SZ", 0, 5, "64 - input bits of TTB0"),
        Field("TG0", 6, 7, "granule: 0 4K, 1 64K, 2 16K"),
        Field("IRGN0", 8, 9, "inner cacheability"),
        Field("ORGN0", 10, 11, "outer cacheability"),
        Field("SH0", 12, 13, "shareability"),
        Field("EPD0", 14, 14, "disable TTB0 walks (translation fault)"),
        Field("ENDI", 15, 15, "big-endian tables"),
        Field("T1SZ", 16, 21, "64 - input bits of TTB1"),
        Field("TG1", 22, 23, "granule of TTB1: 1 16K, 2 4K, 3 64K"),
        Field("EPD1", 30, 30, "disable TTB1 walks"),
        Field("V", 31, 31, "valid"),
        Field("IPS", 32, 34, "output size 0 32,1 36,2 40,3 42,4 44,5 48,6 52"),
        Field("AFFD", 35, 35, "the access flag is not looked at"),
        Field("TBI0", 38, 38, "ignore top byte"),
        Field("TBI1", 39, 39, "ignore top byte, upper half"),
        Field("AA64", 41, 41, "AArch64 tables"),
        Field("S", 44, 44, "stall on fault"),
        Field("R", 45, 45, "record fault event"),
        Field("A", 46, 46, "abort (1) vs RAZ/WI (0) on fault"),
        Field("ASET", 47, 47, "1 = ASID private (not broadcast-invalidated), 0 = shared with CPU"),
        Field("ASID", 48, 63, "tag"),
        Field("TTB0", 68, 115, "translation base 0; IPA when nested", 4),
        Field("TTB1", 132, 179, "translation base 1", 4),
        Field("MAIR", 192, 255, "memory attributes"),
    ),
    f"{_HEADER}; arm-smmu-v3.c arm_smmu_write_ctx_desc; specification 5.4",
    "T1SZ, TG1, AFFD and TBI1 by the specification alone",
)

S1_ENTRY = Layout(
    "arm_lpae_s1_page",
    8,
    (
        Field("TYPE", 0, 1, "3 page (level 3), 1 block (levels 1,2), 3 table (non-leaf)"),
        Field("AttrIdx", 2, 4, "MAIR index"),
        Field("NS", 5, 5, "non-secure"),
        Field("AP", 6, 7, "bit6 unprivileged access, bit7 read-only"),
        Field("SH", 8, 9, "shareability"),
        Field("AF", 10, 10, "access flag"),
        Field("nG", 11, 11, "not global"),
        Field("addr", 12, 47, "output", 12),
        Field("PXN", 53, 53, "priv execute never"),
        Field("UXN", 54, 54, "unpriv execute never"),
        Field("SW_SYNC", 55, 55, "Linux sync flag"),
    ),
    _LPAE,
)

S2_ENTRY = Layout(
    "arm_lpae_s2_page",
    8,
    (
        Field("TYPE", 0, 1, "3 page"),
        Field("MemAttr", 2, 5, "stage-2 memory type (15 normal WB)"),
        Field("S2AP", 6, 7, "bit6 read, bit7 write"),
        Field("SH", 8, 9, "shareability"),
        Field("AF", 10, 10, "access flag"),
        Field("addr", 12, 47, "output", 12),
        Field("XN", 53, 54, "execute never"),
    ),
    _LPAE,
)

IDR3_REG = Layout(
    "smmu_idr3",
    4,
    (
        Field("FWB", 8, 8, "stage 2 can force write-back"),
        Field("RIL", 10, 10, "invalidations of a range of pages"),
    ),
    f"{_HEADER}; specification 6.3.4",
)

IDR5_REG = Layout(
    "smmu_idr5",
    4,
    (
        Field("OAS", 0, 2, "width of addresses: 0 32, 1 36, 2 40, 3 42, 4 44, 5 48, 6 52 bits"),
        Field("GRAN4K", 4, 4, "tables of 4 KiB"),
        Field("GRAN16K", 5, 5, "tables of 16 KiB"),
        Field("GRAN64K", 6, 6, "tables of 64 KiB"),
        Field("VAX", 10, 11, "width of virtual addresses: 0 48, 1 52 bits"),
        Field("STALL_MAX", 16, 31, "most stalled transactions at a time"),
    ),
    _HEADER,
)

CR0_REG = Layout(
    "smmu_cr0",
    4,
    (
        Field("SMMUEN", 0, 0, "translate; without it GBPA decides"),
        Field("PRIQEN", 1, 1, "the PRI queue takes page requests"),
        Field("EVTQEN", 2, 2, "the event queue takes records"),
        Field("CMDQEN", 3, 3, "commands are taken from the queue"),
        Field("ATSCHK", 4, 4, "translated requests are checked against the stream table entry"),
    ),
    _HEADER,
)

CR2_REG = Layout(
    "smmu_cr2",
    4,
    (
        Field("E2H", 0, 0, "EL2 streams have two halves"),
        Field("RECINVSID", 1, 1, "record C_BAD_STREAMID"),
        Field("PTM", 2, 2, "do not take part in broadcast invalidations"),
        Field("REC_CFG_ATS", 3, 3, "record configuration errors of ATS requests"),
    ),
    f"{_HEADER}; specification 6.3.12",
)

GBPA_REG = Layout(
    "smmu_gbpa",
    4,
    (
        Field("ABORT", 20, 20, "while SMMUEN=0: block all requests"),
        Field("UPDATE", 31, 31, "let the written value take effect"),
    ),
    _HEADER,
)

IRQ_CTRL_REG = Layout(
    "smmu_irq_ctrl",
    4,
    (
        Field("GERROR_IRQEN", 0, 0, "interrupt on a global error"),
        Field("PRIQ_IRQEN", 1, 1, "interrupt when the PRI queue has entries"),
        Field("EVTQ_IRQEN", 2, 2, "interrupt when the event queue has entries"),
    ),
    _HEADER,
)

GERROR_REG = Layout(
    "smmu_gerror",
    4,
    (
        Field("CMDQ_ERR", 0, 0, "a command failed; CMDQ_CONS.ERR says why"),
        Field("EVTQ_ABT_ERR", 2, 2, "the event queue could not be written"),
        Field("PRIQ_ABT_ERR", 3, 3, "the PRI queue could not be written"),
        Field("MSI_CMDQ_ABT_ERR", 4, 4, "the message of a CMD_SYNC could not be written"),
        Field("MSI_EVTQ_ABT_ERR", 5, 5, "the event queue's message could not be written"),
        Field("MSI_PRIQ_ABT_ERR", 6, 6, "the PRI queue's message could not be written"),
        Field("MSI_GERROR_ABT_ERR", 7, 7, "the global error's message could not be written"),
        Field("SFM_ERR", 8, 8, "service failure mode"),
    ),
    _HEADER,
    "a bit is active while it differs from the same bit of GERRORN",
)

STRTAB_BASE_REG = Layout(
    "smmu_strtab_base",
    8,
    (
        Field("ADDR", 6, 51, "stream table, or its first level", 6),
        Field("RA", 62, 62, "read-allocate hint"),
    ),
    _HEADER,
)

STRTAB_BASE_CFG_REG = Layout(
    "smmu_strtab_base_cfg",
    4,
    (
        Field("LOG2SIZE", 0, 5, "the table serves StreamIDs of this many bits"),
        Field("SPLIT", 6, 10, "two levels: the low bits that choose the entry in the second one: 6, 8 or 10"),
        Field("FMT", 16, 17, "0 linear, 1 two-level"),
    ),
    _HEADER,
)

QUEUE_BASE_REG = Layout(
    "smmu_queue_base",
    8,
    (
        Field("LOG2SIZE", 0, 4, "the queue has 2^LOG2SIZE entries"),
        Field("ADDR", 5, 51, "the ring in memory", 5),
        Field("RWA", 62, 62, "allocate hint"),
    ),
    _HEADER,
)
