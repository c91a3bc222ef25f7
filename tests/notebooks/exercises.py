"""The exercises of a lesson, as its reader meets them: the cells, the folded solutions, what a check answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeAlias

import nbformat

__all__ = ["Lesson", "Space", "answer"]

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SOLUTION = re.compile(r"<summary>Solution (\d)</summary>.*?```python\n(.*?)```", re.DOTALL)
Space: TypeAlias = "dict[str, object]"


class Lesson:
    """One notebook: its first cell, its code cells, its recorded solutions by number, the numbers that it asks."""

    def __init__(self, name: str) -> None:
        self.path = NOTEBOOKS / f"{name}.ipynb"
        cells = nbformat.read(self.path, as_version=4).cells
        self.head = str(cells[0].source)
        self.code = [str(cell.source) for cell in cells if cell.cell_type == "code"]
        found = [pair for cell in cells for pair in SOLUTION.findall(cell.source)]
        self.solutions = {int(number): body.strip("\n") for number, body in found}
        self.asked = [int(number) for cell in cells for number in re.findall(r"\*\*Exercise (\d)\.\*\*", cell.source)]

    def cell_with(self, words: str) -> str:
        """The first code cell in which these words are."""
        return next(source for source in self.code if words in source)

    def before(self, words: str) -> list[str]:
        """The code cells before that one."""
        return self.code[: self.code.index(self.cell_with(words))]

    def exercise(self, check: str, space: Space) -> str:
        """Run the cell that defines the check, without the call at its end; that call, which returns what it says."""
        body, _, call = self.cell_with(f"def {check}(").rpartition("\n\n\n")
        exec(body, space)
        return call.removeprefix("print(").removesuffix(")") + ("" if call.startswith("print(") else ")")


def answer(space: Space, call: str) -> str:
    """What the check says."""
    return str(eval(call, space))
