"""The laws of the model: time travel, repetition, names, independence, and that nothing is hidden from the journal.

They hold on the machines of all three vendors.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.timeline import ABSENT, Event, Table, Verb
from tests.properties.actions import HOST, SIZE, SRC, Action, perform, renamed, start
from tests.properties.snapshot import mutable_containers, snapshot
from tests.properties.strategies import IOMMUS, VMS, actions, guest_work, prologues, scripts

LAW = settings(deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


each_iommu = pytest.mark.parametrize("iommu", IOMMUS)


def played(iommu, script):
    """A machine after a script."""
    machine = start(iommu)
    for action in script:
        perform(machine, action)
    return machine


class AnyCourse(RuleBasedStateMachine):
    """A person clicks about and travels in time; after every step every invariant holds."""

    iommu: ClassVar[str]

    def __init__(self):
        super().__init__()
        self.machine = start(self.iommu)
        self.script = []
        self.digests = {self.time.now: self.time.digest()}

    @property
    def time(self):
        """The machine's timeline."""
        return self.machine.timeline

    def act(self, action):
        """One action; made in the past, it drops the future."""
        done = sum(operation.last <= self.time.now for operation in self.time.operations)
        self.script = [*self.script[: done - 2], action]  # two operations are not ours: the boot, and plugging in
        self.digests = {step: digest for step, digest in self.digests.items() if step <= self.time.now}
        perform(self.machine, action)
        self.digests[self.time.now] = self.time.digest()

    @initialize(data=st.data())
    def move_in(self, data):
        """Something to work with."""
        for action in data.draw(st.sampled_from(prologues(self.iommu))):
            self.act(action)

    @rule(data=st.data())
    def do(self, data):
        """Anything that a person can do."""
        self.act(data.draw(actions(self.iommu)))

    @rule(action=guest_work)
    def work(self, action):
        """Most of the time guests simply work."""
        self.act(action)

    @rule(where=st.floats(0, 1))
    def go_to_the_end_of_some_operation(self, where):
        """The state there is what it was."""
        stops = sorted(self.digests)
        self.time.go(stops[round(where * (len(stops) - 1))])

    @rule()
    def return_to_the_present(self):
        """The newest state is still there."""
        self.time.go(self.time.last)

    @rule(where=st.floats(0, 1))
    @precondition(lambda self: self.time.now > self.time.floor)
    def visit_any_step_and_come_back(self, where):
        """A look at the middle of an operation changes nothing."""
        now = self.time.now
        self.time.go(round(self.time.floor + where * (self.time.last - self.time.floor)))
        self.time.digest()
        self.time.go(now)

    @invariant()
    def every_invariant_holds(self):
        """`check` finds nothing wrong."""
        report = self.machine.check()
        assert report.ok, report

    @invariant()
    def the_digest_of_a_moment_never_changes(self):
        """Undo to a point and redo give the digest that it had when it was the present."""
        assert self.time.digest() == self.digests[self.time.now]

    def teardown(self):
        """The same actions from the same start, without the detours, give the same digest and the same events."""
        self.time.go(self.time.last)
        twin = played(self.iommu, self.script)
        assert twin.timeline.digest() == self.time.digest()
        assert twin.timeline.events == self.time.events


class VtdCourse(AnyCourse):
    """On VT-d."""

    iommu = "vtd"


class SmmuCourse(AnyCourse):
    """On SMMUv3."""

    iommu = "smmuv3"


class AmdCourse(AnyCourse):
    """On AMD's IOMMU."""

    iommu = "amdvi"


@pytest.mark.parametrize("course", [VtdCourse, SmmuCourse, AmdCourse], ids=lambda one: one.iommu)
def test_any_course_keeps_the_invariants_and_can_be_undone_and_repeated(course):
    """Whatever a person does, and however that person travels in time."""
    run_state_machine_as_test(course, settings=settings(LAW, max_examples=30, stateful_step_count=25))


