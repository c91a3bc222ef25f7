"""Whose PASIDs a guest sees, and which devices it may have then: the ways out of the conflict of numbers.

PASID tables are per requester ID, IOASIDs are system-wide. A physical function (PF) is programmed by its guest without
mediation, so its requests carry the *guest's* number. An assignable interface (ADI) is mediated, so its requests carry
the *host's*. ENQCMD is translated by the CPU for the whole VM, whatever device the portal belongs to. A VM that has a
PF and an ADI therefore has one number with two meanings, unless a policy prevents that:

* ``identity``: the virtual command returns the host's number, and there is one number only;
* ``translated``: the guest has numbers of its own (SPIDs), and mediated devices only;
* ``refuse``: numbers of its own, and one kind of device: PFs, whose own tables are indexed by the guest's numbers and
  whose portals get them from ENQCMD untranslated, or ADIs, as above;
* ``unenforced``: all devices, and nobody keeps the numbers apart. For people who want to see what goes wrong.

Source: the talk (T6, T7, T10); the policy table of the /dev/iommu proposal (v2, 2021). UNVERIFIED, since no code that
mixes them was published: that an unenforced host keeps a PF's entry under the guest's number, and looks a page request
up by its number alone.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pasidlab.kernel.iommu.device import Numbering

__all__ = ["NO_POLICY", "POLICIES", "Policy"]

NO_POLICY: Final = (
    "a policy decides which numbers a guest sees where the host backs each of them (VT-d); on {iommu} the guest owns "
    "its whole table, and its numbers are its own on every device (talk T2 and T11; docs/iommus.md)"
)
"""Why a VM can have no policy where its guest owns its table of PASIDs."""


class Policy(NamedTuple):
    """One policy. ``function``: whose numbers a PF's requests carry then, ``None`` if the VM may have no PF.

    ``own_numbers``: the guest sees numbers of its own. ``mixes``: it may have PFs and ADIs. ``untranslated``: while it
    has a PF, ENQCMD leaves the CPU with the guest's number. ``rule`` says it in words, ``cost`` what it costs.
    """

    name: str
    own_numbers: bool
    function: Numbering | None
    mixes: bool
    untranslated: bool
    rule: str
    cost: str


POLICIES: Final = {
    policy.name: policy
    for policy in (
        Policy(
            "translated",
            own_numbers=True,
            function=None,
            mixes=False,
            untranslated=False,
            rule="the guest has its own numbers, and mediated devices only",
            cost="no physical functions; each programming is trapped, each ENQCMD translated",
        ),
        Policy(
            "identity",
            own_numbers=False,
            function=Numbering.HOST,
            mixes=True,
            untranslated=False,
            rule="the guest sees the host's numbers, on every device",
            cost="no two guests share a number, and a guest cannot take its numbers to another host",
        ),
        Policy(
            "refuse",
            own_numbers=True,
            function=Numbering.GUEST,
            mixes=False,
            untranslated=True,
            rule="the guest has its own numbers, and one kind of device",
            cost="a VM with a physical function has no interfaces, and the other way round",
        ),
        Policy(
            "unenforced",
            own_numbers=True,
            function=Numbering.UNSORTED,
            mixes=True,
            untranslated=False,
            rule="the guest has its own numbers, and any devices",
            cost="numbers with two meanings: pages are asked of the wrong owner, ENQCMD reaches the wrong memory",
        ),
    )
}
"""By name."""
