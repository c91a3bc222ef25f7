"""The register block of a VT-d unit: what silicon and a hypervisor's emulated unit do alike when software writes.

Models GCMD/GSTS, RTADDR, CCMD, the invalidation queue (IQA, IQH, IQT, IQERR), FSTS with the fault records, the page
request queue, the unit's own interrupts and the virtual commands. Follows Linux 6.1 ``drivers/iommu/intel/iommu.c`` and
``dmar.c`` (what the driver expects), QEMU's intel_iommu.c, and chapters 6.5, 7 and 11.4 of the specification (revision
5.10). What differs between silicon and emulation hangs on hooks: the root table was set, translation was switched off,
an invalidation descriptor or command arrived, a virtual command arrived, an interrupt leaves.

Everything happens within the store that asks for it. A 64-bit register that is written in halves acts when its lower
half is, CCMD when its upper half is; an 8-byte access between two registers is two of 4 bytes. A unit ignores the GCMD
bits of what it lacks (QIE without ECAP.QI; IRE, SIRTP and CFI without ECAP.IR; WBF without CAP.RWBF).

A device that does not answer an invalidation is noticed by the next wait descriptor, or when the queue runs empty: the
wait is not completed, ITE stops the queue behind it until software clears ITE. UNVERIFIED: IQH returns to 0 when the
queue is disabled (so says the specification); a STADDR that no memory answers for stops the queue; what CCMD does
while the queue runs (here: nothing, CAIG=0); IQERR is cleared with the status bit that it explains. Left out: the
advanced fault log, the interrupt table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.vtd.events import Events
from pasidlab.hardware.iommu.vtd.fault_log import FaultLog
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.invalidation import Descriptor, QueueError, decode_descriptor
from pasidlab.hardware.iommu.vtd.page_queue import PageQueue
from pasidlab.hardware.iommu.vtd.reading import VtdReading
from pasidlab.hardware.iommu.vtd.register_file import (
    CAP,
    CCMD,
    ECAP,
    FECTL,
    FSTS,
    GCMD,
    GCMD_QIE,
    GCMD_SRTP,
    GCMD_TE,
    GSTS,
    ICS,
    IECTL,
    IQA,
    IQERR,
    IQH,
    IQT,
    PECTL,
    PRS,
    RTADDR,
    VER,
    RegisterFile,
    register_rows,
)
from pasidlab.hardware.iommu.vtd.rules import VtdRules
from pasidlab.hardware.iommu.vtd.tables import Lookup, PasidLookup, find_pasid_entry
from pasidlab.hardware.layouts.vtd import FSTS_REG, IQA_REG, IQERR_REG
from pasidlab.hardware.layouts.vtd_control import CCMD_REG, GCMD_REG
from pasidlab.hardware.layouts.vtd_queue import QI_WAIT
from pasidlab.hardware.memory import PAGE_SHIFT, Memory
from pasidlab.hardware.pcie import PageGroupResponse, PageRequest
from pasidlab.timeline import Actor, Verb

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = [
    "CAP",
    "CCMD",
    "ECAP",
    "FECTL",
    "FSTS",
    "GCMD",
    "GCMD_QIE",
    "GCMD_SRTP",
    "GCMD_TE",
    "GSTS",
    "ICS",
    "IECTL",
    "IQA",
    "IQERR",
    "IQH",
    "IQT",
    "PECTL",
    "PRS",
    "RTADDR",
    "VER",
    "VtdRegisters",
]

_WORD = (1 << 64) - 1
_HALF = 0xFFFF_FFFF
_IQE, _ICE, _ITE = (FSTS_REG[name].mask for name in ("IQE", "ICE", "ITE"))
_EXPLAINED = ((_IQE, "IQEI"), (_ICE, "ICESID"), (_ITE, "ITESID"))
"""Status bits, and the field of IQERR that explains each."""
_IRE = GCMD_REG["IRE"].mask
_SIRTP = GCMD_REG["SIRTP"].mask
_FOLLOWED = GCMD_TE | GCMD_QIE | _IRE | GCMD_REG["CFI"].mask
"""GSTS shows these bits of GCMD as last written; SRTP and SIRTP stay set once they were; WBF is over at once."""
_LAST_MAJOR_WITH_CCMD = 5


class VtdRegisters(Actor, state=("root_pointer", "unanswered")):
    """A register block in front of ``memory``, from which descriptors and tables are read. It is an MMIO target.

    ``root_pointer`` is RTADDR as it was when GCMD.SRTP was last written; ``unanswered`` the requester ID of a device
    that did not answer an invalidation, until the queue notices.

    >>> from pasidlab.hardware.memory import PhysicalMemory
    >>> from pasidlab.timeline import Timeline
    >>> time = Timeline()
    >>> unit = VtdRegisters(time, "unit", "hardware", PhysicalMemory(time, "ram", 1 << 20), VtdIdentity())
    >>> unit.mmio_write(0x20, 0x5400); unit.mmio_write(0x18, 1 << 30, 4)
    >>> hex(unit.mmio_read(0x1c, 4)), hex(unit.root_pointer)
    ('0x40000000', '0x5400')
    """

    actor = "iommu unit"

    def __init__(self, timeline: Timeline, path: str, altitude: str, memory: Memory, identity: VtdIdentity) -> None:
        super().__init__(timeline, path, altitude)
        self.memory = memory
        self.identity = identity
        self.rules = VtdRules(identity)
        self.root_pointer = 0
        self.unanswered: int | None = None
        self.registers = RegisterFile(timeline, path, register_rows(identity) | FaultLog.rows(identity))
        self.events = Events(self.registers, self._interrupt)
        self.page_queue = PageQueue(self.registers, memory)
        self.reading = VtdReading(self)
        self.faults = FaultLog(timeline, f"{path}.faults", self.registers, identity, self.events.fault)
        self._fixed = {VER: identity.ver, CAP: identity.cap(), ECAP: identity.ecap()}
        if identity.vcs:
            self._fixed[identity.vcmd.vccap] = 1

    # --- what software sees ---------------------------------------------------------------------------------------

    @property
    def translation_enabled(self) -> bool:
        """GSTS.TES: requests are translated."""
        return bool(self.registers[GCMD] >> 63)

    @property
    def queue_enabled(self) -> bool:
        """GSTS.QIES: the invalidation queue runs."""
        return bool(self.registers.get32(GSTS) & GCMD_QIE)

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
        word = value << shift & lanes
        cleared = self.registers.store(aligned, word, lanes)
        if cleared:
            self._status_cleared(aligned, cleared >> 32)
        elif aligned == CCMD and lanes >> 63:
            self._context_commanded()
        elif lanes & 1:
            self._lower_half_written(aligned, word & _HALF)

    def _lower_half_written(self, aligned: int, word: int) -> None:
        """The registers that act when they are written."""
        if aligned == GCMD:
            self._global_command(word)
        elif aligned == IQT:
            self._run_queue()
        elif aligned in self.events.by_control:
            self.events.by_control[aligned].settle()
        elif self.identity.vcs and aligned == self.identity.vcmd.vcmd:
            self._start_virtual_command()

    def _status_cleared(self, aligned: int, bits: int) -> None:
        """Software cleared status bits, or fault records: what was pending for them is over."""
        queue_stopped = aligned == FSTS & ~7 and bits & (_IQE | _ITE)
        if aligned == FSTS & ~7:
            over = {field: 0 for bit, field in _EXPLAINED if bits & bit}
            self.registers[IQERR] = IQERR_REG.change((self.registers[IQERR],), **over)[0]
        elif aligned + 4 not in self.events.by_status:
            self.faults.settle()
        self.events.by_status.get(aligned + 4, self.events.fault).served()
        if queue_stopped:
            self._run_queue()

    def post64(self, offset: int, data: bytes) -> None:
        """There is no 64-byte register: the store is dropped."""

    def enqueue64(self, offset: int, data: bytes) -> bool:
        """There is no enqueue register: retry."""
        return False

    def find_pasid_entry(self, rid: int, pasid: int | None) -> PasidLookup:
        """The PASID entry that the tables behind the latched root pointer hold for ``rid`` and ``pasid``."""
        return find_pasid_entry(self._lookup(), rid, pasid)

    def _lookup(self) -> Lookup:
        """The way into the tables behind the latched root pointer, without any cache."""
        return Lookup(self.memory, self.root_pointer, self.rules)

    def page_request(self, request: PageRequest) -> None:
        """Write a page request into the queue for software, and interrupt."""
        before = self.registers.get32(PRS)
        queued = self.page_queue.put(request)
        facts = {"rid": request.rid, "pasid": request.pasid, "address": request.address, "group": request.group}
        self.emit(Verb.PAGE_REQUEST, str(request), after="queued" if queued else "dropped: the queue is full", **facts)
        self.events.page_request.changed(before)
        if not queued:
            self._page_request_dropped(request)

    def tell_response(self, response: PageGroupResponse) -> None:
        """Emit the event of an answer to a device."""
        facts = {"rid": response.rid, "pasid": response.pasid, "group": response.group, "code": response.code}
        self.emit(Verb.PAGE_RESPONSE, str(response), **facts)

    # --- hooks ----------------------------------------------------------------------------------------------------

    def _interrupt(self, address: int, data: int) -> None:
        """An interrupt message leaves the unit."""

    def _page_request_dropped(self, request: PageRequest) -> None:
        """A page request found no room in the queue."""

    def _root_table_set(self) -> None:
        """A new root table took effect."""

    def _invalidate(self, descriptor: Descriptor) -> None:
        """An invalidation descriptor (any type but wait) arrived; the queue goes on when this returns."""

    def _context_command(self, granularity: int, did: int, sid: int, function_mask: int) -> int:
        """Invalidate context entries (CCMD): 1 all, 2 a domain's, 3 a device's; returns what was done (1 to 3)."""
        return granularity

    def _translation_switched(self) -> None:
        """TE rose or fell; when it falls a unit in scalable mode forgets what it keeps (specification 11.4.4.1)."""

    def _virtual_command(self, command: int, operand: int) -> tuple[int, int]:
        """Carry out a virtual command; returns status code and result. Here: no command is known."""
        return self.identity.vcmd.undefined, 0

    # --- global command -------------------------------------------------------------------------------------------

    def _global_command(self, command: int) -> None:
        command &= self._commands
        before = self.registers.get32(GSTS)
        status = before & ~_FOLLOWED | command & (_FOLLOWED | GCMD_SRTP | _SIRTP)
        if command & GCMD_SRTP:
            self.root_pointer = self.registers[RTADDR]
        self.registers.set32(GSTS, status)
        if not status & (GCMD_TE | _IRE):
            self.faults.restart()
        if (before ^ status) & GCMD_TE:
            self._translation_switched()
        if (before ^ status) & GCMD_QIE:
            self._queue_switched()
        if command & GCMD_SRTP:
            self._root_table_set()

    @property
    def _commands(self) -> int:
        """The bits of GCMD that this unit has."""
        card, bits = self.identity, GCMD_TE | GCMD_SRTP
        if card.qi:
            bits |= GCMD_QIE
        if card.ir:
            bits |= _IRE | _SIRTP | GCMD_REG["CFI"].mask
        return bits | (GCMD_REG["WBF"].mask if card.rwbf else 0)

    def _context_commanded(self) -> None:
        """Register-based invalidation: not while the queue runs, not in scalable mode, not from version 6 on."""
        command = CCMD_REG.decode((self.registers[CCMD],))
        if not command["ICC"]:
            return
        usable = not self.queue_enabled and not self.root_pointer >> 10 & 3
        done = 0
        if command["CIRG"] and usable and self.identity.ver >> 4 <= _LAST_MAJOR_WITH_CCMD:
            done = self._context_command(command["CIRG"], command["DID"], command["SID"], command["FM"])
        self.registers[CCMD] = CCMD_REG.change((self.registers[CCMD],), ICC=0, CAIG=done)[0]

    # --- invalidation queue ---------------------------------------------------------------------------------------

    def _queue_switched(self) -> None:
        if self.queue_enabled:
            self._run_queue()
        else:
            self.registers[IQH] = 0

    def _run_queue(self) -> None:
        """Take descriptors from IQH to IQT, until the queue is empty or stops at an error."""
        queue = (self.registers[IQA],)
        width = 32 if IQA_REG["DW"].get(queue) else 16
        size = 1 << PAGE_SHIFT + IQA_REG["QS"].get(queue)
        base = IQA_REG["IQA"].get(queue)
        while self.queue_enabled and not self.registers.get32(FSTS) & (_IQE | _ITE):
            head, tail = self.registers[IQH], self.registers[IQT]
            if head == tail:
                self._notice_silence()
                return
            if width == 32 and not (self.identity.smts or self.identity.adms):
                self._stop_queue(QueueError.INVALID_WIDTH)
            elif max(head, tail) >= size or tail % width or head % width:
                self._stop_queue(QueueError.TAIL_NOT_ALIGNED if tail % width else QueueError.INVALID_TAIL)
            else:
                self._take(base, head, width, size)

    def _take(self, base: int, head: int, width: int, size: int) -> None:
        """Fetch and carry out a descriptor. The head moves in between: what it causes may ring the bell again."""
        try:
            words = self.memory.load_words(base + head, width // 8)
        except BusError:
            self._stop_queue(QueueError.CANNOT_READ)
            return
        descriptor = decode_descriptor(words, self.identity)
        if isinstance(descriptor, QueueError):
            self._stop_queue(descriptor)
            return
        self.registers[IQH] = (head + width) % size
        if descriptor.layout is not QI_WAIT:
            self._invalidate(descriptor)
        elif not self._wait(descriptor):
            self.registers[IQH] = head

    def _wait(self, descriptor: Descriptor) -> bool:
        """All earlier descriptors are done (nothing is in flight here): say so, unless a device kept silent."""
        if self._notice_silence():
            return True
        if descriptor.field("SW"):
            try:
                self.memory.store32(descriptor.field("STADDR"), descriptor.field("STDATA"))
            except BusError:
                return self._stop_queue(QueueError.UNKNOWN)
        if descriptor.field("IF"):
            before = self.registers.get32(ICS)
            self.registers.set32(ICS, 1)
            self.events.completion.changed(before)
        return True

    def _time_out(self, rid: int) -> None:
        """A device did not answer an invalidation; the next wait descriptor suffers for it."""
        self.unanswered = rid

    def _bad_completion(self, rid: int) -> None:
        """A device answered an invalidation that nobody sent, or wrongly: ICE; the queue goes on."""
        self._queue_status(_ICE, ICESID=rid)

    def _notice_silence(self) -> bool:
        """Report a device that did not answer, if there is one: ITE."""
        if self.unanswered is None:
            return False
        self._queue_status(_ITE, ITESID=self.unanswered)
        self.unanswered = None
        return True

    def _stop_queue(self, error: QueueError) -> bool:
        self._queue_status(_IQE, IQEI=error)
        return False

    def _queue_status(self, bit: int, **explanation: int) -> None:
        """Set a status bit of the queue; what it explains is kept if the bit was set before."""
        before = self.registers.get32(FSTS)
        if not before & bit:
            self.registers[IQERR] = IQERR_REG.change((self.registers[IQERR],), **explanation)[0]
        self.registers.set32(FSTS, before | bit)
        self.events.fault.changed(before)

    # --- virtual commands -----------------------------------------------------------------------------------------

    def _start_virtual_command(self) -> None:
        """VCRSP.IP is 1 while the command runs; status and result appear together."""
        vcmd = self.identity.vcmd
        words = (self.registers[vcmd.vcmd],)
        self.registers[vcmd.vcrsp] = vcmd.response["IP"].mask
        status, result = self._virtual_command(vcmd.command["CMD"].get(words), vcmd.command["PASID"].get(words))
        self.registers[vcmd.vcrsp] = vcmd.answer(status, result)
