"""Execution: what one enabled action of the accelerator does, for single descriptors and for batches.

Each action does one step of one descriptor and tells it as an EXECUTE event; the step that ends a descriptor writes its
completion record and tells that as COMPLETE. What is not at its end is in flight and enables the next action; what
needs a page that is missing waits for it (PRI).

A batch (opcode 1) is a list of descriptors in the submitter's memory. They are carried out as if they had come through
the same portal: with the batch's PASID, privilege and table of interrupts, whatever they say themselves. Each writes
its own record; the batch's own is written last: SUCCESS, BATCH_FAIL when one of them did not succeed, BATCH_PAGE_FAULT
when the list could not be read. A descriptor with FENCE after one that failed ends the batch there.

Source: Linux ``include/uapi/linux/idxd.h`` (names of opcodes, flags and status codes), ``drivers/dma/idxd/registers.h``
(SWERR: batch, batch_idx). UNVERIFIED: that the descriptors of a batch run one after the other (silicon runs those
between two fences in parallel); that bytes_completed of a batch's record is the number of descriptors that ended, well
or not; that a descriptor whose record cannot be written counts as failed; that a FENCE outside a batch means nothing;
that a list in memory that does not exist is HW_ERR1, as it is for a transfer; that operation, PASID and privilege of
an error record are those of the descriptor in the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.descriptor import Completion, CompletionStatus, Descriptor, Flag, Opcode, opcode_name
from pasidlab.hardware.accelerator.engine import (
    Blocked,
    Limits,
    SoftwareError,
    advance,
    check,
    page_fault,
    read_child,
    report,
    succeeded,
)
from pasidlab.hardware.accelerator.page_waits import HOLDS, PATIENCE, WaitingWork
from pasidlab.hardware.accelerator.progress import Progress
from pasidlab.hardware.dma import DmaPort
from pasidlab.hardware.layouts.dsa import GENCAP, HW_DESC, WQCFG
from pasidlab.hardware.pcie import ResponseCode
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.hardware.accelerator.device import Accelerator
    from pasidlab.timeline import Event

__all__ = ["Execution", "Held"]

_GO_ON: Final = "go-on"
_RESUME: Final = "resume"
_HELD: Final = "held"


class Held(NamedTuple):
    """A descriptor that the device holds, in a queue, in flight or until a page comes.

    ``action`` is the number of the enabled action that does its next step (or ``NOT_READY``), called ``what``.
    """

    progress: Progress
    pasid: int | None
    action: int
    what: str


class Execution:
    """Carries out the steps of one device's descriptors. It has no state of its own: that is the device's tables."""

    def __init__(self, device: Accelerator) -> None:
        self.device = device

    # --- what is held -------------------------------------------------------------------------------------------

    def held(self) -> list[Held]:
        """Everything that the device holds: first what is in flight, then the queues, then what waits for a page."""
        device = self.device
        found = [
            Held(moving.progress, self._pasid(moving.progress), moving.action, f"{_GO_ON} {ticket}")
            for ticket, moving in device.moving.items()
        ]
        for wq, queue in enumerate(device.queues):
            for ticket, waiting in queue.items():
                progress = Progress(wq, waiting.data)
                found.append(Held(progress, self._pasid(progress), waiting.action, f"{wq} {ticket}"))
        for group, work in device.waits.working():
            found.append(Held(work.progress, work.request.pasid, work.action, f"{_RESUME} {group}"))
        for number, work in device.waits.held.items():
            if work.progress.data:
                found.append(Held(work.progress, work.request.pasid, work.action, f"{_HELD} {number}"))
        return found

    def drop(self, what: str) -> None:
        """Forget a descriptor that is held: what it has written stays written, no record will be."""
        kind, number = what.split()
        if kind == _GO_ON:
            self.device.moving.take(int(number))
        elif kind == _RESUME:
            self.device.waits.abandon(int(number))
        elif kind == _HELD:
            self.device.waits.release(int(number))
        else:
            self.device.queues[int(kind)].take(int(number))

    # --- actions ------------------------------------------------------------------------------------------------

    def run(self, what: str) -> None:
        """The step that an enabled action stands for: a descriptor's first, its next one, or the one after a page."""
        kind, number = what.split()
        if kind == _GO_ON:
            self._step(self.device.moving.take(int(number)).progress)
        elif kind == _RESUME:
            self._resume(self.device.waits.groups.pop(int(number)))
        elif kind == _HELD:
            self._resume(self.device.waits.held.pop(int(number)))
        else:
            self._step(Progress(int(kind), self.device.queues[int(kind)].take(int(number)).data))

    def can_resume(self, group: int) -> int:
        """Enable the action that uses the answer to a page request; returns its number."""
        device, wq = self.device, self.device.waits.groups[group].progress.wq
        label = f"{device.label} wq{wq} goes on after its page request (group {group})"
        return device.agenda.enable(device, f"{_RESUME} {group}", label)

    def can_go_on(self, number: int) -> int:
        """Enable the action that goes on with what the IOMMU has resumed; returns its number."""
        device, wq = self.device, self.device.waits.held[number].progress.wq
        label = f"{device.label} wq{wq} goes on after the IOMMU held it"
        return device.agenda.enable(device, f"{_HELD} {number}", label)

    def _resume(self, waited: WaitingWork) -> None:
        if waited.code == ResponseCode.SUCCESS and waited.tries < HOLDS:
            self._step(waited.progress, waited)
        else:
            self._fail_page(waited)

    def _fail_page(self, waited: WaitingWork) -> None:
        """The page will not come: what needed it ends."""
        progress = waited.progress
        done = progress.child_done if progress.child else progress.done
        self._end(progress, page_fault(waited.request, done, status=CompletionStatus.PAGE_FAULT_IR))

    def _step(self, progress: Progress, waited: WaitingWork | None = None) -> None:
        """One step of a descriptor; ``waited``: for which page it has waited just now."""
        work = progress.work
        with self.device.timeline.because(self._tell(progress, work, progress.done)):
            try:
                if work.opcode == Opcode.BATCH:
                    self._step_batch(progress, work)
                else:
                    self._step_one(progress, work, progress.done)
            except _MustWait as wait:
                tries = waited.tries + 1 if waited is not None and waited.request == wait.blocked.request else 0
                waiting = WaitingWork(wait.progress, wait.blocked.request, tries, tag=wait.blocked.tag)
                if waiting.tag is not None:
                    self.device.waits.hold(waiting)
                elif tries < PATIENCE:
                    self.device.wait_for_page(waiting)
                else:
                    self._fail_page(waiting)

    def _step_batch(self, progress: Progress, work: Descriptor) -> None:
        """A step of the descriptor of the list that is being carried out, or of the next one."""
        fetched = progress if progress.child else self._fetch(progress, work)
        if isinstance(fetched, Completion):
            self._end(progress, fetched)
            return
        child = self._child(fetched)
        if fetched.failed and child.flags & Flag.FENCE:
            self._end(progress, Completion(CompletionStatus.BATCH_FAIL, 0, progress.done))
            return
        with self.device.timeline.because(self._tell(fetched, child, fetched.child_done, fetched.done)):
            self._step_one(fetched, child, fetched.child_done)

    def _fetch(self, progress: Progress, work: Descriptor) -> Progress | Completion:
        """Begin with the next descriptor of a list (and check the batch, before the first), or how the batch ended."""
        dma, limits = self._bounds(progress)
        refused = None if progress.done else check(dma, work, limits)
        if refused is not None:
            return Completion(refused)
        try:
            fetched = read_child(dma, work, progress.done, limits)
        except Blocked as blocked:
            raise _MustWait(progress, blocked) from None
        return fetched if isinstance(fetched, Completion) else progress._replace(child=fetched)

    def _step_one(self, progress: Progress, work: Descriptor, done: int) -> None:
        """One step of a descriptor that is no batch, but may be one of a batch's."""
        dma, limits = self._bounds(progress)
        try:
            now = advance(dma, work, limits, done)
        except Blocked as blocked:
            raise _MustWait(progress, blocked) from None
        if isinstance(now, Completion):
            self._end(progress, now)
        else:
            self._go_on(progress._replace(child_done=now) if progress.child else progress._replace(done=now))

    def _go_on(self, progress: Progress) -> None:
        """The descriptor is in flight: its next step is enabled."""
        device = self.device
        label = f"{device.label} wq{progress.wq} goes on with {progress.words(self._pasid(progress))}"
        action = device.agenda.enable(device, f"{_GO_ON} {device.moving.next_ticket}", label)
        device.moving.add(progress, action)

    # --- the end of a descriptor --------------------------------------------------------------------------------

    def _end(self, progress: Progress, completion: Completion) -> None:
        """What was being carried out ended so: the descriptor, one of a batch, or the batch before its next one."""
        work = progress.work
        if work.opcode != Opcode.BATCH:
            self._finish(progress, work, completion)
        elif progress.child:
            self._end_child(progress, work, completion)
        else:
            faults = (CompletionStatus.PAGE_FAULT_NOBOF, CompletionStatus.PAGE_FAULT_IR)
            status = CompletionStatus.BATCH_PAGE_FAULT if completion.status in faults else completion.status
            self._finish(progress, work, completion._replace(status=status))

    def _end_child(self, progress: Progress, work: Descriptor, completion: Completion) -> None:
        failed = not self._finish(progress, self._child(progress), completion, progress.done) or progress.failed
        after = progress._replace(done=progress.done + 1, failed=failed, child=b"", child_done=0)
        if after.done < work.size:
            self._go_on(after)
        else:
            status = CompletionStatus.BATCH_FAIL if failed else CompletionStatus.SUCCESS
            self._finish(after, work, Completion(status, 0, after.done))

    def _finish(self, progress: Progress, work: Descriptor, completion: Completion, number: int | None = None) -> bool:
        """Write a completion record and tell it; whether all went well. ``number``: which of a batch it is."""
        dma, told = self._way(progress), True
        completion = self.device.interrupts.settle(work, dma.pasid, completion)
        try:
            report(dma, work, completion)
        except SoftwareError as error:
            told = False
            self._software_error(progress, work, error, number)
        name, status = opcode_name(work.opcode), CompletionStatus(completion.status).name
        outcome = {**completion._asdict(), "status": status}
        subject = f"{self.device.label} wq{progress.wq} {name}"
        self.device.emit(Verb.COMPLETE, subject, None, status, **self._facts(progress, work, number), **outcome)
        self.device.interrupts.send(work, dma.pasid)
        return told and succeeded(completion)

    def _software_error(self, progress: Progress, work: Descriptor, error: SoftwareError, number: int | None) -> None:
        dma = self._way(progress)
        facts = {"device": self.device.path, "wq": progress.wq, "pasid": dma.pasid}
        self.device.record_error(
            desc_valid=1,
            wq_idx_valid=1,
            batch=int(number is not None),
            fault_rw=error.write,
            priv=int(dma.privileged),
            error=error.error,
            wq_idx=progress.wq,
            operation=work.opcode,
            pasid=dma.pasid or 0,
            batch_idx=number or 0,
            invalid_flags=work.flags if error.error == CompletionStatus.INVALID_FLAGS else 0,
            fault_addr=error.fault_addr,
        )
        subject = f"{self.device.label} SWERR {CompletionStatus(error.error).name}"
        self.device.emit(Verb.FAULT, subject, None, None, **facts, error=error.error, address=error.fault_addr)

    # --- on whose behalf, and within which limits ---------------------------------------------------------------

    def _bounds(self, progress: Progress) -> tuple[DmaPort, Limits]:
        """The way to memory of a descriptor, and what is allowed to it."""
        return self._way(progress), self._limits(progress.wq)

    def _way(self, progress: Progress) -> DmaPort:
        """On whose behalf DMA runs: WQCFG says it on a dedicated queue, the descriptor on a shared one."""
        device, wq = self.device, progress.wq
        config = device.wq_words(wq)
        own = HW_DESC["priv"].get(HW_DESC.from_bytes(progress.data))
        priv = WQCFG["priv"].get(config) if WQCFG["mode"].get(config) else own
        tlb = not WQCFG["ats_disable"].get(config)
        return device.port(self._pasid(progress), privileged=bool(priv), tlb=tlb)

    def _pasid(self, progress: Progress) -> int | None:
        return self.device.pasid_of(progress.wq, progress.data)

    def _limits(self, wq: int) -> Limits:
        device = self.device
        overlap = bool(device.field(at.GENCAP, GENCAP, "overlap_copy"))
        config = device.wq_words(wq)
        longest, most = 1 << WQCFG["max_xfer_shift"].get(config), 1 << WQCFG["max_batch_shift"].get(config)
        blocks = bool(WQCFG["bof"].get(config)) and device.config.page_requests > 0 and not device.waits.full
        return Limits(longest, overlap, device.config.privileged_enabled, most, blocks)

    def _child(self, progress: Progress) -> Descriptor:
        """The descriptor of a batch that is being carried out, with the batch's PASID and privilege."""
        batch = progress.work
        same = {"pasid": batch.pasid, "priv": batch.priv, "int_table": batch.int_table}
        return Descriptor.from_bytes(progress.child)._replace(**same)

    # --- telling ------------------------------------------------------------------------------------------------

    def _facts(self, progress: Progress, work: Descriptor, number: int | None) -> dict[str, object]:
        facts = {"device": self.device.path, "wq": progress.wq, "pasid": self._pasid(progress)}
        batch = {} if number is None else {"batch_idx": number}
        return {**facts, "opcode": opcode_name(work.opcode), **batch}

    def _tell(self, progress: Progress, work: Descriptor, done: int, number: int | None = None) -> Event:
        """The event of a step."""
        places = {"src": work.src, "dst": work.dst, "size": work.size, "done": done}
        subject = f"{self.device.label} wq{progress.wq} {opcode_name(work.opcode)}"
        return self.device.emit(Verb.EXECUTE, subject, None, None, **self._facts(progress, work, number), **places)


class _MustWait(Exception):
    """A step was ``blocked``, with this progress before it."""

    def __init__(self, progress: Progress, blocked: Blocked) -> None:
        self.progress = progress
        self.blocked = blocked
        super().__init__(str(blocked))
