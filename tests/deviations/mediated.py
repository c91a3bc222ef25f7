"""What a VM has of a device: what the code did, and where it shows."""

from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.commands import Command
from pasidlab.hardware.cpu import VmEntryBlocked
from pasidlab.hardware.layouts.dsa import CMD, CMDSTS, MSIX_PERM
from pasidlab.kernel.ioasid.notifier import IoasidEvent, Payload
from pasidlab.virt.ims import Message
from tests.deviations.switch import USUAL, deviant, scenario


@deviant("vdcm-keeps-reference")
def drop(adi):
    adi._kernel.ioasid.work.cancel(adi)
    held, adi.programmed = adi.programmed, None
    command = CMD["cmd"].get((adi.get32(at.CMD),))
    active = CMDSTS["active"].get((adi.get32(at.CMDSTS),))
    if held is not None and active and command == Command.DISABLE_WQ:
        adi._kernel.ioasid.put(held, adi.holder)


@scenario("vdcm-keeps-reference", usual=[False, False], deviating=[False, True])
def a_guest_stops_its_queue(lab):
    """By DISABLE_WQ, and by a reset of the device: whether the reference stays."""
    lab.bound("dedicated")
    stays = []
    for stop in (lambda: lab.driver.disable(0), lab.driver.reset):
        lab.do(stop)
        stays.append("vdcm:adi0" in lab.holders(lab.h))
        lab.do(lab.driver._command, Command.ENABLE_DEVICE)
        lab.do(lab.driver.enable_for, 0, 1)
    return stays


@deviant("vdcm-drains-guest-number")
def drain_shared(adi, host_pasid):
    adi.parent.drain_pasid(adi._kernel.ioasid.ids[host_pasid].spid)


@scenario("vdcm-drains-guest-number", usual=b"xxxx", deviating=bytes(4))
def a_descriptor_when_its_pasid_is_freed(lab):
    """Drained, or left to run under the number of somebody else."""
    lab.copying()
    lab.vm1.free_pasid(1)
    lab.clean_up()
    return lab.app.read(lab.dst, 4)


@deviant("vdcm-shared-put")
def run_work(adi, what):
    USUAL["vdcm-shared-put"](adi, what)
    core, host_pasid = adi._kernel.ioasid, int(what)
    if not adi.queue.dedicated and host_pasid in core.ids:
        record = core.ids[host_pasid]
        core._drop(record, record.refs - 1)


@scenario("vdcm-shared-put", usual=(False, False), deviating=(False, True))
def free_while_bound_on_a_shared_queue(lab):
    """The ID is gone, and its entry is not."""
    lab.bound()
    lab.vm1.free_pasid(1)
    lab.m.run()
    return lab.h in lab.core.ids, lab.present(lab.h)


@deviant("vdcm-dedicated-free")
def concerned(adi, event, payload):
    return not adi.queue.dedicated and event in (IoasidEvent.UNBIND, IoasidEvent.FREE)


@scenario("vdcm-dedicated-free", usual=(), deviating=("vdcm:adi0",))
def free_while_programmed(lab):
    lab.bound("dedicated")
    lab.vm1.free_pasid(1)
    lab.m.run()
    return lab.holders(lab.h)


@deviant("vdcm-interrupt-reference")
def let_go(vectors, host_pasid, locked):
    """Nothing drops it."""


@scenario("vdcm-interrupt-reference", usual=False, deviating=True)
def an_interrupt_is_taken_away(lab):
    """Whether the reference stays."""
    lab.bound()
    device = lab.vm1.vmm.mdevs[lab.adi.name]
    lab.do(device.mmio_write, at.MSIX_PERM + 8, MSIX_PERM.encode(pasid_en=1, pasid=1)[0], 4)
    lab.do(device.wire, 1, Message(0xFEE0_0000, 0x50))
    lab.do(device.vectors.unwire, 1)
    return "ims:adi0" in lab.holders(lab.h)


@deviant("vdcm-portal-reference")
def submitted(device, host_pasid):
    """Nothing drops it."""


@scenario("vdcm-portal-reference", usual=0, deviating=2)
def two_descriptors_at_the_emulated_portal(lab):
    """How many references stay."""
    lab.bound()
    lab.do(lab.vm1.vmm.mdevs[lab.adi.name].emulate_portal, True)
    src, dst = lab.app.buffer(b"x"), lab.app.buffer(1)
    for _ in range(2):
        lab.app.copy(lab.adi, src, dst, 1)
    return lab.holders(lab.h).count("vdcm:adi0")


@deviant("kvm-leaves-block")
def allow_entry_after_warning(kvm):
    """Nobody lets the vCPUs in."""


@scenario("kvm-leaves-block", usual="runs", deviating="kept out")
def an_unbind_without_entry(lab):
    """Whether the guest goes on."""
    lab.bound()
    lab.do(lab.vm1.vmm.kvm.ioasid_notified, IoasidEvent.UNBIND, Payload(lab.h, 9, 1))
    try:
        lab.do(lab.vm1.vmm.cpu.write_msr, 0xD93, 0)
    except VmEntryBlocked:
        return "kept out"
    return "runs"
