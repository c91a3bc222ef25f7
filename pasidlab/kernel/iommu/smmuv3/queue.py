"""How the driver talks to the unit: commands in a ring in memory, and a CMD_SYNC to know that they are done.

Models ``arm_smmu_cmdq_build_cmd``, ``arm_smmu_cmdq_issue_cmdlist``, ``__arm_smmu_tlb_inv_range``,
``arm_smmu_atc_inv_to_cmd`` and ``__arm_smmu_cmdq_skip_err`` of Linux 6.1. The unit moves CONS past what it has done; a
CMD_SYNC at the end of each batch is passed when all before it is finished. (Linux lets the CMD_SYNC write a message, or
polls CONS: here always the latter.)

A command that the unit stops at is turned into a CMD_SYNC and skipped, as Linux does it, so that nobody else's commands
wait behind it; whoever gave it gets ``-EIO``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.smmuv3 import register_file as reg
from pasidlab.hardware.layouts.smmu import GERROR_REG, QUEUE_BASE_REG
from pasidlab.hardware.layouts.smmu_queue import (
    CMD_ATC_INV,
    CMD_CFGI_ALL,
    CMD_CFGI_CD,
    CMD_CFGI_CD_ALL,
    CMD_CFGI_STE,
    CMD_PRI_RESP,
    CMD_RESUME,
    CMD_SYNC,
    CMD_TLBI_NH_ALL,
    CMD_TLBI_NH_ASID,
    CMD_TLBI_NH_VA,
    CMD_TLBI_NSNH_ALL,
    CMD_TLBI_S12_VMALL,
    COMMANDS,
)
from pasidlab.hardware.memory import PAGE_SHIFT, PAGE_SIZE
from pasidlab.hardware.pcie import ResponseCode
from pasidlab.timeline import Actor, Verb

if TYPE_CHECKING:
    from pasidlab.hardware.bits import Layout
    from pasidlab.hardware.pcie import PageGroupResponse
    from pasidlab.kernel.iommu.smmuv3.capabilities import Capabilities
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["ALL_PAGES", "EVERYWHERE", "CommandQueue", "Span", "Words", "encode", "span"]

Words = tuple[int, ...]
_OPCODES: Final = {layout.name: opcode for opcode, layout in COMMANDS}
_ALL_STREAMS: Final = 31
ALL_PAGES: Final = 52
"""CMD_ATC_INV.SIZE for the whole address space."""
_MOST_PAGES: Final = 512
"""Without ranges: from how many pages on all of the ASID is forgotten (CMDQ_MAX_TLBI_OPS of Linux 6.6)."""
_LARGEST_NUM: Final = 31
_RANGES_OF_4K: Final = 1
_FAILURE, _INVALID, _SUCCESS = 0, 1, 2
"""CMD_PRI_RESP.RESP by the specification (4.5.2), as it goes onto the bus. Linux (and the facts) call 0 "deny" and 1
"failure"; it is 0 that stops the page request interface of the device.
"""
_PRI_ANSWERS: Final = {
    ResponseCode.SUCCESS: _SUCCESS,
    ResponseCode.INVALID: _INVALID,
    ResponseCode.FAILURE: _FAILURE,
}
_RETRY: Final = 1
_ABORT: Final = 2
_ERRORS: Final = {1: "Illegal command", 2: "Abort on command fetch", 3: "ATC invalidate timeout"}
_ILLEGAL: Final = 1
_CMDQ_ERR: Final = GERROR_REG["CMDQ_ERR"].mask
_ERR_SHIFT: Final = 24
_TRIES: Final = 8
"""How often one batch may stop before the driver gives up."""


class Span(NamedTuple):
    """What a CMD_ATC_INV names: 2^``size`` pages from ``start`` on."""

    start: int
    size: int


EVERYWHERE: Final = Span(0, ALL_PAGES)


def encode(layout: Layout, **fields: int) -> Words:
    """A command with its opcode.

    >>> [hex(word) for word in encode(CMD_TLBI_NH_ASID, ASID=5)]
    ['0x5000000000011', '0x0']
    """
    return layout.encode(OP=_OPCODES[layout.name], **fields)


def span(start: int, size: int) -> Span:
    """The smallest naturally aligned power of two of pages around some bytes (``arm_smmu_atc_inv_to_cmd``).

    >>> span(0x7000, 0x4000), span(0x8000, 0x1000)
    (Span(start=0, size=4), Span(start=32768, size=0))
    """
    first, last = start >> PAGE_SHIFT, start + size - 1 >> PAGE_SHIFT
    order = (first ^ last).bit_length()
    return Span(first >> order << order + PAGE_SHIFT, order)


class CommandQueue(Actor, state=("_tail",)):
    """The driver's end of one unit's command queue. ``_tail`` is PROD with its wrap bit."""

    actor = "iommu"

    def __init__(self, platform: Platform, pages: PageAllocator, unit: Capabilities) -> None:
        super().__init__(platform.timeline, f"{platform.altitude}.iommu.queue", platform.altitude)
        self._memory = platform.memory
        self._mmio = platform.mmio
        self._base = platform.iommu.base
        self._unit = unit
        self._bits = unit.commands
        size = CMD_SYNC.size << self._bits
        self._ring = pages.alloc_run((size + PAGE_SIZE - 1) >> PAGE_SHIFT)
        self._tail = 0
        at = QUEUE_BASE_REG.encode(LOG2SIZE=self._bits, ADDR=self._ring, RWA=1)[0]
        self._mmio.write(self._base + reg.CMDQ_BASE, at)
        for index in (reg.CMDQ_PROD, reg.CMDQ_CONS):
            self._mmio.write(self._base + index, 0, 4)

    # --- commands -----------------------------------------------------------------------------------------------------

    @staticmethod
    def everything() -> tuple[Words, ...]:
        """Forget all configuration and all translations."""
        return (encode(CMD_CFGI_ALL, range=_ALL_STREAMS), encode(CMD_TLBI_NSNH_ALL))

    @staticmethod
    def stream(rid: int, *, leaf: bool = True) -> Words:
        """Forget the stream table entry of a device; without ``leaf`` also the descriptor above it."""
        return encode(CMD_CFGI_STE, SID=rid, leaf=int(leaf))

    @staticmethod
    def context(rid: int, pasid: int, *, leaf: bool = True) -> Words:
        """Forget one context descriptor; without ``leaf`` also the word that names its leaf."""
        return encode(CMD_CFGI_CD, SID=rid, SSID=pasid, leaf=int(leaf))

    @staticmethod
    def contexts(rid: int) -> Words:
        """Forget every context descriptor of a device."""
        return encode(CMD_CFGI_CD_ALL, SID=rid)

    @staticmethod
    def address_space(asid: int, vmid: int = 0) -> Words:
        """Forget every translation of an ASID."""
        return encode(CMD_TLBI_NH_ASID, ASID=asid, VMID=vmid)

    @staticmethod
    def first_stage(vmid: int) -> Words:
        """Forget every translation of a VMID that stage 1 has a part in."""
        return encode(CMD_TLBI_NH_ALL, VMID=vmid)

    @staticmethod
    def machine(vmid: int) -> Words:
        """Forget every translation of a VMID, of both stages."""
        return encode(CMD_TLBI_S12_VMALL, VMID=vmid)

    def pages(self, asid: int, start: int, count: int) -> list[Words]:
        """Forget ``count`` pages from ``start`` on: by range where the unit can, otherwise page by page.

        A range with NUM, SCALE and TTL of zero is reserved, so that a lone page is flushed with its neighbour, as
        6.1.192 does.
        """
        if not self._unit.ranges:
            if count >= _MOST_PAGES:
                return [self.address_space(asid)]
            pages = range(start, start + count * PAGE_SIZE, PAGE_SIZE)
            return [encode(CMD_TLBI_NH_VA, ASID=asid, addr=page) for page in pages]
        found, left, at = [], count + (count & _LARGEST_NUM == 1), start
        while left:
            scale = (left & -left).bit_length() - 1
            number = left >> scale & _LARGEST_NUM
            size = {"NUM": number - 1, "SCALE": scale, "TG": _RANGES_OF_4K}
            found.append(encode(CMD_TLBI_NH_VA, ASID=asid, addr=at, **size))
            left -= number << scale
            at += number << scale + PAGE_SHIFT
        return found

    @staticmethod
    def device_tlb(rid: int, pasid: int | None, where: Span = EVERYWHERE) -> Words:
        """Let a device forget some pages of one PASID; ``None``: of all PASIDs, and those without one."""
        whose = {} if pasid is None else {"SSV": 1, "SSID": pasid}
        return encode(CMD_ATC_INV, SID=rid, SIZE=where.size, ADDR=where.start, **whose)

    @staticmethod
    def page_response(response: PageGroupResponse) -> Words:
        """Answer a group of page requests (PRI). (Linux answers with "deny" only; see :mod:`.page_ring`.)"""
        whose = {} if response.pasid is None else {"SSV": 1, "SSID": response.pasid}
        answer = _PRI_ANSWERS[ResponseCode(response.code)]
        return encode(CMD_PRI_RESP, SID=response.rid, GRPID=response.group, RESP=answer, **whose)

    @staticmethod
    def resume(rid: int, tag: int, *, retry: bool) -> Words:
        """Let a held transaction be tried again, or end it with an abort."""
        return encode(CMD_RESUME, SID=rid, STAG=tag, RESP=_RETRY if retry else _ABORT)

    # --- submission ---------------------------------------------------------------------------------------------------

    def submit(self, *commands: Words) -> None:
        """Hand commands to the unit, in batches, and wait until they are done; ``-EIO`` if it stopped at one."""
        room = (1 << self._bits) - 1
        stopped = [
            why
            for at in range(0, len(commands), room)
            if (why := self._batch((*commands[at : at + room], encode(CMD_SYNC))))
        ]
        if stopped:
            raise KernelError("EIO", f"the IOMMU did not complete a command: {stopped[0]}")

    def _batch(self, commands: tuple[Words, ...]) -> str:
        """Write a batch and ring the bell; why the unit stopped, or nothing."""
        for words in commands:
            self._memory.store_words(self._slot(self._tail), words)
            self._tail = self._tail + 1 & (2 << self._bits) - 1
        self._write(reg.CMDQ_PROD, self._tail)
        stopped = ""
        for _ in range(_TRIES):
            if not self._stopped():
                break
            stopped = self._skip() or stopped
        return stopped or ("" if self._read(reg.CMDQ_CONS) & (2 << self._bits) - 1 == self._tail else "it stands still")

    def _stopped(self) -> bool:
        return bool((self._read(reg.GERROR) ^ self._read(reg.GERRORN)) & _CMDQ_ERR)

    def _skip(self) -> str:
        """The unit stopped at a command: say so, replace an illegal one, and let the unit go on."""
        cons = self._read(reg.CMDQ_CONS)
        code = cons >> _ERR_SHIFT & 0x7F
        words = _ERRORS.get(code, "Unknown")
        self.emit(Verb.HANDLE, f"CMDQ error (cons {cons:#010x}): {words}", code=code)
        if code == _ILLEGAL:
            self._memory.store_words(self._slot(cons), encode(CMD_SYNC))
        self._write(reg.GERRORN, self._read(reg.GERRORN) ^ _CMDQ_ERR)
        return words

    def _slot(self, index: int) -> int:
        return self._ring + (index & (1 << self._bits) - 1) * CMD_SYNC.size

    def _read(self, register: int) -> int:
        return self._mmio.read(self._base + register, 4)

    def _write(self, register: int, value: int) -> None:
        self._mmio.write(self._base + register, value, 4)
