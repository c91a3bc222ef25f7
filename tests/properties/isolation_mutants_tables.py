"""Planted bugs where a guest owns its table: mistakes of the SMMUv3 and AMD drivers, of VFIO, of the units themselves.

Each takes the stack that undoes it, as those of :mod:`.isolation_mutants` do.
"""

from __future__ import annotations

from unittest.mock import patch

from pasidlab.hardware.iommu.amdvi.tables import find_gcr3
from pasidlab.hardware.iommu.amdvi.walk import AmdWalker
from pasidlab.hardware.iommu.smmuv3.walk import SmmuWalker
from pasidlab.hardware.layouts.amd import DTE
from pasidlab.hardware.layouts.amd_queue import CMD_INV_IOMMU_PAGES
from pasidlab.hardware.layouts.smmu import STE
from pasidlab.hardware.layouts.smmu_queue import CMD_ATC_INV, CMD_CFGI_CD, CMD_CFGI_CD_ALL, COMMANDS
from pasidlab.kernel.iommu.amdvi import driver as amd_driver
from pasidlab.kernel.iommu.amdvi import entries as amd_entries
from pasidlab.kernel.iommu.amdvi import nested as amd_nested
from pasidlab.kernel.iommu.amdvi.driver import AmdDriver
from pasidlab.kernel.iommu.amdvi.nested import TableBind
from pasidlab.kernel.iommu.amdvi.queue import CommandBuffer
from pasidlab.kernel.iommu.amdvi.teardown import AmdTeardown
from pasidlab.kernel.iommu.page_requests import EVERY_PASID, PageRequests
from pasidlab.kernel.iommu.smmuv3 import nested as smmu_nested
from pasidlab.kernel.iommu.smmuv3.driver import SmmuDriver
from pasidlab.kernel.iommu.smmuv3.queue import CommandQueue
from pasidlab.kernel.iommu.smmuv3.teardown import SmmuTeardown
from pasidlab.virt.vfio import AssignedFunction, VfioContainer

__all__ = ["AMD_MUTANTS", "PATIENT_TABLE_MUTANTS", "PLAIN_TABLE_MUTANTS", "SMMU_MUTANTS"]


def replace(stack, owner, name, new):
    """Let ``new`` stand for a function of a class or module."""
    stack.enter_context(patch.object(owner, name, new))


def during(owner, method, other, name, new):
    """A method during which something else is replaced."""
    usual = getattr(owner, method)

    def with_bug(self, *args, **options):
        with patch.object(other, name, new):
            return usual(self, *args, **options)

    return with_bug


def leave_out(stack, teardown, step):
    """The driver's teardown forgets a step."""
    run = teardown.run

    def forgetful(self, *args, **options):
        self.left_out = frozenset({step})
        run(self, *args, **options)

    replace(stack, teardown, "run", forgetful)


# --- both vendors -----------------------------------------------------------------------------------------------------


def sinks_stay(stack):
    """VFIO forgets to take back who receives a device's page requests."""

    def let_go(self, rid):
        self._kernel.iommu.unbind_table(self.domain, rid)

    replace(stack, VfioContainer, "_let_go_of_table", let_go)


def page_response_to_another(stack):
    """An answer goes to the first request that waits, whoever asked."""
    respond = PageRequests.respond

    def first(self, rid, pasid, group, code):
        rid, pasid, group = [*self.pending.keys(), (rid, pasid, group)][0]
        respond(self, rid, pasid, group, code)

    replace(stack, PageRequests, "respond", first)


def tables_are_not_drained(stack):
    """When a whole table goes, what its device asked for is left behind."""
    drain = PageRequests.drain

    def some(self, rid, pasid, flush):
        if pasid != EVERY_PASID:
            drain(self, rid, pasid, flush)

    replace(stack, PageRequests, "drain", some)


def functions_are_not_reset(stack):
    """Who closes a function does not reset it: what the guest left running goes on."""
    replace(stack, AssignedFunction, "close", lambda self: None)