# --- names ----------------------------------------------------------------------------------------------------------

SWAP = {"vm1": "vm2", "vm2": "vm1"}


def reworded(events, names):
    """Events as text, with other names."""
    return [re.sub("|".join(names), lambda found: names[found[0]], repr(event)) for event in events]


@each_iommu
@LAW
@given(data=st.data())
def test_permuting_the_names_of_vms_permutes_the_result(iommu, data):
    """A name decides nothing: the events of the renamed script are the renamed events."""
    script = data.draw(scripts(iommu))
    one = played(iommu, script)
    other = played(iommu, [renamed(action, SWAP) for action in script])
    assert reworded(one.timeline.events, SWAP) == list(map(repr, other.timeline.events))


# --- independence ---------------------------------------------------------------------------------------------------


def view_from_inside(machine, vm):
    """What a VM can know of the world, and what the host keeps for it: no number of a host PASID or host frame in it.

    The guest's own events (verbs, subjects, all facts but places in time), its PASIDs, its share of quota, its KVM
    entries, the holders of each of its PASIDs, and every byte of its processes' buffers.
    """
    vmm = machine.vm(vm).vmm
    owned = vmm.container.set
    guest = [
        (event.verb, event.actor, event.subject, event.before, event.after, event.facts)
        for event in machine.timeline.events
        if event.altitude == vm and event.verb is not Verb.TRANSLATE
    ]
    return {
        "events": guest,
        "pasids": sorted(vmm.viommu.pasids.keys()),
        "kvm": [entry.guest_pasid for entry in vmm.kvm.entries()],
        "count": owned.count,
        "holders": sorted((record.spid or 0, str(record.state), record.holders) for record in owned.ids.values()),
        "bytes": [(app.name, app.read(SRC, SIZE), app.read(SRC + 0x2000, 2 * SIZE)) for app in machine.vm(vm).apps],
    }


@each_iommu
@LAW
@given(
    data=st.data(),
    work=st.lists(guest_work, min_size=4, max_size=20),
    random=st.randoms(use_true_random=False),
)
def test_independent_vms_commute(iommu, data, work, random):
    """However the actions of two VMs are interleaved, each VM sees and keeps the same (`view_from_inside`).

    Each action is run to rest: a copy waits for the device and would otherwise do some of the neighbour's pending work.
    """
    prologue = data.draw(st.sampled_from(prologues(iommu)[:2]))
    mine = [action for action in work if action.where == VMS[0]]
    yours = [action for action in work if action.where == VMS[1]]
    order = [True] * len(mine) + [False] * len(yours)
    random.shuffle(order)
    left, right = iter(mine), iter(yours)
    shuffled = [next(left if one else right) for one in order]
    rest = Action("run", HOST, (None,))
    machines = [
        played(iommu, [*prologue, *(step for action in course for step in (action, rest))])
        for course in (mine + yours, shuffled)
    ]
    for vm in VMS:
        assert view_from_inside(machines[0], vm) == view_from_inside(machines[1], vm)


# --- steps ----------------------------------------------------------------------------------------------------------


def deeds(events: list[Event]):
    """What happened, without the calls of the person and without places in time."""
    return [event._replace(number=0, operation=0, cause=None) for event in events if event.verb is not Verb.CALL]


@each_iommu
@LAW
@given(data=st.data())
def test_running_all_is_running_one_after_the_other(iommu, data):
    """`run()` is `run(oldest)` until nothing is left: same deeds, same state."""
    script = data.draw(scripts(iommu))
    at_once, by_step = played(iommu, script), played(iommu, script)
    begin = at_once.timeline.now
    count = at_once.run()
    steps = 0
    while by_step.pending:
        steps += by_step.run(by_step.pending[0].number)
    assert steps == count
    assert deeds(at_once.timeline.events[begin:]) == deeds(by_step.timeline.events[begin:])
    assert at_once.timeline.digest() == by_step.timeline.digest()


