"""PCI Express structures that carry or govern PASIDs: the TLP prefix, and the PASID, ATS and PRI capabilities.

Sources: Linux ``include/uapi/linux/pci_regs.h`` for the capabilities, the PCIe 6 base specification for the prefix.
"""

from __future__ import annotations

from pasidlab.hardware.bits import Field, Layout

__all__ = ["ATS_CAP", "PASID_CAP", "PASID_TLP_PREFIX", "PRI_CAP"]

_PCI_REGS = "Linux include/uapi/linux/pci_regs.h"


def _header(capability: str) -> tuple[Field, ...]:
    """The dword that opens every extended capability."""
    return (
        Field("ID", 0, 15, f"extended capability ID, {capability}"),
        Field("VER", 16, 19, "capability version"),
        Field("NEXT", 20, 31, "offset of the next capability"),
    )


PASID_TLP_PREFIX = Layout(
    "pcie_pasid_tlp_prefix",
    4,
    (
        Field("PASID", 0, 19, "process address space ID"),
        Field("Execute", 20, 20, "execute requested"),
        Field("PMR", 21, 21, "privileged mode requested"),
        Field("TYPE", 24, 31, "0x91: format 100b, end-to-end prefix type 10001b"),
    ),
    "PCIe 6 base specification, end-to-end TLP prefixes",
    "bits 23:22 are reserved; flit mode carries the same values in a header extension instead",
)

PASID_CAP = Layout(
    "pcie_pasid_cap",
    8,
    (
        *_header("0x001B"),
        Field("EXEC", 33, 33, "execute permission supported"),
        Field("PRIV", 34, 34, "privileged mode supported"),
        Field("WIDTH", 40, 44, "PASIDs have at most this many bits"),
        Field("EN", 48, 48, "PASID enable"),
        Field("EXEC_EN", 49, 49, "execute permission enable"),
        Field("PRIV_EN", 50, 50, "privileged mode enable"),
    ),
    _PCI_REGS,
)

ATS_CAP = Layout(
    "pcie_ats_cap",
    8,
    (
        *_header("0x000F"),
        Field("QDEP", 32, 36, "invalidate queue depth (0 means 32)"),
        Field("PA", 37, 37, "all requests are page-aligned"),
        Field("GINV", 38, 38, "global invalidate supported (UNVERIFIED)"),
        Field("STU", 48, 52, "smallest translation unit"),
        Field("EN", 63, 63, "ATS enable"),
    ),
    _PCI_REGS,
)

PRI_CAP = Layout(
    "pcie_pri_cap",
    16,
    (
        *_header("0x0013"),
        Field("EN", 32, 32, "page requests enable"),
        Field("RESET", 33, 33, "reset the interface"),
        Field("RF", 48, 48, "response failure received"),
        Field("UPRGI", 49, 49, "response with an unexpected page request group index"),
        Field("STOPPED", 56, 56, "stopped: nothing outstanding"),
        Field("PASID_REQ", 63, 63, "responses must carry the PASID"),
        Field("MAX", 64, 95, "page requests that can be outstanding"),
        Field("ALLOC", 96, 127, "page requests that may be outstanding"),
    ),
    _PCI_REGS,
)
