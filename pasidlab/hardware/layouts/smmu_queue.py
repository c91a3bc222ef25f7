"""Arm SMMUv3: commands, event records and PRI queue entries, bit by bit.

Models what travels through the unit's three queues. Follows Linux 6.1 ``drivers/iommu/arm/arm-smmu-v3``
(arm-smmu-v3.h; arm-smmu-v3.c ``arm_smmu_cmdq_build_cmd``) and chapters 4, 7 and 8 of the specification (IHI 0070),
from which alone come CMD_TLBI_NH_ALL, CMD_TLBI_NH_VAA and CMD_STALL_TERM, the StreamID of CMD_CFGI_STE_RANGE (which the
kernel uses for all streams only), TTRnW, and the fetch address of the events that report one.
"""

from __future__ import annotations

from pasidlab.hardware.bits import Field, Layout

__all__ = [
    "CMD_ATC_INV",
    "CMD_CFGI_ALL",
    "CMD_CFGI_CD",
    "CMD_CFGI_CD_ALL",
    "CMD_CFGI_STE",
    "CMD_PREFETCH_CFG",
    "CMD_PRI_RESP",
    "CMD_RESUME",
    "CMD_STALL_TERM",
    "CMD_SYNC",
    "CMD_TLBI_NH_ALL",
    "CMD_TLBI_NH_ASID",
    "CMD_TLBI_NH_VA",
    "CMD_TLBI_NH_VAA",
    "CMD_TLBI_NSNH_ALL",
    "CMD_TLBI_S2_IPA",
    "CMD_TLBI_S12_VMALL",
    "COMMANDS",
    "EVENT",
    "EVENT_FETCH",
    "PRI_ENTRY",
]

_BUILD = "Linux 6.1 arm-smmu-v3.c arm_smmu_cmdq_build_cmd; specification, chapter 4"
_SPECIFICATION = "SMMUv3 specification, chapter 4"

CMD_PREFETCH_CFG = Layout(
    "smmu_cmd_prefetch_cfg",
    16,
    (
        Field("OP", 0, 7, "opcode 0x01"),
        Field("SID", 32, 63, "stream"),
        Field("SIZE", 64, 68, "range size"),
        Field("ADDR", 76, 127, "start", 12),
    ),
    _BUILD,
)

CMD_CFGI_STE = Layout(
    "smmu_cmd_cfgi_ste",
    16,
    (
        Field("OP", 0, 7, "opcode 0x03"),
        Field("SID", 32, 63, "stream"),
        Field("leaf", 64, 64, "only the STE, not intermediate"),
    ),
    _BUILD,
)

CMD_CFGI_ALL = Layout(
    "smmu_cmd_cfgi_all",
    16,
    (
        Field("OP", 0, 7, "opcode 0x04"),
        Field("SID", 32, 63, "first stream of the range, aligned to its size"),
        Field("range", 64, 68, "log2 stream range (31 = all)"),
    ),
    _BUILD,
)

CMD_CFGI_CD = Layout(
    "smmu_cmd_cfgi_cd",
    16,
    (
        Field("OP", 0, 7, "opcode 0x05"),
        Field("SSID", 12, 31, "substream"),
        Field("SID", 32, 63, "stream"),
        Field("leaf", 64, 64, "leaf only (not L1CD)"),
    ),
    _BUILD,
)

CMD_CFGI_CD_ALL = Layout(
    "smmu_cmd_cfgi_cd_all",
    16,
    (
        Field("OP", 0, 7, "opcode 0x06"),
        Field("SID", 32, 63, "stream"),
    ),
    _BUILD,
)

CMD_TLBI_NH_ASID = Layout(
    "smmu_cmd_tlbi_nh_asid",
    16,
    (
        Field("OP", 0, 7, "opcode 0x11"),
        Field("VMID", 32, 47, "vmid"),
        Field("ASID", 48, 63, "asid"),
    ),
    _BUILD,
)

