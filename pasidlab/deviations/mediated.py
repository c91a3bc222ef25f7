"""Deviations of what mediates a VM's devices: the composition module (VDCM), and KVM's table for ENQCMD."""

from typing import Final

from pasidlab.deviations.row import Deviation

__all__ = ["MEDIATED"]

_VDCM: Final = "pasidlab.virt.vdcm:MediatedDevice"

MEDIATED: Final = (
    Deviation(
        name="vdcm-keeps-reference",
        subject="the reference of a programmed queue",
        code="dropped by DISABLE_WQ only: not by resets, close, or an enable that fails",
        documents="v2: held until the hardware is cleared",
        model="dropped by whatever stops the queue: command, reset, FREE, close",
        source="6.6",
        breaks=(3,),
        site=f"{_VDCM}._drop",
    ),
    Deviation(
        name="vdcm-drains-guest-number",
        subject="FREE and a shared queue: what is drained",
        code="the guest's number, where hardware needs the host's",
        documents="v2: clean up, then drop what is held",
        model="the host's number",
        source="6.6",
        breaks=(10,),
        site=f"{_VDCM}._drain_shared",
    ),
    Deviation(
        name="vdcm-shared-put",
        subject="FREE and a shared queue: what is dropped",
        code="a reference that enabling a shared queue never took, so the ID is reclaimed while the IOMMU uses it",
        documents="v2: clean up, then drop what is held",
        model="holds nothing and drops nothing",
        source="6.6",
        breaks=(3, 10, 11),
        site=f"{_VDCM}.run_work",
    ),
    Deviation(
        name="vdcm-dedicated-free",
        subject="FREE and a dedicated queue",
        code="ignored: an abandoned queue keeps its ID in FREE_PENDING for ever",
        documents="v2: work is queued that clears the hardware and drops the reference",
        model="v2",
        source="6.6",
        site=f"{_VDCM}._concerned",
    ),
    Deviation(
        name="vdcm-current-mm",
        subject="in whose set a guest's PASID is looked up",
        code="that of the calling process (current->mm): it works from the hypervisor's own thread only",
        documents="not said",
        model="the VM's set, which the container names",
        source="6.4",
        lacks="what a guest asks of its device is always asked by its own hypervisor",
    ),
    Deviation(
        name="vdcm-interrupt-reference",
        subject="the reference of a wired interrupt",
        code="taken by the look-up when the entry is programmed, never dropped",
        documents="v2: held until the hardware is cleared",
        model="dropped by whatever clears the entry: mask, reset, UNBIND, FREE, close",
        source="6.6",
        breaks=(3,),
        site="pasidlab.virt.ims:InterfaceInterrupts._let_go",
    ),
    Deviation(
        name="vdcm-portal-reference",
        subject="the reference of a descriptor at the emulated portal",
        code="one for each descriptor, never dropped",
        documents="v2: held until the hardware is cleared",
        model="held until the submission is over; UNBIND and FREE have the queue drained",
        source="6.6",
        breaks=(3,),
        site=f"{_VDCM}.submitted",
    ),
    Deviation(
        name="kvm-leaves-block",
        subject="UNBIND that finds no entry: are the vCPUs let in again",
        code="not before the next BIND",
        documents="not said; one would expect at once",
        model="in every way out",
        source="5.3",
        site="pasidlab.virt.kvm:KvmVm._allow_entry_after_warning",
    ),
    Deviation(
        name="set-made-late",
        subject="who makes a VM's set",
        code="v6 of VFIO: when the first device is attached; V4: when /dev/ioasid is opened",
        documents="each as its code",
        model="when the container is opened, so that a quota which is too large is refused at once",
        source="3.1, 3.5",
        lacks="a container has its set from the start",
    ),
)
"""What a VM has of a device."""
