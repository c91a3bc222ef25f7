"""Page requests: a device asked for a page, the driver finds out who can bring it, and answers.

Models ``prq_event_thread`` and ``intel_svm_drain_prq`` of ``drivers/iommu/intel/svm.c``, with the fault reporting of
the guest SVA series; the other two drivers do the same with queues of their own (a :class:`PageRing`). The interrupt
only wakes a thread (here: an enabled action); the thread reads the queue. Whoever bound the PASID on the device
receives its requests: a process's memory answers at once, a hypervisor hands the request to its guest and answers
later. A guest that owns its whole table receives every request of the device (:data:`EVERY_PASID`), also those without
a PASID.

A transaction that the unit holds until software has acted (a stall, SMMUv3) is served the same way: it is a page
request whose group is the tag of the stall.

On a device whose numbers nobody has sorted out (:attr:`.Numbering.UNSORTED`) a request is looked up by its number
alone, among all IOASIDs, as a driver does that knows host PASIDs only: whoever has that number is asked for the page.

Refused as invalid (the rules of the VT-d driver, taken for all three: UNVERIFIED): no PASID, an address that is not
canonical, a privileged request that reads or writes, executing together with reading, a PASID that nobody has bound on
this device (which covers unknown devices). A group is answered once, with the worst of its answers; private data ends
a group as its last request does. A stop marker gets no answer. Left out: echoing private data (no device here sends
any).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pasidlab.errors import BusError, KernelError
from pasidlab.hardware.pcie import SERVE_PAGES, PageGroupResponse, PageRequest, ResponseCode, format_rid
from pasidlab.kernel.iommu.bindings import SvmBinding
from pasidlab.kernel.iommu.device import Numbering
from pasidlab.timeline import Actor, Table, Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasidlab.kernel.iommu.contract import IommuDriver
    from pasidlab.kernel.platform import Platform

__all__ = ["EVERY_PASID", "PageRequests", "PageRing", "PageSink", "Pending"]

_CANONICAL: Final = 47
EVERY_PASID: Final = -1
"""In place of a PASID: whoever receives all requests of a device, whatever they carry."""
_NONE: Final = -2
"""In place of the PASID of a request that carries none."""
_NOBODY: Final = -3
"""A number that nobody has bound."""


class PageRing(Protocol):
    """A unit's queue of page requests, as the driver of that unit reads it."""

    def acknowledge(self) -> None:
        """Tell the unit that what is pending will be read."""

    def take(self) -> PageRequest | None:
        """The oldest request, which is taken off the queue; ``None``: it is empty."""

    def overflowed(self) -> bool:
        """Whether requests had been dropped since this was last asked."""

    def respond(self, response: PageGroupResponse) -> None:
        """Let the unit answer a group."""

    def drain(self, flush: Sequence[tuple[int, ...]]) -> None:
        """Carry out the commands of ``flush``, then wait until requests on their way are in the queue."""


class PageSink(Protocol):
    """Who receives the page requests of a PASID on a device."""

    path: str

    def page_requested(self, request: PageRequest) -> ResponseCode | None:
        """Bring the page and answer, or ``None``: the answer comes later, through :meth:`PageRequests.respond`."""


class Pending(NamedTuple):
    """A group whose sink has not answered everything, and the worst answer so far.

    ``asker`` is the requester ID and PASID that the answer goes to.
    """

    waiting: int
    worst: ResponseCode
    complete: bool
    asker: tuple[int, int | None]


