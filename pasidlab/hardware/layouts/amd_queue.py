"""AMD IOMMU: commands, event log and page request log, bit by bit.

Models what travels through the three rings of the unit; all entries have 16 bytes. Follows Linux 6.1
``drivers/iommu/amd/{amd_iommu_types.h,iommu.c}`` (build_*, iommu_print_event, PPR_*) and facts/hardware.md 4.1 and 4.2.
UNVERIFIED: where PASID bits 19:16 stand in INVALIDATE_IOTLB_PAGES (Linux sends 16 bits); the F bit of COMPLETION_WAIT
and the whole of INVALIDATE_INTERRUPT_TABLE and PREFETCH_IOMMU_PAGES are the specification's, from memory.
"""

from __future__ import annotations

from pasidlab.hardware.bits import Field, Layout

__all__ = [
    "CMD_COMPLETE_PPR",
    "CMD_COMPLETION_WAIT",
    "CMD_INV_ALL",
    "CMD_INV_DEVTAB",
    "CMD_INV_IOMMU_PAGES",
    "CMD_INV_IOTLB_PAGES",
    "CMD_INV_IRT",
    "CMD_PREFETCH",
    "COMMANDS",
    "EVENT",
    "PPR_ENTRY",
]

_CMD = "Linux 6.1 drivers/iommu/amd/iommu.c build_*"
_SPEC = "specification 48882, from memory (UNVERIFIED)"


def _opcode(code: int) -> Field:
    return Field("OPCODE", 60, 63, f"command, {code} here")


CMD_COMPLETION_WAIT = Layout(
    "amd_cmd_completion_wait",
    16,
    (
        Field("S", 0, 0, "write STORE_DATA to STORE_ADDR"),
        Field("I", 1, 1, "raise the completion interrupt"),
        Field("F", 2, 2, "later commands wait for this one"),
        Field("STORE_ADDR", 3, 51, "where it is written", 3),
        _opcode(1),
        Field("STORE_DATA", 64, 127, "value that says: done"),
    ),
    f"{_CMD}; F: {_SPEC}",
)

CMD_INV_DEVTAB = Layout(
    "amd_cmd_inv_devtab",
    16,
    (Field("devid", 0, 15, "requester id"), _opcode(2)),
    _CMD,
)

CMD_INV_IOMMU_PAGES = Layout(
    "amd_cmd_inv_iommu_pages",
    16,
    (
        Field("PASID", 0, 19, "PASID (GN=1)"),
        Field("domid", 32, 47, "domain id"),
        _opcode(3),
        Field("S", 64, 64, "the range is encoded in the low ones of addr"),
        Field("PDE", 65, 65, "entries that name tables too"),
        Field("GN", 66, 66, "guest translations of a PASID"),
        Field("addr", 76, 127, "page, with the range", 12),
    ),
    _CMD,
)

CMD_INV_IOTLB_PAGES = Layout(
    "amd_cmd_inv_iotlb_pages",
    16,
    (
        Field("devid", 0, 15, "requester id"),
        Field("PASID_HI", 16, 23, "PASID bits 15:8 (GN=1)"),
        Field("qdep", 24, 31, "most invalidations in flight"),
        Field("queueid", 32, 47, "invalidation queue of the device: its requester id"),
        Field("PASID_LO", 48, 55, "PASID bits 7:0 (GN=1)"),
        _opcode(4),
        Field("S", 64, 64, "the range is encoded in the low ones of addr"),
        Field("GN", 66, 66, "translations of a PASID"),
        Field("addr", 76, 127, "page, with the range", 12),
    ),
    _CMD,
    "UNVERIFIED: position of PASID bits 19:16",
)

CMD_INV_IRT = Layout(
    "amd_cmd_inv_irt",
    16,
    (Field("devid", 0, 15, "requester id"), _opcode(5)),
    "Linux 6.1 drivers/iommu/amd/iommu.c build_inv_irt",
)

CMD_PREFETCH = Layout(
    "amd_cmd_prefetch",
    16,
    (
        Field("devid", 0, 15, "requester id"),
        Field("PASID_HI", 16, 23, "PASID bits 15:8 (GN=1)"),
        Field("PFCount", 24, 31, "pages minus 1"),
        Field("PASID_LO", 32, 39, "PASID bits 7:0 (GN=1)"),
        _opcode(6),
        Field("S", 64, 64, "the range is encoded in the low ones of addr"),
        Field("GN", 66, 66, "translations of a PASID"),
        Field("INVAL", 68, 68, "forget first"),
        Field("addr", 76, 127, "page", 12),
    ),
    _SPEC,
    "a hint",
)

CMD_COMPLETE_PPR = Layout(
    "amd_cmd_complete_ppr",
    16,
    (
        Field("devid", 0, 15, "requester id"),
        Field("PASID", 32, 51, "PASID (GN=1)"),
        _opcode(7),
        Field("GN", 66, 66, "the request carried a PASID"),
        Field("tag", 96, 104, "page request group"),
        Field("status", 108, 111, "0 success, 1 invalid request, 15 failure"),
    ),
    _CMD,
)

CMD_INV_ALL = Layout("amd_cmd_inv_all", 16, (_opcode(8),), _CMD)

COMMANDS: tuple[tuple[int, Layout, str], ...] = (
    (1, CMD_COMPLETION_WAIT, "COMPLETION_WAIT"),
    (2, CMD_INV_DEVTAB, "INVALIDATE_DEVTAB_ENTRY"),
    (3, CMD_INV_IOMMU_PAGES, "INVALIDATE_IOMMU_PAGES"),
    (4, CMD_INV_IOTLB_PAGES, "INVALIDATE_IOTLB_PAGES"),
    (5, CMD_INV_IRT, "INVALIDATE_INTERRUPT_TABLE"),
    (6, CMD_PREFETCH, "PREFETCH_IOMMU_PAGES"),
    (7, CMD_COMPLETE_PPR, "COMPLETE_PPR_REQUEST"),
    (8, CMD_INV_ALL, "INVALIDATE_IOMMU_ALL"),
)
"""Opcode, layout and name of each command."""

EVENT = Layout(
    "amd_event_generic",
    16,
    (
        Field("devid", 0, 15, "requester id"),
        Field("PASID_HI", 16, 19, "PASID bits 19:16"),
        Field("PASID_LO", 32, 47, "PASID bits 15:0, or domain id"),
        Field("FLAGS", 48, 59, "what kind of request, and what was wrong"),
        Field("TYPE", 60, 63, "event code"),
        Field("addr", 64, 127, "address"),
    ),
    "Linux 6.1 drivers/iommu/amd/iommu.c iommu_print_event",
)

PPR_ENTRY = Layout(
    "amd_ppr_entry",
    16,
    (
        Field("devid", 0, 15, "requester id"),
        Field("PASID_LO", 16, 31, "PASID bits 15:0"),
        Field("tag", 32, 41, "page request group; bit 9: the last of its group"),
        Field("PASID_HI", 42, 45, "PASID bits 19:16"),
        Field("FLAGS", 48, 59, "what is asked for"),
        Field("TYPE", 60, 63, "1 is a page request"),
        Field("addr", 64, 127, "address"),
    ),
    "Linux 6.1 drivers/iommu/amd/amd_iommu_types.h PPR_*; ppr.c PPR_TAG_LAST_PAGE",
    "INVALID_PPR_REQUEST in the event log has the same fields",
)
