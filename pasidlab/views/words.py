"""The sentences for events: one catalogue, so that ladders, lists and lessons speak alike.

A sentence is a template over the event's ``subject``, ``before`` and ``after`` and its further facts. The lane says
who; the sentence says what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.timeline import Event

__all__ = ["LANES", "sentence"]

_SENTENCES: Final[dict[Verb, str]] = {
    Verb.CALL: "{subject}",
    Verb.REFUSE: "{subject}",
    Verb.BOOT: "starts {subject}",
    Verb.CREATE: "creates {subject}",
    Verb.DESTROY: "{subject} is killed",
    Verb.SPAWN: "starts {subject}",
    Verb.EXIT: "{subject} exits",
    Verb.SCHEDULE: "lets {subject} run",
    Verb.PLUG: "finds {subject}",
    Verb.ASSIGN: "assigns {subject}",
    Verb.OPEN: "opens {subject}",
    Verb.CLOSE: "closes {subject}",
    Verb.IOCTL: "ioctl {subject}",
    Verb.TRAP: "TRAP {subject}",
    Verb.COMMAND: "command: {subject}",
    Verb.ANSWER: "answer: {subject}",
    Verb.SET_ALLOC: "new ioasid_set: {subject}",
    Verb.SET_FREE: "ioasid_set ends: {subject}",
    Verb.ALLOC: "allocates {subject}",
    Verb.FREE: "frees {subject}",
    Verb.RECLAIM: "{subject} returns to the pool",
    Verb.GET: "reference on {subject}: {before} → {after} (+{holder})",
    Verb.PUT: "reference on {subject}: {before} → {after} (-{holder})",
    Verb.ATTACH_SPID: "{subject} gets SPID {after}",
    Verb.DETACH_SPID: "{subject} loses SPID {before}",
    Verb.REGISTER: "registers {subject}",
    Verb.UNREGISTER: "unregisters {subject}",
    Verb.NOTIFY: "{subject}",
    Verb.HANDLE: "handles {subject}",
    Verb.QUEUE_WORK: "queues work: {subject}",
    Verb.RUN_WORK: "runs work: {subject}",
    Verb.BIND: "binds {subject}",
    Verb.UNBIND: "unbinds {subject}",
    Verb.ATTACH: "attaches {subject}",
    Verb.DETACH: "detaches {subject}",
    Verb.MAP: "maps {subject}",
    Verb.UNMAP: "unmaps {subject}",
    Verb.WRITE_ENTRY: "writes entry, {subject}",
    Verb.CLEAR_ENTRY: "clears entry, {subject}",
    Verb.INVALIDATE: "invalidates {subject}",
    Verb.DRAIN: "{subject}",
    Verb.FAULT: "{subject}",
    Verb.WRITE_MSR: "{subject}",
    Verb.ENQCMD: "{subject}",
    Verb.MOVDIR64B: "MOVDIR64B {subject}",
    Verb.TRANSLATE: "translates {subject}",
    Verb.EXIT_VMX: "VM {subject}",
    Verb.GP_FAULT: "#GP in {subject}",
    Verb.PROGRAM: "programs {subject}",
    Verb.ENABLE: "enables {subject}",
    Verb.DISABLE: "disables {subject}",
    Verb.SUBMIT: "submits work {subject}",
    Verb.ACCEPT: "takes work: {subject}",
    Verb.RETRY: "retry: {subject}",
    Verb.EXECUTE: "executes {subject}",
    Verb.DMA: "DMA {access} of {subject} with {pasid}",
    Verb.COMPLETE: "completes {subject}",
}

_CHANGE: Final = frozenset(
    {Verb.WRITE_ENTRY, Verb.CLEAR_ENTRY, Verb.WRITE_MSR, Verb.TRANSLATE, Verb.PROGRAM, Verb.FREE, Verb.SET_FREE}
)
"""Verbs whose ``before -> after`` is worth saying."""

_SAID: Final = frozenset({Verb.RECLAIM, Verb.DETACH_SPID, Verb.MAP})
"""Verbs whose sentence says already what the thing becomes."""

LANES: Final[dict[str, str]] = {
    "user": "you",
    "app": "process",
    "kernel": "kernel",
    "driver": "kernel",
    "sva": "kernel",
    "iommu": "IOMMU driver",
    "ioasid": "IOASID core",
    "cpu": "CPU",
    "vmm": "VMM",
    "vfio": "VFIO",
    "kvm": "KVM",
    "vdcm": "VDCM",
    "accelerator": "accelerator",
    "iommu unit": "IOMMU",
    "root complex": "IOMMU",
}
"""The lane in which an actor's events stand on the host and in hardware. A guest's kernel is one lane."""


def sentence(event: Event) -> str:
    """What happened, in words.

    >>> from pasidlab.timeline import Event
    >>> sentence(Event(1, 0, None, "host", "ioasid", Verb.GET, "IOASID 3", 1, 2, (("holder", "iommu"),)))
    'reference on IOASID 3: 1 → 2 (+iommu)'
    """
    facts = {name: _word(name, value) for name, value in event.facts}
    words = _SENTENCES[event.verb].format_map(
        _Facts(subject=event.subject, before=event.before, after=event.after, **facts)
    )
    if event.verb in _CHANGE and event.after is not None:
        return f"{words}: {event.before} → {event.after}"
    if event.after is not None and event.verb not in _SAID and "{after}" not in _SENTENCES[event.verb]:
        return f"{words}: {event.after}"
    return words


class _Facts(dict[str, object]):
    """Facts for a template; one that the event does not have reads as ``?``."""

    def __missing__(self, key: str) -> object:
        return "?"


def _word(name: str, value: object) -> object:
    if name == "pasid":
        return "no PASID" if value is None else f"PASID {value}"
    return value
