"""Which actions Hypothesis draws: mostly sensible ones, with a share of mistakes and malice.

A script begins with a prologue that builds a small data centre, so that what follows has something to work on.
"""

from hypothesis import strategies as st

from pasidlab.kernel.mm import MMAP_BASE
from tests.properties.actions import HOST, Action

__all__ = ["INTERFACES", "IOMMUS", "PROLOGUES", "VMS", "actions", "guest_work", "prologues", "scripts"]

VMS = ("vm1", "vm2")
vms = st.sampled_from(VMS)
places = st.sampled_from((*VMS, *VMS, HOST))
apps = st.sampled_from("ab")
devices = st.sampled_from(("dsa0", "dsa0", "dsa1"))
slots = st.integers(0, 1)
offsets = st.integers(0, 31)
pasids = st.integers(0, 9)


def action(what, where, *args):
    """A strategy for one kind of action."""
    return st.builds(lambda where, *args: Action(what, where, args), where, *args)


def process_work(where):
    """What processes do."""
    return [
        action("spawn", where, apps),
        action("bind", where, apps, slots),
        action("bind", where, apps, slots),
        action("copy", where, apps, slots, offsets),
        action("copy", where, apps, slots, offsets),
        action("submit", where, apps, slots),
        action("unbind", where, apps, slots),
        action("exit", where, apps),
    ]


guest_work = st.one_of(*process_work(vms), action("free", vms, pasids))
"""What happens inside a VM that has its devices."""

stray = action(
    "dma", st.just(HOST), devices, pasids, st.sampled_from((0, 0x1000, MMAP_BASE, MMAP_BASE + 0x3000)), st.just("read")
)

crash = action("crash", vms)
setup = st.one_of(
    action("create", vms, st.integers(1, 4), st.sampled_from((None, None, "translated", "identity"))),
    action("adi", vms, devices, st.sampled_from(("shared", "shared", "dedicated"))),
    action("pf", vms, st.just("dsa1")),
    crash,
)
whole_setup = st.one_of(
    action("create", vms, st.integers(1, 4), st.sampled_from((None, None, None, "identity"))),
    action("adi", vms, devices, st.just("dedicated")),
    action("pf", vms, st.sampled_from(("dsa1", "dsa2"))),
    action("pf", vms, st.sampled_from(("dsa1", "dsa2"))),
    crash,
)
"""Where a device goes to a VM as a whole; the rest is refused."""


def anything(change):
    """Whatever a person can do."""
    return st.one_of(
        *process_work(places),
        *process_work(places),
        action("free", vms, pasids),
        action("bind_raw", vms, apps, slots, pasids),
        stray,
        action("run", st.just(HOST), st.none() | st.integers(0, 3)),
        action("run", st.just(HOST), st.none()),
        change,
    )


IOMMUS = ("vtd", "smmuv3", "amdvi")
INTERFACES = {"vtd"}
"""Where one device can serve several VMs."""
_ACTIONS = {True: anything(setup), False: anything(whole_setup)}


def actions(iommu):
    """Everything, on a machine with this IOMMU."""
    return _ACTIONS[iommu in INTERFACES]


def prologue(first, second):
    """Two VMs with their devices, and two processes everywhere, one of which is bound."""
    people = [Action("spawn", where, (name,)) for where in (*VMS, HOST) for name in "ab"]
    return [*first, *second, *people, *(Action("bind", where, ("a", 0)) for where in (*VMS, HOST))]


def mediated(vm, *kinds):
    """A VM with interfaces of dsa0."""
    return [Action("create", vm, (3, None)), *(Action("adi", vm, ("dsa0", kind)) for kind in kinds)]


PROLOGUES = (
    prologue(mediated("vm1", "shared"), mediated("vm2", "shared")),
    prologue(mediated("vm1", "dedicated", "shared"), mediated("vm2", "shared", "dedicated")),
    prologue(
        [
            Action("create", "vm1", (3, "identity")),
            Action("pf", "vm1", ("dsa1",)),
            Action("adi", "vm1", ("dsa0", "shared")),
        ],
        mediated("vm2", "shared", "shared"),
    ),
)

WHOLE_PROLOGUES = (
    prologue(
        [Action("create", "vm1", (3, None)), Action("pf", "vm1", ("dsa1",))],
        [Action("create", "vm2", (3, None)), Action("pf", "vm2", ("dsa2",))],
    ),
)


def prologues(iommu):
    """How scripts begin, on a machine with this IOMMU."""
    return PROLOGUES if iommu in INTERFACES else WHOLE_PROLOGUES


def scripts(iommu):
    """Whole scripts: a prologue and what Hypothesis makes of it."""
    begin, rest = st.sampled_from(prologues(iommu)), st.lists(actions(iommu), min_size=5, max_size=25)
    return st.builds(lambda begin, rest: [*begin, *rest], begin, rest)
