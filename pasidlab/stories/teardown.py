"""T18: how a PASID entry is taken away, as the invalidation queue saw it (facts 1.8).

The entry is 64 bytes, hardware may read it in four pieces, and caches hold parts of it and of what it points to. So it
is made "not present" first, then everybody is told to forget, from the unit outwards, and only then it is zeroed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pasidlab.hardware.iommu.vtd import register_file as reg
from pasidlab.hardware.iommu.vtd.invalidation import Descriptor, decode_descriptor
from pasidlab.hardware.layouts.vtd import IQA_REG, PASID_ENTRY
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect
from pasidlab.stories.vtd import vtd_table, vtd_unit
from pasidlab.timeline import Verb

__all__ = ["TEARDOWN", "queued", "tail"]

_WIDTH: Final = 32
_ALL_PAGES: Final = 0x7FFF_FFFF_FFFF_F000
_FORGET: Final = ["PASID device TLB", "wait"]
_DRAIN: Final = ["wait", "PASID IOTLB", "PASID device TLB", "wait"]


def tail(m: Machine) -> int:
    """Where the driver will write the next descriptor into the host unit's ring (IQT)."""
    return m.mmio.read(reg.BASE + reg.IQT)


def queued(m: Machine, since: int) -> list[Descriptor]:
    """The descriptors in the ring from the tail ``since`` to the present one, decoded from memory."""
    fields = IQA_REG.decode((m.mmio.read(reg.BASE + reg.IQA),))
    size, found = 4096 << fields["QS"], []
    while since != tail(m):
        known = decode_descriptor(m.memory.load_words(fields["IQA"] + since, _WIDTH // 8), vtd_unit(m).identity)
        expect(isinstance(known, Descriptor), "the ring holds descriptors")
        if isinstance(known, Descriptor):
            found.append(known)
        since = (since + _WIDTH) % size
    return found


def _tell(m: Machine) -> Iterator[str]:
    yield "A guest's process is bound: the host's entry is nested, with the domain of the VM."
    dsa = m.plug_accelerator("dsa0")
    vm = m.create_vm("vm1", quota=4)
    adi = m.assign_adi(dsa, vm)
    app = vm.spawn("app")
    guest_pasid = app.bind(adi)
    pasid, table = vm.pasids[guest_pasid], vtd_table(m, dsa.rid)
    entry, did = table.read(pasid), vm.vmm.container.domain.did
    expect(PASID_ENTRY["PGTT"].get(entry) == 3, "nested")

    yield "The process unbinds: the guest tears its own entry down. Its PASID-cache flush is trapped: the host follows."
    start, before = m.timeline.now, tail(m)
    app.unbind(adi)
    traps = [event.subject for event in m.timeline.since(start) if event.verb is Verb.TRAP and event.actor == "vmm"]
    expect("vm1: PASID cache" in traps[0], "the first that the guest's queue sees is the PASID-cache invalidation")
    expect(not any("device TLB" in trap for trap in traps), "device TLBs are left to the hypervisor (caching mode)")

    yield "In the host's queue: PASID cache, IOTLB, device TLB, wait. A nested entry is flushed by its domain."
    found = queued(m, before)
    expect([one.name for one in found] == ["PASID cache", "IOTLB", *_FORGET, *_DRAIN], "from the unit outwards")
    of_entry, of_domain, of_device, first_wait = (one.fields() for one in found[:4])
    expect((of_entry["G"], of_entry["DID"], of_entry["PASID"]) == (1, did, pasid), "one PASID of the domain")
    expect((of_domain["G"], of_domain["DID"]) == (2, did), "everything that carries the tag of the domain")
    expect((of_device["S"], of_device["ADDR"]) == (1, _ALL_PAGES), "all pages, in the address itself")
    expect(first_wait["FN"] == 1 and not first_wait["PD"], "and a wait for all of them")

    yield "Then the drain: a fence, once more what the device may have asked for since, a wait for page requests."
    expect(found[4].field("FN") == 1 and not found[4].field("SW"), "the fence orders, and tells nobody")
    expect(found[-1].field("PD") == 1, "page requests that are on their way have arrived when it is done")

    yield "Two phases: until the first wait was over only P was clear. Then the rest was zeroed."
    told = [event for event in m.timeline.since(start) if event.verb is Verb.INVALIDATE]
    seen = []
    for event in told:
        m.timeline.go(event.number + 1)
        seen.append(table.read(pasid))
    m.timeline.go(m.timeline.last)
    expect(seen[:3] == [PASID_ENTRY.change(entry, P=0)] * 3, "every other bit is as it was")
    expect(seen[3:] == [(0,) * 8] * 2, "nothing is left while page requests are drained")
    torn = (*entry[:2], *(0,) * 6)
    fields = PASID_ENTRY.decode(torn)
    expect(fields["P"] == 1 and not fields["FLPTPTR"], "zeroed at once, old and new pieces could have made this")

    yield "A first-level entry of the host itself is flushed by PASID: all of them share domain 1."
    native = m.spawn("app")
    pasid, before = native.bind(dsa), tail(m)
    native.unbind(dsa)
    found = queued(m, before)
    expect([one.name for one in found] == ["PASID cache", "PASID IOTLB", *_FORGET, *_DRAIN], "type 6, not type 2")
    expect((found[1].field("DID"), found[1].field("PASID")) == (1, pasid), "tagged by domain 1 and the PASID")


TEARDOWN: Final = Story("teardown", "A PASID entry is taken away, step by step", ("T18",), _tell)
