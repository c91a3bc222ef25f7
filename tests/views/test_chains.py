"""Who is told what: one order over both chains, whose turn it is, and who waits for a set."""

from __future__ import annotations

from pasidlab.kernel.ioasid.notifier import IoasidEvent, NotifyFlag, Payload, Priority
from pasidlab.timeline import Actor, Part, Timeline, Verb
from pasidlab.views import Figure, svg, text
from pasidlab.views.chains import chains
from pasidlab.views.delivery import Delivery, _whose, delivery_now
from tests.views.hostile import NAMES
from tests.views.worlds import bound_vms, crowd, freed_early, step_of


def row(figure: Figure, key: str) -> list[str]:
    """The names of the boxes of a row, in the order of its arrows."""
    after = {edge.tail: edge.head for edge in figure.edges}
    at, names = f"{key}:core", []
    while at in after:
        at = after[at]
        names.append(figure.node(at).lines[0])
    return names


def words(figure: Figure, key: str) -> dict[str, str]:
    """Whose turn it is in a row."""
    nodes = (node for node in figure.nodes if node.key.startswith(f"{key}:") and node.kind == "listener")
    return {node.lines[0]: node.word for node in nodes}


class Interface(Actor):
    """A subscriber that is one of several of its kind."""

    actor = "vdcm"

    def __init__(self, timeline: Timeline, name: str) -> None:
        super().__init__(timeline, f"host.mdev[{name}]", "host")
        self.notifier_name = name
        self.notifier_priority = Priority.DEVICE

    def ioasid_notified(self, event: IoasidEvent, payload: Payload) -> bool:
        """Not interested."""
        return False


class Listener(Part):
    """A subscriber that does nothing."""

    def __init__(self, timeline: Timeline, name: str, priority: Priority = Priority.LAST) -> None:
        super().__init__(timeline, f"listener {name}")
        self.notifier_name = name
        self.notifier_priority = priority

    def ioasid_notified(self, event: IoasidEvent, payload: Payload) -> bool:
        """Not interested."""
        return False


def test_a_row_is_the_order_in_which_the_core_delivers() -> None:
    """Both chains merged by priority; each box says its chain, its priority and what it hears."""
    machine = bound_vms()
    core, figure = machine.kernel.ioasid, chains(machine)
    for the_set in core.sets.values():
        listeners = core.notifiers.listeners(the_set, NotifyFlag.ALL | NotifyFlag.SET)
        assert row(figure, f"set:{the_set.set_id}") == [known.notifier_name for known in listeners]
    assert row(figure, "set:1") == ["KVM vm1", "VDCM adi0", "IOMMU driver"]
    lines = {node.lines[0]: node.lines[1:] for node in figure.nodes}
    assert lines["KVM vm1"] == ("CPU (3), set's chain", "hears ALLOC, FREE, BIND, UNBIND")
    assert lines["IOMMU driver"] == ("IOMMU (1), global chain", "hears FREE")


def test_free_is_followed_from_one_to_the_next() -> None:
    """Told, running, next, later: read from the events of each handler."""
    machine = freed_early()
    notified = step_of(machine, Verb.NOTIFY, "ioasid")
    assert words(chains(machine), "set:1") == {"KVM vm1": "next", "VDCM adi0": "later", "IOMMU driver": "later"}
    machine.timeline.go(machine.timeline.last)
    step_of(machine, Verb.CLEAR_ENTRY, "kvm")
    assert words(chains(machine), "set:1") == {"KVM vm1": "running", "VDCM adi0": "next", "IOMMU driver": "later"}
    machine.timeline.go(machine.timeline.last)
    step_of(machine, Verb.QUEUE_WORK, "vdcm")
    assert words(chains(machine), "set:1") == {"KVM vm1": "told", "VDCM adi0": "running", "IOMMU driver": "next"}
    machine.timeline.go(machine.timeline.last)
    step_of(machine, Verb.QUEUE_WORK, "iommu")
    figure = chains(machine)
    assert words(figure, "set:1") == {"KVM vm1": "told", "VDCM adi0": "told", "IOMMU driver": "running"}
    assert figure.note == "Now: FREE of IOASID 3. Told: KVM vm1, VDCM adi0. Running: IOMMU driver. Next: nobody."
    assert set(words(figure, "set:2").values()) == {""}
    machine.timeline.go(notified - 1)
    assert delivery_now(machine) is None


