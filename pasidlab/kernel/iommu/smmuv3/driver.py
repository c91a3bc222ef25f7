"""The SMMUv3 driver's foundation: the unit, its stream table, its devices, its domains, entries for processes.

Models ``drivers/iommu/arm/arm-smmu-v3`` of Linux 6.1: ``arm_smmu_device_reset`` switches the unit on, each device gets
a stream table entry and a table of context descriptors, SVA writes a descriptor for a process
(``__arm_smmu_sva_bind`` of arm-smmu-v3-sva.c), VFIO attaches a domain, that is a stage-2 table with a VMID
(``arm_smmu_domain_finalise_s2``). How a guest's whole table is nested over it (:mod:`.nested`) follows
arm-smmu-v3-iommufd.c (6.13).

The same code drives the silicon on the host and the emulated unit in a guest. A guest's unit has stage 1 only and needs
no more; what the hypervisor notices are its commands.

An ASID stands for an address space in the TLB, as it does in the processor, from where Linux takes it
(``arm64_mm_context_get``); this processor has none, so the driver hands them out, one a process. The processor tells
the unit nothing by itself (no BTM), so that each change of a process's memory is followed by commands.

Left out: several units, streams of EL2, the prefetch command behind each new entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.smmuv3 import register_file as reg
from pasidlab.hardware.layouts.pcie import ATS_CAP
from pasidlab.hardware.layouts.smmu import CD, IRQ_CTRL_REG, STE
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.paging import ARM_STAGE_2
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.bitmap import Bitmap
from pasidlab.kernel.iommu.contract import PASID_RID2PASID, IommuDriver
from pasidlab.kernel.iommu.device import Reach, disable_translation, enable_capabilities
from pasidlab.kernel.iommu.page_requests import EVERY_PASID, PageRequests
from pasidlab.kernel.iommu.smmuv3 import entries, nested
from pasidlab.kernel.iommu.smmuv3.capabilities import Capabilities
from pasidlab.kernel.iommu.smmuv3.device_table import StreamTable
from pasidlab.kernel.iommu.smmuv3.faults import SmmuFaultHandler
from pasidlab.kernel.iommu.smmuv3.page_ring import SmmuPageRing
from pasidlab.kernel.iommu.smmuv3.pasid_table import CdTable
from pasidlab.kernel.iommu.smmuv3.queue import CommandQueue, Words, span
from pasidlab.kernel.iommu.smmuv3.teardown import SmmuTeardown
from pasidlab.timeline import Table, Verb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pasidlab.kernel.ioasid.core import IoasidCore
    from pasidlab.kernel.iommu.domain import Domain
    from pasidlab.kernel.mm import Mm
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["SmmuDriver"]

_TABLES_INNER_WRITE_BACK: Final = 0xD75
"""CR1: tables and queues are inner shareable, write-back."""
_RECORDS_ALL: Final = 0b110
"""CR2: PTM (no broadcast invalidations) and RECINVSID (record unknown streams)."""
_NO_STALLS: Final = "this SMMU blocks what faults: IDR0.STALL_MODEL is 1 (facts/hardware.md 3; docs/iommus.md)"


class SmmuDriver(IommuDriver):
    """The IOMMU driver of one kernel, for one unit. ``tables`` are the context descriptors by requester ID, ``asids``
    the ASIDs by PASID, ``bound`` the stream table entries that guests wrote, as they are bound.
    """

    paging = ARM_STAGE_2
    why_no_aux = (
        "an SMMU finds the table of a VM (stage 2) by the stream table entry, that is by the requester ID alone: "
        "interfaces of one device cannot be told apart, and two VMs cannot share it (facts/hardware.md 3; talk T5; "
        "docs/iommus.md)"
    )
    why_whole_tables = (
        "a guest owns its table of context descriptors: it is bound as a whole, and no PASID of a guest by itself "
        "(facts/hardware.md 3; talk T2 and T11; docs/iommus.md)"
    )

    def __init__(self, platform: Platform, pages: PageAllocator, core: IoasidCore) -> None:
        super().__init__(platform, pages, core)
        registers = (reg.IDR0, reg.IDR1, reg.IDR3, reg.IDR5)
        self.hardware_info = tuple(self.mmio.read(self.base + offset, 4) for offset in registers)
        self.unit = Capabilities.read(*self.hardware_info)
        missing = self.unit.missing()
        if missing:
            raise KernelError("ENODEV", f"the SMMU must have {', '.join(missing)} (kernel/iommu/smmuv3/capabilities)")
        self.why_no_stalls = "" if self.unit.stalls else _NO_STALLS
        self.tables = Table[int, CdTable](self.timeline, f"{self.path}.tables")
        self.asids = Table[int, int](self.timeline, f"{self.path}.asids")
        self._free_asids = Bitmap(self.timeline, f"{self.path}.free-asids", 1 << self.unit.asid_bits)
        self._free_asids.take(0)
        self.bound = Table[int, Words](self.timeline, f"{self.path}.bound")
        self._write(reg.CR0, 0)
        self.streams = StreamTable(self.unit, pages)
        self.queue = CommandQueue(platform, pages, self.unit)
        self.events = SmmuFaultHandler(self, platform, pages)
        ring = SmmuPageRing(self, platform, pages)
        self.page_requests = PageRequests(self, platform, ring)
        self.teardown: SmmuTeardown = SmmuTeardown(self.timeline, self)
        self._switch_on(ring)

    @property
    def nesting(self) -> bool:
        """IDR0.S1P and IDR0.S2P."""
        return self.unit.nesting

    @property
    def second_levels(self) -> int:
        """From IDR5.OAS."""
        return self.unit.second_levels

    def _write(self, register: int, value: int, size: int = 4) -> None:
        self.mmio.write(self.base + register, value, size)

    def _switch_on(self, ring: SmmuPageRing) -> None:
        """In the order of ``arm_smmu_device_reset``: tables, commands, flush, events, page requests, interrupts."""
        event = self.emit(Verb.BOOT, "SMMUv3", after=f"stream table at {self.streams.base:#x}")
        with self.timeline.because(event):
            base, config = self.streams.registers()
            self._write(reg.CR1, _TABLES_INNER_WRITE_BACK)
            self._write(reg.CR2, _RECORDS_ALL)
            self._write(reg.STRTAB_BASE, base, 8)
            self._write(reg.STRTAB_BASE_CFG, config)
            enabled = reg.CMDQEN
            self._write(reg.CR0, enabled)
            self.queue.submit(*self.queue.everything())
            self.events.enable()
            ring.enable(self.page_requests)
            interrupts = {"EVTQ_IRQEN": 1, "GERROR_IRQEN": 1, "PRIQ_IRQEN": int(self.unit.pri)}
            self._write(reg.IRQ_CTRL, IRQ_CTRL_REG.encode(**interrupts)[0])
            enabled |= reg.EVTQEN | (reg.PRIQEN if self.unit.pri else 0) | (reg.ATSCHK if self.unit.ats else 0)
            self._write(reg.CR0, enabled)
            self._write(reg.CR0, enabled | reg.SMMUEN)

    # --- devices ------------------------------------------------------------------------------------------------------

    def add_device(self, rid: int) -> None:
        """Give a device its stream table entry, and a table of context descriptors if it can send PASIDs.

        Its requests without PASID pass through. ``-EEXIST`` it is known already.
        """
        if rid in self.devices:
            raise KernelError("EEXIST", f"device {format_rid(rid)} is known already")
        if self.streams.build(rid):
            self.queue.submit(self.queue.stream(rid, leaf=False))
        held = self.unit.forced or (self.unit.stalls and rid in self.stall_capable)
        reach = Reach(self.unit.ssid_bits, self.unit.ats and not held, self.unit.pri and not held, held)
        device = enable_capabilities(self.function(rid), reach)._replace(stall=held)
        if device.pasid_bits:
            path = f"{self.path}.table[{format_rid(rid)}]"
            self.tables[rid] = CdTable(self.timeline, path, self.pages, device.pasid_bits)
        self.devices[rid] = device
        self.pass_through(rid)

    def remove_device(self, rid: int) -> None:
        """Block the device again, and free its context descriptors. ``-EBUSY`` while a domain is attached."""
        self.check_detached(rid)
        disable_translation(self.function(rid), self.devices[rid])
        self.set_stream(rid, entries.abort())
        self.queue.submit(self.queue.contexts(rid))
        del self.devices[rid]
        if rid in self.tables:
            self.tables.pop(rid).destroy()

    def side(self, rid: int, *, ats: bool = True) -> entries.StreamSide:
        """What of a stream table entry depends on the device."""
        device = self.devices[rid]
        never_held = self.unit.stalls and not self.unit.forced and not device.stall
        return entries.StreamSide(device.ats and ats, never_held)

    def device_entry(self, rid: int) -> int | None:
        """The address of a device's stream table entry."""
        return self.streams.address(rid) if rid in self.devices else None

    def entry_table(self, rid: int) -> CdTable | None:
        """The context descriptors of a device, if it can send PASIDs."""
        return self.tables.get(rid)

    def table_of(self, rid: int) -> CdTable:
        """The context descriptors of a device; ``-ENODEV`` if the IOMMU does not know it, or it can send no PASID."""
        table = self.tables.get(rid)
        if table is None:
            raise KernelError("ENODEV", f"the IOMMU knows no device {format_rid(rid)} that can send PASIDs")
        return table

    def set_stream(self, rid: int, words: Words, meaning: str = "") -> None:
        """Replace a stream table entry: everything but its first word, then that, and the unit forgets what it had.

        One that is in use is made invalid first. Device TLBs are emptied, since other translations count now.
        """
        before = self.streams.read(rid)
        facts = {"rid": rid, "pasid": PASID_RID2PASID, "refs": self.core.refs(PASID_RID2PASID)}
        now = meaning or entries.meaning_of(words)
        event = self.emit(
            Verb.WRITE_ENTRY, f"stream table entry of {format_rid(rid)}", entries.meaning_of(before), now, **facts
        )
        with self.timeline.because(event):
            if STE["V"].get(before) and STE["Config"].get(before) > entries.CONFIG_BYPASS:
                self.streams.commit(rid, 0)
                self.queue.submit(self.queue.stream(rid))
            self.streams.prepare(rid, words)
            self.queue.submit(self.queue.stream(rid))
            self.streams.commit(rid, words[0])
            self.queue.submit(self.queue.stream(rid), *self.device_flush(rid))

    def device_flush(self, rid: int, pasid: int | None = None) -> list[Words]:
        """The commands that empty a device's TLB, for one PASID or whole: none if it has no TLB."""
        device = self.devices.get(rid)
        return [self.queue.device_tlb(rid, pasid)] if device is not None and device.ats else []

    # --- processes ----------------------------------------------------------------------------------------------------

    def write_process(self, rid: int, pasid: int, mm: Mm) -> None:
        """A context descriptor for a process's page table.

        Errors: ``-ENODEV`` the device can send no PASIDs, ``-EINVAL`` not this one, ``-ENOMEM``, ``-ENOSPC`` no ASID is
        left.
        """
        table, device = self.table_of(rid), self.devices[rid]
        if pasid >> table.bits:
            raise KernelError("EINVAL", f"a PASID of {format_rid(rid)} must have {table.bits} bits, not {pasid:#x}")
        if table.address(pasid) is None:
            table.address(pasid, build=True)
            self.queue.submit(self.queue.context(rid, pasid, leaf=False))
        words = entries.process_context(mm.root, self._asid(pasid), self.unit, stalls=device.stall)
        facts = {"rid": rid, "pasid": pasid, "refs": self.core.refs(pasid)}
        meaning = "stage 1: a process's page table"
        event = self.emit(Verb.WRITE_ENTRY, f"PASID {pasid} of {format_rid(rid)}", "not present", meaning, **facts)
        with self.timeline.because(event):
            if CD["V"].get(table.read(pasid)):
                table.commit(pasid, 0)
                self.queue.submit(self.queue.context(rid, pasid))
            table.prepare(pasid, words)
            self.queue.submit(self.queue.context(rid, pasid))
            table.commit(pasid, words[0])
            self.queue.submit(self.queue.context(rid, pasid))

    def clear_entry(self, rid: int, pasid: int, *, fault_disable: bool = False, ioasid: int | None = None) -> None:
        """Take a context descriptor away (see :mod:`.teardown`); one that does not translate stays as it is."""
        table = self.table_of(rid)
        if not entries.is_live(table.read(pasid)):
            return
        facts = {"rid": rid, "pasid": pasid, "refs": self.core.refs(pasid if ioasid is None else ioasid)}
        event = self.emit(Verb.CLEAR_ENTRY, f"PASID {pasid} of {format_rid(rid)}", "stage 1", "not present", **facts)
        with self.timeline.because(event):
            self.teardown.run(rid, pasid, fault_disable=fault_disable)
            self._release_asid(pasid)
        if (rid, pasid) in self.page_requests.sinks:
            del self.page_requests.sinks[rid, pasid]

    def _asid(self, pasid: int) -> int:
        """The ASID of the process that has a PASID; one that has none yet gets the lowest that is free."""
        if pasid in self.asids:
            return self.asids[pasid]
        asid = self._free_asids.take_lowest(1, (1 << self.unit.asid_bits) - 1)
        if asid is None:
            raise KernelError("ENOSPC", "no ASID is left")
        self.asids[pasid] = asid
        return asid

    def _release_asid(self, pasid: int) -> None:
        """The ASID goes back when no device has a descriptor with it any more."""
        used = any(entries.is_live(table.read(pasid)) for table in self.tables.values() if not pasid >> table.bits)
        if pasid in self.asids and not used:
            self._free_asids.release(self.asids.pop(pasid))

    def flush_process(self, pasid: int, rids: Iterable[int], pages: tuple[int, int]) -> None:
        """The ASID names the process in the TLB, the PASID in those of devices."""
        asid = self.asids.get(pasid)
        if asid is None:
            return
        start, count = pages
        where = span(start, count * PAGE_SIZE)
        there = [self.queue.device_tlb(rid, pasid, where) for rid in rids if self.devices[rid].ats]
        self.queue.submit(*self.queue.pages(asid, start, count), *there)

    # --- domains ------------------------------------------------------------------------------------------------------

    def domain_alloc(self, name: str) -> Domain:
        """A stage-2 table and a VMID; ``-ENOSPC`` when the VMIDs are used up, of which a unit may have 255 only."""
        if self.ids.find(0, (1 << self.unit.vmid_bits) - 1) is None:
            raise KernelError("ENOSPC", f"no VMID of {self.unit.vmid_bits} bits is left")
        return super().domain_alloc(name)

    def domain_free(self, domain: Domain) -> None:
        """End a domain to which nothing is attached. The TLB forgets the VMID before somebody else gets it."""
        if not (len(domain.rids) or len(domain.aux)):
            self.queue.submit(self.queue.machine(domain.did))
        super().domain_free(domain)

    def translate_by(self, domain: Domain, rid: int) -> None:
        """A stage-2 entry: requests without PASID reach the domain, those with one are refused.

        ``-EINVAL``: there is no stage 2, or the domain's table does not fit.
        """
        self.set_stream(rid, self.second_stage(domain, rid), f"stage 2: memory of {domain.name}")

    def second_stage(self, domain: Domain, rid: int) -> Words:
        """The words of a stage-2 entry."""
        table = domain.fit(self.second_levels) if self.unit.stage2 else None
        if table is None:
            raise KernelError("EINVAL", f"the SMMU must have a stage 2 that the table of {domain.name} fits into")
        return entries.second_stage(table, domain.did, self.unit, ats=self.devices[rid].ats)

    def pass_through(self, rid: int) -> None:
        """The device is this kernel's own: its entry names its own context descriptors, or lets everything pass."""
        before, table = self.streams.read(rid), self.tables.get(rid)
        self.set_stream(rid, entries.bypass() if table is None else entries.stage_1(table.shape(), self.side(rid)))
        if STE["Config"].get(before) & 2:
            flush = [self.queue.machine(STE["S2VMID"].get(before)), *self.device_flush(rid)]
            self.queue.submit(*flush)
            self.page_requests.drain(rid, EVERY_PASID, flush)

    # --- a guest's table ----------------------------------------------------------------------------------------------

    def bind_table(self, domain: Domain, rid: int, entry: Words) -> None:
        """Nest the table that a guest's stream table entry names over stage 2, in place of what was bound before.

        An entry that is not valid, or that aborts or bypasses, does so on the host as well. Errors: :mod:`.nested`.
        """
        self._check_owner(domain, rid)
        words, ats = nested.stream_entry(self, domain, rid, entry)
        self._switch_ats(rid, on=ats)
        self.set_stream(rid, words, f"{entries.meaning_of(words)}, as {domain.name} wrote it")
        self.bound[rid] = entry
        if STE["Config"].get(words) == entries.CONFIG_ABORT:
            self.queue.submit(self.queue.machine(domain.did))

    def unbind_table(self, domain: Domain, rid: int) -> None:
        """Stage 2 alone again: requests with a PASID are refused. What was cached or asked for under it goes."""
        if rid not in self.bound:
            return
        self._check_owner(domain, rid)
        self._switch_ats(rid, on=True)
        self.translate_by(domain, rid)
        flush = [self.queue.first_stage(domain.did), *self.device_flush(rid)]
        self.queue.submit(*flush)
        self.page_requests.drain(rid, EVERY_PASID, flush)
        del self.bound[rid]

    def has_table(self, rid: int) -> bool:
        """Whether a guest's stream table entry is bound."""
        return rid in self.bound

    def _check_owner(self, domain: Domain, rid: int) -> None:
        if rid not in domain.rids:
            raise KernelError("ENODEV", f"the domain of {domain.name} must have the device {format_rid(rid)}")

    def _switch_ats(self, rid: int, *, on: bool) -> None:
        """A guest that does not use ATS does not empty the device's TLB either: there is none then."""
        if self.devices[rid].ats:
            self.function(rid).set(ATS_CAP, EN=int(on))

    def forward(self, domain: Domain, command: Words, devices: Mapping[int, int]) -> None:
        """A guest's invalidation, with the VMID of its domain and the host's requester IDs. Errors: :mod:`.nested`."""
        words = nested.command_of_host(domain, command, devices)
        if self._answers(words):
            self.queue.submit(words)

    def _answers(self, words: Words) -> bool:
        """A device without a TLB would not answer, and stop the queue of everybody for a while."""
        rid = nested.device_of(words)
        return rid is None or bool(self.devices[rid].ats)
