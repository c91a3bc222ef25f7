"""Where the registers of an AMD IOMMU lie, and which of their bits software can change.

Models the MMIO block as a table: offset, writable bits, bits that are cleared by writing 1, value after reset. Offsets
are those of Linux 6.1 ``drivers/iommu/amd/amd_iommu_types.h`` (MMIO_*). The unit's interrupt is that of a PCI function
(MSI); this model writes its address and data through the copy of the MSI capability in MMIO space (0x158 to 0x164,
EFR.MsiCapMmioSup; Linux knows the offsets of address and data), so that the unit needs no configuration space.
UNVERIFIED: that these are writable, and MsiEn in bit 16 of 0x158; which control bits read as zero on a unit that lacks
what they switch on. Left out: exclusion range, guest virtual APIC log, x2APIC interrupts (0x170), counters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.register_words import Register, RegisterFile
from pasidlab.hardware.layouts.amd import (
    BUFFER_REG,
    CONTROL_REG,
    DEVICE_TABLE_REG,
    MSI_CAPABILITY_REG,
    RING_REG,
    STATUS_REG,
)

if TYPE_CHECKING:
    from pasidlab.hardware.bits import Layout
    from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity

__all__ = [
    "BASE",
    "CMD_BUF",
    "CMD_HEAD",
    "CMD_TAIL",
    "CONTROL",
    "DEV_TAB",
    "EVT_BUF",
    "EVT_HEAD",
    "EVT_TAIL",
    "EXT_FEATURES",
    "EXT_FEATURES2",
    "MSI_ADDR_HI",
    "MSI_ADDR_LO",
    "MSI_CAPABILITY",
    "MSI_DATA",
    "PPR_HEAD",
    "PPR_LOG",
    "PPR_TAIL",
    "SIZE",
    "STATUS",
    "Register",
    "RegisterFile",
    "register_rows",
]

BASE: Final = 0xFED8_0000
"""Where QEMU puts the registers (AMDVI_BASE_ADDR)."""
SIZE: Final = 0x4000

DEV_TAB: Final = 0x0000
CMD_BUF: Final = 0x0008
EVT_BUF: Final = 0x0010
CONTROL: Final = 0x0018
EXT_FEATURES: Final = 0x0030
PPR_LOG: Final = 0x0038
MSI_CAPABILITY: Final = 0x0158
MSI_ADDR_LO: Final = 0x015C
MSI_ADDR_HI: Final = 0x0160
MSI_DATA: Final = 0x0164
EXT_FEATURES2: Final = 0x01A0
CMD_HEAD: Final = 0x2000
CMD_TAIL: Final = 0x2008
EVT_HEAD: Final = 0x2010
EVT_TAIL: Final = 0x2018
STATUS: Final = 0x2020
PPR_HEAD: Final = 0x2030
PPR_TAIL: Final = 0x2038

_HALF: Final = 0xFFFF_FFFF
_MSI_CAP_ID: Final = 5
_CLEARED_BY_ONE: Final = ("EventOverflow", "EventLogInt", "ComWaitInt", "PPROverflow", "PPRInt")
_SWITCHES: Final = (
    ("PPRLogEn", "ppr"),
    ("PPRIntEn", "ppr"),
    ("PPREn", "ppr"),
    ("GTEn", "gt"),
    ("GAEn", "ga"),
    ("PPRAutoRspEn", "pprautorsp"),
    ("EPHEn", "ephsup"),
    ("XTEn", "xt"),
    ("GCR3TRPMode", "gcr3trp"),
)
"""Control bits that exist only with a feature."""


def _known(layout: Layout) -> int:
    return ((1 << 64) - 1) & ~layout.reserved_mask


def register_rows(identity: AmdIdentity) -> dict[int, Register]:
    """The registers that a unit has; EXT_FEATURES and EXT_FEATURES2 only read.

    >>> from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
    >>> hex(register_rows(AmdIdentity(gt=False, giosup=False, gcr3trp=False))[CONTROL].writable)
    '0x80020800000ffff'
    """
    ring, buffer = Register("ring", _known(RING_REG)), Register("base", _known(BUFFER_REG))
    control = _known(CONTROL_REG)
    for name, feature in _SWITCHES:
        if not getattr(identity, feature):
            control &= ~CONTROL_REG[name].mask
    enable = MSI_CAPABILITY_REG["MsiEn"].mask | MSI_CAPABILITY_REG["MultMessEn"].mask
    capability = MSI_CAPABILITY_REG.encode(CapID=_MSI_CAP_ID, Msi64En=1)[0]
    rows = {
        DEV_TAB: Register("DEV_TAB", _known(DEVICE_TABLE_REG)),
        CMD_BUF: buffer._replace(name="CMD_BUF"),
        EVT_BUF: buffer._replace(name="EVT_BUF"),
        CONTROL: Register("CONTROL", control),
        CMD_HEAD: ring._replace(name="CMD_HEAD"),
        CMD_TAIL: ring._replace(name="CMD_TAIL"),
        EVT_HEAD: ring._replace(name="EVT_HEAD"),
        EVT_TAIL: ring._replace(name="EVT_TAIL"),
        STATUS: Register("STATUS", 0, sum(STATUS_REG[name].mask for name in _CLEARED_BY_ONE)),
    }
    if identity.ppr:
        rows |= {
            PPR_LOG: buffer._replace(name="PPR_LOG"),
            PPR_HEAD: ring._replace(name="PPR_HEAD"),
            PPR_TAIL: ring._replace(name="PPR_TAIL"),
        }
    if identity.msicapmmio:
        rows[MSI_CAPABILITY] = Register("MSI capability, address low", (_HALF & ~3) << 32 | enable, 0, capability)
        rows[MSI_ADDR_HI] = Register("MSI address high, data", 0xFFFF << 32 | _HALF)
    return rows
