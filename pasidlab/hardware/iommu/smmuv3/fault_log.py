"""The event queue: what an SMMU writes down when it blocks or holds a transaction.

Models the event queue (EVTQ_*) and its 32-byte records. Follows chapters 7.2 to 7.4 of the specification (IHI 0070) and
Linux 6.1 ``arm-smmu-v3.h`` (EVTQ_*). A full ring loses the record and says so (OVFLG); unlike the PRI queue it goes on
as soon as there is room again. A ring that no memory answers for is a global error (EVTQ_ABT_ERR), and nothing more is
written until software acknowledges it. The record of a transaction that is held is never lost: whoever calls tries
again when there is room.

Which fields a record has depends on the event; the others are zero: C_BAD_STREAMID, C_BAD_STE and C_BAD_CD tell no
address, F_STREAM_DISABLED and F_TRANSL_FORBIDDEN no SubstreamID, C_BAD_SUBSTREAMID a SubstreamID without SSV. Of
F_BAD_ATS_TREQ the span and the rights asked for are left out (UNVERIFIED: where they lie).
"""

from __future__ import annotations

from typing import Final

from pasidlab.errors import BusError
from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.smmuv3.faults import Blocked, FaultClass, SmmuEvent
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.iommu.smmuv3.register_file import EVTQ_BASE, EVTQ_CONS, EVTQ_PROD, RegisterFile
from pasidlab.hardware.iommu.smmuv3.ring import Ring
from pasidlab.hardware.layouts.smmu_queue import EVENT, EVENT_FETCH
from pasidlab.hardware.memory import Memory
from pasidlab.hardware.pcie import Access, DmaRequest, RequestKind

__all__ = ["EventQueue", "encode_event", "layout_of"]

_FETCHES: Final = frozenset({SmmuEvent.F_STE_FETCH, SmmuEvent.F_CD_FETCH, SmmuEvent.F_WALK_EABT})
_WITH_ADDRESS: Final = frozenset(
    {
        *(SmmuEvent.F_UUT, SmmuEvent.F_BAD_ATS_TREQ, SmmuEvent.F_TRANSL_FORBIDDEN, SmmuEvent.F_WALK_EABT),
        *(event for event in SmmuEvent if event.by_walk),
    }
)
"""Events whose record has the input address and says how it was accessed."""
_WITHOUT_SUBSTREAM: Final = frozenset({SmmuEvent.F_STREAM_DISABLED, SmmuEvent.F_TRANSL_FORBIDDEN})


def layout_of(event: int) -> Layout:
    """The layout of an event's record: some have a fetch address in place of the intermediate one."""
    return EVENT_FETCH if event in _FETCHES else EVENT


def encode_event(request: DmaRequest, blocked: Blocked, stag: int | None = None) -> tuple[int, ...]:
    """The record of a blocked transaction; with a stall tag, of one that is held.

    >>> request = DmaRequest(0x6A08, 0x5000, Access.WRITE, pasid=5)
    >>> blocked = Blocked(SmmuEvent.F_TRANSLATION, FaultClass.IN)
    >>> [hex(word) for word in encode_event(request, blocked, stag=3)]
    ['0x6a0800005810', '0x20080000003', '0x5000', '0x0']
    """
    event = blocked.event
    assert event is not None
    values = {"ID": int(event), "SID": request.rid}
    if request.pasid is not None and event not in _WITHOUT_SUBSTREAM:
        values |= {"SSV": int(event is not SmmuEvent.C_BAD_SUBSTREAMID), "SSID": request.pasid}
    if event in _WITH_ADDRESS:
        values |= _access(request, event)
    if event.by_walk:
        values |= {"S2": int(blocked.s2), "CLASS": int(blocked.klass)}
        values |= {"IPA": blocked.ipa & 0xF_FFFF_FFFF_F000} if blocked.s2 else {}
        if event is SmmuEvent.F_PERMISSION and blocked.klass is FaultClass.TT:
            values["TTRnW"] = 1
        if stag is not None:
            values |= {"STALL": 1, "STAG": stag}
    elif event in _FETCHES:
        values["FetchAddr"] = blocked.fetch & 0xFF_FFFF_FFFF_FFF8
        if event is SmmuEvent.F_WALK_EABT:
            values |= {"S2": int(blocked.s2), "CLASS": int(blocked.klass)}
    return layout_of(event).encode(**values)


def _access(request: DmaRequest, event: SmmuEvent) -> dict[str, int]:
    """Input address and kind of the access; a translated request is an unprivileged access to data (3.9.1.3)."""
    reads = request.access in (Access.READ, Access.EXECUTE)
    values = {"addr": request.address, "RnW": int(reads)}
    if event is SmmuEvent.F_TRANSL_FORBIDDEN or request.kind is RequestKind.TRANSLATED:
        return values
    return values | {"PnU": int(request.privileged), "InD": int(request.access is Access.EXECUTE)}


class EventQueue:
    """The unit's end of the event queue."""

    __slots__ = ("ring",)

    def __init__(self, registers: RegisterFile, memory: Memory, identity: SmmuIdentity) -> None:
        self.ring = Ring(registers, memory, EVTQ_BASE, EVTQ_PROD, EVTQ_CONS, EVENT, identity.evtqs)

    @property
    def has_room(self) -> bool:
        """Whether a record can be written."""
        return not self.ring.full

    def put(self, words: tuple[int, ...]) -> bool:
        """Write a record; ``False`` when it was lost because the ring is full, ``BusError`` if no memory answers."""
        if self.ring.put(words):
            return True
        self.ring.lose()
        return False

    def records(self) -> list[tuple[int, ...]]:
        """The words of the records that software has not read yet, oldest first; none if no memory answers."""
        try:
            return self.ring.waiting()
        except BusError:
            return []
