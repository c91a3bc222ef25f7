"""What user space passes to an IOMMU driver to bind a guest's page table.

Models ``struct iommu_gpasid_bind_data`` (include/uapi/linux/iommu.h, v5.8 to v5.17, as extended by the guest SVA
series) with its VT-d part.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["FORMAT_VTD", "VTD_FLAGS", "GuestPasidBind"]

FORMAT_VTD: Final = 1

VTD_FLAGS: Final = {"SRE": 1, "EAFE": 2, "PCD": 4, "PWT": 8, "EMTE": 16, "CD": 32, "WPE": 64}
"""Flag bits of the VT-d part, by the name of the PASID entry field that they ask for."""


class GuestPasidBind(NamedTuple):
    """Bind the guest page table at ``gpgd`` (guest-physical) to the host PASID ``hpasid``.

    ``gpasid`` is the guest's own number for it (``None``: the GPASID_VAL flag is clear); ``addr_width`` is 48 or 57.
    """

    hpasid: int
    gpgd: int
    gpasid: int | None = None
    addr_width: int = 48
    vtd_flags: int = 0
    format: int = FORMAT_VTD
