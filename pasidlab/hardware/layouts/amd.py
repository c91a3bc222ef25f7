"""AMD IOMMU: device table, GCR3 table, page tables and registers, bit by bit.

Models the structures that the unit reads from memory and the registers whose fields the model uses. Follows Linux 6.1
``drivers/iommu/amd/{amd_iommu_types.h,iommu.c,io_pgtable_v2.c}`` and facts/hardware.md section 4. Fields that the facts
do not list (IOCTL to SYSMGT and IG to LINT1P of a device table entry; HASUP, HDSUP, PPRAUTORSP and MSICAPMMIO of the
features; the control and status bits that Linux does not use) are those of specification 48882 from memory:
UNVERIFIED. Left out: interrupt remapping tables, the guest virtual APIC log, segments of the device table, exclusion
ranges, performance counters, SEV-SNP.

``Layout.reserved`` is not the whole truth: which bits the unit checks says :mod:`pasidlab.hardware.iommu.amdvi.rules`.
"""

from __future__ import annotations

from pasidlab.hardware.bits import Field, Layout

__all__ = [
    "BUFFER_REG",
    "CONTROL_REG",
    "DEVICE_TABLE_REG",
    "DTE",
    "EFR",
    "EFR2",
    "GCR3_ENTRY",
    "MSI_CAPABILITY_REG",
    "RING_REG",
    "STATUS_REG",
    "V1_PTE",
    "V2_PTE",
    "gcr3_fields",
    "gcr3_root",
]

_TYPES_H = "Linux 6.1 drivers/iommu/amd/amd_iommu_types.h"
_SPEC = "specification 48882, from memory (UNVERIFIED)"

# --- tables in memory -------------------------------------------------------------------------------------------------

DTE = Layout(
    "amd_dte",
    32,
    (
        Field("V", 0, 0, "the entry is valid; without it requests pass untranslated"),
        Field("TV", 1, 1, "the translation fields are valid"),
        Field("HAD", 7, 8, "host accessed (bit 7) and dirty (bit 8) bits are set by hardware"),
        Field("Mode", 9, 11, "host (v1) levels; 0 = no host translation, 7 reserved"),
        Field("HostRoot", 12, 51, "top host table, system-physical", 12),
        Field("PPR", 52, 52, "the device may raise page requests"),
        Field("GPRP", 53, 53, "the answer to a page request carries the PASID (UNVERIFIED position)"),
        Field("GIOV", 54, 54, "requests without PASID use the guest table of PASID 0"),
        Field("GV", 55, 55, "guest (PASID) translation is valid"),
        Field("GLX", 56, 57, "levels of the GCR3 table minus 1 (3 reserved)"),
        Field("GCR3_A", 58, 60, "GCR3 root, bits 14:12"),
        Field("IR", 61, 61, "reads are allowed"),
        Field("IW", 62, 62, "writes are allowed"),
        Field("DomainID", 64, 79, "tag of cached translations"),
        Field("GCR3_B", 80, 95, "GCR3 root, bits 30:15"),
        Field("I", 96, 96, "the device may use address translation services (IOTLB)"),
        Field("SE", 97, 97, "suppress page-fault events (per entry)"),
        Field("SA", 98, 98, "suppress all page-fault events"),
        Field("IOCTL", 99, 100, "port I/O control"),
        Field("CACHE", 101, 101, "cache hint"),
        Field("SD", 102, 102, "snoop disable"),
        Field("EX", 103, 103, "the exclusion range applies"),
        Field("SYSMGT", 104, 105, "system management messages"),
        Field("GCR3_C", 107, 127, "GCR3 root, bits 51:31"),
        Field("IV", 128, 128, "the interrupt map is valid"),
        Field("INT_TABLEN", 129, 132, "interrupt table length"),
        Field("IG", 133, 133, "ignore unmapped interrupts"),
        Field("INT_ROOT", 134, 178, "interrupt table", 6),
        Field("GPTMode", 182, 183, "guest paging mode: 0 four levels, 1 five levels"),
        Field("INIT_PASS", 184, 184, "INIT passes"),
        Field("EINT_PASS", 185, 185, "external interrupts pass"),
        Field("NMI_PASS", 186, 186, "NMI passes"),
        Field("INTCTL", 188, 189, "interrupt control"),
        Field("LINT0_PASS", 190, 190, "LINT0 passes"),
        Field("LINT1_PASS", 191, 191, "LINT1 passes"),
    ),
    f"{_TYPES_H}, iommu.c set_dte_entry; Linux nested.c (103f4e7c); intel/qemu-dcp hw/i386/amd_iommu.h",
    "index = requester id",
)


def gcr3_root(words: tuple[int, ...]) -> int:
    """The GCR3 root of a device table entry, put together from its three parts.

    >>> hex(gcr3_root((0x7980_0000_0000_0003, 0xFEDC_B801_530E_1234, 0, 0)))
    '0xfedcba9876000'
    """
    return (words[0] >> 58 & 7) << 12 | (words[1] >> 16 & 0xFFFF) << 15 | (words[1] >> 43) << 31


