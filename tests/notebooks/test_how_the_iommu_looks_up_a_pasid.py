"""Lesson 02: each exercise is open at first, its check says what is missing, and its recorded solution meets it."""

from __future__ import annotations

import re

import pytest

from pasidlab import Machine
from tests.notebooks.exercises import Lesson, Space, answer

LESSON = Lesson("02_how_the_iommu_looks_up_a_pasid")
SOLUTIONS = LESSON.solutions
CHECKS = {1: "check_find_entry", 2: "check_repairs", 3: "check_reads", 4: "check_harm", 5: "check_pages"}


def exercise(number: int) -> tuple[Space, str]:
    """The names of the lesson, with one exercise's cell run, and the call of its check."""
    space: Space = {}
    exec(LESSON.code[0], space)
    exec(LESSON.cell_with("def two_processes(").partition("\n\n\nalice, bob")[0], space)
    exec(LESSON.cell_with("lab = Lab(bench)").partition("lab = Lab(")[0].partition("\n\n")[2], space)
    space["lab"] = type("Bench", (), {"machine": space["bench"]})
    return space, LESSON.exercise(CHECKS[number], space)


@pytest.mark.parametrize("number", CHECKS)
def test_the_recorded_solution_meets_its_exercise(number: int) -> None:
    """Not yet before, done after."""
    space, call = exercise(number)
    assert answer(space, call).startswith("Not yet")
    exec(SOLUTIONS[number], space)
    assert answer(space, call).startswith("Done")


def test_every_exercise_has_its_solution() -> None:
    """Five of each, and no solution without an exercise."""
    assert LESSON.asked == list(SOLUTIONS) == list(CHECKS)


def test_a_walk_that_ignores_absent_tables_is_found_out() -> None:
    """The flat computation is right for present entries only."""
    space, call = exercise(1)
    exec(SOLUTIONS[1].replace("if not word & 1:", "if False:"), space)
    assert "PASID 128 of dsa0" in answer(space, call)


def test_each_repair_brings_the_next_fault() -> None:
    """Context entry, directory entry, PASID entry, page: in the order in which the unit comes to them."""
    space, call = exercise(2)
    exec(SOLUTIONS[2], space)
    repairs, said = list(eval("repairs", space)), []
    for count in range(len(repairs) + 1):
        space["repairs"] = repairs[:count]
        said.append(answer(space, call))
    codes = [re.search(r"Fault (0x\w+)", text) for text in said[:-1]]
    assert [code and code[1] for code in codes] == ["0x45", "0x52", "0x5b", "0x81"]


def test_a_repair_that_leads_elsewhere_is_not_enough() -> None:
    """Pass-through lets the request pass, but not to the process's page."""
    space, call = exercise(2)
    exec(SOLUTIONS[2].replace("(0x7040, 0, 6 << 6)", "(0x7040, 4 << 6, 3 << 6)"), space)
    assert "does not reach the process's page" in answer(space, call)


def test_a_wrong_count_is_told_which_way_it_is_wrong() -> None:
    """A hint, and not the answer."""
    space, call = exercise(3)
    exec(SOLUTIONS[3].replace('"nested": 24', '"nested": 20'), space)
    assert answer(space, call) == "Not yet: nested takes more than 20."


def test_a_wrong_answer_about_harm_names_the_step_and_the_device() -> None:
    """One of eight is wrong."""
    space, call = exercise(4)
    exec(
        SOLUTIONS[4].replace('"drain": {False: "none", True: "none"}', '"drain": {False: "none", True: "harm"}'), space
    )
    assert answer(space, call) == "Not yet: 'harm' is not what happens without drain on a device with a TLB."


def test_pages_need_a_guest_a_host_and_a_refusal() -> None:
    """The check asks for what is missing, one by one."""
    space, call = exercise(5)
    machine = space["bench"]
    assert isinstance(machine, Machine)
    for process, device in ((machine.vm("vm1").app("app"), "adi0"), (machine.app("editor"), "dsa0")):
        assert f"a process of {'a guest' if device == 'adi0' else 'the host'}" in answer(space, call)
        here, fresh = process.buffer(b"?"), process.buffer(1, populate=False)
        assert process.copy(device, here, fresh, 1, block_on_fault=True).ok
    assert "no page request was refused" in answer(space, call)


def test_what_the_text_says_comes_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers, codes and words that sentences of the lesson name, in the order in which they are printed."""
    space: Space = {}
    for source in LESSON.before("Lab(bench)"):
        exec(source, space)
    printed = " ".join(capsys.readouterr().out.split())
    said = """
        PASID 1 | mode 1 | flat: 64 MiB | slot 0 of the directory | entry 1 of its table | Fault 0x5a | [254, 0, 0, 2]
        copied 20 bytes | A=0x1 D=0x1 ADDR | A=0x1 D=0x1 ADDR | nobody has bound: 4 structures. Fault 0x59
        far away: 3 structures. Fault 0x51 | not mapped: 8 structures. Fault 0x71 | 51 bits: 4 structures. Fault 0x80
        a kernel: 4 structures. Fault 0x5d | DMAR: [DMA Read PASID 0x7] | lines in the log: 1
        guest PASID 1, host PASID 3 | looked up bit by bit | 8 stops | in the memory of a guest
        host: caching mode False | guest: caching mode True
        cleared and flushed: the PASID entry is not present | written: the PASID entry is not present | flushed: 0x
        PASID cache | PASID IOTLB | PASID device TLB | wait: SW=0x1 | wait: FN=0x1 | PASID IOTLB | PD=0x1
        P=0 FLPTPTR=0x8000 | P=0 FLPTPTR=0x0 | Alice had PASID 1 and Bob gets 1 | bob: 'Dear Alice, I never', nothing
        no completion record | alice: 'Dear diary, today I', 'Dear diary, today I' | bob: 'Dear Alice, I never', nothing
        alice: 'Dear diary, today I', 'Dear diary, today I' | invariant 1 | invariant 10
        0x71 | PAGE_FAULT_NOBOF | may wait: <copied 20 bytes> | the log has 1 line | PAGE_FAULT_IR
        copied 24 bytes | PASID 3 asks | PASID 3 asks | PASID 1 asks | trap | PASID 1, group 0: success
        PASID 3, group 0: success | lead to Bob's page: True | Bob finds b'Dear diary, today I'
    """
    at = 0
    for words in (words.strip() for line in said.split("\n") for words in line.split("|") if words.strip()):
        found = printed.find(words, at)
        assert found >= 0, f"{words!r} does not come after {printed[max(0, at - 80) : at]!r}"
        at = found + len(words)
