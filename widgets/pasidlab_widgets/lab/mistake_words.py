"""The mistakes that the lab offers, in words: a part of the catalogue (:mod:`pasidlab_widgets.lab.words`)."""

from __future__ import annotations

from typing import Final

__all__ = ["MISTAKES"]

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
        "Let {device} send a read with PASID {pasid}, for which there is no PASID entry.",
        "Needs an accelerator.",
        "The walk ends at the PASID entry, which is not present.",
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
