"""Answers of the modelled world in words: an errno or a reason code of the IOMMU, the reason, and what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.timeline import HOST, Verb
from pasidlab.views.faults import BOOKS
from pasidlab_widgets.lab.message import Message, say
from pasidlab_widgets.lab.words import ERRNO, FAULT

if TYPE_CHECKING:
    from pasidlab.handles import Outcome
    from pasidlab.machine import Machine

__all__ = ["copy_stopped", "fault_since", "refused", "refused_before"]


def refused(error: KernelError, lesson: str = "", behind: str = "") -> Message:
    """What a refusal means: the errno, the reason, what was ``behind`` it, and what it teaches here. Of an errno with
    neither, what it means in general.

    >>> refused(KernelError("ENOSPC", "vm1 has used its quota of 2 PASIDs")).title
    'Refused: -ENOSPC'
    """
    said = say("refused", "refused", name=error.name, reason=error.reason.rstrip("."))
    return said.also(behind, lesson or ("" if behind else ERRNO.get(error.name, "")))


def refused_before(machine: Machine, step: int, error: KernelError) -> str:
    """What the host refused after ``step`` and before a guest was told its own reason, as a sentence; or nothing.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); vm = m.create_vm("vm1", quota=1)
    >>> adi = m.assign_adi(dsa, vm); _, last = vm.spawn("app").bind(adi), vm.spawn("last"); step = m.timeline.now
    >>> try: last.bind(adi)
    ... except KernelError as error: refused_before(m, step, error)
    'Before that the host refused -ENOSPC: vm1 has used its quota of 1 PASIDs.'
    """
    for event in reversed(machine.timeline.since(step)):
        if event.verb is Verb.REFUSE and event.altitude == HOST and event.subject != error.reason:
            name = f" {event.after}" if event.after else ""
            return say("refused-before", reason=event.subject, name=name).sentences[0]
    return ""


def fault_since(machine: Machine, step: int, lesson: str = "") -> Message | None:
    """The newest DMA fault that the IOMMU recorded after ``step``; the line of the kernel that logged it is quoted.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); start = m.timeline.now; _ = m.dma(dsa, 9, 0)
    >>> found = fault_since(m, start); found.title, found.sentences[1]
    ('DMA fault 0x59: SPT.2', 'The kernel of the host logged it.')
    """
    for event in reversed(machine.timeline.events[step:]):
        code = event.fact("code")
        if event.verb is Verb.FAULT and isinstance(code, int):
            said = BOOKS[machine.unit.reading.family].meaning(code)
            facts = {"code": f"{code:#x}", "label": event.after, "meaning": said[:1].upper() + said[1:]}
            where, line = _logged(machine, step)
            logged = say("fault-logged", where=where).sentences if line else ()
            return say("fault", "fault", **facts).also(*logged, lesson, FAULT).printed(*filter(None, (line,)))
    return None


def _logged(machine: Machine, step: int) -> tuple[str, str]:
    """Whose kernel was the last to log a fault after ``step``, and the line; empty if none has.

    A fault of a device whose table is a guest's own is the guest's affair: the host hands it on and logs nothing.
    """
    kernels = {HOST: machine.kernel} | {vm.name: vm.vmm.guest for vm in machine.vms}
    for event in reversed(machine.timeline.since(step)):
        kernel = kernels.get(event.altitude) if event.verb is Verb.HANDLE else None
        if kernel and any(event.subject in entry.splitlines() for entry in kernel.faults.log.values()):
            return ("the host" if event.altitude == HOST else event.altitude), event.subject
    return "", ""


def copy_stopped(machine: Machine, step: int, outcome: Outcome, lesson: str = "") -> Message | None:
    """How a copy that was submitted after ``step`` went wrong; ``None`` if it did not."""
    if outcome.ok:
        return None
    blocked = fault_since(machine, step, lesson)
    if outcome.completion is None:
        return blocked or say("copy-lost", "fault").also(lesson)
    address = f"{outcome.fault_address or 0:#x}"
    said = say("copy-fault", "fault", count=outcome.copied, status=outcome.status.name, address=address)
    if blocked is None:
        return said.also(*say("no-page").sentences, lesson)
    return said.also(blocked.title, *blocked.sentences).printed(*blocked.output)
