"""The house: imports point downwards, the model needs the standard library only, and has no clock and no thread; what
belongs to one IOMMU stays where that IOMMU is.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pasidlab
from pasidlab.hardware.iommu.families import FAMILIES

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
VENDORS = ("vtd", "smmuv3", "amdvi")
OF_ONE_VENDOR = re.compile(
    r"(hardware|kernel)/iommu/(vtd|smmuv3|amdvi)(/.*)?|virt/viommu/(vtd|smmuv3|amdvi)"
    r"|hardware/layouts/(vtd|smmu|amd)(_[a-z]+)?|stories/vtd|views/([a-z]+_)*(vtd|smmuv3|amdvi)(_[a-z]+)?(/.*)?"
)
"""Modules that are one IOMMU's own, by their path."""
REGISTRIES = {"hardware/iommu/families", "kernel/iommu/drivers", "virt/viommu/units", "views/faults"}
"""Where all of them are known by name: one place in hardware, in the kernel, in the hypervisor, and for their words."""
ALONE = {
    "hardware/iommu/vtd": {"conformance", "events", "identity_rows", "virtual_command"},
    "hardware/iommu/smmuv3": {"forgetting", "stalls"},
    "hardware/iommu/amdvi": set(),
    "kernel/iommu/vtd": {"guest_bind", "svm", "vcmd"},
    "kernel/iommu/smmuv3": set(),
    "kernel/iommu/amdvi": set(),
}
"""What one vendor has and the others have no like of; everything else lies side by side under the same name."""
WITHOUT = {"hardware/iommu/vtd": {"event_lines", "ring"}, "kernel/iommu/vtd": {"device_table"}}
"""What two vendors have in common, and the third does not: VT-d records faults in registers, not in a ring in memory,
and its driver writes root and context tables in :mod:`pasidlab.kernel.iommu.vtd.driver`.
"""


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


# --- one contract for all IOMMUs ------------------------------------------------------------------------------------


def _name(path: Path) -> str:
    """A module as its path without the suffix."""
    return path.relative_to(ROOT).with_suffix("").as_posix()


def _imported(path: Path) -> Iterator[tuple[int, str]]:
    """What a module imports, as paths; a name that is taken out of a package may be a module, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found = [(node.lineno, name) for name in names]
        else:
            continue
        for line, name in found:
            if name.startswith("pasidlab."):
                yield line, name.removeprefix("pasidlab.").replace(".", "/")


def _vendor(name: str) -> str | None:
    """Whose a module is."""
    if OF_ONE_VENDOR.fullmatch(name) is None:
        return None
    words = re.split(r"[/_]", name)
    return next(vendor for vendor, called in zip(VENDORS, ("vtd", "smmu", "amd"), strict=True) if _has(words, called))


def _has(words: list[str], called: str) -> bool:
    return any(word.startswith(called) for word in words)


def _strangers(path: Path) -> Iterator[str]:
    """What a module imports of an IOMMU that is not its own.

    A story plays on one machine: it may show words of that unit, and, if it asks for the machine by
    :mod:`pasidlab.stories.vtd`, look at whatever VT-d has.
    """
    name, imported = _name(path), dict(reversed(list(_imported(path))))
    about_vtd = "stories/vtd" in imported.values()
    for line, other in _imported(path):
        vendor = _vendor(other)
        own = vendor is None or vendor == _vendor(name)
        story = name.startswith("stories/") and (about_vtd or other.startswith("hardware/layouts/"))
        if not own and not story and name not in REGISTRIES:
            yield f"{name}:{line} imports {other}"


def test_what_is_one_vendors_is_imported_by_that_vendor_and_the_registries_only() -> None:
    """Whoever stands above the three knows them by the contract alone, and none of them knows another."""
    assert sorted({found for path in _modules() for found in _strangers(path)}) == []


def _names_a_vendor(node: ast.AST) -> bool:
    """Whether one of the names, or one of the families themselves, stands in an expression."""
    families = {name.upper() for name in VENDORS}
    return any(
        (isinstance(one, ast.Constant) and one.value in VENDORS) or (isinstance(one, ast.Name) and one.id in families)
        for one in ast.walk(node)
    )


def test_nobody_asks_which_vendor_it_is() -> None:
    """No module compares the name of a machine's IOMMU, or a family: it asks for what it needs."""
    asking = [
        f"{_name(path)}:{node.lineno}"
        for path in _modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare | ast.MatchValue) and _names_a_vendor(node)
    ]
    assert asking == []


def test_every_vendor_is_watched() -> None:
    """A family that is not in these rules would be free of them."""
    assert set(FAMILIES) == set(VENDORS)


def test_the_vendors_lie_side_by_side_under_the_same_names() -> None:
    """A file of one unit or driver has the same name with the other two, or is listed as its own."""
    for floor in ("hardware", "kernel"):
        folders = [f"{floor}/iommu/{vendor}" for vendor in VENDORS]
        have = {folder: {path.stem for path in (ROOT / folder).glob("*.py")} for folder in folders}
        shared = {folder: names - ALONE[folder] for folder, names in have.items()}
        everything = set().union(*shared.values())
        lacking = {folder: everything - names - WITHOUT.get(folder, set()) for folder, names in shared.items()}
        missing = {folder: sorted(names) for folder, names in lacking.items() if names}
        assert missing == {}
        assert all(ALONE[folder] <= names for folder, names in have.items())
        elsewhere = [(a, b, name) for a in folders for b in folders if a != b for name in ALONE[a] & have[b]]
        assert elsewhere == []
