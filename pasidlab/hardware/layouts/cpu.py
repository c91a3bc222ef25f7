"""What the processor uses for PASIDs: the IA32_PASID register, the ENQCMD command, VMX PASID translation tables.

Sources: Intel instruction set extensions reference (ENQCMD, ENQCMDS, IA32_PASID), Linux
``arch/x86/include/asm/msr-index.h`` and ``fpu/types.h``; for the translation tables the KVM code of the public
linux-dsa-siov tree (``arch/x86/kvm/vmx/vmx.c``).

UNVERIFIED: the text of the SDM on the two translation structures was not available. Their present and valid bits, and
that every other bit is reserved, follow that one code base.
"""

from __future__ import annotations

from pasidlab.hardware.bits import Field, Layout

__all__ = ["ENQCMD_COMMAND", "IA32_PASID_MSR", "VMX_PASID_DIR_ENTRY", "VMX_PASID_TABLE_ENTRY"]

IA32_PASID_MSR = Layout(
    "ia32_pasid_msr",
    8,
    (
        Field("PASID", 0, 19, "PASID of the running process"),
        Field("V", 31, 31, "valid: without it ENQCMD raises #GP"),
    ),
    "Linux arch/x86/include/asm/msr-index.h (MSR_IA32_PASID), asm/fpu/types.h (struct ia32_pasid_state)",
    "MSR 0xD93, saved with each thread as supervisor state component 10; bits 30:20 and 63:32 are reserved",
)

ENQCMD_COMMAND = Layout(
    "enqcmd_command",
    64,
    (
        Field("PASID", 0, 19, "ENQCMD: from IA32_PASID; ENQCMDS: from the source"),
        Field("RSVD", 20, 30, "reserved, zero"),
        Field("PRIV", 31, 31, "1 = supervisor; ENQCMD always sends 0, ENQCMDS what the source says"),
        Field("DATA", 32, 511, "bytes 4 to 63 of the source"),
    ),
    "Intel instruction set reference, ENQCMD and ENQCMDS",
    "one 64-byte non-posted write; the target answers accepted or retry",
)

VMX_PASID_DIR_ENTRY = Layout(
    "vmx_pasid_dir_entry",
    8,
    (
        Field("P", 0, 0, "present"),
        Field("TABLE", 12, 63, "host-physical address of a 4 KiB PASID table", shift=12),
    ),
    "linux-dsa-siov arch/x86/kvm/vmx/vmx.c",
    "512 entries, index guest PASID 18:10; PASID bit 19 picks the directory. UNVERIFIED: bits 11:1 reserved",
)

VMX_PASID_TABLE_ENTRY = Layout(
    "vmx_pasid_table_entry",
    4,
    (
        Field("HOST_PASID", 0, 19, "the PASID that replaces the guest's"),
        Field("V", 31, 31, "valid"),
    ),
    "linux-dsa-siov arch/x86/kvm/vmx/vmx.c",
    "1024 entries a table, index guest PASID 9:0. UNVERIFIED: bits 30:20 reserved",
)
