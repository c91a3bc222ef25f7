"""Projection: what operations cost, counted: traps and notifications from the events, table words from memory itself.

Used by the stories that compare approaches and policies. A word counts once each time it changes, if it belongs to a
table that hardware reads: the host's PASID tables, KVM's translation tables. What guests write into tables of their
own is not counted: they do that on bare metal, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.layouts.cpu import VMX_PASID_DIR_ENTRY
from pasidlab.hardware.layouts.vtd import PASID_DIR_ENTRY
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.timeline import HARDWARE, HOST, Event, Verb

if TYPE_CHECKING:
    from pasidlab.hardware.bits import Field
    from pasidlab.hardware.memory import Memory
    from pasidlab.kernel.iommu.vtd.pasid_table import PasidTable
    from pasidlab.machine import Machine
    from pasidlab.virt.kvm import KvmVm

__all__ = ["Price", "kvm_pages", "price"]

_PASID_DIRECTORY_WORDS: Final = 1 << 14
_KVM_DIRECTORY_WORDS: Final = 512
_WORDS: Final = {
    "traps": "traps",
    "exits": "VM exits",
    "ioctls": "ioctls",
    "delivered": "notifications delivered",
    "invalidations": "invalidations",
    "ioasids": "IOASIDs",
    "pasid_words": "words of PASID tables",
    "kvm_words": "words of the CPU's tables",
}


class Price(NamedTuple):
    """What was counted. ``delivered``: how often a handler of the host was told something. ``pasid_words`` and
    ``kvm_words``: changed words of PASID tables and of translation tables. ``ioasids``: allocated on the host.
    """

    traps: int
    exits: int
    ioctls: int
    delivered: int
    invalidations: int
    ioasids: int
    pasid_words: int
    kvm_words: int

    def __add__(self, other: object) -> Price:
        if not isinstance(other, Price):
            return NotImplemented
        return Price(*(one + more for one, more in zip(self, other, strict=True)))

    def __str__(self) -> str:
        words = [f"{count} {_WORDS[name]}" for name, count in self._asdict().items() if count]
        return ", ".join(words) or "nothing"


def price(m: Machine, start: int, stop: int | None = None) -> Price:
    """What happened from one step to another (now), as a price. The tables that count are those that exist now.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm1 = m.create_vm("vm1"); adi = m.assign_adi(dsa, vm1)
    >>> app = vm1.spawn("app"); start = m.timeline.now; app.bind(adi)
    1
    >>> price(m, start).ioasids, price(m, start).pasid_words, price(m, start, start).traps
    (1, 3, 0)
    """
    stop = m.timeline.now if stop is None else stop
    events = [event for event in m.timeline.since(start) if event.number < stop]
    pasid_frames, kvm_frames = _pasid_frames(m), {page for vmm in m.vmms.values() for page in kvm_pages(vmm.kvm)}
    words = _changed_words(m, start, stop)
    return Price(
        traps=_count(events, Verb.TRAP),
        exits=_count(events, Verb.EXIT_VMX),
        ioctls=_count(events, Verb.IOCTL),
        delivered=sum(_delivered(event) for event in events),
        invalidations=_count(events, Verb.INVALIDATE, HARDWARE),
        ioasids=sum(event.actor == "ioasid" and event.verb is Verb.ALLOC for event in events if event.altitude == HOST),
        pasid_words=sum(address & -PAGE_SIZE in pasid_frames for address in words),
        kvm_words=sum(address & -PAGE_SIZE in kvm_frames for address in words),
    )


def _count(events: list[Event], verb: Verb, altitude: str = "") -> int:
    return sum(event.verb is verb and altitude in ("", event.altitude) for event in events)


def _delivered(event: Event) -> bool:
    return event.verb is Verb.HANDLE and event.altitude == HOST and event.fact("handler") is not None


def _changed_words(m: Machine, start: int, stop: int) -> list[int]:
    """The address of each word of memory that changed, as often as it did."""
    return [
        key
        for step in range(start + 1, stop + 1)
        for cells, key, _, _ in m.timeline.changes_of_step(step)
        if cells is m.memory and isinstance(key, int)
    ]


def _pasid_frames(m: Machine) -> set[int]:
    """The pages of all PASID tables of the host, directories included."""
    return {page for table in m.kernel.iommu.tables.values() for page in _table_pages(m.memory, table)}


def _table_pages(memory: Memory, table: PasidTable) -> set[int]:
    size = _PASID_DIRECTORY_WORDS * 8
    directory = set(range(table.directory, table.directory + size, PAGE_SIZE))
    return directory | _pointed(memory, table.directory, _PASID_DIRECTORY_WORDS, PASID_DIR_ENTRY["SMPTBLPTR"])


def kvm_pages(kvm: KvmVm) -> set[int]:
    """The pages in which one VM's translation tables lie: two directories, and a table where there is an entry."""
    memory, pages = kvm.vmcs.memory, {kvm.low, kvm.high}
    for directory in (kvm.low, kvm.high):
        pages |= _pointed(memory, directory, _KVM_DIRECTORY_WORDS, VMX_PASID_DIR_ENTRY["TABLE"])
    return pages


def _pointed(memory: Memory, directory: int, count: int, pointer: Field) -> set[int]:
    """The tables that a directory points to, read page by page."""
    words = (word for at in range(0, count, 512) for word in memory.load_words(directory + 8 * at, 512))
    return {pointer.get((word,)) for word in words if word}
