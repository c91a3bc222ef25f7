"""Lesson 01: each exercise is open at first, its check says what is missing, and its recorded solution meets it."""

from __future__ import annotations

import re
from itertools import permutations
from pathlib import Path
from typing import TypeAlias

import nbformat
import pytest

from pasidlab import KernelError, Machine

LESSON = Path(__file__).resolve().parents[2] / "notebooks" / "01_the_life_of_an_ioasid.ipynb"
CELLS = nbformat.read(LESSON, as_version=4).cells
CODE = [cell.source for cell in CELLS if cell.cell_type == "code"]
SOLUTIONS = {
    int(number): [body.strip("\n") for body in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    for cell in CELLS
    for number, text in re.findall(r"<summary>Solution (\d)</summary>(.*?)</details>", cell.source, re.DOTALL)
}
Space: TypeAlias = "dict[str, object]"


class Lab:
    """As much of the lab as the exercises need: its machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine


def bench() -> Lab:
    """The machine that the lesson gives to its lab."""
    machine = Machine()
    vm = machine.create_vm("vm1", quota=8)
    machine.assign_adi(machine.plug_accelerator("dsa0"), vm, queue="dedicated")
    vm.spawn("app")
    return Lab(machine)


def exercise(check: str) -> tuple[Space, str]:
    """The names of the lesson with one exercise's cell run, and the call of its check."""
    space: Space = {"lab": bench()}
    listener = next(source for source in CODE if "class Listener(Actor)" in source)
    exec(CODE[0], space)
    exec(f"class Listener{listener.partition('class Listener')[2].partition('before = ')[0]}", space)
    body, _, call = next(source for source in CODE if f"def {check}(" in source).rpartition("\n\n\n")
    exec(body, space)
    return space, call


def answer(space: Space, call: str) -> str:
    """What the check says."""
    return str(eval(call, space))


def solved(number: int, check: str, way: int = 0) -> str:
    """What the check says once the recorded solution has run."""
    space, call = exercise(check)
    assert answer(space, call).startswith("Not yet")
    exec(SOLUTIONS[number][way], space)
    return answer(space, call)


CHECKS = {1: "check_holders", 2: "check_for_ever", 3: "check_shrink", 4: "check_order", 5: "check_auditor"}


@pytest.mark.parametrize("number", CHECKS)
def test_the_recorded_solution_meets_its_exercise(number: int) -> None:
    """Not yet before, done after; where two ways are shown both do."""
    assert len(SOLUTIONS[number]) == (2 if number == 5 else 1)
    for way in range(len(SOLUTIONS[number])):
        assert solved(number, CHECKS[number], way).startswith("Done")


def test_the_solutions_can_be_tried_one_after_the_other_in_one_lab() -> None:
    """Exercise 3 works on what exercise 2 has left behind, and the other way round."""
    for numbers in ((2, 3), (3, 2)):
        shared = bench()
        for number in numbers:
            space, call = exercise(CHECKS[number])
            space["lab"] = shared
            exec(SOLUTIONS[number][0], space)
            assert answer(space, call).startswith("Done")


@pytest.mark.parametrize(
    ("guess", "said"),
    [
        ([None] * 6, "no guess for step 1"),
        ([{"vfio"}] + [None] * 5, "the holders are 4; you named 1, 1 of them right"),
        ([{"vfio", "iommu", "kvm", "vdcm"}] * 6, "after step 3 the holders are 2; you named 4, 2 of them right"),
    ],
)
def test_a_wrong_guess_is_told_the_step_and_the_count(guess: list[object], said: str) -> None:
    """A hint, and not the answer."""
    space, call = exercise("check_holders")
    space["guess"] = guess
    assert said in answer(space, call)


def test_for_ever_needs_the_work_to_have_run_and_the_right_name() -> None:
    """Free-pending alone is not for ever; a wrong keeper is not believed."""
    space, call = exercise("check_for_ever")
    lab = space["lab"]
    assert isinstance(lab, Lab)
    machine, vm = lab.machine, lab.machine.vm("vm1")
    vm.app("app").bind(vm.devices[0])
    machine.kernel.ioasid.get(vm.pasids[1], "me")
    vm.free_pasid(1)
    assert "work is waiting" in answer(space, call)
    machine.run()
    assert "'' is not who keeps it" in answer(space, call)
    space["keeper"] = "me"
    assert answer(space, call).startswith("Done")


def test_a_quota_below_what_is_out_must_be_refused_and_explained() -> None:
    """A quota of 0 is another refusal; right errnos with a wrong reason are not enough."""
    space, call = exercise("check_shrink")
    lab = space["lab"]
    assert isinstance(lab, Lab)
    vm = lab.machine.vm("vm1")
    with pytest.raises(KernelError, match="EINVAL"):
        vm.set_quota(0)
    assert "no quota below what is out" in answer(space, call)
    vm.request_pasid()
    vm.request_pasid()
    with pytest.raises(KernelError, match="2 PASIDs out"):
        vm.set_quota(1)
    assert "fixed does not answer ''" in answer(space, call)
    space["answers"] = {"fixed": "EINVAL", "rlimit": "done", "cgroup": "done"}
    space["reason"] = "a"
    assert "the reason is not" in answer(space, call)


def test_of_six_orders_one_works() -> None:
    """As the exercise says."""
    space, call = exercise("check_order")
    found = []
    for order in permutations(("assign", "free", "run")):
        space["order"] = order
        if answer(space, call).startswith("Done"):
            found.append(order)
    assert found == [("free", "run", "assign")]
    space["order"] = ("free", "run")
    assert "once" in answer(space, call)


def test_an_auditor_that_holds_nothing_or_never_lets_go_is_found_out() -> None:
    """Each way of getting it wrong has its own words."""
    space, call = exercise("check_auditor")
    assert "waits for itself" in answer(space, call)
    idle = "class Auditor(Listener):\n    pass"
    keen = "if event is IoasidEvent.BIND:\n            self.core.get_locked(payload.ioasid, 'auditor')"
    greedy = f"class Auditor(Listener):\n    def ioasid_notified(self, event, payload):\n        {keen}\n"
    exec(idle, space)
    assert "not held by the auditor" in answer(space, call)
    exec(greedy, space)
    assert "kept after its end" in answer(space, call)


def test_what_the_text_says_comes_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers and errnos that sentences of the lesson name, in the order in which they are printed."""
    space: Space = {}
    for source in CODE[: next(at for at, source in enumerate(CODE) if "Lab(bench)" in source)]:
        exec(source, space)
    printed = " ".join(capsys.readouterr().out.split())
    said = """
        aux-domain:vm1 | aux-domain:vm2 | -ENOSPC: no PASID | -ENOSPC: vm2 has used its quota of 2
        -ENOSPC: the quota of vm3 must be at most 1015742 | 0 available | must be at most 0 | -EINVAL
        ALLOC of IOASID | -EBUSY | done: 1 | deadlock ioasid_free | -EDEADLK | patient listener: free
        free-pending, held by iommu, vdcm | VDCM: stop the queue | IOMMU driver
        answer: None | held by iommu, vdcm | -ENOSPC: vm3 has used its quota of 1
        -ENOSPC: every number in the range is out | -ENOENT | done: None | the number was 7 done: 7 done: None
        idle, held by vfio | global-chain-first breaks | kvm-ignores-free breaks
        dying-spid-reference breaks 4 | invariants hold
        fixed, vfio vm1: 9 of 10: -ENOSPC | does not run: -ENOSPC | rlimit, vfio vm1: 9 of 10: -ENOSPC
        neighbour: 5 of 9 | cgroup, vfio vm1: 10 of 10 | neighbour: 4 of 9 | dev-ioasid vm1: 9 of 10: -EINVAL
        does not run: -ENOSPC
    """
    at = 0
    for words in (words.strip() for line in said.split("\n") for words in line.split("|") if words.strip()):
        found = printed.find(words, at)
        assert found >= 0, f"{words!r} does not come after {printed[max(0, at - 80) : at]!r}"
        at = found + len(words)
