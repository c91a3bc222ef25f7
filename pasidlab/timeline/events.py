"""Typed events: every step that a person would name, in total order, each with the event that caused it.

Pictures, ladders, logs and tests read this stream and nothing else. An event is immutable; what it tells is *when*
(``number``), *who* (``actor`` at an ``altitude``), *what* (``verb`` on a ``subject``, ``before -> after``) and *why*
(``cause``, the number of the event that led here). An ioctl, the notification it sends and the handlers that this calls
form a tree.
"""

from __future__ import annotations

from enum import StrEnum, unique
from typing import NamedTuple

__all__ = ["HARDWARE", "HOST", "USER", "Event", "Verb"]

USER = "user"
"""Altitude of the person at the keyboard (the calls on a machine)."""
HOST = "host"
"""Altitude of the host: its kernel, its hypervisor processes."""
HARDWARE = "hardware"
"""Altitude of silicon. Guests use their VM's name."""


@unique
class Verb(StrEnum):
    """What can happen. The value is the word that logs and ladders print."""

    # a person, and the life of machines, VMs, processes and devices
    CALL = "call"
    REFUSE = "refuse"
    BOOT = "boot"
    CREATE = "create"
    DESTROY = "destroy"
    SPAWN = "spawn"
    EXIT = "exit"
    SCHEDULE = "schedule"
    PLUG = "plug"
    ASSIGN = "assign"
    OPEN = "open"
    CLOSE = "close"
    # requests that cross a boundary
    IOCTL = "ioctl"
    TRAP = "trap"
    DECIDE = "decide"
    COMMAND = "command"
    ANSWER = "answer"
    # IOASID core
    SET_ALLOC = "set-alloc"
    SET_FREE = "set-free"
    ALLOC = "alloc"
    FREE = "free"
    RECLAIM = "reclaim"
    GET = "get"
    PUT = "put"
    ATTACH_SPID = "attach-spid"
    DETACH_SPID = "detach-spid"
    REGISTER = "register"
    UNREGISTER = "unregister"
    NOTIFY = "notify"
    HANDLE = "handle"
    QUEUE_WORK = "queue-work"
    RUN_WORK = "run-work"
    IGNORE = "ignore"
    DEADLOCK = "deadlock"
    # what administrators do
    INSTALL = "install"
    RESERVE = "reserve"
    CANCEL = "cancel"
    ADJUST = "adjust"
    CHARGE = "charge"
    UNCHARGE = "uncharge"
    MIGRATE = "migrate"
    # IOMMU and address spaces
    BIND = "bind"
    UNBIND = "unbind"
    ATTACH = "attach"
    DETACH = "detach"
    MAP = "map"
    UNMAP = "unmap"
    WRITE_ENTRY = "write-entry"
    CLEAR_ENTRY = "clear-entry"
    LEAVE_OUT = "leave-out"
    INVALIDATE = "invalidate"
    DRAIN = "drain"
    FAULT = "fault"
    ATS = "ats"
    PAGE_REQUEST = "page-request"
    PAGE_RESPONSE = "page-response"
    PAGE_FAULT = "page-fault"
    INTERRUPT = "interrupt"
    # CPU
    WRITE_MSR = "write-msr"
    ENQCMD = "enqcmd"
    MOVDIR64B = "movdir64b"
    TRANSLATE = "translate"
    EXIT_VMX = "vm-exit"
    BLOCK_ENTRY = "block-vm-entry"
    ALLOW_ENTRY = "allow-vm-entry"
    GP_FAULT = "#GP"
    # accelerator
    PROGRAM = "program"
    ENABLE = "enable"
    DISABLE = "disable"
    SUBMIT = "submit"
    ACCEPT = "accept"
    RETRY = "retry"
    EXECUTE = "execute"
    DMA = "dma"
    COMPLETE = "complete"


class Event(NamedTuple):
    """One named step. ``facts`` holds further values by name, in the order in which they were given.

    >>> event = Event(7, 2, 5, "host", "vfio", Verb.ALLOC, "PASID 101", None, 101, (("pasid", 101),))
    >>> event.fact("pasid"), str(event)
    (101, '#7 host/vfio alloc PASID 101: 101')
    """

    number: int
    operation: int
    cause: int | None
    altitude: str
    actor: str
    verb: Verb
    subject: str
    before: object = None
    after: object = None
    facts: tuple[tuple[str, object], ...] = ()

    def fact(self, name: str) -> object:
        """The value called ``name``, or ``None``."""
        for key, value in self.facts:
            if key == name:
                return value
        return None

    def __str__(self) -> str:
        change = ""
        if self.before is not None:
            change = f": {self.before} -> {self.after}"
        elif self.after is not None:
            change = f": {self.after}"
        return f"#{self.number} {self.altitude}/{self.actor} {self.verb} {self.subject}{change}"
