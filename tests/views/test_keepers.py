"""Who keeps an IOASID alive: every holder by name, what for, and what will make it let go."""

from __future__ import annotations

from pasidlab import Machine
from pasidlab.timeline import Verb
from pasidlab.views import Figure, svg, text, topology
from pasidlab.views.keepers import keepers
from pasidlab.views.layout import geometry
from pasidlab.views.room import Room
from tests.views.hostile import NAMES
from tests.views.worlds import bound_vms, freed_early, step_of

DYING = 3


def present(figure: Figure, start: str) -> dict[str, tuple[str, ...]]:
    """What the boxes whose key starts like this say, with their state's word."""
    nodes = (node for node in figure.nodes if node.present and node.key.startswith(start))
    return {node.key.removeprefix(start): (*node.lines, node.word) for node in nodes}


def test_every_holder_is_there_with_what_it_holds_the_id_for() -> None:
    """Read where it takes effect: KVM's table, the driver's binding, the queue of the device."""
    machine = freed_early()
    machine.timeline.back_over()
    figure = keepers(machine, DYING)
    said = present(figure, "holder:")
    assert list(said) == ["vfio", "iommu", "kvm:vm1", "vdcm:adi0"]
    assert [lines[1] for lines in said.values()] == [
        "VFIO, for the guest of vm1",
        "entry on dsa0",
        f"guest 1 → host {DYING}",
        "programmed into wq2 of dsa0",
    ]
    assert present(figure, "ioasid:") == {str(DYING): (f"IOASID {DYING}", "guest PASID 1", "4 references", "active")}
    assert present(figure, "set:") == {"1": ("vm1", "1 of 8", "set 1")}
    assert present(figure, "work:") == {}


def test_a_dying_id_says_what_each_holder_waits_for() -> None:
    """Work in the core's ordered queue, which says how much is ahead of it."""
    figure = keepers(freed_early(), DYING)
    assert {key: said[-1] for key, said in present(figure, "holder:").items()} == {
        "iommu": "work queued",
        "vdcm:adi0": "work queued",
    }
    assert sorted(said[-1] for said in present(figure, "work:").values()) == ["1 ahead of it", "next to run"]
    ends = {edge.tail: edge.head for edge in figure.edges if edge.present}
    assert ends["work:host.iommu.svm"] == "holder:iommu"
    assert ends["work:host.mdev[adi0]"] == "holder:vdcm:adi0"


def test_in_the_middle_of_free_it_says_who_was_not_told_yet() -> None:
    """And that the allocator's own reference goes last."""
    machine = freed_early()
    step_of(machine, Verb.CLEAR_ENTRY, "kvm")
    said = {key: lines[-1] for key, lines in present(keepers(machine, DYING), "holder:").items()}
    assert said == {
        "vfio": "last, in this call",
        "iommu": "not yet told",
        "kvm:vm1": "not yet told",
        "vdcm:adi0": "not yet told",
    }


def test_work_of_a_worker_without_a_reference_points_to_the_id() -> None:
    """A shared queue is drained of a number that its device does not hold."""
    machine = bound_vms(1)
    machine.vm("vm1").free_pasid(1)
    figure = keepers(machine, 2)
    ends = {edge.tail: edge.head for edge in figure.edges if edge.present}
    assert ends["work:host.mdev[adi0]"] == "ioasid:2"
    assert ends["work:host.iommu.svm"] == "holder:iommu"


def test_two_references_of_one_holder_are_told_as_2() -> None:
    """One box, not two."""
    machine = bound_vms(1)
    for _ in range(2):
        machine.kernel.ioasid.get(2, "tester")
    figure = keepers(machine, 2)
    assert [edge.label for edge in figure.edges if edge.tail == "holder:tester"] == ["2 references"]
    assert figure.node("holder:tester").lines[1] == "a reference by name"


def test_native_and_default_pasids_have_their_holders() -> None:
    """SVA names the process, an auxiliary domain its VM."""
    machine = bound_vms(1)
    app = machine.spawn("native")
    pasid = app.bind(machine.device("dsa0"))
    assert present(keepers(machine, pasid), "holder:")["sva"][1] == "SVA of host: native"
    assert present(keepers(machine, 1), "holder:")["aux-domain:vm1"][1] == "default PASID of vm1"


def test_a_number_that_is_not_out_is_told_so() -> None:
    """In the pool, or no number at all: a message, no exception."""
    machine = bound_vms(1)
    assert present(keepers(machine, 999), "ioasid:")["999"][1:] == (
        "in the pool",
        "",
        "not allocated",
    )
    for wrong in (-1, (1 << 32) - 1, 1 << 40):
        assert "no number of this space: 0 to 4294967294" in text(keepers(machine, wrong))


def test_nobody_moves_when_one_lets_go() -> None:
    """Boxes stay where they are while work runs, and those that are gone are hidden."""
    machine, room = freed_early(), Room()
    first = keepers(machine, DYING, room)
    machine.run(machine.pending[0].number)
    second = keepers(machine, DYING, room)
    assert topology(first) == topology(second)
    assert list(present(second, "holder:")) == ["iommu"]
    machine.run()
    assert present(keepers(machine, DYING, room), "holder:") == {}


def test_holders_keep_their_order_when_work_is_queued() -> None:
    """Only a column in front of them is new."""
    machine, room = freed_early(), Room()
    machine.timeline.back_over()
    heights = []
    for _ in range(2):
        found = geometry(topology(keepers(machine, DYING, room))).nodes
        heights.append({key: rect.y for key, rect in found.items() if key.startswith("holder:")})
        machine.timeline.forward_over()
    assert heights[0] == heights[1]


def test_many_holders_are_folded() -> None:
    """At most about 60 boxes, and no reference is lost."""
    machine = bound_vms(1)
    for at in range(70):
        machine.kernel.ioasid.get(2, f"tester{at}")
    figure = keepers(machine, 2)
    assert len(figure.nodes) <= 60
    assert figure.node("more").lines[:2] == ("+50 more", "50 references")


def test_hostile_holders_are_text() -> None:
    """A name that wants to break out is drawn as it is."""
    machine: Machine = bound_vms(1)
    for name in NAMES:
        machine.kernel.ioasid.get(2, name)
    figure = keepers(machine, 2)
    assert "<script>alert" not in svg(figure)
    assert "\x1b" not in text(figure)