CMD_TLBI_NH_VA = Layout(
    "smmu_cmd_tlbi_nh_va",
    16,
    (
        Field("OP", 0, 7, "opcode 0x12"),
        Field("NUM", 12, 16, "range count"),
        Field("SCALE", 20, 24, "range scale"),
        Field("VMID", 32, 47, "vmid"),
        Field("ASID", 48, 63, "asid"),
        Field("leaf", 64, 64, "leaf only"),
        Field("TTL", 72, 73, "level hint"),
        Field("TG", 74, 75, "granule (range form)"),
        Field("addr", 76, 127, "address", 12),
    ),
    _BUILD,
)

CMD_TLBI_S12_VMALL = Layout(
    "smmu_cmd_tlbi_s12_vmall",
    16,
    (
        Field("OP", 0, 7, "opcode 0x28"),
        Field("VMID", 32, 47, "vmid"),
    ),
    _BUILD,
)

CMD_TLBI_S2_IPA = Layout(
    "smmu_cmd_tlbi_s2_ipa",
    16,
    (
        Field("OP", 0, 7, "opcode 0x2a"),
        Field("NUM", 12, 16, "range"),
        Field("SCALE", 20, 24, "range"),
        Field("VMID", 32, 47, "vmid"),
        Field("leaf", 64, 64, "leaf only"),
        Field("TTL", 72, 73, "level"),
        Field("TG", 74, 75, "granule"),
        Field("IPA", 76, 115, "ipa", 12),
    ),
    _BUILD,
)

CMD_TLBI_NSNH_ALL = Layout(
    "smmu_cmd_tlbi_nsnh_all",
    16,
    (Field("OP", 0, 7, "opcode 0x30"),),
    _BUILD,
)

CMD_ATC_INV = Layout(
    "smmu_cmd_atc_inv",
    16,
    (
        Field("OP", 0, 7, "opcode 0x40"),
        Field("GLOBAL", 9, 9, "every substream (with SSV)"),
        Field("SSV", 11, 11, "SSID valid"),
        Field("SSID", 12, 31, "substream"),
        Field("SID", 32, 63, "stream"),
        Field("SIZE", 64, 69, "log2 pages (52 = all)"),
        Field("ADDR", 76, 127, "address", 12),
    ),
    _BUILD,
)

CMD_PRI_RESP = Layout(
    "smmu_cmd_pri_resp",
    16,
    (
        Field("OP", 0, 7, "opcode 0x41"),
        Field("SSV", 11, 11, "SSID valid"),
        Field("SSID", 12, 31, "substream"),
        Field("SID", 32, 63, "stream"),
        Field("GRPID", 64, 72, "page group"),
        Field("RESP", 76, 77, "0 deny, 1 failure, 2 success"),
    ),
    _BUILD,
)

CMD_RESUME = Layout(
    "smmu_cmd_resume",
    16,
    (
        Field("OP", 0, 7, "opcode 0x44"),
        Field("RESP", 12, 13, "0 terminate, 1 retry, 2 abort"),
        Field("SID", 32, 63, "stream"),
        Field("STAG", 64, 79, "stall tag"),
    ),
    _BUILD,
)

CMD_SYNC = Layout(
    "smmu_cmd_sync",
    16,
    (
        Field("OP", 0, 7, "opcode 0x46"),
        Field("CS", 12, 13, "completion signal: 0 none, 1 MSI/IRQ, 2 SEV"),
        Field("MSH", 22, 23, "msi shareability"),
        Field("MSIATTR", 24, 27, "msi attributes"),
        Field("MSIDATA", 32, 63, "msi data"),
        Field("MSIADDR", 66, 115, "msi address", 2),
    ),
    _BUILD,
)

CMD_TLBI_NH_ALL = Layout(
    "smmu_cmd_tlbi_nh_all",
    16,
    (
        Field("OP", 0, 7, "opcode 0x10"),
        Field("VMID", 32, 47, "vmid"),
    ),
    _SPECIFICATION,
)

CMD_TLBI_NH_VAA = Layout(
    "smmu_cmd_tlbi_nh_vaa",
    16,
    (
        Field("OP", 0, 7, "opcode 0x13"),
        Field("NUM", 12, 16, "range count"),
        Field("SCALE", 20, 24, "range scale"),
        Field("VMID", 32, 47, "vmid"),
        Field("leaf", 64, 64, "leaf only"),
        Field("TTL", 72, 73, "level hint"),
        Field("TG", 74, 75, "granule (range form)"),
        Field("addr", 76, 127, "address", 12),
    ),
    _SPECIFICATION,
)

