"""The register block of an SMMU: what silicon and a hypervisor's emulated unit do alike when software writes.

Models CR0 to CR2, GBPA, the stream table registers, GERROR with GERRORN, the interrupt configuration and the three
queues. Follows Linux 6.1 ``drivers/iommu/arm/arm-smmu-v3`` (what the driver expects) and chapters 3.5, 6, 7 and 8 of
the specification (IHI 0070). What differs between silicon and emulation hangs on hooks: a command arrived, the stream
table was set, translation was switched, an interrupt leaves, a page request was answered by the unit itself.

Everything happens within the store that asks for it: CR0ACK and IRQ_CTRLACK follow at once, commands are carried out
while CMDQ_PROD is written. CMD_SYNC is told by CONS moving past it, and with CS=1 by a store of MSIDATA to MSIADDR;
with CS=2 by an event that no CPU of this model sleeps for. A device that does not answer an invalidation is noticed by
the next CMD_SYNC (CERROR_ATC_INV), which is carried out again when software has acknowledged the error.

An interrupt leaves when a queue gets its first entry or a global error becomes active, while IRQ_CTRL allows it, as a
store of CFG1 to the address in CFG0 (0: none; wires are left out). An address in the interrupt range reaches the CPU,
any other one is memory. The automatic answer of page requests is the specification's (8.1, with IDR3.PPS=1);
UNVERIFIED: while the queue is off or broken it is a failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.smmuv3.caches import CdLine, SteLine
from pasidlab.hardware.iommu.smmuv3.fault_log import EventQueue
from pasidlab.hardware.iommu.smmuv3.faults import Blocked
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.iommu.smmuv3.invalidation import Command, CommandError, decode_command
from pasidlab.hardware.iommu.smmuv3.page_queue import PageQueue
from pasidlab.hardware.iommu.smmuv3.reading import SmmuReading
from pasidlab.hardware.iommu.smmuv3.register_file import (
    CMDQ_BASE,
    CMDQ_CONS,
    CMDQ_PROD,
    CMDQEN,
    CR0,
    CR0ACK,
    CR2,
    EVTQ_CONS,
    EVTQ_IRQ_CFG0,
    EVTQEN,
    GBPA,
    GERROR,
    GERROR_IRQ_CFG0,
    GERRORN,
    IRQ_CTRL,
    IRQ_CTRLACK,
    PRIQ_IRQ_CFG0,
    PRIQEN,
    SMMUEN,
    STRTAB_BASE,
    STRTAB_BASE_CFG,
    RegisterFile,
    register_rows,
)
from pasidlab.hardware.iommu.smmuv3.ring import Ring
from pasidlab.hardware.iommu.smmuv3.rules import SmmuRules, is_doorbell
from pasidlab.hardware.iommu.smmuv3.tables import Lookup, StreamTable, find_cd, find_ste
from pasidlab.hardware.iommu.smmuv3.walk import SmmuWalker
from pasidlab.hardware.layouts.smmu import CR2_REG, GBPA_REG, GERROR_REG, IRQ_CTRL_REG
from pasidlab.hardware.layouts.smmu_queue import CMD_PREFETCH_CFG, CMD_SYNC
from pasidlab.hardware.memory import Memory
from pasidlab.hardware.pcie import PageGroupResponse, PageRequest, ResponseCode
from pasidlab.timeline import Actor, Verb

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["SmmuRegisters"]

_HALF: Final = 0xFFFF_FFFF
_MESSAGE: Final = 1
"""CMD_SYNC.CS: a store tells of completion."""
_ERR_SHIFT: Final = 24
_CMDQ_ERR, _EVTQ_ABT_ERR, _PRIQ_ABT_ERR = (
    GERROR_REG[name].mask for name in ("CMDQ_ERR", "EVTQ_ABT_ERR", "PRIQ_ABT_ERR")
)
_MSI_CMDQ, _MSI_EVTQ, _MSI_PRIQ, _MSI_GERROR = (
    GERROR_REG[f"MSI_{name}_ABT_ERR"].mask for name in ("CMDQ", "EVTQ", "PRIQ", "GERROR")
)
_IRQ: Final = {name: IRQ_CTRL_REG[name].mask for name in ("EVTQ_IRQEN", "PRIQ_IRQEN", "GERROR_IRQEN")}


class SmmuRegisters(Actor, state=("unanswered",)):
    """A register block in front of ``memory``, from which commands and tables are read. It is an MMIO target.

    ``unanswered``: a device did not answer an invalidation, and no CMD_SYNC has noticed yet.

    >>> from pasidlab.hardware.iommu.smmuv3.register_file import CR0, STRTAB_BASE
    >>> from pasidlab.hardware.memory import PhysicalMemory
    >>> from pasidlab.timeline import Timeline
    >>> time = Timeline()
    >>> unit = SmmuRegisters(time, "unit", "hardware", PhysicalMemory(time, "ram", 1 << 20), SmmuIdentity())
    >>> unit.mmio_write(STRTAB_BASE, 0x5000); unit.mmio_write(CR0, 0x1F, 4)
    >>> hex(unit.mmio_read(0x24, 4)), unit.translation_enabled
    ('0x1f', True)
    """

    actor = "iommu unit"

    def __init__(self, timeline: Timeline, path: str, altitude: str, memory: Memory, identity: SmmuIdentity) -> None:
        super().__init__(timeline, path, altitude)
        self.memory = memory
        self.identity = identity
        self.rules = SmmuRules(identity)
        self.walker = SmmuWalker(memory, self.rules)
        self.unanswered = False
        self.registers = RegisterFile(timeline, path, register_rows(identity))
        self.event_queue = EventQueue(self.registers, memory, identity)
        self.page_queue = PageQueue(self.registers, memory, identity)
        self.reading = SmmuReading(self)
        self._commands = Ring(self.registers, memory, CMDQ_BASE, CMDQ_PROD, CMDQ_CONS, CMD_SYNC, identity.cmdqs)

    # --- what software sees -------------------------------------------------------------------------------------------

    @property
    def translation_enabled(self) -> bool:
        """CR0.SMMUEN: transactions are translated; otherwise GBPA decides."""
        return bool(self.registers[CR0] & SMMUEN)

    @property
    def blocks_when_off(self) -> bool:
        """GBPA.ABORT: while translation is off nothing passes."""
        return bool(self.registers[GBPA] & GBPA_REG["ABORT"].mask)

    @property
    def stream_table(self) -> StreamTable:
        """The stream table that the registers name."""
        registers = self.registers
        return StreamTable.of(registers.get64(STRTAB_BASE), registers[STRTAB_BASE_CFG], self.rules)

    def errors(self) -> int:
        """The bits of GERROR that are active: those that software has not acknowledged."""
        return self.registers[GERROR] ^ self.registers[GERRORN]

    def mmio_read(self, offset: int, size: int = 8) -> int:
        """Load 4 or 8 bytes; what is not a register reads as zero."""
        return self.registers[offset] if size == 4 else self.registers.get64(offset)

    def mmio_write(self, offset: int, value: int, size: int = 8) -> None:
        """Store 4 or 8 bytes; read-only bits, locked registers and offsets without a register ignore it.

        A store of 8 bytes is two of 4, low half first; both have happened when the first one takes effect.
        """
        stored = []
        for at, word in ((offset, value & _HALF), (offset + 4, value >> 32)) if size == 8 else ((offset, value),):
            before = self.registers[at]
            if at == GBPA:
                self._bypass_attributes(word)
            elif self.registers.store(at, word & _HALF):
                stored.append((at, before))
        for at, before in stored:
            self._act(at, before)

    def post64(self, offset: int, data: bytes) -> None:
        """There is no 64-byte register: the store is dropped."""

    def enqueue64(self, offset: int, data: bytes) -> bool:
        """There is no enqueue register: retry."""
        return False

    def _bypass_attributes(self, word: int) -> None:
        """GBPA takes effect with UPDATE only, and at once: UPDATE reads as zero again."""
        if word & GBPA_REG["UPDATE"].mask:
            self.registers[GBPA] = word & GBPA_REG["ABORT"].mask

    def _act(self, at: int, before: int) -> None:
        """What a register does when it was written."""
        if at == CR0:
            self._switched(before)
        elif at == IRQ_CTRL:
            self.registers[IRQ_CTRLACK] = self.registers[IRQ_CTRL]
        elif at == CMDQ_PROD:
            self._run_commands()
        elif at == GERRORN:
            self._run_commands()
            self._events_read()
        elif at in (STRTAB_BASE, STRTAB_BASE_CFG):
            self._stream_table_set()
        elif at == EVTQ_CONS:
            self._events_read()

    def _switched(self, before: int) -> None:
        now = self.registers[CR0]
        self.registers[CR0ACK] = now
        if (before ^ now) & SMMUEN:
            self._translation_switched()
        if now & ~before & CMDQEN:
            self._run_commands()
        if now & ~before & EVTQEN:
            self._events_read()

    # --- the way into the tables --------------------------------------------------------------------------------------

    def lookup(self) -> Lookup:
        """The way into the tables behind the stream table registers, without any cache."""
        return Lookup(self.stream_table, self.walker, self.rules)

    def find_ste(self, sid: int) -> SteLine | Blocked:
        """The stream table entry that the tables in memory hold for a StreamID."""
        return find_ste(self.lookup(), sid)

    def find_cd(self, sid: int, ste: SteLine, number: int) -> CdLine | Blocked:
        """Context descriptor ``number`` that the tables in memory hold for a stream."""
        return find_cd(self.lookup(), sid, ste, number)

    # --- hooks --------------------------------------------------------------------------------------------------------

    def _command(self, command: Command) -> None:
        """A command (any but CMD_SYNC and prefetches) arrived; the queue goes on when this returns."""

    def _stream_table_set(self) -> None:
        """STRTAB_BASE or STRTAB_BASE_CFG was written, which is possible while SMMUEN=0 only."""

    def _translation_switched(self) -> None:
        """SMMUEN rose or fell."""

    def _events_read(self) -> None:
        """Software has read event records, or has switched the queue on: there may be room."""

    def _interrupt(self, address: int, data: int) -> None:
        """An interrupt message leaves the unit."""

    def _page_request_dropped(self, request: PageRequest, code: ResponseCode) -> None:
        """A page request was not queued; whoever sent it is owed this answer."""

    # --- events and page requests -------------------------------------------------------------------------------------

    @property
    def records_invalid_streams(self) -> bool:
        """CR2.RECINVSID."""
        return bool(self.registers[CR2] & CR2_REG["RECINVSID"].mask)

    @property
    def records_ats_configuration(self) -> bool:
        """CR2.REC_CFG_ATS."""
        return bool(self.registers[CR2] & CR2_REG["REC_CFG_ATS"].mask)

    @property
    def takes_events(self) -> bool:
        """Whether a record can be written now: the queue is on, has not failed, and has room."""
        on = self.registers[CR0] & EVTQEN and not self.errors() & _EVTQ_ABT_ERR
        return bool(on) and self.event_queue.has_room

    def record_event(self, words: tuple[int, ...]) -> bool:
        """Write an event record for software, and interrupt; ``False`` when it was lost."""
        if not self.registers[CR0] & EVTQEN or self.errors() & _EVTQ_ABT_ERR:
            return False
        was_empty = self.event_queue.ring.empty
        try:
            queued = self.event_queue.put(words)
        except BusError:
            self._global_error(_EVTQ_ABT_ERR)
            return False
        if queued and was_empty:
            self._signal("EVTQ_IRQEN", EVTQ_IRQ_CFG0, _MSI_EVTQ)
        return queued

    def page_request(self, request: PageRequest) -> None:
        """Write a page request into the PRI queue for software, and interrupt; or answer it if that fails."""
        outcome, code = self._queue_page_request(request)
        facts = {"rid": request.rid, "pasid": request.pasid, "address": request.address, "group": request.group}
        self.emit(Verb.PAGE_REQUEST, str(request), after=outcome, **facts)
        if code is not None:
            self._page_request_dropped(request, code)
        elif self._first_page_request:
            self._signal("PRIQ_IRQEN", PRIQ_IRQ_CFG0, _MSI_PRIQ)

    @property
    def _first_page_request(self) -> bool:
        """Whether exactly one entry waits: the queue was empty before it."""
        ring = self.page_queue.ring
        return ring.after(ring.read_index) == ring.write_index

    def _queue_page_request(self, request: PageRequest) -> tuple[str, ResponseCode | None]:
        """What became of it, in words, and the answer that is due if it was not queued."""
        if not self.registers[CR0] & PRIQEN or self.errors() & _PRIQ_ABT_ERR:
            return "dropped: the PRI queue is off", ResponseCode.FAILURE
        try:
            queued = self.page_queue.put(request)
        except BusError:
            self._global_error(_PRIQ_ABT_ERR)
            return "dropped: the PRI queue cannot be written", ResponseCode.FAILURE
        return ("queued", None) if queued else ("dropped: the queue is full", ResponseCode.SUCCESS)

    def tell_response(self, response: PageGroupResponse) -> None:
        """Emit the event of an answer to a device."""
        facts = {"rid": response.rid, "pasid": response.pasid, "group": response.group, "code": response.code}
        self.emit(Verb.PAGE_RESPONSE, str(response), **facts)

    # --- messages and global errors -----------------------------------------------------------------------------------

    def _signal(self, enabled_by: str, config: int, failed: int) -> None:
        """An interrupt's cause appeared."""
        if self.registers[IRQ_CTRL] & _IRQ[enabled_by] and self.identity.msi:
            self._message(self.registers.get64(config), self.registers[config + 8], failed)

    def _message(self, address: int, data: int, failed: int) -> None:
        """Store 32 bits: an interrupt, or a word in memory; ``failed`` is the error if nobody answers."""
        if not address:
            return
        if is_doorbell(address):
            self._interrupt(address, data)
            return
        try:
            self.memory.store32(address, data)
        except BusError:
            self._global_error(failed)

    def _global_error(self, bit: int) -> None:
        """Make an error active, if it is not yet."""
        if not self.errors() & bit:
            self.registers[GERROR] ^= bit
            if bit != _MSI_GERROR:
                self._signal("GERROR_IRQEN", GERROR_IRQ_CFG0, _MSI_GERROR)

    # --- commands -----------------------------------------------------------------------------------------------------

    def _run_commands(self) -> None:
        """Take commands until the queue is empty or stops at an error."""
        ring = self._commands
        while self.registers[CR0] & CMDQEN and not self.errors() & _CMDQ_ERR and not ring.empty:
            head = ring.read_index
            try:
                words = self.memory.load_words(ring.address(head), CMD_SYNC.word_count)
            except BusError:
                self._stop_commands(head, CommandError.ABT)
                continue
            command = decode_command(words, self.identity)
            if isinstance(command, CommandError):
                self._stop_commands(head, command)
                continue
            self._consume(ring.after(head))
            if command.layout is CMD_SYNC:
                self._sync(command, head)
            elif command.layout is not CMD_PREFETCH_CFG:
                self._command(command)

    def _consume(self, index: int) -> None:
        """The head moves before a command is carried out: what that causes may ring the bell again."""
        self.registers[CMDQ_CONS] = self.registers[CMDQ_CONS] & 0x7F << _ERR_SHIFT | index

    def _sync(self, command: Command, head: int) -> None:
        """All earlier commands are done (nothing is in flight here): say so, unless a device kept silent."""
        if self.unanswered:
            self.unanswered = False
            self._stop_commands(head, CommandError.ATC_INV)
        elif command.field("CS") == _MESSAGE and self.identity.msi:
            self._message(command.field("MSIADDR"), command.field("MSIDATA"), _MSI_CMDQ)

    def _stop_commands(self, head: int, error: CommandError) -> None:
        """CONS names the command that failed, and why; nothing is taken until software acknowledges."""
        self.registers[CMDQ_CONS] = error << _ERR_SHIFT | head
        self._global_error(_CMDQ_ERR)
