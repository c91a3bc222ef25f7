"""The words that the driver writes: stream table entries and context descriptors, and what they say.

Models ``arm_smmu_write_strtab_ent``, ``arm_smmu_write_ctx_desc`` and ``arm_smmu_alloc_shared_cd`` of Linux 6.1. The
stream table entry of a device that its own kernel drives names its table of context descriptors, and lets requests
without SubstreamID bypass stage 1 (S1DSS=1). Linux 6.1 has none such; later kernels (``arm_smmu_make_cdtable_ste``,
6.11) have it for devices whose own domain is the identity, once a process is bound. ATS works in it too (specification,
13.6.4), which it does not with a bypass entry.

UNVERIFIED: MAIR is a register of the processor, which this model lacks; the value is the one of the golden vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.layouts.smmu import CD, STE

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.domain import SecondLevel
    from pasidlab.kernel.iommu.smmuv3.capabilities import Capabilities

__all__ = [
    "BYPASS_STAGE_1",
    "CONFIG_NESTED",
    "CONFIG_STAGE_1",
    "ContextTable",
    "StreamSide",
    "abort",
    "asid_of",
    "bypass",
    "is_live",
    "meaning_of",
    "process_context",
    "quiet_context",
    "second_stage",
    "stage_1",
]

CONFIG_ABORT: Final = 0
CONFIG_BYPASS: Final = 4
CONFIG_STAGE_1: Final = 5
CONFIG_STAGE_2: Final = 6
CONFIG_NESTED: Final = 7
BYPASS_STAGE_1: Final = 1
"""S1DSS: requests without SubstreamID bypass stage 1."""
_INCOMING: Final = 1
"""SHCFG: shareability as the transaction says."""
_WRITE_BACK: Final = 1
_INNER: Final = 3
_SELECTS_4K: Final = 0
_LEVELS_BEFORE: Final = 2
"""S2SL0 with tables of 4 KiB is the number of levels less 2."""
_MAIR: Final = 0x0C04_00BB_0000_FF44
_VIRTUAL_BITS: Final = 48
_MEANINGS: Final = {
    CONFIG_ABORT: "abort",
    CONFIG_BYPASS: "bypass",
    CONFIG_STAGE_1: "stage 1, pass-through without PASID",
    CONFIG_STAGE_2: "stage 2",
    CONFIG_NESTED: "stage 1 of a guest over stage 2",
}


class ContextTable(NamedTuple):
    """A table of context descriptors: its S1Fmt, where it begins, log2 of how many there are."""

    form: int
    base: int
    bits: int


class StreamSide(NamedTuple):
    """What of a stream table entry depends on the device: full ATS, and that it is never held (S1STALLD)."""

    ats: bool = False
    never_held: bool = False


# --- stream table entries ---------------------------------------------------------------------------------------------


def abort() -> tuple[int, ...]:
    """Block everything, without a record.

    >>> [hex(word) for word in abort()[:2]]
    ['0x1', '0x100000000000']
    """
    return STE.encode(V=1, Config=CONFIG_ABORT, SHCFG=_INCOMING)


def bypass() -> tuple[int, ...]:
    """Let everything pass as it is: a device that can send no PASID."""
    return STE.encode(V=1, Config=CONFIG_BYPASS, SHCFG=_INCOMING)


def stage_1(table: ContextTable, side: StreamSide, *, without: int = BYPASS_STAGE_1) -> tuple[int, ...]:
    """Translate by the context descriptor that the SubstreamID chooses; ``without`` is S1DSS."""
    return STE.encode(
        V=1,
        Config=CONFIG_STAGE_1,
        S1Fmt=table.form,
        S1ContextPtr=table.base,
        S1CDMax=table.bits,
        S1DSS=without,
        S1CIR=_WRITE_BACK,
        S1COR=_WRITE_BACK,
        S1CSH=_INNER,
        S1STALLD=int(side.never_held),
        EATS=int(side.ats),
    )


def second_stage(table: SecondLevel, vmid: int, unit: Capabilities, *, ats: bool = False) -> tuple[int, ...]:
    """Translate intermediate (guest-physical) to physical addresses, and nothing else: a VM's device."""
    return STE.encode(
        V=1,
        Config=CONFIG_STAGE_2,
        EATS=int(ats),
        S2VMID=vmid,
        S2T0SZ=64 - unit.second_bits,
        S2SL0=table.levels - _LEVELS_BEFORE,
        S2IR0=_WRITE_BACK,
        S2OR0=_WRITE_BACK,
        S2SH0=_INNER,
        S2TG=_SELECTS_4K,
        S2PS=unit.output_code,
        S2AA64=1,
        S2PTW=1,
        S2R=1,
        S2TTB=table.root,
    )


def meaning_of(words: tuple[int, ...]) -> str:
    """What a stream table entry does, in words."""
    if not STE["V"].get(words):
        return "not valid"
    return _MEANINGS.get(STE["Config"].get(words), "reserved")


# --- context descriptors ----------------------------------------------------------------------------------------------


def process_context(root: int, asid: int, unit: Capabilities, *, stalls: bool = False) -> tuple[int, ...]:
    """Translate by a process's page table, whose ASID is ``asid``; with ``stalls`` what faults is held.

    The upper half of the address space, where no process has memory, is off (EPD1).
    """
    return CD.encode(
        V=1,
        T0SZ=64 - _VIRTUAL_BITS,
        TG0=_SELECTS_4K,
        IRGN0=_WRITE_BACK,
        ORGN0=_WRITE_BACK,
        SH0=_INNER,
        EPD1=1,
        IPS=unit.output_code,
        AA64=1,
        S=int(stalls),
        R=1,
        A=1,
        ASID=asid,
        TTB0=root,
        MAIR=_MAIR,
    )


def quiet_context(words: tuple[int, ...], *, forced: bool) -> tuple[int, ...]:
    """The descriptor of a process that is going: walks are off, so that everything faults; no table, no ASID.

    Nothing is recorded or held any more (as in Linux 6.10; 6.1 went on recording), unless the unit holds all that
    faults.
    """
    silent = {} if forced else {"R": 0, "S": 0}
    return CD.change(words, EPD0=1, ASID=0, TTB0=0, **silent)


def is_live(words: tuple[int, ...]) -> bool:
    """Whether a context descriptor translates: it is valid, and not a quiet one."""
    return bool(CD["V"].get(words)) and not CD["EPD0"].get(words)


def asid_of(words: tuple[int, ...]) -> int:
    """The ASID that tags a descriptor's translations."""
    return CD["ASID"].get(words)
