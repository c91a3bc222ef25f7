"""What the pane "Hypervisor" does: calls on the machine, and what a guest was told and believes after them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.views.traps_beliefs import beliefs, told
from pasidlab.virt.traps import Decision
from pasidlab_widgets.lab.explain import refused
from pasidlab_widgets.lab.message import Message, say

if TYPE_CHECKING:
    from pasidlab.handles.hypervisor import WaitingTrap
    from pasidlab.machine import Machine

__all__ = ["believed", "decide", "forget", "hold", "trapped"]


def hold(machine: Machine, on: bool) -> Message:
    """Let traps of guests wait from now on, or let them pass again.

    >>> from pasidlab import Machine
    >>> hold(Machine(), True).lines
    ('m.hold_traps()',)
    """
    machine.hold_traps(on)
    return say("hold" if on else "release").of(("m.hold_traps()" if on else "m.hold_traps(False)",))


def trapped(machine: Machine) -> Message | None:
    """What to say when a call has come to a trap that nobody has decided; ``None`` if none has."""
    now = machine.trap_now
    return None if now is None else say("trapped", "info", vm=now.trap.vm, words=now.trap.words)


def decide(machine: Machine, answer: str, value: int | None, number: int) -> Message:
    """Decide a trap that waits, and say what the guest was told. What its call answers is an answer like any other."""
    one = _waiting(machine, number)
    line = f'm.decide("{answer}", number={number})' if value is None else f'm.decide("{answer}", {value}, {number})'
    try:
        decided = machine.decide(answer, value, number)
    except KernelError as error:
        if number in {other.number for other in machine.traps}:
            raise
        return refused(error).also(_told(one, answer, value)).of((line, one.call.line))
    words = _told(one, answer, value)
    if decided.trap is not None:
        return say("decided-next", "info", words=decided.trap.trap.words, told=words).of((line,))
    return say("decided", line=one.call.line, told=words).of((line, one.call.line))


def _told(one: WaitingTrap, answer: str, value: int | None) -> str:
    return told(one.trap, Decision.parse(answer if value is None else f"{answer} {value}"))


def forget(machine: Machine, number: int) -> Message:
    """Give a call that waits up."""
    one = _waiting(machine, number)
    machine.forget_trap(number)
    return say("forgotten", "info", line=one.call.line).of((f"m.forget_trap({number})",))


def _waiting(machine: Machine, number: int) -> WaitingTrap:
    found = next((one for one in machine.traps if one.number == number), None)
    if found is None:
        raise KernelError("EINVAL", f"no trap with the number {number} waits")
    return found


def believed(machine: Machine, vm: str) -> list[str]:
    """Where the guest of this name is wrong about its PASIDs; nothing of one that is gone."""
    return beliefs(machine, machine.vm(vm)) if vm in machine.vmms else []
