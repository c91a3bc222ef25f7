"""T9, T18 and T19: what the caches are to a teardown that forgets one of them.

Each step of the teardown is left out once. What is stale then, and who reads or writes whose memory by it? The
modelled caches never throw anything away by themselves, which is the worst that real ones may do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pasidlab.invariants.caches import cache_lines
from pasidlab.machine import Machine
from pasidlab.stories.story import Story, expect
from pasidlab.stories.turns import DIARY, LETTER, SIZE, Turns, end_turns, take_turn
from pasidlab.stories.vtd import vtd_unit

__all__ = ["STALE"]


def _tell(m: Machine) -> Iterator[str]:
    yield "A device without a TLB of its own, and one with. Alice uses the first, and her teardown is complete."
    plain, dsa = m.plug_accelerator("dsa0", ats=False), m.plug_accelerator("dsa1")
    turns = take_turn(m.spawn("alice"), m.spawn("bob"), plain)
    expect(len(vtd_unit(m).caches.contexts) == 1, "the unit has kept the context entry of the device")
    expect(not len(vtd_unit(m).caches.iotlb), "of Alice it has kept nothing")
    end_turns(turns)

    yield "Without the PASID-cache invalidation: Alice has unbound, and the device still writes to her memory."
    turns = take_turn(m.spawn("alice"), m.spawn("bob"), plain, "pasid-cache")
    expect(m.translate(plain.rid, turns.pasid, turns.src, caches=False).fault is not None, "the tables say no")
    expect((_stale(m), _broken(m)) == ({"PASID cache"}, {10}), "the PASID cache says yes, and outlives its owner")
    m.dma(plain, turns.pasid, turns.src, "write")
    expect(turns.alice.read(turns.src, SIZE) == bytes(8) + DIARY[8:], "eight bytes of her diary are gone")
    _bob_takes_over(turns, plain.name)

    yield "The same between two VMs: what the device would do for Bob's VM leads to the memory of Alice's."
    vms = m.create_vm("vm1", quota=1), m.create_vm("vm2", quota=1)
    adi1, adi2 = (m.assign_adi(plain, vm) for vm in vms)
    turns = take_turn(vms[0].spawn("alice"), vms[1].spawn("bob"), adi1, "pasid-cache")
    turns.bob.bind(adi2)
    expect(vms[1].pasids == {1: turns.pasid}, "VM 2 has the host PASID that VM 1 had")
    asked = [m.translate(plain.rid, turns.pasid, turns.src, caches=caches) for caches in (False, True)]
    owners = [[vm.name for vm in vms if (walk.address or 0) & ~0xFFF in vm.vmm.container.pinned] for walk in asked]
    expect(owners == [["vm2"], ["vm1"]], "the tables lead to VM 2, the unit goes to VM 1")
    turns.bob.unbind(adi2)
    turns.alice.bind(adi1)  # and unbinds, properly: the stale entry has the domain of VM 1
    end_turns(turns)

    yield "Without the IOTLB invalidation: blocked at first, for the entry is gone. Then Bob makes it present again."
    turns = take_turn(m.spawn("alice"), m.spawn("bob"), plain, "iotlb")
    expect(m.translate(plain.rid, turns.pasid, turns.src).fault is not None, "the old number is blocked")
    expect(_stale(m) == {"IOTLB", "paging-structure cache"}, "what its page tables said is remembered")
    _bob_takes_over(turns, plain.name)

    yield "Without the device-TLB invalidation: the unit is right, the device does not ask it. Bob gets Alice's diary."
    turns = take_turn(m.spawn("alice"), m.spawn("bob"), dsa, "device-tlb")
    elsewhere = turns.bob.buffer(SIZE)
    turns.bob.bind(dsa)
    page = turns.bob.process.mm.physical(turns.src)
    expect(m.translate(dsa.rid, turns.pasid, turns.src).address == page, "the unit would lead to Bob's page")
    turns.bob.copy(dsa, turns.src, elsewhere, SIZE)
    expect(turns.bob.read(elsewhere, SIZE) == DIARY, "the device has read where Alice's page was")
    end_turns(turns)

    yield "Without the drain: a page that Alice's work has asked for is brought into Bob's memory."
    expect(_page_for_bob(m, "drain"), "Bob has a page that nobody of his has touched")

    yield "All steps, in the right order: Bob's turn is Bob's alone."
    expect(not _page_for_bob(m), "Alice's request was answered before her number was free")
    for device in (plain, dsa):
        turns = take_turn(m.spawn("alice"), m.spawn("bob"), device)
        turns.bob.bind(device)
        expect(turns.bob.copy(device, turns.src, turns.dst, SIZE).ok, "the device copies for Bob")
        expect(turns.bob.read(turns.dst, SIZE) == LETTER, "what he gets is what he had")
        expect(turns.alice.read(turns.dst, SIZE) == bytes(SIZE), "and nothing happens to Alice")
        end_turns(turns)


def _stale(m: Machine) -> set[str]:
    """The caches that hold what the tables do not say."""
    return {line.cache for line in cache_lines(m) if line.said}


def _broken(m: Machine) -> set[int]:
    """The invariants that do not hold."""
    return {violation.rule.number for violation in m.check().violations}


def _bob_takes_over(turns: Turns, device: str) -> None:
    """Bob's turn, which happens in Alice's memory."""
    turns.bob.bind(device)
    expect(_broken(turns.bob.machine) == {13}, "what is stale has an owner again, and says something else")
    before = turns.alice.read(turns.src, SIZE)
    outcome = turns.bob.copy(device, turns.src, turns.dst, SIZE)
    expect(outcome.completion is None, "Bob waits for ever: the completion record went to Alice's memory, too")
    expect(turns.bob.read(turns.dst, SIZE) == bytes(SIZE), "Bob's letter did not move")
    expect(turns.alice.read(turns.dst, SIZE) == before, "Alice's diary did, to where she had something else")
    end_turns(turns)


def _page_for_bob(m: Machine, *left_out: str) -> bool:
    """Alice's work is aborted while it waits for a page; she unbinds, Bob binds. Is the page brought, to him?"""
    alice, bob = m.spawn("alice"), m.spawn("bob")
    src, dst = alice.buffer(DIARY), alice.buffer(SIZE, populate=False)
    expect((bob.buffer(LETTER), bob.buffer(SIZE, populate=False)) == (src, dst), "the same addresses")
    alice.bind("dsa1")
    alice.submit("dsa1", src, dst, SIZE, block_on_fault=True)
    m.run(m.pending[0].number)
    driver = m.kernel.accelerators["dsa1"]
    queue = driver.queue_of(alice.process) or driver.first_queue()
    with m.timeline.operation(f"driver.abort({queue.index})"):
        driver.abort(queue.index)
    m.leave_out(*left_out)
    alice.unbind("dsa1")
    m.leave_out()
    bob.bind("dsa1")
    m.run()
    brought = bob.process.mm.table.find(dst) is not None
    for app in (bob, alice):
        app.exit()
    return brought


STALE: Final = Story(
    "stale", "What a forgotten invalidation does", ("T4", "T9", "T18", "T19"), _tell, breaks=frozenset({1, 10, 13})
)
