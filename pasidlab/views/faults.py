"""The books of faults, by family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pasidlab.views.fault_facts_amdvi import AMD_BOOK
from pasidlab.views.fault_facts_smmuv3 import SMMU_BOOK
from pasidlab.views.fault_facts_vtd import VTD_BOOK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pasidlab.views.fault_book import FaultBook

__all__ = ["BOOKS"]

BOOKS: Final[Mapping[str, FaultBook]] = {"vtd": VTD_BOOK, "smmuv3": SMMU_BOOK, "amdvi": AMD_BOOK}
"""What each family says of its faults."""