def test_what_goes_to_the_set_alone_is_not_for_the_global_chain() -> None:
    """The IOMMU driver does not hear BIND, which it causes."""
    machine = bound_vms(1)
    step_of(machine, Verb.WRITE_ENTRY, "kvm")
    assert words(chains(machine), "set:1") == {"KVM vm1": "running", "VDCM adi0": "next", "IOMMU driver": "not told"}


def test_where_two_could_be_meant_the_picture_does_not_guess() -> None:
    """The interfaces of one VM have one actor's name: one of these runs, unless the event says which."""
    time = Timeline()
    first, second, third = (Interface(time, name) for name in ("adi0", "adi1", "adi2"))
    told = time.emit("host", "ioasid", Verb.NOTIFY, "FREE")
    with time.because(told):
        one, other = (time.emit("host", "vdcm", Verb.HANDLE, "FREE") for _ in range(2))
        named = time.emit("host", "vdcm", Verb.HANDLE, "FREE", handler="adi1")
    listeners = (first, second, third)
    assert _whose(one, listeners, ()) == (0, 1, 2)
    assert _whose(other, listeners, (0, 1, 2)) == (1, 2)
    assert _whose(named, listeners, ()) == (1,)
    now = Delivery(IoasidEvent.FREE, 3, 1, listeners, (0, 1))
    assert [now.turn(known) for known in listeners] == ["one-of", "one-of", "next"]


def test_who_waits_for_a_set_stands_apart() -> None:
    """KVM registers by mm before VFIO makes the set."""
    machine = bound_vms(1)
    register = next(event for event in machine.timeline.events if event.subject == "KVM vm1")
    machine.timeline.go(register.number + 1)
    figure = chains(machine)
    key = f"waiting:{machine.kernel.ioasid.notifiers.registrations()[0].token.path}"
    assert row(figure, key) == ["KVM vm1"]
    assert figure.node(f"{key}:core").word == "no set yet"
    machine.timeline.go(machine.timeline.last)
    assert "waiting" not in text(chains(machine))


def test_a_listener_that_leaves_no_event_counts_as_told_when_a_later_one_runs() -> None:
    """Nothing else is known of it."""
    machine = freed_early()
    silent = Listener(machine.timeline, "silent", Priority.CPU)
    machine.kernel.ioasid.notifiers.register(silent)
    machine.vm("vm2").free_pasid(1)
    step_of(machine, Verb.CLEAR_ENTRY, "kvm")
    assert words(chains(machine), "set:2")["silent"] == "told"


def test_many_sets_and_listeners_are_folded() -> None:
    """At most about 60 boxes, the set to which something is delivered among them."""
    machine = crowd()
    dsa = machine.plug_accelerator("dsa2")
    for at in range(6):
        vm = machine.create_vm(f"more{at}", quota=4)
        adi = machine.assign_adi(dsa, vm)
        vm.spawn("app").bind(adi)
    for at in range(20):
        machine.kernel.ioasid.notifiers.register(Listener(machine.timeline, f"extra{at}"))
    machine.vm("more5").free_pasid(1)
    step_of(machine, Verb.CLEAR_ENTRY, "kvm")
    figure = chains(machine)
    assert len(figure.nodes) <= 60
    assert figure.node("more").lines == ("+4 more sets",)
    assert figure.node("set:14:core").lines[0] == "more5"
    assert len(chains(crowd()).nodes) == 34


def test_hostile_names_are_text() -> None:
    """A subscriber may call itself what it likes."""
    machine = bound_vms(1)
    for name in NAMES[:4]:
        machine.kernel.ioasid.notifiers.register(Listener(machine.timeline, name))
    assert "<script>alert" not in svg(chains(machine))
