"""Registers, descriptors and records of the DSA-like accelerator.

Source: Linux ``drivers/dma/idxd/registers.h`` (unions of bit fields) and ``include/uapi/linux/idxd.h`` (descriptor and
completion record). Bits that these files do not name are not modelled, but for two things. An entry of interrupt
message storage is laid out as in the series that used it (``struct ims_slot`` and ``IMS_CTRL_PASID_ENABLE`` of "Add
VFIO mediated device support and DEV-MSI support for the idxd driver", 2020-21; pending and ignore as in QEMU's IDXD
code of 2023): UNVERIFIED, as no specification was read. ``HW_DESC.int_table`` is ours, see there.
"""

from __future__ import annotations

from pasidlab.hardware.bits import Field, Layout

__all__ = [
    "CMD",
    "CMDSTS",
    "COMPLETION",
    "GENCAP",
    "GENSTS",
    "HW_DESC",
    "IMS_ENTRY",
    "MSIX_ENTRY",
    "MSIX_PERM",
    "OFFSETS",
    "SWERR",
    "WQCAP",
    "WQCFG",
]

_REGISTERS = "Linux drivers/dma/idxd/registers.h"
_UAPI = "Linux include/uapi/linux/idxd.h"
_IMS = "patch series for idxd mediated devices, include/linux/irqchip/irq-ims-msi.h (struct ims_slot)"
_PCI = "Linux include/uapi/linux/pci_regs.h (PCI_MSIX_ENTRY_*)"

GENCAP = Layout(
    "dsa_gencap",
    8,
    (
        Field("block_on_fault", 0, 0, "a queue may wait for a page instead of failing"),
        Field("overlap_copy", 1, 1, "source and destination of a copy may overlap"),
        Field("cmd_cap", 4, 4, "the CMDCAP register is valid"),
        Field("max_xfer_shift", 16, 20, "log2 of the longest transfer"),
        Field("max_batch_shift", 21, 24, "log2 of the longest batch"),
        Field("max_ims_mult", 25, 30, "interrupt message storage entries, in units of 256"),
        Field("config_en", 31, 31, "software may configure queues"),
    ),
    f"{_REGISTERS} (union gen_cap_reg)",
    "BAR0 0x10",
)

WQCAP = Layout(
    "dsa_wqcap",
    8,
    (
        Field("total_wq_size", 0, 15, "entries of all queues together"),
        Field("num_wqs", 16, 23, "number of queues"),
        Field("wqcfg_size", 24, 27, "WQCFG is 2^(5 + this) bytes a queue"),
        Field("shared_mode", 48, 48, "queues can be shared"),
        Field("dedicated_mode", 49, 49, "queues can be dedicated"),
        Field("wq_ats_support", 50, 50, "ATS can be switched off for one queue"),
        Field("priority", 51, 51, "queues have priorities"),
        Field("occupancy", 52, 52, "occupancy can be read"),
        Field("op_config", 54, 54, "operations can be restricted for one queue"),
    ),
    f"{_REGISTERS} (union wq_cap_reg)",
    "BAR0 0x20",
)

OFFSETS = Layout(
    "dsa_offsets",
    16,
    (
        Field("grpcfg", 0, 15, "group configuration table"),
        Field("wqcfg", 16, 31, "work queue configuration table"),
        Field("msix_perm", 32, 47, "MSI-X permission table"),
        Field("ims", 48, 63, "interrupt message storage"),
        Field("perfmon", 64, 79, "performance monitor"),
    ),
    f"{_REGISTERS} (union offsets_reg)",
    "BAR0 0x60; each value counts units of 0x100 bytes",
)

GENSTS = Layout(
    "dsa_gensts",
    4,
    (
        Field("state", 0, 1, "0 disabled, 1 enabled, 2 draining, 3 halted"),
        Field("reset_type", 2, 3, "what is needed to leave the halted state"),
    ),
    f"{_REGISTERS} (union gensts_reg)",
    "BAR0 0x90",
)

CMD = Layout(
    "dsa_cmd",
    4,
    (
        Field("operand", 0, 19, "queue number, queue bitmap or PASID"),
        Field("cmd", 20, 24, "command"),
        Field("int_req", 31, 31, "interrupt on completion"),
    ),
    f"{_REGISTERS} (union idxd_command_reg)",
    "BAR0 0xa0",
)

CMDSTS = Layout(
    "dsa_cmdsts",
    4,
    (
        Field("err", 0, 7, "error code of the last command"),
        Field("result", 8, 23, "result of the last command"),
        Field("active", 31, 31, "a command is being carried out"),
    ),
    f"{_REGISTERS} (union cmdsts_reg)",
    "BAR0 0xa8",
)

SWERR = Layout(
    "dsa_swerr",
    32,
    (
        Field("valid", 0, 0, "the record holds an error"),
        Field("overflow", 1, 1, "further errors were lost"),
        Field("desc_valid", 2, 2, "operation and flags come from a descriptor"),
        Field("wq_idx_valid", 3, 3, "wq_idx is valid"),
        Field("batch", 4, 4, "the descriptor was part of a batch"),
        Field("fault_rw", 5, 5, "the faulting access was a write"),
        Field("priv", 6, 6, "the faulting access was privileged"),
        Field("error", 8, 15, "error code"),
        Field("wq_idx", 16, 23, "queue"),
        Field("operation", 32, 39, "opcode of the descriptor"),
        Field("pasid", 40, 59, "PASID of the access"),
        Field("batch_idx", 64, 79, "index in the batch"),
        Field("invalid_flags", 96, 127, "flags that were wrong"),
        Field("fault_addr", 128, 191, "address that faulted"),
    ),
    f"{_REGISTERS} (union sw_err_reg)",
    "BAR0 0xc0",
)

