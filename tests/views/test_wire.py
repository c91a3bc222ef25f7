"""What a process's devices carry on the wire, under each policy: read from registers, tables and entries."""

from __future__ import annotations

import pytest

from pasidlab import Machine
from pasidlab.errors import KernelError
from pasidlab.handles import App
from pasidlab.hardware.cpu import split_pasid
from pasidlab.stories import STORIES, play
from pasidlab.views import text, topology
from pasidlab.views.box import box_texts
from pasidlab.views.queue_figure import work_queue
from pasidlab.views.traps_beliefs import beliefs
from pasidlab.views.wire import ambiguities, wire_lines
from pasidlab.views.wire_figure import on_the_wire


class Mixture:
    """A VM of a policy with a PF and an ADI, as far as it may; another VM has the lower numbers."""

    def __init__(self, policy: str) -> None:
        self.m = Machine()
        whole, parent = self.m.plug_accelerator("dsa0"), self.m.plug_accelerator("dsa1")
        other, vm = self.m.create_vm("vm2"), self.m.create_vm("vm1", policy=policy)
        other_adi = self.m.assign_adi(parent, other)
        for at in range(3):
            other.spawn(f"other{at}").bind(other_adi)
        self.vm = vm
        self.devices = []
        for assign, device in ((self.m.assign_pf, whole), (self.m.assign_adi, parent)):
            try:
                self.devices.append(assign(device, vm))
            except KernelError:
                continue

    def bind(self, name: str, queue: str | None = None) -> App:
        """A process that has every device open; the first one through ``queue``."""
        app = self.vm.spawn(name)
        for device in self.devices:
            app.bind(device, queue=queue if not device.mediated else None)
        return app


def numbers(mixture: Mixture, app: App) -> dict[str, tuple[str, int | None]]:
    """The way and the wire number of each device."""
    return {line.device: (line.way, line.wire) for line in wire_lines(mixture.m, app)}


def test_under_identity_every_device_carries_one_number() -> None:
    """The host's, which is the guest's; the CPU's table maps it to itself."""
    mixture = Mixture("identity")
    app = mixture.bind("app", "dedicated")
    assert app.pasid is not None
    host = mixture.vm.pasids[app.pasid]
    assert app.pasid == host
    assert numbers(mixture, app) == {"dsa0": ("stored", host), "adi1": ("translated", host)}
    figure = on_the_wire(mixture.m, app)
    assert figure.node("wire:0").lines == (f"PASID {host}", "guest's = host's")
    assert figure.node("table").lines[1] == f"HOST_PASID={host:#x}"
    assert not figure.node("conflict").present


def test_under_translated_only_the_interface_is_there() -> None:
    """Its number is the host's; the guest's is in the process only."""
    mixture = Mixture("translated")
    app = mixture.bind("app")
    assert app.pasid == 1
    assert list(numbers(mixture, app).values()) == [("translated", mixture.vm.pasids[1])]
    assert on_the_wire(mixture.m, app).node("process").word == "guest"
    assert not any(line.conflict for line in wire_lines(mixture.m, app))


def test_under_refuse_the_function_carries_the_guests_number_untranslated() -> None:
    """By WQCFG and by ENQCMD alike; both reach the process."""
    mixture = Mixture("refuse")
    stored, enqueued = mixture.bind("a", "dedicated"), mixture.bind("b")
    assert numbers(mixture, stored) == {"dsa0": ("stored", 1)}
    assert numbers(mixture, enqueued) == {"dsa0": ("enqcmd", 2)}
    figure = on_the_wire(mixture.m, enqueued)
    assert figure.node("control").lines[1] == "translation off"
    assert figure.node("memory:0").word == "its own"