def gcr3_fields(root: int) -> dict[str, int]:
    """A GCR3 root taken apart into the fields of a device table entry; ``ValueError`` if it does not fit.

    >>> gcr3_fields(0x8765_4000)
    {'GCR3_A': 4, 'GCR3_B': 3786, 'GCR3_C': 1}
    """
    if root & 0xFFF or not 0 <= root < 1 << 52:
        raise ValueError(f"root must be a multiple of 0x1000 and below 1 << 52, not {root:#x} (DTE.GCR3, 4.)")
    return {"GCR3_A": root >> 12 & 7, "GCR3_B": root >> 15 & 0xFFFF, "GCR3_C": root >> 31}


GCR3_ENTRY = Layout(
    "amd_gcr3_entry",
    8,
    (
        Field("V", 0, 0, "valid"),
        Field("CR3", 12, 51, "next GCR3 table, or the top guest page table of a PASID", 12),
    ),
    f"{_TYPES_H}, iommu.c __set_gcr3",
    "512 entries a table, 9 PASID bits a level",
)

V1_PTE = Layout(
    "amd_v1_pte",
    8,
    (
        Field("PR", 0, 0, "present"),
        Field("A", 5, 5, "accessed, set by hardware when DTE.HAD says so"),
        Field("D", 6, 6, "dirty, set by hardware in a leaf when DTE.HAD says so"),
        Field("NextLevel", 9, 11, "0 a page of the level's size, 7 a page whose size is coded, else the next level"),
        Field("addr", 12, 51, "next table, or page", 12),
        Field("U", 59, 59, "user"),
        Field("FC", 60, 60, "force coherent"),
        Field("IR", 61, 61, "reads are allowed"),
        Field("IW", 62, 62, "writes are allowed"),
    ),
    f"{_TYPES_H} IOMMU_PTE_*, iommu.c",
    "a coded size: the lowest zero of the address bits, from bit 12 on, is half of it",
)

V2_PTE = Layout(
    "amd_v2_pte",
    8,
    (
        Field("P", 0, 0, "present"),
        Field("RW", 1, 1, "writes are allowed"),
        Field("US", 2, 2, "user requests are allowed"),
        Field("PWT", 3, 3, "write-through hint"),
        Field("PCD", 4, 4, "cache-disable hint"),
        Field("A", 5, 5, "accessed, set by hardware"),
        Field("D", 6, 6, "dirty, set by hardware in a leaf"),
        Field("PSE", 7, 7, "this is a large page (a PAT bit in a 4 KiB leaf)"),
        Field("addr", 12, 51, "next table, or page", 12),
        Field("NX", 63, 63, "no execution"),
    ),
    "Linux 6.1 drivers/iommu/amd/io_pgtable_v2.c",
    "the CPU's own format",
)

# --- registers --------------------------------------------------------------------------------------------------------

EFR = Layout(
    "amd_efr",
    8,
    (
        Field("PREF", 0, 0, "prefetch commands"),
        Field("PPR", 1, 1, "page requests"),
        Field("XT", 2, 2, "x2APIC ids"),
        Field("NX", 3, 3, "no-execute in guest page tables"),
        Field("GT", 4, 4, "guest translation"),
        Field("IA", 6, 6, "invalidate everything by one command"),
        Field("GA", 7, 7, "guest virtual APIC"),
        Field("HE", 8, 8, "hardware error registers"),
        Field("PC", 9, 9, "performance counters"),
        Field("HATS", 10, 11, "host levels: 0 = 4, 1 = 5, 2 = 6, 3 = no host translation"),
        Field("GATS", 12, 13, "guest levels: 0 = 4, 1 = 5"),
        Field("GLX", 14, 15, "GCR3 levels: 0 = 1, 1 = 2, 2 = 3"),
        Field("GAM", 21, 23, "modes of the guest virtual APIC"),
        Field("PASmax", 32, 36, "PASID width minus 1"),
        Field("PPRAUTORSP", 41, 41, "page requests can be answered automatically when the log is full"),
        Field("MSICAPMMIO", 46, 46, "the MSI capability can be reached in MMIO space"),
        Field("GIOSUP", 48, 48, "guest translation for requests without PASID"),
        Field("HASUP", 49, 49, "sets accessed bits in host tables"),
        Field("EPHSUP", 50, 50, "enhanced page request handling"),
        Field("HDSUP", 52, 52, "sets dirty bits in host tables"),
        Field("SNP", 63, 63, "SEV-SNP"),
    ),
    f"{_TYPES_H} FEATURE_*",
    "offset 0x30",
)

EFR2 = Layout(
    "amd_efr2",
    8,
    (Field("GCR3TRP", 3, 3, "the GCR3 root of a device table entry can be guest-physical"),),
    "facts/hardware.md 4; Linux FEATURE_GCR3TRPMODE",
    "offset 0x1a0",
)

