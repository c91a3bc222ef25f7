"""Handles: what a notebook holds of a VM, a process, a device or a control group, and the verbs on them.

Handles of machines, VMs and devices name something and look it up when used: after going back in time they mean what
that name meant then. A handle of a process means that one process. What is gone answers with an error that says so.
"""

from pasidlab.handles.app import App
from pasidlab.handles.batch import BatchOutcome, BatchTicket
from pasidlab.handles.cgroup import Cgroup
from pasidlab.handles.device import AssignedDevice, PhysicalFunction
from pasidlab.handles.handle import Handle, transaction, verb
from pasidlab.handles.vm import VirtualMachine
from pasidlab.handles.work import Outcome, Ticket

__all__ = [
    "App",
    "AssignedDevice",
    "BatchOutcome",
    "BatchTicket",
    "Cgroup",
    "Handle",
    "Outcome",
    "PhysicalFunction",
    "Ticket",
    "VirtualMachine",
    "transaction",
    "verb",
]
