"""Deviations about who is told what, in which order, and how one subscribes."""

from typing import Final

from pasidlab.deviations.row import Deviation

__all__ = ["NOTIFIERS"]

_SUBSCRIPTIONS: Final = "pasidlab.kernel.ioasid.subscriptions:Subscriptions"
_BINDINGS: Final = "pasidlab.kernel.iommu.bindings:Bindings"
_KVM: Final = "pasidlab.virt.kvm:KvmVm"

NOTIFIERS: Final = (
    Deviation(
        name="handler-order",
        subject="the order of handlers",
        code="v2 code and later: CPU, IOMMU, device; the IOMMU's clean-up is queued before the device's",
        documents="v2: CPU, device, IOMMU; V4: as the code",
        model="v2: work is stopped at its source first",
        source="1.9",
        breaks=(10,),
        site=f"{_SUBSCRIPTIONS}._turn",
    ),
    Deviation(
        name="global-chain-first",
        subject="FREE goes to two chains",
        code="v2 code and later: the whole global chain (IOMMU) before the set's chain (KVM, device), whatever the "
        "priorities say; so the IOMMU's clean-up is queued first, and its entry goes before the device is drained",
        documents="KVM is told first, then the device",
        model="one order over both chains, by priority, and so in the queue of clean-up work",
        source="1.9, 2.2, 10 no. 13",
        breaks=(10,),
        site=f"{_SUBSCRIPTIONS}._one_order",
    ),
    Deviation(
        name="iommu-priority",
        subject="the priority of the IOMMU driver",
        code="not set, so LAST; harmless, since it is alone on the global chain",
        documents="IOMMU",
        model="IOMMU",
        source="1.9",
        site=f"{_BINDINGS}.notifier_priority",
    ),
    Deviation(
        name="kvm-ignores-free",
        subject="FREE and KVM",
        code="KVM does not listen to FREE; the UNBIND that the IOMMU's clean-up sends reaches it (where that sends "
        "none, see dying-unbind, the entry and its reference stay)",
        documents="v1, v2: KVM drops its entry on FREE; V4: as the code",
        model="v1, v2: the CPU stops translating before anything else happens",
        source="1.9, 2.2",
        breaks=(7,),
        site=f"{_KVM}._ends",
    ),
    Deviation(
        name="kvm-unregistered",
        subject="KVM cannot register its notifier",
        code="frees its directories and says nothing to user space; the next vCPU tries again",
        documents="not said",
        model="the VM is not made; tried when the VM is made, not with the CPUID of its first vCPU",
        source="5.2",
        site=f"{_KVM}._subscribe",
    ),
    Deviation(
        name="bystander-ends-set",
        subject="unregistering a notifier from an empty set",
        code="counts one ID more while it is unlocked; dropping it to zero again frees the set, though its owner lives",
        documents="not said; to expect: a set is freed by its owner",
        model="the set stays",
        source="10 no. 3, 4",
        site=f"{_SUBSCRIPTIONS}._leave",
    ),
    Deviation(
        name="pending-entry",
        subject="registering before the set exists",
        code="v2, v3: writes to the pending entry before it is allocated: its main purpose crashes",
        documents="not said; to expect: the registration waits for the set",
        model="it waits",
        source="10 no. 2",
        lacks="an entry of a list is made in one step",
    ),
    Deviation(
        name="token-reused",
        subject="a registration that outlives its process",
        code="only the address of the mm is remembered, which a later process may have",
        documents="not said",
        model="the mm itself is compared",
        source="1.8",
        site=f"{_SUBSCRIPTIONS}._same",
    ),
    Deviation(
        name="two-locks",
        subject="the lock of the list of notifiers",
        code="v2, v3: a second spinlock, taken in both orders: two threads wait for each other; V4: one lock for both",
        documents="V4: one lock",
        model="one lock; a handler that takes it is reported",
        source="10 no. 1",
        lacks="there are no threads that could wait for each other",
    ),
)
"""Who is told what, and when."""
