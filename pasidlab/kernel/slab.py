"""A kernel's small allocations, as far as they can fail.

Models ``kmalloc`` with Linux's fault injection (failslab and ``fail-nth``): the IOASID core, its users that keep lists,
and the page allocator ask here by the name of what they want, and a test or a person can have the nth request from now
on fail. Nothing is stored: what was allocated lives in parts and tables. (Processes, and the objects of KVM and of
mediated devices, are taken for granted; their pages are not.)

Callers ask before they change anything, or take back what they changed: a request that fails leaves no trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.errors import KernelError
from pasidlab.timeline import Part

if TYPE_CHECKING:
    from pasidlab.timeline import Timeline

__all__ = ["Slab"]


class Slab(Part, state=("fail_nth",)):
    """``fail_nth``: the how-manieth request from now fails, once; 0 for none.

    It is part of the state: a transaction that is refused, and so undone, has not used it up.

    >>> from pasidlab.timeline import Timeline
    >>> slab = Slab(Timeline(), "slab"); slab.fail_nth = 2
    >>> slab.alloc("struct ioasid_set"); slab.alloc("struct ioasid_data")
    Traceback (most recent call last):
    ...
    pasidlab.errors.KernelError: -ENOMEM: no memory for struct ioasid_data: this failure was asked for
    >>> slab.alloc("struct ioasid_data")
    """

    def __init__(self, timeline: Timeline, path: str) -> None:
        super().__init__(timeline, path)
        self.fail_nth = 0

    def alloc(self, what: str) -> None:
        """Ask for memory for ``what``; ``-ENOMEM`` if this is the request that fails."""
        if self.fail_nth:
            self.fail_nth -= 1
            if not self.fail_nth:
                raise KernelError("ENOMEM", f"no memory for {what}: this failure was asked for")
