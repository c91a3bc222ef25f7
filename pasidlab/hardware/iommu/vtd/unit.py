"""One VT-d remapping unit of the machine's silicon: requests in, addresses or recorded faults out.

Models a unit in scalable mode behind the register block of :mod:`~pasidlab.hardware.iommu.vtd.registers`: untranslated
requests, ATS translation requests and translated requests, page requests, the caches with their invalidation, and the
messages that it sends: to devices (invalidate, page group response) and to the CPU (interrupts).

Which faults a translation request survives, how far a translated request and a page request are looked up (to the
PASID entry, no further: whoever was given an address is trusted with it), and that a page request drops the page from
the IOTLB, follows revision 5.10 of the specification; the notes on which the rest of the model stands do not say it. An
invalidation for a device that is not there times out: FSTS.ITE. While translation is off (TES=0), ATS and page requests
are refused without a record (told here as 0x44 that was not recorded).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.contract import Fault, Stop, Walk
from pasidlab.hardware.iommu.vtd.caches import SECOND_LEVEL, ContextLine, PasidLine, VtdCaches
from pasidlab.hardware.iommu.vtd.coherence import cache_lines, entries_behind
from pasidlab.hardware.iommu.vtd.faults import FaultReason
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.invalidation import Descriptor
from pasidlab.hardware.iommu.vtd.registers import VtdRegisters
from pasidlab.hardware.iommu.vtd.rules import is_interrupt_address
from pasidlab.hardware.iommu.vtd.tables import Lookup, PasidLookup, Trace, find_context, find_pasid_entry
from pasidlab.hardware.iommu.vtd.walk import NEEDS, VtdWalker
from pasidlab.hardware.layouts.vtd import PGTT
from pasidlab.hardware.layouts.vtd_queue import (
    QI_CONTEXT_CACHE,
    QI_DEV_TLB,
    QI_IOTLB,
    QI_PAGE_GROUP_RESP,
    QI_PASID_CACHE,
    QI_PASID_DEV_TLB,
    QI_PIOTLB,
)
from pasidlab.hardware.memory import PAGE_SHIFT, PAGE_SIZE, Memory
from pasidlab.hardware.pcie import (
    WHOLE_SPACE,
    Access,
    DmaRequest,
    InvalidateRequest,
    PageGroupResponse,
    PageRequest,
    RequestKind,
    ResponseCode,
    TranslationCompletion,
)
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pasidlab.hardware.bus import PcieBus
    from pasidlab.hardware.cpu import LocalApic
    from pasidlab.hardware.iommu.contract import CacheLine, TableEntry
    from pasidlab.timeline import Timeline

__all__ = ["RECOVERABLE", "VtdUnit"]

RECOVERABLE: Final = frozenset(
    FaultReason.of(code)
    for code in (0x51, 0x59, 0x5C, 0x5D, *range(0x70, 0x78), 0x79, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x90, 0x91)
)
"""Faults that a translation request (ATS) is not blocked by: it is answered without the right, and nothing is recorded
(but 0x91): the device may ask for the page and try again.
"""
_LESS: Final = {int(FaultReason.SGN_6): Access.READ, int(FaultReason.SGN_7): Access.WRITE}
"""What is tried when only one right is missing: the page may not be written, or not be read."""
_DEVICE_SELECTIVE: Final = 3


class VtdUnit(VtdRegisters):
    """A remapping unit in front of ``memory``; see :class:`~pasidlab.hardware.iommu.contract.IommuUnit`.

    It reaches devices by the ``bus`` and interrupts the CPU by its ``apic``; without them nobody is there to be told.

    >>> from pasidlab.hardware.memory import PhysicalMemory
    >>> from pasidlab.hardware.pcie import Access
    >>> from pasidlab.timeline import HARDWARE, Timeline
    >>> time = Timeline()
    >>> unit = VtdUnit(time, "iommu", HARDWARE, PhysicalMemory(time, "ram", 1 << 20))
    >>> request = DmaRequest(0x6A00, 0x1000, Access.READ, pasid=5)
    >>> hex(unit.translate(request))
    '0x1000'
    >>> unit.mmio_write(0x20, 0x5400); unit.mmio_write(0x18, 1 << 31 | 1 << 30, 4)
    >>> print(unit.walk(request))
    6a:00.0 PASID 5 read 0x1000
      lookup         root entry at 0x56a0: all zero
      -> 6a:00.0 PASID 5 read 0x1000: fault 0x39 SRT.2 (the root entry has no context table for this half of the bus)
    """

    def __init__(
        self,
        timeline: Timeline,
        path: str,
        altitude: str,
        memory: Memory,
        identity: VtdIdentity | None = None,
        bus: PcieBus | None = None,
        apic: LocalApic | None = None,
    ) -> None:
        super().__init__(timeline, path, altitude, memory, identity if identity is not None else VtdIdentity())
        self._walker = VtdWalker(memory, self.rules)
        self._bus = bus
        self._apic = apic
        self.caches = VtdCaches(timeline, f"{path}.caches", self.identity)
        self._kept = self.caches if self.identity.caches else None

    # --- requests -----------------------------------------------------------------------------------------------------

    def translate(self, request: DmaRequest) -> int | Fault:
        """The host-physical address of a real request, or its fault, recorded. Sets accessed and dirty bits."""
        address = self._hit(request)
        if address is not None:
            return address
        outcome = self._resolve(request, keep=True, caches=self._kept)
        if isinstance(outcome, Fault):
            self._report(outcome)
        return outcome

    def complete(self, request: DmaRequest) -> TranslationCompletion | Fault:
        """Answer a translation request (ATS): 4 KiB, with the rights that there are.

        A unit that does not know the "no write" flag (ECAP.NWFS) takes every request for one that will write as well,
        and marks the page dirty where it may be written.
        """
        access = request.access
        if access is not Access.EXECUTE and not self.identity.nwfs:
            access = Access.ATOMIC
        found = self._resolve(request._replace(access=access), keep=True, caches=self._kept)
        if isinstance(found, Fault) and found.code in _LESS:
            access = _LESS[found.code]
            found = self._resolve(request._replace(access=access), keep=True, caches=self._kept)
        if not isinstance(found, Fault):
            return self._completed(request, found & -PAGE_SIZE, NEEDS[access], "")
        if self.translation_enabled and (found.code not in RECOVERABLE or found.code == FaultReason.SFS_10):
            self._report(found._replace(request=request))
        if found.code not in RECOVERABLE:
            return found._replace(request=request)
        return self._completed(request, request.address & -PAGE_SIZE, 0, found.meaning)

    def _completed(self, request: DmaRequest, page: int, granted: int, why: str) -> TranslationCompletion:
        """Tell of an answer, and give it."""
        rights = "".join(letter for bit, letter in ((1, "R"), (2, "W"), (4, "X")) if granted & bit)
        after = f"{page:#x} ({rights})" if granted else f"no page: {why}"
        facts = {"rid": request.rid, "pasid": request.pasid, "address": request.address}
        self.emit(Verb.ATS, str(request), after=after, **facts)
        read, write, execute = (bool(granted & bit) for bit in (1, 2, 4))
        return TranslationCompletion(page, PAGE_SIZE, read, write, execute, request.privileged)

    def walk(self, request: DmaRequest, *, caches: bool = True) -> Walk:
        """What would happen to a request, with every stop on the way. Changes nothing.

        Through stale caches the request itself may go another way in the end: it learns on its way, questions do not.
        """
        stops: list[Stop] = []
        outcome = self._resolve(request, keep=False, caches=self._kept if caches else None, trace=stops)
        if isinstance(outcome, Fault):
            return Walk(request, tuple(stops), None, outcome, self)
        return Walk(request, tuple(stops), outcome, None, self)

    # --- what the tables alone say ------------------------------------------------------------------------------------

    def resolve(self, line: PasidLine, address: int, access: Access, privileged: bool = False) -> int:
        """Where an address leads under a PASID entry, or minus the fault reason. No cache is asked, nothing changes."""
        return self._walker.resolve(line, address, access, privileged)

    def entry_at(self, line: PasidLine, address: int, level: int, *, privileged: bool) -> tuple[int, int] | None:
        """The paging entry of ``level`` on the way to an address: where it lies, and its word."""
        stops: list[Stop] = []
        self._walker.resolve(line, address, Access.READ, privileged, trace=stops)
        stage = "second" if line.tag == SECOND_LEVEL else "first"
        for stop in stops:
            if stop.stage == stage and stop.level == level:
                return stop.address, stop.words[0]
        return None

    def context_words(self, rid: int) -> tuple[int, ...] | None:
        """The words of the context entry of ``rid``, if it can be used."""
        found = find_context(self._lookup(), rid, None)
        return found.words if isinstance(found, ContextLine) else None

    def rid_pasid(self, rid: int) -> int:
        """The PASID that stands for requests of ``rid`` without one."""
        found = find_context(self._lookup(), rid, None)
        return found.rid_pasid if isinstance(found, ContextLine) else 0

    def entries(self, rid: int) -> list[TableEntry]:
        """Every present PASID entry of ``rid``."""
        context = self.context_words(rid) if self.translation_enabled else None
        return list(entries_behind(self.memory, rid, context)) if context is not None else []

    def cache_lines(self, present: Iterable[TableEntry], *, every: bool) -> Iterator[CacheLine]:
        """Lines that disagree with the tables; with ``every`` all."""
        return cache_lines(self, present, every=every)

    def _hit(self, request: DmaRequest) -> int | None:
        """The address, if all that decides about the request is in the caches and was granted before."""
        rid, address, access, number, privileged, kind = request
        context = self.caches.contexts.get(rid)
        if context is None or kind or not self.translation_enabled:
            return None
        if number is None:
            number, privileged = context.rid_pasid, context.rid_priv
        elif not context.takes_pasids:
            return None
        line = self.caches.pasids.get((rid, number))
        if line is None or number >= context.limit:
            return None
        found = self.caches.iotlb.get((line.did, line.tag, address >> 12))
        if found is None:
            return None
        need = 1 if access is Access.READ else NEEDS[access]
        if (need << 3 if privileged else need) & ~(found.granted & line.allowed) or found.page < 0:
            return None
        return found.page | address & 0xFFF

    def _resolve(self, request: DmaRequest, keep: bool, caches: VtdCaches | None, trace: Trace = None) -> int | Fault:
        rid, address, access, pasid, privileged, kind = request
        if not self.translation_enabled:
            off = PasidLookup(FaultReason.SCT_5, fpd=True)
            return address if kind is RequestKind.MEMORY else _fault(off, request)
        lookup = Lookup(self.memory, self.root_pointer, self.rules, caches, keep, trace)
        found = find_pasid_entry(lookup, rid, pasid, kind)
        if found.reason is not None or found.line is None:
            return _fault(found, request)
        if kind is RequestKind.TRANSLATED:
            reason = self._misplaced(address)
            return address if reason is None else _fault(found._replace(reason=reason), request)
        if pasid is None:
            privileged = found.rid_priv
        outcome = self._walker.resolve(found.line, address, access, privileged, keep, trace, caches)
        if outcome < 0:
            return _fault(found._replace(reason=FaultReason.of(-outcome)), request)
        return outcome

    def _misplaced(self, address: int) -> FaultReason | None:
        """Why a translated request cannot go where it wants to."""
        if address >= self.rules.haw_limit:
            return FaultReason.SGN_4
        return FaultReason.SGN_8 if is_interrupt_address(address) else None

    def _report(self, fault: Fault) -> None:
        """Record a fault unless FPD forbids it, and tell it either way."""
        request = fault.request
        if fault.suppressed:
            fate = "suppressed by FPD"
        else:
            fate = "recorded" if self.faults.record(fault) else "lost: no free record"
        self.emit(
            Verb.FAULT,
            str(request),
            after=fault.name,
            rid=request.rid,
            pasid=request.pasid,
            code=fault.code,
            address=request.address,
            access=request.access.value,
            fate=fate,
        )

    # --- page requests ------------------------------------------------------------------------------------------------

    def page_request(self, request: PageRequest) -> None:
        """A device asks for a page (PRI): written into the queue for software, or answered at once if that fails."""
        if not self.translation_enabled:
            self._respond(request, ResponseCode.INVALID)
            return
        lookup = self._lookup()._replace(caches=self._kept, keep=True)
        found = find_pasid_entry(lookup, request.rid, request.pasid, RequestKind.PAGE)
        if found.reason is not None or found.line is None:
            access = Access.WRITE if request.write else Access.READ
            kind = RequestKind.PAGE
            asked = DmaRequest(request.rid, request.address, access, request.pasid, request.privileged, kind)
            self._report(_fault(found, asked))
            self._respond(request, ResponseCode.INVALID)
            return
        self._forget_page(found.line, request.address)
        super().page_request(request)

    def _forget_page(self, line: PasidLine, address: int) -> None:
        """What a page request says implicitly: the unit's own idea of this page may be out of date."""
        pgtt = line.words[0] >> 6 & 7
        if pgtt == PGTT.FIRST:
            self.caches.forget_pasid_translations(line.did, line.tag, address & -PAGE_SIZE, PAGE_SIZE)
        elif pgtt == PGTT.NESTED:
            self.caches.forget_translations(line.did)
        else:
            self.caches.forget_second_level(line.did, address & -PAGE_SIZE, PAGE_SIZE, leaf_only=False)

    def _page_request_dropped(self, request: PageRequest) -> None:
        self._respond(request, ResponseCode.SUCCESS)

    def _respond(self, request: PageRequest, code: ResponseCode) -> None:
        """Answer for software, if the request is one that gets an answer."""
        if request.last and (request.read or request.write):
            self._answer(PageGroupResponse(request.rid, request.pasid, request.group, code))

    def _answer(self, response: PageGroupResponse) -> None:
        endpoint = self._bus.endpoints.get(response.rid) if self._bus is not None else None
        self.tell_response(response)
        if endpoint is not None:
            endpoint.page_response(response)

    def _interrupt(self, address: int, data: int) -> None:
        self.emit(Verb.INTERRUPT, f"vector {data & 0xFF:#x}", vector=data & 0xFF)
        if self._apic is not None:
            self._apic.message(address, data)

    # --- invalidation -------------------------------------------------------------------------------------------------

    def _translation_switched(self) -> None:
        if not self.translation_enabled:
            self.caches.forget_everything()

    def _root_table_set(self) -> None:
        """With CAP.ESRTPS, or a table that no request can use, the unit forgets by itself (the latter: our choice)."""
        if self.identity.esrtps or self.root_pointer >> 10 & 3 != 1 or self.root_pointer & self.rules.root_pointer:
            self.caches.forget_everything()

    def _invalidate(self, descriptor: Descriptor) -> None:
        """Tell it, and drop what the descriptor names from the caches, or send it on to the device."""
        names = {"PASID": "pasid", "DID": "did", "SID": "rid", "RID": "rid"}
        facts = {names[name]: value for name, value in descriptor.fields().items() if name in names}
        event = self.emit(Verb.INVALIDATE, str(descriptor), **facts)
        with self.timeline.because(event):
            self._forget(descriptor)

    def _forget(self, descriptor: Descriptor) -> None:
        layout, at = descriptor.layout, descriptor.fields()
        if layout is QI_CONTEXT_CACHE:
            by_device = at["G"] == _DEVICE_SELECTIVE
            self.caches.forget_contexts(at["SID"] if by_device else None, at["FM"])
        elif layout is QI_PASID_CACHE:
            self.caches.forget_pasids(at["DID"] if at["G"] != 3 else None, at["PASID"] if at["G"] == 1 else None)
        elif layout is QI_IOTLB:
            self._forget_domain(at)
        elif layout is QI_PIOTLB:
            start, size = _range(at) if at["G"] == 3 else (0, WHOLE_SPACE)
            leaf_only = at["G"] == 3 and bool(at["IH"])
            self.caches.forget_pasid_translations(at["DID"], at["PASID"], start, size, leaf_only=leaf_only)
        elif layout in (QI_DEV_TLB, QI_PASID_DEV_TLB):
            self._invalidate_device(descriptor)
        elif layout is QI_PAGE_GROUP_RESP:
            self._answer(PageGroupResponse(at["RID"], at["PASID"] if at["PP"] else None, at["PRGI"], at["RC"]))

    def _forget_domain(self, at: dict[str, int]) -> None:
        if at["G"] == 3:
            start, size = _range(at)
            self.caches.forget_second_level(at["DID"], start, size, leaf_only=bool(at["IH"]))
        else:
            self.caches.forget_translations(at["DID"] if at["G"] == 2 else None)

    def _invalidate_device(self, descriptor: Descriptor) -> None:
        at = descriptor.fields()
        endpoint = self._bus.endpoints.get(at["SID"]) if self._bus is not None else None
        if endpoint is None:
            self._time_out(at["SID"])
            return
        start, size = _device_range(at["ADDR"], bool(at["S"]))
        by_pasid = descriptor.layout is QI_PASID_DEV_TLB
        every = by_pasid and bool(at["G"])
        endpoint.invalidate(InvalidateRequest(at["SID"], at["PASID"] if by_pasid else None, start, size, every))


def _fault(found: PasidLookup, request: DmaRequest) -> Fault:
    reason = found.reason
    assert reason is not None
    return Fault(int(reason), reason.label, reason.meaning, request, found.fpd and reason.qualified)


def _range(at: dict[str, int]) -> tuple[int, int]:
    """The bytes that address and address mask name: 2^AM pages, aligned."""
    size = PAGE_SIZE << at["AM"]
    return at["ADDR"] & -size, size


def _device_range(address: int, sized: bool) -> tuple[int, int]:
    """The bytes that the address of a device-TLB invalidation names: with S, its low ones and the zero above them.

    >>> _device_range(0x5000, False), _device_range(0x5000, True), _device_range(0x7FFF_FFFF_FFFF_F000, True)
    ((20480, 4096), (16384, 16384), (0, 18446744073709551616))
    """
    if not sized:
        return address, PAGE_SIZE
    page = address >> PAGE_SHIFT
    size = PAGE_SIZE << (~page & page + 1).bit_length()
    return address & -size, size
