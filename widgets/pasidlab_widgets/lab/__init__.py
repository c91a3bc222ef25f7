"""The lab: a machine with buttons, menus and live pictures, in one widget."""

from pasidlab_widgets.lab.lab import Lab

__all__ = ["Lab"]
