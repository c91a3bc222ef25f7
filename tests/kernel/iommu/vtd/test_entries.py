"""The words that the driver writes, beside those that the kernel's own functions produced (golden vectors)."""

import json
from pathlib import Path
from types import SimpleNamespace

from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.kernel.iommu.domain import SecondLevel
from pasidlab.kernel.iommu.vtd import entries
from pasidlab.kernel.iommu.vtd.capabilities import Capabilities

UNIT = Capabilities(
    nesting=True,
    first_level=True,
    second_level=True,
    five_level=False,
    second_levels=4,
    snoop=False,
    lacks=frozenset(),
)
GOLDEN = {
    vector["id"]: vector
    for vector in json.loads((Path(__file__).parents[3] / "data" / "golden_vectors.json").read_text())["vectors"]
}


def words_of(name):
    """The expected words of a golden vector."""
    return tuple(int(word, 0) for word in GOLDEN[name]["expected"])


def domain(did=5, root=0xABCDE000):
    """As much of a domain as an entry needs."""
    return SimpleNamespace(did=did, fit=lambda levels: SecondLevel(root, levels))


def test_a_second_level_entry_is_the_kernels():
    """Vector 04: P, PGTT=2, AW=2, pointer and domain id."""
    assert entries.second_level(domain(), UNIT, supervisor=False) == words_of("vtd_pasid_entry-04")


def test_a_pass_through_entry_is_the_kernels():
    """Vector 06: P, PGTT=4, AW=2, the fixed domain id."""
    assert entries.pass_through(UNIT, supervisor=False) == words_of("vtd_pasid_entry-06")


def test_a_first_level_entry_is_the_kernels():
    """Vector 13: pointer, no-execute, snoop, the fixed domain id."""
    assert entries.first_level(0x12345000, UNIT._replace(snoop=True)) == words_of("vtd_pasid_entry-13")


def test_where_no_user_is_to_be_protected_privileged_requests_pass():
    """SRE is set on entries that do not lead through a process's page table, where the unit has it."""
    for words in (
        entries.second_level(domain(), UNIT, supervisor=True),
        entries.pass_through(UNIT, supervisor=True),
    ):
        assert PASID_ENTRY["SRE"].get(words) == 1
