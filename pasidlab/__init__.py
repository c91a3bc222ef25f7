"""pasidlab: an executable model of PASID management in KVM, for people who want to see every bit of it move."""

__version__ = "0.1.0"
