"""The register block of a VT-d unit: what silicon and a hypervisor's emulated unit do alike when software writes.

Models GCMD/GSTS, RTADDR, the invalidation queue (IQA, IQH, IQT), FSTS with the fault records, and the virtual
commands. Follows Linux 6.1 ``drivers/iommu/intel/iommu.c`` and ``dmar.c`` (what the driver expects) and QEMU's
intel_iommu.c. What differs between silicon and emulation hangs on three hooks: the root table was set, an
invalidation descriptor arrived, a virtual command arrived.

Everything happens within the store that asks for it. A 64-bit register that is written in halves acts when its lower
half is. UNVERIFIED: IQH returns to 0 when the queue is disabled; a STADDR or queue that no memory answers for stops
the queue. Left out: interrupts (FECTL and the like only keep their values), page request queue processing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import BusError
from pasidlab.hardware.iommu.vtd.fault_log import FaultLog
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.invalidation import Descriptor, QueueError, decode_descriptor
from pasidlab.hardware.iommu.vtd.register_file import (
    CAP,
    ECAP,
    FSTS,
    GCMD,
    GCMD_QIE,
    GCMD_SRTP,
    GCMD_TE,
    GSTS,
    ICS,
    IQA,
    IQERR,
    IQH,
    IQT,
    RTADDR,
    VER,
    Register,
    RegisterFile,
)
from pasidlab.hardware.iommu.vtd.rules import VtdRules
from pasidlab.hardware.iommu.vtd.tables import PasidLookup, find_pasid_entry
from pasidlab.hardware.layouts.vtd import FSTS_REG, IQA_REG, IQERR_REG
from pasidlab.hardware.layouts.vtd_queue import QI_WAIT
from pasidlab.hardware.memory import PAGE_SHIFT, Memory
from pasidlab.timeline import Actor

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = [
    "CAP",
    "ECAP",
    "FSTS",
    "GCMD",
    "GCMD_QIE",
    "GCMD_SRTP",
    "GCMD_TE",
    "GSTS",
    "ICS",
    "IQA",
    "IQERR",
    "IQH",
    "IQT",
    "RTADDR",
    "VER",
    "VtdRegisters",
]

_VERSION = 0x40
_WORD = (1 << 64) - 1
_IQE = FSTS_REG["IQE"].mask
_FOLLOWED = GCMD_TE | GCMD_QIE | 1 << 25 | 1 << 23  # GSTS shows these bits of GCMD: TE, QIE, IRE, CFI


class VtdRegisters(Actor, state=("root_pointer",)):
    """A register block in front of ``memory``, from which descriptors and tables are read. It is an MMIO target.

    ``root_pointer`` is RTADDR as it was when GCMD.SRTP was last written.

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
        self.registers = RegisterFile(timeline, path, self._own_rows())
        self.faults = FaultLog(timeline, f"{path}.faults", self.registers, identity)
        self._fixed = {VER: _VERSION, CAP: identity.cap(), ECAP: identity.ecap()}
        if identity.vcs:
            self._fixed[identity.vcmd.vccap] = 1

    def _own_rows(self) -> dict[int, Register]:
        """The registers whose place depends on the identity card."""
        rows = FaultLog.rows(self.identity)
        if self.identity.vcs:
            vcmd = self.identity.vcmd
            rows |= {vcmd.vcmd: Register("VCMD", _WORD), vcmd.vcrsp: Register("VCRSP")}
        return rows

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
        word = self._fixed.get(offset & ~7)
        if word is None:
            word = self.registers[offset & ~7]
        return word if size == 8 else word >> 8 * (offset & 4) & 0xFFFF_FFFF

    def mmio_write(self, offset: int, value: int, size: int = 8) -> None:
        """Store 4 or 8 bytes; read-only bits and offsets without a register ignore it."""
        aligned, shift = offset & ~7, 0 if size == 8 else 8 * (offset & 4)
        lanes = _WORD if size == 8 else 0xFFFF_FFFF << shift
        word = value << shift & lanes
        cleared = self.registers.store(aligned, word, lanes)
        if aligned == GCMD and lanes & 1:
            self._global_command(word & 0xFFFF_FFFF)
        elif aligned == IQT and lanes & 1:
            self._run_queue()
        elif aligned == FSTS & ~7 and cleared & _IQE << 32:
            self.registers[IQERR] = 0
            self._run_queue()
        elif self.identity.vcs and aligned == self.identity.vcmd.vcmd and lanes & 1:
            self._start_virtual_command()
        elif cleared:
            self.faults.settle()

    def post64(self, offset: int, data: bytes) -> None:
        """There is no 64-byte register: the store is dropped."""

    def enqueue64(self, offset: int, data: bytes) -> bool:
        """There is no enqueue register: retry."""
        return False

    def find_pasid_entry(self, rid: int, pasid: int | None) -> PasidLookup:
        """The PASID entry that the tables behind the latched root pointer hold for ``rid`` and ``pasid``."""
        return find_pasid_entry(self.memory, self.root_pointer, self.rules, rid, pasid)

    # --- hooks ----------------------------------------------------------------------------------------------------

    def _root_table_set(self) -> None:
        """A new root table took effect."""

    def _invalidate(self, descriptor: Descriptor) -> None:
        """An invalidation descriptor (any type but wait) arrived; the queue goes on when this returns."""

    def _virtual_command(self, command: int, operand: int) -> tuple[int, int]:
        """Carry out a virtual command; returns status code and result. Here: no command is known."""
        return self.identity.vcmd.undefined, 0

    # --- global command -------------------------------------------------------------------------------------------

    def _global_command(self, command: int) -> None:
        status = self.registers.get32(GSTS)
        changed = (status ^ command) & _FOLLOWED
        status = status & ~_FOLLOWED | command & (_FOLLOWED | GCMD_SRTP)
        if command & GCMD_SRTP:
            self.root_pointer = self.registers[RTADDR]
        self.registers.set32(GSTS, status)
        if changed & GCMD_QIE:
            self._queue_switched()
        if command & GCMD_SRTP:
            self._root_table_set()

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
        while self.queue_enabled and not self.registers.get32(FSTS) & _IQE:
            head, tail = self.registers[IQH], self.registers[IQT]
            if max(head, tail) >= size or tail % width or head % width:
                self._stop_queue(QueueError.TAIL_NOT_ALIGNED if tail % width else QueueError.INVALID_TAIL)
            elif head == tail:
                return
            elif self._take(base + head, width):
                self.registers[IQH] = (head + width) % size

    def _take(self, address: int, width: int) -> bool:
        """Carry out the descriptor at ``address``; ``False`` when the queue has stopped at it."""
        try:
            words = self.memory.load_words(address, width // 8)
        except BusError:
            return self._stop_queue(QueueError.CANNOT_READ)
        descriptor = decode_descriptor(words)
        if isinstance(descriptor, QueueError):
            return self._stop_queue(descriptor)
        if descriptor.layout is QI_WAIT:
            return self._wait(descriptor)
        self._invalidate(descriptor)
        return True

    def _wait(self, descriptor: Descriptor) -> bool:
        """All earlier descriptors are done (nothing is in flight here): say so."""
        if descriptor.field("SW"):
            try:
                self.memory.store32(descriptor.field("STADDR"), descriptor.field("STDATA"))
            except BusError:
                return self._stop_queue(QueueError.UNKNOWN)
        if descriptor.field("IF"):
            self.registers.set32(ICS, 1)
        return True

    def _stop_queue(self, error: QueueError) -> bool:
        self.registers[IQERR] = IQERR_REG.encode(IQEI=error)[0]
        self.registers.set32(FSTS, self.registers.get32(FSTS) | _IQE)
        return False

    # --- virtual commands -----------------------------------------------------------------------------------------

    def _start_virtual_command(self) -> None:
        """VCRSP.IP is 1 while the command runs; status and result appear together."""
        vcmd = self.identity.vcmd
        words = (self.registers[vcmd.vcmd],)
        self.registers[vcmd.vcrsp] = vcmd.response["IP"].mask
        status, result = self._virtual_command(vcmd.command["CMD"].get(words), vcmd.command["PASID"].get(words))
        self.registers[vcmd.vcrsp] = vcmd.answer(status, result)
