"""Small worlds to test in, and what tests ask them: who did what, what changed, what was told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pasidlab.errors import KernelError
from pasidlab.handles import VirtualMachine
from pasidlab.kernel.iommu.vtd.driver import VtdDriver
from pasidlab.kernel.kernel import Kernel
from pasidlab.machine import Machine
from pasidlab.timeline import HOST, Verb
from pasidlab.virt.viommu.vtd import VirtualVtd

__all__ = ["TwoVms", "World", "net_changes", "references", "tree", "virtual_vtd", "vtd_of"]


class World:
    """A machine with one accelerator. Tests hang on it what they need besides."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

        def __setattr__(self, name: str, value: Any) -> None: ...

    def __init__(self, *, ats=True, **options):
        self.m = Machine(**options)
        self.dsa = self.m.plug_accelerator("dsa0", ats=ats)

    @property
    def time(self):
        """Its timeline."""
        return self.m.timeline

    @property
    def core(self):
        """The host's IOASID core."""
        return self.m.kernel.ioasid

    def vm(self, name, *queues, **options):
        """A VM with interfaces of dsa0, one for each kind of queue."""
        vm = self.m.create_vm(name, memory=1 << 20, **options)
        for queue in queues:
            self.m.assign_adi(self.dsa, vm, queue=queue)
        return vm

    def since(self, step):
        """The events from a step on."""
        return self.time.events[step:]

    def refused(self, call, *args, **kwargs):
        """The error of a call that must be refused."""
        with pytest.raises(KernelError) as error:
            call(*args, **kwargs)
        assert self.m.check().ok, self.m.check()
        return error.value

    def entry(self, pasid, rid=None):
        """The eight words of a PASID entry of dsa0, as they lie in memory."""
        return self.m.kernel.iommu.read_entry(rid or self.dsa.rid, pasid)


class TwoVms(World):
    """Two VMs, each with an interface, each with a process that has buffers and is bound."""

    def __init__(self, queue="shared", **options):
        super().__init__(**options)
        self.vm1, self.vm2 = (self.vm(name, queue) for name in ("vm1", "vm2"))
        self.adi1, self.adi2 = self.vm1.devices[0], self.vm2.devices[0]
        self.app1, self.app2 = self.vm1.spawn("app"), self.vm2.spawn("app")
        self.app1.bind(self.adi1)
        self.app2.bind(self.adi2)
        self.h1, self.h2 = self.vm1.pasids[1], self.vm2.pasids[1]


def vtd_of(kernel: Kernel) -> VtdDriver:
    """The VT-d driver of a kernel, the host's or a guest's."""
    driver = kernel.iommu
    assert isinstance(driver, VtdDriver)
    return driver


def virtual_vtd(vm: VirtualMachine) -> VirtualVtd:
    """The unit that a VM on VT-d is shown."""
    viommu = vm.vmm.viommu
    assert isinstance(viommu, VirtualVtd)
    return viommu


def references(events, ioasid):
    """How the reference count of a host PASID went: what happened, who, and the count after it."""
    verbs = (Verb.ALLOC, Verb.GET, Verb.PUT, Verb.RECLAIM)
    return [
        (str(event.verb), event.fact("holder"), event.fact("refs"))
        for event in events
        if event.altitude == HOST and event.actor == "ioasid" and event.fact("ioasid") == ioasid and event.verb in verbs
    ]


def tree(events, event):
    """The verbs and actors from an event up to its call."""
    by_number = {one.number: one for one in events}
    path = []
    while event is not None:
        path.append((event.actor, str(event.verb)))
        event = by_number.get(event.cause)
    return path


def net_changes(machine, position):
    """Cells whose value differs from what it was at a position of the journal: ``{(path, key): (then, now)}``."""
    found: dict[Any, Any] = {}
    for cells, key, old, new in machine.timeline.journal.changes(position):
        then = found.get((cells, key), (old,))[0]
        found[cells, key] = (then, new)
    return {
        (cells.path, key): pair for (cells, key), pair in found.items() if pair[0] is not pair[1] and pair[0] != pair[1]
    }
