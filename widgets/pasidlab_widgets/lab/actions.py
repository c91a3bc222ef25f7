"""What the buttons do: calls on the machine, and what there is to say about their answers.

Nothing is decided here. A refusal is a :class:`~pasidlab.errors.KernelError` that passes through; whoever called puts
it into words (:mod:`pasidlab_widgets.lab.explain`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.handles import PhysicalFunction
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.hardware.pcie import format_rid
from pasidlab.timeline import HOST
from pasidlab.views.numbers import counted
from pasidlab.views.wire import ambiguities, wire_lines
from pasidlab.virt.policies import POLICIES
from pasidlab_widgets.lab.choices import app_of, device_of
from pasidlab_widgets.lab.explain import copy_stopped
from pasidlab_widgets.lab.message import Message, say

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = [
    "assign_adi",
    "assign_pf",
    "bind",
    "check",
    "copy",
    "crash",
    "create_vm",
    "free_early",
    "kill",
    "plug",
    "run",
    "set_quota",
    "spawn",
    "submit",
    "unbind",
]


def plug(machine: Machine, name: str) -> Message:
    """Plug in an accelerator.

    >>> from pasidlab import Machine
    >>> plug(Machine(), "dsa0").title
    'dsa0 is plugged in'
    """
    device = machine.plug_accelerator(name)
    return say("plug", device=name, queues=device.hardware.num_wqs, rid=format_rid(device.rid))


def check(machine: Machine) -> Message:
    """Evaluate the invariants."""
    report = machine.check()
    if report.ok:
        title = str(report).splitlines()[0].split()[0]
        return say("check-ok", count=title, count_ids=counted(len(report.holdings), "IOASID")).of(("m.check()",))
    where = "; ".join(map(str, report.violations))
    return say("check-broken", "broken", count=len(report.violations), s=_s(len(report.violations)), where=where)


def run(machine: Machine, everything: bool, number: str = "") -> Message:
    """Carry out waiting work: the piece of this number (default: the oldest one), or all."""
    done = machine.run() if everything else machine.run(int(number) if number else machine.pending[0].number)
    return say("run", count=done, s=_s(done), left=len(machine.pending))


def create_vm(machine: Machine, name: str, quota: int, policy: str = "") -> Message:
    """Create a VM; without ``policy`` its first device decides whose numbers its guest sees."""
    vm = machine.create_vm(name, quota=quota, policy=policy) if policy else machine.create_vm(name, quota=quota)
    return say(f"create-vm-{machine.quota_policy}", vm=vm.name, quota=quota)


def set_quota(machine: Machine, name: str, quota: int) -> Message:
    """Allow a VM another number of PASIDs, as the policy of the machine has it.

    >>> from pasidlab import Machine
    >>> m = Machine(quota_policy="cgroup"); vm = m.create_vm("vm1", quota=2); set_quota(m, "vm1", 3).title
    'Group vm1 may have 3 of the PASIDs'
    """
    vm = machine.vm(name)
    vm.set_quota(quota)
    facts: dict[str, object] = {"vm": name, "quota": quota, "used": vm.used}
    if machine.quota_policy == "cgroup":
        facts |= {"group": vm.group.path, "members": ", ".join(member.name for member in vm.group.members)}
    said = say(f"set-quota-{machine.quota_policy}", **facts)
    return said.also(*say("set-quota-over").sentences) if vm.used > quota else said


def assign_adi(machine: Machine, device: str, vm: str, queue: str) -> Message:
    """Give an interface on a queue of ``device`` to a VM."""
    parent = machine.functions[device].path
    adi = machine.assign_adi(PhysicalFunction(machine, device), machine.vm(vm), queue=queue)
    pasid = machine.vm(vm).vmm.container.domain.default_pasid
    return say("assign-adi", device=adi.name, vm=vm, queue=queue, parent=parent, pasid=pasid)


def assign_pf(machine: Machine, device: str, vm: str) -> Message:
    """Give a whole function to a VM."""
    machine.assign_pf(PhysicalFunction(machine, device), machine.vm(vm))
    if FAMILIES[machine.iommu].binds_tables:
        return say("assign-pf-whole", device=device, vm=vm)
    policy = machine.vm(vm).vmm.policy
    own = policy is not None and POLICIES[policy].own_numbers
    return say("assign-pf-own" if own else "assign-pf", device=device, vm=vm)


def crash(machine: Machine, name: str) -> Message:
    """Kill a VM's hypervisor."""
    vm = machine.vm(name)
    back = counted(vm.vmm.container.set.count, "PASID") + " and " + counted(len(vm.devices), "device")
    vm.crash()
    return say("crash", vm=name, back=back)


