"""Projection: what operations cost, counted: traps and notifications from the events, table words from memory itself.

Used by the stories that compare approaches, policies and machines: what is counted is the same on all of them. A word
counts once each time it changes, if it belongs to a table that leads from a request to a page table (the entries of
devices, the tables of PASIDs), or to KVM's translation tables. Whose memory such a table lies in says who has written
it: the host, or a guest. Page tables are not counted; they change in the same way whoever owns what leads to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.layouts.cpu import VMX_PASID_DIR_ENTRY
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.timeline import HARDWARE, HOST, Event, Verb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pasidlab.hardware.bits import Field
    from pasidlab.hardware.memory import Memory
    from pasidlab.kernel.iommu.contract import IommuDriver
    from pasidlab.machine import Machine
    from pasidlab.virt.kvm import KvmVm
    from pasidlab.virt.vmm import Vmm

__all__ = ["WORDS", "Price", "guest_pages", "host_pages", "kvm_pages", "price"]

_KVM_DIRECTORY_WORDS: Final = 512
WORDS: Final = {
    "traps": "traps",
    "exits": "VM exits",
    "ioctls": "ioctls",
    "delivered": "notifications delivered",
    "invalidations": "invalidations",
    "ioasids": "IOASIDs",
    "host_words": "words of the host's IOMMU tables",
    "guest_words": "words of guests' IOMMU tables",
    "kvm_words": "words of the CPU's tables",
}
"""What each number of a price counts, in words."""


class Price(NamedTuple):
    """What was counted. ``traps``: how often something that a guest did was intercepted; ``exits``: how often a CPU
    left a guest to its hypervisor; ``ioctls``: what hypervisors asked their host's kernel for; ``delivered``: how often
    a handler of the host was told something. ``invalidations``: carried out by silicon. ``ioasids``: allocated on the
    host. ``host_words``, ``guest_words`` and ``kvm_words``: changed words of IOMMU tables in the memory of the host, of
    those in the memory of guests, and of KVM's translation tables.
    """

    traps: int = 0
    exits: int = 0
    ioctls: int = 0
    delivered: int = 0
    invalidations: int = 0
    ioasids: int = 0
    host_words: int = 0
    guest_words: int = 0
    kvm_words: int = 0

    def __add__(self, other: object) -> Price:
        if not isinstance(other, Price):
            return NotImplemented
        return Price(*(one + more for one, more in zip(self, other, strict=True)))

    def __str__(self) -> str:
        words = [f"{count} {WORDS[name]}" for name, count in self._asdict().items() if count]
        return ", ".join(words) or "nothing"


def price(m: Machine, start: int, stop: int | None = None) -> Price:
    """What happened from one step to another (now), as a price. The tables that count are those that exist now.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm1 = m.create_vm("vm1"); adi = m.assign_adi(dsa, vm1)
    >>> app = vm1.spawn("app"); start = m.timeline.now; app.bind(adi)
    1
    >>> price(m, start).ioasids, price(m, start).host_words, price(m, start, start).traps
    (1, 3, 0)
    """
    stop = m.timeline.now if stop is None else stop
    events = [event for event in m.timeline.since(start) if event.number < stop]
    running = [vmm for vmm in m.vmms.values() if vmm.running]
    hosts, kvms = host_pages(m), {page for vmm in running for page in kvm_pages(vmm.kvm)}
    guests = {page for vmm in running for page in guest_pages(vmm)}
    pages = [address & -PAGE_SIZE for address in _changed_words(m, start, stop)]
    return Price(
        traps=_count(events, Verb.TRAP),
        exits=_count(events, Verb.EXIT_VMX),
        ioctls=_count(events, Verb.IOCTL),
        delivered=sum(_delivered(event) for event in events),
        invalidations=_count(events, Verb.INVALIDATE, HARDWARE),
        ioasids=sum(event.actor == "ioasid" and event.verb is Verb.ALLOC for event in events if event.altitude == HOST),
        host_words=sum(page in hosts for page in pages),
        guest_words=sum(page in guests for page in pages),
        kvm_words=sum(page in kvms for page in pages),
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


def host_pages(m: Machine) -> set[int]:
    """The pages of all IOMMU tables that the host owns: entries of devices, tables of PASIDs, directories included."""
    return set(_table_pages(m.kernel.iommu))


def guest_pages(vmm: Vmm) -> set[int]:
    """The same of one guest, as host-physical addresses."""
    find = vmm.container.domain.table.find
    found = (find(page) for page in _table_pages(vmm.guest.iommu))
    return {page for page in found if page is not None}


def _table_pages(driver: IommuDriver) -> Iterator[int]:
    """The pages of one kernel's tables, in the memory of that kernel."""
    for rid in driver.devices.keys():
        table, entry = driver.entry_table(rid), driver.device_entry(rid)
        yield from table.frames() if table is not None else ()
        if entry is not None:
            yield entry & -PAGE_SIZE


def kvm_pages(kvm: KvmVm) -> set[int]:
    """The pages in which one VM's translation tables lie: two directories, and a table where there is an entry."""
    if not kvm.low:
        return set()
    memory, pages = kvm.vmcs.memory, {kvm.low, kvm.high}
    for directory in (kvm.low, kvm.high):
        pages |= _pointed(memory, directory, _KVM_DIRECTORY_WORDS, VMX_PASID_DIR_ENTRY["TABLE"])
    return pages


def _pointed(memory: Memory, directory: int, count: int, pointer: Field) -> set[int]:
    """The tables that a directory points to, read page by page."""
    words = (word for at in range(0, count, 512) for word in memory.load_words(directory + 8 * at, 512))
    return {pointer.get((word,)) for word in words if word}