# --- SMMUv3 -----------------------------------------------------------------------------------------------------------


def smmu_forwards_the_guests_vmid(stack):
    """Invalidations go to the unit with the VMID that the guest wrote."""
    convert = smmu_nested.command_of_host

    def as_it_is(domain, command, devices):
        words = convert(domain, command, devices)
        layout = dict(COMMANDS)[command[0] & 0xFF]
        if any(field.name == "VMID" for field in layout):
            return layout.change(words, VMID=layout["VMID"].get(command))
        return words

    replace(stack, smmu_nested, "command_of_host", as_it_is)


def smmu_forwards_any_requester(stack):
    """Commands for a device go to the StreamID that the guest wrote."""
    convert = smmu_nested.command_of_host

    def anybody(domain, command, devices):
        layout = dict(COMMANDS).get(command[0] & 0xFF)
        if layout in (CMD_ATC_INV, CMD_CFGI_CD, CMD_CFGI_CD_ALL):
            return layout.change(command, SID=devices.get(layout["SID"].get(command), layout["SID"].get(command)))
        return convert(domain, command, devices)

    replace(stack, smmu_nested, "command_of_host", anybody)
    replace(stack, SmmuDriver, "_answers", lambda self, words: True)


def smmu_binds_what_the_guest_wrote(stack):
    """Config comes from the guest: stage 1 alone, or no translation at all."""
    bind = smmu_nested.stream_entry

    def as_it_is(driver, domain, rid, guest):
        words, ats = bind(driver, domain, rid, guest)
        return STE.change(words, Config=STE["Config"].get(guest)), ats

    replace(stack, smmu_nested, "stream_entry", as_it_is)


def smmu_takes_the_guests_vmid(stack):
    """S2VMID comes from the guest, and tags its translations."""
    second = SmmuDriver.second_stage

    def one_for_all(self, domain, rid):
        return STE.change(second(self, domain, rid), S2VMID=1)

    replace(stack, SmmuDriver, "second_stage", one_for_all)


def smmu_second_stage_of_another_vm(stack):
    """Stage 2 is that of the first domain."""
    second = SmmuDriver.second_stage
    replace(stack, SmmuDriver, "second_stage", lambda self, domain, rid: second(self, self.domains.values()[0], rid))


def smmu_reuses_vmids_unflushed(stack):
    """The TLB keeps what it has of a VMID that is given again."""
    nobody = CommandQueue.address_space(0xFFFF, 0xFFFF)
    replace(stack, CommandQueue, "machine", staticmethod(lambda vmid: nobody))


def smmu_detaches_without_cfgi(stack):
    """When a device leaves its VM the unit is not told that its entry is another one."""
    told = staticmethod(lambda rid, *, leaf=True: CommandQueue.context(rid, 0))
    bug = during(SmmuDriver, "pass_through", CommandQueue, "stream", told)
    replace(stack, SmmuDriver, "pass_through", bug)


def smmu_unbinds_without_cfgi(stack):
    """When a guest's table goes the unit is not told, and goes on using it."""
    told = staticmethod(lambda rid, *, leaf=True: CommandQueue.context(rid, 0))
    bug = during(SmmuDriver, "unbind_table", CommandQueue, "stream", told)
    replace(stack, SmmuDriver, "unbind_table", bug)


def smmu_detaches_in_name_only(stack):
    """A device that leaves its VM keeps the entry that it had."""
    replace(stack, SmmuDriver, "detach_domain", during(SmmuDriver, "detach_domain", SmmuDriver, "pass_through", _idle))


def amd_detaches_in_name_only(stack):
    """A device that leaves its VM keeps the entry that it had."""
    replace(stack, AmdDriver, "detach_domain", during(AmdDriver, "detach_domain", AmdDriver, "pass_through", _idle))


def _idle(self, rid):
    """Nothing."""


