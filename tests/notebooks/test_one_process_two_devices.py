"""Lesson 03: each exercise is open at first, its check says what is missing, and its recorded solution meets it."""

from __future__ import annotations

import pytest

from tests.notebooks.exercises import Lesson, Space, answer

LESSON = Lesson("03_one_process_two_devices_two_numbers")
SOLUTIONS = LESSON.solutions
CHECKS = {1: "check_replace", 2: "check_wire", 3: "check_how_many", 4: "check_customers", 5: "check_default"}


def exercise(number: int) -> tuple[Space, str]:
    """The names of the lesson, with one exercise's cell run, and the call of its check."""
    space: Space = {}
    exec(LESSON.code[0], space)
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


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ("high if guest_pasid >> 19 else low", "low", "0x80001"),
        ("if not entry & 1", "if not entry", "0x800"),
        ("if word >> 31 else None", "if word else None", "0x2"),
        ("guest_pasid >> 10 & 511", "0", "0x7fc00"),
    ],
)
def test_a_cpu_that_forgets_a_step_is_found_out(wrong: str, right: str, said: str) -> None:
    """The second directory, the present bit, the valid bit, the other tables."""
    space, call = exercise(1)
    assert wrong in SOLUTIONS[1]
    exec(SOLUTIONS[1].replace(wrong, right), space)
    assert f"guest PASID {said} gives" in answer(space, call)


def test_a_wrong_number_on_the_wire_names_policy_and_device() -> None:
    """One of eight is wrong."""
    space, call = exercise(2)
    exec(SOLUTIONS[2].replace('"refuse": {"function": 1', '"refuse": {"function": 4'), space)
    assert answer(space, call) == "Not yet: under refuse the function does not answer 4."


def test_who_forgets_the_default_pasid_is_one_too_low() -> None:
    """With an interface one more number is out."""
    space, call = exercise(3)
    exec(SOLUTIONS[3].replace("int(interface)", "0"), space)
    assert answer(space, call) == "Not yet: with natives=1, interface=True it is not 2."


@pytest.mark.parametrize(("was", "instead"), [('"identity"', '"unenforced"'), ('"none"', '"unenforced"')])
def test_unenforced_suits_nobody(was: str, instead: str) -> None:
    """It gives everything, and a conflict with it."""
    space, call = exercise(4)
    exec(SOLUTIONS[4].replace(was, instead), space)
    assert "'unenforced' is not for who wants a function and interfaces" in answer(space, call)


def test_refuse_is_as_good_for_interfaces_only() -> None:
    """More than one answer can be right."""
    space, call = exercise(4)
    exec(SOLUTIONS[4].replace('"translated"', '"refuse"'), space)
    assert answer(space, call).startswith("Done")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (("refuse",), "the bind fails"),
        (("serve", "serve", "serve", "alter 7"), "the bind fails"),
        (("serve", "serve"), "is not the default PASID"),
    ],
)
def test_a_lie_that_fails_is_told_how(answers: tuple[str, ...], said: str) -> None:
    """No number, a number that the VM does not own, no lie at all."""
    space, call = exercise(5)
    space["answers"] = answers
    assert said in answer(space, call)


def test_what_the_text_says_comes_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers, codes and words that sentences of the lesson name, in the order in which they are printed."""
    space: Space = {}
    for source in LESSON.before("Lab(bench)"):
        exec(source, space)
    printed = " ".join(capsys.readouterr().out.split())
    said = """
        requester ID 0x6a08 | no process is bound | on the wire: [1] PASIDs that the guest has: {}
        vdcm trap vm1: adi0: WQCFG, no PASID | program dsa0 wq2 PASID 1 | guest-physical: 0x8000 and 0x8000
        PASID 1 leads to | no process is bound | PASID 2 leads to | the other VM's page
        guest: 1 real device: 3 | -ENXIO: adi0 answered ENABLE_WQ with PASID_EN | was given: 0
        guest PASIDs: [1, 1, 1] | host PASIDs: [4, 5, 6] | table entry 0x80000004 | valid: 1, host PASID 4
        one pair of addresses for all: True | PASID 4 src | PASID 5 src | PASID 6 src | traps: 0
        vm1 b'AAAAAAAA' | vm2 b'BBBBBBBB' | vm3 b'CCCCCCCC' | traps, | 3 IOASIDs
        straight to hardware | guest to host: {1: 2} on the wire: [1] | entries of the function: [0, 1]
        by the device's registers: 0 | bound under 1 | bound under 1 | device A | on the wire: [1]
        mdev0 | on the wire: [3] | invariant 14 | invariant 14 | {1: 4, 2: 5, 3: 6, 4: 7} | {1: 2}
        PAGE_FAULT_IR | hardware iommu unit page-request 6a:01.0 PASID 2 | neighbour sva page-fault
        'ben': False | 'eve': True | ann hears: <no completion record | accepted it for PASID 4 | 'ann': b'\\x00
        'dan': b'dddd' | IOASID 2 of neighbour | by ENQCMD it arrives as 4 | share their tag in the IOTLB
        <PF dsa0 in vm, on dsa0> {'ann': b'\\x00\\x00' | 'dan': b'dd'} | <ADI adi1 in vm, on dsa1> {'ann': b'\\x00\\x00'
        'dan': b'dd'} | by the tables: b'aa' | through the caches: b'dd'
        it is bound under 1 | -EAGAIN | exit 72 | -EINPROGRESS | virtual command, allocate a PASID. If you refuse
        no PASID is available | PASID cache | it believes that it was done | the bind returned 1
        no completion record | 'ben': b"ben's letters" | number 3: -ENXIO | PASID_EN | invariants hold
    """
    at = 0
    for words in (words.strip() for line in said.split("\n") for words in line.split("|") if words.strip()):
        found = printed.find(words, at)
        assert found >= 0, f"{words!r} does not come after {printed[max(0, at - 80) : at]!r}"
        at = found + len(words)
    assert printed.count("hardware iommu unit page-request") == 4
