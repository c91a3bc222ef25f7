"""Lesson 00 on each of the three IOMMUs: every cell runs, and what its sentences say comes out."""

from __future__ import annotations

import ast
import sys

import pytest

from pasidlab import Machine
from pasidlab.hardware.iommu.families import FAMILIES
from pasidlab.views.ladder import Ladder, ladder_text
from tests.notebooks.exercises import Lesson, Space

LESSON = Lesson("00_what_is_a_pasid")
CHOICE = 'IOMMU = "vtd"  # or "smmuv3", "amdvi"'
SAID = {
    "vtd": """
        PASID directory entry | fault 0x59 | the PASID of the process is 1 | the process now reads b'shared virtual
        fault 0x59 | vm1 sees PASID 1 and the host uses 3 | vm2 sees PASID 1 and the host uses 4
        copied 14 bytes> b'belongs to vm1' | copied 16 bytes> b'vm2 and only vm2' | both processes: True
        -EACCES: PASID 4 belongs to vm2, not to vm1
        KVM's entries of vm1: [] of vm2: [] | in the table of dsa0: [1, 2] | in the table of dsa0: [1, 2, 3, 4]
        14 invariants hold
    """,
    "smmuv3": """
        stream table entry | fault 0x08 | the PASID of the process is 1 | the process now reads b'shared virtual
        fault 0x0a | vm1 sees PASID 1 and the host uses none | vm2 sees PASID 1 and the host uses none
        copied 14 bytes> b'belongs to vm1' | copied 16 bytes> b'vm2 and only vm2' | both processes: True
        -EOPNOTSUPP | no PASID of a guest by itself
        KVM's entries of vm1: [] of vm2: [] | in the table of dsa0: [] | in the table of dsa0: [1]
        14 invariants hold
    """,
    "amdvi": """
        device table entry | fault 0x02 | the PASID of the process is 1 | the process now reads b'shared virtual
        fault 0x02 | vm1 sees PASID 1 and the host uses none | vm2 sees PASID 1 and the host uses none
        copied 14 bytes> b'belongs to vm1' | copied 16 bytes> b'vm2 and only vm2' | both processes: True
        -EOPNOTSUPP | none of its PASIDs by itself
        KVM's entries of vm1: [] of vm2: [] | in the table of dsa0: [] | in the table of dsa0: [1]
        14 invariants hold
    """,
}


def cells_of(kind: str) -> list[str]:
    """The code of the lesson, with the choice made that its first cell offers."""
    first, *others = LESSON.code
    assert first.count(CHOICE) == 1
    return [first.replace(CHOICE, f'IOMMU = "{kind}"'), *others]


def run(source: str, space: Space) -> None:
    """A cell as a notebook runs it: what a statement's value is, is shown."""
    for statement in ast.parse(source).body:
        exec(compile(ast.Interactive([statement]), "cell", "single"), space)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_cell_runs_and_the_sentences_are_true(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first to the last, the lab and the unsolved exercises included."""
    shown: list[object] = []

    def show(value: object) -> None:
        shown.append(value)
        print(value)

    monkeypatch.setattr(sys, "displayhook", show)
    space: Space = {}
    for source in cells_of(kind):
        run(source, space)
    printed = " ".join(capsys.readouterr().out.split())
    at = 0
    for words in (words.strip() for line in SAID[kind].split("\n") for words in line.split("|") if words.strip()):
        found = printed.find(words, at)
        assert found >= 0, f"{words!r} does not come after {printed[max(0, at - 80) : at]!r}"
        at = found + len(words)
    machine, copy, bind = space["m"], *(ladder_text(one) for one in shown if isinstance(one, Ladder))
    assert isinstance(machine, Machine)
    assert machine.iommu == kind
    host_has_numbers = not FAMILIES[kind].binds_tables
    assert ("translates guest PASID 1: 1 → 4" in copy) == host_has_numbers
    assert ("notify: BIND" in bind) == host_has_numbers
    assert "TRAP vm2" in bind


@pytest.mark.parametrize(
    "name",
    ["01_the_life_of_an_ioasid", "02_how_the_iommu_looks_up_a_pasid", "03_one_process_two_devices_two_numbers"],
)
def test_a_lesson_about_one_machine_says_so(name: str) -> None:
    """In its head, with the lesson that runs on all."""
    head = Lesson(name).head
    assert "**Which machines:** VT-d alone" in head
    assert "esson 04](04_who_owns_the_table.ipynb) runs on all three" in head