CMD_STALL_TERM = Layout(
    "smmu_cmd_stall_term",
    16,
    (
        Field("OP", 0, 7, "opcode 0x45"),
        Field("SID", 32, 63, "stream"),
    ),
    _SPECIFICATION,
)

COMMANDS: tuple[tuple[int, Layout], ...] = (
    (0x01, CMD_PREFETCH_CFG),
    (0x03, CMD_CFGI_STE),
    (0x04, CMD_CFGI_ALL),
    (0x05, CMD_CFGI_CD),
    (0x06, CMD_CFGI_CD_ALL),
    (0x10, CMD_TLBI_NH_ALL),
    (0x11, CMD_TLBI_NH_ASID),
    (0x12, CMD_TLBI_NH_VA),
    (0x13, CMD_TLBI_NH_VAA),
    (0x28, CMD_TLBI_S12_VMALL),
    (0x2A, CMD_TLBI_S2_IPA),
    (0x30, CMD_TLBI_NSNH_ALL),
    (0x40, CMD_ATC_INV),
    (0x41, CMD_PRI_RESP),
    (0x44, CMD_RESUME),
    (0x45, CMD_STALL_TERM),
    (0x46, CMD_SYNC),
)
"""Opcode and layout of each command that a unit takes."""

EVENT = Layout(
    "smmu_event",
    32,
    (
        Field("ID", 0, 7, "event number"),
        Field("SSV", 11, 11, "SSID valid"),
        Field("SSID", 12, 31, "substream"),
        Field("SID", 32, 63, "stream"),
        Field("STAG", 64, 79, "stall tag"),
        Field("STALL", 95, 95, "transaction is stalled"),
        Field("PnU", 97, 97, "privileged"),
        Field("InD", 98, 98, "instruction"),
        Field("RnW", 99, 99, "read"),
        Field("S2", 103, 103, "fault in stage 2"),
        Field("CLASS", 104, 105, "0 CD fetch, 1 table walk (TT), 2 input address"),
        Field("TTRnW", 108, 108, "a table walk was refused: 1 it read, 0 it wrote"),
        Field("addr", 128, 191, "input address"),
        Field("IPA", 204, 243, "stage-2 input address", 12),
    ),
    "Linux 6.1 arm-smmu-v3.h EVTQ_*; specification 7.3; QEMU hw/arm/smmuv3-internal.h",
    "C_BAD_SUBSTREAMID keeps SSID, but its SSV means nothing",
)

EVENT_FETCH = Layout(
    "smmu_event_fetch",
    32,
    (
        Field("ID", 0, 7, "event number: F_STE_FETCH, F_CD_FETCH, F_WALK_EABT"),
        Field("SSV", 11, 11, "SSID valid"),
        Field("SSID", 12, 31, "substream"),
        Field("SID", 32, 63, "stream"),
        Field("PnU", 97, 97, "privileged"),
        Field("InD", 98, 98, "instruction"),
        Field("RnW", 99, 99, "read"),
        Field("S2", 103, 103, "fault in stage 2"),
        Field("CLASS", 104, 105, "0 CD fetch, 1 table walk (TT), 2 input address"),
        Field("addr", 128, 191, "input address"),
        Field("FetchAddr", 195, 247, "the physical address that could not be read", 3),
    ),
    "SMMUv3 specification 7.3.4, 7.3.10, 7.3.12",
)

PRI_ENTRY = Layout(
    "smmu_pri_entry",
    16,
    (
        Field("SID", 0, 31, "stream"),
        Field("SSID", 32, 51, "substream"),
        Field("Priv", 58, 58, "privileged"),
        Field("X", 59, 59, "execute"),
        Field("R", 60, 60, "read"),
        Field("W", 61, 61, "write"),
        Field("LAST", 62, 62, "last in group"),
        Field("SSV", 63, 63, "SSID valid"),
        Field("PRGI", 64, 72, "group index"),
        Field("addr", 76, 127, "page", 12),
    ),
    "Linux 6.1 arm-smmu-v3.h PRIQ_*; specification, chapter 8",
)
