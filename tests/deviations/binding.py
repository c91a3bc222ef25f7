"""Binding and unbinding: what the code did, and where it shows."""

from contextlib import suppress

from pasidlab.errors import KernelError
from pasidlab.kernel.iommu.uapi import GuestPasidBind
from pasidlab.timeline import HOST, Verb
from tests.deviations.dying import dying_and_not_bound, dying_without_spid
from tests.deviations.switch import USUAL, deviant, scenario


@deviant("foreign-bind")
def look_up(svm, pasid, the_set):
    svm.core.living(pasid)


@scenario("foreign-bind", usual="EACCES", deviating=None)
def another_vms_pasid(lab):
    """DMA with a PASID of vm1 reaches the memory of vm2."""
    vm1, vm2 = lab.vm("vm1", "shared"), lab.vm("vm2", "shared")
    number, app = vm1.request_pasid(), vm2.spawn("app")
    address = app.buffer(64)
    answer = lab.do(vm2.bind_raw, vm2.devices[0], number, app)
    lab.m.dma(lab.dsa, number, address)
    return answer


@deviant("bind-tells-first")
def bind_first(svm, rid, domain, data):
    if data.gpasid is not None:
        svm.core.attach_spid(data.hpasid, data.gpasid)
    binding = svm._attach(data.hpasid, guest=True)
    svm._hold(data.hpasid)
    try:
        svm.driver.set_entry(rid, data.hpasid, *svm._nested(rid, data.hpasid, domain, data))
    except KernelError:
        svm._take_back(binding, rid)
        raise
    binding.devices[rid] = 1


@scenario("bind-tells-first", usual=["iommu", "kvm"], deviating=["kvm", "iommu"])
def whose_entry_is_first(lab):
    lab.bound()
    return [
        event.actor
        for event in lab.time.events
        if event.verb is Verb.WRITE_ENTRY and event.altitude == HOST and event.fact("pasid") == lab.h
    ]


@deviant("failed-bind-leaves")
def take_back(svm, binding, rid):
    if rid in binding.devices:
        USUAL["failed-bind-leaves"](svm, binding, rid)
    else:
        svm._detach(binding)


@scenario("failed-bind-leaves", usual=("EINVAL", None, 0), deviating=("EINVAL", 2, 1))
def an_address_width_that_no_entry_has(lab):
    """KVM goes on translating, and after FREE the ID never drains."""
    vm = lab.vm("vm1", "shared")
    number, app = vm.request_pasid(), vm.spawn("app")
    data = GuestPasidBind(number, app.process.mm.root, 5, addr_width=30)
    answer = lab.do(vm.vmm.container.bind_pgtbl, vm.devices[0].name, data)
    translation = vm.vmm.kvm.entry(5)
    vm.return_pasid(number)
    lab.m.run()
    return answer, translation, lab.core.refs(number)


@deviant("iommu-unchecked")
def hold(svm, pasid):
    with suppress(KernelError):
        svm.core.get(pasid, "iommu")


@scenario("iommu-unchecked", usual=("ENOENT", False), deviating=(None, True))
def a_bind_for_the_dying(lab):
    """The entry is there when the ID is gone."""
    dying_and_not_bound(lab)
    data = GuestPasidBind(lab.h, lab.app.process.mm.root)
    answer = lab.do(lab.vm1.vmm.container.bind_pgtbl, lab.adi.name, data)
    lab.m.run()
    assert lab.h not in lab.core.ids
    return answer, lab.present(lab.h)


@deviant("aux-second-bind")
def bind_again(svm, binding, rid, domain):
    raise KernelError("EBUSY", "already bound")


@scenario("aux-second-bind", usual=["BIND"], deviating=["BIND", "UNBIND", "BIND"])
def two_interfaces_of_one_parent(lab):
    """A process uses both and closes one: its work on the other has no entry for a while."""
    vm = lab.vm("vm1", "shared", "shared")
    app = vm.spawn("app")
    for device in vm.devices:
        app.bind(device)
    number = vm.pasids[1]
    app.unbind(vm.devices[0])
    return [told for told in lab.told(number) if told != "ALLOC"]


@deviant("kvm-unchecked")
def hold_entry(kvm, host_pasid):
    with suppress(KernelError):
        kvm._kernel.ioasid.get_locked(host_pasid, kvm.holder)


@scenario("kvm-unchecked", usual=("ENOENT", None), deviating=(None, 2))
def a_translation_for_the_dying(lab):
    """The entry is there when the ID is gone."""
    dying_without_spid(lab)
    answer = lab.do(lab.core.attach_spid, lab.h, 9)
    lab.m.run()
    assert lab.h not in lab.core.ids
    return answer, lab.vm1.vmm.kvm.entry(9)


@deviant("put-before-free")
def let_go(svm, pasid):
    pass


@scenario("put-before-free", usual=(), deviating=("vfio", "iommu"))
def unbind_and_free(lab):
    lab.bound()
    lab.app.unbind(lab.adi)
    lab.m.run()
    return lab.holders(lab.h)


@deviant("vcmd-free-refused")
def free(allocator, ioasid):
    pass


@scenario("vcmd-free-refused", usual=({}, 0), deviating=({1: 2}, 1))
def a_guest_gives_its_pasid_back(lab):
    """The guest has forgotten it, the host has not."""
    lab.bound()
    lab.app.unbind(lab.adi)
    return lab.vm1.pasids, lab.vm1.vmm.container.set.count


@deviant("pasid-of-mm")
def last_unbind(sva, process):
    pass


@scenario("pasid-of-mm", usual=(None, []), deviating=(1, []))
def a_native_process(lab):
    app = lab.m.spawn("native")
    app.bind(lab.dsa)
    app.unbind(lab.dsa)
    pasid = app.pasid
    app.exit()
    return pasid, lab.core.ids.keys()