DEVICE_TABLE_REG = Layout(
    "amd_device_table_reg",
    8,
    (
        Field("Size", 0, 8, "pages of 4 KiB minus 1"),
        Field("Base", 12, 51, "where the device table is", 12),
    ),
    f"{_TYPES_H} MMIO_DEV_TABLE_OFFSET, init.c iommu_set_device_table; {_SPEC}",
    "offset 0x00",
)

BUFFER_REG = Layout(
    "amd_buffer_reg",
    8,
    (
        Field("Base", 12, 51, "where the ring is", 12),
        Field("Length", 56, 59, "the ring has 2^Length entries of 16 bytes; 8 is the least"),
    ),
    f"{_TYPES_H} MMIO_CMD_SIZE_512, EVT_LEN_MASK, PPR_LOG_SIZE_512; {_SPEC}",
    "command buffer 0x08, event log 0x10, page request log 0x38",
)

RING_REG = Layout(
    "amd_ring_reg",
    8,
    (Field("Offset", 4, 18, "bytes from the start of the ring", 4),),
    f"{_TYPES_H} MMIO_CMD_HEAD_OFFSET; qemu hw/i386/amd_iommu.h AMDVI_MMIO_CMDBUF_HEAD_MASK",
    "heads and tails, 0x2000 to 0x2038",
)

CONTROL_REG = Layout(
    "amd_control_reg",
    8,
    (
        Field("IommuEn", 0, 0, "requests are translated"),
        Field("HtTunEn", 1, 1, "HyperTransport tunnel"),
        Field("EventLogEn", 2, 2, "events are logged"),
        Field("EventIntEn", 3, 3, "the event log interrupts"),
        Field("ComWaitIntEn", 4, 4, "completion waits interrupt"),
        Field("InvTimeOut", 5, 7, "how long a device may take for an invalidation"),
        Field("PassPW", 8, 8, "pass posted writes"),
        Field("ResPassPW", 9, 9, "response passes posted writes"),
        Field("Coherent", 10, 10, "table reads snoop the caches"),
        Field("Isoc", 11, 11, "isochronous table reads"),
        Field("CmdBufEn", 12, 12, "commands are taken"),
        Field("PPRLogEn", 13, 13, "page requests are logged"),
        Field("PPRIntEn", 14, 14, "the page request log interrupts"),
        Field("PPREn", 15, 15, "page requests are taken"),
        Field("GTEn", 16, 16, "guest translation"),
        Field("GAEn", 17, 17, "guest virtual APIC"),
        Field("PPRAutoRspEn", 39, 39, "answer page requests that find no room in the log"),
        Field("EPHEn", 45, 45, "enhanced page request handling"),
        Field("XTEn", 50, 50, "x2APIC mode"),
        Field("GCR3TRPMode", 58, 58, "the GCR3 root in a device table entry is guest-physical"),
        Field("IRTCacheDis", 59, 59, "interrupt entries are not cached"),
    ),
    f"{_TYPES_H} CONTROL_*; facts/hardware.md 4 (bit 58); {_SPEC} (bit 39)",
    "offset 0x18",
)

STATUS_REG = Layout(
    "amd_status_reg",
    8,
    (
        Field("EventOverflow", 0, 0, "an event was lost; write 1 to clear"),
        Field("EventLogInt", 1, 1, "an event was logged; write 1 to clear"),
        Field("ComWaitInt", 2, 2, "a completion wait with I was done; write 1 to clear"),
        Field("EventLogRun", 3, 3, "events are being logged"),
        Field("CmdBufRun", 4, 4, "commands are being taken"),
        Field("PPROverflow", 5, 5, "a page request was lost; write 1 to clear"),
        Field("PPRInt", 6, 6, "a page request was logged; write 1 to clear"),
        Field("PPRLogRun", 7, 7, "page requests are being logged"),
    ),
    f"{_TYPES_H} MMIO_STATUS_*; qemu hw/i386/amd_iommu.h AMDVI_MMIO_STATUS_*",
    "offset 0x2020",
)

MSI_CAPABILITY_REG = Layout(
    "amd_msi_capability_reg",
    4,
    (
        Field("CapID", 0, 7, "5: message signalled interrupts"),
        Field("CapPtr", 8, 15, "next capability"),
        Field("MsiEn", 16, 16, "messages are sent"),
        Field("MultMessCap", 17, 19, "messages that the unit can use"),
        Field("MultMessEn", 20, 22, "messages that it may use"),
        Field("Msi64En", 23, 23, "addresses have 64 bits"),
    ),
    f"{_SPEC}; Linux amd_iommu_types.h MMIO_MSI_ADDR_LO_OFFSET for the registers behind it",
    "offset 0x158; address at 0x15c and 0x160, data at 0x164",
)
