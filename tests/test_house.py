"""The house: imports point downwards, the model needs the standard library only, and has no clock and no thread."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pasidlab

ROOT = Path(pasidlab.__file__).parent
FLOORS = (
    {"errors", "deviations"},
    {"timeline"},
    {"hardware"},
    {"kernel"},
    {"virt"},
    {"machine", "handles", "invariants"},
    {"views"},
    {"stories"},
    {"cli", "__main__"},
)
"""From the ground up; names on one floor may import each other."""


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module


def _floor(name: str) -> int:
    return next(at for at, names in enumerate(FLOORS) if name in names)


def _modules() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def test_imports_point_downwards() -> None:
    """No module of a floor imports one of a higher floor, not even for its types."""
    upward = []
    for path in _modules():
        own = _floor(path.relative_to(ROOT).parts[0].removesuffix(".py"))
        for line, name in _imports(path):
            parts = name.split(".")
            if parts[0] == "pasidlab" and len(parts) > 1 and _floor(parts[1]) > own:
                upward.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert upward == []


def test_every_module_has_its_floor() -> None:
    """A new top-level module must be given a place in the house."""
    names = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in _modules()}
    assert names == set().union(*FLOORS)


def test_the_model_imports_the_standard_library_only() -> None:
    """pasidlab needs nothing that pip would have to install."""
    allowed = set(sys.stdlib_module_names) | {"pasidlab"}
    foreign = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted(ROOT.rglob("*.py"))
        for line, name in _imports(path)
        if name.split(".")[0] not in allowed
    ]
    assert foreign == []


def test_the_model_has_no_clock_no_threads_and_no_chance() -> None:
    """Time is the number of an event; what could happen later stands on the agenda."""
    banned = {"time", "datetime", "threading", "asyncio", "random", "secrets", "multiprocessing"}
    used = {name.split(".")[0] for path in _modules() for _, name in _imports(path)}
    assert used & banned == set()


def test_importing_the_package_loads_nothing_from_outside_the_standard_library() -> None:
    """A fresh interpreter that imports pasidlab has loaded no third-party module."""
    code = (
        "import sys; before = set(sys.modules); import pasidlab;"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["pasidlab"]


def test_every_module_says_what_it_models() -> None:
    """Each file opens with a docstring."""
    silent = [str(path.relative_to(ROOT)) for path in _modules() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []
