"""The opening checks of a guest bind, before the PASID itself is looked up.

Models the first part of ``intel_svm_bind_gpasid`` (guest SVA series); the names of the rows are the numbers of
facts/ioasid.md 4.2. One unit serves every function of the machine, so of row 1 (no IOMMU for the device, or no data)
only the second half can happen. Rows 5 and 6 ask what the driver read from the device's configuration space when the
device was added, so that a device which it does not know gets as far as row 9. The guest's own number is not checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.pcie import PASID_BITS, PASID_LIMIT, format_rid
from pasidlab.kernel.iommu.checks import Check
from pasidlab.kernel.iommu.uapi import BIND_DATA, FORMAT_VTD, VTD_FLAGS, GuestPasidBind

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.device import DeviceInfo

__all__ = ["DEVICE_CHECKS", "PASID_CHECKS", "GuestBind"]


class GuestBind(NamedTuple):
    """A bind that is asked for; ``device`` is what the driver knows of ``rid``, if anything."""

    rid: int
    device: DeviceInfo | None
    data: GuestPasidBind


def _format(bind: GuestBind) -> str:
    wrong = bind.data.format != FORMAT_VTD
    return f"the bind data must be in VT-d format ({FORMAT_VTD}), not {bind.data.format}" if wrong else ""


def _argsz(bind: GuestBind) -> str:
    short = bind.data.argsz < BIND_DATA.size
    return f"argsz must cover the VT-d part ({BIND_DATA.size} bytes), not {bind.data.argsz}" if short else ""


def _flags(bind: GuestBind) -> str:
    unknown = bind.data.vtd_flags & ~sum(VTD_FLAGS.values())
    return f"the VT-d flags must be a sum of {VTD_FLAGS}, not {bind.data.vtd_flags:#x}" if unknown else ""


def _pci(bind: GuestBind) -> str:
    wrong = bind.device is not None and not bind.device.pci
    return f"the device must be a PCI function, {format_rid(bind.rid)} is none" if wrong else ""


def _pasid_bits(bind: GuestBind) -> str:
    bits = PASID_BITS if bind.device is None else bind.device.pasid_bits
    return f"the device must support PASIDs of {PASID_BITS} bits, not {bits}" if bits != PASID_BITS else ""


def _hpasid(bind: GuestBind) -> str:
    fits = 1 <= bind.data.hpasid < PASID_LIMIT
    return "" if fits else f"the host PASID must be between 1 and {PASID_LIMIT - 1}, not {bind.data.hpasid}"


def _known(bind: GuestBind) -> str:
    return "" if bind.device is not None else f"the IOMMU must know the device, not {format_rid(bind.rid)}"


DEVICE_CHECKS: Final = (
    Check("2", "EINVAL", _format),
    Check("3", "EINVAL", _argsz),
    Check("4", "EINVAL", _flags),
    Check("5", "ENOTSUPP", _pci),
    Check("6", "EINVAL", _pasid_bits),
)
"""Rows before row 7, which may put the default PASID in the place of ``hpasid``."""

PASID_CHECKS: Final = (Check("8", "EINVAL", _hpasid), Check("9", "EINVAL", _known))
"""Rows behind it."""
