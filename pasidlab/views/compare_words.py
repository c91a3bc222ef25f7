"""The sentences of the comparison of machines: its steps, what is tried, what stands in its boxes and tables."""

from __future__ import annotations

from typing import Final

__all__ = ["COMPARE", "STEPS", "TRIES"]

STEPS: Final = {
    "vm": (
        "a VM is created",
        "A hypervisor opens KVM and VFIO; the guest's memory is mapped for DMA; the guest boots.",
    ),
    "function": (
        "it gets a whole function",
        "VFIO attaches the VM's domain, which bounds whatever the device sends; the guest's kernel finds the function "
        "and prepares its own tables for it.",
    ),
    "bind": (
        "a process binds",
        "The guest's kernel takes a PASID and writes an entry that leads to the process's page table.",
    ),
    "copy": ("the device copies", "The process submits a copy; the device reads and writes at virtual addresses."),
    "second": ("a second process binds", "The same once more, with the next number."),
    "unmap": (
        "the first process unmaps a buffer",
        "The guest's kernel has the IOMMU and the device forget what they know of these pages.",
    ),
    "unbind": ("the second process unbinds", "Its entry goes, then whatever the caches know of it, then its number."),
    "exit": ("the first process exits", "Its memory goes first, then its files are closed: unbound by its kernel."),
    "end": ("the VM ends", "The hypervisor is killed; the function is the host's own again."),
}
"""The steps of the script in order: by name, what is done, and what it means."""

TRIES: Final = {
    "interfaces": "interfaces of one function for two VMs",
    "enqcmd": "a shared work queue, by ENQCMD",
    "functions": "a function each for two VMs: the numbers that their first processes get",
    "quota": "two processes in a VM whose quota is one PASID",
    "one": "one PASID of a guest, bound by itself",
    "table": "a guest's whole table, bound at once",
    "policy": "a policy for a VM's numbers (translated)",
    "neighbour": "one function for two VMs as a whole",
}
"""What is tried on each machine beside the script."""

COMPARE: Final = {
    "title": "The same guest, side by side",
    "note": "{step}: step {now} of {last}; {sub}",
    "legend": "Solid: the way that silicon goes. Dashed: what the host copies.",
    "sub": "event {sub} of {subs}",
    "begin": "before it begins",
    "step": "step",
    "price": "{title}: the price of each step",
    "total": "in all",
    "prices": "The price: {what}",
    "counted": "counted",
    "shadow": "shadow: each PASID",
    "bind": "bind: the whole table",
    "who": "Who wrote words of tables, what was trapped, what the host allocated",
    "machine": "machine",
    "wrote": "table words",
    "trapped": "trapped",
    "allocated": "host PASIDs",
    "nothing": "none",
    "host-guest": "host {host}, guest {guest}",
    "tries": "What each can do, and what it refuses",
    "tried": "tried",
    "sends": "sends PASID {numbers}",
    "sends-none": "sends no PASID now",
    "machine-device": "{device} of {kind}",
    "guest-device": "guest: device entry",
    "host-device": "host: device entry",
    "guest-numbers": "guest: {numbers}",
    "host-numbers": "host: {numbers}",
    "guest-entry": "written by the guest",
    "guest-entry-bound": "copied once by the host",
    "guest-entry-none": "no guest",
    "host-entry": "written by the host",
    "host-entry-bound": "leads to the guest's",
    "guest-table-live": "bound as a whole",
    "guest-table-idle": "copied by the host",
    "host-table": "one entry a PASID",
    "host-table-none": "not for this device",
    "absent": "not there",
    "read": "read",
    "unread": "not read",
    "empty": "no PASID",
    "pasids": "PASID {numbers}",
    "pasids-many": "PASIDs {numbers}",
    "at": "at {address:#x}",
    "pages": "page tables",
    "processes": "of {names}",
    "no-process": "of no process",
    "second": "the VM's memory",
    "bounds": "bounds every request",
    "second-none": "nothing to bound",
    "ioasids": "host PASIDs",
    "ioasids-none": "none is out",
    "ioasids-out": "{numbers} out",
    "now": "price of this step (and in all)",
    "tags": "Price of this step (and in all); underlined: the machines differ",
    "line": "{words}: {now} ({total})",
    "guest-frame": "guest",
    "host-frame": "host",
}
