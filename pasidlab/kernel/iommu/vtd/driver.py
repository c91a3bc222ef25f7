"""The VT-d driver's foundation: the unit, its tables, its devices, its domains.

Models ``drivers/iommu/intel/iommu.c``: scalable-mode root and context tables in memory, one PASID table a device,
domains for VFIO, attachment of a domain as a device's own (requests without PASID) or as an auxiliary one (a default
PASID). The PASID bindings live in ``svm.py``.

The same code drives the silicon on the host and the emulated unit in a guest. What the capability registers say makes
the difference: caching mode (CM=1) means that every change must be followed by an invalidation, even from not-present
to present
- in a guest that is what the hypervisor traps; virtual commands (VCS=1) mean that PASIDs come from the host.

Devices that can translate for themselves and ask for pages are allowed to (DTE, PRE); whatever flushes the IOTLB then
flushes the device's TLB as well. Not modelled: several units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.vtd import register_file as reg
from pasidlab.hardware.layouts.vtd import CAP_REG, CONTEXT_ENTRY, ECAP_REG, ROOT_ENTRY, RTADDR_REG, VCCAP_REG
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.paging import VTD_SECOND
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.ioasid.core import IoasidRefused
from pasidlab.kernel.iommu.contract import PASID_MIN, PASID_RID2PASID, IommuDriver
from pasidlab.kernel.iommu.device import Reach, disable_translation, enable_capabilities
from pasidlab.kernel.iommu.domain import refuse_attach
from pasidlab.kernel.iommu.page_requests import PageRequests
from pasidlab.kernel.iommu.vtd import entries
from pasidlab.kernel.iommu.vtd.capabilities import Capabilities
from pasidlab.kernel.iommu.vtd.page_ring import VtdPageRing
from pasidlab.kernel.iommu.vtd.pasid_table import PasidTable
from pasidlab.kernel.iommu.vtd.queue import InvalidationQueue
from pasidlab.kernel.iommu.vtd.teardown import VtdTeardown
from pasidlab.kernel.iommu.vtd.vcmd import INTERFACE, VirtualCommandAllocator
from pasidlab.timeline import Table, Verb

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasidlab.kernel.ioasid.core import IoasidCore
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.kernel.iommu.domain import Domain
    from pasidlab.kernel.mm import Mm
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["VtdDriver"]

_SCALABLE: Final = 1
_NEEDED: Final = {"SMTS": "scalable mode", "QI": "queued invalidation", "PASID": "PASIDs", "PT": "pass-through"}
"""Capabilities without which this driver does not take a unit into use."""
_LARGEST_PIECE: Final = 36
"""2^36 pages are all that a 48-bit address space has."""


class VtdDriver(IommuDriver):
    """The IOMMU driver of one kernel, for one unit. ``tables`` are the PASID tables by requester ID."""

    paging = VTD_SECOND
    takes_interfaces = True
    reserved_ids = (0, entries.FLPT_DEFAULT_DID)
    why_whole_tables = (
        "the host owns the PASID tables of VT-d: a guest's cannot be bound as a whole, each of its PASIDs is bound by "
        "itself (talk T2; facts/ioasid.md 4.2; docs/iommus.md)"
    )

    def __init__(self, platform: Platform, pages: PageAllocator, core: IoasidCore) -> None:
        super().__init__(platform, pages, core)
        self.tables = Table[int, PasidTable](self.timeline, f"{self.path}.tables")
        self._capabilities = (self.mmio.read(reg.BASE + reg.CAP),)
        self._extended = (self.mmio.read(reg.BASE + reg.ECAP),)
        self.unit = Capabilities.read(self._capabilities[0], self._extended[0], la57=platform.cpu.la57)
        self.caching_mode = bool(CAP_REG["CM"].get(self._capabilities))
        self._supervisor = bool(ECAP_REG["SRS"].get(self._extended))
        self._largest_mask = CAP_REG["MAMV"].get(self._capabilities)
        self._root = pages.alloc()
        self.queue = InvalidationQueue(platform, pages, f"{self.path}.queue")
        ring = VtdPageRing(platform, pages, self.queue)
        self.page_requests = PageRequests(self, platform, ring)
        ring.enable(self.page_requests)
        self.teardown: VtdTeardown = VtdTeardown(self.timeline, self)
        self._switch_on()
        self._adopt_virtual_commands(platform)

    @property
    def nesting(self) -> bool:
        """ECAP.NEST."""
        return self.unit.nesting

    @property
    def second_levels(self) -> int:
        """From CAP.SAGAW."""
        return self.unit.second_levels

    def _switch_on(self) -> None:
        missing = [words for field, words in _NEEDED.items() if not ECAP_REG[field].get(self._extended)]
        if missing:
            raise KernelError("ENODEV", f"the IOMMU must support {', '.join(missing)}")
        event = self.emit(Verb.BOOT, "VT-d in scalable mode", after=f"root table at {self._root:#x}")
        with self.timeline.because(event):
            self.mmio.write(reg.BASE + reg.RTADDR, RTADDR_REG.encode(TTM=_SCALABLE, RTA=self._root)[0])
            self._command(reg.GCMD_QIE)
            self._command(reg.GCMD_SRTP)
            if not CAP_REG["ESRTPS"].get(self._capabilities):
                self.queue.submit(*self.queue.everything())
            self._command(reg.GCMD_TE)

    def _command(self, bit: int) -> None:
        enabled = self.mmio.read(reg.BASE + reg.GSTS, 4) & ~reg.GCMD_SRTP
        self.mmio.write(reg.BASE + reg.GCMD, enabled | bit, 4)

    def _adopt_virtual_commands(self, platform: Platform) -> None:
        """In a guest whose unit offers it, PASIDs come from the hypervisor by virtual command."""
        if not (self.caching_mode and ECAP_REG["VCS"].get(self._extended)):
            return
        if VCCAP_REG["PAS"].get((self.mmio.read(reg.BASE + INTERFACE.vccap),)):
            allocator = VirtualCommandAllocator(platform)
            self.core.register_allocator(allocator)

    def free_by_command(self, pasid: int) -> bool:
        """VCMD: free a PASID, and look at what the hypervisor answered. ``-EOPNOTSUPP``: this is no emulated unit."""
        if not self.caching_mode:
            raise KernelError(
                "EOPNOTSUPP",
                f"{self.altitude} must get its PASIDs from a hypervisor to give one back (talk T11; docs/iommus.md)",
            )
        self.core.allocators.active.free(pasid)
        response = (self.mmio.read(reg.BASE + INTERFACE.vcrsp),)
        return INTERFACE.response["SC"].get(response) == INTERFACE.success

    # --- devices ----------------------------------------------------------------------------------------------------

    def _reach(self) -> Reach:
        """What the unit lets devices do, from ECAP."""
        able = ECAP_REG.decode(self._extended)
        return Reach(able["PSS"] + 1 if able["PASID"] else 0, bool(able["DT"]), bool(able["PRS"]))

    def add_device(self, rid: int) -> None:
        """Give a device its PASID table and context entry; its requests without PASID pass through."""
        if rid in self.tables:
            raise KernelError("EEXIST", f"device {format_rid(rid)} is known already")
        table = PasidTable(self.timeline, f"{self.path}.table[{format_rid(rid)}]", self.pages)
        self.tables[rid] = table
        device = enable_capabilities(self.function(rid), self._reach())
        self.devices[rid] = device
        slot, words = self._context_slot(rid), table.context_entry(ats=device.ats, pri=device.pri)
        self.memory.store_words(slot + 8, words[1:])
        self.memory.store(slot, words[0])
        if self.caching_mode:
            self.queue.submit(self.queue.context_cache(rid))
        self._pass_through(rid)

    def remove_device(self, rid: int) -> None:
        """Take the context entry and the PASID table away: P first, then the caches forget, then the rest.

        Before that the device stops translating. ``-EBUSY`` while a domain is attached.
        """
        self.check_detached(rid)
        self.clear_entry(rid, PASID_RID2PASID)
        disable_translation(self.function(rid), self.devices[rid])
        slot = self._context_slot(rid)
        self.memory.store(slot, self.memory.load(slot) & ~1)
        self.queue.submit(self.queue.context_cache(rid), self.queue.all_pasids(), *self.device_flush(rid))
        self.memory.store_words(slot, (0,) * CONTEXT_ENTRY.word_count)
        del self.devices[rid]
        self.tables.pop(rid).destroy()

    def device_flush(self, rid: int, pasid: int = PASID_RID2PASID) -> list[tuple[int, ...]]:
        """The descriptors that empty a device's TLB for a PASID: none if it has no TLB, or the hypervisor does it."""
        device = self.devices.get(rid)
        if device is None or not device.ats or self.caching_mode:
            return []
        if pasid == PASID_RID2PASID:
            return [self.queue.device_tlb(rid)]
        return [self.queue.pasid_device_tlb(rid, pasid, depth=device.queue_depth)]

    def flush_process(self, pasid: int, rids: Iterable[int], pages: tuple[int, int]) -> None:
        """Processes share one domain id: it is the PASID that names them."""
        self.flush_pages(entries.FLPT_DEFAULT_DID, pasid, rids, pages)

    def flush_guest(self, domain: Domain, number: int, rids: list[int], pages: tuple[int, int] | None) -> None:
        """A guest's invalidation of one PASID, whole or of some ``pages``. It need not know of device TLBs."""
        if pages is not None:
            self.flush_pages(domain.did, number, rids, pages)
            return
        flush = [descriptor for rid in rids for descriptor in self.device_flush(rid, number)]
        self.queue.submit(self.queue.pasid_iotlb(domain.did, number), *flush)

    def flush_pages(self, did: int, pasid: int, rids: Iterable[int], pages: tuple[int, int]) -> None:
        """Forget some ``pages`` (start, number) of a PASID on these devices: naturally aligned pieces of 2^n pages.

        A piece that the unit cannot name (CAP.MAMV) is everything there; one that no device can name is everything.
        """
        start, count = pages
        order = (count - 1).bit_length()
        if order > _LARGEST_PIECE:
            everywhere = [descriptor for rid in rids for descriptor in self.device_flush(rid, pasid)]
            self.queue.submit(self.queue.pasid_iotlb(did, pasid), *everywhere)
            return
        size = PAGE_SIZE << order
        wanted: list[tuple[int, ...]] = []
        for at in range(start & -size, start + count * PAGE_SIZE, size):
            if order > self._largest_mask:
                wanted.append(self.queue.pasid_iotlb(did, pasid))
            else:
                wanted.append(self.queue.pasid_pages(did, pasid, at, order))
            wanted += [
                self.queue.pasid_device_tlb(rid, pasid, at, order, self.devices[rid].queue_depth)
                for rid in rids
                if self.device_flush(rid, pasid)
            ]
        self.queue.submit(*wanted)

    def _context_slot(self, rid: int) -> int:
        """The address of the context entry of ``rid``; the context table is made when missing."""
        half = "L" if rid & 0xFF < 0x80 else "U"
        root = self._root + (rid >> 8) * ROOT_ENTRY.size
        words = self.memory.load_words(root, ROOT_ENTRY.word_count)
        if not ROOT_ENTRY[f"{half}P"].get(words):
            words = ROOT_ENTRY.change(words, **{f"{half}P": 1, f"{half}CTP": self.pages.alloc()})
            self.memory.store_words(root, words)
        return ROOT_ENTRY[f"{half}CTP"].get(words) + (rid & 0x7F) * CONTEXT_ENTRY.size

    def device_entry(self, rid: int) -> int | None:
        """The address of the context entry."""
        words = self.memory.load_words(self._root + (rid >> 8) * ROOT_ENTRY.size, ROOT_ENTRY.word_count)
        half = "L" if rid & 0xFF < 0x80 else "U"
        there = rid in self.tables and ROOT_ENTRY[f"{half}P"].get(words)
        return ROOT_ENTRY[f"{half}CTP"].get(words) + (rid & 0x7F) * CONTEXT_ENTRY.size if there else None

    def entry_table(self, rid: int) -> PasidTable | None:
        """The PASID table of a device, if it is known."""
        return self.tables.get(rid)

    def table_of(self, rid: int) -> PasidTable:
        """The PASID table of a device; ``-ENODEV`` if the IOMMU does not know it."""
        table = self.tables.get(rid)
        if table is None:
            raise KernelError("ENODEV", f"the IOMMU knows no device {format_rid(rid)}")
        return table

    # --- entries ----------------------------------------------------------------------------------------------------

    def set_entry(
        self, rid: int, pasid: int, words: tuple[int, ...], meaning: str, *, ioasid: int | None = None
    ) -> None:
        """Write a PASID entry; in caching mode the unit is told, although the entry was not present before.

        ``ioasid``: for which of this kernel's numbers it is, where the device uses another one.
        """
        self.table_of(rid).address(pasid, build=True)
        facts = {"rid": rid, "pasid": pasid, "refs": self.core.refs(pasid if ioasid is None else ioasid)}
        event = self.emit(Verb.WRITE_ENTRY, f"PASID {pasid} of {format_rid(rid)}", "not present", meaning, **facts)
        with self.timeline.because(event):
            self.table_of(rid).write(pasid, words)
            if self.caching_mode:
                did = entries.did_of(words)
                self.queue.submit(self.queue.pasid_cache(did, pasid), self.queue.pasid_iotlb(did, pasid))

    def clear_entry(self, rid: int, pasid: int, *, fault_disable: bool = False, ioasid: int | None = None) -> None:
        """Tear a PASID entry down (see :mod:`teardown`); one that is not present stays as it is."""
        words = self.table_of(rid).read(pasid)
        if not words[0] & 1:
            return
        event = self.emit(
            Verb.CLEAR_ENTRY,
            f"PASID {pasid} of {format_rid(rid)}",
            entries.meaning_of(words),
            "not present",
            rid=rid,
            pasid=pasid,
            refs=self.core.refs(pasid if ioasid is None else ioasid),
        )
        with self.timeline.because(event):
            self.teardown.run(rid, pasid, fault_disable=fault_disable)
        if (rid, pasid) in self.page_requests.sinks:
            del self.page_requests.sinks[rid, pasid]

    def write_process(self, rid: int, pasid: int, mm: Mm) -> None:
        """A first-level entry. ``-EINVAL``: the unit has no first level."""
        words = entries.first_level(mm.root, self.unit)
        self.set_entry(rid, pasid, words, "first-level: a process's page table")

    def _pass_through(self, rid: int) -> None:
        words = entries.pass_through(self.unit, supervisor=self._supervisor)
        self.set_entry(rid, PASID_RID2PASID, words, "pass-through for requests without PASID")

    def _second_level(self, domain: Domain, pasid: int) -> tuple[int, ...]:
        supervisor = self._supervisor and pasid != PASID_RID2PASID
        return entries.second_level(domain, self.unit, supervisor=supervisor)

    # --- domains ------------------------------------------------------------------------------------------------------

    def translate_by(self, domain: Domain, rid: int) -> None:
        """A second-level entry for requests without PASID."""
        words = self._second_level(domain, PASID_RID2PASID)
        self.clear_entry(rid, PASID_RID2PASID)
        self.set_entry(rid, PASID_RID2PASID, words, f"memory of {domain.name}")

    def pass_through(self, rid: int) -> None:
        """A pass-through entry for requests without PASID."""
        self.clear_entry(rid, PASID_RID2PASID)
        self._pass_through(rid)

    def attach_aux(self, domain: Domain, rid: int, host_set: IoasidSet) -> int:
        """Attach a domain beside a device's own one; returns its default PASID.

        The default PASID is allocated once a domain, from the host's set; ``-ENODEV`` when there is none. ``-EPERM``
        while the device serves a domain as a whole.
        """
        self.table_of(rid)
        refuse_attach(self.domains.values(), rid, aux=True)
        if domain.default_pasid is None:
            highest = (1 << self.devices[rid].pasid_bits) - 1
            try:
                domain.default_pasid = self.core.alloc(host_set, PASID_MIN, highest, f"aux-domain:{domain.name}")
            except IoasidRefused as refusal:
                raise KernelError("ENODEV", f"no default PASID for {domain.name}: {refusal}") from None
        pasid = domain.default_pasid
        users = domain.aux.get(rid, 0)
        if not users:
            words = self._second_level(domain, pasid)
            self.set_entry(rid, pasid, words, f"memory of {domain.name} (default PASID)")
        domain.aux[rid] = users + 1
        self.emit(
            Verb.ATTACH,
            f"aux domain of {domain.name} to {format_rid(rid)}",
            after=f"default PASID {pasid}",
            rid=rid,
            pasid=pasid,
        )
        return pasid

    def detach_aux(self, domain: Domain, rid: int, host_set: IoasidSet) -> None:
        """Undo :meth:`attach_aux`; the last one gives the default PASID back."""
        pasid, users = domain.default_pasid, domain.aux.get(rid, 0)
        if pasid is None or not users:
            raise KernelError(
                "EINVAL", f"domain {domain.name} is not attached to {format_rid(rid)} as an auxiliary one"
            )
        if users > 1:
            domain.aux[rid] = users - 1
            return
        self.clear_entry(rid, pasid)
        del domain.aux[rid]
        self.emit(Verb.DETACH, f"aux domain of {domain.name} from {format_rid(rid)}", rid=rid, pasid=pasid)
        if not len(domain.aux):
            domain.default_pasid = None
            self.core.free(host_set, pasid)