@each_iommu
@LAW
@given(data=st.data())
def test_stepping_through_a_run_shows_each_event_once_and_ends_in_its_state(iommu, data):
    """Forward by single steps from the beginning visits every step and arrives where the run ended."""
    script = data.draw(scripts(iommu))
    machine = played(iommu, script)
    time = machine.timeline
    events, digest = time.events, time.digest()
    time.go(time.floor)
    while time.now < time.last:
        time.forward()
        assert time.events[-1] == events[time.now - 1]
    assert time.digest() == digest


@each_iommu
@LAW
@given(data=st.data())
def test_causes_form_a_tree_under_each_call(iommu, data):
    """Every event leads back, through earlier events of its own operation, to the call of a person."""
    script = data.draw(scripts(iommu))
    events = played(iommu, script).timeline.events
    for event in events:
        if event.cause is None:
            assert event.verb is Verb.CALL
        else:
            assert event.cause < event.number
            assert events[event.cause].operation == event.operation


# --- nothing hidden ---------------------------------------------------------------------------------------------------

WIRING = {
    "RegisterFile._rows",
    "AmdUnit._fixed",
    "AmdWalker._alone",
    "AmdWalker._nested",
    "SmmuRules.granules",
    "SmmuRules.granules_1",
    "VirtualAmd._fixed",
    "VtdUnit._fixed",
    "VirtualVtd._fixed",
    "VtdRules.depths",
    "VtdWalker._first",
    "VtdWalker._nested",
    "VtdWalker._second",
    "VtdWalker._limits",
    "Layout._by_name",
    "Events.by_control",
    "Events.by_status",
}
"""Dictionaries that are filled when a part is made and never again; the next test watches that they are not."""


@each_iommu
@LAW
@given(data=st.data())
def test_every_container_that_can_change_is_a_table_or_memory(iommu, data):
    """Beside the contents of tables and memory, a machine reaches no list, dict or set but a few that are wiring."""
    script = data.draw(scripts(iommu))
    machine = played(iommu, script)
    found = {where for where, _ in mutable_containers(machine) if not where.startswith("dict.")}
    assert found <= WIRING


@each_iommu
@settings(LAW, max_examples=15)
@given(data=st.data())
def test_after_going_back_every_object_is_what_it_was(iommu, data):
    """The whole graph of objects, read attribute by attribute: a change that the journal missed would show."""
    machine = played(iommu, data.draw(scripts(iommu)))
    now, before = machine.timeline.now, snapshot(machine)
    for action in data.draw(st.lists(actions(iommu), min_size=1, max_size=10)):
        perform(machine, action)
    machine.timeline.go(now)
    assert snapshot(machine) == before


def living_cells(machine):
    """Every cell that is not absent, with the value that the journal knows: from the log alone."""
    newest = {(id(cells), key): (cells, key, new) for cells, key, _, new in machine.timeline.journal.log}
    return [row for row in newest.values() if row[2] is not ABSENT]


@each_iommu
@LAW
@given(data=st.data())
def test_no_two_living_cells_have_the_same_name(iommu, data):
    """The digest tells cells apart by path and key: the dead leave none behind that a successor would cancel out."""
    script = data.draw(scripts(iommu))
    names = Counter((cells.path, key) for cells, key, _ in living_cells(played(iommu, script)))
    assert [name for name, count in names.items() if count > 1] == []


def held(cells, key):
    """What a cell holds."""
    if isinstance(cells, PhysicalMemory):
        return cells.load(key)
    return cells[key] if isinstance(cells, Table) else cells.__dict__[key]


@each_iommu
@LAW
@given(data=st.data())
def test_the_journal_agrees_with_the_objects(iommu, data):
    """The newest record of every cell is what the cell holds: nobody wrote past the journal."""
    script = data.draw(scripts(iommu))
    for cells, key, value in living_cells(played(iommu, script)):
        assert held(cells, key) == value
