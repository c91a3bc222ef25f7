"""Names that people give: to VMs, devices, processes and groups."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pasidlab.errors import KernelError
from pasidlab.timeline import HARDWARE, HOST, USER

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_name"]

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_RESERVED: Final = frozenset(
    {HOST, USER, HARDWARE, "machine", "agenda", "memory", "iommu-unit", "fabric", "mmio", "cpu0", "pcie"}
    | {"functions", "drivers", "vmms", "vm-numbers"}
)
"""Words that name a floor of the machine, or one of its parts."""


def check_name(kind: str, name: str, taken: Iterable[str]) -> None:
    """``-EINVAL`` unless a name is 1 to 32 letters, digits, ``_`` or ``-`` and starts with a letter (no dots: these
    divide the paths of parts), or if it is reserved; ``-EEXIST`` if taken.
    """
    if type(name) is not str or not _NAME.fullmatch(name):
        raise KernelError(
            "EINVAL",
            f"a {kind} name must be 1 to 32 letters, digits, dashes or underscores and start with a letter, "
            f"not {name!r}",
        )
    if name in _RESERVED:
        raise KernelError("EINVAL", f"a {kind} must not be called {name}: that word names a part of the machine itself")
    if name in taken:
        raise KernelError("EEXIST", f"the name {name} is taken: a {kind} needs one that no device or VM has")
