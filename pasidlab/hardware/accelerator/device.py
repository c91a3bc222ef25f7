"""The accelerator: a DSA-like PCIe function with dedicated and shared work queues that moves real bytes.

BAR0 is :class:`AcceleratorRegisters`, BAR2 is ``portals``. Every accepted descriptor becomes an enabled action on the
machine's agenda; running it executes that descriptor. Descriptors of one queue may be executed in any order: real
engines complete out of order too.

Whose memory: a shared queue's descriptors carry PASID and privilege themselves (the CPU wrote them there), a dedicated
queue's use WQCFG; without WQCFG.pasid_en requests carry no PASID prefix.

With ATS on (and not off for the queue) the device asks the IOMMU for translations and keeps them in its TLB. With page
requests on, a descriptor that blocks on faults waits for the page that it needs: it leaves the queue and goes on as a
further enabled action when the answer has come.

Source: Linux ``drivers/dma/idxd``. UNVERIFIED: a dedicated queue ignores the PASID of a descriptor; a posted store
that no queue can take is dropped without an error record. Left out: commands take no time (their status is never seen
active).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.command_unit import carry_out
from pasidlab.hardware.accelerator.descriptor import Completion, CompletionStatus, Descriptor, opcode_name
from pasidlab.hardware.accelerator.device_tlb import DeviceTlb
from pasidlab.hardware.accelerator.engine import Blocked, Limits, SoftwareError, execute, page_fault, report
from pasidlab.hardware.accelerator.operations import DmaPort
from pasidlab.hardware.accelerator.page_waits import NOT_READY, PATIENCE, PageWaits, WaitingWork
from pasidlab.hardware.accelerator.portals import Portal, Portals
from pasidlab.hardware.accelerator.queue import WorkQueue
from pasidlab.hardware.accelerator.registers import AcceleratorRegisters, QueueSetup
from pasidlab.hardware.layouts.dsa import GENCAP, HW_DESC, WQCFG
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.pcie import (
    SERVE_PAGES,
    Access,
    InvalidateRequest,
    PageGroupResponse,
    PageRequest,
    ResponseCode,
)
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.hardware.fabric import Fabric
    from pasidlab.timeline import Agenda, Timeline

__all__ = ["Accelerator"]

_RESUME = "resume"


class Accelerator(AcceleratorRegisters):
    """One function at requester ID ``rid``; queues 0 to ``shared - 1`` are shared, the next ``dedicated`` dedicated."""

    def __init__(
        self,
        timeline: Timeline,
        name: str,
        rid: int,
        fabric: Fabric,
        agenda: Agenda,
        shared: int = 1,
        dedicated: int = 4,
        wq_size: int = 16,
        ats: bool = True,
    ) -> None:
        setup = [QueueSetup(False, wq_size)] * shared + [QueueSetup(True, wq_size)] * dedicated
        self.queues = tuple(WorkQueue(timeline, f"{name}.wq{wq}") for wq in range(len(setup)))
        self.tlb = DeviceTlb(timeline, f"{name}.tlb")
        self.waits = PageWaits(timeline, f"{name}.waits")
        super().__init__(timeline, name, setup, ats=ats)
        self.rid = rid
        self.fabric = fabric
        self.agenda = agenda
        self.portals = Portals(self)

    def occupancy(self, wq: int) -> int:
        """How many descriptors wait in a queue."""
        return len(self.queues[wq])

    def waiting(self, wq: int) -> list[Descriptor]:
        """The descriptors that wait in a queue, oldest first."""
        return [Descriptor.from_bytes(waiting.data) for _, waiting in self.queues[wq].items()]

    def _command(self, command: int, operand: int) -> int:
        return carry_out(self, command, operand)

    # --- submission ---------------------------------------------------------------------------------------------

    def post_descriptor(self, portal: Portal, data: bytes) -> None:
        """A posted store arrives at a portal: only an enabled dedicated queue with room takes it."""
        refused = self._refusal(portal, dedicated=True)
        if refused:
            self.emit(
                Verb.REFUSE, f"{self.label} wq{portal.wq}: store dropped, {refused}", device=self.path, wq=portal.wq
            )
        else:
            self._accept(portal.wq, data)

    def enqueue_descriptor(self, portal: Portal, data: bytes) -> bool:
        """An enqueue store arrives at a portal: only an enabled shared queue with room takes it."""
        refused = self._refusal(portal, dedicated=False)
        if refused:
            facts = {
                "device": self.path,
                "wq": portal.wq,
                "pasid": Descriptor.from_bytes(data).pasid,
                "reason": refused,
            }
            self.emit(Verb.RETRY, f"{self.label} wq{portal.wq}: {refused}", None, None, **facts)
        else:
            self._accept(portal.wq, data)
        return not refused

    def _refusal(self, portal: Portal, dedicated: bool) -> str:
        """Why the queue behind a portal does not take a descriptor now; empty when it does."""
        wq = portal.wq
        if wq >= self.num_wqs:
            return "there is no such queue"
        config = self.wq_words(wq)
        if WQCFG["wq_state"].get(config) != 1 or not self.enabled:
            return "the queue is disabled"
        if bool(WQCFG["mode"].get(config)) is not dedicated:
            return "the queue is shared" if dedicated else "the queue is dedicated"
        limited = portal.limited and not dedicated
        room = WQCFG["wq_thresh" if limited else "wq_size"].get(config)
        return "" if self.occupancy(wq) < room else "the queue is full"

    def _accept(self, wq: int, data: bytes) -> None:
        queue, words = self.queues[wq], HW_DESC.from_bytes(data)
        ticket, name = queue.next_ticket, opcode_name(HW_DESC["opcode"].get(words))
        pasid = self._pasid(wq, words)
        who = "without PASID" if pasid is None else f"for PASID {pasid}"
        action = self.agenda.enable(self, f"{wq} {ticket}", f"{self.label} wq{wq} executes {name} {who}")
        queue.put(data, action)
        facts = {"device": self.path, "wq": wq, "pasid": pasid, "opcode": name}
        self.emit(Verb.ACCEPT, f"{self.label} wq{wq} {name}", None, None, **facts)

    # --- execution ----------------------------------------------------------------------------------------------

    def run_enabled(self, what: str) -> None:
        """Execute one waiting descriptor, or go on with one that waited for a page (the agenda's way in)."""
        first, second = what.split()
        if first == _RESUME:
            self._resume(int(second))
        else:
            self._execute(int(first), int(second))

    def _execute(self, wq: int, ticket: int) -> None:
        self._work_on(wq, self.queues[wq].take(ticket).data, 0)

    def _work_on(self, wq: int, data: bytes, done: int, waited: WaitingWork | None = None) -> None:
        """Carry a descriptor out, from ``done`` bytes on; ``waited``: for which page it has waited."""
        work = Descriptor.from_bytes(data)
        dma, name = self._port(wq, work), opcode_name(work.opcode)
        facts = {"device": self.path, "wq": wq, "pasid": dma.pasid, "opcode": name}
        places = {"src": work.src, "dst": work.dst, "size": work.size, "done": done}
        event = self.emit(Verb.EXECUTE, f"{self.label} wq{wq} {name}", None, None, **facts, **places)
        with self.timeline.because(event):
            try:
                completion = execute(dma, work, self._limits(wq), done)
            except Blocked as blocked:
                tries = waited.tries + 1 if waited is not None and waited.request == blocked.request else 0
                if tries < PATIENCE:
                    self._wait_for_page(WaitingWork(wq, data, blocked.done, blocked.request, tries))
                    return
                completion = page_fault(blocked.request, blocked.done, status=CompletionStatus.PAGE_FAULT_IR)
            self._finish(wq, work, dma, completion)

    def _finish(self, wq: int, work: Descriptor, dma: DmaPort, completion: Completion) -> None:
        """Write the completion record, and tell it."""
        try:
            report(dma, work, completion)
        except SoftwareError as error:
            self._software_error(wq, work, dma, error)
        name, status = opcode_name(work.opcode), CompletionStatus(completion.status).name
        facts = {"device": self.path, "wq": wq, "pasid": dma.pasid, "opcode": name}
        outcome = {**completion._asdict(), "status": status}
        self.emit(Verb.COMPLETE, f"{self.label} wq{wq} {name}", None, status, **facts, **outcome)

    def port(self, pasid: int | None, *, tlb: bool) -> DmaPort:
        """The way to memory of firmware that acts by itself, through the device's TLB or past it."""
        return DmaPort(self.fabric, self.rid, pasid, False, self.tlb if tlb and self.config.ats_enabled else None)

    def _port(self, wq: int, work: Descriptor) -> DmaPort:
        """On whose behalf a descriptor's DMA runs."""
        config = self.wq_words(wq)
        tlb = self.tlb if self.config.ats_enabled and not WQCFG["ats_disable"].get(config) else None
        if WQCFG["mode"].get(config):
            return DmaPort(self.fabric, self.rid, self.wq_pasid(wq), bool(WQCFG["priv"].get(config)), tlb)
        return DmaPort(self.fabric, self.rid, work.pasid, bool(work.priv), tlb)

    def _pasid(self, wq: int, words: tuple[int, ...]) -> int | None:
        """The PASID alone, for a descriptor that is still bytes."""
        dedicated = WQCFG["mode"].get(self.wq_words(wq))
        return self.wq_pasid(wq) if dedicated else HW_DESC["pasid"].get(words)

    def _limits(self, wq: int) -> Limits:
        overlap = bool(self.field(at.GENCAP, GENCAP, "overlap_copy"))
        config = self.wq_words(wq)
        longest = 1 << WQCFG["max_xfer_shift"].get(config)
        blocks = bool(WQCFG["bof"].get(config)) and self.config.page_requests > 0 and not self.waits.full
        return Limits(longest, overlap, self.config.privileged_enabled, blocks)

    def _software_error(self, wq: int, work: Descriptor, dma: DmaPort, error: SoftwareError) -> None:
        facts = {"device": self.path, "wq": wq, "pasid": dma.pasid, "error": error.error, "address": error.fault_addr}
        self.record_error(
            desc_valid=1,
            wq_idx_valid=1,
            fault_rw=error.write,
            priv=int(dma.privileged),
            error=error.error,
            wq_idx=wq,
            operation=work.opcode,
            pasid=dma.pasid or 0,
            invalid_flags=work.flags if error.error == CompletionStatus.INVALID_FLAGS else 0,
            fault_addr=error.fault_addr,
        )
        self.emit(Verb.FAULT, f"{self.label} SWERR {CompletionStatus(error.error).name}", None, None, **facts)

    # --- pages that are missing ---------------------------------------------------------------------------------

    def _wait_for_page(self, work: WaitingWork) -> None:
        self.waits.add(work)
        self._ask_further()

    def _ask_for_page(self, group: int) -> None:
        work = self.waits.groups[group]
        self.waits.groups[group] = work._replace(asked=True)
        rid, address, access, pasid, privileged, _ = work.request
        write = access is Access.WRITE
        page = address & -PAGE_SIZE
        self.fabric.unit.page_request(PageRequest(rid, pasid, page, not write, write, False, privileged, group))

    def page_response(self, response: PageGroupResponse) -> None:
        """A page request was answered: its descriptor can go on. An answer that nobody waits for is an error."""
        work = self.waits.answered(response)
        if work is None:
            self.config.flag_page_request("UPRGI")
            return
        if response.code == ResponseCode.FAILURE:
            self.config.flag_page_request("RF")
        if not work.data:
            del self.waits.groups[response.group]
        else:
            self._can_go_on(response.group, response.code)
        self._ask_further()

    def _ask_further(self) -> None:
        """Send what can be sent now, unless that is being done already: an answer may come at once.

        A failure has stopped the interface: whoever waits to ask fails as well.
        """
        if self.waits.asking:
            return
        self.waits.asking = True
        while waiting := self.waits.unasked():
            if self.config.page_requests_failed:
                self._can_go_on(waiting[0], ResponseCode.FAILURE)
            elif self.waits.outstanding < self.config.page_requests:
                self._ask_for_page(waiting[0])
            else:
                break
        self.waits.asking = False

    def _can_go_on(self, group: int, code: int) -> None:
        """Enable the action that uses the answer. A failure stops the interface: whoever waits to ask fails as well."""
        work = self.waits.groups[group]
        label = f"{self.label} wq{work.wq} goes on after its page request (group {group})"
        action = self.agenda.enable(self, f"{_RESUME} {group}", label)
        self.waits.groups[group] = work._replace(asked=False, code=code, action=action)

    def _resume(self, group: int) -> None:
        waited = self.waits.groups.pop(group)
        if waited.code == ResponseCode.SUCCESS:
            self._work_on(waited.wq, waited.data, waited.done, waited)
            return
        work = Descriptor.from_bytes(waited.data)
        completion = page_fault(waited.request, waited.done, status=CompletionStatus.PAGE_FAULT_IR)
        self._finish(waited.wq, work, self._port(waited.wq, work), completion)

    def invalidate(self, request: InvalidateRequest) -> None:
        """The IOMMU tells the device to forget translations; work here is never in the middle of using one."""
        self.tlb.forget(request)

    # --- drain and abort ----------------------------------------------------------------------------------------

    def drain(self, wq: int | None = None, pasid: int | None = None) -> int:
        """Execute what waits (in one queue, for one PASID); returns how many descriptors that were."""
        return self._settle("drained", wq, pasid)

    def abort(self, wq: int | None = None, pasid: int | None = None) -> int:
        """Drop what waits (in one queue, for one PASID); returns how many descriptors that were. Nobody is told."""
        return self._settle("aborted", wq, pasid)

    def _settle(self, how: str, wq: int | None, pasid: int | None) -> int:
        count = 0
        for number, ticket, action in list(self._matching(wq, pasid)):
            self.agenda.disable(action)
            if how == "drained":
                self._execute(number, ticket)
            else:
                self.queues[number].take(ticket)
            count += 1
        count += self._settle_waiting(how == "drained", wq, pasid)
        where = self.path + (f" wq{wq}" if wq is not None else "") + (f" PASID {pasid}" if pasid is not None else "")
        facts = {"device": self.path, "wq": wq, "pasid": pasid, "count": count}
        self.emit(Verb.DRAIN, f"{where} {how}", None, None, **facts)
        return count

    def _settle_waiting(self, drained: bool, wq: int | None, pasid: int | None) -> int:
        """The same for descriptors that wait for a page: draining has to wait for the answer, if one will come.

        Meanwhile whoever serves page requests runs. Where nobody does, the descriptor is dropped.
        """
        count = len(self._waiting(wq, pasid))
        while meant := self._waiting(wq, pasid):
            group, work = meant[0]
            if work.action != NOT_READY:
                self.agenda.disable(work.action)
            if work.action != NOT_READY and drained:
                self._resume(group)
            elif not (drained and self.agenda.run_named(SERVE_PAGES)):
                self.waits.abandon(group)
        return count

    def _waiting(self, wq: int | None, pasid: int | None) -> list[tuple[int, WaitingWork]]:
        """The descriptors that wait for a page and are meant, by group."""
        return [
            (group, work)
            for group, work in self.waits.working()
            if wq in (None, work.wq) and pasid in (None, work.request.pasid)
        ]

    def _matching(self, wq: int | None, pasid: int | None) -> Iterator[tuple[int, int, int]]:
        """Queue, ticket and action of every waiting descriptor that is meant."""
        for number in range(self.num_wqs) if wq is None else (wq,):
            for ticket, waiting in self.queues[number].items():
                if pasid is None or self._pasid(number, HW_DESC.from_bytes(waiting.data)) == pasid:
                    yield number, ticket, waiting.action