MSIX_PERM = Layout(
    "dsa_msix_perm",
    4,
    (
        Field("ignore", 2, 2, "do not check the PASID"),
        Field("pasid_en", 3, 3, "the interrupt belongs to a PASID"),
        Field("pasid", 12, 31, "PASID that may use the interrupt"),
    ),
    f"{_REGISTERS} (union msix_perm)",
    "one slot of 8 bytes a vector",
)

MSIX_ENTRY = Layout(
    "msix_entry",
    16,
    (
        Field("address", 0, 63, "where the message is written"),
        Field("data", 64, 95, "what is written: the vector"),
        Field("mask", 96, 96, "the message is held back"),
    ),
    _PCI,
    "one a vector, in the MSI-X table",
)

IMS_ENTRY = Layout(
    "dsa_ims_entry",
    16,
    (
        Field("address", 0, 63, "where the message is written"),
        Field("data", 64, 95, "what is written: the vector"),
        Field("mask", 96, 96, "the message is held back"),
        Field("pending", 97, 97, "a message is held back (read-only)"),
        Field("ignore", 98, 98, "do not check the PASID"),
        Field("pasid_en", 99, 99, "the interrupt belongs to a PASID"),
        Field("pasid", 108, 127, "PASID that may use the interrupt"),
    ),
    _IMS,
    "interrupt message storage, BAR0 OFFSETS.ims * 0x100; message and permission in one entry",
)

WQCFG = Layout(
    "dsa_wqcfg",
    32,
    (
        Field("wq_size", 0, 15, "entries"),
        Field("wq_thresh", 32, 47, "entries that the limited portal of a shared queue may fill"),
        Field("mode", 64, 64, "1 dedicated, 0 shared"),
        Field("bof", 65, 65, "descriptors may ask to block on a page fault"),
        Field("ats_disable", 66, 66, "do not use ATS"),
        Field("priority", 68, 71, "1 to 15"),
        Field("pasid", 72, 91, "PASID of a dedicated queue's DMA"),
        Field("pasid_en", 92, 92, "DMA carries a PASID"),
        Field("priv", 93, 93, "a dedicated queue's DMA is privileged"),
        Field("max_xfer_shift", 96, 100, "log2 of the longest transfer"),
        Field("max_batch_shift", 101, 104, "log2 of the longest batch"),
        Field("occupancy_inth", 128, 143, "interrupt handle for the occupancy limit"),
        Field("occupancy_table_sel", 144, 144, "which interrupt table the handle names"),
        Field("occupancy_limit", 160, 175, "interrupt when occupancy falls to this"),
        Field("occupancy_int_en", 176, 176, "occupancy interrupt enable"),
        Field("occupancy", 192, 207, "entries in use (read-only)"),
        Field("occupancy_int", 208, 208, "occupancy interrupt pending"),
        Field("mode_support", 221, 221, "modes this queue offers (read-only)"),
        Field("wq_state", 222, 223, "0 disabled, 1 enabled (read-only)"),
    ),
    f"{_REGISTERS} (union wqcfg)",
    "BAR0 OFFSETS.wqcfg * 0x100 + queue * 32",
)

HW_DESC = Layout(
    "dsa_hw_desc",
    64,
    (
        Field("pasid", 0, 19, "shared queues: whose address space; dedicated queues use WQCFG"),
        Field("rsvd", 20, 30, "reserved, zero"),
        Field("priv", 31, 31, "shared queues: privileged DMA"),
        Field("flags", 32, 55, "BOF 0x2, CRAV 0x4 (completion address valid), RCR 0x8 (write a record), ..."),
        Field("opcode", 56, 63, "operation"),
        Field("completion_addr", 64, 127, "where the completion record goes (32-byte aligned)"),
        Field("src", 128, 191, "source address, or the pattern of a fill"),
        Field("dst", 192, 255, "destination, second source of a compare, or pattern to compare with"),
        Field("size", 256, 287, "bytes (descriptors, for a batch)"),
        Field("int_handle", 288, 303, "interrupt to raise at completion"),
        Field("int_table", 304, 304, "which table the handle names: 1 interrupt message storage (set by the portal)"),
        Field("op_specific", 320, 511, "further operands"),
    ),
    f"{_UAPI} (struct dsa_hw_desc)",
)

COMPLETION = Layout(
    "dsa_completion",
    32,
    (
        Field("status", 0, 6, "completion status"),
        Field("write", 7, 7, "the access that faulted was a write"),
        Field("result", 8, 15, "result of a compare (1: different), direction of a copy (1: from the end)"),
        Field("bytes_completed", 32, 63, "bytes done before a fault or a difference"),
        Field("fault_addr", 64, 127, "address that faulted"),
        Field("op_specific", 128, 255, "further results"),
    ),
    f"{_UAPI} (struct dsa_completion_record)",
)
