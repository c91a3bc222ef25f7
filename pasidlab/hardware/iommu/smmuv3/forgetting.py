"""What each invalidation command drops from the caches.

Models the scopes of chapters 4.3 and 4.4 of the specification (IHI 0070). CFGI_STE takes every context descriptor of
its stream along, whatever Leaf says; Leaf=1 spares the descriptors of the first level. TLBI commands go by VMID, which
a unit without stage 2 does not have (it counts as 0), and by ASID; TLBI_S2_IPA touches lines of stage 2 alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pasidlab.hardware.iommu.smmuv3.caches import SmmuCaches
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.iommu.smmuv3.invalidation import Command
from pasidlab.hardware.layouts.smmu_queue import (
    CMD_CFGI_ALL,
    CMD_CFGI_CD,
    CMD_CFGI_CD_ALL,
    CMD_CFGI_STE,
    CMD_TLBI_NH_ALL,
    CMD_TLBI_NH_ASID,
    CMD_TLBI_NH_VA,
    CMD_TLBI_NH_VAA,
    CMD_TLBI_NSNH_ALL,
    CMD_TLBI_S2_IPA,
    CMD_TLBI_S12_VMALL,
)

__all__ = ["forget"]

_ALL_STREAMS: Final = 31
_Fields = dict[str, int]


def forget(caches: SmmuCaches, command: Command, identity: SmmuIdentity, split: int) -> None:
    """Carry out a CFGI or TLBI command; ``split`` is that of the stream table.

    >>> from pasidlab.hardware.iommu.smmuv3.caches import Translation
    >>> from pasidlab.hardware.iommu.smmuv3.invalidation import decode_command
    >>> from pasidlab.timeline import Timeline
    >>> caches = SmmuCaches(Timeline(), "caches")
    >>> caches.tlb[0, 5, 7] = caches.tlb[0, 6, 7] = Translation(0x1000, 0o33, 12, 12)
    >>> forget(caches, decode_command(CMD_TLBI_NH_ASID.encode(OP=0x11, ASID=5)), SmmuIdentity(), 8)
    >>> caches.tlb.keys()
    [(0, 6, 7)]
    """
    at = command.fields()
    if "VMID" in at and not identity.s2p:
        at["VMID"] = 0
    name = command.layout.name
    if name in _CONFIGURATION:
        _CONFIGURATION[name](caches, at, split)
    elif name in _SCOPES:
        _SCOPES[name](caches, at)
    else:
        _PAGES[name](caches, at, *command.pages(identity))


def _streams(caches: SmmuCaches, at: _Fields, split: int) -> None:
    if at["range"] == _ALL_STREAMS:
        caches.forget_streams(0, 1 << 32, split=split)
    else:
        size = 2 << at["range"]
        caches.forget_streams(at["SID"] & -size, size, split=split)


_CONFIGURATION: Final[dict[str, Callable[[SmmuCaches, _Fields, int], None]]] = {
    CMD_CFGI_STE.name: lambda caches, at, split: caches.forget_streams(
        at["SID"], 1, split=split, tables=not at["leaf"]
    ),
    CMD_CFGI_ALL.name: _streams,
    CMD_CFGI_CD.name: lambda caches, at, split: caches.forget_context(at["SID"], at["SSID"], tables=not at["leaf"]),
    CMD_CFGI_CD_ALL.name: lambda caches, at, split: caches.forget_contexts(at["SID"]),
}
_SCOPES: Final[dict[str, Callable[[SmmuCaches, _Fields], None]]] = {
    CMD_TLBI_NSNH_ALL.name: lambda caches, at: caches.forget_everything(),
    CMD_TLBI_S12_VMALL.name: lambda caches, at: caches.forget_machine(at["VMID"], stage2=True),
    CMD_TLBI_NH_ALL.name: lambda caches, at: caches.forget_machine(at["VMID"], stage2=False),
    CMD_TLBI_NH_ASID.name: lambda caches, at: caches.forget_space(at["VMID"], at["ASID"]),
}
_PAGES: Final[dict[str, Callable[[SmmuCaches, _Fields, int, int], None]]] = {
    CMD_TLBI_NH_VA.name: lambda caches, at, start, size: caches.forget_pages(at["VMID"], at["ASID"], start, size),
    CMD_TLBI_NH_VAA.name: lambda caches, at, start, size: caches.forget_pages(at["VMID"], None, start, size),
    CMD_TLBI_S2_IPA.name: lambda caches, at, start, size: caches.forget_intermediate(at["VMID"], start, size),
}