class PageRequests(Actor, state=("_action",)):
    """The page request queue of one unit, from the driver's side.

    ``sinks`` and ``pending`` are by requester ID and PASID (and group).
    """

    actor = "iommu"

    def __init__(self, driver: IommuDriver, platform: Platform, ring: PageRing) -> None:
        super().__init__(driver.timeline, f"{driver.path}.page-requests", driver.altitude)
        self._driver = driver
        self._agenda = platform.agenda
        self._ring = ring
        self._action: int | None = None
        self.sinks = Table[tuple[int, int], PageSink](self.timeline, f"{self.path}.sinks")
        self.pending = Table[tuple[int, int, int], Pending](self.timeline, f"{self.path}.pending")

    # --- from the unit ------------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """The unit has queued requests: wake the thread, unless it is awake already."""
        if self._action is None:
            self._action = self._agenda.enable(self, SERVE_PAGES, f"IOMMU driver of {self.altitude}: {SERVE_PAGES}")

    def run_enabled(self, what: str) -> None:
        """The thread runs. What goes wrong in it is told and stays in this kernel: nobody waits for its result.

        A kernel whose own queue lies in memory that it has lost, or that holds nonsense, stops there.
        """
        self._action = None
        try:
            self.serve()
        except KernelError as error:
            self.emit(Verb.REFUSE, f"{SERVE_PAGES}: {error.reason}", after=f"-{error.name}")
        except (BusError, ValueError) as error:
            self.emit(Verb.REFUSE, f"{SERVE_PAGES}: {error}", after="the thread died")

    def cancel(self) -> None:
        """The kernel stops where it is: its thread does not run any more."""
        if self._action is not None:
            self._agenda.disable(self._action)
            self._action = None

    def serve(self) -> bool:
        """Read the queue to its end and handle every request; whether some had been dropped meanwhile."""
        self._ring.acknowledge()
        while (request := self._ring.take()) is not None:
            self._handle(request)
        return self._ring.overflowed()

    # --- one request --------------------------------------------------------------------------------------------------

    def _handle(self, request: PageRequest) -> None:
        if request.last and not (request.read or request.write):
            return
        refused = self._refusal(request)
        facts = {"rid": request.rid, "pasid": request.pasid, "address": request.address, "group": request.group}
        event = self.emit(Verb.HANDLE, str(request), after=f"invalid: {refused}" if refused else None, **facts)
        with self.timeline.because(event):
            whole = self.sinks.get((request.rid, EVERY_PASID))
            if whole is not None:
                self._hand_on(request, (request.rid, _number(request.pasid)), whole)
            elif refused or request.pasid is None:
                self._refuse(request)
            else:
                rid, pasid = meant = self._meant(request.rid, request.pasid)
                self._hand_on(request._replace(rid=rid, pasid=pasid), meant, self.sinks[meant], request)

    def _hand_on(
        self, request: PageRequest, meant: tuple[int, int], sink: PageSink, asked: PageRequest | None = None
    ) -> None:
        """Give a request to its sink; ``asked`` is how the device put it, where it means another one."""
        asked = asked or request
        key = *meant, request.group
        self._note(key, complete=_ends_group(request), more=1, asker=(asked.rid, asked.pasid))
        answer = sink.page_requested(request)
        if answer is not None and key in self.pending:
            self._note(key, complete=False, more=-1, answer=answer)

    def _refusal(self, request: PageRequest) -> str:
        """Why the driver refuses a request by itself; empty when it does not, or where a guest owns the table."""
        if (request.rid, EVERY_PASID) in self.sinks:
            return ""
        if request.pasid is None:
            return "it carries no PASID"
        if request.address >> _CANONICAL not in (0, (1 << 64 - _CANONICAL) - 1):
            return "the address is not canonical"
        if request.privileged and (request.read or request.write):
            return "privileged requests are not served"
        if request.execute and request.read:
            return "executing is not served together with reading"
        meant = self._meant(request.rid, request.pasid)
        if meant not in self.sinks:
            return f"nobody has bound PASID {request.pasid} on {format_rid(request.rid)}"
        other = self.pending.get((*meant, request.group))
        if other is not None and other.asker != (request.rid, request.pasid):
            return f"group {request.group} of PASID {request.pasid} waits already, for another device"
        return ""

    def _meant(self, rid: int, pasid: int) -> tuple[int, int]:
        """Device and PASID under which a request is looked up: its own, unless the number counts for all devices."""
        if self._driver.numbering.get(rid) is not Numbering.UNSORTED:
            return rid, pasid
        record = self._driver.core.ids.get(pasid)
        binding = record.private if record is not None else None
        if isinstance(binding, SvmBinding):
            for device in binding.devices.keys():
                return device, binding.number_on(device)
        return rid, _NOBODY

    def _refuse(self, request: PageRequest) -> None:
        """Answer "invalid", with the rest of the group if there is more of it to come or to be answered."""
        pasid = request.pasid
        if pasid is not None:
            asker, key = (request.rid, pasid), (*self._meant(request.rid, pasid), request.group)
            known = self.pending.get(key)
            begins = known is None and not _ends_group(request) and key[:2] in self.sinks
            if begins or (known is not None and known.asker == asker):
                complete = _ends_group(request)
                self._note(key, complete=complete, more=0, answer=ResponseCode.INVALID, asker=asker)
                return
        if _ends_group(request):
            self._answer(request.rid, pasid, request.group, ResponseCode.INVALID)

    def respond(self, rid: int, pasid: int | None, group: int, code: ResponseCode) -> None:
        """A sink answers what it was given before; ``-EINVAL`` if it was given no such request."""
        key = rid, _number(pasid), group
        if key not in self.pending:
            whose = f"PASID {pasid}" if pasid is not None else "no PASID"
            raise KernelError("EINVAL", f"no page request of {format_rid(rid)}, {whose}, group {group} waits")
        self._note(key, complete=False, more=-self.pending[key].waiting, answer=code)

    def _note(
        self,
        key: tuple[int, int, int],
        *,
        complete: bool,
        more: int,
        answer: ResponseCode = ResponseCode.SUCCESS,
        asker: tuple[int, int | None] | None = None,
    ) -> None:
        """Keep count of a group; when its last request has come and all are answered, so is the group."""
        old = self.pending.get(key, Pending(0, ResponseCode.SUCCESS, complete=False, asker=asker or key[:2]))
        new = old._replace(waiting=old.waiting + more, worst=max(old.worst, answer), complete=old.complete or complete)
        if new.complete and not new.waiting:
            if key in self.pending:
                del self.pending[key]
            self._answer(*new.asker, key[2], new.worst)
        else:
            self.pending[key] = new

    def _answer(self, rid: int, pasid: int | None, group: int, code: ResponseCode) -> None:
        self._ring.respond(PageGroupResponse(rid, pasid, group, code))

    # --- the end of a binding -----------------------------------------------------------------------------------------

    def drain(self, rid: int, pasid: int, flush: Sequence[tuple[int, ...]]) -> None:
        """Nothing of ``pasid`` on ``rid`` is left when this returns: read the queue, answer what a sink still has.

        ``flush`` empties IOTLB and device TLB of the PASID; a wait behind it also covers requests on their way; again
        as long as requests were dropped. (Linux 6.1 names the domain of the device there, not that of the entry, so
        that its flush misses the entries of processes.) With :data:`EVERY_PASID` all of the device.
        """
        device = self._driver.devices.get(rid)
        if device is None or not (device.pri or device.stall):
            return
        self.serve()
        for key in self.pending.select(lambda key: key[0] == rid and pasid in (key[1], EVERY_PASID)):
            self._note(key, complete=True, more=-self.pending[key].waiting, answer=ResponseCode.INVALID)
        again = True
        while again:
            self._ring.drain(flush)
            again = self.serve()


def _ends_group(request: PageRequest) -> bool:
    """Whether a response is due: for the last request of a group, and for one with private data."""
    return request.last or request.private is not None


def _number(pasid: int | None) -> int:
    """A PASID as a key."""
    return _NONE if pasid is None else pasid