def test_unenforced_one_process_has_two_numbers_and_check_says_so() -> None:
    """The talk's picture: device A receives the guest's PASID, the interface a host PASID."""
    mixture = Mixture("unenforced")
    app = mixture.bind("app", "dedicated")
    host = mixture.vm.pasids[1]
    assert numbers(mixture, app) == {"dsa0": ("stored", 1), "adi1": ("translated", host)}
    figure = on_the_wire(mixture.m, app)
    assert (figure.node("wire:0").word, figure.node("wire:1").word) == ("guest", "host")
    assert figure.node("memory:0").lines[0] == figure.node("memory:1").lines[0] == "memory of app"
    sentences = ambiguities(mixture.m, app, wire_lines(mixture.m, app))
    named = {violation.where for violation in mixture.m.check().violations if violation.rule.number == 14}
    assert sentences
    assert set(sentences) <= named
    assert figure.node("policy").state == "fault"
    assert all(f"{sentence}." in figure.node("conflict").lines for sentence in sentences)


def test_unenforced_enqcmd_reaches_an_entry_that_nobody_has_or_another_process() -> None:
    """The CPU translates for the function's portal, too: with the host's number its table answers for somebody else."""
    mixture = Mixture("unenforced")
    first = mixture.bind("first")
    lost = wire_lines(mixture.m, first)[0]
    assert lost.conflict
    assert lost.reached is not None
    fault = mixture.m.translate(lost.rid, lost.wire, 0x1000).fault
    assert fault is not None
    assert lost.wire is not None
    assert lost.reached.fault == fault.code
    for at in range(2, lost.wire + 1):
        mixture.bind(f"app{at}", "dedicated" if at < 4 else None)
    stolen = wire_lines(mixture.m, first)[0]
    assert stolen.reached is not None
    assert (stolen.reached.whose, stolen.reached.mine) == (f"app{lost.wire}", False)
    assert on_the_wire(mixture.m, first).node("memory:0").state == "fault"


def test_what_is_not_bound_is_off_and_no_place_depends_on_it() -> None:
    """A bind, an unbind and a second device change words and states, not the layout."""
    m = Machine()
    parents = [m.plug_accelerator("dsa0"), m.plug_accelerator("dsa1")]
    vm = m.create_vm("vm1")
    app = vm.spawn("app")
    shapes = [topology(on_the_wire(m, app))]
    adis = [m.assign_adi(parent, vm) for parent in parents]
    shapes.append(topology(on_the_wire(m, app)))
    assert on_the_wire(m, app).node("device:0").word == "not bound"
    app.bind(adis[0])
    shapes.append(topology(on_the_wire(m, app)))
    app.unbind(adis[0])
    shapes.append(topology(on_the_wire(m, app)))
    assert len(set(shapes)) == 1


def test_a_native_process_has_one_number_and_no_translation() -> None:
    """On shared and on dedicated queues."""
    m = Machine()
    dsa = m.plug_accelerator("dsa0")
    app = m.spawn("app")
    app.bind(dsa)
    line = wire_lines(m, app)[0]
    assert (line.way, line.guest, line.host, line.wire) == ("native-enqcmd", 1, 1, 1)
    assert "no VM" in text(on_the_wire(m, app))


@pytest.mark.parametrize("pasid", [1, 0x400, 0x80000])
def test_the_two_indices_are_those_of_the_processor(pasid: int) -> None:
    """Whatever number a guest carries, the boxes name the entries that its ENQCMD reads."""
    mixture = Mixture("translated")
    app = mixture.bind("app")
    app.process.mm.pasid = pasid
    index, figure = split_pasid(pasid), on_the_wire(mixture.m, app)
    half = "high" if index.high else "low"
    assert figure.node("directory").lines[0] == f"{half} directory [{index.directory}]"
    assert figure.node("table").lines[0] == f"table [{index.table}]"
    assert figure.node("table").state == ("live" if pasid == 1 else "off")


def test_of_a_guest_pasid_without_an_entry_nothing_leaves_the_cpu() -> None:
    """Exit 72; no device gets the number."""
    mixture = Mixture("translated")
    app = mixture.vm.spawn("app")
    with mixture.m.hypervisor("serve", "refuse"):
        app.bind(mixture.devices[0])
    figure = on_the_wire(mixture.m, app)
    assert figure.node("out").lines[1] == "nothing: exit 72"
    assert figure.node("wire:0").lines[0] == "nothing"
    assert "never accepted" in figure.node("conflict").lines[1]
    assert mixture.m.check().ok
    assert figure.node("conflict").word == "as read here"
    assert (figure.node("device:0").word, figure.node("device:0").state) == ("no entry", "pending")