def smmu_fetches_contexts_untranslated(stack):
    """Silicon: the address of a context descriptor does not go through stage 2."""
    replace(stack, SmmuWalker, "intermediate", lambda self, ste, address, *rest: address)


def smmu_reads_tables_untranslated(stack):
    """Silicon: stage 2 is not asked for the tables of stage 1."""
    replace(stack, SmmuWalker, "_through", lambda self, walk, second, address, *rest: address)


def smmu_flushes_no_pages(stack):
    """Memory of a process is unmapped, and the unit is not told."""
    replace(stack, SmmuDriver, "flush_process", lambda self, pasid, rids, pages: None)


def smmu_flushes_no_device(stack):
    """Device TLBs are not told of anything."""
    replace(stack, SmmuDriver, "device_flush", lambda self, rid, pasid=None: [])


def smmu_keeps_contexts(stack):
    """The unit is not told that a context descriptor has gone."""
    leave_out(stack, SmmuTeardown, "pasid-cache")


def smmu_keeps_translations(stack):
    """The TLB is not told either."""
    leave_out(stack, SmmuTeardown, "iotlb")


# --- AMD --------------------------------------------------------------------------------------------------------------


def amd_forwards_the_guests_domain(stack):
    """Invalidations go to the unit with the DomainID that the guest wrote."""
    replace(stack, amd_nested, "_of_domain", lambda command, bound: [command.words])


def amd_forwards_any_requester(stack):
    """Commands for a device go to the requester ID that the guest wrote."""

    def anybody(command, devices, infos):
        rid = devices.get(command.field("devid"), command.field("devid"))
        return [command.layout.change(command.words, devid=rid, queueid=rid)]

    replace(stack, amd_nested, "_of_device", anybody)


def amd_binds_the_guests_host_fields(stack):
    """Mode and HostRoot come from the guest where it wrote any."""
    words = TableBind.words

    def as_it_is(self, did):
        at = DTE.decode(self.entry)
        harmless = self._replace(entry=DTE.change(self.entry, Mode=0, HostRoot=0))
        found = words(harmless, did)
        wanted = {name: at[name] for name in ("Mode", "HostRoot") if at[name]}
        return DTE.change(found, **wanted)

    replace(stack, TableBind, "words", as_it_is)


def amd_binds_without_a_host_table(stack):
    """The guest's table is put in place of the host table, and not over it."""
    words = TableBind.words
    replace(stack, TableBind, "words", lambda self, did: DTE.change(words(self, did), Mode=0))


def amd_takes_the_guests_domain(stack):
    """Translations are tagged with the DomainID that the guest wrote."""
    words = TableBind.words

    def as_it_is(self, did):
        return DTE.change(words(self, did), DomainID=DTE["DomainID"].get(self.entry))

    replace(stack, TableBind, "words", as_it_is)


def amd_has_one_domain_for_a_vm(stack):
    """All tables of a VM are tagged with the DomainID of its memory."""
    words = TableBind.words
    replace(stack, TableBind, "words", lambda self, did: words(self, self.domain.did if did else did))


def amd_host_table_of_another_vm(stack):
    """The host table is that of the first domain."""
    host = amd_entries.host_table
    domains = []

    def first(domain, *args, **options):
        domains.append(domain)
        return host(domains[0] if domains[0].live else domain, *args, **options)

    replace(stack, amd_entries, "host_table", first)


def amd_tables_are_system_physical(stack):
    """GCR3TRPMode is not switched on: a guest's GCR3 root names memory of the host."""
    replace(stack, amd_driver, "_GUEST_TABLES", 0)


def amd_reuses_domains_unflushed(stack):
    """The TLB keeps what it has of a DomainID that is given again."""
    replace(stack, CommandBuffer, "domain_pages", lambda self, did, *place: _nothing(self, did))


def amd_detaches_without_devtab(stack):
    """When a device leaves its VM the unit is not told that its entry is another one."""
    bug = during(AmdDriver, "pass_through", CommandBuffer, "device_entry", _nothing)
    replace(stack, AmdDriver, "pass_through", bug)


