"""What a kernel printed of an event queue: from lines of a log back to events.

Models nothing: it is the reader's side of what Linux prints in ``drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c``: up to
6.13 ``event 0x10 received:`` and the words of the record, since 6.14 also (or alone) a sentence with the event's name;
of Xen, which prints the words under its own prefix; and of ``drivers/accel/ivpu`` (an SMMU inside a device), which
prints one line of its own. Any prefix, time stamp or quotation mark may stand before a line, lines may be broken
between words, and words may be missing at the end: they count as zero.

A record says everything; a sentence alone does not say whether there was a SubstreamID when that is 0 (then: there was
none, as in every record that these kernels print for a transaction without one).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pasidlab.hardware.iommu.smmuv3.fault_log import layout_of
from pasidlab.hardware.iommu.smmuv3.faults import FaultClass, SmmuEvent
from pasidlab.hardware.layouts.smmu_queue import EVENT
from pasidlab.hardware.pcie import format_rid

__all__ = ["LoggedEvent", "read_events"]

_HEAD: Final = re.compile(r"\bevent\s+(?P<id>0x[0-9a-f]{1,2})\s+received", re.IGNORECASE)
_WORD: Final = re.compile(r"(?<![\w.])(?:0x)?([0-9a-f]{16})(?![\w.])", re.IGNORECASE)
_NAMED: Final = re.compile(r"\bevent:\s+(?P<name>[CEF]_[A-Z_]+)")
_VALUE: Final = re.compile(r"\b(?P<name>sid|ssid|iova|ipa|fetch_addr|stag):\s+(?P<value>0x[0-9a-f]+|\d+)")
_ACCESS: Final = re.compile(r"\b(?P<mode>unpriv|priv)\s+(?P<what>inst|data)\s+(?P<how>read|write)\s+s(?P<stage>[12])\b")
_CLASSES: Final = (("CD fetch", 0), ("Stage 1 translation table fetch", 1), ("Input address caused fault", 2))
_IVPU: Final = re.compile(
    r"MMU EVTQ:\s+(?P<id>0x[0-9a-f]+)\s+\([^)]*\)\s+SSID:\s+(?P<ssid>\d+)\s+SID:\s+(?P<sid>\d+),"
    r"\s+e\[2\]\s+(?P<low>[0-9a-f]+),\s+e\[3\]\s+(?P<high>[0-9a-f]+),\s+in addr:\s+(?P<addr>0x[0-9a-f]+),"
    r"\s+fetch addr:\s+(?P<fetch>0x[0-9a-f]+)",
    re.IGNORECASE,
)
_WORDS: Final = 4
_EVENTS: Final = frozenset(int(event) for event in SmmuEvent)


class LoggedEvent(NamedTuple):
    """One event as a kernel printed it, as the words of its record. ``client`` is the device that the kernel named.

    >>> (event,) = read_events('''[ 1.0] arm-smmu-v3 smmu: event 0x10 received:
    ... [ 1.1] arm-smmu-v3 smmu:  0x0000310200000010
    ... [ 1.2] arm-smmu-v3 smmu:  0x000002088000007f''')
    >>> event.event, event.device, event.stag, event.stall, event.access, event.stage, event.klass
    ('F_TRANSLATION', '31:00.2', 127, True, 'read', 1, 'IN')
    """

    words: tuple[int, ...]
    client: str | None = None

    @property
    def id(self) -> int:
        """The event number."""
        return self.words[0] & 0xFF

    @property
    def event(self) -> str:
        """Its name; the number for one that the specification does not know."""
        return SmmuEvent.of(self.id).name if self.id in _EVENTS else hex(self.id)

    @property
    def sid(self) -> int:
        """The StreamID."""
        return self._field("SID")

    @property
    def device(self) -> str:
        """The StreamID as a requester ID, which it is behind a PCIe root complex that is wired one to one."""
        return format_rid(self.sid & 0xFFFF)

    @property
    def ssv(self) -> bool:
        """Whether the record says that there was a SubstreamID."""
        return bool(self._field("SSV"))

    @property
    def pasid(self) -> int | None:
        """The SubstreamID; C_BAD_SUBSTREAMID has one without saying so."""
        told = self.ssv or self.id == SmmuEvent.C_BAD_SUBSTREAMID
        return self._field("SSID") if told else None

    @property
    def stag(self) -> int:
        """The tag by which CMD_RESUME names the transaction; it means something with ``stall`` only."""
        return self._field("STAG")

    @property
    def stall(self) -> bool:
        """Whether the transaction is held."""
        return bool(self._field("STALL"))

    @property
    def privileged(self) -> bool:
        """Whether the access was privileged."""
        return bool(self._field("PnU"))

    @property
    def instruction(self) -> bool:
        """Whether it was to execute."""
        return bool(self._field("InD"))

    @property
    def access(self) -> str:
        """Whether it read or wrote."""
        return "read" if self._field("RnW") else "write"

    @property
    def stage(self) -> int:
        """The stage of translation that failed."""
        return 2 if self._field("S2") else 1

    @property
    def klass(self) -> str:
        """What was accessed: a context descriptor, a stage-1 table, or the input address."""
        value = self._field("CLASS")
        return FaultClass(value).name if value in FaultClass._value2member_map_ else str(value)

    @property
    def address(self) -> int:
        """The input address."""
        return self._field("addr")

    @property
    def ipa(self) -> int:
        """The intermediate address; 0 in events that tell a fetch address in its place."""
        return self._field("IPA") if layout_of(self.id) is EVENT else 0

    @property
    def fetch_address(self) -> int:
        """The address that could not be read, in events that tell one."""
        layout = layout_of(self.id)
        return 0 if layout is EVENT else layout["FetchAddr"].get(self.words)

    def _field(self, name: str) -> int:
        return EVENT[name].get(self.words)


def read_events(text: str) -> list[LoggedEvent]:
    """Every event in a log, in the order of the log."""
    heads = [found for pattern in (_HEAD, _NAMED, _IVPU) for found in pattern.finditer(text)]
    heads.sort(key=lambda found: found.start())
    events: list[LoggedEvent] = []
    for number, found in enumerate(heads):
        part = text[found.start() : heads[number + 1].start() if number + 1 < len(heads) else len(text)]
        if found.re is _HEAD:
            events.append(_of_words(found, part))
        elif found.re is _IVPU:
            events.append(_of_ivpu(found))
        else:
            _add_sentence(events, _of_sentence(found, part))
    return events


def _of_words(head: re.Match[str], part: str) -> LoggedEvent:
    words = tuple(int(word, 16) for word in _WORD.findall(part)[:_WORDS]) or (int(head["id"], 16),)
    return LoggedEvent(words + (0,) * (_WORDS - len(words)))


def _add_sentence(events: list[LoggedEvent], told: LoggedEvent) -> None:
    """A sentence right behind the words of the same event belongs to them."""
    last = events[-1] if events else None
    bare = last is not None and not any((last.words[0] & ~0xFF, *last.words[1:]))
    if last is not None and last.client is None and last.id == told.id and (bare or last.sid == told.sid):
        events[-1] = LoggedEvent(told.words if bare else last.words, told.client or "")
    else:
        events.append(told._replace(client=told.client or ""))


def _of_sentence(named: re.Match[str], part: str) -> LoggedEvent:
    """The record that a sentence describes."""
    at = {found["name"]: _number(found["value"]) for found in _VALUE.finditer(part)}
    client = re.search(r"\bclient:\s+(\S+)", part)
    code = SmmuEvent[named["name"]] if named["name"] in SmmuEvent.__members__ else 0
    values = {"ID": int(code), "SID": at.get("sid", 0), "SSID": at.get("ssid", 0), "SSV": int(at.get("ssid", 0) > 0)}
    values |= {"addr": at.get("iova", 0), "STAG": at.get("stag", 0)}
    values |= {"IPA": at["ipa"] & -0x1000} if "ipa" in at else {}
    words = EVENT.encode(**values, **_access(part))
    if "fetch_addr" in at:
        words = (*words[:3], at["fetch_addr"])
    return LoggedEvent(words, client.group(1) if client else None)


def _number(text: str) -> int:
    return int(text, 16) if text.startswith("0x") else int(text)


def _access(part: str) -> dict[str, int]:
    """The second sentence: privilege, kind of access, stage, class, and whether the transaction is held."""
    found = _ACCESS.search(part)
    if found is None:
        return {}
    behind = " ".join(part[found.end() :].split())
    return {
        "PnU": int(found["mode"] == "priv"),
        "InD": int(found["what"] == "inst"),
        "RnW": int(found["how"] == "read"),
        "S2": int(found["stage"] == "2"),
        "CLASS": next((number for words, number in _CLASSES if words in behind), 0),
        "STALL": int(re.search(r'"\s.*?\bstall\b.*?stag:', behind) is not None),
    }


def _of_ivpu(found: re.Match[str]) -> LoggedEvent:
    """One line of the ivpu driver: the second word comes in two halves; a SubstreamID of 0 counts as none."""
    ssid, sid = int(found["ssid"]), int(found["sid"])
    low = int(found["id"], 16) | (ssid << 12 | int(ssid > 0) << 11) | sid << 32
    second = int(found["low"], 16) | int(found["high"], 16) << 32
    return LoggedEvent((low, second, int(found["addr"], 16), int(found["fetch"], 16)))
