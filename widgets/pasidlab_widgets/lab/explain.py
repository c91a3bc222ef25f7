"""Answers of the modelled world in words: an errno or a VT-d reason code, the reason, and what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.vtd.faults import FaultReason
from pasidlab.timeline import Verb
from pasidlab_widgets.lab.message import Message, say
from pasidlab_widgets.lab.words import ERRNO, FAULT

if TYPE_CHECKING:
    from pasidlab.machine import Machine

__all__ = ["fault_since", "refused"]


def refused(error: KernelError, lesson: str = "") -> Message:
    """What a refusal means: the errno, the reason, and what it teaches here (else the errno in words).

    >>> refused(KernelError("ENOSPC", "vm1 has used its quota of 2 PASIDs")).title
    'Refused: -ENOSPC'
    """
    said = say("refused", "refused", name=error.name, reason=error.reason.rstrip("."))
    return said.also(lesson or ERRNO.get(error.name, ""))


def fault_since(machine: Machine, step: int, lesson: str = "") -> Message | None:
    """The newest DMA fault that the IOMMU recorded after ``step``; the host's log line is quoted.

    >>> from pasidlab import Machine
    >>> m = Machine(); dsa = m.plug_accelerator("dsa0"); start = m.timeline.now; _ = m.dma(dsa, 9, 0)
    >>> fault_since(m, start).title
    'DMA fault 0x59: SPT.2'
    """
    for event in reversed(machine.timeline.events[step:]):
        code = event.fact("code")
        if event.verb is Verb.FAULT and isinstance(code, int):
            reason = FaultReason.of(code)
            record = machine.fault_log[-1] if machine.fault_log else ""
            meaning = reason.meaning[:1].upper() + reason.meaning[1:]
            facts = {"code": f"{code:#x}", "label": reason.label, "meaning": meaning}
            return say("fault", "fault", **facts).also(lesson, FAULT).printed(record)
    return None
