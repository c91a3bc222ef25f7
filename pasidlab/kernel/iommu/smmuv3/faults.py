"""The driver's handler of the event queue: what the unit recorded becomes lines in the kernel's log, or somebody's
work.

Models ``arm_smmu_evtq_thread``, ``arm_smmu_handle_evt`` and, for the words, ``arm_smmu_dump_event`` of Linux (since
6.15; before there were the raw words only, as they still come first). An event goes one of three ways:

* a transaction that is held waits for software: it is served like a page request (:mod:`.page_ring`), if the device
  is one that bears it (``master->stall_enabled``);
* a fault of stage 1 on a device whose table is a guest's own (and what is wrong with that table) is told to the
  hypervisor (``arm_vmaster_report_event``, 6.15);
* everything else is printed: five lines and one or two that say it in words, as one entry of the log.

The unit writes on only while there is room, so somebody has to read; the machine delivers the interrupt at the end of
each operation. Left out: the limit on how often lines are printed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.cpu import INTERRUPT_BASE
from pasidlab.hardware.iommu.smmuv3 import register_file as reg
from pasidlab.hardware.iommu.smmuv3.faults import SmmuEvent
from pasidlab.hardware.layouts.smmu import QUEUE_BASE_REG
from pasidlab.hardware.layouts.smmu_queue import EVENT, EVENT_FETCH
from pasidlab.hardware.memory import PAGE_SHIFT, PAGE_SIZE
from pasidlab.hardware.pcie import format_rid
from pasidlab.timeline import Actor, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.smmuv3.driver import SmmuDriver
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["GUESTS_AFFAIR", "OVERFLOW", "SmmuFaultHandler", "log_lines"]

_KEEP: Final = 256
_VECTOR: Final = 0x32
OVERFLOW: Final = 1 << 31
"""Of PROD and CONS: entries were lost while they differ."""
_NAME: Final = "arm-smmu-v3 arm-smmu-v3.0.auto"
_UNNAMED: Final = ("F_UUT", "F_BAD_ATS_TREQ", "F_TRANSL_FORBIDDEN", "F_WALK_EABT", "F_TLB_CONFLICT", "F_CFG_CONFLICT")
_NAMED: Final = {int(event): event.name for event in SmmuEvent if event.name not in (*_UNNAMED, "E_PAGE_REQUEST")}
"""Events whose names the kernel knows."""
_TRANSLATION: Final = range(SmmuEvent.F_TRANSLATION, SmmuEvent.F_PERMISSION + 1)
_FETCHES: Final = (SmmuEvent.F_STE_FETCH, SmmuEvent.F_CD_FETCH, SmmuEvent.F_VMS_FETCH)
_CLASSES: Final = ("CD fetch", "Stage 1 translation table fetch", "Input address caused fault", "Reserved")
_TABLE_FETCH: Final = 1
GUESTS_AFFAIR: Final = frozenset(
    {
        *(SmmuEvent.C_BAD_STE, SmmuEvent.F_STREAM_DISABLED, SmmuEvent.C_BAD_SUBSTREAMID, SmmuEvent.C_BAD_CD),
        *_TRANSLATION,
    }
)
"""Events of stage 1 that concern whoever wrote the tables, as Linux sorts them; any other one is the kernel's own."""


def log_lines(words: tuple[int, ...], client: str | None) -> list[str]:
    """What the kernel prints of a record; ``client`` is the name of the device, if it knows it.

    >>> print("\\n".join(log_lines((0x6A0800005810, 0x20800000000, 0x50, 0), "0000:6a:01.0")[5:]))
    arm-smmu-v3 arm-smmu-v3.0.auto: event: F_TRANSLATION client: 0000:6a:01.0 sid: 0x6a08 ssid: 0x5 iova: 0x50 ipa: 0x0
    arm-smmu-v3 arm-smmu-v3.0.auto: unpriv data read s1 "Input address caused fault" stag: 0x0
    """
    at = EVENT.decode(words)
    lines = [f"event {at['ID']:#04x} received:", *(f"\t{word:#018x}" for word in words)]
    ssid = at["SSID"] if at["SSV"] else 0
    who = client if client is not None else "(unassigned sid)"
    told = f"event: {_NAMED.get(at['ID'], 'UNKNOWN')} client: {who} sid: {at['SID']:#x} ssid: {ssid:#x}"
    if at["ID"] in _TRANSLATION:
        lines += [f"{told} iova: {at['addr']:#x} ipa: {at['IPA']:#x}", _access(at)]
    elif at["ID"] in _FETCHES:
        lines.append(f"{told} fetch_addr: {EVENT_FETCH['FetchAddr'].get(words):#x}")
    else:
        lines.append(told)
    return [f"{_NAME}: {line}" for line in lines]


