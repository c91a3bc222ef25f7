"""Handles: what a notebook holds of a VM, a process or a device, and the verbs on them.

A handle has no state: it names something in the machine and looks it up when used. After going back in time a handle
means what that name meant then; a handle of something that is gone answers with an error that says so.
"""

from pasidlab.handles.app import App
from pasidlab.handles.device import AssignedDevice, PhysicalFunction
from pasidlab.handles.handle import Handle, transaction, verb
from pasidlab.handles.vm import VirtualMachine
from pasidlab.handles.work import Outcome, Ticket

__all__ = [
    "App",
    "AssignedDevice",
    "Handle",
    "Outcome",
    "PhysicalFunction",
    "Ticket",
    "VirtualMachine",
    "transaction",
    "verb",
]
