"""pasidlab: an executable model of PASID management in KVM, for people who want to see every bit of it move."""

from pasidlab.errors import KernelError
from pasidlab.machine import Machine

__all__ = ["KernelError", "Machine", "__version__"]

__version__ = "0.1.0"