def amd_unbinds_without_devtab(stack):
    """When a guest's table goes the unit is not told, and goes on using it."""
    bug = during(AmdDriver, "unbind_table", CommandBuffer, "device_entry", _nothing)
    replace(stack, AmdDriver, "unbind_table", bug)


def _nothing(self, rid):
    """A command that changes nothing."""
    return CMD_INV_IOMMU_PAGES.encode(OPCODE=3, domid=0xFFFF)


def amd_fetches_gcr3_untranslated(stack):
    """Silicon: the address of a GCR3 table does not go through the host table."""
    replace(stack, AmdWalker, "gcr3", lambda self, errand, pasid: find_gcr3(errand.lookup, errand.line, pasid))


def amd_reads_guest_tables_untranslated(stack):
    """Silicon: the host table is not asked for anything."""
    replace(stack, AmdWalker, "_host", lambda self, errand, address, need: address)


def amd_flushes_no_pages(stack):
    """Memory of a process is unmapped, and the unit is not told."""
    replace(stack, AmdDriver, "flush_process", lambda self, pasid, rids, pages: None)


def amd_flushes_no_device(stack):
    """Device TLBs are not told of anything."""
    replace(stack, AmdDriver, "device_flush", lambda self, rid, pasid=0, pages=None: [])


def amd_keeps_entries(stack):
    """The unit is not told that a GCR3 entry has gone."""
    leave_out(stack, AmdTeardown, "pasid-cache")


def amd_keeps_translations(stack):
    """The TLB is not told either."""
    leave_out(stack, AmdTeardown, "iotlb")


BOTH = (sinks_stay, page_response_to_another, tables_are_not_drained, functions_are_not_reset)
SMMU_MUTANTS = (
    *BOTH,
    smmu_forwards_the_guests_vmid,
    smmu_forwards_any_requester,
    smmu_binds_what_the_guest_wrote,
    smmu_takes_the_guests_vmid,
    smmu_second_stage_of_another_vm,
    smmu_reuses_vmids_unflushed,
    smmu_detaches_without_cfgi,
    smmu_unbinds_without_cfgi,
    smmu_detaches_in_name_only,
    smmu_fetches_contexts_untranslated,
    smmu_reads_tables_untranslated,
    smmu_flushes_no_pages,
    smmu_flushes_no_device,
    smmu_keeps_contexts,
    smmu_keeps_translations,
)
AMD_MUTANTS = (
    *BOTH,
    amd_forwards_the_guests_domain,
    amd_forwards_any_requester,
    amd_binds_the_guests_host_fields,
    amd_binds_without_a_host_table,
    amd_takes_the_guests_domain,
    amd_has_one_domain_for_a_vm,
    amd_host_table_of_another_vm,
    amd_tables_are_system_physical,
    amd_reuses_domains_unflushed,
    amd_detaches_without_devtab,
    amd_unbinds_without_devtab,
    amd_detaches_in_name_only,
    amd_fetches_gcr3_untranslated,
    amd_reads_guest_tables_untranslated,
    amd_flushes_no_pages,
    amd_flushes_no_device,
    amd_keeps_entries,
    amd_keeps_translations,
)
PATIENT_TABLE_MUTANTS = (
    page_response_to_another,
    tables_are_not_drained,
    smmu_forwards_any_requester,
    amd_forwards_any_requester,
)
"""What may take thousands of steps to be seen: for the nightly mode."""
PLAIN_TABLE_MUTANTS = (
    smmu_binds_what_the_guest_wrote,
    smmu_takes_the_guests_vmid,
    smmu_second_stage_of_another_vm,
    smmu_fetches_contexts_untranslated,
    amd_binds_without_a_host_table,
    amd_takes_the_guests_domain,
    amd_host_table_of_another_vm,
    amd_tables_are_system_physical,
    amd_fetches_gcr3_untranslated,
)
"""What harms others so plainly that no rule is needed to see it."""
