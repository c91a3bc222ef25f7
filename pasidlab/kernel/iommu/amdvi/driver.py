"""The AMD IOMMU driver's foundation: the unit, its device table, its devices, its domains.

Models ``drivers/iommu/amd/{init.c,iommu.c,pasid.c,nested.c}``: one device table entry decides about all requests of a
device. Requests without PASID pass through, or go through the host table of a domain; requests with PASID go through
the device's own GCR3 table, or through a guest's, over the host table of its VM (:mod:`.nested`). PASIDs of processes
are bound by :mod:`..bindings`.

The same code drives the silicon on the host and the emulated unit in a guest. What the feature registers say makes the
difference: the emulated unit has no host translation (HATS=3), and INVALIDATE_IOMMU_ALL is not there, so that its
driver names what is to be forgotten.

**DomainIDs.** Caches tag translations with (DomainID, PASID). A device's own GCR3 table has a DomainID of its own
(Linux since 6.8, ``gcr3_info.domid``), a VM's domain has one, and so has each bound table of a guest. Whenever a device
table entry is replaced, everything of its old DomainID is invalidated, so that no number is used again with lines left.

Linux invalidates after it has set a GCR3 entry, too (``amd_iommu_dev_flush_pasid_all``), and so does this driver: in a
guest these are commands which the hypervisor forwards, with nothing for it to decide.

Left out: several units, interrupt remapping, exclusion and unity ranges, the guest page table as a kernel's own I/O
page table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.amdvi import register_file as reg
from pasidlab.hardware.layouts.amd import CONTROL_REG
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.paging import AMD_HOST
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.iommu.amdvi import entries
from pasidlab.kernel.iommu.amdvi.capabilities import Capabilities, gcr3_levels
from pasidlab.kernel.iommu.amdvi.device_table import DeviceTable
from pasidlab.kernel.iommu.amdvi.nested import BoundTable, TableBind, translated_command
from pasidlab.kernel.iommu.amdvi.page_ring import AmdPageRing
from pasidlab.kernel.iommu.amdvi.pasid_table import Gcr3Table
from pasidlab.kernel.iommu.amdvi.queue import CommandBuffer
from pasidlab.kernel.iommu.amdvi.teardown import AmdTeardown
from pasidlab.kernel.iommu.contract import PASID_RID2PASID, IommuDriver
from pasidlab.kernel.iommu.device import disable_translation, enable_capabilities
from pasidlab.kernel.iommu.page_requests import EVERY_PASID, PageRequests
from pasidlab.timeline import Table, Verb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pasidlab.kernel.ioasid.core import IoasidCore
    from pasidlab.kernel.iommu.domain import Domain
    from pasidlab.kernel.mm import Mm
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["AmdDriver"]

_WORK: Final = CONTROL_REG.encode(CmdBufEn=1, Coherent=1)[0]
_GUEST_TRANSLATION: Final = CONTROL_REG["GTEn"].mask
_PAGE_REQUESTS: Final = CONTROL_REG.encode(PPRLogEn=1, PPRIntEn=1, PPREn=1)[0]
_AUTO_RESPONSE: Final = CONTROL_REG["PPRAutoRspEn"].mask
_GUEST_TABLES: Final = CONTROL_REG["GCR3TRPMode"].mask
_ENABLE: Final = CONTROL_REG["IommuEn"].mask
_NO_PASIDS: Final = (
    "the IOMMU must have guest translation (EFR.GT) to translate requests with PASID; a VM is shown none where the "
    "host's unit lacks GCR3TRPMode, since its GCR3 table would be system-physical (facts/hardware.md 4; docs/iommus.md)"
)


class AmdDriver(IommuDriver):
    """The IOMMU driver of one kernel, for one unit. ``tables`` are the GCR3 tables by requester ID, ``tags`` their
    DomainIDs; ``bound`` are the guests' tables that devices use.
    """

    paging = AMD_HOST
    why_no_aux = (
        "the host table is named by the device table entry, so that all requests of one requester ID are bounded by "
        "the memory of one VM: interfaces of one device cannot go to several on an AMD IOMMU (facts/hardware.md 4, "
        "amd_dte; talk T5 and T9; docs/iommus.md)"
    )
    why_whole_tables = (
        "a guest owns its GCR3 table, which the AMD IOMMU reads in guest memory: it is bound as a whole, and none of "
        "its PASIDs by itself (facts/hardware.md 4; talk T2 and T11; docs/iommus.md)"
    )

    def __init__(self, platform: Platform, pages: PageAllocator, core: IoasidCore) -> None:
        super().__init__(platform, pages, core)
        self.tables = Table[int, Gcr3Table](self.timeline, f"{self.path}.tables")
        self.tags = Table[int, int](self.timeline, f"{self.path}.tags")
        self.bound = Table[int, BoundTable](self.timeline, f"{self.path}.bound")
        self.hardware_info = tuple(self.mmio.read(reg.BASE + at) for at in (reg.EXT_FEATURES, reg.EXT_FEATURES2))
        self.unit = Capabilities.read(*self.hardware_info)
        self.why_no_pasids = "" if self.unit.guest_translation else _NO_PASIDS
        self.table = DeviceTable(self.timeline, f"{self.path}.device-table", pages)
        self.queue = CommandBuffer(platform, pages, f"{self.path}.queue")
        ring = AmdPageRing(platform, pages, self.queue)
        self.page_requests = PageRequests(self, platform, ring)
        self.teardown: AmdTeardown = AmdTeardown(self.timeline, self)
        self._switch_on(ring)

    @property
    def nesting(self) -> bool:
        """EFR2.GCR3TRP, with host and guest translation."""
        return self.unit.nesting

    @property
    def second_levels(self) -> int:
        """From EFR.HATS."""
        return self.unit.second_levels

    def _switch_on(self, ring: AmdPageRing) -> None:
        """Rings and device table first; IommuEn last; then the unit forgets what it may have had (:meth:`_forget`)."""
        words = "with" if self.unit.guest_translation else "without"
        after = f"device table at {self.table.base:#x}"
        event = self.emit(Verb.BOOT, f"AMD IOMMU {words} guest translation", after=after)
        control = _WORK | (_GUEST_TRANSLATION if self.unit.guest_translation else 0)
        with self.timeline.because(event):
            self.mmio.write(reg.BASE + reg.DEV_TAB, self.table.register)
            self.queue.enable()
            if self.unit.reach.pri:
                ring.enable(self.page_requests)
                control |= _PAGE_REQUESTS | (_AUTO_RESPONSE if self.unit.auto_response else 0)
            if self.unit.nesting:
                control |= _GUEST_TABLES
            self.mmio.write(reg.BASE + reg.CONTROL, control)
            self.mmio.write(reg.BASE + reg.CONTROL, control | _ENABLE)
            self._forget()

    def _forget(self) -> None:
        """Let the unit forget what it may have had before this driver (``iommu_flush_all_caches`` of Linux 6.1).

        One command with EFR.IA. Without it Linux gives one for each requester ID and then one for each DomainID, both
        from 0 to the last device that the firmware names (``last_bdf``). UNVERIFIED, and taken here: a list that names
        nobody, hence 0 alone, which is also the DomainID of every entry that the device table has now. The entry of
        any other device is forgotten when the driver writes it; other DomainIDs are taken to have left nothing. The
        table of interrupt remapping, which Linux flushes in between, is not modelled.
        """
        if self.unit.invalidate_all:
            self.queue.submit(self.queue.everything())
            return
        self.queue.submit(self.queue.device_entry(0))
        self.queue.submit(self.queue.domain_pages(entries.domain_id(entries.BLOCKED)))

    # --- devices ------------------------------------------------------------------------------------------------------

    def add_device(self, rid: int) -> None:
        """Give a device its GCR3 table and its device table entry; its requests without PASID pass through."""
        if rid in self.tables:
            raise KernelError("EEXIST", f"device {format_rid(rid)} is known already")
        self._cover(rid)
        self.tags[rid] = self.new_id()
        device = enable_capabilities(self.function(rid), self.unit.reach)
        self.devices[rid] = device
        levels = gcr3_levels(device.pasid_bits)
        self.tables[rid] = Gcr3Table(self.timeline, f"{self.path}.table[{format_rid(rid)}]", self.pages, levels)
        self.pass_through(rid)

    def _cover(self, rid: int) -> None:
        """Make the device table reach to ``rid``: where it moves, the unit is told and forgets the old one."""
        base, pages = self.table.base, self.table.pages
        if self.table.cover(rid):
            self.mmio.write(reg.BASE + reg.DEV_TAB, self.table.register)
            self.queue.submit(*(self.queue.device_entry(known) for known in self.devices.keys()))
            self.table.release(base, pages)

    def remove_device(self, rid: int) -> None:
        """Block the device, let everything of it be forgotten, then take its table away. ``-EBUSY`` while a domain is
        attached.
        """
        self.check_detached(rid)
        for pasid in self.tables[rid].present():
            self.clear_entry(rid, pasid)
        self._replace(rid, entries.blocked())
        disable_translation(self.function(rid), self.devices[rid])
        del self.devices[rid]
        self.tables.pop(rid).destroy()
        self.ids.release(self.tags.pop(rid))

    def device_entry(self, rid: int) -> int | None:
        """Where the device table entry lies."""
        return self.table.address(rid) if rid in self.tables else None

    def entry_table(self, rid: int) -> Gcr3Table | None:
        """The GCR3 table of a device, if it is known."""
        return self.tables.get(rid)

    def table_of(self, rid: int) -> Gcr3Table:
        """The GCR3 table of a device; ``-ENODEV`` if the IOMMU does not know it."""
        table = self.tables.get(rid)
        if table is None:
            raise KernelError("ENODEV", f"the IOMMU knows no device {format_rid(rid)}")
        return table

    def device_flush(
        self, rid: int, pasid: int = PASID_RID2PASID, pages: tuple[int, int] | None = None
    ) -> list[tuple[int, ...]]:
        """The commands that empty a device's TLB for a PASID, whole or for some ``pages``; none if it has no TLB."""
        device = self.devices.get(rid)
        if device is None or not device.ats:
            return []
        some = {} if pages is None else {"start": pages[0], "size": pages[1] * PAGE_SIZE}
        if pasid == PASID_RID2PASID:
            return [self.queue.device_pages(rid, depth=device.queue_depth, **some)]
        return [self.queue.device_pasid_pages(rid, pasid, depth=device.queue_depth, **some)]

    def new_id(self) -> int:
        """A DomainID that nothing has; ``-ENOSPC`` when all are used up."""
        did = self.ids.find(0, self.ids.limit - 1)
        if did is None:
            raise KernelError("ENOSPC", "no domain id is left")
        self.ids.take(did)
        return did

    # --- entries ------------------------------------------------------------------------------------------------------

    def _replace(self, rid: int, words: tuple[int, ...]) -> None:
        """Put another device table entry in place."""
        before, after = (entries.meaning_of(entry) for entry in (self.table.read(rid), words))
        facts = {"rid": rid, "pasid": PASID_RID2PASID, "refs": self.core.refs(PASID_RID2PASID)}
        event = self.emit(Verb.WRITE_ENTRY, f"device table entry of {format_rid(rid)}", before, after, **facts)
        with self.timeline.because(event):
            self.teardown.replace(rid, words)

    def write_process(self, rid: int, pasid: int, mm: Mm) -> None:
        """A GCR3 entry that names the process's own page table."""
        self.table_of(rid).address(pasid, build=True)
        facts = {"rid": rid, "pasid": pasid, "refs": self.core.refs(pasid)}
        meaning = "guest page table: a process's page table"
        event = self.emit(Verb.WRITE_ENTRY, f"PASID {pasid} of {format_rid(rid)}", "not present", meaning, **facts)
        with self.timeline.because(event):
            self.table_of(rid).write(pasid, entries.gcr3_entry(mm.root))
            self.teardown.flush(rid, pasid)

    def clear_entry(self, rid: int, pasid: int, *, fault_disable: bool = False, ioasid: int | None = None) -> None:
        """Tear a GCR3 entry down (see :mod:`.teardown`); one that is not present stays as it is.

        There is no way to keep the faults of one PASID out of the log: ``fault_disable`` changes nothing.
        """
        if not entries.is_present(self.table_of(rid).read(pasid)):
            return
        refs = self.core.refs(pasid if ioasid is None else ioasid)
        event = self.emit(
            Verb.CLEAR_ENTRY,
            f"PASID {pasid} of {format_rid(rid)}",
            "guest page table",
            "not present",
            rid=rid,
            pasid=pasid,
            refs=refs,
        )
        with self.timeline.because(event):
            self.teardown.run(rid, pasid)
        if (rid, pasid) in self.page_requests.sinks:
            del self.page_requests.sinks[rid, pasid]

    def flush_process(self, pasid: int, rids: Iterable[int], pages: tuple[int, int]) -> None:
        """The unit first, then the devices: else a device could ask the unit for what it has just forgotten."""
        start, size = pages[0], pages[1] * PAGE_SIZE
        devices = list(rids)
        self.queue.submit(*(self.queue.pasid_pages(self.tags[rid], pasid, start, size) for rid in devices))
        flush = [command for rid in devices for command in self.device_flush(rid, pasid, pages)]
        if flush:
            self.queue.submit(*flush)

    # --- domains ------------------------------------------------------------------------------------------------------

    def translate_by(self, domain: Domain, rid: int) -> None:
        """The host table of a domain; requests with PASID are refused. ``-EINVAL``: it does not fit the unit."""
        ats = self.devices[rid].ats
        self._replace(rid, entries.host_table(domain, self.unit.second_levels, domain.did, ats=ats))

    def pass_through(self, rid: int) -> None:
        """Requests without PASID pass; the device's own GCR3 table serves those with one, if it can send any."""
        device, table = self.devices[rid], self.tables[rid]
        words = entries.pass_through(self.tags[rid], ats=device.ats)
        if device.pasid_bits:
            words = entries.with_table(words, entries.GuestTable(table.root, table.levels, ppr=device.pri))
        self._replace(rid, words)

    # --- a guest's table ----------------------------------------------------------------------------------------------

    def bind_table(self, domain: Domain, rid: int, entry: tuple[int, ...]) -> None:
        """Nest the GCR3 table that a guest's device table entry names over its VM's domain.

        Errors, in order: :data:`.nested.TABLE_CHECKS`, before that ``-ENODEV`` a device that the IOMMU does not know,
        after it ``-ENOSPC`` no DomainID is left.
        """
        self.table_of(rid)
        asked, known = TableBind(domain, self.devices[rid], entry, self.unit), self.bound.get(rid)
        asked.words(PASID_RID2PASID)
        did = self.new_id() if known is None else known.did
        self.bound[rid] = BoundTable(domain.did, entries.domain_id(entry), did)
        self._replace(rid, asked.words(did))
        words = f"the GCR3 table of {domain.name} on {format_rid(rid)}"
        self.emit(Verb.BIND, words, after=f"DomainID {did}", rid=rid, did=did)

    def unbind_table(self, domain: Domain, rid: int) -> None:
        """Undo :meth:`bind_table`: the host table stays; page requests of the device are answered, none is left.

        The device's TLB forgets what it asked for without PASID. For all PASIDs there is no command: what is left of
        them leads to the VM's own memory, and goes with the function-level reset by which VFIO closes a device.
        """
        known = self.bound.get(rid)
        if known is None:
            return
        self.translate_by(domain, rid)
        self.page_requests.drain(rid, EVERY_PASID, self.device_flush(rid))
        del self.bound[rid]
        self.ids.release(known.did)
        words = f"the GCR3 table of {domain.name} from {format_rid(rid)}"
        self.emit(Verb.UNBIND, words, before=f"DomainID {known.did}", rid=rid, did=known.did)

    def domain_of(self, tag: int) -> Domain | None:
        """The domain itself, or the one under which a guest's table has a DomainID of its own."""
        bound = next((table.domain for table in self.bound.values() if table.did == tag), tag)
        return self.domains.get(bound)

    def has_table(self, rid: int) -> bool:
        """Whether a guest's GCR3 table is bound for a device."""
        return rid in self.bound

    def forward(self, domain: Domain, command: tuple[int, ...], devices: Mapping[int, int]) -> None:
        """Carry out a guest's invalidation of pages, with DomainIDs and requester IDs of the host for its own."""
        own = {rid: domain.rids.get(rid) for rid in devices.values()}
        bound = {rid: table for rid, table in self.bound.items() if table.domain == domain.did and own.get(rid)}
        mine = {guest: rid for guest, rid in devices.items() if own.get(rid)}
        commands = translated_command(command, mine, bound, dict(self.devices.items()))
        if commands:
            self.queue.submit(*commands)
