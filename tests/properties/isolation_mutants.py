"""Planted bugs: each a mistake that a driver, KVM or a hypervisor could make; the world of isolation has to find it.

A mutant replaces methods of the package while it is in force. What it breaks has to be seen within a bounded number of
steps, by whatever looks first: a rule, the second opinion, or the bytes of an honest program.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple
from unittest.mock import patch

from pasidlab.errors import KernelError
from pasidlab.hardware.accelerator.register_map import PORTAL_STRIDE
from pasidlab.kernel.idxd import Idxd
from pasidlab.kernel.ioasid.core import IoasidCore
from pasidlab.kernel.ioasid.notifier import IoasidEvent
from pasidlab.kernel.iommu.page_requests import PageRequests
from pasidlab.kernel.iommu.vtd.driver import VtdDriver
from pasidlab.kernel.iommu.vtd.nested import NestedEntry
from pasidlab.kernel.iommu.vtd.svm import Svm
from pasidlab.kernel.iommu.vtd.teardown import VtdTeardown
from pasidlab.virt.kvm import KvmVm
from pasidlab.virt.vfio import VfioContainer
from pasidlab.virt.viommu.vtd import VirtualVtd
from pasidlab.virt.vmm import Vmm
from tests.properties.isolation import CENTRES, DataCentre
from tests.properties.isolation_mutants_tables import (
    AMD_MUTANTS,
    PATIENT_TABLE_MUTANTS,
    PLAIN_TABLE_MUTANTS,
    SMMU_MUTANTS,
)
from tests.properties.isolation_oracle import Outsider
from tests.properties.isolation_programs import IsolationFailure

__all__ = ["MUTANTS", "PATIENT", "PLAIN", "caught"]


def vdcm_does_not_convert(stack):
    """A dedicated queue is programmed with the guest's number as it is."""
    find = IoasidCore.find_by_spid

    def as_it_is(self, the_set, spid, holder=None):
        return spid if holder is not None and holder.startswith("vdcm") else find(self, the_set, spid, holder)

    stack.enter_context(patch.object(IoasidCore, "find_by_spid", as_it_is))


def vdcm_takes_no_reference(stack):
    """A programmed PASID is converted, and not held."""
    find = IoasidCore.find_by_spid
    stack.enter_context(
        patch.object(IoasidCore, "find_by_spid", lambda self, the_set, spid, holder=None: find(self, the_set, spid))
    )


def vdcm_leaves_the_drain_out(stack):
    """A shared queue is not drained before a number can be somebody else's."""
    stack.enter_context(patch.object(Idxd, "drain_pasid", lambda self, pasid: None))


def kvm_keeps_entries(stack):
    """UNBIND and FREE do not clear the translation of ENQCMD."""
    stack.enter_context(patch.object(KvmVm, "_ends", staticmethod(lambda event: False)))


def kvm_ignores_free(stack):
    """Only UNBIND clears it (as the code that was posted had it)."""
    stack.enter_context(patch.object(KvmVm, "_ends", staticmethod(lambda event: event is IoasidEvent.UNBIND)))


def kvm_writes_guest_numbers(stack):
    """The table of the CPU maps each number to itself."""
    write = KvmVm._set_entry
    stack.enter_context(patch.object(KvmVm, "_set_entry", lambda self, guest, host: write(self, guest, guest)))


def cpu_does_not_translate(stack):
    """ENQCMD leaves a guest with the guest's number, although interfaces are shared."""
    admit = Vmm._admit_interface

    def without(self):
        admit(self)
        self.kvm.translate_pasids(on=False)

    stack.enter_context(patch.object(Vmm, "_admit_interface", without))


def default_pasid_of_another_vm(stack):
    """A dedicated queue without a number gets the first default PASID that was ever given out."""
    attach, enable_for, defaults = VfioContainer.attach_aux, Idxd.enable_for, []

    def remember(self, key, rid):
        defaults.append(attach(self, key, rid))
        return defaults[-1]

    def first(self, index, pasid, *, privileged=False):
        return enable_for(self, index, defaults[0] if pasid in defaults else pasid, privileged=privileged)

    stack.enter_context(patch.object(VfioContainer, "attach_aux", remember))
    stack.enter_context(patch.object(Idxd, "enable_for", first))


def portal_of_another_queue(stack):
    """The page that a guest gets is the portal of the queue beside its own."""
    plug = Vmm._plug

    def beside(self, name, function, offset, size):
        if name in self.mdevs:
            driver, index = self.mdevs[name].parent, self.mdevs[name].queue.index
            step = (index + 1) % driver.queue_count - index
            function = function._replace(portal=function.portal + step * PORTAL_STRIDE)
        return plug(self, name, function, offset, size)

    stack.enter_context(patch.object(Vmm, "_plug", beside))


def spids_of_all_sets(stack):
    """A guest's number is looked up among those of all VMs."""
    find = IoasidCore.find_by_spid

    def anywhere(self, the_set, spid, holder=None):
        sets = [other for other in self.sets.values() if spid in other.spids]
        return find(self, sets[0] if sets else the_set, spid, holder)

    stack.enter_context(patch.object(IoasidCore, "find_by_spid", anywhere))


def second_level_of_another_vm(stack):
    """A nested entry gets the second level of the first domain."""
    nested = Svm._nested

    def wrong(self, rid, number, domain, data):
        return nested(self, rid, number, self.driver.domains.values()[0], data)

    stack.enter_context(patch.object(Svm, "_nested", wrong))


