"""What differs between the processors of the three machines: page tables, and whether there is an enqueue instruction.

Source: the Intel instruction set reference is where ENQCMD, ENQCMDS and IA32_PASID are documented. UNVERIFIED: that no
AMD and no Arm processor of the modelled generation has them (no note here names one), and that these submit to a
dedicated queue by MOVDIR64B (AMD) and by the 64-byte single-copy atomic store ST64B (Arm, FEAT_LS64), which behave
alike as far as a device can see.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pasidlab.hardware.paging import ARM_STAGE_1, X86, PagingFormat

__all__ = ["AMD64", "ARM64", "INTEL64", "Architecture"]


class Architecture(NamedTuple):
    """One processor architecture. ``paging``: the format of its page tables, which its IOMMU shares.

    ``enqueues``: it has ENQCMD and IA32_PASID, so that shared work queues can be used, and PASID translation in VMX.
    ``store``: the name of its posted 64-byte store, by which dedicated work queues are used.
    """

    name: str
    paging: PagingFormat
    enqueues: bool
    store: str

    @property
    def why_no_enqueue(self) -> str:
        """Why a shared queue cannot be used, and where to read it."""
        return (
            f"{self.name} has no ENQCMD: the instruction and its MSR IA32_PASID are Intel's (Intel SDM volume 2; "
            "docs/iommus.md), so that only dedicated queues can be used here"
        )


INTEL64: Final = Architecture("Intel 64", X86, enqueues=True, store="MOVDIR64B")
AMD64: Final = Architecture("AMD64", X86, enqueues=False, store="MOVDIR64B")
ARM64: Final = Architecture("AArch64", ARM_STAGE_1, enqueues=False, store="ST64B")