def _access(at: dict[str, int]) -> str:
    """How the address was accessed, and what the unit was reading."""
    kind = f"{'priv' if at['PnU'] else 'unpriv'} {'inst' if at['InD'] else 'data'} {'read' if at['RnW'] else 'write'}"
    where = f'{"s2" if at["S2"] else "s1"} "{_CLASSES[at["CLASS"]]}"'
    table = ""
    if at["ID"] == SmmuEvent.F_PERMISSION and at["CLASS"] == _TABLE_FETCH:
        table = " ttd_read" if at["TTRnW"] else " ttd_write"
    return f"{kind} {where}{table}{' stall' if at['STALL'] else ''} stag: {at['STAG']:#x}"


class SmmuFaultHandler(Actor, state=("_count", "_held")):
    """The driver's end of the event queue. ``log`` holds the newest entries by running number, ``held`` the records of
    held transactions that nobody has taken yet.
    """

    actor = "iommu"

    def __init__(self, driver: SmmuDriver, platform: Platform, pages: PageAllocator) -> None:
        super().__init__(platform.timeline, f"{platform.altitude}.iommu.faults", platform.altitude)
        self._driver = driver
        self._memory = platform.memory
        self._mmio = platform.mmio
        self._apic = platform.apic
        self._base = platform.iommu.base
        self._bits = driver.unit.events
        self._ring = pages.alloc_run((EVENT.size << self._bits) + PAGE_SIZE - 1 >> PAGE_SHIFT)
        self.log = Table[int, str](self.timeline, f"{self.path}.log")
        self.held = Table[int, tuple[int, ...]](self.timeline, f"{self.path}.held")
        self._count = 0
        self._held = 0

    def enable(self) -> None:
        """Tell the unit where the queue is, and whom to interrupt."""
        at = QUEUE_BASE_REG.encode(LOG2SIZE=self._bits, ADDR=self._ring, RWA=1)[0]
        self._mmio.write(self._base + reg.EVTQ_BASE, at)
        for index in (reg.EVTQ_PROD, reg.EVTQ_CONS):
            self._write(index, 0)
        self._apic.handlers[_VECTOR] = self
        self._mmio.write(self._base + reg.EVTQ_IRQ_CFG0, INTERRUPT_BASE)
        self._write(reg.EVTQ_IRQ_CFG0 + 8, _VECTOR)

    def interrupt(self) -> None:
        """The queue has entries. Where devices can be held one may wait for an answer, which the thread will give."""
        if any(device.stall for device in self._driver.devices.values()):
            self._driver.page_requests.interrupt()

    def service(self) -> None:
        """Read the queue to its end, do with each record what is to be done, and wake the thread for what is held."""
        self._read_queue()
        if len(self.held):
            self._driver.page_requests.interrupt()

    def _read_queue(self) -> None:
        while (words := self._next()) is not None:
            self._handle(words)
        prod, cons = self._read(reg.EVTQ_PROD), self._read(reg.EVTQ_CONS)
        if (prod ^ cons) & OVERFLOW:
            self._write(reg.EVTQ_CONS, cons ^ OVERFLOW)
            self._log([f"{_NAME}: EVTQ overflow detected -- events lost"], 0, None)

    def _next(self) -> tuple[int, ...] | None:
        """The oldest record, which is taken off the queue."""
        wrap = (2 << self._bits) - 1
        cons = self._read(reg.EVTQ_CONS)
        if (self._read(reg.EVTQ_PROD) ^ cons) & wrap == 0:
            return None
        at = self._ring + (cons & wrap >> 1) * EVENT.size
        words = self._memory.load_words(at, EVENT.word_count)
        self._write(reg.EVTQ_CONS, cons & OVERFLOW | cons + 1 & wrap)
        return words

    def _handle(self, words: tuple[int, ...]) -> None:
        at = EVENT.decode(words)
        rid = at["SID"]
        listener = self._driver.listeners.get(rid)
        device = self._driver.devices.get(rid)
        if at["STALL"] and device is not None and device.stall:
            self.held[self._held] = words
            self._held += 1
        elif listener is not None and at["ID"] in GUESTS_AFFAIR and not at["S2"]:
            told = f"{_NAMED[at['ID']]} of {format_rid(rid)}: its guest's affair"
            self.emit(Verb.HANDLE, told, code=at["ID"], rid=rid)
            listener.fault_reported(rid, words)
        else:
            self._print(words, at["ID"], rid)

    def _print(self, words: tuple[int, ...], code: int, rid: int) -> None:
        known = self._driver.devices.get(rid)
        client = f"0000:{format_rid(rid)}" if known is not None else None
        self._log(log_lines(words, client), code, rid)

    def _log(self, lines: list[str], code: int, rid: int | None) -> None:
        self.log[self._count] = "\n".join(lines)
        self._count += 1
        if self._count > _KEEP:
            del self.log[self._count - _KEEP - 1]
        words = next((line for line in lines if "event: " in line), lines[0])
        self.emit(Verb.HANDLE, words, code=code, rid=rid)

    def take_held(self) -> tuple[int, ...] | None:
        """The oldest record of a held transaction that nobody has taken; the queue is read first."""
        self._read_queue()
        for number in self.held.keys():
            return self.held.pop(number)
        return None

    def _read(self, register: int) -> int:
        return self._mmio.read(self._base + register, 4)

    def _write(self, register: int, value: int) -> None:
        self._mmio.write(self._base + register, value, 4)
