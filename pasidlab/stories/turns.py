"""Two processes that use a device one after the other: what the stories of teardown have in common.

Alice binds, lets the device copy, and unbinds. Bob, who is next, gets the same PASID, as he may: it is free. Their
buffers have the same addresses. What is wrong with Alice's teardown will show in Bob's turn.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pasidlab.handles import App, AssignedDevice, PhysicalFunction
from pasidlab.stories.story import expect
from pasidlab.timeline import HOST

__all__ = ["DIARY", "LETTER", "SIZE", "Turns", "end_turns", "take_turn"]

DIARY: Final = b"Dear diary, today I"
LETTER: Final = b"Dear Alice, I never"
SIZE: Final = len(DIARY)

Device = PhysicalFunction | AssignedDevice


class Turns(NamedTuple):
    """Both processes. ``src`` holds DIARY in Alice's memory and LETTER in Bob's, ``dst`` nothing; ``pasid`` is the
    number that the device sends for either of them.
    """

    alice: App
    bob: App
    src: int
    dst: int
    pasid: int


def take_turn(alice: App, bob: App, device: Device, *left_out: str) -> Turns:
    """Alice's whole turn; the host's driver leaves these steps out when she unbinds. Bob has not bound yet."""
    m = alice.machine
    src, dst = alice.buffer(DIARY), alice.buffer(SIZE)
    expect((bob.buffer(LETTER), bob.buffer(SIZE)) == (src, dst), "Bob's buffers have the addresses of Alice's")
    number = alice.bind(device)
    pasid = number if alice.altitude == HOST else m.vm(alice.altitude).pasids[number]
    expect(alice.copy(device, src, dst, SIZE).ok, "the device copies for Alice")
    alice.write(dst, bytes(SIZE))
    m.leave_out(*left_out)
    alice.unbind(device)
    m.leave_out()
    return Turns(alice, bob, src, dst, pasid)


def end_turns(turns: Turns) -> None:
    """Both exit. A complete teardown for Bob also ends what is stale under the number that he shares with Alice."""
    for app in (turns.bob, turns.alice):
        app.exit()
    expect(turns.bob.machine.check().ok, "every invariant holds again")
