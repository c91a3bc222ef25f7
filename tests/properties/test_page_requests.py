"""Random courses of programs whose memory comes when it is touched: natively, in a guest with an interface, in a guest
with a function of its own. After every step every invariant holds and no byte is where it does not belong; at the end
nothing is left over, whatever was outstanding when the programs went.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from pasidlab.errors import KernelError
from pasidlab.hardware.memory import PAGE_SIZE
from pasidlab.timeline import Verb
from tests.properties.paging import PLACES, DataCentre

MOST_PROGRAMS = 4
picks = st.integers(0, 999)
COURSES = settings(
    max_examples=10,
    stateful_step_count=35,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
STEPS = ("ask", "ask", "ask", "submit", "submit", "run", "run", "run", "free", "free", "touch", "allocate")
RARE = ("spawn", "run_all", "bind_or_unbind", "end", "crash")


@contextmanager
def may_be_refused(*names):
    """Let these refusals pass; the value says whether there was one."""
    refusals: list[str] = []
    try:
        yield refusals
    except KernelError as refused:
        if refused.name not in names:
            raise
        refusals.append(refused.name)


class Course(RuleBasedStateMachine):
    """Hypothesis is everybody: programs, kernels, the devices' engines, and the person who kills VMs."""

    seen: ClassVar[Counter[str]] = Counter()
    """What was done, in all courses, and what it led to."""
    queue = "shared"

    @initialize(places=st.lists(st.sampled_from(PLACES), min_size=2, max_size=3, unique=True))
    def move_in(self, places):
        """Some programs with memory of both kinds."""
        self.centre = DataCentre(self.queue)
        self.begin = self.centre.m.timeline.now
        for place in places:
            program = self.centre.spawn(place)
            self.centre.allocate(program, 2, populate=True)
            self.centre.allocate(program, 2)

    @rule(what=st.sampled_from((*STEPS, *STEPS, *RARE)), one=picks, two=picks, three=picks)
    def step(self, what, one, two, three):
        """Anything; what cannot be done now is not done."""
        self.seen[what] += getattr(self, f"do_{what}")(one, two, three)
        self.centre.check()

    @property
    def pending(self):
        """What could happen next."""
        return self.centre.m.pending

    def program(self, one):
        """Some program."""
        programs = self.centre.programs
        return programs[one % len(programs)] if programs else None

    @staticmethod
    def place(program, one):
        """An address in one of its buffers, now and then near to the end of a page."""
        starts = sorted(program.buffers)
        start = starts[one % len(starts)]
        return start + (0, 64, PAGE_SIZE - 32, (program.buffers[start] - 1) * PAGE_SIZE)[one // 8 % 4]

    def do_spawn(self, one, two, three):
        """A program starts, if a queue is free."""
        if len(self.centre.programs) >= MOST_PROGRAMS:
            return 0
        with may_be_refused("EBUSY") as refusals:
            self.centre.allocate(self.centre.spawn(PLACES[one % len(PLACES)]), 2)
        if refusals:
            self.centre.end(self.centre.programs[-1])
        return 1

    def do_allocate(self, one, two, three):
        """More memory, there or not, sometimes read-only."""
        program = self.program(one)
        if program is None:
            return 0
        self.centre.allocate(program, 1 + two % 3, populate=bool(three & 1), writable=three % 3 > 0)
        return 1

    def do_ask(self, one, two, three):
        """A copy that blocks on pages which are not there, and some steps of whoever comes first."""
        program = self.program(one)
        if program is None or not program.buffers:
            return 0
        pages = 1 + two % 3
        dst = self.centre.allocate(program, pages)
        with may_be_refused("EFAULT", "EAGAIN"):
            size = (pages - 1) * PAGE_SIZE + 8
            self.centre.submit(program, self.place(program, two), dst + PAGE_SIZE // 2, size, block=True)
        for at in range(three % 5):
            self.do_run(three + at, 0, 0)
        return 1

    def do_submit(self, one, two, three):
        """A copy within a program's memory, which may or may not fit."""
        program = self.program(one)
        if program is None or not program.buffers:
            return 0
        src, dst = self.place(program, two), self.place(program, three)
        with may_be_refused("EFAULT", "EAGAIN"):
            self.centre.submit(program, src, dst, (8, 64, PAGE_SIZE)[two % 3], block=three % 3 > 0)
        return 1

    def do_run(self, one, two, three):
        """Any one of what could happen next."""
        if not self.pending:
            return 0
        self.centre.m.run(self.pending[one % len(self.pending)].number)
        return 1

    def do_run_all(self, one, two, three):
        """Everything, oldest first."""
        return self.centre.m.run()

    def do_free(self, one, two, three):
        """Memory goes, whoever uses it."""
        program = self.program(one)
        if program is None or not program.buffers:
            return 0
        starts = sorted(program.buffers)
        self.centre.free(program, starts[two % len(starts)])
        return 1

    def do_touch(self, one, two, three):
        """The program itself writes."""
        program = self.program(one)
        if program is None or not program.buffers:
            return 0
        with may_be_refused("EFAULT"):
            start = sorted(program.buffers)[two % len(program.buffers)]
            self.centre.fill(program, start, PAGE_SIZE - 16, 16)
        return 1

    def do_bind_or_unbind(self, one, two, three):
        """Let go of the device, or take it again."""
        program = self.program(one)
        if program is None:
            return 0
        with may_be_refused("EBUSY"):
            if program.app.pasid is None:
                program.app.bind(program.device)
            else:
                program.app.unbind(program.device)
        return 1

    def do_end(self, one, two, three):
        """A program exits."""
        program = self.program(one)
        if program is None:
            return 0
        self.centre.end(program)
        return 1

    def do_crash(self, one, two, three):
        """A VM is killed with everything in it, and comes back empty."""
        self.centre.crash(PLACES[1 + one % 2])
        return 1

    def teardown(self):
        """Everybody leaves."""
        if not hasattr(self, "centre"):
            return
        self.centre.close()
        for event in self.centre.m.timeline.since(self.begin):
            if event.verb in (Verb.PAGE_REQUEST, Verb.PAGE_RESPONSE, Verb.ATS):
                self.seen[str(event.verb)] += 1
            elif event.verb is Verb.COMPLETE:
                self.seen[str(event.after)] += 1


class Dedicated(Course):
    """The same with an interface on a dedicated queue."""

    seen: ClassVar[Counter[str]] = Counter()
    queue = "dedicated"


NEEDED = {"ask": 20, "submit": 5, "run": 10, "free": 5, "end": 1, "crash": 1, "page-request": 20, "ats": 40}
"""How often each of these has to occur for the courses to mean anything."""


@pytest.mark.parametrize("course", [Course, Dedicated])
def test_nothing_goes_wrong_and_nothing_is_left_over(course, record_property):
    """Whatever is outstanding when memory, programs or VMs go: no foreign byte, no stale line, no leak."""
    course.seen.clear()
    run_state_machine_as_test(course, settings=COURSES)
    record_property("seen", dict(sorted(course.seen.items())))
    assert {what: course.seen[what] for what, least in NEEDED.items() if course.seen[what] < least} == {}
    assert min(course.seen[status] for status in ("SUCCESS", "PAGE_FAULT_IR", "PAGE_FAULT_NOBOF")) >= 1
