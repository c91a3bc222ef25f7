"""pasidlab: an executable model of PASID management in KVM, for people who want to see every bit of it move."""

from pasidlab.errors import KernelError
from pasidlab.handles import Handle
from pasidlab.hardware.iommu.contract import Walk
from pasidlab.machine import Machine

__all__ = ["KernelError", "Machine", "__version__"]

__version__ = "0.1.0"


def _draw(handle: Handle) -> dict[str, str]:
    """Notebooks show handles as pictures; these are imported when the first one is shown."""
    from pasidlab.views.rich import bundle

    return bundle(handle)


def _draw_walk(walk: Walk) -> dict[str, str]:
    """The same for walks."""
    from pasidlab.views.rich import walk_bundle

    return walk_bundle(walk)


Handle.draw = staticmethod(_draw)
Walk.draw = staticmethod(_draw_walk)
