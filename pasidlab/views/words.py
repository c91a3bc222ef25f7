"""The sentences for events: one catalogue, so that ladders, lists and lessons speak alike.

A sentence is a template over the event's ``subject``, ``before`` and ``after`` and its further facts. The lane says
who; the sentence says what. What the IOMMU's structures, walks and memory are called stands in
:mod:`pasidlab.views.iommu_words`, what its faults mean in :mod:`pasidlab.views.fault_words_vtd`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.timeline import Event

__all__ = ["CHAINS", "HOLDERS", "KEEPERS", "LANES", "LIFE", "MEANINGS", "OCCUPANCY", "HolderWords", "sentence"]

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
    Verb.DECIDE: "as you decided: {after} {subject}",
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
    Verb.IGNORE: "ignored: {subject}",
    Verb.LEAVE_OUT: "left out: {subject}",
    Verb.DEADLOCK: "DEADLOCK: {subject}",
    Verb.INSTALL: "installs {subject}",
    Verb.RESERVE: "reserves {subject}",
    Verb.CANCEL: "cancels {subject}",
    Verb.ADJUST: "adjusts {subject}",
    Verb.CHARGE: "charges {subject}",
    Verb.UNCHARGE: "uncharges {subject}",
    Verb.MIGRATE: "migrates {subject}",
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
    Verb.ATS: "{subject}",
    Verb.PAGE_REQUEST: "PAGE REQUEST {subject}",
    Verb.PAGE_RESPONSE: "page response: {subject}",
    Verb.PAGE_FAULT: "brings a page: {subject}",
    Verb.INTERRUPT: "interrupt: {subject}",
    Verb.WRITE_MSR: "{subject}",
    Verb.ENQCMD: "{subject}",
    Verb.MOVDIR64B: "{subject}",
    Verb.TRANSLATE: "translates {subject}",
    Verb.EXIT_VMX: "VM {subject}",
    Verb.BLOCK_ENTRY: "keeps out of the guest: {subject}",
    Verb.ALLOW_ENTRY: "lets into the guest again: {subject}",
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
    | {Verb.INSTALL, Verb.ADJUST, Verb.CHARGE, Verb.UNCHARGE, Verb.MIGRATE}
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
    "dev-ioasid": "/dev/ioasid",
    "kvm": "KVM",
    "vdcm": "VDCM",
    "accelerator": "accelerator",
    "iommu unit": "IOMMU",
    "root complex": "IOMMU",
}
"""The lane in which an actor's events stand on the host and in hardware. A guest's kernel is one lane."""


class HolderWords(NamedTuple):
    """One sort of holder: the kind of its box, what it is, and when it lets go."""

    kind: str
    what: str
    lets_go: str


HOLDERS: Final[dict[str, HolderWords]] = {
    "vfio": HolderWords("allocator", "VFIO, for the guest of {owner}", "when VFIO frees the number"),
    "dev-ioasid": HolderWords("allocator", "/dev/ioasid, for {owner}", "when the file frees the number"),
    "sva": HolderWords("allocator", "SVA of {owner}: {process}", "when the process unbinds or exits"),
    "aux-domain": HolderWords("aux", "default PASID of {part}", "when no interface is left"),
    "iommu": HolderWords("binding", "entry on {devices}", "when the last device unbinds"),
    "kvm": HolderWords("kvm-entry", "guest {guest} → host {host}", "at UNBIND or FREE"),
    "vdcm": HolderWords("programming", "programmed into wq{queue} of {device}", "when the queue is stopped"),
    "ims": HolderWords("programming", "may raise interrupts of {part}", "when the vector is masked"),
    "": HolderWords("holder", "a reference by name", "when it says so"),
}
"""Holders of references by the first part of their name (``"kvm:vm1"``); the last row is for any other."""

KEEPERS: Final = {
    "title": "Who keeps IOASID {ioasid} alive?",
    "note": "One box for each holder of a reference. A dying ID goes when the last of them lets go.",
    "unknown": "not allocated",
    "pool": "in the pool",
    "range": "no number of this space: 0 to {last}",
    "refs": "{count} reference{s}",
    "more": "+{count} more",
    "more-what": "{count} references",
    "spid": "guest PASID {spid}",
    "no-spid": "no guest PASID",
    "set": "set {set_id}",
    "makes": "lets go",
    "lets-go": "lets go {when}",
    "head": "next to run",
    "behind": "{count} ahead of it",
    "has-work": "work queued",
    "nothing": "no work queued",
    "by-call": "last, in this call",
    "not-told": "not yet told",
}

MEANINGS: Final = {
    "free": "not allocated",
    "idle": "only its allocator holds it",
    "active": "somebody uses it",
    "free-pending": "freed, still held",
}
"""What each state of an IOASID means."""

LIFE: Final = {
    "title": "The life of an IOASID: {out} out",
    "note": "A token is an ID. Arrows are the moves that are allowed; the thick one is the move of this step.",
    "count": "{count} left",
    "more": "+{count}",
    "more-hint": "{count} more IDs",
    "token": "IOASID {ioasid} of {owner}, {refs}",
    "token-free": "IOASID {ioasid}, in the pool",
}

CHAINS: Final = {
    "title": "Who is told what, in order of delivery",
    "note": "Chains are merged by priority, larger first. The global chain hears FREE only, a set's chain everything.",
    "now": "Now: {event} of IOASID {ioasid}. Told: {told}. Running: {running}. Next: {next}.",
    "nobody": "nobody",
    "set": "{ids} out",
    "delivers": "{event} of IOASID {ioasid}",
    "quiet": "nothing is delivered",
    "global": "global chain",
    "own": "set's chain",
    "priority": "{name} ({number}), {chain}",
    "hears": "hears {events}",
    "told": "told",
    "running": "running",
    "one-of": "one of these",
    "or": " or ",
    "next": "next",
    "later": "later",
    "not-told": "not told",
    "waiting": "registrations wait for it",
    "waiting-for": "hears nothing yet",
    "no-set": "no set yet",
    "pending": "pending",
    "somebody": "an mm",
    "more": "+{count} more sets",
    "more-waiting": "+{count} more wait",
    "more-listeners": "+{count} more",
}

OCCUPANCY: Final = {
    "title": "IOASID sets and their quotas",
    "one": "The quota of {name}",
    "note": "Of each quota: in use, freed but still held, left. Bars are drawn to the scale of their own quota.",
    "sets": "IOASID sets",
    "set": "set {set_id} {name}",
    "space": "all {total} IOASIDs",
    "used": "in use",
    "pending": "{count} free-pending",
    "pending-key": "free-pending",
    "quota-left": "{count} left",
    "promised": "promised to sets",
    "policy": "kept by the policy",
    "reserved": "reserved by the administrator",
    "left": "not promised",
    "lost": "lost: nobody has it",
    "no-quota": "no quota of its own",
    "ending": "ends with its last ID",
    "more": "+{count} more sets",
}


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
