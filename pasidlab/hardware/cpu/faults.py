"""Exceptions of the processor: what an instruction raises instead of doing anything.

Source: Intel instruction set reference, exceptions of ENQCMD, ENQCMDS, MOVDIR64B, RDMSR and WRMSR. The operating
system decides what a #GP means: Linux loads IA32_PASID once for a thread whose process has a PASID
(``arch/x86/kernel/traps.c``) and otherwise sends SIGSEGV.
"""

from __future__ import annotations

from enum import Enum, unique

__all__ = ["GeneralProtection", "GpReason", "UndefinedInstruction"]


@unique
class GpReason(Enum):
    """Why the processor refused an instruction; the value says it in words."""

    MSR_UNKNOWN = "this processor has no such MSR"
    MSR_RESERVED = "reserved bits of IA32_PASID (30:20 and 63:32) must be zero"
    PASID_INVALID = "IA32_PASID must be valid (bit 31) before ENQCMD"
    SOURCE_RESERVED = "ENQCMD takes PASID and privilege from IA32_PASID: bits 31:0 of its source must be zero"
    SOURCE_RESERVED_SUPERVISOR = "bits 30:20 of the source of ENQCMDS must be zero"
    ALIGNMENT = "the destination must be 64-byte aligned"
    PRIVILEGE = "the instruction needs privilege level 0"
    INJECTED = "the hypervisor injected it"


class GeneralProtection(Exception):
    """#GP: the instruction changed nothing. ``reason`` names the rule that it broke.

    >>> str(GeneralProtection(GpReason.ALIGNMENT, "ENQCMD"))
    '#GP in ENQCMD: the destination must be 64-byte aligned'
    """

    def __init__(self, reason: GpReason, instruction: str) -> None:
        self.reason = reason
        self.instruction = instruction
        super().__init__(f"#GP in {instruction}: {reason.value}")


class UndefinedInstruction(Exception):
    """#UD on x86, an undefined instruction elsewhere: this processor does not have ``instruction``."""

    def __init__(self, instruction: str, why: str) -> None:
        self.instruction = instruction
        super().__init__(f"undefined instruction {instruction}: {why}")
