"""One SMMUv3 of the machine's silicon: transactions in, addresses or recorded events out.

Models a unit behind the register block of :mod:`~pasidlab.hardware.iommu.smmuv3.registers`: transactions, ATS
translation requests and translated requests, page requests, transactions that are held until software resumes them, the
caches with their invalidation, and the messages that it sends: to devices (invalidate, page group response, resume) and
to the CPU (interrupts).

What each kind of request meets follows chapters 3.9 and 3.12 of the specification (IHI 0070): a translation request is
answered without rights where a transaction would fault on its translation, nothing is recorded; with Config 0 it is
refused silently, with Config 4 or EATS=0 as F_BAD_ATS_TREQ; other configuration errors are told to the device and
recorded only with CR2.REC_CFG_ATS. A translated request passes unchecked while ATSCHK=0; otherwise EATS decides, and
with EATS=2 (split stage) its address is an intermediate one that goes through stage 2. Translated requests are taken
as without PASID (IDR3.PASIDTT=0).

A transaction is held (CD.S=1) with a tag that CMD_RESUME names; its record waits for room in the event queue if need
be, and for one of STALL_MAX places. UNVERIFIED: R=0 does not hide the record of a held transaction; stalls end with an
abort when SMMUEN falls. CD.A=0 (a blocked access reads zero and its writes vanish) looks like an abort to the device,
since this model's devices are told of every blocked access.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.contract import CacheLine, Fault, Stop, TableEntry, Walk
from pasidlab.hardware.iommu.smmuv3.caches import SmmuCaches, SteLine, Translation
from pasidlab.hardware.iommu.smmuv3.coherence import cache_lines, entries_of
from pasidlab.hardware.iommu.smmuv3.fault_log import encode_event
from pasidlab.hardware.iommu.smmuv3.faults import Blocked, SmmuEvent
from pasidlab.hardware.iommu.smmuv3.forgetting import forget
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.iommu.smmuv3.invalidation import PAGE_RESPONSES, RETRY, Command
from pasidlab.hardware.iommu.smmuv3.register_file import ATSCHK, CR0
from pasidlab.hardware.iommu.smmuv3.registers import SmmuRegisters
from pasidlab.hardware.iommu.smmuv3.stalls import Stalled, free_tag
from pasidlab.hardware.iommu.smmuv3.tables import Lookup, context_number, find_cd, find_ste
from pasidlab.hardware.iommu.smmuv3.walk import NEEDS, READ, Wish
from pasidlab.hardware.layouts.smmu_queue import CMD_ATC_INV, CMD_PRI_RESP, CMD_RESUME, CMD_STALL_TERM
from pasidlab.hardware.memory import PAGE_SIZE, Memory
from pasidlab.hardware.pcie import (
    Access,
    DmaRequest,
    InvalidateRequest,
    PageGroupResponse,
    PageRequest,
    RequestKind,
    ResponseCode,
    TranslationCompletion,
)
from pasidlab.timeline import Table, Verb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pasidlab.hardware.bus import PcieBus
    from pasidlab.hardware.cpu import LocalApic
    from pasidlab.hardware.pcie import Endpoint
    from pasidlab.timeline import Timeline

__all__ = ["SmmuUnit"]

_SPLIT: Final = 2
"""EATS: the device keeps intermediate addresses."""
_NAMES: Final = {"SSID": "pasid", "SID": "rid", "VMID": "vmid", "ASID": "asid"}
_WANTED: Final = {
    Access.READ: NEEDS[Access.READ],
    Access.WRITE: NEEDS[Access.ATOMIC],
    Access.EXECUTE: NEEDS[Access.EXECUTE] | READ,
    Access.ATOMIC: NEEDS[Access.ATOMIC],
}
"""The rights that a translation request asks for: always to read (there is no other kind), to write without NW."""


class SmmuUnit(SmmuRegisters):
    """A remapping unit in front of ``memory``; see :class:`~pasidlab.hardware.iommu.contract.IommuUnit`.

    It reaches devices by the ``bus`` and interrupts the CPU by its ``apic``; without them nobody is there to be told.

    >>> from pasidlab.hardware.memory import PhysicalMemory
    >>> from pasidlab.timeline import HARDWARE, Timeline
    >>> time = Timeline()
    >>> unit = SmmuUnit(time, "iommu", HARDWARE, PhysicalMemory(time, "ram", 1 << 20))
    >>> request = DmaRequest(0x6A00, 0x1000, Access.READ, pasid=5)
    >>> hex(unit.translate(request))
    '0x1000'
    >>> unit.mmio_write(0x80, 0x4000); unit.mmio_write(0x88, 8, 4); unit.mmio_write(0x20, 1, 4)
    >>> print(unit.walk(request._replace(rid=8)))
    00:01.0 PASID 5 read 0x1000
      lookup         stream table entry at 0x4200: all zero
      -> 00:01.0 PASID 5 read 0x1000: fault 0x04 C_BAD_STE (the stream table entry is not valid, or contradicts \
itself or the unit)
    """

    def __init__(
        self,
        timeline: Timeline,
        path: str,
        altitude: str,
        memory: Memory,
        identity: SmmuIdentity | None = None,
        bus: PcieBus | None = None,
        apic: LocalApic | None = None,
    ) -> None:
        super().__init__(timeline, path, altitude, memory, identity if identity is not None else SmmuIdentity())
        self._bus = bus
        self._apic = apic
        self.caches = SmmuCaches(timeline, f"{path}.caches")
        self.stalls = Table[int, Stalled](timeline, f"{path}.stalls")
        self._kept = self.caches if self.identity.caches else None

    # --- requests -----------------------------------------------------------------------------------------------------

    def translate(self, request: DmaRequest) -> int | Fault:
        """The physical address of a real request, or its fault, recorded; a fault with ``stall`` is held."""
        address = self._hit(request)
        if address is not None:
            return address
        outcome = self._resolve(request, self._way(keep=True))
        return self._report(request, outcome) if isinstance(outcome, Blocked) else outcome

    def complete(self, request: DmaRequest) -> TranslationCompletion | Fault:
        """Answer a translation request (ATS): 4 KiB, with the rights that there are of those that were asked for."""
        request = request._replace(kind=RequestKind.TRANSLATION)
        found = self._for_device(request, self._way(keep=True))
        if isinstance(found, Translation):
            granted = _WANTED[request.access] & (found.granted >> 3 if request.privileged else found.granted & 7)
            return self._completed(request, found.page, granted if granted & 3 else 0, "no right that ATS can tell")
        if found.event is None or not found.event.by_walk:
            return self._report(request, found)
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
        way = Lookup(self.stream_table, self.walker, self.rules, self._kept if caches else None, False, stops)
        outcome = self._resolve(request, way)
        if isinstance(outcome, Blocked):
            return Walk(request, tuple(stops), None, _fault(request, outcome), self)
        return Walk(request, tuple(stops), outcome, None, self)

    def entries(self, rid: int) -> list[TableEntry]:
        """Every entry that requests of ``rid`` could meet, read from the tables in memory alone, lowest PASID first."""
        return entries_of(self, rid)

    def cache_lines(self, present: Iterable[TableEntry], *, every: bool) -> Iterator[CacheLine]:
        """The lines of the caches that disagree with the tables; with ``every`` also those that agree."""
        streams = self._bus.endpoints.keys() if self._bus is not None else ()
        return cache_lines(self, self.caches, present, streams, every=every)

    # --- how a request is resolved ------------------------------------------------------------------------------------

    def _way(self, *, keep: bool) -> Lookup:
        return Lookup(self.stream_table, self.walker, self.rules, self._kept, keep)

    def _hit(self, request: DmaRequest) -> int | None:
        """The address, if all that decides about the request is in the caches and was granted before."""
        rid, address, access, pasid, privileged, kind = request
        ste = self.caches.stes.get(rid)
        if ste is None or ste.bad or kind or not self.translation_enabled:
            return None
        number = context_number(ste, pasid)
        cd = self.caches.cds.get((rid, number)) if isinstance(number, int) else None
        if cd is None or cd.bad or cd.ignores_top[address >> 55 & 1]:
            return None
        found = self.caches.tlb.get((ste.vmid, cd.asid, address >> 12))
        if found is None:
            return None
        need = NEEDS[access]
        if (need << 3 if privileged else need) & ~found.granted:
            return None
        return found.page | address & 0xFFF

    def _resolve(self, request: DmaRequest, way: Lookup) -> int | Blocked:
        """The address of a request of any kind, or why it is blocked."""
        rid, address, access, _, privileged, kind = request
        if kind is RequestKind.TRANSLATED:
            return self._translated(request, way)
        if kind is RequestKind.PAGE:
            return Blocked(SmmuEvent.F_UUT)
        if kind is RequestKind.TRANSLATION:
            found = self._for_device(request, way)
        elif not self.translation_enabled:
            return Blocked(None) if self.blocks_when_off or address >= self.rules.oas_limit else address
        else:
            ste = find_ste(way, rid)
            if isinstance(ste, Blocked):
                return self._quiet(ste, kind)
            if not ste.config:
                return Blocked(None)
            found = self._through(request, way, ste, Wish(NEEDS[access], privileged))
        return found if isinstance(found, Blocked) else found.page | address & 0xFFF

    def _through(self, request: DmaRequest, way: Lookup, ste: SteLine, wish: Wish) -> Translation | Blocked:
        """Context descriptor and both stages."""
        number = context_number(ste, request.pasid)
        if isinstance(number, Blocked):
            return number
        cd = None if number is None else find_cd(way, request.rid, ste, number)
        if isinstance(cd, Blocked):
            return cd
        trace, caches, keep = way.trace, way.caches, way.keep
        if ste.eats != _SPLIT or not wish.some or cd is None:
            return self.walker.translate(ste, cd, request.address, wish, trace, caches, keep)
        first = self.walker.first(ste, cd, request.address, wish, trace, caches)
        if isinstance(first, Blocked):
            return first
        behind = self.walker.translate(ste, None, first.page, wish.within(first.granted), trace, caches, keep)
        return behind if isinstance(behind, Blocked) else first._replace(granted=first.granted & behind.granted)

    def _for_device(self, request: DmaRequest, way: Lookup) -> Translation | Blocked:
        """What a translation request finds out: the page for the device's own TLB, with its rights."""
        kind = RequestKind.TRANSLATION
        if not self.translation_enabled:
            return Blocked(SmmuEvent.F_BAD_ATS_TREQ)
        ste = find_ste(way, request.rid)
        if isinstance(ste, Blocked):
            return self._quiet(ste, kind)
        if not ste.config:
            return Blocked(None)
        if not self._takes_ats(ste):
            return Blocked(SmmuEvent.F_BAD_ATS_TREQ)
        found = self._through(request, way, ste, Wish(_WANTED[request.access], request.privileged, some=True))
        return self._quiet(found, kind) if isinstance(found, Blocked) else found

    def _translated(self, request: DmaRequest, way: Lookup) -> int | Blocked:
        """A request with an address that the device was given before."""
        rid, address, access = request[:3]
        within = address if address < self.rules.oas_limit else Blocked(None)
        if not self.translation_enabled:
            return Blocked(SmmuEvent.F_TRANSL_FORBIDDEN)
        if not self.registers[CR0] & ATSCHK:
            return within
        ste = find_ste(way, rid)
        if isinstance(ste, Blocked):
            return self._quiet(ste, RequestKind.TRANSLATED)
        if not ste.config:
            return Blocked(None)
        if not ste.eats:
            return Blocked(SmmuEvent.F_TRANSL_FORBIDDEN)
        if ste.eats != _SPLIT:
            return within
        need = NEEDS[Access.READ if access is Access.EXECUTE else access]
        found = self.walker.translate(ste, None, address, Wish(need), way.trace, way.caches, way.keep)
        return found if isinstance(found, Blocked) else found.page | address & 0xFFF

    def _takes_ats(self, ste: SteLine) -> bool:
        """EATS; split-stage counts only while translated requests are checked."""
        return bool(ste.eats) and (ste.eats != _SPLIT or bool(self.registers[CR0] & ATSCHK))

    def _quiet(self, blocked: Blocked, kind: RequestKind) -> Blocked:
        """Whether CR2 lets a configuration error be recorded."""
        silent = blocked.silent
        if kind is not RequestKind.MEMORY and (blocked.event is None or not blocked.event.by_walk):
            silent = silent or not self.records_ats_configuration
        if blocked.event is SmmuEvent.C_BAD_STREAMID and kind is not RequestKind.TRANSLATED:
            silent = silent or not self.records_invalid_streams
        return blocked._replace(silent=silent)

    # --- faults and stalls --------------------------------------------------------------------------------------------

    def _report(self, request: DmaRequest, blocked: Blocked) -> Fault:
        """Record an event unless it is to be silent, hold the transaction if it is to be, and tell it either way."""
        stag = free_tag(self.stalls) if blocked.stall and request.kind is RequestKind.MEMORY else None
        fault = _fault(request, blocked, stag)
        if stag is not None:
            fate = self._hold(stag, request, blocked)
        elif blocked.event is None or blocked.silent:
            fate = "suppressed" if blocked.silent else "nothing is recorded"
        else:
            recorded = self.record_event(encode_event(request, blocked))
            fate = "recorded" if recorded else "lost: the event queue does not take it"
        facts = {"rid": request.rid, "pasid": request.pasid, "code": fault.code, "address": request.address}
        self.emit(Verb.FAULT, str(request), after=fault.name, **facts, access=request.access.value, fate=fate)
        return fault

    def _hold(self, stag: int, request: DmaRequest, blocked: Blocked) -> str:
        self.stalls[stag] = Stalled(request, encode_event(request, blocked, stag), recorded=False)
        self._events_read()
        told = self.stalls[stag].recorded
        return f"held, tag {stag}" + ("" if told else ", the record waits for room")

    def _events_read(self) -> None:
        """There may be room for records of held transactions: they are never lost."""
        told = sum(held.recorded for held in self.stalls.values())
        for stag, held in self.stalls.items():
            if not held.recorded and told < self.identity.stall_max and self.takes_events:
                self.stalls[stag] = held._replace(recorded=True)
                if not self.record_event(held.words):
                    self.stalls[stag] = held
                    return
                told += 1

    def _resume(self, stag: int, *, retry: bool) -> None:
        """Let a held transaction go: the device tries it again, or is told that it has failed."""
        held = self.stalls.pop(stag)
        endpoint = self._endpoint(held.request.rid)
        if endpoint is not None:
            endpoint.resumed(stag, retry=retry)
        self._events_read()

    def _translation_switched(self) -> None:
        if not self.translation_enabled:
            for stag in self.stalls.keys():
                if stag in self.stalls:
                    self._resume(stag, retry=False)

    # --- messages -----------------------------------------------------------------------------------------------------

    def _endpoint(self, rid: int) -> Endpoint | None:
        return self._bus.endpoints.get(rid) if self._bus is not None else None

    def _page_request_dropped(self, request: PageRequest, code: ResponseCode) -> None:
        if request.last and (request.read or request.write):
            self._answer(PageGroupResponse(request.rid, request.pasid, request.group, code))

    def _answer(self, response: PageGroupResponse) -> None:
        endpoint = self._endpoint(response.rid)
        self.tell_response(response)
        if endpoint is not None:
            endpoint.page_response(response)

    def _interrupt(self, address: int, data: int) -> None:
        self.emit(Verb.INTERRUPT, f"vector {data & 0xFF:#x}", vector=data & 0xFF)
        if self._apic is not None:
            self._apic.message(address, data)

    # --- commands -----------------------------------------------------------------------------------------------------

    def _command(self, command: Command) -> None:
        """Tell it, and drop what the command names from the caches, or send it on to the device."""
        facts = {_NAMES[name]: value for name, value in command.fields().items() if name in _NAMES}
        event = self.emit(Verb.INVALIDATE, str(command), **facts)
        with self.timeline.because(event):
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        layout, at = command.layout, command.fields()
        if layout is CMD_ATC_INV:
            self._invalidate_device(command)
        elif layout is CMD_PRI_RESP:
            code = PAGE_RESPONSES[at["RESP"]]
            if self.translation_enabled:
                self._answer(PageGroupResponse(at["SID"], at["SSID"] if at["SSV"] else None, at["GRPID"], code))
        elif layout is CMD_RESUME:
            held = self.stalls.get(at["STAG"])
            if held is not None and held.request.rid == at["SID"]:
                self._resume(at["STAG"], retry=bool(at["RESP"] & RETRY))
        elif layout is CMD_STALL_TERM:
            for stag, held in self.stalls.items():
                if held.request.rid == at["SID"] and stag in self.stalls:
                    self._resume(stag, retry=False)
        else:
            forget(self.caches, command, self.identity, self.stream_table.split)

    def _invalidate_device(self, command: Command) -> None:
        """Without SSV everything in the range goes, whatever its PASID: two messages of this model's bus."""
        at = command.fields()
        if not self.translation_enabled:
            return
        endpoint = self._endpoint(at["SID"])
        if endpoint is None:
            self.unanswered = True
            return
        start, size = command.pages(self.identity)
        pasid = at["SSID"] if at["SSV"] else None
        every = bool(at["GLOBAL"]) or pasid is None
        if every:
            endpoint.invalidate(InvalidateRequest(at["SID"], pasid, start, size, all_pasids=True))
        if not every or pasid is None:
            endpoint.invalidate(InvalidateRequest(at["SID"], pasid, start, size))


def _fault(request: DmaRequest, blocked: Blocked, stag: int | None = None) -> Fault:
    """A fault as the rest of the machine knows it; 0 is the code where the unit has none."""
    code = int(blocked.event) if blocked.event is not None else 0
    suppressed = blocked.silent or blocked.event is None
    return Fault(code, blocked.name, blocked.meaning, request, suppressed and stag is None, stag)
