"""The processor: IA32_PASID, the 64-byte enqueue and store instructions, and PASID translation for guests."""

from pasidlab.hardware.cpu.faults import GeneralProtection, GpReason
from pasidlab.hardware.cpu.local_apic import INTERRUPT_BASE, InterruptHandler, LocalApic
from pasidlab.hardware.cpu.pasid_translation import (
    PasidFailure,
    PasidIndex,
    PasidTranslation,
    split_pasid,
    translate_pasid,
)
from pasidlab.hardware.cpu.processor import IA32_PASID, Cpu
from pasidlab.hardware.cpu.vmcs import PASID_TRANSLATION, ExitReason, Resume, Vmcs, VmcsField, VmEntryBlocked, VmxHost

__all__ = [
    "IA32_PASID",
    "INTERRUPT_BASE",
    "PASID_TRANSLATION",
    "Cpu",
    "ExitReason",
    "GeneralProtection",
    "GpReason",
    "InterruptHandler",
    "LocalApic",
    "PasidFailure",
    "PasidIndex",
    "PasidTranslation",
    "Resume",
    "VmEntryBlocked",
    "Vmcs",
    "VmcsField",
    "VmxHost",
    "split_pasid",
    "translate_pasid",
]