def anybody_may_bind(stack):
    """VFIO binds whatever host PASID it is asked to."""
    stack.enter_context(patch.object(Svm, "_look_up", lambda self, pasid, the_set: None))
    bind = Svm.bind_guest

    def unasked(self, rid, domain, data, the_set):
        record = self.core.ids.get(data.hpasid) if data is not None else None
        return bind(self, rid, domain, data, the_set if record is None else record.owner)

    stack.enter_context(patch.object(Svm, "bind_guest", unasked))


def page_response_to_another(stack):
    """An answer goes to the first request that waits, whoever asked."""
    respond = PageRequests.respond

    def first(self, rid, pasid, group, code):
        rid, pasid, group = [*self.pending.keys(), (rid, pasid, group)][0]
        respond(self, rid, pasid, group, code)

    stack.enter_context(patch.object(PageRequests, "respond", first))


def failures_stop_the_device(stack):
    """A guest's response failure on an interface is handed on as it is."""

    def hand_on(self, key, hpasid, group, code):
        device = self._device(key)
        number = self._kernel.svm.number_on(device.rid, hpasid)
        self._kernel.iommu.page_requests.respond(device.rid, number, group, code)

    stack.enter_context(patch.object(VfioContainer, "page_response", hand_on))


def iotlb_flush_left_out(stack):
    """Memory is unmapped, and the IOMMU is not told."""
    stack.enter_context(patch.object(VtdDriver, "flush_pages", lambda self, did, pasid, rids, pages: None))


def device_tlb_flush_left_out(stack):
    """Devices are not told either."""
    stack.enter_context(patch.object(VtdDriver, "device_flush", lambda self, rid, pasid=0: []))


def pasid_cache_flush_left_out(stack):
    """The unit is not told that an entry has gone."""
    leave_out(stack, "pasid-cache")


def page_drain_left_out(stack):
    """Page requests of a number that ends are not waited for."""
    leave_out(stack, "drain")


def leave_out(stack, step):
    """The driver's teardown forgets a step."""
    run = VtdTeardown.run

    def forgetful(self, rid, pasid, *, fault_disable=False):
        self.left_out = frozenset({step})
        run(self, rid, pasid, fault_disable=fault_disable)

    stack.enter_context(patch.object(VtdTeardown, "run", forgetful))


def entries_stay(stack):
    """Who closes a container leaves its bindings where they are."""
    stack.enter_context(patch.object(Svm, "unbind_guest", lambda self, rid, pasid, the_set, entirely=False: None))


def guests_free_any_number(stack):
    """The hypervisor frees what it is told, without looking whose it is."""

    def free(self, guest_pasid):
        core = self._container._kernel.ioasid
        host_pasid = self.pasids.get(guest_pasid, guest_pasid)
        if host_pasid in core.ids:
            core.free(core.ids[host_pasid].owner, host_pasid)
        return True

    stack.enter_context(patch.object(VirtualVtd, "_free", free))


def roots_are_host_physical(stack):
    """A guest's page table is entered as a first-level table without the second level."""
    words = NestedEntry.words

    def first(self):
        entry = list(words(self))
        entry[0] = entry[0] & ~(7 << 6) | 1 << 6
        return tuple(entry)

    stack.enter_context(patch.object(NestedEntry, "words", first))


VTD_MUTANTS: tuple[Callable[[ExitStack], None], ...] = (
    vdcm_does_not_convert,
    vdcm_takes_no_reference,
    vdcm_leaves_the_drain_out,
    kvm_keeps_entries,
    kvm_ignores_free,
    kvm_writes_guest_numbers,
    cpu_does_not_translate,
    default_pasid_of_another_vm,
    portal_of_another_queue,
    spids_of_all_sets,
    second_level_of_another_vm,
    anybody_may_bind,
    page_response_to_another,
    failures_stop_the_device,
    iotlb_flush_left_out,
    device_tlb_flush_left_out,
    pasid_cache_flush_left_out,
    page_drain_left_out,
    entries_stay,
    guests_free_any_number,
    roots_are_host_physical,
)

PATIENT = (
    iotlb_flush_left_out,
    page_response_to_another,
    failures_stop_the_device,
    portal_of_another_queue,
    *PATIENT_TABLE_MUTANTS,
)
"""What may take thousands of steps to be seen: for the nightly mode."""

PLAIN = (
    vdcm_does_not_convert,
    second_level_of_another_vm,
    iotlb_flush_left_out,
    device_tlb_flush_left_out,
    guests_free_any_number,
    roots_are_host_physical,
    *PLAIN_TABLE_MUTANTS,
)
"""What harms others so plainly that no rule is needed to see it."""


MUTANTS = {"vtd": VTD_MUTANTS, "smmuv3": SMMU_MUTANTS, "amdvi": AMD_MUTANTS}
"""By the machine's IOMMU."""


class Found(NamedTuple):
    """After how many steps something was wrong, and what."""

    steps: int
    what: str


def caught(mutant, iommu, worlds, life=150, *, rules=True):
    """How many steps it took until something was wrong, and what; ``None`` if nothing was.

    Without ``rules`` nobody asks ``check()``: what is found then is found without the package's own rules.
    """
    steps, seen = 0, Counter[str]()
    with ExitStack() as stack:
        mutant(stack)
        if not rules:
            stack.enter_context(patch.object(DataCentre, "rules", lambda self: None))
        for world in range(worlds):
            try:
                centre = CENTRES[iommu](world, seen)
                for _ in range(life):
                    steps += 1
                    centre.step(centre.draw())
                centre.end()
            except (IsolationFailure, Outsider, KernelError) as error:
                return Found(steps, f"{type(error).__name__}: {error}".splitlines()[0])
    return None
