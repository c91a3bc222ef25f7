"""What the lab says of policies of VMs and of traps. Templates are filled with ``str.format``."""

from __future__ import annotations

from typing import Final

__all__ = ["HYPERVISOR", "NUMBERS", "OWN_NUMBERS"]

NUMBERS: Final[dict[str, tuple[str, str]]] = {
    # policy of a VM: (label, what it means and costs; nothing where an ADI makes it translated, a PF identity)
    "": ("the first device decides", ""),
    "identity": (
        "identity: the host's numbers",
        "One number everywhere. Cost: guests share none, and cannot move.",
    ),
    "translated": (
        "translated: its own numbers",
        "ADIs only. Cost: a trap for each programming, tables in the CPU.",
    ),
    "refuse": (
        "refuse: one kind of device",
        "Own numbers. Cost: a VM with a PF gets no ADI, or the reverse.",
    ),
    "unenforced": (
        "unenforced: see what goes wrong",
        "Own numbers, any device. Cost: one number gets two meanings.",
    ),
}

OWN_NUMBERS: Final[dict[str, tuple[str, str]]] = {"": ("the guest's own", "")}
"""What a new VM may have where guests own their tables of PASIDs: there is nothing to choose."""

OWN_QUOTA: Final = "A guest's PASIDs are its own: no quota counts them. No ADIs here (talk T5)."
"""What stands there in place of what a VM uses of its quota; it is whole in two lines of the panel."""

OWN_IOASIDS: Final = (
    "Guests own their tables of PASIDs here: no number of theirs is an IOASID of the host. Only processes of the host "
    "have IOASIDs."
)
"""What stands there above the pictures of the host's IOASIDs."""

HYPERVISOR: Final = {
    "off": "You are not the hypervisor",
    "off-more": "Traps of guests are served as they come. Hold them, then let a guest bind, unbind or copy.",
    "on": "You are the hypervisor",
    "on-more": "The next trap of a guest will wait here.",
    "at": "{trap}",
    "at-more": "The pictures stand here. What can be altered: {number}. If you refuse, {vm} is told: {refusal}.",
    "does-virtual command": "A guest has no PASIDs to give: it asks its hypervisor, by a register.",
    "does-invalidation": "A flush tells of a changed entry: the hypervisor binds, unbinds, or hands the flush on.",
    "does-page response": "The guest's answer to a page request of a device; the device waits for it.",
    "does-device register": "An ADI's register with a PASID: the guest's number is stored, and replaced later.",
    "does-device command": "A command to an ADI. A PASID that it names is converted to the host's; ENABLE_WQ "
    "converts the one in the register of a dedicated queue.",
    "does-portal": "A descriptor for the portal of an ADI while nobody may submit directly.",
    "does-VM exit": "ENQCMD found no translation for the guest's number: exit 72 or 73.",
    "at-fixed": "The pictures stand here. It has no number to alter. If you refuse, {vm} is told: {refusal}.",
    "elsewhere": "{count} call{s} wait{verb}",
    "elsewhere-more": "None of them has happened yet. Choose one and decide it.",
    "a-number": "The number to put in",
    "and-now": "{vm} now:",
}
