"""What Linux printed of an event log: from lines of a kernel log back to events.

Models nothing: it is the reader's side of ``iommu_print_event`` in Linux ``drivers/iommu/amd/iommu.c``, over all its
generations: the device in the brackets (with or without segment) or before them as the name of a PCI function, the
number called ``domain`` or ``pasid``, addresses with or without leading zeros, dumps of the device table entry (DTE[n])
and of the command (CMD[n]) behind it, RMP events, unknown events as four raw words. Lines may be broken anywhere
between words, quoted, and begin with any time stamp.

What the number is follows GN in the flags, as in :mod:`.fault_log`; old kernels print a PASID as ``domain``.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pasidlab.hardware.iommu.amdvi.caches import DteLine
from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord
from pasidlab.hardware.iommu.amdvi.faults import EventCode, Flag
from pasidlab.hardware.iommu.amdvi.invalidation import Command, decode_command
from pasidlab.hardware.layouts.amd import DTE
from pasidlab.hardware.pcie import parse_rid

__all__ = ["LoggedEvent", "describe_dte", "read_events"]

_CODES: Final = {code.name: code for code in EventCode}
_NUMBERS: Final = ("domain", "pasid", "address", "flags", "tag", "vmg_tag", "spa", "gpa", "flags_rmp")

_STAMP: Final = r"(?:\n[^\n\[\]=]*\bkernel:)?\s*(?:\[\s*[\d.+]+\])?\s*(?:AMD-Vi:|AMD IOMMU:)?\s*"
"""What may stand between two words of an event: a line break, and behind it all that begins a line."""
_HEAD: Final = re.compile(r"Event\s+logged" + _STAMP + r"\[" + _STAMP + r"(?P<name>[A-Z][A-Z_]+)")
_FUNCTION: Final = re.compile(
    r"(?P<device>(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]):\s+(?:AMD-Vi|AMD IOMMU):\s*\Z", re.IGNORECASE
)
_VALUE: Final = re.compile(
    _STAMP + r"(?P<name>[a-z_]+(?:\[\d\])?)=(?P<value>0x[0-9a-f]+|[0-9a-f:]+\.[0-7]|[0-9a-f]+),?", re.IGNORECASE
)
_DUMP: Final = re.compile(r"\b(?P<what>DTE|CMD)\[(?P<at>[0-3])\]:\s*(?P<word>[0-9a-f]{8,16})\b", re.IGNORECASE)


class LoggedEvent(NamedTuple):
    """One event as a kernel printed it. ``device`` is spelled as in the log, ``None`` if it was not told; ``numbers``
    are the values by their printed names; ``dte`` and ``command`` the words that were dumped behind it.

    >>> line = "amdxdna 0000:c6:00.1: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x2 address=0x7fb5f2700000 flags=0x7]"
    >>> (event,) = read_events(line)
    >>> event.name, event.device, event.pasid, event.domain, event.access, event.present
    ('IO_PAGE_FAULT', '0000:c6:00.1', 2, None, 'read', False)
    """

    name: str
    device: str | None
    numbers: tuple[tuple[str, int], ...]
    dte: tuple[int, ...] = ()
    command: tuple[int, ...] = ()

    def number(self, name: str) -> int | None:
        """The value that the line calls ``name``, if it has one."""
        return dict(self.numbers).get(name)

    @property
    def code(self) -> EventCode | None:
        """The event's code; ``None`` for one that the kernel did not know either."""
        return _CODES.get(self.name)

    @property
    def address(self) -> int | None:
        """The address; of RMP events the system- or guest-physical one."""
        told = (self.number(name) for name in ("address", "gpa", "spa"))
        return next((value for value in told if value is not None), None)

    @property
    def flags(self) -> int:
        """The flags word; 0 for events that have none."""
        return self.number("flags") or 0

    @property
    def flag_bits(self) -> dict[str, bool]:
        """Each flag by its name in the specification."""
        return {"I" if flag is Flag.INTERRUPT else str(flag.name): bool(self.flags & flag) for flag in Flag}

    @property
    def access(self) -> str:
        """Read or write, as RW says."""
        return "write" if self.flags & Flag.RW else "read"

    @property
    def present(self) -> bool:
        """PR: the page was there."""
        return bool(self.flags & Flag.PR)

    @property
    def permission(self) -> bool:
        """PE: the page did not give the permission."""
        return bool(self.flags & Flag.PE)

    @property
    def reserved_bit(self) -> bool:
        """RZ: a reserved bit was set."""
        return bool(self.flags & Flag.RZ)

    @property
    def interrupt(self) -> bool:
        """I: it was an interrupt."""
        return bool(self.flags & Flag.INTERRUPT)

    @property
    def pasid_field(self) -> int | None:
        """What stands where a PASID or a domain id stands, whatever it is."""
        pasid = self.number("pasid")
        return self.number("domain") if pasid is None else pasid

    @property
    def pasid(self) -> int | None:
        """The PASID, if the flags say that there is one."""
        record = self.record
        return record.pasid if record is not None and self.pasid_field is not None else None

    @property
    def domain(self) -> int | None:
        """The domain id, if it is one."""
        record = self.record
        return record.domain if record is not None and self.pasid_field is not None else None

    @property
    def type(self) -> int | None:
        """Which kind of error, for invalid device requests (three bits) and hardware errors (two)."""
        if self.name == "INVALID_DEVICE_REQUEST":
            return self.flags >> 9 & 7
        return self.flags >> 9 & 3 if self.name.endswith("HARDWARE_ERROR") else None

    @property
    def record(self) -> EventRecord | None:
        """The entry of the event log that the line was made from, as far as it tells; ``None`` for unknown events."""
        raw = [self.number(f"event[{at}]") for at in range(4)]
        words = [word for word in raw if word is not None]
        if len(words) == len(raw):
            return EventRecord.of((words[0] | words[1] << 32, words[2] | words[3] << 32))
        if self.code is None:
            return None
        rid = parse_rid(self.device[-7:]) if self.device is not None else 0
        number, address, tag = self.pasid_field or 0, self.address or 0, self.number("tag") or 0
        return EventRecord(self.code, rid, number & 0xFFFFF, self.flags & 0xFFF, address, tag & 0x3FF)

    @property
    def illegal_command(self) -> Command | None:
        """The dumped command, if it can be decoded after all."""
        return decode_command(self.command) if self.command else None