def test_a_device_that_the_host_has_bound_but_whose_register_has_no_number_says_that() -> None:
    """Not that there is no entry."""
    m = Machine()
    vm = m.create_vm("vm1")
    adi = m.assign_adi(m.plug_accelerator("dsa0"), vm, queue="dedicated")
    app = vm.spawn("app")
    app.bind(adi)
    queue = vm.vmm.mdevs[adi.name].queue.index
    m.accelerators["dsa0"].disable_wq(queue)
    m.accelerators["dsa0"].reset_wqcfg(queue)
    line = wire_lines(m, app)[0]
    assert line.opened
    assert line.wire is None
    figure = on_the_wire(m, app)
    assert figure.node("device:0").word == "no number"
    assert figure.node("conflict").lines[1] == "adi0 carries nothing: no number stands in its register."


def test_what_check_says_is_told_from_what_is_read_here() -> None:
    """The badge is check()'s only where all sentences are; beside others, its own say so."""
    mixture = Mixture("unenforced")
    whole = on_the_wire(mixture.m, mixture.bind("stored", "dedicated")).node("conflict")
    assert whole.word == "check()"
    assert not any("check()" in line for line in whole.lines)
    app = mixture.bind("enqueued")
    mixed = on_the_wire(mixture.m, app).node("conflict")
    assert mixed.word == "as read here"
    named = {violation.where for violation in mixture.m.check().violations}
    own = [line.removeprefix("check(): ").removesuffix(".") for line in mixed.lines if line.startswith("check(): ")]
    assert own
    assert set(own) <= named
    assert "carries PASID" in mixed.lines[1]
    assert not mixed.lines[1].startswith("check()")


def many(count: int) -> tuple[Machine, App]:
    """A process that has this many interfaces open."""
    m = Machine()
    parent, vm = m.plug_accelerator("dsa0"), m.create_vm("vm1")
    app = vm.spawn("app")
    for adi in [m.assign_adi(parent, vm) for _ in range(count)]:
        app.bind(adi)
    return m, app


@pytest.mark.parametrize(("count", "rows"), [(6, 6), (8, 5)])
def test_devices_without_a_row_of_their_own_are_counted(count: int, rows: int) -> None:
    """Never left out in silence: the last row says how many there are, and their names."""
    m, app = many(count)
    figure = on_the_wire(m, app)
    assert sum("ADI of" in " ".join(node.lines) for node in figure.nodes if node.present) == rows
    if count > rows:
        more = figure.node("device:5")
        assert more.present
        assert more.lines == ("+3 more devices", "adi5, adi6, adi7")
        assert more.hint.endswith("adi5, adi6, adi7")
        assert box_texts(more)[2] == "+3 more devices"
        assert not figure.node("wire:5").present
        assert "+3 more devices" in text(figure)


def test_sentences_without_a_line_are_counted_in_words() -> None:
    """As everything that is folded."""
    m, app = many(6)
    app.process.mm.pasid = 0x80000
    assert on_the_wire(m, app).node("conflict").lines[-1] == "+3 more"


@pytest.mark.parametrize(("name", "stride"), [("two-numbers", 1), ("conflict", 17)])
def test_the_pictures_of_a_mixture_can_be_drawn_in_the_middle_of_an_operation(name: str, stride: int) -> None:
    """All through a story: on the wire, the queues, the guests' beliefs."""
    story = STORIES[name]
    machine = story.make()
    list(play(story, machine))
    for step in range(machine.timeline.floor, machine.timeline.last + 1, stride):
        machine.timeline.go(step)
        for vm in machine.vms:
            assert all(text(on_the_wire(machine, app)) for app in vm.apps)
            assert all(beliefs(machine, vm))
        for device in machine.accelerators:
            assert text(work_queue(machine, device, 0))
