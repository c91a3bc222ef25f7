"""FREE, and what follows it: what the code did, and where it shows."""

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.commands import Command
from pasidlab.kernel.ioasid.notifier import IoasidEvent, NotifyFlag
from pasidlab.kernel.ioasid.record import Phase, State
from pasidlab.timeline import Part, Verb
from tests.deviations.switch import USUAL, deviant, scenario


def dying_and_not_bound(lab):
    """A dying host PASID that only a dedicated queue holds, whose clean-up waits."""
    lab.vm1 = lab.vm("vm1", "dedicated")
    lab.adi = lab.vm1.devices[0]
    lab.driver = lab.vm1.kernel.accelerators[lab.adi.name]
    lab.app = lab.vm1.spawn("app")
    lab.h = lab.vm1.request_pasid()
    lab.do(lab.core.attach_spid, lab.h, 5)
    lab.do(lab.driver.enable_for, 0, 5)
    lab.vm1.return_pasid(lab.h)
    assert lab.holders(lab.h) == ("vdcm:adi0",)


def dying_without_spid(lab):
    """A dying host PASID that was bound without a guest's number, whose clean-up waits."""
    lab.vm1 = lab.vm("vm1", "shared")
    lab.app = lab.vm1.spawn("app")
    lab.h = lab.vm1.request_pasid()
    lab.vm1.bind_raw(lab.vm1.devices[0], lab.h, lab.app)
    lab.vm1.return_pasid(lab.h)
    assert lab.holders(lab.h) == ("iommu",)


@deviant("dying-get-errno")
def refuse_get(core, record):
    if record.free_pending:
        raise KernelError("EBUSY", f"PASID {record.ioasid} was freed")


@scenario("dying-get-errno", usual="ENOENT", deviating="EBUSY")
def a_late_user(lab):
    lab.bound()
    lab.vm1.free_pasid(1)
    return lab.do(lab.core.get, lab.h, "late")


@deviant("dying-find")
def living(core, ioasid, the_set=None):
    record = core._known(ioasid)
    core._check_owner(record, the_set)
    return record


@scenario("dying-find", usual="ENOENT", deviating=True)
def a_late_look(lab):
    lab.bound()
    lab.vm1.free_pasid(1)
    found = lab.do(lab.core.find, lab.h)
    return found if isinstance(found, str) else found is lab.m.kernel.svm.binding_of(lab.h)


@deviant("dying-spid-reference")
def find_by_spid(core, the_set, spid, holder=None):
    ioasid = the_set.spids.get(spid)
    if ioasid is not None and holder is not None:
        core._take(core.ids[ioasid], holder)
    return ioasid


@scenario("dying-spid-reference", usual=("PASID_EN", ()), deviating=("SUCCESS", ("vdcm:adi0",)))
def a_guest_that_programs_its_dying_pasid(lab):
    lab.bound("dedicated")
    lab.vm1.free_pasid(1)
    lab.do(lab.driver.disable, 0)
    lab.do(lab.driver._write_pasid, 0, 1)
    answer = lab.do(lab.driver._command, Command.ENABLE_WQ, 0)
    lab.m.run()
    return answer.name, lab.holders(lab.h)


@deviant("dying-attach-spid")
def to_get_a_spid(core, ioasid):
    return core._known(ioasid)


@scenario("dying-attach-spid", usual=("ENOENT", ["ALLOC", "FREE"]), deviating=(None, ["ALLOC", "FREE", "BIND"]))
def a_number_for_the_dying(lab):
    dying_without_spid(lab)
    return lab.do(lab.core.attach_spid, lab.h, 9), lab.told(lab.h)


@deviant("dying-attach-data")
def to_carry_data(core, ioasid):
    return core._known(ioasid)


@scenario("dying-attach-data", usual="ENOENT", deviating=None)
def data_for_the_dying(lab):
    dying_and_not_bound(lab)
    return lab.do(lab.core.attach_data, lab.h, Part(lab.time, "data"))


@deviant("dying-unbind")
def tell_unbind(core, record):
    core.notifiers.deliver(record, IoasidEvent.UNBIND, NotifyFlag.SET)


@scenario("dying-unbind", usual=["ALLOC", "BIND", "FREE"], deviating=["ALLOC", "BIND", "FREE", "UNBIND"])
def clean_up_after_free(lab):
    lab.bound()
    lab.vm1.free_pasid(1)
    lab.m.run()
    return lab.told(lab.h)


@deviant("free-all-hides-dying")
def free_all(core, the_set):
    for ioasid in the_set.ids.keys():
        core.free(the_set, ioasid)
        if ioasid in core.ids:
            the_set.erase(core.ids[ioasid])


@scenario("free-all-hides-dying", usual=(True, False), deviating=(False, False))
def the_last_user_goes(lab):
    lab.bound("dedicated")
    user = lab.vm1.vmm.container.user

    def free_all():
        del user.pasids[lab.h]
        lab.core.free_all(user.set)

    lab.do(free_all)
    found = lab.do(lab.core.find_by_spid, user.set, 1) == lab.h
    lab.m.run()
    return found, lab.h in lab.core.ids


@deviant("free-without-set")
def not_to_free(core, the_set, record):
    if record is None or record.owner is not the_set:
        return "it is not of that set"
    return "it was freed already" if record.free_pending else ""


@scenario("free-without-set", usual=False, deviating=True)
def an_owner_that_does_not_name_its_set(lab):
    vm = lab.vm("vm1")
    number, user = vm.request_pasid(), vm.vmm.container.user

    def free():
        del user.pasids[number]
        lab.core.free(None, number)

    lab.do(free)
    return number in lab.core.ids


@deviant("own-reference-first")
def free_used(core, record):
    record.phase = Phase.PENDING
    if not core._drop(record, 0):
        core.notifiers.deliver(record, IoasidEvent.FREE, NotifyFlag.ALL | NotifyFlag.SET)


@scenario("own-reference-first", usual=[("kvm", 2), ("vdcm", 1)], deviating=[("kvm", 1), ("vdcm", 0)])
def the_last_user_drops_in_its_handler(lab):
    """Who is told second finds an ID that is gone."""
    vm = lab.vm("vm1", "shared")
    number = vm.request_pasid()
    lab.do(lab.core.attach_spid, number, 5)
    step = lab.time.now
    vm.return_pasid(number)
    return [(event.actor, event.fact("refs")) for event in lab.since(step) if event.verb is Verb.HANDLE]


def state(record):
    found = USUAL["active-never"].fget(record)
    return State.IDLE if found is State.ACTIVE else found


deviant("active-never")(property(state))


@scenario("active-never", usual="active", deviating="idle")
def a_bound_pasid(lab):
    lab.bound()
    return str(lab.core.ids[lab.h].state)