def read_events(text: str) -> list[LoggedEvent]:
    """The events in a piece of a kernel log, in their order; everything else in it is passed over.

    >>> read_events("nothing here")
    []
    """
    text = re.sub(r"^[>|]+ ?", "", text, flags=re.MULTILINE)
    heads = list(_HEAD.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)][: len(heads)]
    return [_event(text, head, end) for head, end in zip(heads, ends, strict=True)]


def _event(text: str, head: re.Match[str], end: int) -> LoggedEvent:
    """The event that begins with ``head``, with what follows until the next one."""
    device, numbers, at = None, {}, head.end()
    while (value := _VALUE.match(text, at, end)) is not None:
        at = value.end()
        name, told = value["name"].lower(), value["value"]
        if name == "device":
            device = told
        elif name in _NUMBERS or name.startswith("event["):
            numbers[name] = int(told, 16)
    if device is None:
        before = _FUNCTION.search(text[max(0, head.start() - 80) : head.start()])
        device = before["device"] if before is not None else None
    return LoggedEvent(head["name"], device, tuple(numbers.items()), *_dumps(text, at, end))


def _dumps(text: str, at: int, end: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The words of a device table entry (64 bits each) and of a command (32 bits each), if all four are there."""
    found: dict[str, dict[int, int]] = {"DTE": {}, "CMD": {}}
    for dump in _DUMP.finditer(text, at, end):
        found[dump["what"].upper()].setdefault(int(dump["at"]), int(dump["word"], 16))
    dte, command = ([words[at] for at in sorted(words)] if len(words) == 4 else [] for words in found.values())
    pairs = [command[at] | command[at + 1] << 32 for at in range(0, len(command), 2)]
    return tuple(dte), tuple(pairs)


def describe_dte(words: tuple[int, ...]) -> dict[str, object]:
    """A device table entry in the words of its fields; the GCR3 table only where guest translation is on.

    >>> found = describe_dte((0x7D90000000000003, 0x0000100103FC0009, 0x2000000117840013, 0))
    >>> found["domain"], hex(found["gcr3_table"]), found["GLX"], found["intr_remap"]
    (9, '0x101fe7000', 1, True)
    """
    at, line = DTE.decode(words), DteLine.of(words)
    flags = {name: bool(at[name]) for name in ("V", "TV", "PPR", "GIOV", "GV", "IR", "IW")}
    return flags | {
        "mode": line.mode,
        "host_root": line.root,
        "GLX": line.glx,
        "domain": line.did,
        "IOTLB": line.ats,
        "gcr3_table": line.gcr3 if line.guest else None,
        "intr_remap": bool(at["IV"]),
    }
