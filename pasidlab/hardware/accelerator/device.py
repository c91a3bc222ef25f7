"""The accelerator: a DSA-like PCIe function with dedicated and shared work queues that moves real bytes.

BAR0 is :class:`AcceleratorRegisters`, BAR2 is ``portals``. Every accepted descriptor becomes an enabled action on the
machine's agenda; running it executes that descriptor. Descriptors of one queue may be executed in any order: real
engines complete out of order too.

Whose memory: a shared queue's descriptors carry PASID and privilege themselves (the CPU wrote them there), a dedicated
queue's use WQCFG; without WQCFG.pasid_en requests carry no PASID prefix.

Source: Linux ``drivers/dma/idxd``. UNVERIFIED: a dedicated queue ignores the PASID of a descriptor; a posted store
that no queue can take is dropped without an error record. Left out: commands take no time (their status is never seen
active).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.command_unit import carry_out
from pasidlab.hardware.accelerator.descriptor import CompletionStatus, Descriptor, opcode_name
from pasidlab.hardware.accelerator.engine import Limits, SoftwareError, execute, report
from pasidlab.hardware.accelerator.operations import DmaPort
from pasidlab.hardware.accelerator.portals import Portal, Portals
from pasidlab.hardware.accelerator.queue import WorkQueue
from pasidlab.hardware.accelerator.registers import AcceleratorRegisters, QueueSetup
from pasidlab.hardware.layouts.dsa import GENCAP, HW_DESC, WQCFG
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.hardware.fabric import Fabric
    from pasidlab.timeline import Agenda, Timeline

__all__ = ["Accelerator"]


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
    ) -> None:
        setup = [QueueSetup(False, wq_size)] * shared + [QueueSetup(True, wq_size)] * dedicated
        self.queues = tuple(WorkQueue(timeline, f"{name}.wq{wq}") for wq in range(len(setup)))
        super().__init__(timeline, name, setup)
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
        """Execute one waiting descriptor (the agenda's way in)."""
        wq, ticket = what.split()
        self._execute(int(wq), int(ticket))

    def _execute(self, wq: int, ticket: int) -> None:
        work = Descriptor.from_bytes(self.queues[wq].take(ticket).data)
        dma, name = self._port(wq, work), opcode_name(work.opcode)
        facts = {"device": self.path, "wq": wq, "pasid": dma.pasid, "opcode": name}
        places = {"src": work.src, "dst": work.dst, "size": work.size}
        event = self.emit(Verb.EXECUTE, f"{self.label} wq{wq} {name}", None, None, **facts, **places)
        with self.timeline.because(event):
            completion = execute(dma, work, self._limits(wq))
            try:
                report(dma, work, completion)
            except SoftwareError as error:
                self._software_error(wq, work, dma, error)
            status = CompletionStatus(completion.status).name
            outcome = {**completion._asdict(), "status": status}
            self.emit(Verb.COMPLETE, f"{self.label} wq{wq} {name}", None, status, **facts, **outcome)

    def _port(self, wq: int, work: Descriptor) -> DmaPort:
        """On whose behalf a descriptor's DMA runs."""
        config = self.wq_words(wq)
        if WQCFG["mode"].get(config):
            return DmaPort(self.fabric, self.rid, self.wq_pasid(wq), bool(WQCFG["priv"].get(config)))
        return DmaPort(self.fabric, self.rid, work.pasid, bool(work.priv))

    def _pasid(self, wq: int, words: tuple[int, ...]) -> int | None:
        """The PASID alone, for a descriptor that is still bytes."""
        dedicated = WQCFG["mode"].get(self.wq_words(wq))
        return self.wq_pasid(wq) if dedicated else HW_DESC["pasid"].get(words)

    def _limits(self, wq: int) -> Limits:
        overlap = bool(self.field(at.GENCAP, GENCAP, "overlap_copy"))
        longest = 1 << WQCFG["max_xfer_shift"].get(self.wq_words(wq))
        return Limits(longest, overlap, self.config.privileged_enabled)

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
        where = self.path + (f" wq{wq}" if wq is not None else "") + (f" PASID {pasid}" if pasid is not None else "")
        facts = {"device": self.path, "wq": wq, "pasid": pasid, "count": count}
        self.emit(Verb.DRAIN, f"{where} {how}", None, None, **facts)
        return count

    def _matching(self, wq: int | None, pasid: int | None) -> Iterator[tuple[int, int, int]]:
        """Queue, ticket and action of every waiting descriptor that is meant."""
        for number in range(self.num_wqs) if wq is None else (wq,):
            for ticket, waiting in self.queues[number].items():
                if pasid is None or self._pasid(number, HW_DESC.from_bytes(waiting.data)) == pasid:
                    yield number, ticket, waiting.action
