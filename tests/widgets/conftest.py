"""Fixtures of the lab's tests."""

from __future__ import annotations

import pytest

from pasidlab_widgets import Lab
from tests.widgets.driver import bound_lab


@pytest.fixture
def lab() -> Lab:
    """A fresh lab."""
    return Lab()


@pytest.fixture
def two_vms() -> Lab:
    """A lab in which two VMs have a bound process each."""
    return bound_lab()
