"""The accelerator: a DSA-like PCIe function with dedicated and shared work queues that moves real bytes.

BAR0 is :class:`AcceleratorRegisters`, BAR2 is ``portals``. Every accepted descriptor becomes an enabled action on the
machine's agenda; running it does one step of that descriptor (:mod:`.execution`). One that is not at its end then is in
flight: it has left the queue, and its next step is a further enabled action. Descriptors of one queue may be executed
in any order, and their steps in turn: real engines complete out of order too.

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

from typing import TYPE_CHECKING

from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.command_unit import carry_out
from pasidlab.hardware.accelerator.commands import Command
from pasidlab.hardware.accelerator.descriptor import Descriptor, opcode_name
from pasidlab.hardware.accelerator.execution import Execution, Held
from pasidlab.hardware.accelerator.page_waits import NOT_READY, PageWaits, WaitingWork
from pasidlab.hardware.accelerator.portals import Portal, Portals
from pasidlab.hardware.accelerator.progress import InFlight
from pasidlab.hardware.accelerator.queue import WorkQueue
from pasidlab.hardware.accelerator.registers import DSA, AcceleratorRegisters, QueueSetup
from pasidlab.hardware.function import Function, SecondBar, Slot
from pasidlab.hardware.layouts.dsa import HW_DESC, WQCFG
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.hardware.pcie import (
    SERVE_PAGES,
    Access,
    PageGroupResponse,
    PageRequest,
    ResponseCode,
)
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.hardware.fabric import Fabric
    from pasidlab.timeline import Agenda, Timeline

__all__ = ["Accelerator"]


class Accelerator(AcceleratorRegisters, Function):
    """One function at requester ID ``rid``; queues 0 to ``shared - 1`` are shared, the next ``dedicated`` dedicated."""

    identity = DSA
    bar0_size = at.BAR0_SIZE

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
        self.moving = InFlight(timeline, f"{name}.in-flight")
        self.waits = PageWaits(timeline, f"{name}.waits")
        self.execution = Execution(self)
        Function.__init__(self, Slot(timeline, agenda, fabric, name, rid, ats))
        self.lay_out(setup)
        self.portals = Portals(self)

    @classmethod
    def in_slot(cls, slot: Slot, shared: int, dedicated: int) -> Accelerator:
        """An accelerator in a slot of a machine."""
        timeline, agenda, fabric, name, rid, ats = slot
        return cls(timeline, name, rid, fabric, agenda, shared, dedicated, ats=ats)

    def second_bar(self) -> SecondBar:
        """The portals."""
        return SecondBar(self.portals, self.num_wqs * at.PORTAL_STRIDE)

    def host_pages(self) -> SecondBar:
        """The tables of interrupt messages."""
        return SecondBar(self.interrupts, at.MESSAGES_SIZE)

    def occupancy(self, wq: int) -> int:
        """How many descriptors wait in a queue."""
        return len(self.queues[wq])

    def waiting(self, wq: int) -> list[Descriptor]:
        """The descriptors that wait in a queue, oldest first."""
        return [Descriptor.from_bytes(waiting.data) for _, waiting in self.queues[wq].items()]

    def in_flight(self) -> list[tuple[int, Descriptor, int]]:
        """The descriptors that have begun and not ended, also those that wait for a page: queue, descriptor, progress.

        Progress is bytes, and for a batch the number of descriptors of its list that have ended.
        """
        queued = {str(wq) for wq in range(len(self.queues))}
        begun = [held.progress for held in self.held() if held.what.split()[0] not in queued]
        return [(progress.wq, progress.work, progress.done) for progress in begun]

    def held(self, wq: int | None = None, pasid: int | None = None) -> list[Held]:
        """All descriptors here (of one queue, for one PASID): in flight, in the queues, or waiting for a page."""
        return [
            held
            for held in self.execution.held()
            if wq in (None, held.progress.wq) and (pasid is None or held.pasid == pasid)
        ]

    def pasid_of(self, wq: int, data: bytes) -> int | None:
        """The PASID of a descriptor's requests: a dedicated queue's own, otherwise the one that its bytes carry."""
        if WQCFG["mode"].get(self.wq_words(wq)):
            return self.wq_pasid(wq)
        return HW_DESC["pasid"].get(HW_DESC.from_bytes(data))

    def _command(self, command: int, operand: int) -> int:
        return carry_out(self, command, operand)

    def function_level_reset(self) -> None:
        """What the reset command does, and what a reset of any function does."""
        carry_out(self, Command.RESET_DEVICE, 0)
        super().function_level_reset()

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
        pasid = self.pasid_of(wq, data)
        who = "without PASID" if pasid is None else f"for PASID {pasid}"
        action = self.agenda.enable(self, f"{wq} {ticket}", f"{self.label} wq{wq} executes {name} {who}")
        queue.put(data, action)
        facts = {"device": self.path, "wq": wq, "pasid": pasid, "opcode": name}
        self.emit(Verb.ACCEPT, f"{self.label} wq{wq} {name}", None, None, **facts)

    # --- execution ----------------------------------------------------------------------------------------------

    def run_enabled(self, what: str) -> None:
        """Do one step of a descriptor (the agenda's way in)."""
        self.execution.run(what)

    def signal(self, address: int, data: int) -> None:
        """Send an interrupt message to the host."""
        self.fabric.interrupt(address, data)

    # --- pages that are missing ---------------------------------------------------------------------------------

    def wait_for_page(self, work: WaitingWork) -> None:
        """Let a descriptor wait, and ask for its page."""
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
        if not work.progress.data:
            del self.waits.groups[response.group]
        else:
            self._can_go_on(response.group, response.code)
        self._ask_further()

    def resumed(self, tag: int, *, retry: bool) -> None:
        """A request that the IOMMU held goes on: its descriptor tries again, or ends with a page fault.

        A tag that no descriptor here waits for is that of a store whose fate was told already.
        """
        number = self.waits.resumed(tag)
        if number is None:
            return
        work = self.waits.held[number]
        if not work.progress.data:
            del self.waits.held[number]
            return
        code = ResponseCode.SUCCESS if retry else ResponseCode.INVALID
        self.waits.held[number] = work._replace(tag=None, code=code, action=self.execution.can_go_on(number))

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
        action = self.execution.can_resume(group)
        self.waits.groups[group] = work._replace(asked=False, code=code, action=action)

    # --- drain and abort ----------------------------------------------------------------------------------------

    def drain(self, wq: int | None = None, pasid: int | None = None) -> int:
        """Carry out what is here (of one queue, for one PASID) to its end; returns how many descriptors that were.

        Draining has to wait for pages that were asked for: meanwhile whoever serves page requests runs. Where nobody
        does, the descriptor is dropped.
        """
        count = len(self.held(wq, pasid))
        while held := self.held(wq, pasid):
            ready = next((one for one in held if one.action != NOT_READY), None)
            if ready is not None:
                self.agenda.disable(ready.action)
                self.execution.run(ready.what)
            elif not self.agenda.run_named(SERVE_PAGES):
                self.execution.drop(held[0].what)
        return self._settled("drained", wq, pasid, count)

    def abort(self, wq: int | None = None, pasid: int | None = None) -> int:
        """Drop what is here (of one queue, for one PASID); returns how many descriptors that were. Nobody is told.

        What they have written stays written.
        """
        held = self.held(wq, pasid)
        for one in held:
            if one.action != NOT_READY:
                self.agenda.disable(one.action)
            self.execution.drop(one.what)
        return self._settled("aborted", wq, pasid, len(held))

    def _settled(self, how: str, wq: int | None, pasid: int | None, count: int) -> int:
        where = self.path + (f" wq{wq}" if wq is not None else "") + (f" PASID {pasid}" if pasid is not None else "")
        self.emit(Verb.DRAIN, f"{where} {how}", None, None, device=self.path, wq=wq, pasid=pasid, count=count)
        return count
