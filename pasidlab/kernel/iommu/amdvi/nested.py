"""A guest's whole GCR3 table over its VM's memory: the refusals, then the words of the host's device table entry.

Models ``validate_gdte_nested`` and ``set_dte_nested`` of Linux ``drivers/iommu/amd/nested.c`` (103f4e7c): of the
guest's device table entry the host takes GLX, GIOV, the GCR3 root, GPTMode and PPR, and keeps its own Mode, HostRoot
and DomainID, and all the rest. The guest's root is guest-physical; hardware takes it so only with GCR3TRPMode (EFR2 bit
3, control bit 58). Without that a GCR3 table is system-physical: a guest's could name any memory, and is refused.

The caches tag translations with DomainID and PASID, not with the device. A guest numbers its domains as it likes, so
that two tables could get one tag. Linux gives each guest domain id a host DomainID of its own; here each *device* gets
one, so that not even a guest which gives two tables one id mixes their translations. An invalidation of a guest's id
goes to all DomainIDs behind it.

UNVERIFIED: that GLX beyond EFR.GLX and GIOV without EFR.GIOSUP are refused (``nested.c`` does not look), that PPR is
not set for a device which cannot ask for pages, and the errno of what the unit cannot do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.amdvi.invalidation import Command, decode_command
from pasidlab.hardware.layouts.amd import DTE, gcr3_root
from pasidlab.hardware.layouts.amd_queue import CMD_INV_IOMMU_PAGES, CMD_INV_IOTLB_PAGES
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.iommu.amdvi import entries
from pasidlab.kernel.iommu.checks import Check, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pasidlab.kernel.iommu.amdvi.capabilities import Capabilities
    from pasidlab.kernel.iommu.device import DeviceInfo
    from pasidlab.kernel.iommu.domain import Domain

__all__ = ["TABLE_CHECKS", "BoundTable", "TableBind", "translated_command"]

_FIVE_LEVELS: Final = 5
_RESERVED_LEVELS: Final = 3


class BoundTable(NamedTuple):
    """A guest's table that a device uses: ``domain`` is the id of the VM's domain, ``guest_id`` the guest's own for the
    table, ``did`` the DomainID that stands for it on the host.
    """

    domain: int
    guest_id: int
    did: int


class TableBind(NamedTuple):
    """A bind that is asked for: ``entry`` are the guest's words, ``device`` what the host knows of its own device."""

    domain: Domain
    device: DeviceInfo
    entry: tuple[int, ...]
    unit: Capabilities

    def words(self, did: int) -> tuple[int, ...]:
        """The host's device table entry. Errors: :data:`TABLE_CHECKS`."""
        refuse(TABLE_CHECKS, self)
        host = entries.host_table(self.domain, self.unit.second_levels, did, ats=self.device.ats)
        at = DTE.decode(self.entry)
        return entries.with_table(
            host,
            entries.GuestTable(
                gcr3_root(self.entry),
                at["GLX"] + 1,
                giov=bool(at["GIOV"]),
                ppr=bool(at["PPR"]) and self.device.pri,
                mode=at["GPTMode"],
            ),
        )


def _nesting(bind: TableBind) -> str:
    if bind.unit.nesting:
        return ""
    return (
        "the IOMMU must have GCR3TRPMode (EFR2 bit 3) to bind a guest's GCR3 table: without it the table is "
        "system-physical, and a guest's could name any memory (facts/hardware.md 4; docs/iommus.md)"
    )


def _attached(bind: TableBind) -> str:
    there = bind.device.rid in bind.domain.rids
    return "" if there else f"{format_rid(bind.device.rid)} must be attached to the domain of {bind.domain.name}"


def _nesting_mode(bind: TableBind) -> str:
    return "" if bind.domain.nesting else f"the domain of {bind.domain.name} must be in nesting mode"


def _host_fields(bind: TableBind) -> str:
    at = DTE.decode(bind.entry)
    wrong = at["Mode"] or at["HostRoot"]
    return "Mode and HostRoot of a guest's device table entry must be zero: they are the host's" if wrong else ""


