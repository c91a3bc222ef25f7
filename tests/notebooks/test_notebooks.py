"""Every lesson: stored without output, made as a lesson must be, running from top to bottom; its checks can be met."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pasidlab import KernelError, Machine

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
LESSONS = sorted(FOLDER.glob("*.ipynb"))
FIRST = FOLDER / "00_what_is_a_pasid.ipynb"


def read(path: Path) -> nbformat.NotebookNode:
    """A lesson as it is stored."""
    book: nbformat.NotebookNode = nbformat.read(path, as_version=4)
    return book


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_stored_without_output(path: Path) -> None:
    """No output, no counter, a kernel that needs no question, and the file is valid."""
    book = read(path)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3"
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_opens_with_goals_minutes_and_prerequisites(path: Path) -> None:
    """A reader knows at once what it is for."""
    head = read(path).cells[0].source
    assert all(word in head for word in ("You will be able to", "Time:", "You need:"))


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_from_top_to_bottom(path: Path) -> None:
    """In a fresh kernel, in less than a minute, without a word on stderr."""
    book = read(path)
    NotebookClient(book, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}).execute()
    streams = [out for cell in book.cells if cell.cell_type == "code" for out in cell.outputs if "name" in out]
    assert [stream.text for stream in streams if stream.name == "stderr"] == []


# --- the exercises of lesson 00 ---------------------------------------------------------------------------------------


def check_of(name: str) -> Callable[[Machine], str]:
    """The function of this name in lesson 00."""
    source = next(cell.source for cell in read(FIRST).cells if f"def {name}(" in cell.source)
    space: dict[str, Callable[[Machine], str]] = {}
    exec(source.rpartition("\n\n\n")[0], space)
    return space[name]


def two_guests() -> Machine:
    """Exercise 1, solved."""
    machine = Machine()
    dsa = machine.plug_accelerator("dsa0")
    for name in ("vm1", "vm2"):
        vm = machine.create_vm(name, quota=1)
        adi = machine.assign_adi(dsa, vm)
        vm.spawn("app").bind(adi)
    return machine


def test_exercise_1_is_met_by_two_guests_with_pasid_1() -> None:
    """Empty machine: not yet. Solved: done."""
    check = check_of("check_two_guests")
    assert check(Machine()).startswith("Not yet: there should be two VMs")
    assert check(two_guests()).startswith("Done")


def test_exercise_2_is_met_by_a_refused_bind() -> None:
    """A full VM is not enough; the second bind must have been refused."""
    check = check_of("check_quota")
    machine = two_guests()
    assert "Now let a second process bind" in check(machine)
    with pytest.raises(KernelError, match="ENOSPC"):
        machine.vm("vm1").spawn("late").bind(machine.vm("vm1").devices[0])
    assert check(machine).startswith("Done")


def test_exercise_3_is_met_when_everything_is_given_back() -> None:
    """Bound: not yet. Unbound: done. Never bound: not yet."""
    check = check_of("check_clean")
    machine = two_guests()
    assert "still out" in check(machine)
    for vm in machine.vms:
        vm.apps[0].unbind(vm.devices[0])
    assert check(machine).startswith("Done")
    fresh = Machine()
    fresh.create_vm("vm1")
    assert "nothing was ever bound" in check(fresh)
