"""The register block of an AMD IOMMU: what silicon and a hypervisor's emulated unit do alike when software writes.

Models DEV_TAB, CONTROL, STATUS, the command buffer, the event log and the page request log with their heads and tails,
the feature registers and the unit's own interrupt. Follows Linux 6.1 ``drivers/iommu/amd/init.c`` and ``iommu.c`` (what
the driver expects) and QEMU's amd_iommu.c. What differs between silicon and emulation hangs on hooks: the device table
was set, translation was switched, a command arrived, an interrupt leaves.

Everything happens within the store that asks for it. An 8-byte access between two registers is two of 4 bytes; a tail
acts when its lower half is written.

UNVERIFIED, from memory of specification 48882: commands and logs run only while IommuEn is set as well; writing the
base of a ring empties it; a bad command stops the buffer (CmdBufRun=0) with the head on it until CmdBufEn is cleared
and set again; a completion that cannot be stored is a COMMAND_HARDWARE_ERROR and stops it too; an interrupt is sent
when a status bit rises while its enable bit is set, or when the enable bit is set while the status bit is; all sources
share one message. Left out: interrupt remapping, guest virtual APIC, dual logs, early overflow warnings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord
from pasidlab.hardware.iommu.amdvi.faults import TYPE_SHIFT, EventCode
from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.iommu.amdvi.invalidation import Command, decode_command
from pasidlab.hardware.iommu.amdvi.page_queue import PageLog
from pasidlab.hardware.iommu.amdvi.reading import AmdReading
from pasidlab.hardware.iommu.amdvi.register_file import (
    CMD_BUF,
    CMD_HEAD,
    CMD_TAIL,
    CONTROL,
    DEV_TAB,
    EVT_BUF,
    EXT_FEATURES,
    EXT_FEATURES2,
    MSI_ADDR_HI,
    MSI_ADDR_LO,
    MSI_CAPABILITY,
    MSI_DATA,
    PPR_LOG,
    STATUS,
    RegisterFile,
    register_rows,
)
from pasidlab.hardware.iommu.amdvi.ring import ENTRY, EVENT_RING, PPR_RING, LogRing
from pasidlab.hardware.iommu.amdvi.rules import AmdRules
from pasidlab.hardware.iommu.amdvi.tables import DteLookup, Gcr3Lookup, Lookup, Trace, find_dte
from pasidlab.hardware.iommu.amdvi.walk import AmdWalker, Errand
from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.layouts.amd import BUFFER_REG, CONTROL_REG, MSI_CAPABILITY_REG, STATUS_REG
from pasidlab.hardware.layouts.amd_queue import CMD_COMPLETION_WAIT
from pasidlab.hardware.memory import Memory
from pasidlab.hardware.pcie import Access, DmaRequest, PageGroupResponse, PageRequest
from pasidlab.timeline import Actor, Verb

if TYPE_CHECKING:
    from pasidlab.hardware.iommu.amdvi.caches import AmdCaches
    from pasidlab.timeline import Timeline

__all__ = ["AmdRegisters"]

_WORD: Final = (1 << 64) - 1
_HALF: Final = 0xFFFF_FFFF
_C: Final = {field.name: field.mask for field in CONTROL_REG}
_S: Final = {field.name: field.mask for field in STATUS_REG}
_INTERRUPTS: Final = (
    (_C["EventIntEn"], _S["EventLogInt"] | _S["EventOverflow"]),
    (_C["ComWaitIntEn"], _S["ComWaitInt"]),
    (_C["PPRIntEn"], _S["PPRInt"] | _S["PPROverflow"]),
)
"""Enable bits of CONTROL, and the bits of STATUS that they let interrupt."""
_MASTER_ABORT: Final = 1 << TYPE_SHIFT
_NOBODY: Final = 0
"""The requester ID of events that no device caused."""


class AmdRegisters(Actor):
    """A register block in front of ``memory``, from which commands and tables are read. It is an MMIO target.

    >>> from pasidlab.hardware.memory import PhysicalMemory
    >>> from pasidlab.timeline import Timeline
    >>> time = Timeline()
    >>> unit = AmdRegisters(time, "unit", "hardware", PhysicalMemory(time, "ram", 1 << 22), AmdIdentity())
    >>> unit.mmio_write(DEV_TAB, 0x1_0000 | 0x1FF)
    >>> found = unit.find_dte(0x6A08)
    >>> hex(found.line.at), found.line.valid
    ('0xe4100', False)
    """

    actor = "iommu unit"

    def __init__(self, timeline: Timeline, path: str, altitude: str, memory: Memory, identity: AmdIdentity) -> None:
        super().__init__(timeline, path, altitude)
        self.memory = memory
        self.identity = identity
        self.rules = AmdRules(identity)
        self.walker = AmdWalker(memory, self.rules)
        self.registers = RegisterFile(timeline, path, register_rows(identity))
        self.event_log = LogRing(EVENT_RING, self.registers, memory, self._raised)
        self.page_queue = PageLog(PPR_RING, self.registers, memory, self._raised)
        self.reading = AmdReading(self)
        self._fixed = {EXT_FEATURES: identity.efr(), EXT_FEATURES2: identity.efr2()}

    # --- what software sees -------------------------------------------------------------------------------------------

    @property
    def translation_enabled(self) -> bool:
        """CONTROL.IommuEn: requests are translated."""
        return bool(self.registers[CONTROL] & _C["IommuEn"])

    def mmio_read(self, offset: int, size: int = 8) -> int:
        """Load 4 or 8 bytes; what is not a register reads as zero."""
        if size == 8 and offset & 4:
            return self.mmio_read(offset, 4) | self.mmio_read(offset + 4, 4) << 32
        word = self._fixed.get(offset & ~7)
        if word is None:
            word = self.registers[offset & ~7]
        return word if size == 8 else word >> 8 * (offset & 4) & _HALF

    def mmio_write(self, offset: int, value: int, size: int = 8) -> None:
        """Store 4 or 8 bytes; read-only bits and offsets without a register ignore it."""
        if size == 8 and offset & 4:
            self.mmio_write(offset, value & _HALF, 4)
            self.mmio_write(offset + 4, value >> 32, 4)
            return
        aligned, shift = offset & ~7, 0 if size == 8 else 8 * (offset & 4)
        lanes = _WORD if size == 8 else _HALF << shift
        before = self.registers[aligned]
        self.registers.store(aligned, value << shift & lanes, lanes)
        self._written(aligned, before, bool(lanes & 1))

    def _written(self, aligned: int, before: int, low: bool) -> None:
        """The registers that act when they are written."""
        if aligned == CONTROL:
            self._controlled(before, self.registers[CONTROL])
        elif aligned == DEV_TAB:
            self._device_table_set()
        elif aligned == CMD_BUF:
            self.registers[CMD_HEAD] = self.registers[CMD_TAIL] = 0
        elif aligned == EVT_BUF:
            self.event_log.moved()
        elif aligned == PPR_LOG and self.identity.ppr:
            self.page_queue.moved()
        elif aligned == CMD_TAIL and low:
            self._run_commands()

    def post64(self, offset: int, data: bytes) -> None:
        """There is no 64-byte register: the store is dropped."""

    def enqueue64(self, offset: int, data: bytes) -> bool:
        """There is no enqueue register: retry."""
        return False

    # --- tables -------------------------------------------------------------------------------------------------------

    def find_dte(self, rid: int) -> DteLookup:
        """The device table entry that the tables in memory hold for ``rid``."""
        return find_dte(self.lookup(), rid)

    def find_gcr3(self, rid: int, pasid: int) -> Gcr3Lookup:
        """The device table entry and the GCR3 entry that the tables in memory hold for ``rid`` and ``pasid``."""
        lookup = self.lookup()
        reason, line = find_dte(lookup, rid)
        if reason is not None or line is None:
            return Gcr3Lookup(reason, line)
        found = self.walker.gcr3(Errand(lookup, line, DmaRequest(rid, 0, Access.READ, pasid), pasid), pasid)
        return Gcr3Lookup(None, line, found) if isinstance(found, tuple) else Gcr3Lookup(found, line)

    def lookup(self, caches: AmdCaches | None = None, keep: bool = False, trace: Trace = None) -> Lookup:
        """The way into the tables, by default without any cache."""
        control = self.registers[CONTROL]
        guest, guest_tables = bool(control & _C["GTEn"]), bool(control & _C["GCR3TRPMode"])
        return Lookup(self.memory, self.registers[DEV_TAB], self.rules, guest, guest_tables, caches, keep, trace)

    # --- logs ---------------------------------------------------------------------------------------------------------

    def record_event(self, record: EventRecord) -> bool:
        """Write an event into the log, and interrupt; ``False`` when it was lost."""
        return self.event_log.put(record.words())

    def page_request(self, request: PageRequest) -> None:
        """Write a page request into the log for software, and interrupt."""
        facts = {"rid": request.rid, "pasid": request.pasid, "address": request.address, "group": request.group}
        room = self.page_queue.running and not self.page_queue.full
        after = "queued" if room else "dropped: the log is full or stopped"
        event = self.emit(Verb.PAGE_REQUEST, str(request), after=after, **facts)
        with self.timeline.because(event):
            queued = self.page_queue.put_request(request)
        if not queued:
            self._page_request_dropped(request)

    def tell_response(self, response: PageGroupResponse) -> None:
        """Emit the event of an answer to a device."""
        facts = {"rid": response.rid, "pasid": response.pasid, "group": response.group, "code": response.code}
        self.emit(Verb.PAGE_RESPONSE, str(response), **facts)

    def tell_fault(self, fault: Fault, fate: str) -> None:
        """Emit the event of a blocked request."""
        request = fault.request
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

    # --- hooks --------------------------------------------------------------------------------------------------------

    def _interrupt(self, address: int, data: int) -> None:
        """An interrupt message leaves the unit."""

    def _page_request_dropped(self, request: PageRequest) -> None:
        """A page request found no room in the log."""

    def _device_table_set(self) -> None:
        """DEV_TAB was written, whole or in half."""

    def _translation_switched(self) -> None:
        """IommuEn, GTEn or GCR3TRPMode rose or fell."""

    def _command(self, command: Command) -> None:
        """A command (any but COMPLETION_WAIT) arrived; the buffer goes on when this returns."""

    # --- control and interrupts ---------------------------------------------------------------------------------------

    def _controlled(self, before: int, after: int) -> None:
        """CONTROL was written: logs, command buffer, interrupts, translation."""
        running = bool(after & _C["IommuEn"])
        self.event_log.switch(running and bool(after & _C["EventLogEn"]))
        self.page_queue.switch(running and bool(after & _C["PPRLogEn"]))
        commands = _C["IommuEn"] | _C["CmdBufEn"]
        if after & commands != commands:
            self.registers[STATUS] &= ~_S["CmdBufRun"]
        elif before & commands != commands:
            self.registers[STATUS] |= _S["CmdBufRun"]
        for enable, causes in _INTERRUPTS:
            if after & ~before & enable and self.registers[STATUS] & causes:
                self._send()
        if (before ^ after) & (_C["IommuEn"] | _C["GTEn"] | _C["GCR3TRPMode"]):
            self._translation_switched()
        self._run_commands()

    def _raised(self, causes: int) -> None:
        """Bits of STATUS rose: send the message, if software lets one of them through."""
        control = self.registers[CONTROL]
        if any(control & enable and causes & known for enable, known in _INTERRUPTS):
            self._send()

    def _send(self) -> None:
        if MSI_CAPABILITY_REG["MsiEn"].get((self.registers.get32(MSI_CAPABILITY),)):
            address = self.registers.get32(MSI_ADDR_HI) << 32 | self.registers.get32(MSI_ADDR_LO)
            self._interrupt(address, self.registers.get32(MSI_DATA))

    # --- command buffer -----------------------------------------------------------------------------------------------

    def _run_commands(self) -> None:
        """Take commands from CMD_HEAD to CMD_TAIL, until the buffer is empty or stops at an error."""
        register = (self.registers[CMD_BUF],)
        base, size = BUFFER_REG["Base"].get(register), ENTRY << BUFFER_REG["Length"].get(register)
        while self.registers[STATUS] & _S["CmdBufRun"]:
            head = self.registers[CMD_HEAD] % size
            if head == self.registers[CMD_TAIL] % size:
                return
            self._take(base, head, size)

    def _take(self, base: int, head: int, size: int) -> None:
        """Fetch and carry out a command. The head moves in between: what it causes may ring the bell again."""
        try:
            words = self.memory.load_words(base + head, 2)
        except BusError:
            self._stop_commands(EventRecord(EventCode.COMMAND_HARDWARE_ERROR, _NOBODY, 0, _MASTER_ABORT, base + head))
            return
        command = decode_command(words, self.identity, base + head)
        if command is None:
            self._stop_commands(EventRecord(EventCode.ILLEGAL_COMMAND_ERROR, _NOBODY, 0, 0, base + head))
            return
        self.registers[CMD_HEAD] = (head + ENTRY) % size
        if command.layout is not CMD_COMPLETION_WAIT:
            self._command(command)
        elif not self._completed(command):
            self.registers[CMD_HEAD] = head
            self._stop_commands(EventRecord(EventCode.COMMAND_HARDWARE_ERROR, _NOBODY, 0, _MASTER_ABORT, base + head))

    def _completed(self, command: Command) -> bool:
        """All earlier commands are done (nothing is in flight here): say so."""
        if command.field("S"):
            try:
                self.memory.store(command.field("STORE_ADDR"), command.field("STORE_DATA"))
            except BusError:
                return False
        if command.field("I") and not self.registers[STATUS] & _S["ComWaitInt"]:
            self.registers[STATUS] |= _S["ComWaitInt"]
            self._raised(_S["ComWaitInt"])
        return True

    def _stop_commands(self, record: EventRecord) -> None:
        self.registers[STATUS] &= ~_S["CmdBufRun"]
        fate = "recorded" if self.record_event(record) else "lost: the event log is full or stopped"
        self.emit(Verb.FAULT, f"command at {record.address:#x}", after=record.name, code=int(record.code), fate=fate)
