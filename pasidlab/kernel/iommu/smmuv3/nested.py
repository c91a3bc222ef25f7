"""A guest's whole table over its VM's stage 2: what of its entry and of its commands the kernel takes, and what not.

Models ``arm_smmu_validate_vste``, ``arm_smmu_make_nested_domain_ste`` and ``arm_vsmmu_convert_user_cmd`` of Linux
(arm-smmu-v3-iommufd.c, 6.13). From the guest's stream table entry come its table of context descriptors (an
intermediate physical address), S1DSS, cacheability, S1STALLD and whether it uses ATS. Stage 2, VMID and everything else
are the host's. A guest's command is carried out for its own VMID and devices only; what is not an invalidation of stage
1, of context descriptors or of a device's TLB is refused.

Linux refuses with ``-EIO``; the contract of this model says ``-EINVAL`` for it. A device that is never held on the host
(S1STALLD) is not held for the guest either, whatever that writes (our choice; Linux takes the guest's bit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.layouts.smmu import STE
from pasidlab.hardware.layouts.smmu_queue import (
    CMD_ATC_INV,
    CMD_CFGI_CD,
    CMD_CFGI_CD_ALL,
    CMD_TLBI_NH_ALL,
    CMD_TLBI_NH_ASID,
    CMD_TLBI_NH_VA,
    CMD_TLBI_NH_VAA,
    CMD_TLBI_NSNH_ALL,
    COMMANDS,
)
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.iommu.smmuv3 import entries
from pasidlab.kernel.iommu.smmuv3.queue import Words, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pasidlab.kernel.iommu.domain import Domain
    from pasidlab.kernel.iommu.smmuv3.driver import SmmuDriver

__all__ = ["command_of_host", "device_of", "stream_entry"]

_TABLE: Final = ("S1Fmt", "S1ContextPtr", "S1CDMax", "S1DSS", "S1CIR", "S1COR", "S1CSH")
"""What the kernel takes from a guest's entry as it is."""
_ALLOWED: Final = sum(STE[name].mask for name in ("V", "Config", *_TABLE, "S1STALLD", "EATS"))
_WORD: Final = (1 << 64) - 1
_TWO_WORDS: Final = (1 << 128) - 1
_EATS: Final = (0, 1)
_LAYOUTS: Final = dict(COMMANDS)
_BY_VMID: Final = (CMD_TLBI_NH_ALL, CMD_TLBI_NH_ASID, CMD_TLBI_NH_VA, CMD_TLBI_NH_VAA)
_BY_DEVICE: Final = (CMD_ATC_INV, CMD_CFGI_CD, CMD_CFGI_CD_ALL)


# --- the stream table entry -------------------------------------------------------------------------------------------


def stream_entry(driver: SmmuDriver, domain: Domain, rid: int, guest: Words) -> tuple[Words, bool]:
    """The words that the host writes for what a guest wrote, and whether the device uses ATS then.

    Errors: ``-EOPNOTSUPP`` the unit does not nest, ``-EINVAL`` a bit is set that a guest may not decide, another Config
    than abort, bypass or stage 1, another EATS than none or full, or more context descriptors than the device has
    PASIDs.
    """
    if not (driver.nesting and domain.nesting):
        raise KernelError("EOPNOTSUPP", "the SMMU must have both stages, and the domain must allow nesting")
    at = STE.decode(guest)
    if not at["V"]:
        return entries.abort(), True
    strange = STE.join(guest) & _TWO_WORDS & ~_ALLOWED
    if strange:
        raise KernelError("EINVAL", f"a guest's stream table entry must not set the bits {strange:#x}")
    if at["Config"] not in (entries.CONFIG_ABORT, entries.CONFIG_BYPASS, entries.CONFIG_STAGE_1):
        raise KernelError("EINVAL", f"Config of a guest's stream table entry must be 0, 4 or 5, not {at['Config']}")
    if at["EATS"] not in _EATS:
        raise KernelError("EINVAL", f"EATS of a guest's stream table entry must be 0 or 1, not {at['EATS']}")
    if at["Config"] == entries.CONFIG_ABORT:
        return entries.abort(), True
    second = driver.second_stage(domain, rid)
    if at["Config"] == entries.CONFIG_BYPASS:
        return second, True
    return _nested(driver, rid, at, second), bool(at["EATS"])


def _nested(driver: SmmuDriver, rid: int, at: dict[str, int], second: Words) -> Words:
    """The guest's stage 1 over the host's stage 2."""
    most = driver.unit.substream_bits
    if at["S1CDMax"] > most:
        raise KernelError("EINVAL", f"S1CDMax must be at most {most}, as wide as SubstreamIDs, not {at['S1CDMax']}")
    side = driver.side(rid, ats=bool(at["EATS"]))
    optional = driver.unit.stalls and not driver.unit.forced
    never_held = side.never_held or (optional and bool(at["S1STALLD"]))
    taken = {name: at[name] for name in _TABLE}
    return STE.change(second, Config=entries.CONFIG_NESTED, EATS=int(side.ats), S1STALLD=int(never_held), **taken)


# --- commands ---------------------------------------------------------------------------------------------------------


def command_of_host(domain: Domain, command: Words, devices: Mapping[int, int]) -> Words:
    """A guest's command as the host carries it out; ``-EINVAL`` one that a guest may not give, or a device not its own.

    "All translations" of the guest are those of its VMID. Bits that belong to no field are dropped.
    """
    layout = _LAYOUTS.get(command[0] & 0xFF)
    if layout is CMD_TLBI_NSNH_ALL:
        return encode(CMD_TLBI_NH_ALL, VMID=domain.did)
    if layout is None or layout not in (*_BY_VMID, *_BY_DEVICE):
        name = f"opcode {command[0] & 0xFF:#04x}" if layout is None else layout.name
        raise KernelError("EINVAL", f"a command of a guest must be an invalidation of its own stage 1, not {name}")
    fields = {name: value for name, value in layout.decode(command).items() if name != "OP"}
    if layout in _BY_VMID:
        return encode(layout, **{**fields, "VMID": domain.did})
    rid = devices.get(fields["SID"])
    if rid is None or rid not in domain.rids:
        raise KernelError("EINVAL", f"{domain.name} must have a device {format_rid(fields['SID'] & 0xFFFF)}")
    return encode(layout, **{**fields, "SID": rid})


def device_of(words: Words) -> int | None:
    """The device whose TLB a command empties, if it does that."""
    return CMD_ATC_INV["SID"].get(words) if words[0] & 0xFF == _ATC_INV else None


_ATC_INV: Final = next(opcode for opcode, layout in COMMANDS if layout is CMD_ATC_INV)
