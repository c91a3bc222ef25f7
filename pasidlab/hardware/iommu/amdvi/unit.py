"""One AMD IOMMU of the machine's silicon: requests in, addresses or logged events out.

Models a unit behind the register block of :mod:`~pasidlab.hardware.iommu.amdvi.registers`: untranslated requests, ATS
translation requests and translated requests, page requests, the caches with their invalidation, and the messages that
it sends: to devices (invalidate, page group response) and to the CPU (interrupts).

Requests without a PASID are translated by the host table alone, or (GV=1, GIOV=1, EFR.GIOSUP) by the guest table of
PASID 0 and then the host table. UNVERIFIED: GIOV on a unit without GIOSUP is ignored; that what they raise is told as
of PASID 0 with GN=1; a device table entry with V=0 lets untranslated requests pass, with or without PASID; a
translation request that meets a page fault is answered without the right and nothing is logged; translated requests
need V and I only; atomic accesses ask for both rights; page faults are not logged with SA=1, and with SE=1 only the
first one since the entry was read; an invalidation for a device that is not there times out at once, whatever
InvTimeOut says, and the command buffer goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.iommu.amdvi.caches import HOST, AmdCaches, DteLine
from pasidlab.hardware.iommu.amdvi.coherence import cache_lines, entries_behind
from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord, event_of
from pasidlab.hardware.iommu.amdvi.faults import EventCode, Reason
from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.iommu.amdvi.invalidation import Command
from pasidlab.hardware.iommu.amdvi.page_queue import encode_page_request
from pasidlab.hardware.iommu.amdvi.register_file import CONTROL
from pasidlab.hardware.iommu.amdvi.registers import AmdRegisters
from pasidlab.hardware.iommu.amdvi.rules import is_interrupt_address
from pasidlab.hardware.iommu.amdvi.tables import Lookup, find_dte
from pasidlab.hardware.iommu.amdvi.walk import NEEDS, Errand
from pasidlab.hardware.iommu.contract import Fault, Stop, Walk
from pasidlab.hardware.layouts.amd import CONTROL_REG, DTE
from pasidlab.hardware.layouts.amd_queue import (
    CMD_COMPLETE_PPR,
    CMD_INV_ALL,
    CMD_INV_DEVTAB,
    CMD_INV_IOMMU_PAGES,
    CMD_INV_IOTLB_PAGES,
)
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
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pasidlab.hardware.bus import PcieBus
    from pasidlab.hardware.cpu.local_apic import LocalApic
    from pasidlab.hardware.iommu.contract import CacheLine, TableEntry
    from pasidlab.timeline import Timeline

__all__ = ["AmdUnit", "Blocked"]

_PPR_EN: Final = CONTROL_REG["PPREn"].mask
_GT_EN: Final = CONTROL_REG["GTEn"].mask
_AUTO_RESPONSE: Final = CONTROL_REG["PPRAutoRspEn"].mask
_SUPPRESS_MORE, _SUPPRESS_ALL = DTE["SE"].mask >> 64, DTE["SA"].mask >> 64
_TRIED: Final = (Access.ATOMIC, Access.READ, Access.WRITE)
"""Which rights a translation request (ATS) is given: the first of these that the tables allow."""


class Blocked(NamedTuple):
    """Why a request is blocked, and what its event needs: the device table entry, if one was found, and the address
    that the host table was asked for, if it was at fault.
    """

    reason: Reason
    request: DmaRequest
    line: DteLine | None = None
    where: int | None = None

    @property
    def fault(self) -> Fault:
        """The fault as :mod:`~pasidlab.hardware.iommu.contract` tells it; the code is that of the event."""
        reason, code = self.reason, self.reason.code
        return Fault(int(code), code.name, reason.meaning, self.request, self.suppressed, reason=reason.name)

    @property
    def suppressed(self) -> bool:
        """Whether the device table entry asks not to log it."""
        if self.line is None or self.reason.code is not EventCode.IO_PAGE_FAULT:
            return False
        second = self.line.words[1]
        return bool(second & _SUPPRESS_ALL or (second & _SUPPRESS_MORE and self.line.told))

    def record(self) -> EventRecord:
        """The entry for the log."""
        line = self.line
        return event_of(self.reason, self.request, line.did if line is not None and line.valid else 0, self.where)


class AmdUnit(AmdRegisters):
    """A remapping unit in front of ``memory``; see :class:`~pasidlab.hardware.iommu.contract.IommuUnit`.

    It reaches devices by the ``bus`` and interrupts the CPU by its ``apic``; without them nobody is there to be told.

    >>> from pasidlab.hardware.memory import PhysicalMemory
    >>> from pasidlab.timeline import HARDWARE, Timeline
    >>> time = Timeline()
    >>> unit = AmdUnit(time, "iommu", HARDWARE, PhysicalMemory(time, "ram", 1 << 22))
    >>> request = DmaRequest(0x0108, 0x1000, Access.READ, pasid=5)
    >>> hex(unit.translate(request))
    '0x1000'
    >>> unit.memory.store_words(0x2100, DTE.encode(V=1, TV=1, IR=1))
    >>> unit.mmio_write(0x0, 0x1FF); unit.mmio_write(0x18, 1)
    >>> print(unit.walk(request))
    01:01.0 PASID 5 read 0x1000
      lookup         device table entry at 0x2100: V=0x1 TV=0x1 IR=0x1
      -> 01:01.0 PASID 5 read 0x1000: fault 0x02 IO_PAGE_FAULT (the device has no guest translation (GV=0, or GTEn=0))
    """

    def __init__(
        self,
        timeline: Timeline,
        path: str,
        altitude: str,
        memory: Memory,
        identity: AmdIdentity | None = None,
        bus: PcieBus | None = None,
        apic: LocalApic | None = None,
    ) -> None:
        super().__init__(timeline, path, altitude, memory, identity if identity is not None else AmdIdentity())
        self._bus = bus
        self._apic = apic
        self.caches = AmdCaches(timeline, f"{path}.caches")
        self._kept = self.caches if self.identity.caches else None

    # --- requests -----------------------------------------------------------------------------------------------------

    def translate(self, request: DmaRequest) -> int | Fault:
        """The system-physical address of a real request, or its fault, logged. Sets accessed and dirty bits."""
        address = self._hit(request)
        if address is not None:
            return address
        outcome = self._resolve(request, self._kept, keep=True)
        if isinstance(outcome, Blocked):
            self._report(outcome)
            return outcome.fault
        return outcome

    def complete(self, request: DmaRequest) -> TranslationCompletion | Fault:
        """Answer a translation request (ATS): 4 KiB, with the rights that there are.

        The unit takes every request for one that will write as well, and marks the page dirty where it may be written.
        """
        tried = (Access.EXECUTE,) if request.access is Access.EXECUTE else _TRIED
        blocked: Blocked | None = None
        for access in tried:
            found = self._resolve(request._replace(access=access), self._kept, keep=True)
            if not isinstance(found, Blocked):
                return self._answered(request, found & -PAGE_SIZE, NEEDS[access], "")
            blocked = blocked or found._replace(request=request)
            if not found.reason.recoverable:
                self._report(found._replace(request=request))
                return found._replace(request=request).fault
        assert blocked is not None
        return self._answered(request, request.address & -PAGE_SIZE, 0, blocked.reason.meaning)

    def _answered(self, request: DmaRequest, page: int, granted: int, why: str) -> TranslationCompletion:
        """Tell of an answer, and give it."""
        rights = "".join(letter for bit, letter in ((1, "R"), (2, "W"), (4, "X")) if granted & bit)
        after = f"{page:#x} ({rights})" if granted else f"no page: {why}"
        facts = {"rid": request.rid, "pasid": request.pasid, "address": request.address}
        self.emit(Verb.ATS, str(request), after=after, **facts)
        read, write, execute = (bool(granted & bit) for bit in (1, 2, 4))
        return TranslationCompletion(page, PAGE_SIZE, read, write, execute, request.privileged)

    def walk(self, request: DmaRequest, *, caches: bool = True) -> Walk:
        """What would happen to a request, with every stop on the way. Changes nothing."""
        stops: list[Stop] = []
        outcome = self._resolve(request, self._kept if caches else None, keep=False, trace=stops)
        if isinstance(outcome, Blocked):
            return Walk(request, tuple(stops), None, outcome.fault, self)
        return Walk(request, tuple(stops), outcome, None, self)

    def entries(self, rid: int) -> list[TableEntry]:
        """Every entry that requests of ``rid`` could meet."""
        return list(entries_behind(self, rid)) if self.translation_enabled else []

    def cache_lines(self, present: Iterable[TableEntry], *, every: bool) -> Iterator[CacheLine]:
        """Lines that disagree with the tables; with ``every`` all."""
        return cache_lines(self, present, every=every)

    def _hit(self, request: DmaRequest) -> int | None:
        """The address, if all that decides about the request is in the caches and was granted before."""
        rid, address, access, pasid, privileged, kind = request
        line = self.caches.dtes.get(rid)
        if line is None or kind is not RequestKind.MEMORY or not (line.valid and line.translated):
            return None
        if not self.translation_enabled:
            return None
        if pasid is None and (line.giov or is_interrupt_address(address)):
            return None
        found = self.caches.tlb.get((line.did, HOST if pasid is None else pasid, address >> 12))
        if found is None or (pasid is None and not line.mode) or (pasid is not None and not self._guest_on(line)):
            return None
        need = NEEDS[access]
        asked = need << 3 if privileged and pasid is not None else need if pasid is not None else need & 3
        return found.page | address & 0xFFF if not asked & ~found.granted and not need & 3 & ~line.allowed else None

    def _guest_on(self, line: DteLine) -> bool:
        return line.guest and bool(self.registers[CONTROL] & _GT_EN)

    def _resolve(
        self, request: DmaRequest, caches: AmdCaches | None, keep: bool, trace: list[Stop] | None = None
    ) -> int | Blocked:
        if not self.translation_enabled:
            off = request.kind is not RequestKind.MEMORY
            return Blocked(Reason.SWITCHED_OFF, request) if off else request.address
        lookup = self.lookup(caches, keep, trace)
        reason, line = find_dte(lookup, request.rid)
        if reason is not None or line is None:
            return Blocked(reason or Reason.DTE_UNREADABLE, request, line)
        reason = _not_allowed(line, request)
        if reason is not None:
            return Blocked(reason, request, line)
        if request.kind is RequestKind.TRANSLATED or not line.valid:
            beyond = request.address >= self.rules.limit
            return Blocked(Reason.BEYOND, request, line) if beyond else request.address
        errand = Errand(lookup, line, request, self._looked_up(line, request.pasid, lookup))
        outcome = self.walker.resolve(errand)
        return outcome if outcome >= 0 else Blocked(Reason.of(-outcome), request, line, errand.where)

    def _looked_up(self, line: DteLine, pasid: int | None, lookup: Lookup) -> int | None:
        """The PASID whose guest table serves a request; ``None``: the host table alone does."""
        if pasid is None and line.guest and line.giov and lookup.guest and self.identity.giosup:
            return 0
        return pasid

    def _report(self, blocked: Blocked) -> None:
        """Log an event unless the device table entry or the switch forbids it, and tell it either way."""
        request, line, caches = blocked.request, blocked.line, self._kept
        if blocked.reason is Reason.SWITCHED_OFF:
            fate = "not recorded: the unit is switched off"
        elif blocked.suppressed:
            fate = "suppressed by SE or SA"
        else:
            fate = "recorded" if self.record_event(blocked.record()) else "lost: the event log is full or stopped"
        if caches is not None and line is not None and blocked.reason.code is EventCode.IO_PAGE_FAULT:
            known = caches.dtes.get(request.rid)
            if known is not None and known.words[1] & _SUPPRESS_MORE and not known.told:
                caches.dtes[request.rid] = known._replace(told=True)
        self.tell_fault(blocked.fault, fate)

    # --- page requests ------------------------------------------------------------------------------------------------

    def page_request(self, request: PageRequest) -> None:
        """A device asks for a page (PRI): written into the log for software, or answered at once if that fails."""
        if not self.translation_enabled or not self.registers[CONTROL] & _PPR_EN:
            self._respond(request, ResponseCode.INVALID)
            return
        lookup = self.lookup(self._kept, keep=True)
        reason, line = find_dte(lookup, request.rid)
        if reason is None and line is not None and not _may_ask(line, request, lookup):
            reason = Reason.NO_PAGE_REQUESTS
        if reason is None and line is not None:
            self._forget_page(line, request)
            super().page_request(request)
            return
        access = Access.WRITE if request.write else Access.READ
        asked = DmaRequest(request.rid, request.address, access, request.pasid, request.privileged, RequestKind.PAGE)
        blocked = Blocked(reason or Reason.DTE_UNREADABLE, asked, line)
        if reason is Reason.NO_PAGE_REQUESTS:
            logged = self.event_log.put(encode_page_request(request, EventCode.INVALID_PPR_REQUEST))
            self.tell_fault(blocked.fault, "recorded" if logged else "lost: the event log is full or stopped")
        else:
            self._report(blocked)
        self._respond(request, ResponseCode.INVALID)

    def _forget_page(self, line: DteLine, request: PageRequest) -> None:
        """UNVERIFIED, as other units do it: a device that asks for a page makes the unit doubt its own idea of it."""
        start, size = request.address & -PAGE_SIZE, PAGE_SIZE
        if request.pasid is not None:
            self.caches.forget_guest_pages(line.did, request.pasid, start, size, tables=False)
        else:
            self.caches.forget_host_pages(line.did, start, size, tables=False)

    def _page_request_dropped(self, request: PageRequest) -> None:
        again = bool(self.registers[CONTROL] & _AUTO_RESPONSE)
        self._respond(request, ResponseCode.SUCCESS if again else ResponseCode.INVALID)

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

    # --- commands -----------------------------------------------------------------------------------------------------

    def _command(self, command: Command) -> None:
        """Tell it, and drop what the command names from the caches, or send it on to the device."""
        at = command.fields()
        facts = {name: at[field] for field, name in (("domid", "did"), ("devid", "rid")) if field in at}
        if command.pasid is not None:
            facts["pasid"] = command.pasid
        event = self.emit(Verb.INVALIDATE, str(command), **facts)
        with self.timeline.because(event):
            self._carry_out(command, at)

    def _carry_out(self, command: Command, at: dict[str, int]) -> None:
        layout = command.layout
        if layout is CMD_INV_DEVTAB:
            self.caches.forget_device(at["devid"])
        elif layout is CMD_INV_IOMMU_PAGES:
            start, size = command.range()
            tables = bool(at["PDE"])
            if command.pasid is None:
                self.caches.forget_host_pages(at["domid"], start, size, tables=tables)
            else:
                self.caches.forget_guest_pages(at["domid"], command.pasid, start, size, tables=tables)
        elif layout is CMD_INV_ALL:
            self.caches.forget_everything()
        elif layout is CMD_INV_IOTLB_PAGES:
            self._invalidate_device(command)
        elif layout is CMD_COMPLETE_PPR:
            self._answer(PageGroupResponse(at["devid"], command.pasid, at["tag"], at["status"]))

    def _invalidate_device(self, command: Command) -> None:
        rid = command.field("devid")
        endpoint = self._bus.endpoints.get(rid) if self._bus is not None else None
        if endpoint is None:
            record = EventRecord(EventCode.IOTLB_INV_TIMEOUT, rid, address=command.address)
            fate = "recorded" if self.record_event(record) else "lost: the event log is full or stopped"
            self.emit(Verb.FAULT, str(command), after=record.name, rid=rid, code=int(record.code), fate=fate)
            return
        start, size = command.range()
        endpoint.invalidate(InvalidateRequest(rid, command.pasid, start, size))


def _not_allowed(line: DteLine, request: DmaRequest) -> Reason | None:
    """Why the entry does not let this kind of request in, before anything is translated."""
    if request.kind is not RequestKind.MEMORY and not (line.valid and line.ats):
        return Reason.NOT_ALLOWED_TRANSLATED if request.kind is RequestKind.TRANSLATED else Reason.NO_ATS
    if request.kind is RequestKind.TRANSLATED or not line.valid:
        return None
    if request.pasid is None and is_interrupt_address(request.address):
        return Reason.INTERRUPT_WRITE if request.access is Access.WRITE else Reason.INTERRUPT_READ
    return None if line.translated else Reason.NOT_TRANSLATED


def _may_ask(line: DteLine, request: PageRequest, lookup: Lookup) -> bool:
    """Whether a device may ask for pages: V, TV and PPR, and with a PASID guest translation."""
    if not (line.valid and line.translated and DTE["PPR"].get(line.words)):
        return False
    return request.pasid is None or (line.guest and lookup.guest)
