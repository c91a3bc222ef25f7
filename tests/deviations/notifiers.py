"""Who is told what, and when: what the code did, and where it shows."""

from contextlib import suppress

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.notifier import IoasidEvent, Priority
from tests.deviations.switch import Listener, deviant, scenario

DEVICE_FIRST = ["VDCM", "IOMMU"]


def clean_up_order(lab):
    """FREE of a PASID for which a descriptor waits in a shared queue: whose clean-up is queued first?"""
    lab.copying()
    lab.vm1.free_pasid(1)
    order = [work.label.split()[0].rstrip(":") for work in lab.core.work.waiting()]
    lab.clean_up()
    return order


@deviant("handler-order")
def turn(subscriptions, subscriber):
    return [Priority.CPU, Priority.IOMMU, Priority.DEVICE, Priority.LAST].index(subscriber.notifier_priority)


scenario("handler-order", usual=DEVICE_FIRST, deviating=DEVICE_FIRST[::-1])(clean_up_order)


@deviant("global-chain-first")
def one_order(subscriptions, everywhere, here):
    return sorted(everywhere, key=subscriptions._turn) + sorted(here, key=subscriptions._turn)


scenario("global-chain-first", usual=DEVICE_FIRST, deviating=DEVICE_FIRST[::-1])(clean_up_order)


def notifier_priority(svm):
    return Priority.LAST


deviant("iommu-priority")(property(notifier_priority))


@scenario("iommu-priority", usual=("IOMMU", DEVICE_FIRST), deviating=("LAST", DEVICE_FIRST))
def the_iommu_is_last_either_way(lab):
    order = clean_up_order(lab)
    return lab.m.kernel.svm.notifier_priority.name, order


@deviant("kvm-ignores-free")
def ends(kvm, event):
    return event is IoasidEvent.UNBIND


@scenario("kvm-ignores-free", usual=(None, ()), deviating=(2, ("kvm:vm1",)))
def free_before_unbind(lab):
    """The entry stays, and with it a reference, so that the ID never drains."""
    lab.bound()
    lab.vm1.free_pasid(1)
    lab.m.run()
    return lab.vm1.vmm.kvm.entry(1), lab.holders(lab.h)


@deviant("kvm-unregistered")
def subscribe(kvm):
    with suppress(KernelError):
        kvm._kernel.ioasid.notifiers.register_mm(kvm._mm, kvm)


@scenario("kvm-unregistered", usual="ENOMEM", deviating="EAGAIN")
def no_memory_when_a_vm_is_made(lab):
    """The VM is made, and its ENQCMDs find no translation."""
    lab.core.slab.fail_nth = 1
    made = lab.do(lab.m.create_vm, "vm1", memory=1 << 20)
    if isinstance(made, str):
        return made
    adi = lab.m.assign_adi(lab.dsa, made, queue="shared")
    app = made.spawn("app")
    app.bind(adi)
    return lab.do(app.submit, adi, app.buffer(64), app.buffer(64), 64)


@deviant("bystander-ends-set")
def leave(subscriptions, the_set, subscriber):
    the_set.chain.unregister(subscriber)
    if not the_set.count:
        subscriptions._lock._core.sets.destroy(the_set)


@scenario("bystander-ends-set", usual=1, deviating="ENOSPC")
def kvm_goes_before_the_first_pasid(lab):
    """The owner lives, and its set does not."""
    vm = lab.vm("vm1")
    process, kvm = vm.vmm.process, vm.vmm.kvm
    lab.do(process.close_file, next(number for number, file in process.files.items() if file is kvm))
    return lab.do(vm.request_pasid)


@deviant("token-reused")
def same(subscriptions, known, token):
    return known.path == token.path


@scenario("token-reused", usual=[], deviating=["ALLOC"])
def a_process_gets_the_place_of_another(lab):
    """A registration that was forgotten hears what happens to a stranger."""
    listener, old = Listener("listener", Priority.LAST), lab.m.spawn("old")
    lab.do(lab.core.notifiers.register_mm, old.process.mm, listener)
    path = old.process.mm.path
    old.exit()
    vm = lab.vm("vm1")
    assert vm.vmm.process.mm.path == path
    vm.request_pasid()
    return [event for event, _ in listener.heard]