def spawn(machine: Machine, where: str, name: str) -> Message:
    """Start a process in a VM or on the host."""
    app = machine.spawn(name) if where == HOST else machine.vm(where).spawn(name)
    return say("spawn", process=app.name, where="the host" if where == HOST else where)


def bind(machine: Machine, process: str, device: str) -> Message:
    """Bind a process to a device."""
    app = app_of(machine, process)
    pasid = app.bind(device_of(machine, app, device))
    if app.altitude == HOST:
        return say("bind-host", process=app.name, pasid=pasid)
    host = machine.vm(app.altitude).pasids.get(pasid)
    facts: dict[str, object] = {"process": app.name, "where": app.altitude, "pasid": pasid, "host": host}
    if FAMILIES[machine.iommu].binds_tables:
        return say("bind-whole", **facts)
    if host is None:
        return say("bind-unbacked", **facts)
    line = next((one for one in wire_lines(machine, app) if one.device == device), None)
    if line is None or machine.kernel.svm.number_on(line.rid, host) == host:
        return say("bind-guest", **facts)
    said = say("bind-own", device=device, wire=line.wire, **facts)
    return said.also(*ambiguities(machine, app, [line]))


def free_early(machine: Machine, process: str) -> Message:
    """Let a guest give a PASID back that is still bound."""
    app = app_of(machine, process)
    vm, guest = machine.vm(app.altitude), app.pasid
    assert guest is not None
    host = vm.pasids[guest]
    vm.free_pasid(guest)
    record = machine.kernel.ioasid.ids.get(host)
    facts = {"process": app.name, "guest": guest, "host": host}
    return say("free-early", holders=" and ".join(record.holders), **facts) if record else say("freed", **facts)


def unbind(machine: Machine, process: str, device: str) -> Message:
    """Undo a bind."""
    app = app_of(machine, process)
    pasid = app.pasid
    whole = FAMILIES[machine.iommu].binds_tables
    early = app.altitude != HOST and not whole and pasid not in machine.vm(app.altitude).pasids
    app.unbind(device_of(machine, app, device))
    if early:
        return say("unbind", process=app.name, device=device, left=say("unbind-late", pasid=pasid).sentences[0])
    gone = "unbind-host" if app.altitude == HOST else "unbind-whole" if whole else "unbind-guest"
    left = say(gone if app.pasid is None else "unbind-kept", pasid=pasid).sentences[0]
    return say("unbind", process=app.name, device=device, left=left)


def copy(machine: Machine, process: str, device: str, text: str) -> Message:
    """Copy a text between two new buffers of a process by DMA, and read the second one back."""
    app = app_of(machine, process)
    data = text.encode()
    source, target = app.buffer(data), app.buffer(len(data))
    start = machine.timeline.now
    outcome = app.copy(device_of(machine, app, device), source, target, len(data))
    stopped = copy_stopped(machine, start, outcome)
    if stopped is not None:
        return stopped
    content = repr(app.read(target, len(data)).decode(errors="replace"))
    facts = {"source": f"{source:#x}", "target": f"{target:#x}", "process": app.name, "content": content}
    return say("copy", count=outcome.copied, **facts)


def submit(machine: Machine, process: str, device: str, text: str) -> Message:
    """Submit the same copy and do not wait."""
    app = app_of(machine, process)
    data = text.encode()
    source, target = app.buffer(data), app.buffer(len(data))
    app.submit(device_of(machine, app, device), source, target, len(data))
    return say("submit")


def kill(machine: Machine, process: str) -> Message:
    """End a process."""
    app = app_of(machine, process)
    app.kill()
    return say("kill", process=app.name)


def _s(count: int) -> str:
    return "" if count == 1 else "s"
