"""Single requests on the bus: what a person asks about, and what broken or hostile firmware sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import BusError, KernelError
from pasidlab.hardware.dma import PageMissing
from pasidlab.hardware.iommu.contract import DmaAborted, Fault
from pasidlab.hardware.pcie import PASID_LIMIT, Access, DmaRequest

if TYPE_CHECKING:
    from pasidlab.handles.device import PhysicalFunction

__all__ = ["bus_request", "send"]


def bus_request(rid: int, pasid: int | None, address: int, access: str, privileged: bool = False) -> DmaRequest:
    """A request as it can be on the bus; ``-EINVAL`` for numbers that do not fit, or an access that there is not."""
    for number in (rid, address, 0 if pasid is None else pasid):
        if type(number) is not int:
            raise KernelError("EINVAL", f"requester ID, PASID and address must be numbers, not {number!r}")
    if pasid is not None and not 0 <= pasid < PASID_LIMIT:
        raise KernelError("EINVAL", f"a PASID must be between 0 and {PASID_LIMIT - 1}, not {pasid}")
    if not 0 <= address < 1 << 64:
        raise KernelError("EINVAL", f"an address must have at most 64 bits, not {address:#x}")
    if not 0 <= rid < 1 << 16:
        raise KernelError("EINVAL", f"a requester ID must have 16 bits, not {rid:#x}")
    if access not in list(Access):
        raise KernelError("EINVAL", f"access must be one of {', '.join(Access)}, not {access!r}")
    if pasid is None and (privileged or access == Access.EXECUTE):
        raise KernelError("EINVAL", "execute and privileged are bits of the PASID prefix: such a request needs a PASID")
    return DmaRequest(rid, address, Access(access), pasid, bool(privileged))


def send(device: PhysicalFunction, request: DmaRequest, *, tlb: bool) -> int | Fault:
    """Let a device read, or write zeros to, 8 bytes; returns where in host memory that was, or the recorded fault.

    ``-EFAULT``: no memory there, or the IOMMU has no page for the device's TLB.
    """
    port = device.function.port(request.pasid, tlb=tlb)
    try:
        if request.access is Access.READ:
            port.read(request.address, 8)
        else:
            port.write(request.address, bytes(8))
    except DmaAborted as aborted:
        return aborted.fault
    except PageMissing as missing:
        raise KernelError("EFAULT", str(missing)) from None
    except BusError as error:
        raise KernelError("EFAULT", f"{request} passes the IOMMU, but {error}") from None
    moved = device.machine.timeline.since(device.machine.timeline.now - 1)[0].fact("hpa")
    return moved if isinstance(moved, int) else 0