def _translates(bind: TableBind) -> str:
    at = DTE.decode(bind.entry)
    wrong = not (at["V"] and at["TV"] and at["GV"])
    return "a guest's device table entry must have V=1, TV=1 and GV=1 to name a GCR3 table" if wrong else ""


def _root(bind: TableBind) -> str:
    return "" if gcr3_root(bind.entry) else "the GCR3 root of a guest's device table entry must not be zero"


def _paging_mode(bind: TableBind) -> str:
    mode = DTE["GPTMode"].get(bind.entry)
    return "" if mode in (0, 1) else f"GPTMode must be 0 (four levels) or 1 (five levels), not {mode}"


def _five_levels(bind: TableBind) -> str:
    wrong = DTE["GPTMode"].get(bind.entry) == 1 and bind.unit.guest_levels < _FIVE_LEVELS
    return "guest page tables of five levels must be supported by the IOMMU (EFR.GATS)" if wrong else ""


def _levels(bind: TableBind) -> str:
    glx, most = DTE["GLX"].get(bind.entry), bind.unit.gcr3_levels
    wrong = glx == _RESERVED_LEVELS or glx >= most
    return f"GLX must be between 0 and {most - 1}, not {glx}: the IOMMU has {most} GCR3 levels" if wrong else ""


def _without_pasid(bind: TableBind) -> str:
    wrong = DTE["GIOV"].get(bind.entry) and not bind.unit.giov
    return "GIOV must be 0: the IOMMU has no guest translation for requests without PASID" if wrong else ""


TABLE_CHECKS: Final = (
    Check("GCR3TRPMode", "EOPNOTSUPP", _nesting),
    Check("attached", "ENODEV", _attached),
    Check("nesting mode", "EINVAL", _nesting_mode),
    Check("Mode, HostRoot", "EINVAL", _host_fields),
    Check("V, TV, GV", "EINVAL", _translates),
    Check("GCR3 root", "EINVAL", _root),
    Check("GPTMode", "EINVAL", _paging_mode),
    Check("5-level", "EOPNOTSUPP", _five_levels),
    Check("GLX", "EINVAL", _levels),
    Check("GIOV", "EINVAL", _without_pasid),
)
"""What a guest's device table entry is refused for, in order. Without a free DomainID: ``-ENOSPC``, later."""


def translated_command(
    words: tuple[int, ...],
    devices: Mapping[int, int],
    bound: Mapping[int, BoundTable],
    infos: Mapping[int, DeviceInfo],
) -> list[tuple[int, ...]]:
    """A guest's command as the host may give it, for its own DomainIDs and devices: one command, several, or none.

    ``devices`` maps the guest's requester IDs to the host's; ``bound`` are the guest's tables and ``infos`` what is
    known of the devices, by requester ID of the host. ``-EINVAL``: a command that a guest may not give, or for a device
    that it does not have.
    """
    command = decode_command(words)
    if command is None or command.layout not in (CMD_INV_IOMMU_PAGES, CMD_INV_IOTLB_PAGES):
        name = "an unknown command" if command is None else command.name
        raise KernelError("EINVAL", f"a guest's command must be an invalidation of pages, not {name}")
    return _of_domain(command, bound) if command.layout is CMD_INV_IOMMU_PAGES else _of_device(command, devices, infos)


def _of_domain(command: Command, bound: Mapping[int, BoundTable]) -> list[tuple[int, ...]]:
    """Every DomainID that stands for the guest's; what it has not bound nothing is kept of."""
    meant = sorted({table.did for table in bound.values() if table.guest_id == command.field("domid")})
    return [command.layout.change(command.words, domid=did) for did in meant]


def _of_device(command: Command, devices: Mapping[int, int], infos: Mapping[int, DeviceInfo]) -> list[tuple[int, ...]]:
    guest = command.field("devid")
    rid = devices.get(guest)
    if rid is None:
        raise KernelError("EINVAL", f"the VM must have the device {format_rid(guest)} to empty its TLB")
    info = infos.get(rid)
    if info is None or not info.ats:
        return []
    return [command.layout.change(command.words, devid=rid, queueid=rid)]
