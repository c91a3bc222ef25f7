"""What goes wrong, said twice: once as the kernel returns it (an errno) and once in words a student understands.

Models the return convention of the kernel interfaces (negative errno). The words follow one pattern:
*X must be Y, not Z (rule, where to read)*.
"""

from __future__ import annotations

import errno as _errno
from typing import Final

__all__ = ["BusError", "KernelError"]

_KERNEL_ONLY: Final = {"ENOTSUPP": 524}
"""Errors of ``include/linux/errno.h``, which user space was never meant to see."""


class KernelError(Exception):
    """A request that the modelled kernel refuses.

    ``errno`` is the positive number (``errno.ENOSPC``), ``name`` its symbol, ``reason`` the sentence for people.

    >>> error = KernelError("ENOSPC", "vm1 has used its quota of 2 PASIDs")
    >>> error.name, error.errno == 28, str(error)
    ('ENOSPC', True, '-ENOSPC: vm1 has used its quota of 2 PASIDs')
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.errno: int = _KERNEL_ONLY[name] if name in _KERNEL_ONLY else getattr(_errno, name)
        self.reason = reason
        super().__init__(f"-{name}: {reason}")


class BusError(Exception):
    """A physical address that no memory answers for.

    Hardware turns it into a fault code, the kernel into ``-EFAULT``.
    """

    def __init__(self, address: int) -> None:
        self.address = address
        super().__init__(f"no memory answers at {address:#x}")
