"""The VT-d driver's foundation: the unit, its tables, its devices, its domains.

Models ``drivers/iommu/intel/iommu.c``: scalable-mode root and context tables in memory, one PASID table a device,
domains for VFIO, attachment of a domain as a device's own (requests without PASID) or as an auxiliary one (a default
PASID). The PASID bindings live in ``svm.py``.

The same code drives the silicon on the host and the emulated unit in a guest. What the capability registers say makes
the difference: caching mode (CM=1) means that every change must be followed by an invalidation, even from not-present
to present
- in a guest that is what the hypervisor traps; virtual commands (VCS=1) mean that PASIDs come from the host.

Not modelled: device TLBs (DTE=0), page requests (PRE=0), several units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.vtd import register_file as reg
from pasidlab.hardware.layouts.vtd import CAP_REG, CONTEXT_ENTRY, ECAP_REG, ROOT_ENTRY, RTADDR_REG, VCCAP_REG
from pasidlab.hardware.pcie import PASID_LIMIT, format_rid
from pasidlab.kernel.bitmap import Bitmap
from pasidlab.kernel.ioasid.core import IoasidRefused
from pasidlab.kernel.iommu.vtd import entries
from pasidlab.kernel.iommu.vtd.domain import Domain
from pasidlab.kernel.iommu.vtd.pasid_table import PasidTable
from pasidlab.kernel.iommu.vtd.queue import InvalidationQueue
from pasidlab.kernel.iommu.vtd.vcmd import INTERFACE, VirtualCommandAllocator
from pasidlab.kernel.platform import IOMMU_BASE
from pasidlab.timeline import Actor, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.ioasid.core import IoasidCore
    from pasidlab.kernel.ioasid.sets import IoasidSet
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["PASID_MAX", "PASID_MIN", "PASID_RID2PASID", "VtdDriver"]

PASID_RID2PASID: Final = 0
"""The PASID that stands for requests without one."""
PASID_MIN: Final = 1
PASID_MAX: Final = PASID_LIMIT
_SCALABLE: Final = 1
_SUPPORT: Final = {"SRE": "SRS", "EAFE": "EAFS"}
"""Fields of a PASID entry that need a capability, and the capability."""
_DIDS: Final = 1 << 16


class VtdDriver(Actor):
    """The IOMMU driver of one kernel, for one unit."""

    actor = "iommu"

    def __init__(self, platform: Platform, pages: PageAllocator, core: IoasidCore) -> None:
        super().__init__(platform.timeline, f"{platform.altitude}.iommu", platform.altitude)
        self.core = core
        self.pages = pages
        self.memory = platform.memory
        self._mmio = platform.mmio
        self.tables = Table[int, PasidTable](self.timeline, f"{self.path}.tables")
        self.domains = Table[int, Domain](self.timeline, f"{self.path}.domains")
        self._dids = Bitmap(self.timeline, f"{self.path}.dids", _DIDS)
        for reserved in (0, entries.FLPT_DEFAULT_DID):
            self._dids.take(reserved)
        self._capabilities = (self._mmio.read(IOMMU_BASE + reg.CAP),)
        self._extended = (self._mmio.read(IOMMU_BASE + reg.ECAP),)
        self.caching_mode = bool(CAP_REG["CM"].get(self._capabilities))
        self.snoop = bool(ECAP_REG["SMPWCS"].get(self._extended))
        self.nesting = bool(ECAP_REG["NEST"].get(self._extended))
        self.lacks = frozenset(flag for flag, field in _SUPPORT.items() if not ECAP_REG[field].get(self._extended))
        self._supervisor = bool(ECAP_REG["SRS"].get(self._extended))
        self._root = pages.alloc()
        self.queue = InvalidationQueue(platform, pages, f"{self.path}.queue")
        self._switch_on()
        self._adopt_virtual_commands(platform)

    def _switch_on(self) -> None:
        if not ECAP_REG["SMTS"].get(self._extended):
            raise KernelError("ENODEV", "the IOMMU must support scalable mode for PASIDs")
        event = self.emit(Verb.BOOT, "VT-d in scalable mode", after=f"root table at {self._root:#x}")
        with self.timeline.because(event):
            self._mmio.write(IOMMU_BASE + reg.RTADDR, RTADDR_REG.encode(TTM=_SCALABLE, RTA=self._root)[0])
            self._command(reg.GCMD_QIE)
            self._command(reg.GCMD_SRTP)
            if not CAP_REG["ESRTPS"].get(self._capabilities):
                self.queue.submit(*self.queue.everything())
            self._command(reg.GCMD_TE)

    def _command(self, bit: int) -> None:
        enabled = self._mmio.read(IOMMU_BASE + reg.GSTS, 4) & ~reg.GCMD_SRTP
        self._mmio.write(IOMMU_BASE + reg.GCMD, enabled | bit, 4)

    def _adopt_virtual_commands(self, platform: Platform) -> None:
        """In a guest whose unit offers it, PASIDs come from the hypervisor by virtual command."""
        if not (self.caching_mode and ECAP_REG["VCS"].get(self._extended)):
            return
        if VCCAP_REG["PAS"].get((self._mmio.read(IOMMU_BASE + INTERFACE.vccap),)):
            allocator = VirtualCommandAllocator(platform)
            self.core.register_allocator(allocator)

    # --- devices ----------------------------------------------------------------------------------------------------

    def add_device(self, rid: int) -> PasidTable:
        """Give a device its PASID table and context entry; its requests without PASID pass through."""
        if rid in self.tables:
            raise KernelError("EEXIST", f"device {format_rid(rid)} is known already")
        table = PasidTable(self.timeline, f"{self.path}.table[{format_rid(rid)}]", self.pages)
        self.tables[rid] = table
        slot = self._context_slot(rid)
        self.memory.store_words(slot + 8, table.context_entry()[1:])
        self.memory.store(slot, table.context_entry()[0])
        if self.caching_mode:
            self.queue.submit(self.queue.context_cache(rid))
        self._pass_through(rid)
        return table

    def remove_device(self, rid: int) -> None:
        """Take the context entry and the PASID table away."""
        self.clear_entry(rid, PASID_RID2PASID)
        self.memory.store_words(self._context_slot(rid), (0,) * CONTEXT_ENTRY.word_count)
        self.queue.submit(self.queue.context_cache(rid))
        self.tables.pop(rid).destroy()

    def _context_slot(self, rid: int) -> int:
        """The address of the context entry of ``rid``; the context table is made when missing."""
        half = "L" if rid & 0xFF < 0x80 else "U"
        root = self._root + (rid >> 8) * ROOT_ENTRY.size
        words = self.memory.load_words(root, ROOT_ENTRY.word_count)
        if not ROOT_ENTRY[f"{half}P"].get(words):
            words = ROOT_ENTRY.change(words, **{f"{half}P": 1, f"{half}CTP": self.pages.alloc()})
            self.memory.store_words(root, words)
        return ROOT_ENTRY[f"{half}CTP"].get(words) + (rid & 0x7F) * CONTEXT_ENTRY.size

    def table_of(self, rid: int) -> PasidTable:
        """The PASID table of a device; ``-ENODEV`` if the IOMMU does not know it."""
        table = self.tables.get(rid)
        if table is None:
            raise KernelError("ENODEV", f"the IOMMU knows no device {format_rid(rid)}")
        return table

    # --- entries ----------------------------------------------------------------------------------------------------

    def set_entry(self, rid: int, pasid: int, words: tuple[int, ...], meaning: str) -> None:
        """Write a PASID entry; in caching mode the unit is told, although the entry was not present before."""
        self.table_of(rid).address(pasid, build=True)
        facts = {"rid": rid, "pasid": pasid, "refs": self.core.refs(pasid)}
        event = self.emit(Verb.WRITE_ENTRY, f"PASID {pasid} of {format_rid(rid)}", "not present", meaning, **facts)
        with self.timeline.because(event):
            self.table_of(rid).write(pasid, words)
            if self.caching_mode:
                did = entries.did_of(words)
                self.queue.submit(self.queue.pasid_cache(did, pasid), self.queue.pasid_iotlb(did, pasid))

    def clear_entry(self, rid: int, pasid: int, *, fault_disable: bool = False) -> None:
        """Tear a PASID entry down: P first, then the invalidations, only then the rest."""
        table = self.table_of(rid)
        words = table.read(pasid)
        event = self.emit(
            Verb.CLEAR_ENTRY,
            f"PASID {pasid} of {format_rid(rid)}",
            entries.meaning_of(words),
            "not present",
            rid=rid,
            pasid=pasid,
            refs=self.core.refs(pasid),
        )
        with self.timeline.because(event):
            table.clear_present(pasid)
            did = entries.did_of(words)
            by_domain = entries.translates_by_domain(words)
            flush = self.queue.domain_iotlb(did) if by_domain else self.queue.pasid_iotlb(did, pasid)
            self.queue.submit(self.queue.pasid_cache(did, pasid), flush)
            table.zero(pasid, fault_disable=fault_disable)

    def _pass_through(self, rid: int) -> None:
        words = entries.pass_through(snoop=self.snoop, supervisor=self._supervisor)
        self.set_entry(rid, PASID_RID2PASID, words, "pass-through for requests without PASID")

    def _second_level(self, domain: Domain, pasid: int) -> tuple[int, ...]:
        supervisor = self._supervisor and pasid != PASID_RID2PASID
        return entries.second_level(domain, snoop=self.snoop, supervisor=supervisor)

    # --- domains ----------------------------------------------------------------------------------------------------

    def domain_alloc(self, name: str) -> Domain:
        """A new address space, with a second-level table and a domain id; ``-ENOSPC`` when the ids are used up."""
        did = self._dids.find(0, _DIDS - 1)
        if did is None:
            raise KernelError("ENOSPC", "no domain id is left")
        self._dids.take(did)
        domain = Domain(self.timeline, f"{self.path}.domain[{did}]", name, did, self.pages)
        self.domains[did] = domain
        return domain

    def domain_free(self, domain: Domain) -> None:
        """End a domain to which nothing is attached."""
        if len(domain.rids) or len(domain.aux):
            raise KernelError("EBUSY", f"domain {domain.name} must be detached from all devices first")
        del self.domains[domain.did]
        self._dids.release(domain.did)
        domain.destroy()

    def attach_domain(self, domain: Domain, rid: int) -> None:
        """Make a domain a device's own: its requests without PASID now reach the domain."""
        self.clear_entry(rid, PASID_RID2PASID)
        self.set_entry(rid, PASID_RID2PASID, self._second_level(domain, PASID_RID2PASID), f"memory of {domain.name}")
        domain.rids[rid] = True
        self.emit(Verb.ATTACH, f"domain of {domain.name} to {format_rid(rid)}", rid=rid)

    def detach_domain(self, domain: Domain, rid: int) -> None:
        """Undo :meth:`attach_domain`; the device passes through again."""
        del domain.rids[rid]
        self.clear_entry(rid, PASID_RID2PASID)
        self._pass_through(rid)
        self.emit(Verb.DETACH, f"domain of {domain.name} from {format_rid(rid)}", rid=rid)

    def attach_aux(self, domain: Domain, rid: int, host_set: IoasidSet) -> int:
        """Attach a domain beside a device's own one; returns its default PASID.

        The default PASID is allocated once a domain, from the host's set; ``-ENODEV`` when there is none.
        """
        self.table_of(rid)
        if domain.default_pasid is None:
            try:
                domain.default_pasid = self.core.alloc(host_set, PASID_MIN, PASID_MAX - 1, f"aux-domain:{domain.name}")
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
