"""The mistakes that the lab offers, in words: a part of the catalogue (:mod:`pasidlab_widgets.lab.words`).

What is said otherwise where a guest owns its table of PASIDs stands in ``OWN_TABLES``, where the processor has no
enqueue instruction in ``NO_ENQUEUE``. ``table``, ``entry`` and ``store`` are words of the machine.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["MISTAKES", "NEVER", "NO_ENQUEUE", "OWN_TABLES", "MistakeWords"]


class MistakeWords(NamedTuple):
    """The name in the menu, what will be tried, what it needs, and what the answer teaches."""

    title: str
    tried: str
    needs: str
    lesson: str


MISTAKES: Final[dict[str, tuple[str, str, str, str]]] = {
    # key: (name in the menu, what will be tried, what it needs, what the answer teaches)
    "quota-vm": (
        "Bind beyond the quota of a VM",
        "Bind one more process in a VM whose quota is used up.",
        "Needs a VM whose quota is used up, with a device and an unbound process: create one with quota 1, bind one "
        "process, start another.",
        "Whoever is at the limit gets no more; whether it is a promise, too, depends on the administrator's policy.",
    ),
    "quota-system": (
        "Ask for more PASIDs than there are",
        "Create a VM with a quota of 2^20 PASIDs.",
        "Needs a policy that sets PASIDs aside: a limit of a process is no promise, and can be any number.",
        "What is promised to all together fits into the 20 bits of a PASID; the host holds some of them already.",
    ),
    "unknown": (
        "Bind an unknown PASID",
        "Let a hypervisor bind host PASID {pasid}, which nobody has allocated.",
        "Needs a VM with a device and a process.",
        "VFIO only binds what it has allocated: a number alone is worth nothing.",
    ),
    "unknown-free": (
        "Free an unknown PASID",
        "Let a guest give back PASID {pasid}, which it was never given.",
        "Needs a VM.",
        "The guest's virtual command is answered with 'invalid PASID'. Nothing is freed.",
    ),
    "foreign": (
        "Bind the PASID of another VM",
        "Let the hypervisor of {vm} bind host PASID {pasid}, which belongs to {other}.",
        "Needs two VMs: one with a bound process, another with a device and a process.",
        "The IOASID core knows the owner of every number. Without this check one VM could put its page table under "
        "another's PASID.",
    ),
    "double-bind": (
        "Bind twice",
        "Bind {process} to {device} again.",
        "Needs a bound process.",
        "One open of a queue by a process is all there is; the first bind stays as it is.",
    ),
    "unbind": (
        "Unbind what is not bound",
        "Unbind {process} from {device}, to which it is not bound.",
        "Needs an unbound process and a device that it could open.",
        "Binds and unbinds come in pairs; an unbind too many must not take somebody else's binding away.",
    ),
    "dma": (
        "DMA with an unbound PASID",
        "Let {device} send a read with PASID {pasid}, for which there is no {entry}.",
        "Needs an accelerator.",
        "The walk looks for the {entry} of this PASID, and there is no valid one.",
    ),
    "enqcmd": (
        "ENQCMD without a valid IA32_PASID",
        "Let {process} submit work to {device} although it is bound to nothing.",
        "Needs an unbound process and a device with a shared queue that it could open.",
        "ENQCMD takes the PASID from the IA32_PASID register, never from the program. Its valid bit is 0, so the CPU "
        "raises #GP and nothing leaves the core.",
    ),
    "page": (
        "Copy to an address that is not mapped",
        "Let {process} copy to address {address}, which it never mapped.",
        "Needs a bound process.",
        "The PASID is right, but the page table of the process ends on the way. The device may only go where the "
        "process may.",
    ),
    "name-empty": (
        "A VM without a name",
        "Create a VM whose name is empty.",
        "",
        "A name is how everybody finds a VM.",
    ),
    "name-taken": (
        "A VM name that is taken",
        "Create a second VM named {vm}.",
        "Needs a VM.",
        "Two VMs of one name could not be told apart.",
    ),
    "name-hostile": (
        "A VM name with quotes and <script>",
        "Create a VM named {name}.",
        "",
        "It is text and stays text: it is refused, shown, and nothing in it runs.",
    ),
}

OWN_TABLES: Final[dict[str, tuple[str, str, str, str]]] = {
    "quota-system": (
        *MISTAKES["quota-system"][:3],
        "What is promised to all together fits into the 20 bits of a PASID. It counts numbers of the host, of which "
        "no guest takes one here.",
    ),
    "unknown": (
        *MISTAKES["unknown"][:3],
        "A hypervisor hands the {table} of a guest over as a whole; there is no call for one PASID of it.",
    ),
    "unknown-free": (
        *MISTAKES["unknown-free"][:3],
        "A guest numbers its processes by itself, and the hypervisor has given it no number. Nothing is freed.",
    ),
}
"""Where a guest owns its table, which the host binds as a whole."""

NO_ENQUEUE: Final[dict[str, tuple[str, str, str, str]]] = {
    "enqcmd": (
        "Submit to a queue that is not open",
        "Let {process} submit work to {device} although it is bound to nothing.",
        "Needs an unbound process and a device with a dedicated queue that it could open.",
        "A dedicated queue is used by {store} to its portal, a page that the driver maps only into the process that "
        "has opened the queue.",
    ),
}
"""Where work is submitted by a plain store, and the queue has the PASID."""

NEVER: Final[dict[str, str]] = {
    "quota-vm": "No PASID of a guest counts towards a quota here, since {reason}.",
    "foreign": "No guest here has a PASID of the host that another VM could bind, since {reason}.",
}
"""Mistakes that nobody can make where a guest owns its table, with the reason of the model."""
