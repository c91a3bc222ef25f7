"""The guest's numbers: what the code did, and where it shows."""

from contextlib import suppress

from pasidlab.errors import KernelError
from pasidlab.kernel.ioasid.notifier import Priority
from pasidlab.kernel.iommu.uapi import GuestPasidBind
from tests.deviations.switch import USUAL, Listener, deviant, scenario


@deviant("spid-again")
def refuse_second_spid(core, record):
    pass


@scenario("spid-again", usual="EINVAL", deviating=None)
def a_second_number(lab):
    lab.bound()
    return lab.do(lab.core.attach_spid, lab.h, 44)


@deviant("spid-twin-reference")
def refuse_twin(core, record, spid):
    twin = record.owner.spids.get(spid)
    if twin is not None:
        core._take(core.ids[twin], "look-up")
    USUAL["spid-twin-reference"](record, spid)


@scenario("spid-twin-reference", usual=("EINVAL", 3), deviating=("EINVAL", 4))
def a_duplicate_is_refused(lab):
    lab.bound()
    other = lab.vm1.request_pasid()
    return lab.do(lab.core.attach_spid, other, 1), lab.core.refs(lab.h)


@deviant("spid-result-ignored")
def announce(svm, binding, rid, data):
    if data.gpasid is not None:
        with suppress(KernelError):
            svm.core.attach_spid(data.hpasid, data.gpasid)


@scenario("spid-result-ignored", usual=("EINVAL", False, True), deviating=(None, True, True))
def one_number_for_two_bindings(lab):
    """The second one is bound, and ENQCMD goes to the first."""
    lab.bound()
    other = lab.vm1.request_pasid()
    data = GuestPasidBind(other, lab.app.process.mm.root, 1)
    answer = lab.do(lab.vm1.vmm.container.bind_pgtbl, lab.adi.name, data)
    return answer, lab.present(other), lab.vm1.vmm.kvm.entry(1) == lab.h


@deviant("spid-after-data")
def end(svm, binding):
    pasid = binding.pasid
    svm._detach(binding)
    if svm.core.ids[pasid].spid is not None:
        svm.core.detach_spid(pasid)
    if not svm.core.work.running:
        svm.core.work.flush()
    svm._let_go(pasid)


@scenario("spid-after-data", usual=True, deviating=False)
def what_unbind_carries(lab):
    """Whether who hears UNBIND finds the private data."""
    listener = Listener("listener", Priority.LAST)
    vm = lab.vm("vm1", "shared")
    lab.do(lab.core.notifiers.register_mm, vm.vmm.process.mm, listener)
    app = vm.spawn("app")
    app.bind(vm.devices[0])
    app.unbind(vm.devices[0])
    return dict(listener.heard)["UNBIND"].private is not None
