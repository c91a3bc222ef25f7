"""pasidlab: an executable model of PASID management in KVM, for people who want to see every bit of it move."""

from pasidlab.errors import KernelError
from pasidlab.handles import Handle
from pasidlab.machine import Machine

__all__ = ["KernelError", "Machine", "__version__"]

__version__ = "0.1.0"


def _draw(handle: Handle) -> dict[str, str]:
    """Notebooks show handles as pictures; these are imported when the first one is shown."""
    from pasidlab.views.rich import bundle

    return bundle(handle)


Handle.draw = staticmethod(_draw)
