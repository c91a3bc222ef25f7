"""What user space passes to the kernel to bind a guest's page table, and what the generic layer checks of it.

Models ``struct iommu_gpasid_bind_data`` (include/uapi/linux/iommu.h, v5.8 to v5.17, as extended by the guest SVA
series) with its VT-d part, and ``iommu_sva_prepare_bind_data`` of ``drivers/iommu/iommu.c`` (v5.10): the part before
the vendor's is copied first, then as much of the rest as ``argsz`` says and the kernel knows; then version, format,
flags and padding are looked at. The IOMMU driver checks the rest (:mod:`.vtd.guest_bind`).

UNVERIFIED: the fact sheet has the generic checks from memory only, and does not give the bit of HPASID_DEF, which only
one tree had (here bit 1, the next free one).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.hardware.bits import Field, Layout
from pasidlab.kernel.iommu.checks import Check, refuse

__all__ = [
    "BIND_DATA",
    "FORMAT_VTD",
    "GENERIC_CHECKS",
    "GENERIC_SIZE",
    "GPASID_VAL",
    "HPASID_DEF",
    "VERSION_1",
    "VTD_FLAGS",
    "GuestPasidBind",
]

VERSION_1: Final = 1
FORMAT_VTD: Final = 1
_FORMATS: Final = (0, FORMAT_VTD)
"""Formats below the first one that does not exist; 0 passes here and is refused by every driver."""

GPASID_VAL: Final = 1
"""Flag: ``gpasid`` is valid."""
HPASID_DEF: Final = 2
"""Flag: bind the domain's default PASID; ``hpasid`` is not looked at."""

VTD_FLAGS: Final = {"SRE": 1, "EAFE": 2, "PCD": 4, "PWT": 8, "EMTE": 16, "CD": 32, "WPE": 64}
"""Flag bits of the VT-d part, by the name of the PASID entry field that they ask for."""

BIND_DATA: Final = Layout(
    "iommu_gpasid_bind_data",
    72,
    (
        Field("argsz", 0, 31, "bytes that user space filled"),
        Field("version", 32, 63, "1"),
        Field("format", 64, 95, "1 = VT-d"),
        Field("addr_width", 96, 127, "bits of a guest virtual address: 48 or 57"),
        Field("flags", 128, 191, "bit 0 GPASID_VAL, bit 1 HPASID_DEF"),
        Field("gpgd", 192, 255, "root of the guest's page table, guest-physical"),
        Field("hpasid", 256, 319, "host PASID"),
        Field("gpasid", 320, 383, "the guest's number for it"),
        Field("padding", 384, 447, "zero"),
        Field("vtd_flags", 448, 511, "VT-d: SRE, EAFE, PCD, PWT, EMTE, CD, WPE"),
        Field("pat", 512, 543, "VT-d: page attribute table"),
        Field("emt", 544, 575, "VT-d: extended memory type"),
    ),
    "Linux include/uapi/linux/iommu.h (v5.10), with the WPE flag of the guest SVA tree",
)

GENERIC_SIZE: Final = 56
"""Bytes before the vendor's part: these must be there."""


class GuestPasidBind(NamedTuple):
    """Bind the guest page table at ``gpgd`` (guest-physical) to the host PASID ``hpasid``.

    ``gpasid`` is the guest's own number for it (``None``: the GPASID_VAL flag is clear); ``addr_width`` is 48 or 57;
    ``flags`` are the flags beside GPASID_VAL. The fields of a well-formed structure need not be named.

    >>> data = GuestPasidBind(hpasid=101, gpgd=0x6000, gpasid=1)
    >>> raw = data.to_bytes()
    >>> len(raw), raw[:16].hex(" ", 4), GuestPasidBind.from_bytes(raw) == data
    (72, '48000000 01000000 01000000 30000000', True)
    """

    hpasid: int = 0
    gpgd: int = 0
    gpasid: int | None = None
    addr_width: int = 48
    vtd_flags: int = 0
    format: int = FORMAT_VTD
    flags: int = 0
    argsz: int = BIND_DATA.size
    version: int = VERSION_1
    padding: int = 0
    pat: int = 0
    emt: int = 0

    def to_bytes(self) -> bytes:
        """The structure as it lies in user space, all 72 bytes."""
        given = self._asdict()
        given["flags"] = self.flags | (GPASID_VAL if self.gpasid is not None else 0)
        given["gpasid"] = self.gpasid or 0
        return BIND_DATA.to_bytes(BIND_DATA.encode(**given))

    @classmethod
    def from_bytes(cls, raw: bytes) -> GuestPasidBind:
        """What the kernel copies from user space, where ``raw`` can be read; bytes beyond ``argsz`` are zero.

        Errors: ``-EFAULT`` fewer bytes can be read than are to be copied, ``-EINVAL`` ``argsz`` below 56.
        """
        _check_readable(raw, GENERIC_SIZE)
        size = min(int.from_bytes(raw[:4], "little"), BIND_DATA.size)
        refuse(GENERIC_CHECKS[:1], cls(argsz=size))
        _check_readable(raw, size)
        values = BIND_DATA.decode(BIND_DATA.from_bytes(raw[:size].ljust(BIND_DATA.size, b"\0")))
        flags, gpasid = values.pop("flags"), values.pop("gpasid")
        valid = gpasid if flags & GPASID_VAL else None
        return cls(**values, flags=flags & ~GPASID_VAL, gpasid=valid)

    def check(self) -> None:
        """The generic layer's checks, in order: :data:`GENERIC_CHECKS`. Each is ``-EINVAL``."""
        refuse(GENERIC_CHECKS, self)


def _check_readable(raw: bytes, size: int) -> None:
    if len(raw) < size:
        raise KernelError("EFAULT", f"the bind data must have {size} readable bytes, not {len(raw)}")


def _argsz(data: GuestPasidBind) -> str:
    short = data.argsz < GENERIC_SIZE
    return f"argsz must be at least {GENERIC_SIZE}, the part before the vendor's, not {data.argsz}" if short else ""


def _version(data: GuestPasidBind) -> str:
    return f"the version must be {VERSION_1}, not {data.version}" if data.version != VERSION_1 else ""


def _format(data: GuestPasidBind) -> str:
    return f"the format must be {FORMAT_VTD} (VT-d), not {data.format}" if data.format not in _FORMATS else ""


def _flags(data: GuestPasidBind) -> str:
    unknown = data.flags & ~(GPASID_VAL | HPASID_DEF)
    return f"the flags must be GPASID_VAL (1) or HPASID_DEF (2), not {data.flags:#x}" if unknown else ""


def _padding(data: GuestPasidBind) -> str:
    return f"the padding must be zero, not {data.padding:#x}" if data.padding else ""


GENERIC_CHECKS: Final = (
    Check("argsz", "EINVAL", _argsz),
    Check("version", "EINVAL", _version),
    Check("format", "EINVAL", _format),
    Check("flags", "EINVAL", _flags),
    Check("padding", "EINVAL", _padding),
)
"""What the generic layer refuses, in order."""
