"""What the driver knows of a device: how wide its PASIDs are, and whether it translates and asks for pages itself.

Models ``struct device_domain_info`` and ``iommu_enable_pci_caps`` of ``drivers/iommu/intel/iommu.c`` (and
``arm_smmu_enable_pasid``, ``pdev_enable_caps`` of the other two drivers): PASIDs are switched on first (the behaviour
of a device that gets them after ATS is undefined), then page requests, then ATS. Page requests need answers that carry
the PASID, so only a device that says so gets them.
"""

from __future__ import annotations

from enum import Enum, unique
from typing import Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.hardware.layouts.pcie import ATS_CAP, PASID_CAP, PRI_CAP
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.pci import PciFunction

__all__ = [
    "PRQ_DEPTH",
    "DeviceInfo",
    "Numbering",
    "Reach",
    "disable_translation",
    "enable_capabilities",
    "enable_pasid",
]

PRQ_DEPTH: Final = 32
"""How many page requests a device may have outstanding."""


@unique
class Numbering(Enum):
    """Whose PASIDs a device is programmed with, as its own PASID table is indexed by what its requests carry.

    The posted drivers know :attr:`HOST` only. A function that a guest programs without mediation carries the guest's
    numbers; the successor of this design (the /dev/iommu proposal of 2021) has that as an argument of attaching.
    Where a guest owns its whole table, all its devices carry its numbers.
    """

    HOST = "host"
    """The host's: this kernel or a mediating driver programs it, or the guest's numbers are the host's."""
    GUEST = "guest"
    """A guest's own. What the device reports is looked up among the numbers of that guest."""
    UNSORTED = "unsorted"
    """A guest's own, but what the device reports is looked up among all IOASIDs, as if it were the host's."""


class DeviceInfo(NamedTuple):
    """One device behind the unit. ``pasid_bits`` is 0 when it can send none; ``pci`` whether it is a PCI function.

    ``stall``: it bears that the unit holds its transactions.
    """

    rid: int
    pci: bool
    pasid_bits: int
    ats: bool = False
    pri: bool = False
    queue_depth: int = 0
    stall: bool = False


class Reach(NamedTuple):
    """What a unit lets devices do: how many bits of PASID it takes (0: none), ATS, page requests, stalls.

    ``stall``: it holds transactions of devices that bear that until software has brought the page (SMMUv3).
    """

    pasid_bits: int
    ats: bool
    pri: bool
    stall: bool = False


def enable_capabilities(function: PciFunction, unit: Reach) -> DeviceInfo:
    """Switch on what the device has and the unit can serve."""
    if not function.present:
        return DeviceInfo(function.rid, pci=False, pasid_bits=0)
    pasid = function.get(PASID_CAP)
    bits = min(pasid["WIDTH"], unit.pasid_bits)
    if bits:
        function.set(PASID_CAP, EN=1, EXEC_EN=pasid["EXEC"], PRIV_EN=pasid["PRIV"])
    ats = unit.ats and function.find(ATS_CAP) is not None
    pri = ats and unit.pri and _enable_page_requests(function)
    if ats:
        function.set(ATS_CAP, STU=0, EN=1)
    return DeviceInfo(function.rid, True, bits, ats, pri, function.get(ATS_CAP)["QDEP"])


def enable_pasid(function: PciFunction) -> None:
    """Let a device send PASIDs, if it does not yet (``pci_enable_pasid``). ``-EINVAL``: it cannot be made to."""
    if function.get(PASID_CAP)["EN"]:
        return
    if function.find(PASID_CAP) is not None:
        function.set(PASID_CAP, EN=1)
    if not function.get(PASID_CAP)["EN"]:
        raise KernelError("EINVAL", f"PASIDs cannot be enabled on the device {format_rid(function.rid)}")


def _enable_page_requests(function: PciFunction) -> bool:
    if function.find(PRI_CAP) is None or not function.get(PRI_CAP)["PASID_REQ"]:
        return False
    function.set(PRI_CAP, RESET=1)
    function.set(PRI_CAP, ALLOC=min(PRQ_DEPTH, function.get(PRI_CAP)["MAX"]))
    function.set(PRI_CAP, EN=1, RESET=0)
    return True


def disable_translation(function: PciFunction, device: DeviceInfo) -> None:
    """Switch page requests and ATS off again."""
    if device.pri:
        function.set(PRI_CAP, EN=0)
    if device.ats:
        function.set(ATS_CAP, EN=0)
