"""Deviations of the IOMMU driver and of KVM when address spaces are bound, and of SVA when they are unbound."""

from typing import Final

from pasidlab.deviations.row import Deviation

__all__ = ["BINDING"]

_BINDINGS: Final = "pasidlab.kernel.iommu.bindings:Bindings"
_SVM: Final = "pasidlab.kernel.iommu.vtd.svm:Svm"
_KVM: Final = "pasidlab.virt.kvm:KvmVm"

BINDING: Final = (
    Deviation(
        name="foreign-bind",
        subject="binding a PASID of another VM",
        code="the driver's check of the set is switched off (NULL is passed), so a foreign PASID is bound",
        documents="v6: the driver checks the set of the domain; V4: the common layer checks the owner",
        model="-EACCES",
        source="3.4, 4.2 no. 10",
        breaks=(1, 11),
        site=f"{_SVM}._look_up",
    ),
    Deviation(
        name="bind-tells-first",
        subject="the order of bind",
        code="the SPID is attached first, which tells everybody, before the IOMMU's entry is written",
        documents="v2: entry, reference, then the notification",
        model="v2",
        source="2.1, 4.4",
        site=f"{_SVM}._bind_first",
    ),
    Deviation(
        name="failed-bind-leaves",
        subject="a bind whose entry cannot be written",
        code="SPID, KVM's entry and both references stay: KVM goes on translating, and the ID never drains",
        documents="not said",
        model="everything is taken back",
        source="10 no. 8",
        breaks=(3,),
        site=f"{_SVM}._take_back",
        needs=("bind-tells-first",),
    ),
    Deviation(
        name="iommu-unchecked",
        subject="the IOMMU driver's reference",
        code="the result of its get is ignored: a bind on a dying ID counts too little, and its entry outlives the ID",
        documents="no new reference in FREE_PENDING",
        model="the bind is refused",
        source="10 no. 14",
        breaks=(3, 10, 11),
        site=f"{_BINDINGS}._hold",
        needs=("dying-find", "dying-attach-data"),
    ),
    Deviation(
        name="aux-second-bind",
        subject="a second interface of one parent",
        code="the last tree: its bind is -EBUSY, and the first interface's unbind ends the entry that both use, until "
        "the hypervisor looks again and binds it for the second one",
        documents="v5.8 to v5.11, in a comment: with auxiliary domains a PASID may be bound on a device several times",
        model="each bind counts a user, the last unbind ends the entry",
        source="4.2 no. 12, and the counter that only this explains",
        site=f"{_SVM}._bind_again",
    ),
    Deviation(
        name="kvm-unchecked",
        subject="KVM's reference",
        code="the result of its get is ignored: the entry is written for a dying ID, and a reference is put that was "
        "not taken",
        documents="an entry holds a reference",
        model="without a reference there is no entry",
        source="10 no. 14",
        breaks=(3, 7, 9),
        site=f"{_KVM}._hold",
        needs=("dying-attach-spid",),
    ),
    Deviation(
        name="put-before-free",
        subject="the IOMMU driver's reference at unbind",
        code="dropped by unbind, before the owner frees (so does v1)",
        documents="v2: its picture shows the free first, then the drop; taken literally, FREE goes to a driver that "
        "has no work left, and nobody drops",
        model="as the code",
        source="2.1 (17, 18)",
        breaks=(3,),
        site=f"{_BINDINGS}._let_go",
    ),
    Deviation(
        name="clean-up-in-atomic",
        subject="draining page requests in the clean-up",
        code="waits while it holds the IOMMU's spinlock",
        documents="handlers are atomic, what waits is queued",
        model="the clean-up is queued work and holds no lock",
        source="10 no. 12",
        lacks="the IOMMU driver has no lock, and nothing waits",
    ),
    Deviation(
        name="exit-to-nobody",
        subject="exits 72 and 73 (no translation for a guest PASID)",
        code="sets ZF and skips the instruction: the guest reads 'queue full' and tries again, for ever",
        documents="v2 speaks of a report to the user",
        model="as the code",
        source="5.4",
        lacks="the documents do not say what the report is, or to whom",
    ),
    Deviation(
        name="vcmd-free-refused",
        subject="a guest that frees a PASID by virtual command",
        code="mainline: refuses when the look-up answers anything but NULL, and an error is not NULL; the guest's core "
        "forgets the ID all the same, so guest and host diverge",
        documents="v3: refuses what is not in the kernel's own set",
        model="the command is sent: the hypervisor decides whose number it is",
        source="7.2",
        site="pasidlab.kernel.iommu.vtd.vcmd:VirtualCommandAllocator.free",
    ),
    Deviation(
        name="pasid-of-mm",
        subject="when the PASID of a process is freed",
        code="with ENQCMD it stays with the mm until that dies, since each thread may carry it in IA32_PASID "
        "(Linux: the rule since v5.18)",
        documents="v1, v2: as the code",
        model="at the last unbind, unlike both: processes have one thread, whose IA32_PASID is cleared",
        source="2.3",
        site="pasidlab.kernel.sva:Sva._last_unbind",
    ),
)
"""Binding and unbinding."""
