"""The driver's handler of the event log: what the unit recorded becomes a line in the kernel's log.

Models ``iommu_poll_events``, ``iommu_print_event``, ``amd_iommu_report_page_fault`` and
``amd_iommu_restart_event_logging`` of ``drivers/iommu/amd``: a ring of 8 KiB with 512 events, each of which is printed
and zeroed; behind an illegal device table entry or command its words are dumped. Lines read as Linux prints them, but
for the ``dmesg`` time; a device is announced by its bus, ``pci``, as one that has no driver (this model's IOMMU driver
does not know the names of others). The word ``domain`` of an IO_PAGE_FAULT is the PASID when there is one: Linux prints
the field as it is.

Events of a device whose table is a guest's own, and that its table caused (the address is told with a PASID), go to the
guest: the hypervisor is told, nothing is printed. UNVERIFIED: Linux has no such path for AMD yet; that a page request
which the guest's entry forbids is the guest's as well is our choice.

The machine delivers the event interrupt at the end of each operation, so the unit is not asked to send one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.hardware.iommu.amdvi import register_file as reg
from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord
from pasidlab.hardware.iommu.amdvi.faults import EventCode
from pasidlab.hardware.layouts.amd import BUFFER_REG, CONTROL_REG, STATUS_REG
from pasidlab.hardware.layouts.amd_queue import EVENT
from pasidlab.hardware.pcie import format_rid
from pasidlab.kernel.iommu.amdvi.queue import RING_ENTRIES_CODE, RING_PAGES, RING_SIZE
from pasidlab.timeline import Actor, Table, Verb

if TYPE_CHECKING:
    from pasidlab.kernel.iommu.amdvi.driver import AmdDriver
    from pasidlab.kernel.pages import PageAllocator
    from pasidlab.kernel.platform import Platform

__all__ = ["AmdFaultHandler", "log_line"]

_KEEP: Final = 256
_PENDING: Final = STATUS_REG["EventLogInt"].mask
_OVERFLOW: Final = STATUS_REG["EventOverflow"].mask
_LOG_ENABLE: Final = CONTROL_REG["EventLogEn"].mask
_RESTART: Final = "AMD-Vi: IOMMU Event log restarting"
_GUESTS: Final = (EventCode.IO_PAGE_FAULT, EventCode.INVALID_PPR_REQUEST)
_DEVICE: Final = "device=0000:{rid} "
_FLAGS: Final = "address=0x{address:x} flags=0x{flags:04x}"
_WORDS: Final[dict[int, str]] = {
    EventCode.ILLEGAL_DEV_TABLE_ENTRY: f"{_DEVICE}pasid=0x{{number:05x}} {_FLAGS}",
    EventCode.DEV_TAB_HARDWARE_ERROR: f"{_DEVICE}{_FLAGS}",
    EventCode.PAGE_TAB_HARDWARE_ERROR: f"{_DEVICE}pasid=0x{{number:04x}} {_FLAGS}",
    EventCode.ILLEGAL_COMMAND_ERROR: "address=0x{address:x}",
    EventCode.COMMAND_HARDWARE_ERROR: _FLAGS,
    EventCode.IOTLB_INV_TIMEOUT: f"{_DEVICE}address=0x{{address:x}}",
    EventCode.INVALID_DEVICE_REQUEST: f"{_DEVICE}pasid=0x{{number:05x}} {_FLAGS}",
    EventCode.INVALID_PPR_REQUEST: f"{_DEVICE}pasid=0x{{number:05x}} {_FLAGS} tag=0x{{tag:03x}}",
}
"""What stands behind the name of an event in its line; IO_PAGE_FAULT has lines of its own."""
_FAULT: Final = f"domain=0x{{number:04x}} {_FLAGS}"


def log_line(words: tuple[int, ...], *, known: bool = True) -> str:
    """The line of one event; ``known``: the driver knows the device, which then stands in front.

    >>> log_line((0x2020_0005_0000_6A08, 0x7F00_0000_1000))
    'pci 0000:6a:01.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0005 address=0x7f0000001000 flags=0x0020]'
    >>> log_line((0x5000_0000_0000_0000, 0x1_2340))
    'iommu ivhd0: AMD-Vi: Event logged [ILLEGAL_COMMAND_ERROR address=0x12340]'
    """
    record = EventRecord.of(words)
    values = record._replace(code=0)._asdict() | {"rid": format_rid(record.rid)}
    if record.code == EventCode.IO_PAGE_FAULT:
        before, device = (f"pci 0000:{format_rid(record.rid)}: ", "") if known else ("", _DEVICE)
        return f"{before}AMD-Vi: Event logged [IO_PAGE_FAULT {(device + _FAULT).format(**values)}]"
    if record.code in _WORDS:
        told = f"{record.name} {_WORDS[record.code].format(**values)}]"
    else:
        told = "UNKNOWN " + " ".join(f"event[{at}]=0x{half:08x}" for at, half in enumerate(_halves(words)))
    return f"iommu ivhd0: AMD-Vi: Event logged [{told}"


def _halves(words: tuple[int, ...]) -> list[int]:
    """Words of 64 bits as Linux prints them: in halves, the lower one first."""
    return [word >> shift & 0xFFFF_FFFF for word in words for shift in (0, 32)]


class AmdFaultHandler(Actor, state=("_count",)):
    """Reads and clears events. ``log`` holds the newest lines, by running number."""

    actor = "iommu"

    def __init__(self, driver: AmdDriver, platform: Platform, pages: PageAllocator) -> None:
        super().__init__(platform.timeline, f"{platform.altitude}.iommu.faults", platform.altitude)
        self._driver = driver
        self._memory = platform.memory
        self._mmio = platform.mmio
        self.log = Table[int, str](self.timeline, f"{self.path}.log")
        self._count = 0
        self._ring = pages.alloc_run(RING_PAGES)
        self._mmio.write(reg.BASE + reg.EVT_BUF, BUFFER_REG.encode(Base=self._ring, Length=RING_ENTRIES_CODE)[0])
        self._switch(on=True)

    def _switch(self, *, on: bool) -> None:
        """Let the unit write events, or not."""
        control = self._mmio.read(reg.BASE + reg.CONTROL) & ~_LOG_ENABLE
        self._mmio.write(reg.BASE + reg.CONTROL, control | (_LOG_ENABLE if on else 0))

    def service(self) -> None:
        """Handle the event interrupt: log and clear every event; start again if the log had run over."""
        status = self._mmio.read(reg.BASE + reg.STATUS)
        if not status & (_PENDING | _OVERFLOW):
            return
        self._mmio.write(reg.BASE + reg.STATUS, _PENDING)
        while (head := self._offset(reg.EVT_HEAD)) != self._offset(reg.EVT_TAIL):
            words = self._memory.load_words(self._ring + head, EVENT.word_count)
            self._memory.store_words(self._ring + head, (0,) * EVENT.word_count)
            self._mmio.write(reg.BASE + reg.EVT_HEAD, (head + EVENT.size) % RING_SIZE)
            self._handle(words)
        if status & _OVERFLOW:
            self._switch(on=False)
            self._mmio.write(reg.BASE + reg.STATUS, _OVERFLOW)
            self._switch(on=True)
            self._print(_RESTART)
            self.emit(Verb.HANDLE, _RESTART)

    def _offset(self, register: int) -> int:
        """Head or tail."""
        return self._mmio.read(reg.BASE + register) % RING_SIZE

    def _handle(self, words: tuple[int, ...]) -> None:
        record = EventRecord.of(words)
        listener = self._driver.listeners.get(record.rid)
        facts = {"code": int(record.code), "rid": record.rid}
        if listener is not None and record.pasid is not None and record.code in _GUESTS:
            event = self.emit(Verb.HANDLE, str(record), after="to the hypervisor", **facts)
            with self.timeline.because(event):
                listener.fault_reported(record.rid, words)
            return
        line = log_line(words, known=record.rid in self._driver.devices)
        self._print(line)
        for more in self._dump(record):
            self._print(more)
        self.emit(Verb.HANDLE, line, **facts)

    def _dump(self, record: EventRecord) -> list[str]:
        """The lines behind an event whose cause lies in memory: the device table entry, the command."""
        if record.code == EventCode.ILLEGAL_DEV_TABLE_ENTRY:
            return [f"AMD-Vi: DTE[{at}]: {word:016x}" for at, word in enumerate(self._driver.table.read(record.rid))]
        if record.code == EventCode.ILLEGAL_COMMAND_ERROR:
            halves = _halves(self._memory.load_words(record.address, EVENT.word_count))
            return [f"AMD-Vi: CMD[{at}]: {half:08x}" for at, half in enumerate(halves)]
        return []

    def _print(self, line: str) -> None:
        self.log[self._count] = line
        self._count += 1
        if self._count > _KEEP:
            del self.log[self._count - _KEEP - 1]
